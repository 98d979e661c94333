//! Names with a number, under which files of earlier starts are kept.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Returns the name with the next free number for a file or folder: `metrics.3.jsonl` for
/// `metrics.jsonl` beside `metrics.2.jsonl`. A higher number is a later one.
pub(crate) fn next_numbered(path: &Path) -> io::Result<PathBuf> {
    let name =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let head = format!("{}.", name(path.file_stem()));
    let tail =
        path.extension().map_or_else(String::new, |_| format!(".{}", name(path.extension())));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut highest = 0_u64;
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let found = entry?.file_name();
        let found = found.to_string_lossy();
        let number = found.strip_prefix(&head).and_then(|rest| rest.strip_suffix(&tail));
        highest = highest.max(number.and_then(|number| number.parse().ok()).unwrap_or_default());
    }
    Ok(path.with_file_name(format!("{head}{}{tail}", highest + 1)))
}

/// Gives a file or folder its numbered name and returns that.
pub(crate) fn keep(path: &Path) -> io::Result<PathBuf> {
    let kept = next_numbered(path)?;
    fs::rename(path, &kept)?;
    Ok(kept)
}

/// Writes a file as a whole, after keeping one with another content under a numbered name, which is
/// returned. One with this very content is left as it is.
pub(crate) fn write_anew(path: &Path, text: &str) -> io::Result<Option<PathBuf>> {
    let kept = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
        Ok(found) => {
            // The length comes first: what is not a regular file is never opened.
            let is_same_size = found.is_file() && found.len() == text.len() as u64;
            if is_same_size && fs::read(path)? == text.as_bytes() {
                return Ok(None);
            }
            Some(keep(path)?)
        }
    };
    let partial = path.with_added_extension("partial");
    let mut file = fs::File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_content_that_changed_is_kept_and_numbers_go_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        for text in ["a", "a", "b", "a", "b"] {
            write_anew(&path, text).expect("the folder is writable");
        }
        assert_eq!(
            names(folder.path()),
            ["config.1.toml", "config.2.toml", "config.3.toml", "config.toml"]
        );
        fs::remove_file(folder.path().join("config.1.toml")).expect("it is there");
        let kept = write_anew(&path, "c").expect("the folder is writable");
        assert_eq!(kept, Some(folder.path().join("config.4.toml")), "no number is used again");
    }

    #[test]
    fn folders_and_odd_names_are_numbered_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let rows = [
            ("tensorboard", "tensorboard.1"),
            ("metrics.superseded.jsonl", "metrics.superseded.8.jsonl"),
            ("metrics.jsonl", "metrics.1.jsonl"),
        ];
        for present in ["metrics.superseded.7.jsonl", "metrics.x.jsonl", "metrics..jsonl"] {
            fs::write(folder.path().join(present), "").expect("the folder is writable");
        }
        for (name, expected) in rows {
            let found = next_numbered(&folder.path().join(name)).expect("a folder");
            assert_eq!(found, folder.path().join(expected));
        }
    }
}
