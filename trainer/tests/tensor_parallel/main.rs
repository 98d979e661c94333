//! Tensor parallelism against the dense model: collectives, layers, losses, plans and what they
//! communicate.

mod collectives;
mod harness;
mod layers;
mod loss;
mod place;
mod plans;
#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;
