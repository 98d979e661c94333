//! `dream-train pipeline`: draws a pipeline schedule of any size, or one from a file, without a
//! configuration.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;

use super::{Exit, Failure};
use crate::metrics::format;
use crate::pipeline::{Costs, Schedule, ScheduleError, ScheduleKind, Timeline};

/// Which schedule to show, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PipelineArgs {
    /// Name of the schedule: gpipe, 1f1b, zbv .. (a wrong name lists all)
    #[arg(long, value_name = "NAME", default_value = "1f1b")]
    schedule: ScheduleKind,
    /// Ranks of the pipeline
    #[arg(long, value_name = "N", default_value_t = 4)]
    pp: usize,
    /// Stages on each rank [default: as few as the schedule takes]
    #[arg(long, value_name = "N")]
    virtual_stages: Option<usize>,
    /// Microbatches of an optimizer step
    #[arg(long, value_name = "N", default_value_t = 8)]
    microbatches: usize,
    /// Reads the schedule from a CSV of action lists instead: a row a rank, cells such as `0F0`
    #[arg(long, value_name = "CSV", conflicts_with_all = ["schedule", "pp", "virtual_stages", "microbatches"])]
    file: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Form::Timeline)]
    format: Form,
}

/// How a schedule is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Figures and a drawing for the terminal
    Timeline,
    /// The drawing as a picture
    Svg,
    /// One row a rank, one column a step, as `PyTorch` reads and writes it
    Csv,
    /// Each rank's actions with sends, receives and what sharded stages need
    Actions,
}

pub(super) fn run(args: &PipelineArgs, out: &mut impl Write) -> Result<(), Failure> {
    let schedule = match &args.file {
        Some(path) => read(path)?,
        None => made(args).map_err(|error| Failure::new(&error, Exit::Usage))?,
    };
    let timeline = Timeline::of(&schedule, &Costs::default());
    let timeline = timeline.map_err(|error| Failure::new(&error, Exit::Usage))?;
    let text = match args.format {
        Form::Timeline => describe(&schedule, &timeline),
        Form::Svg => timeline.to_svg(&schedule),
        Form::Csv => schedule.to_csv(),
        Form::Actions => actions(&schedule),
    };
    out.write_all(text.as_bytes()).map_err(|error| Failure::new(&error, Exit::Environment))
}

fn made(args: &PipelineArgs) -> Result<Schedule, ScheduleError> {
    let stages = args.virtual_stages.unwrap_or(args.schedule.default_virtual_stages());
    args.schedule.schedule(args.pp, stages, args.microbatches)
}

/// Why a file holds no schedule.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read the schedule `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` holds no pipeline schedule", path.display())]
    Schedule { path: PathBuf, source: ScheduleError },
}

fn read(path: &PathBuf) -> Result<Schedule, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| FileError::Read { path: path.clone(), source });
    let schedule = text.and_then(|text| {
        Schedule::from_csv(&text)
            .map_err(|source| FileError::Schedule { path: path.clone(), source })
    });
    schedule.map_err(|error| Failure::new(&error, Exit::Usage))
}

fn describe(schedule: &Schedule, timeline: &Timeline) -> String {
    let (ranks, stages) = (schedule.num_ranks(), schedule.num_stages());
    let microbatches = schedule.num_microbatches();
    let live: Vec<String> = (0..ranks).map(|rank| timeline.peak_live(rank).to_string()).collect();
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ =
        writeln!(text, "pipeline  {stages} stages on {ranks} ranks, {microbatches} microbatches");
    let _ = writeln!(
        text,
        "idle      {} of the ranks' time, where a forward pass, an input gradient and a weight gradient take equal times and transfers none",
        format::percent(timeline.idle_share())
    );
    let _ = writeln!(
        text,
        "live      {} microbatches at most on ranks 0 to {}",
        live.join(", "),
        ranks - 1
    );
    let _ = writeln!(text, "\n{}", timeline.to_text(schedule).trim_end());
    text
}

fn actions(schedule: &Schedule) -> String {
    let row = |(rank, row): (usize, Vec<crate::pipeline::Action>)| {
        let row: Vec<String> = row.iter().map(ToString::to_string).collect();
        format!("rank {rank}: {}\n", row.join(" "))
    };
    schedule.with_sharding().into_iter().enumerate().map(row).collect()
}
