//! Metrics sinks and callbacks, as a run sees them.

#![expect(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod benchmark;
mod console;
mod dispatch;
mod format;
mod jsonl;
mod metrics_survive;
mod requests;
mod standard_set;
mod summary;
mod support;
mod tensorboard;
