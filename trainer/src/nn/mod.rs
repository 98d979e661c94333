//! Layers whose parameters know their path, and initialization that does not depend on the mesh.
//!
//! A layer is built from a [`Scope`], which carries the device, the seed and the dotted path. Its
//! parameters stay empty until they are used, and element `i` of parameter `path` is a pure
//! function of `(seed, path, i)`: any rank can make any slice of any parameter, and every mesh
//! starts from bit-identical global weights.
//!
//! Parallelisms reach into a model through its scope: a parameter's [`ParamLayout`] says which
//! block of it this rank holds, and a layer's [`StyleSlot`] what it does with a part of its weight.
//! Without them a layer is a plain one.

mod boundary;
mod dropout;
mod embedding;
mod initializer;
mod layout;
mod linear;
mod norm;
mod scope;
mod style;
mod traverse;

pub use boundary::Boundary;
pub use dropout::{Draw, Dropout};
pub use embedding::{Embedding, EmbeddingConfig};
pub use initializer::Initializer;
pub use layout::ParamLayout;
pub use linear::{Linear, LinearConfig};
pub use norm::{LayerNorm, LayerNormConfig, RmsNorm, RmsNormConfig};
pub use scope::{ParamSpec, Scope, UnknownParam};
pub use style::{HeadTable, LayerEntry, LayerKind, LayerStyle, StyleSlot};
pub use traverse::{
    MapParam, ParameterEntry, assign_values, for_each_value, map_params, map_values, parameters,
    take_gradients,
};
