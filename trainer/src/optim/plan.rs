//! From what the file says to what an optimizer does.

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
}

impl OptimizerConfig {
    /// Checks the table by itself and fills in defaults.
    ///
    /// # Errors
    ///
    /// A key of another algorithm, a number out of range, or a pattern that does not parse.
    pub fn resolve(&self) -> Result<OptimizerPlan, OptimError> {
        let chosen = match self.name {
            OptimizerName::Adamw => "adamw",
            OptimizerName::Adam => "adam",
            OptimizerName::Sgd => "sgd",
        };
        let is_sgd = self.name == OptimizerName::Sgd;
        let foreign = [
            ("optimizer.betas", self.betas.is_some() && is_sgd, "`adamw` and `adam`"),
            ("optimizer.eps", self.eps.is_some() && is_sgd, "`adamw` and `adam`"),
            ("optimizer.momentum", self.momentum.is_some() && !is_sgd, "`sgd`"),
            ("optimizer.nesterov", self.nesterov.is_some() && !is_sgd, "`sgd`"),
        ];
        if let Some((key, _, belongs_to)) = foreign.into_iter().find(|(_, wrong, _)| *wrong) {
            return Err(OptimError::KeyOfAnother { key, belongs_to, chosen });
        }
        let algorithm = if is_sgd {
            Algorithm::Sgd {
                momentum: self.momentum.unwrap_or(0.0),
                nesterov: self.nesterov.unwrap_or(false),
            }
        } else {
            Algorithm::Adam {
                betas: self.betas.unwrap_or([0.9, 0.95]),
                eps: self.eps.unwrap_or(1e-8),
                decoupled: self.name == OptimizerName::Adamw,
            }
        };
        check_algorithm(&algorithm)?;
        let weight_decay =
            self.weight_decay.unwrap_or(if self.name == OptimizerName::Adamw { 0.1 } else { 0.0 });
        at_least_zero("optimizer.lr", self.lr)?;
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
        })
    }
}

impl OptimizerPlan {
    /// Returns the settings of a parameter: those of the first group whose pattern is found in its
    /// path, else the table's own.
    pub fn settings(&self, path: &str) -> ParamSettings {
        self.groups
            .iter()
            .find(|(pattern, _)| pattern.is_match(path))
            .map_or(self.default, |(_, settings)| *settings)
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
    }
}

fn at_least_zero(key: &str, value: f64) -> Result<(), OptimError> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(OptimError::OutOfRange { key: key.into(), value, allowed: "a finite number, at least 0" })
}
