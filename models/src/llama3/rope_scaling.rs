//! How rotary frequencies are stretched: the `rope_scaling` table, and what it comes to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, positive, positive_number};

/// A method of stretching, named as in Hugging Face's `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RopeType {
    /// None.
    #[serde(rename = "default")]
    Unscaled,
    /// Every frequency is divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear,
    /// On sequences longer than the original ones the base grows with their length (NTK-aware
    /// scaling).
    Dynamic,
    /// Slow frequencies are divided by `factor`, fast ones are left alone, and queries and keys grow
    /// (`YaRN`, arXiv:2309.00071).
    Yarn,
    /// Slow frequencies are divided by `factor`, fast ones are left alone (The Llama 3 Herd of
    /// Models, arXiv:2407.21783, section 3.4.2).
    #[default]
    Llama3,
}

impl RopeType {
    /// Returns the name in configurations.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unscaled => "default",
            Self::Linear => "linear",
            Self::Dynamic => "dynamic",
            Self::Yarn => "yarn",
            Self::Llama3 => "llama3",
        }
    }
}

/// Stretching of the rotary frequencies, by which a model trained on short sequences reads long
/// ones. Each method takes the keys that name it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RopeScalingConfig {
    /// Method: `llama3`, `linear`, `dynamic`, `yarn`, or `default` for none.
    pub rope_type: RopeType,
    /// How many times longer than the original ones sequences may be, at least 1. Every method but
    /// `default` needs it.
    pub factor: Option<f64>,
    /// With `llama3`, which needs it: frequencies that turn less often than this over the original
    /// length are divided by `factor`. Positive.
    pub low_freq_factor: Option<f64>,
    /// With `llama3`, which needs it: frequencies that turn more often than this over the original
    /// length are left alone; between the two bounds the stretch is interpolated. Greater than
    /// `low_freq_factor`.
    pub high_freq_factor: Option<f64>,
    /// Longest sequence, in tokens, before stretching; `llama3`, `dynamic` and `yarn` need it.
    pub original_max_position_embeddings: Option<usize>,
    /// With `yarn`: factor of rotated queries and keys. Default: from `factor`, `mscale` and
    /// `mscale_all_dim`.
    pub attention_factor: Option<f64>,
    /// With `yarn`: frequencies that turn more often than this over the original length are left
    /// alone. Default 32.
    pub beta_fast: Option<f64>,
    /// With `yarn`: frequencies that turn less often than this are divided by `factor`. Default 1.
    pub beta_slow: Option<f64>,
    /// With `yarn`: given with `mscale_all_dim`, the attention factor is `(0.1 mscale ln factor + 1)
    /// / (0.1 mscale_all_dim ln factor + 1)` instead of `0.1 ln factor + 1`.
    pub mscale: Option<f64>,
    /// With `yarn`: see `mscale`.
    pub mscale_all_dim: Option<f64>,
    /// With `yarn`: widens the range between the two betas to whole dimensions. Default true.
    pub truncate: Option<bool>,
}

/// A stretching of rotary frequencies with every number concrete and checked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// See [`RopeType::Linear`].
    Linear {
        /// Divides every frequency.
        factor: f64,
    },
    /// See [`RopeType::Dynamic`].
    Dynamic {
        /// How fast the base grows.
        factor: f64,
        /// Length, in tokens, up to which nothing is stretched.
        original_max_position_embeddings: usize,
    },
    /// See [`RopeType::Yarn`].
    Yarn(YarnScaling),
    /// See [`RopeType::Llama3`].
    Llama3(Llama3Scaling),
}

/// The numbers of `llama3`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Llama3Scaling {
    /// Divides the slow frequencies.
    pub factor: f64,
    /// Turns over the original length below which a frequency is slow.
    pub low_freq_factor: f64,
    /// Turns over the original length above which a frequency is fast.
    pub high_freq_factor: f64,
    /// Original length, in tokens.
    pub original_max_position_embeddings: usize,
}

/// The numbers of `yarn`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct YarnScaling {
    /// Divides the slow frequencies.
    pub factor: f64,
    /// Original length, in tokens.
    pub original_max_position_embeddings: usize,
    /// Factor of rotated queries and keys.
    pub attention_factor: f64,
    /// Turns over the original length above which a frequency is fast.
    pub beta_fast: f64,
    /// Turns over the original length below which a frequency is slow.
    pub beta_slow: f64,
    /// Whether the range between the two is widened to whole dimensions.
    pub truncate: bool,
}

impl RopeScalingConfig {
    /// Returns the stretching with every number concrete and checked; nothing for `default`.
    ///
    /// # Errors
    ///
    /// Fails on a key that the method needs and is missing, one that it does not read, and a number
    /// out of range.
    pub fn resolve(&self) -> Result<Option<RopeScaling>, ModelError> {
        self.check_keys()?;
        let factor = || self.needed("rope_scaling.factor", self.factor);
        let original = || {
            let key = "rope_scaling.original_max_position_embeddings";
            self.needed(key, self.original_max_position_embeddings)
        };
        let scaling = match self.rope_type {
            RopeType::Unscaled => return Ok(None),
            RopeType::Linear => RopeScaling::Linear { factor: factor()? },
            RopeType::Dynamic => RopeScaling::Dynamic {
                factor: factor()?,
                original_max_position_embeddings: original()?,
            },
            RopeType::Yarn => RopeScaling::Yarn(YarnScaling {
                factor: factor()?,
                original_max_position_embeddings: original()?,
                attention_factor: self.yarn_attention_factor(factor()?),
                beta_fast: self.beta_fast.unwrap_or(32.0),
                beta_slow: self.beta_slow.unwrap_or(1.0),
                truncate: self.truncate.unwrap_or(true),
            }),
            RopeType::Llama3 => RopeScaling::Llama3(Llama3Scaling {
                factor: factor()?,
                low_freq_factor: self
                    .needed("rope_scaling.low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: self
                    .needed("rope_scaling.high_freq_factor", self.high_freq_factor)?,
                original_max_position_embeddings: original()?,
            }),
        };
        scaling.validate()?;
        Ok(Some(scaling))
    }

    fn yarn_attention_factor(&self, factor: f64) -> f64 {
        let grown = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let default = match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) => grown(mscale) / grown(all),
            _ => grown(1.0),
        };
        self.attention_factor.unwrap_or(default)
    }

    fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| ModelError::Missing { key, needed_by: self.method() })
    }

    fn method(&self) -> String {
        format!("rope_scaling.rope_type = \"{}\"", self.rope_type.name())
    }

    /// Refuses keys that the method does not read, and half of a pair.
    fn check_keys(&self) -> Result<(), ModelError> {
        use RopeType::{Dynamic, Linear, Llama3, Yarn};
        let original = self.original_max_position_embeddings.is_some();
        let rows: [(&str, bool, &[RopeType]); 10] = [
            ("rope_scaling.factor", self.factor.is_some(), &[Linear, Dynamic, Yarn, Llama3]),
            ("rope_scaling.low_freq_factor", self.low_freq_factor.is_some(), &[Llama3]),
            ("rope_scaling.high_freq_factor", self.high_freq_factor.is_some(), &[Llama3]),
            ("rope_scaling.original_max_position_embeddings", original, &[Dynamic, Yarn, Llama3]),
            ("rope_scaling.attention_factor", self.attention_factor.is_some(), &[Yarn]),
            ("rope_scaling.beta_fast", self.beta_fast.is_some(), &[Yarn]),
            ("rope_scaling.beta_slow", self.beta_slow.is_some(), &[Yarn]),
            ("rope_scaling.mscale", self.mscale.is_some(), &[Yarn]),
            ("rope_scaling.mscale_all_dim", self.mscale_all_dim.is_some(), &[Yarn]),
            ("rope_scaling.truncate", self.truncate.is_some(), &[Yarn]),
        ];
        let unread = |row: &(&str, bool, &[RopeType])| row.1 && !row.2.contains(&self.rope_type);
        if let Some((key, ..)) = rows.into_iter().find(unread) {
            return Err(ModelError::Unread { key, with: self.method() });
        }
        let mscales = [self.mscale, self.mscale_all_dim];
        for (key, value) in
            ["rope_scaling.mscale", "rope_scaling.mscale_all_dim"].iter().zip(mscales)
        {
            value.map_or(Ok(()), |value| positive_number(key, value))?;
            if value.is_some() && self.attention_factor.is_some() {
                return Err(ModelError::Unread {
                    key,
                    with: "rope_scaling.attention_factor".to_owned(),
                });
            }
        }
        match mscales {
            [Some(_), None] => Err(ModelError::Missing {
                key: "rope_scaling.mscale_all_dim",
                needed_by: "rope_scaling.mscale".to_owned(),
            }),
            [None, Some(_)] => Err(ModelError::Missing {
                key: "rope_scaling.mscale",
                needed_by: "rope_scaling.mscale_all_dim".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

impl RopeScaling {
    fn factor(&self) -> f64 {
        match self {
            Self::Linear { factor } | Self::Dynamic { factor, .. } => *factor,
            Self::Yarn(yarn) => yarn.factor,
            Self::Llama3(llama3) => llama3.factor,
        }
    }

    /// Checks that the numbers are in range.
    pub(super) fn validate(&self) -> Result<(), ModelError> {
        let factor = self.factor();
        if !(factor >= 1.0 && factor.is_finite()) {
            let constraint = "at least 1 and finite";
            return Err(out_of_range("rope_scaling.factor", factor, constraint));
        }
        let original = |value| positive("rope_scaling.original_max_position_embeddings", value);
        match self {
            Self::Linear { .. } => Ok(()),
            Self::Dynamic { original_max_position_embeddings, .. } => {
                original(*original_max_position_embeddings)
            }
            Self::Yarn(yarn) => {
                original(yarn.original_max_position_embeddings)?;
                positive_number("rope_scaling.attention_factor", yarn.attention_factor)?;
                positive_number("rope_scaling.beta_slow", yarn.beta_slow)?;
                greater(
                    "rope_scaling.beta_fast",
                    yarn.beta_fast,
                    yarn.beta_slow,
                    "greater than `beta_slow`",
                )
            }
            Self::Llama3(llama3) => {
                positive_number("rope_scaling.low_freq_factor", llama3.low_freq_factor)?;
                original(llama3.original_max_position_embeddings)?;
                greater(
                    "rope_scaling.high_freq_factor",
                    llama3.high_freq_factor,
                    llama3.low_freq_factor,
                    "greater than `low_freq_factor`",
                )
            }
        }
    }
}

fn out_of_range(key: &'static str, value: f64, constraint: &'static str) -> ModelError {
    ModelError::OutOfRange { key, value, constraint }
}

fn greater(
    key: &'static str,
    value: f64,
    than: f64,
    constraint: &'static str,
) -> Result<(), ModelError> {
    if value > than && value.is_finite() {
        return Ok(());
    }
    Err(out_of_range(key, value, constraint))
}
