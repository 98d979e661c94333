//! The tolerances of these tests, in one place. All are relative to the norm of the expected value,
//! in `f32`.
#![allow(dead_code, reason = "one table serves the tests of layers and those of models")]

/// Adjoint pairs and single layers: sums of a few dozen terms in another order.
pub(crate) const PAIR: f64 = 1e-6;

/// Gradients of whole models: the differences of their layers add up.
pub(crate) const MODEL: f64 = 1e-5;

/// Loss of the first step: one forward pass from equal weights.
pub(crate) const FIRST_LOSS: f64 = 1e-6;

/// Loss of the fifth step: four updates later.
pub(crate) const FIFTH_LOSS: f64 = 1e-5;
