//! The texts a configuration is read from, and places in them.

use std::{fmt, ops::Range, sync::Arc};

/// Tells how a text reached the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A TOML file.
    File,
    /// An environment variable, kept as `NAME=value`.
    Environment,
    /// A `--set key=value` argument.
    Set,
}

/// Holds one text, so that messages can quote it.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// How the text reached the configuration.
    pub kind: SourceKind,
    /// Path of the file, name of the variable, or `--set`.
    pub name: String,
    /// The text itself.
    pub text: String,
}

/// Points at a key and its value in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<SourceText>,
    /// Bytes of the key.
    pub key: Range<usize>,
    /// Bytes of the value.
    pub value: Range<usize>,
}

impl Place {
    /// Returns the line of the key, from 1.
    pub fn line(&self) -> usize {
        self.before().matches('\n').count() + 1
    }

    /// Returns the column of the key in characters, from 1.
    pub fn column(&self) -> usize {
        let before = self.before();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        before[line_start..].chars().count() + 1
    }

    /// Returns the bytes from the key to the end of the value when both are on one line, else those
    /// of the key.
    pub fn extent(&self) -> Range<usize> {
        let whole = self.key.start..self.value.end.max(self.key.end);
        match self.source.text.get(whole.clone()) {
            Some(text) if !text.contains('\n') => whole,
            _ => self.key.clone(),
        }
    }

    /// Returns the place without its column, as comments beside values show it.
    pub fn brief(&self) -> String {
        match self.source.kind {
            SourceKind::File => format!("{}:{}", self.source.name, self.line()),
            SourceKind::Environment => format!("env {}", self.source.name),
            SourceKind::Set => "--set".into(),
        }
    }

    fn before(&self) -> &str {
        self.source.text.get(..self.key.start).unwrap_or_default()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.source.name;
        match self.source.kind {
            SourceKind::File => write!(f, "{name}:{}:{}", self.line(), self.column()),
            SourceKind::Environment => write!(f, "environment variable {name}"),
            SourceKind::Set => write!(f, "--set {}", self.source.text),
        }
    }
}
