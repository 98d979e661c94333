//! Tensor parallelism step by step, on ranks that are threads.
//!
//! [`transformer`] overfits a sentence in four modes, [`perceptron`] shows what happens to one
//! weight's gradient, [`lecture`] completes the backward pass that a lecture leaves as homework.
//! Each returns its numbers; the binary prints them.

pub mod lecture;
pub mod perceptron;
pub mod ranks;
pub mod transformer;
