//! The styles a plan chooses from. Each states the layouts its layer takes and gives.

use std::fmt;

use crate::mesh::Placement;

/// The placement of activations `[b, s, h]` whose sequence is split.
pub const SEQUENCE: Placement = Placement::Shard(1);

/// The placement of activations `[b, s, h]` whose features are split.
pub const FEATURES: Placement = Placement::Shard(2);

/// Splits the outputs of a linear layer: columns of the weight, and the bias with them.
///
/// # Placements
///
/// | | `input` | weight | bias | result | `output` |
/// | --- | --- | --- | --- | --- | --- |
/// | default | `R` | `S(1)` | `S(0)` | `S(2)` | `S(2)` |
///
/// An `input` of `S(1)` is gathered. The gradient of the gathered or replicated input is a term per
/// rank; the layer sums it, unless the module directly above has a [`PrepareModuleInput`], which
/// then does so once for all its layers.
///
/// With [`Self::in_shared_units`] and more ranks than units, neighbors hold copies of one unit and
/// compute the same outputs. The gradient of a copy is a term, summed over them once per step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColwiseParallel {
    pub(super) input: Placement,
    pub(super) output: Placement,
    pub(super) units: Option<(&'static str, usize)>,
    pub(super) shared: bool,
}

/// Splits the inputs of a linear layer: rows of the weight. The bias is whole and added once, to
/// the summed result.
///
/// # Placements
///
/// | | `input` | weight | bias | result | `output` |
/// | --- | --- | --- | --- | --- | --- |
/// | default | `S(2)` | `S(0)` | `R` | `P(sum)` | `R` |
///
/// With an `output` of `S(1)` the bias is added to a part of the tokens, so its gradient is a term
/// per rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowwiseParallel {
    pub(super) input: Placement,
    pub(super) output: Placement,
    pub(super) units: Option<(&'static str, usize)>,
}

/// Splits a vocabulary: rows of an embedding, or columns of an output projection. It need not
/// divide: the last ranks hold less.
///
/// There is no padding, so none can be trained or exported.
///
/// # Placements
///
/// As an embedding: ids `R`, weight `S(0)`, result `P(sum)`, then `output`. As an output
/// projection: hidden states in `head_input`, weight `S(1)`, logits `S(2)`; `loss_parallel` keeps
/// them so. An embedding that is also the head (tied) does both with one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VocabParallel {
    pub(super) output: Placement,
    pub(super) head_input: Placement,
    pub(super) loss_parallel: bool,
}

/// Keeps the weights of a layer whole and applies it to a part of the sequence.
///
/// # Placements
///
/// Input and output `S(1)`, weights `R` with a gradient that is a term per rank. On an embedding
/// the ids are whole, and each rank looks up its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceParallel {
    pub(super) input: Placement,
}

/// Changes the layout of what enters a module; the module passes it through a
/// [`Boundary`](crate::nn::Boundary).
///
/// To `R`, it expects layers that compute different things from it and sums their gradients: one
/// gather serves several projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareModuleInput {
    /// Layout that comes in.
    pub input: Placement,
    /// Layout the module works on.
    pub desired: Placement,
}

/// Changes the layout of what leaves a module; the module passes it through a
/// [`Boundary`](crate::nn::Boundary).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareModuleOutput {
    /// Layout the module computes.
    pub output: Placement,
    /// Layout that goes out.
    pub desired: Placement,
}

impl Default for ColwiseParallel {
    fn default() -> Self {
        Self { input: Placement::Replicate, output: FEATURES, units: None, shared: false }
    }
}

impl Default for RowwiseParallel {
    fn default() -> Self {
        Self { input: FEATURES, output: Placement::Replicate, units: None }
    }
}

impl Default for VocabParallel {
    fn default() -> Self {
        Self { output: Placement::Replicate, head_input: Placement::Replicate, loss_parallel: true }
    }
}

impl Default for SequenceParallel {
    fn default() -> Self {
        Self { input: SEQUENCE }
    }
}

macro_rules! layouts {
    ($($style:ident.$field:ident = $method:ident: $doc:literal;)*) => {$(
        impl $style {
            #[doc = $doc]
            #[must_use]
            pub fn $method(mut self, layout: Placement) -> Self {
                self.$field = layout;
                self
            }
        }
    )*};
}

layouts! {
    ColwiseParallel.input = with_input: "Chooses the layout of the input, `R` or `S(1)`.";
    ColwiseParallel.output = with_output: "Chooses the layout of the output, `S(2)`, `S(1)` or `R`.";
    RowwiseParallel.input = with_input: "Chooses the layout of the input, `S(2)` or `R`.";
    RowwiseParallel.output = with_output: "Chooses the layout of the output, `R` or `S(1)`.";
    VocabParallel.output = with_output: "Chooses the layout of looked-up vectors, `R` or `S(1)`.";
    VocabParallel.head_input = with_head_input: "Chooses the layout in which hidden states come to the head, `R` or `S(1)`.";
    SequenceParallel.input = with_input: "Chooses the layout of the input, `S(1)` or `R`.";
}

macro_rules! units {
    ($($style:ident)*) => {$(
        impl $style {
            /// Says that the split dimension consists of `count` units that stay whole, such as
            /// attention heads, and which key holds their number.
            #[must_use]
            pub fn in_units(mut self, key: &'static str, count: usize) -> Self {
                self.units = Some((key, count));
                self
            }
        }
    )*};
}

units! { ColwiseParallel RowwiseParallel }

impl ColwiseParallel {
    /// Says the same of units that several ranks may hold copies of where there are fewer units than
    /// ranks, such as the key-value heads that several query heads read.
    #[must_use]
    pub fn in_shared_units(self, key: &'static str, count: usize) -> Self {
        Self { shared: true, ..self.in_units(key, count) }
    }

    /// Returns how many ranks hold a copy of each unit.
    pub(super) fn copies(&self, degree: usize) -> usize {
        match self.units {
            Some((_, units)) if self.shared && units > 0 && degree.is_multiple_of(units) => {
                degree / units
            }
            _ => 1,
        }
    }
}

impl VocabParallel {
    /// Chooses whether the loss works on parts of the vocabulary (`true`) or on gathered logits.
    #[must_use]
    pub fn with_loss_parallel(mut self, loss_parallel: bool) -> Self {
        self.loss_parallel = loss_parallel;
        self
    }
}

/// Any style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Style {
    /// See [`ColwiseParallel`].
    Colwise(ColwiseParallel),
    /// See [`RowwiseParallel`].
    Rowwise(RowwiseParallel),
    /// See [`VocabParallel`].
    Vocab(VocabParallel),
    /// See [`SequenceParallel`].
    Sequence(SequenceParallel),
    /// See [`PrepareModuleInput`].
    Input(PrepareModuleInput),
    /// See [`PrepareModuleOutput`].
    Output(PrepareModuleOutput),
}

impl Style {
    /// Returns the layout in which activations come in.
    pub fn input(&self) -> Placement {
        match self {
            Self::Colwise(style) => style.input,
            Self::Rowwise(style) => style.input,
            Self::Vocab(style) => style.head_input,
            Self::Sequence(style) => style.input,
            Self::Input(style) => style.input,
            Self::Output(style) => style.output,
        }
    }

    /// Returns the layout in which activations go out.
    pub fn output(&self) -> Placement {
        match self {
            Self::Colwise(style) => style.output,
            Self::Rowwise(style) => style.output,
            Self::Vocab(style) => style.output,
            Self::Sequence(_) => SEQUENCE,
            Self::Input(style) => style.desired,
            Self::Output(style) => style.desired,
        }
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Colwise(_) => "ColwiseParallel",
            Self::Rowwise(_) => "RowwiseParallel",
            Self::Vocab(_) => "VocabParallel",
            Self::Sequence(_) => "SequenceParallel",
            Self::Input(_) => "PrepareModuleInput",
            Self::Output(_) => "PrepareModuleOutput",
        })
    }
}

macro_rules! into_style {
    ($($variant:ident($style:ident))*) => {$(
        impl From<$style> for Style {
            fn from(style: $style) -> Self {
                Self::$variant(style)
            }
        }
    )*};
}

into_style! {
    Colwise(ColwiseParallel) Rowwise(RowwiseParallel) Vocab(VocabParallel) Sequence(SequenceParallel)
    Input(PrepareModuleInput) Output(PrepareModuleOutput)
}
