//! Documentation that is generated from the code.

use crate::command;

/// Writes `docs/configuration.md`.
pub(crate) fn run() -> Result<(), String> {
    command::run(
        "cargo",
        &["run", "--quiet", "--", "config", "docs", "--output", "docs/configuration.md"],
    )
}
