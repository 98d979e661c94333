//! Pipeline parallelism: which rank holds which stages, and in which order their forward and
//! backward passes run.
//!
//! | start here | for |
//! | --- | --- |
//! | [`ScheduleKind::schedule`] | the schedules by name: `GPipe`, 1F1B, interleaved, looped BFS, zero bubble |
//! | [`Schedule`] | the compute actions of every rank in order, checked; as CSV of `PyTorch`'s action lists |
//! | [`Schedule::with_communication`] | the same with sends, receives and what sharded stages need |
//! | [`Timeline`] | when each action runs under given costs: idle share, live microbatches |
//! | [`split_layers`] | how many layers each stage gets |
//!
//! Everything here is arithmetic over indices: no tensor, no rank that runs, no input or output.
//!
//! # Words
//!
//! A *stage* is a consecutive part of the model; stage 0 is the first. A rank holds one or several
//! stages. A *microbatch* is what one forward pass takes.

mod action;
mod draw;
mod error;
mod generate;
mod lower;
mod schedule;
mod split;
mod timeline;

pub use action::{Action, ActionKind};
pub use error::ScheduleError;
pub use generate::ScheduleKind;
pub use schedule::Schedule;
pub use split::{SplitError, split_layers};
pub use timeline::{Costs, Span, Timeline};
