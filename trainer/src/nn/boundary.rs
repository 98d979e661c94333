//! [`Boundary`]: where a plan may change the layout of what enters or leaves a module of the user.

use burn::tensor::Tensor;

use super::style::{LayerKind, StyleSlot};
use super::{Linear, Scope};

/// Marks the edge of a user's module, so that a plan can name it; without a plan it does nothing.
///
/// A module keeps one as a field with `#[module(skip)]` and passes its input, its output or both
/// through it.
///
/// # Examples
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::Tensor;
/// use dream_trainer::nn::{Boundary, Linear};
///
/// #[derive(Module, Debug)]
/// struct FeedForward {
///     up: Linear,
///     down: Linear,
///     #[module(skip)]
///     boundary: Boundary,
/// }
///
/// impl FeedForward {
///     fn forward(&self, x: Tensor<3>) -> Tensor<3> {
///         let x = self.boundary.input(x);
///         self.boundary.output(self.down.forward(self.up.forward(x)))
///     }
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Boundary {
    style: StyleSlot,
}

impl Boundary {
    /// Marks the module that is built under `scope`.
    pub fn new(scope: &Scope) -> Self {
        Self { style: scope.layer(LayerKind::Boundary) }
    }

    /// Takes what enters the module, `[b, s, h]`.
    pub fn input(&self, x: Tensor<3>) -> Tensor<3> {
        match self.style.get() {
            Some(style) => style.input(x),
            None => x,
        }
    }

    /// Takes what enters the module and applies each of `layers` to it: the same numbers as
    /// [`Self::input`] and [`Linear::forward`], with room for a plan to compute while parts of the
    /// input are still on their way.
    pub fn project<const N: usize>(&self, x: Tensor<3>, layers: [&Linear; N]) -> [Tensor<3>; N] {
        match self.style.get() {
            Some(style) => {
                let outputs = style.project(x, &layers);
                outputs.try_into().expect("a style returns one output per layer")
            }
            None => Linear::project(x, layers),
        }
    }

    /// Takes what leaves the module, `[b, s, h]`.
    pub fn output(&self, y: Tensor<3>) -> Tensor<3> {
        match self.style.get() {
            Some(style) => style.output(y),
            None => y,
        }
    }
}
