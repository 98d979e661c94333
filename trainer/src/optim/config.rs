//! The `[optimizer]` and `[lr_scheduler]` tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Algorithm that turns gradients into updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), as PyTorch
    /// computes it.
    #[default]
    Adamw,
    /// Adam with weight decay added to the gradient (Kingma and Ba, arXiv:1412.6980).
    Adam,
    /// Stochastic gradient descent with optional momentum.
    Sgd,
    /// Orthogonalized momentum (Jordan et al., "Muon: an optimizer for hidden layers in neural
    /// networks", 2024) for the hidden matrices that the model names; `adamw` for embeddings, head,
    /// norms and biases.
    Muon,
}

/// Chooses the optimizer and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Algorithm.
    pub name: OptimizerName,
    /// Peak learning rate, before the schedule's factor; of `muon`, that of the hidden matrices.
    #[schemars(range(min = 0.0))]
    pub lr: f64,
    /// Decay rates of the two moment averages; `adamw`, `adam` and what `muon` leaves to `adamw`.
    /// Default: [0.9, 0.95].
    pub betas: Option<[f64; 2]>,
    /// Added to the denominator; `adamw`, `adam` and what `muon` leaves to `adamw`. Default: 1e-8.
    pub eps: Option<f64>,
    /// Weight decay. Default: 0.1 for `adamw` and `muon`, 0 otherwise.
    pub weight_decay: Option<f64>,
    /// Momentum; `sgd` and `muon` only. Default: 0 for `sgd`, 0.95 for `muon`.
    pub momentum: Option<f64>,
    /// Uses Nesterov momentum; `sgd` and `muon` only. Default: false for `sgd`, true for `muon`.
    pub nesterov: Option<bool>,
    /// Newton-Schulz iterations that make the momentum of a matrix orthogonal; `muon` only. Default:
    /// 5.
    #[schemars(range(min = 1))]
    pub newton_schulz_steps: Option<usize>,
    /// Peak learning rate of the parameters that `muon` leaves to `adamw`; `muon` only. Default:
    /// 3e-4.
    #[schemars(range(min = 0.0))]
    pub adamw_lr: Option<f64>,
    /// Exceptions by parameter path; the first group whose pattern matches applies. A pattern that
    /// matches nothing is an error.
    pub param_groups: Vec<ParamGroupConfig>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerName::Adamw,
            lr: 3e-4,
            betas: None,
            eps: None,
            weight_decay: None,
            momentum: None,
            nesterov: None,
            newton_schulz_steps: None,
            adamw_lr: None,
            param_groups: Vec::new(),
        }
    }
}

/// Settings of the parameters whose path matches a regular expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParamGroupConfig {
    /// Regular expression searched in the parameter path, for example `norm|bias$`.
    pub pattern: String,
    /// Multiplies the learning rate of these parameters. Default: 1.
    pub lr_scale: Option<f64>,
    /// Replaces the weight decay of these parameters.
    pub weight_decay: Option<f64>,
}

/// Shape of the learning rate over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Stays at the peak after warm-up.
    #[default]
    Constant,
    /// Falls linearly from the peak to `min_lr_factor` x peak.
    Linear,
    /// Falls along half a cosine (Loshchilov and Hutter, arXiv:1608.03983).
    Cosine,
    /// Warm-up, stable, decay (Hu et al., arXiv:2404.06395): stays at the peak, then falls over the
    /// last `decay_ratio` of the steps.
    Wsd,
}

/// Curve along which the learning rate falls in the decay phase of `wsd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// Straight line.
    #[default]
    Linear,
    /// Half a cosine.
    Cosine,
    /// One minus the square root of the elapsed share.
    Sqrt,
}

/// Learning rate schedule; the factor it gives multiplies `optimizer.lr`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LrSchedulerConfig {
    /// Shape after warm-up.
    pub name: ScheduleName,
    /// Steps over which the rate rises linearly from peak / `warmup_steps` to the peak; 0 for none.
    pub warmup_steps: u64,
    /// Steps after which the decay has ended. Default: the steps of the run.
    #[schemars(range(min = 1))]
    pub total_steps: Option<u64>,
    /// Share of `total_steps` spent in the decay phase, in (0, 1]; `wsd` only. Default: 0.2.
    pub decay_ratio: Option<f64>,
    /// Curve of the decay phase; `wsd` only. Default: `linear`.
    pub decay_shape: Option<DecayShape>,
    /// Lowest factor, in [0, 1].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_lr_factor: f64,
}

impl Default for LrSchedulerConfig {
    fn default() -> Self {
        Self {
            name: ScheduleName::Constant,
            warmup_steps: 0,
            total_steps: None,
            decay_ratio: None,
            decay_shape: None,
            min_lr_factor: 0.0,
        }
    }
}
