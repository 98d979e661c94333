//! Clipping by the global norm.

/// Returns what gradients are multiplied by so that their global norm does not exceed `max_norm`; 1
/// when clipping is off (`max_norm` 0).
///
/// The norm is the one before clipping. As in PyTorch, 1e-6 is added to it, so that a zero norm is
/// no division by zero.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}
