//! Fused operations against `f64`: values, gradients, masks, repeatability.

mod attention;
mod attention_blocks;
mod dispatch;
mod dropout;
mod half_precision;
mod harness;
mod layers;
mod loss;
mod optimizer;
mod orthogonalize;
#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;
