//! The tests that `docs/reliability.md` names are there.

use std::collections::BTreeSet;
use std::fs;

use crate::command::root;

/// The page, from the repository's root.
const PAGE: &str = "docs/reliability.md";

/// Configurations that a test takes one by one.
const ROWS: &str = "tests/invalid_configs";

/// Returns the problems of the page; `functions` are the names of all functions of all tests.
pub(crate) fn check(functions: &BTreeSet<String>) -> Result<Vec<String>, String> {
    let page = fs::read_to_string(root().join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))?;
    // The rows of a test over files are named by their file.
    let is_row = |name: &str| root().join(format!("{ROWS}/{name}.toml")).exists();
    let missing = tests(&page).into_iter();
    let missing = missing.filter(|test| !functions.contains(*test) && !is_row(test));
    Ok(missing.map(|test| format!("{PAGE}: there is no test `{test}`")).collect())
}

/// Returns the functions that a Rust file defines.
pub(crate) fn functions(text: &str) -> impl Iterator<Item = String> {
    let named = text.lines().filter_map(|line| line.trim_start().split_once("fn "));
    named.map(|(_, rest)| rest.chars().take_while(|c| is_of_name(*c)).collect())
}

/// Returns the tests of the second column of the tables: names of several words.
fn tests(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit_once(" | "));
    let words = cells.flat_map(|(_, cell)| cell.split(|c: char| !is_of_name(c)));
    // `several_rows_*` is no name.
    words.filter(|word| word.matches('_').count() >= 3 && !word.ends_with('_')).collect()
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests_of_claims {
    use super::{functions, tests};

    #[test]
    fn tests_are_read_from_tables_and_functions_from_code() {
        let page = "| promise | test |\n| a `run_that_is_no_test` | tests/a.rs::it_works_at_once, `so_does_this_one` |\n";
        assert_eq!(tests(page), ["it_works_at_once", "so_does_this_one"]);
        let code = "    fn it_works_at_once() {\npub(crate) fn other(a: u8) -> u8 {";
        assert_eq!(functions(code).collect::<Vec<_>>(), ["it_works_at_once", "other"]);
    }
}
