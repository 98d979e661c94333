//! Dotted keys: where in the tables a value lives.

use std::fmt;

/// Names a value by the keys that lead to it, `optimizer.lr`; items of lists by their position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    /// Returns the path of the whole configuration.
    pub fn root() -> Self {
        Self::default()
    }

    /// Reads a path of bare keys as it is shown, `optimizer.param_groups[0].pattern`.
    pub fn dotted(path: &str) -> Self {
        path.split(['.', '[']).map(|key| key.trim_end_matches(']')).collect()
    }

    /// Returns the path of `key` inside the table at this path.
    #[must_use]
    pub fn child(&self, key: &str) -> Self {
        self.iter().chain([key]).collect()
    }

    /// Returns the path of the enclosing table and the last key, or nothing at the root.
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (last, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), last))
    }

    /// Returns this path continued by `rest`.
    #[must_use]
    pub fn join(&self, rest: &[String]) -> Self {
        self.iter().chain(rest.iter().map(String::as_str)).collect()
    }

    /// Walks the keys from the outermost.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns the keys from the outermost.
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    /// Returns whether this path lies below `table` or is it.
    pub fn starts_with(&self, table: &Self) -> bool {
        self.0.starts_with(&table.0)
    }
}

impl<'a> FromIterator<&'a str> for KeyPath {
    fn from_iter<I: IntoIterator<Item = &'a str>>(keys: I) -> Self {
        Self(keys.into_iter().map(str::to_owned).collect())
    }
}

impl From<&str> for KeyPath {
    fn from(path: &str) -> Self {
        Self::dotted(path)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, key) in self.iter().enumerate() {
            let is_index = position > 0 && key.bytes().all(|byte| byte.is_ascii_digit());
            if position > 0 && !is_index {
                f.write_str(".")?;
            }
            if is_index {
                write!(f, "[{key}]")?;
            } else if is_bare(key) {
                f.write_str(key)?;
            } else {
                write!(f, "{key:?}")?;
            }
        }
        Ok(())
    }
}

/// Returns whether TOML lets `key` stand without quotes.
pub(crate) fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
