//! From what the file says to what an optimizer does.

use std::collections::BTreeSet;

use regex::Regex;

use super::{OptimError, OptimizerConfig, OptimizerName};

/// Update rule with all its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Algorithm {
    /// Adam, with weight decay decoupled or added to the gradient.
    Adam {
        /// Decay rates of the moment averages.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
        /// Whether weight decay is decoupled (`AdamW`).
        decoupled: bool,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// Momentum; 0 keeps no buffer.
        momentum: f64,
        /// Nesterov momentum.
        nesterov: bool,
    },
    /// Orthogonalized momentum for hidden matrices; Adam with decoupled decay for the rest.
    Muon {
        /// Momentum.
        momentum: f64,
        /// Nesterov momentum.
        nesterov: bool,
        /// Newton-Schulz iterations.
        newton_schulz_steps: usize,
        /// Peak learning rate of the rest.
        adamw_lr: f64,
        /// Decay rates of the moment averages of the rest.
        betas: [f64; 2],
        /// Added to the denominator for the rest.
        eps: f64,
    },
}

impl Algorithm {
    /// Returns the names of all tensors it keeps beside parameters.
    pub fn state_names(&self) -> &'static [&'static str] {
        match *self {
            Self::Adam { .. } => &["exp_avg", "exp_avg_sq"],
            Self::Sgd { momentum, .. } if momentum > 0.0 => &["momentum_buffer"],
            Self::Sgd { .. } => &[],
            Self::Muon { .. } => &["exp_avg", "exp_avg_sq", "momentum_buffer"],
        }
    }
}

/// Learning-rate factor and weight decay of one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamSettings {
    /// Multiplies the scheduled learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// A validated `[optimizer]` table.
#[derive(Debug, Clone)]
pub struct OptimizerPlan {
    /// Update rule.
    pub algorithm: Algorithm,
    /// Peak learning rate.
    pub lr: f64,
    default: ParamSettings,
    groups: Vec<(Regex, ParamSettings)>,
    /// Paths of hidden matrices.
    matrices: BTreeSet<String>,
}

impl OptimizerConfig {
    /// Checks the table by itself and fills in defaults.
    ///
    /// # Errors
    ///
    /// A key of another algorithm, a number out of range, or a pattern that does not parse.
    pub fn resolve(&self) -> Result<OptimizerPlan, OptimError> {
        self.check_keys()?;
        let algorithm = self.algorithm();
        check_algorithm(&algorithm)?;
        let decays = matches!(self.name, OptimizerName::Adamw | OptimizerName::Muon);
        let weight_decay = self.weight_decay.unwrap_or(if decays { 0.1 } else { 0.0 });
        at_least_zero("optimizer.lr", self.lr)?;
        if self.name == OptimizerName::Muon && self.lr == 0.0 {
            let key = "optimizer.lr".into();
            return Err(OptimError::OutOfRange { key, value: 0.0, allowed: "above 0 for `muon`" });
        }
        at_least_zero("optimizer.weight_decay", weight_decay)?;
        let default = ParamSettings { lr_scale: 1.0, weight_decay };
        let groups = self.param_groups.iter().enumerate().map(|(index, group)| {
            let pattern = Regex::new(&group.pattern).map_err(|error| OptimError::BadPattern {
                index,
                pattern: group.pattern.clone(),
                reason: error.to_string().lines().last().unwrap_or_default().trim().into(),
            })?;
            let settings = ParamSettings {
                lr_scale: group.lr_scale.unwrap_or(1.0),
                weight_decay: group.weight_decay.unwrap_or(weight_decay),
            };
            at_least_zero(&format!("optimizer.param_groups[{index}].lr_scale"), settings.lr_scale)?;
            at_least_zero(
                &format!("optimizer.param_groups[{index}].weight_decay"),
                settings.weight_decay,
            )?;
            Ok((pattern, settings))
        });
        Ok(OptimizerPlan {
            algorithm,
            lr: self.lr,
            default,
            groups: groups.collect::<Result<_, _>>()?,
            matrices: BTreeSet::new(),
        })
    }

    /// Checks that every key given belongs to the chosen algorithm.
    fn check_keys(&self) -> Result<(), OptimError> {
        use OptimizerName::{Adam, Adamw, Muon, Sgd};
        let chosen = match self.name {
            Adamw => "adamw",
            Adam => "adam",
            Sgd => "sgd",
            Muon => "muon",
        };
        let adaptive: (&[_], _) = (&[Adamw, Adam, Muon], "`adamw`, `adam` and `muon`");
        let momentum: (&[_], _) = (&[Sgd, Muon], "`sgd` and `muon`");
        let muon: (&[_], _) = (&[Muon], "`muon`");
        let keys = [
            ("optimizer.betas", self.betas.is_some(), adaptive),
            ("optimizer.eps", self.eps.is_some(), adaptive),
            ("optimizer.momentum", self.momentum.is_some(), momentum),
            ("optimizer.nesterov", self.nesterov.is_some(), momentum),
            ("optimizer.newton_schulz_steps", self.newton_schulz_steps.is_some(), muon),
            ("optimizer.adamw_lr", self.adamw_lr.is_some(), muon),
        ];
        let foreign = |(_, given, (names, _)): &(&str, bool, (&[OptimizerName], &str))| {
            *given && !names.contains(&self.name)
        };
        match keys.into_iter().find(foreign) {
            Some((key, _, (_, belongs_to))) => {
                Err(OptimError::KeyOfAnother { key, belongs_to, chosen })
            }
            None => Ok(()),
        }
    }

    fn algorithm(&self) -> Algorithm {
        let (betas, eps) = (self.betas.unwrap_or([0.9, 0.95]), self.eps.unwrap_or(1e-8));
        match self.name {
            OptimizerName::Adamw => Algorithm::Adam { betas, eps, decoupled: true },
            OptimizerName::Adam => Algorithm::Adam { betas, eps, decoupled: false },
            OptimizerName::Sgd => Algorithm::Sgd {
                momentum: self.momentum.unwrap_or(0.0),
                nesterov: self.nesterov.unwrap_or(false),
            },
            OptimizerName::Muon => Algorithm::Muon {
                momentum: self.momentum.unwrap_or(0.95),
                nesterov: self.nesterov.unwrap_or(true),
                newton_schulz_steps: self.newton_schulz_steps.unwrap_or(5),
                adamw_lr: self.adamw_lr.unwrap_or(3e-4),
                betas,
                eps,
            },
        }
    }
}

impl OptimizerPlan {
    /// Names the hidden matrices, which [`Algorithm::Muon`] treats in a way of their own.
    #[must_use]
    pub fn with_matrices(mut self, paths: BTreeSet<String>) -> Self {
        self.matrices = paths;
        self
    }

    /// Tells whether the momentum of a parameter is made orthogonal.
    pub fn is_orthogonalized(&self, path: &str) -> bool {
        matches!(self.algorithm, Algorithm::Muon { .. }) && self.matrices.contains(path)
    }

    /// Returns the settings of a parameter: those of the first group whose pattern is found in its
    /// path, else the table's own. The factor of the learning rate is relative to
    /// [`OptimizerPlan::lr`].
    pub fn settings(&self, path: &str) -> ParamSettings {
        let group = self.groups.iter().find(|(pattern, _)| pattern.is_match(path));
        let settings = group.map_or(self.default, |(_, settings)| *settings);
        match self.algorithm {
            Algorithm::Muon { adamw_lr, .. } if !self.is_orthogonalized(path) => {
                ParamSettings { lr_scale: settings.lr_scale * adamw_lr / self.lr, ..settings }
            }
            _ => settings,
        }
    }

    /// Checks that every group applies to some parameter.
    ///
    /// # Errors
    ///
    /// The first pattern that matches none of `paths`.
    pub fn check_paths<'a>(
        &self,
        paths: &(impl Iterator<Item = &'a str> + Clone),
    ) -> Result<(), OptimError> {
        let unused = |(_, (pattern, _)): &(usize, &(Regex, ParamSettings))| {
            !paths.clone().any(|path| pattern.is_match(path))
        };
        match self.groups.iter().enumerate().find(unused) {
            Some((index, (pattern, _))) => {
                Err(OptimError::UnusedPattern { index, pattern: pattern.to_string() })
            }
            None => Ok(()),
        }
    }

    /// Describes the optimizer in one line.
    pub fn describe(&self) -> String {
        let groups = if self.groups.is_empty() {
            String::new()
        } else {
            format!(", {} parameter groups", self.groups.len())
        };
        let decay = self.default.weight_decay;
        match self.algorithm {
            Algorithm::Adam { betas: [beta1, beta2], eps, decoupled } => {
                let name = if decoupled { "AdamW" } else { "Adam" };
                format!(
                    "{name}, lr {:e}, betas {beta1}/{beta2}, eps {eps:e}, weight decay {decay}{groups}",
                    self.lr
                )
            }
            Algorithm::Sgd { momentum, nesterov } => {
                let kind = if nesterov { "Nesterov momentum" } else { "momentum" };
                format!("SGD, lr {:e}, {kind} {momentum}, weight decay {decay}{groups}", self.lr)
            }
            Algorithm::Muon { momentum, newton_schulz_steps, adamw_lr, .. } => format!(
                "Muon for {} matrices, lr {:e}, momentum {momentum}, {newton_schulz_steps} iterations, AdamW for the rest, lr {adamw_lr:e}, weight decay {decay}{groups}",
                self.matrices.len(),
                self.lr
            ),
        }
    }
}

fn check_algorithm(algorithm: &Algorithm) -> Result<(), OptimError> {
    let unit = |key: &str, value: f64| {
        if (0.0..1.0).contains(&value) {
            return Ok(());
        }
        Err(OptimError::OutOfRange { key: key.into(), value, allowed: "at least 0 and below 1" })
    };
    match *algorithm {
        Algorithm::Adam { betas, eps, .. } => {
            unit("optimizer.betas[0]", betas[0])?;
            unit("optimizer.betas[1]", betas[1])?;
            at_least_zero("optimizer.eps", eps)
        }
        Algorithm::Sgd { momentum, nesterov } => {
            unit("optimizer.momentum", momentum)?;
            if nesterov && momentum == 0.0 {
                let allowed = "above 0 when `optimizer.nesterov` is true";
                return Err(OptimError::OutOfRange {
                    key: "optimizer.momentum".into(),
                    value: momentum,
                    allowed,
                });
            }
            Ok(())
        }
        Algorithm::Muon { momentum, newton_schulz_steps, adamw_lr, betas, eps, .. } => {
            unit("optimizer.momentum", momentum)?;
            unit("optimizer.betas[0]", betas[0])?;
            unit("optimizer.betas[1]", betas[1])?;
            if newton_schulz_steps == 0 {
                let key = "optimizer.newton_schulz_steps".into();
                return Err(OptimError::OutOfRange { key, value: 0.0, allowed: "at least 1" });
            }
            at_least_zero("optimizer.adamw_lr", adamw_lr)?;
            at_least_zero("optimizer.eps", eps)
        }
    }
}

fn at_least_zero(key: &str, value: f64) -> Result<(), OptimError> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(OptimError::OutOfRange { key: key.into(), value, allowed: "a finite number, at least 0" })
}
