//! Why a plan does not fit a model.

use crate::mesh::Placement;
use crate::nn::{LayerKind, UnknownParam};

/// Describes what is wrong with a plan; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorParallelError {
    /// A path that no layer has.
    #[error("no layer matches the path `{pattern}`{}", .nearest.as_ref().map(|path| format!("; the nearest is `{path}`")).unwrap_or_default())]
    UnknownPath {
        /// The pattern.
        pattern: String,
        /// The path most like it.
        nearest: Option<String>,
    },
    /// A layer that two rules match.
    #[error("layer `{path}` gets `{first}` and `{second}`, but a layer takes one style")]
    Conflict {
        /// The layer.
        path: String,
        /// Style of the earlier rule.
        first: String,
        /// Style of the later rule.
        second: String,
    },
    /// A layer of another kind than the style is for.
    #[error("layer `{path}` is a {kind}, which cannot take `{style}`")]
    Unsuitable {
        /// The layer.
        path: String,
        /// What it is.
        kind: LayerKind,
        /// The style.
        style: String,
    },
    /// A layout that a style cannot have.
    #[error("`{style}` of `{path}` has the {side} layout `{layout}` but can have {allowed}")]
    Layout {
        /// The layer.
        path: String,
        /// The style.
        style: String,
        /// Input or output.
        side: &'static str,
        /// The layout.
        layout: Placement,
        /// Layouts there are.
        allowed: &'static str,
    },
    /// A dimension that does not split evenly.
    #[error("`{what}` is {size} but must be a multiple of the tensor-parallel degree {degree}")]
    Indivisible {
        /// Configuration key, or parameter and dimension.
        what: String,
        /// Its value.
        size: usize,
        /// Number of ranks.
        degree: usize,
    },
    /// Units that ranks may share, of which neither several fit on a rank nor one on several.
    #[error(
        "`{what}` is {size} but must be a multiple or a divisor of the tensor-parallel degree {degree}"
    )]
    IndivisibleEitherWay {
        /// Configuration key.
        what: String,
        /// Its value.
        size: usize,
        /// Number of ranks.
        degree: usize,
    },
    /// Units that do not make up the dimension.
    #[error(
        "dimension {dim} of `{path}` is {size}, which does not consist of `{key}` = {units} equal units"
    )]
    Units {
        /// The parameter.
        path: String,
        /// Its dimension.
        dim: usize,
        /// Its size.
        size: usize,
        /// Key of the number of units.
        key: String,
        /// Number of units.
        units: usize,
    },
    /// A vocabulary so small that a rank would hold none of it.
    #[error(
        "the vocabulary of `{path}` has {size} rows, too few to give each of {degree} ranks at least one"
    )]
    EmptyShard {
        /// The parameter.
        path: String,
        /// Its size.
        size: usize,
        /// Number of ranks.
        degree: usize,
    },
    /// Layouts of two layers that follow each other and differ.
    #[error("`{from}` gives `{gives}` but `{to}`, which follows it, takes `{takes}`")]
    LayoutsDoNotMeet {
        /// The earlier layer.
        from: String,
        /// What it gives.
        gives: Placement,
        /// The later layer.
        to: String,
        /// What it takes.
        takes: Placement,
    },
    /// A layer without a style where the sequence is split.
    #[error(
        "layer `{path}` has weights but no style, while the plan splits the sequence: it would miss the gradients of the other ranks' tokens"
    )]
    Uncovered {
        /// The layer.
        path: String,
    },
    /// A dropout without a style where the sequence is split.
    #[error(
        "dropout `{path}` has no style, while the plan splits the sequence: every rank would draw the masks of the first tokens"
    )]
    OtherMasks {
        /// The layer.
        path: String,
    },
    /// A sequence that does not split evenly.
    #[error(
        "`sequence_length` is {length} but must be a multiple of the tensor-parallel degree {degree} for sequence parallelism"
    )]
    SequenceLength {
        /// Tokens per sequence.
        length: usize,
        /// Number of ranks.
        degree: usize,
    },
    /// A layer that already has a style.
    #[error("layer `{path}` already has a style; a model is parallelized once")]
    Twice {
        /// The layer.
        path: String,
    },
    /// A parameter of another scope.
    #[error(transparent)]
    UnknownParam(#[from] UnknownParam),
}
