//! The element types of a run, kept in its folder.

use std::path::Path;
use std::{fs, io};

use super::{Callback, CallbackResult, RunView};
use crate::metrics::PrecisionReport;
use crate::run_folder::write_anew;

/// Writes the [`PrecisionReport`] of rank 0 to `precision.json`; that of an earlier start which was
/// different is kept as `precision.1.json`. A disk that takes no more costs the file, not the run.
#[derive(Debug, Default)]
pub struct PrecisionRecord;

impl PrecisionRecord {
    /// Name of the file in a run's folder.
    pub const FILE_NAME: &'static str = "precision.json";
}

impl Callback for PrecisionRecord {
    fn name(&self) -> &'static str {
        "precision"
    }

    fn post_first_update(&mut self, run: &RunView, report: &PrecisionReport) -> CallbackResult {
        if let Err(error) = write(&run.directory, report) {
            tracing::warn!(%error, file = Self::FILE_NAME, "the element types were not recorded");
        }
        Ok(())
    }
}

fn write(folder: &Path, report: &PrecisionReport) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(report)? + "\n";
    write_anew(&folder.join(PrecisionRecord::FILE_NAME), &text).map(|_| ())
}
