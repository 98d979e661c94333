//! The settings of an optimizer step.

/// Holds the settings of one Adam or `AdamW` step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamHyper {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator after bias correction.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Shrinks the weights themselves (`AdamW`); otherwise the decay joins the gradient (Adam with L2).
    pub decoupled: bool,
    /// Number of this step, from 1.
    pub step: u64,
    /// Multiplies the gradient first, for example the global-norm clip.
    pub grad_scale: f64,
}

impl AdamHyper {
    /// Returns what the averages of both moments are divided by because they started at zero:
    /// `1 - beta^step`.
    pub(super) fn bias_corrections(&self) -> [f64; 2] {
        // An integer power takes 32 bits, and adds up one rounding per step.
        [self.beta1, self.beta2].map(|beta| -(self.step as f64 * beta.ln()).exp_m1())
    }
}

/// Holds the settings of one step of stochastic gradient descent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdHyper {
    /// Learning rate.
    pub lr: f64,
    /// Momentum; zero keeps no buffer.
    pub momentum: f64,
    /// Dampening of the gradient as it enters an existing momentum buffer.
    pub dampening: f64,
    /// Steps along the gradient plus momentum.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
    /// Multiplies the gradient first, for example the global-norm clip.
    pub grad_scale: f64,
}
