//! A trace of steps, and the file that receives it.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::{Exit, Failure};
use crate::comm::Ranks;
use crate::metrics::{Trace, TraceWindow};

/// A trace on its way into a file.
pub(super) struct Recording {
    pub(super) trace: Trace,
    output: PathBuf,
    file: File,
}

impl Recording {
    /// Makes the file, before the steps, so that they are not for nothing.
    pub(super) fn start(
        output: &Path,
        ranks: &Ranks,
        window: TraceWindow,
    ) -> Result<Self, Failure> {
        let output = file_of(output, ranks);
        let file = File::create(&output).map_err(|error| unwritable(&output, &error))?;
        Ok(Self { trace: Trace::new(window), output, file })
    }

    /// Writes what was recorded; returns the number of spans and the file.
    pub(super) fn write(self) -> Result<(usize, PathBuf), Failure> {
        let spans = self.trace.write(BufWriter::new(self.file));
        let spans = spans.map_err(|error| unwritable(&self.output, &error))?;
        Ok((spans, self.output))
    }
}

/// Says why a file could not be written.
pub(super) fn unwritable(output: &Path, error: &io::Error) -> Failure {
    Failure {
        text: format!("error: cannot write {}\n  caused by: {error}", output.display()),
        exit: Exit::Environment,
    }
}

/// Returns the file of this process: each process of a launcher's world writes one, and the name of
/// all but the first says its rank.
fn file_of(output: &Path, ranks: &Ranks) -> PathBuf {
    if ranks.is_main() {
        return output.into();
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}-rank-{}", ranks.here()[0].rank);
    output.with_file_name(name).with_extension(output.extension().unwrap_or_default())
}
