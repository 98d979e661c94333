//! The console of a run: standard output and standard error behind one thread, so that whoever reads
//! them, or does not, never holds up training.
//!
//! Lines and bars are put into a queue of limited size, which one thread writes out. A reader that
//! does not read fills the queue, and then lines are left out and counted; a stream that is gone is
//! warned of once.

mod queue;
mod screen;
mod standard;
mod terminal;

pub(crate) use standard::{StandardStream, finish_console};
pub use terminal::Terminal;
