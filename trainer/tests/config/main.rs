//! Configuration: layers, types, resolution, messages and generated pages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod capability;
mod docs;
mod fuzz;
mod invalid;
mod layering;
mod model;
mod resolution;
mod show;
mod written;
