//! Which parameters are loaded from a source of weights, by patterns over their paths.

use std::collections::BTreeSet;

use regex::Regex;
use thiserror::Error;

/// Parameters chosen by `checkpoint.init_include` and `checkpoint.init_exclude`.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Vec<Regex>,
    exclude: Vec<Regex>,
}

/// A pattern that is not a regular expression, or that chooses nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// It cannot be read.
    #[error("`{pattern}` is not a regular expression: {reason}")]
    BadPattern {
        /// Key that holds it.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What the parser said, in one line.
        reason: String,
    },
    /// Nothing matches it.
    #[error("pattern `{pattern}` of `{key}` matches no parameter")]
    Unused {
        /// Key that holds it.
        key: &'static str,
        /// The pattern.
        pattern: String,
    },
}

impl Selection {
    /// Key of the patterns of what is loaded.
    pub const INCLUDE: &str = "checkpoint.init_include";
    /// Key of the patterns of what is not loaded.
    pub const EXCLUDE: &str = "checkpoint.init_exclude";

    /// Reads the patterns. Without any, everything is chosen.
    ///
    /// # Errors
    ///
    /// A pattern that is not a regular expression.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, SelectionError> {
        let read = |key: &'static str, patterns: &[String]| {
            let read = |pattern: &String| {
                Regex::new(pattern).map_err(|error| SelectionError::BadPattern {
                    key,
                    pattern: pattern.clone(),
                    reason: error.to_string().lines().last().unwrap_or_default().trim().into(),
                })
            };
            patterns.iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { include: read(Self::INCLUDE, include)?, exclude: read(Self::EXCLUDE, exclude)? })
    }

    /// Returns whether everything is chosen because no pattern was given.
    pub fn is_everything(&self) -> bool {
        self.first_key().is_none()
    }

    /// Returns the first key that holds a pattern.
    pub fn first_key(&self) -> Option<&'static str> {
        let lists = [(Self::INCLUDE, &self.include), (Self::EXCLUDE, &self.exclude)];
        lists.into_iter().find(|(_, patterns)| !patterns.is_empty()).map(|(key, _)| key)
    }

    /// Tells whether a parameter is chosen: some pattern to include is found in its path, or there is
    /// none, and no pattern to exclude.
    pub fn takes(&self, path: &str) -> bool {
        let found = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(path));
        (self.include.is_empty() || found(&self.include)) && !found(&self.exclude)
    }

    /// Checks that every pattern is found in some path.
    ///
    /// # Errors
    ///
    /// The first that is not.
    pub fn check_used(&self, paths: &BTreeSet<&str>) -> Result<(), SelectionError> {
        for (key, patterns) in [(Self::INCLUDE, &self.include), (Self::EXCLUDE, &self.exclude)] {
            let unused = |pattern: &&Regex| !paths.iter().any(|path| pattern.is_match(path));
            if let Some(pattern) = patterns.iter().find(unused) {
                return Err(SelectionError::Unused { key, pattern: pattern.to_string() });
            }
        }
        Ok(())
    }
}
