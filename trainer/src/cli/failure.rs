//! One place that turns errors into what a user reads.

use std::error::Error;
use std::fmt::Write as _;

use super::Exit;
use crate::comm::{RankFailure, RankFault};
use crate::config::{ConfigErrors, ReportStyle, render};
use crate::data::DataError;
use crate::mesh::DeviceMesh;
use crate::recipe::PrepareError;
use crate::run_folder::RunFolderError;
use crate::train::TrainError;

/// What helps where a folder cannot be written.
pub(super) const OTHER_FOLDER: &str = "`run.output_dir` chooses another place";

/// An error as text, with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// What to print, without a trailing line break.
    pub text: String,
    /// How the program ends.
    pub exit: Exit,
}

impl Failure {
    /// Shows an error and what caused it, one line each.
    pub fn new(error: &(dyn Error + 'static), exit: Exit) -> Self {
        Self { text: format!("error: {}", chain(error)), exit }
    }

    /// Shows configuration errors with the lines they are in.
    pub fn config(errors: &ConfigErrors, style: ReportStyle) -> Self {
        Self { text: render(errors, style).trim_end().to_owned(), exit: Exit::Usage }
    }

    /// Shows why a run cannot have its folder.
    pub fn folder(error: &RunFolderError) -> Self {
        let help = match error {
            RunFolderError::InUse { .. } => {
                "wait for that run to end, end it, or choose another `run.experiment`"
            }
            _ => OTHER_FOLDER,
        };
        let failure = Self::new(error, Exit::Environment);
        Self { text: format!("{}\n  help: {help}", failure.text), ..failure }
    }

    /// Shows why a recipe cannot run.
    pub fn prepare(error: &PrepareError, style: ReportStyle) -> Self {
        match error {
            PrepareError::Config(errors) => Self::config(errors, style),
            PrepareError::Train(error) => Self::new(error, Exit::Usage),
        }
    }

    /// Shows the rank that failed first in full and the others in a line each.
    pub fn run(failure: &RankFailure<TrainError>, mesh: &DeviceMesh) -> Self {
        let (what, exit) = match failure.fault.as_ref() {
            RankFault::Error(error) => (chain(error) + &help(error), Exit::of(error)),
            RankFault::Comm(error) => (chain(error), Exit::Environment),
            RankFault::Start(error) => {
                return Self::new(error, Exit::Environment);
            }
            RankFault::Panic(message) => (format!("panicked: {message}"), Exit::Unexpected),
        };
        let place = |rank: usize| format!("rank {rank} ({})", mesh.coordinate(rank));
        let mut text = if mesh.world_size() == 1 {
            format!("error: {what}")
        } else {
            format!("error: {} failed: {what}", place(failure.rank))
        };
        for (rank, brief) in &failure.others {
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {} ended: {brief}", place(*rank));
        }
        Self { text, exit }
    }
}

/// Says what to do, where the error or the data's own among its causes knows it.
fn help(error: &TrainError) -> String {
    if let Some(hint) = error.hint() {
        return format!("\n  help: {hint}");
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(hint) = error.downcast_ref::<DataError>().and_then(DataError::hint) {
            return format!("\n  help: {hint}");
        }
        cause = error.source();
    }
    String::new()
}

/// Joins an error and its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A transparent wrapper says the same as what it wraps.
        let line = error.to_string();
        if !text.ends_with(&line) {
            text.push_str("\n  caused by: ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
