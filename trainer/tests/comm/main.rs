//! Behavior of the collectives over thread ranks: values, laws, groups of a mesh, and every way to
//! fail.

mod edges;
mod failures;
mod groups;
mod harness;
mod laws;
mod nonblocking;
mod selftest;
mod vectors;
