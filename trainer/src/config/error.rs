//! What can be wrong with a configuration.

use std::{fmt, path::PathBuf};

use super::{key::KeyPath, source::Place};
use crate::{data::DataError, mesh::MeshError, optim::OptimError, train::BoxError};

/// One thing that is wrong, and where it was written.
#[derive(Debug)]
pub struct ConfigError {
    /// What is wrong.
    pub kind: Box<ConfigErrorKind>,
    /// Where; the place to look at first comes first. Empty when nothing was written.
    pub places: Vec<Place>,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// A configuration file that cannot be read.
    #[error("cannot read configuration file `{}`", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Text that is not TOML.
    #[error("not valid TOML: {message}")]
    Syntax {
        /// What the parser said.
        message: String,
    },
    /// Text in another language than TOML.
    #[error("this is {language}, but configuration files are TOML")]
    NotToml {
        /// The language.
        language: &'static str,
        /// The first line that says something, or the first entry.
        first: String,
        /// The same as TOML, where it is simple.
        translated: Option<String>,
    },
    /// A `--set` argument or variable name that names no key.
    #[error("`{text}` does not name a value to set: {constraint}")]
    Override {
        /// The argument or the variable's name.
        text: String,
        /// What it must look like.
        constraint: &'static str,
    },
    /// A key that no table has.
    #[error("unknown key `{key}`")]
    UnknownKey {
        /// The key.
        key: KeyPath,
        /// The key that was probably meant.
        nearest: Option<KeyPath>,
        /// What else a user of another tool has to know; often empty.
        note: &'static str,
        /// The keys of this table.
        allowed: Vec<String>,
    },
    /// A value of the wrong type or outside its range.
    #[error("`{key}` is {value} but must be {expected}")]
    WrongValue {
        /// The key.
        key: KeyPath,
        /// The value, as TOML.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A value refused with a reason.
    #[error("`{key}` is {value}: {reason}")]
    Refused {
        /// The key.
        key: KeyPath,
        /// The value, as TOML.
        value: String,
        /// The reason.
        reason: String,
    },
    /// A key that does nothing because of other keys.
    #[error("`{key}` is {value} but has no effect: {reason}")]
    NoEffect {
        /// The key.
        key: KeyPath,
        /// The value, as TOML.
        value: String,
        /// Why it does nothing.
        reason: &'static str,
        /// What would give it an effect.
        remedy: &'static str,
    },
    /// A value that the recipe refuses.
    #[error(transparent)]
    Recipe(BoxError),
    /// A key that must be given.
    #[error("`{key}` is missing: {reason}")]
    Missing {
        /// The key.
        key: KeyPath,
        /// Why it is needed.
        reason: String,
    },
    /// Two settings that exclude each other.
    #[error("`{first}` and `{second}` exclude each other: {reason}")]
    Exclusive {
        /// The one key.
        first: KeyPath,
        /// The other.
        second: KeyPath,
        /// Why.
        reason: &'static str,
    },
    /// Numbers that do not divide.
    #[error("`{dividend} = {n}` is not divisible by {divisor} = {by}: {n} % {by} = {}", n.checked_rem(*by).unwrap_or(*n))]
    Indivisible {
        /// The key that must be divisible.
        dividend: KeyPath,
        /// Its value.
        n: usize,
        /// What must divide it, in words.
        divisor: String,
        /// Its value.
        by: usize,
    },
    /// A world of more ranks than a world can have.
    #[error(
        "{ranks} ranks need at least {:.1e} bytes as threads, and their groups cannot be listed in a plan; a world has up to {most} ranks",
        128.0 * 1024.0 * *ranks as f64
    )]
    WorldTooLarge {
        /// Ranks asked for.
        ranks: usize,
        /// Ranks there may be.
        most: usize,
    },
    /// A step of more tokens than a step can have.
    #[error(
        "`global_batch_size = {sequences}` x `sequence_length = {length}` are {:.1e} tokens in a step, {:.1e} bytes of token ids and labels; a step has up to 2^40 tokens",
        *sequences as f64 * *length as f64, 8.0 * *sequences as f64 * *length as f64
    )]
    StepTooLarge {
        /// Sequences of a step.
        sequences: usize,
        /// Tokens of a sequence.
        length: usize,
    },
    /// Batch sizes whose product is not the global batch.
    #[error(
        "`global_batch_size = {global}` is not micro_batch_size {micro} x \
         gradient_accumulation_steps {accumulation} x data-parallel ranks {data_parallel} = {}",
        micro.saturating_mul(*accumulation).saturating_mul(*data_parallel)
    )]
    BatchMismatch {
        /// Sequences per step.
        global: usize,
        /// Sequences per forward pass.
        micro: usize,
        /// Passes per step.
        accumulation: usize,
        /// Data-parallel ranks.
        data_parallel: usize,
    },
    /// More than one degree left to be derived.
    #[error("degrees {} are `\"auto\"` but at most one may be", keys.join(" and "))]
    SeveralAuto {
        /// The keys in backticks, with the preset that set them.
        keys: Vec<String>,
    },
    /// Degrees that make no mesh.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// An `[optimizer]` or `[lr_scheduler]` table that cannot be.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// A `[data]` table that cannot be.
    #[error(transparent)]
    Data(Box<DataError>),
    /// A world size that the launcher contradicts.
    #[error(
        "`device_parameters.world_size = {configured}` but the launcher started {launched} ranks"
    )]
    WorldConflict {
        /// The configured ranks.
        configured: usize,
        /// The ranks that exist.
        launched: usize,
    },
    /// A setting that needs a setup trait the recipe does not have.
    #[error(
        "`{setting}` needs the setup trait `{trait_name}`, which the recipe `{recipe}` does not have"
    )]
    NeedsTrait {
        /// The setting, as `key = value`.
        setting: String,
        /// The trait.
        trait_name: &'static str,
        /// The recipe.
        recipe: String,
    },
    /// A setting that this build cannot honor.
    #[error("`{setting}` is not available in this build: {reason}")]
    Unavailable {
        /// The setting, as `key = value`.
        setting: String,
        /// Why.
        reason: &'static str,
    },
}

impl ConfigErrorKind {
    /// Makes an error that points at `places`.
    pub fn at(self, places: impl IntoIterator<Item = Place>) -> ConfigError {
        let mut found: Vec<Place> = Vec::new();
        for place in places {
            if !found.contains(&place) {
                found.push(place);
            }
        }
        ConfigError { kind: Box::new(self), places: found }
    }

    /// Makes an error about something that was not written anywhere.
    pub fn nowhere(self) -> ConfigError {
        self.at([])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.places.first() {
            write!(f, "{place}: ")?;
        }
        self.kind.fmt(f)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Everything found wrong in one pass; never empty.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Gathers what was found, which is something, in the order of the texts.
    pub(crate) fn found(mut errors: Vec<ConfigError>) -> Self {
        debug_assert!(!errors.is_empty(), "a failed reading says why");
        errors.sort_by_key(|error| {
            let place = error.places.first();
            let position = place.map(|place| (place.source.name.clone(), place.key.start));
            (position.is_none(), position)
        });
        Self(errors)
    }

    /// Returns `value` if nothing is wrong.
    pub(crate) fn or<T>(errors: Vec<ConfigError>, value: T) -> Result<T, Self> {
        if errors.is_empty() { Ok(value) } else { Err(Self::found(errors)) }
    }

    /// Walks the errors in the order of the texts; those without a place come last.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    /// Writes each error with its causes: a list has no source of its own to give them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
