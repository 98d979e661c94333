//! `cargo xtask faults`: a seeded campaign of kills, damage, full disks, lost consoles and hostile
//! input on small runs, whose results are compared with those of undisturbed runs.
//!
//! ```text
//! dice        every choice of a case, from the seed of the campaign and the number of the case
//! setup       the run of a case: mesh, model, data, checkpoints
//! process     starting the program, waiting for it with a limit, signals
//! processes   what is left of a run in the list of processes
//! record      what a run wrote: rows of metrics, tensors of the last checkpoint
//! reference   the undisturbed run of a setup
//! lab         what all cases share
//! stage       the folder and the processes of one case, and the checks all cases share
//! kinds       what is done to a run
//! campaign    arguments, cases in order, the report
//! ```

mod campaign;
mod dice;
mod failure;
mod kinds;
mod lab;
mod mutation;
mod process;
mod processes;
mod record;
mod reference;
mod setup;
mod stage;
#[cfg(test)]
mod tests;

pub(crate) use campaign::{FaultsArgs, run};
