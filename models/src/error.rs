//! What can be wrong with a model's configuration.

use std::fmt::Display;

use dream_trainer::checkpoint::hf::HfError;
use dream_trainer::train::RefusedKeys;

use crate::size::{MOST_BLOCKS, MOST_PARAMETERS};

/// Names a fault in a model's configuration or in the Hugging Face folder it came from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A size or factor is outside its range.
    #[error("`{key}` is {value} but must be {constraint}")]
    OutOfRange {
        /// Configuration key.
        key: &'static str,
        /// Value given.
        value: f64,
        /// Range, as words that follow "must be".
        constraint: &'static str,
    },
    /// One size does not divide another.
    #[error("`{key}` is {value} but must be a multiple of `{of}` = {divisor}")]
    NotDivisible {
        /// Configuration key.
        key: &'static str,
        /// Value given.
        value: usize,
        /// Key that must divide it.
        of: &'static str,
        /// Its value.
        divisor: usize,
    },
    /// A model that is too large to be described.
    #[error(
        "`{key}` is {value}, which makes {parameters:.1e} parameters, {:.1e} bytes in `f32`; a model has up to {:.1e} parameters in {} blocks, and each size fits in 31 bits",
        4.0 * parameters,
        MOST_PARAMETERS,
        MOST_BLOCKS
    )]
    TooLarge {
        /// Configuration key of the size that is to blame.
        key: &'static str,
        /// Its value.
        value: usize,
        /// Number of parameters.
        parameters: f64,
    },
    /// Two keys say the same thing in two ways.
    #[error("`{key}` is given, but `{fixed_by}` already fixes it")]
    FixedBy {
        /// Key that has to go.
        key: &'static str,
        /// Key that wins.
        fixed_by: &'static str,
    },
    /// A key is missing that another one needs.
    #[error("`{key}` is missing, which `{needed_by}` needs")]
    Missing {
        /// The missing key.
        key: &'static str,
        /// What needs it.
        needed_by: String,
    },
    /// A key is given that would do nothing.
    #[error("`{key}` is given, but `{with}` does not read it")]
    Unread {
        /// Key that has to go.
        key: &'static str,
        /// What makes it useless.
        with: String,
    },
    /// Two fields of a `config.json` contradict each other.
    #[error("`{field}` of `config.json` is {value} but `{other}` is {other_value}")]
    Contradiction {
        /// One field.
        field: String,
        /// Its value.
        value: String,
        /// The other.
        other: String,
        /// Its value.
        other_value: String,
    },
    /// Sequences are longer than the positions the model has.
    #[error("sequence length is {length} but `{key}` = {limit}")]
    SequenceTooLong {
        /// Length asked for, in tokens.
        length: usize,
        /// Key that holds the limit.
        key: &'static str,
        /// Positions the model has.
        limit: usize,
    },
    /// A Hugging Face folder cannot be read, or holds a model that is not computed exactly here.
    #[error(transparent)]
    HuggingFace(#[from] HfError),
    /// A stored tensor does not have the shape that the configuration implies.
    #[error("tensor `{tensor}` has shape {found:?} but the model needs {expected:?}")]
    HfShape {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// Shape implied by the configuration.
        expected: Vec<usize>,
    },
}

impl ModelError {
    /// Names the keys that the fault is about, so that it is shown with their lines.
    pub(crate) fn refused(self) -> RefusedKeys {
        let model = |key: &str| format!("model.{key}");
        let keys = match &self {
            Self::OutOfRange { key, .. }
            | Self::TooLarge { key, .. }
            | Self::Missing { key, .. }
            | Self::Unread { key, .. } => vec![model(key)],
            Self::NotDivisible { key, of, .. } => vec![model(key), model(of)],
            Self::FixedBy { key, fixed_by } => vec![model(key), model(fixed_by)],
            Self::SequenceTooLong { key, .. } => {
                vec!["training_parameters.sequence_length".to_owned(), model(key)]
            }
            Self::HuggingFace(_) | Self::HfShape { .. } | Self::Contradiction { .. } => {
                vec![model("hf_dir")]
            }
        };
        RefusedKeys { keys, source: self.into() }
    }
}

/// Makes the error for a field of `config.json` whose value is not computed exactly here.
pub(crate) fn unsupported(field: &str, value: impl Display, supported: &str) -> ModelError {
    HfError::FieldValue {
        field: field.to_owned(),
        value: value.to_string(),
        supported: supported.to_owned(),
    }
    .into()
}

/// Refuses zero.
pub(crate) fn positive(key: &'static str, value: usize) -> Result<(), ModelError> {
    if value == 0 {
        return Err(ModelError::OutOfRange { key, value: 0.0, constraint: "at least 1" });
    }
    Ok(())
}

/// Refuses zero, negative numbers, infinities and NaN.
pub(crate) fn positive_number(key: &'static str, value: f64) -> Result<(), ModelError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(ModelError::OutOfRange { key, value, constraint: "positive and finite" })
}

/// Refuses what is not at least 0 and below 1.
pub(crate) fn share(key: &'static str, value: f64) -> Result<(), ModelError> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(ModelError::OutOfRange { key, value, constraint: "at least 0 and below 1" })
}

/// Refuses a `divisor` of zero and a `value` it does not divide; returns the quotient.
pub(crate) fn divided(
    key: &'static str,
    value: usize,
    of: &'static str,
    divisor: usize,
) -> Result<usize, ModelError> {
    positive(of, divisor)?;
    if value.is_multiple_of(divisor) {
        return Ok(value / divisor);
    }
    Err(ModelError::NotDivisible { key, value, of, divisor })
}
