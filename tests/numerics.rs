//! The page on numerics and the tolerances of the tests are one table.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/tolerance.rs"]
mod tolerance;

#[test]
fn the_page_lists_every_tolerance_with_its_value() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/numerics.md"));
    let page = page.unwrap();
    let listed: Vec<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.trim_end_matches('`');
            let is_name =
                name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            is_name.then(|| (name.to_owned(), cells.next().unwrap_or_default().to_owned()))
        })
        .collect();
    let table =
        tolerance::TABLE.iter().map(|(name, value)| ((*name).into(), value.replace('_', "")));
    assert_eq!(listed, table.collect::<Vec<_>>());
}
