//! The command line: the only place that prints or ends the process.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | everything went well |
//! | 1 | something unexpected |
//! | 2 | the command line or the configuration is wrong; nothing was started |
//! | 3 | devices, files or ranks do not allow the run, or a rank failed |
//! | 4 | a loss or a gradient norm was not finite |
//! | 5 | a checkpoint cannot be read or written |
//! | 6 | data cannot be read or does not fit |
//! | 130 | interrupted, ended cleanly |
//!
//! A command whose reader leaves, as in `dream-train topo | head -1`, ends with the code it would have
//! had. One whose output cannot be written for another reason, such as a full disk, ends with 3.

pub mod bench_comm;
pub mod bench_kernels;
mod benchmark;
pub mod config;
pub mod data;
mod doctor;
mod exit_code;
mod failure;
mod gpu;
mod launch;
mod logging;
mod main;
mod output;
mod pipeline;
mod plan;
mod profile;
mod recording;
pub mod selftest;
mod signals;
mod summarize;
pub mod topo;
mod train;

pub use exit_code::Exit;
pub use failure::Failure;
pub use main::{Cli, main};

pub(crate) use main::abort;
