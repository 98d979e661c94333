//! Tensor parallelism: the matrices of a model lie in parts on the ranks of a group, and so do the
//! activations between them.
//!
//! A [`Plan`] is data beside a model: it maps layer paths to styles. [`TensorParallel::resolve`]
//! checks the whole plan against the layers a model registered with its scope and says what each
//! rank will hold; [`TensorParallel::parallelize`] then gives the layers their styles and leaves
//! every rank with its block of each parameter. `model.rs` stays as it is.
//!
//! | file | holds |
//! | --- | --- |
//! | `style` | what a layer can do: [`ColwiseParallel`], [`RowwiseParallel`], [`VocabParallel`], [`SequenceParallel`], [`PrepareModuleInput`], [`PrepareModuleOutput`] |
//! | `plan`, `pattern` | paths to styles, and which layers follow each other |
//! | `resolve`, `meet`, `table`, `traffic` | the checks, the table they give, and where it communicates |
//! | `parallelize` | applying it |
//! | `layer` | what a styled layer computes and communicates |
//! | `vocab`, `loss` | lookup and cross-entropy over parts of the vocabulary |
//! | `overlap` | products that run while their inputs or outputs travel |
//!
//! Activations are `[b, s, h]`: [`SEQUENCE`] and [`FEATURES`] name the placements that split their
//! last two dimensions.
//!
//! # References
//!
//! Megatron-LM, arXiv:1909.08053, section 3; Reducing Activation Recomputation in Large Transformer
//! Models, arXiv:2205.05198, section 4.2.2.

mod error;
mod layer;
mod loss;
mod meet;
mod overlap;
mod parallelize;
mod pattern;
mod plan;
mod resolve;
mod style;
mod table;
mod traffic;
mod vocab;

pub use error::TensorParallelError;
pub use loss::vocab_parallel_cross_entropy;
pub use parallelize::{TensorParallel, TensorParallelOptions};
pub use plan::Plan;
pub use resolve::{LayerPlacement, ParamPlacement, ResolvedPlan};
pub use style::{
    ColwiseParallel, FEATURES, PrepareModuleInput, PrepareModuleOutput, RowwiseParallel, SEQUENCE,
    SequenceParallel, Style, VocabParallel,
};
