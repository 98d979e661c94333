//! Paths that begin with `~`.

use std::path::{Path, PathBuf};

use super::env;

/// Puts the home folder in the place of a leading `~`, as shells do.
pub fn with_home(path: &str) -> String {
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            env::variable("HOME").map_or_else(|| path.to_owned(), |home| home + rest)
        }
        _ => path.to_owned(),
    }
}

/// Puts the home folder in the place of a leading `~`.
pub fn path_with_home(path: &Path) -> PathBuf {
    path.to_str().map_or_else(|| path.to_path_buf(), |text| with_home(text).into())
}

/// Tells why a leading `~` cannot be replaced, if there is one and it cannot: the path would lead to a
/// folder of that name.
pub(crate) fn why_no_home(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix('~')?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return Some("only `~/` stands for a home folder, your own; `./~` begins a name with `~`");
    }
    env::variable("HOME").is_none().then_some("`~` is the home folder, but `HOME` is not set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_tilde_of_ones_own_is_the_home_folder() {
        for text in ["a/~/b", "~other/a", "", "data/*.txt"] {
            assert_eq!(with_home(text), text);
        }
        if let Some(home) = env::variable("HOME").filter(|home| !home.is_empty()) {
            assert_eq!(with_home("~/a"), format!("{home}/a"));
            assert_eq!(with_home("~"), home);
        }
    }
}
