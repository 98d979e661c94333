//! The tolerances of these tests. All are relative to the norm of the expected value, in `f32`.

/// Adjoint pairs and single layers: sums of a few dozen terms in another order.
pub(crate) const PAIR: f64 = 1e-6;

/// Shaders against the same operation in `f64` on the CPU: their transcendental functions are exact
/// to a few units in the last place.
pub(crate) const SHADER: f64 = 1e-5;
