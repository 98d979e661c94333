//! The models under their plans, against the same models on one rank.

mod communication;
#[path = "../../../trainer/tests/tensor_parallel/harness.rs"]
mod harness;
mod parity;
mod perceptron;
#[path = "../../../trainer/tests/tensor_parallel/place.rs"]
mod place;
mod plans;
mod subject;
#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;
