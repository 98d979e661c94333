//! The place in a model where a layer is built.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Shape, Tensor, TensorData};

use super::style::{LayerEntry, LayerKind, StyleSlot};
use super::traverse::takes_gradients;
use super::{Initializer, ParamLayout};
use crate::mesh::{AxisSet, Neighbors};

/// How a parameter gets its first value.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// Dotted path, for example `layers.3.attention.wq.weight`.
    pub path: String,
    /// Global shape.
    pub shape: Vec<usize>,
    /// Distribution of the elements.
    pub initializer: Initializer,
    /// Seed of the run.
    pub seed: u64,
    /// Which part of it this rank holds.
    pub layout: ParamLayout,
}

impl ParamSpec {
    /// Makes the block of this rank in row-major order, and nothing else of the parameter.
    pub fn materialize(&self) -> TensorData {
        let block = &self.layout.block;
        let ranges: Vec<_> = (0..block.shape.len()).map(|dim| block.range(dim)).collect();
        let values = self.initializer.block(self.seed, &self.path, &self.shape, &ranges);
        TensorData::new(values, block.shape.clone())
    }
}

/// Says that a parameter was not made under the scope that is asked about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "parameter {id} was not made under this scope, so its first values cannot be made in parts"
)]
pub struct UnknownParam {
    /// Its identity.
    pub id: ParamId,
}

/// Device, seed and dotted path under which a layer makes its parameters.
///
/// Scopes share one register of every parameter made under them, by which sharded setups make
/// slices without ever holding the whole.
#[derive(Debug, Clone)]
pub struct Scope {
    device: Device,
    seed: u64,
    path: String,
    register: Arc<Mutex<Register>>,
}

/// What was built under one root.
#[derive(Debug, Default)]
struct Register {
    specs: BTreeMap<u64, ParamSpec>,
    layers: BTreeMap<String, LayerEntry>,
}

impl Scope {
    /// Creates the root of a model. Parameters are made on `device`.
    pub fn root(device: Device, seed: u64) -> Self {
        Self { device, seed, path: String::new(), register: Arc::default() }
    }

    /// Returns the scope of the field `name`.
    #[must_use]
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        let path =
            if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { path, ..self.clone() }
    }

    /// Returns the same place on another device.
    #[must_use]
    pub fn on(&self, device: Device) -> Self {
        Self { device, ..self.clone() }
    }

    /// Returns the device on which parameters are made.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the dotted path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Creates the parameter `name` of this scope. It holds no value until it is used.
    pub fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        initializer: Initializer,
    ) -> Param<Tensor<D>> {
        let id = ParamId::new();
        let layout = ParamLayout::whole(&shape);
        let spec = ParamSpec {
            path: self.child(name).path,
            shape: shape.to_vec(),
            initializer,
            seed: self.seed,
            layout,
        };
        self.register().specs.insert(id.val(), spec.clone());
        lazy(id, spec, &self.device, true)
    }

    /// Registers the layer that is built here and returns the place of its style.
    pub fn layer(&self, kind: LayerKind) -> StyleSlot {
        let style = StyleSlot::default();
        self.register().layers.insert(self.path.clone(), LayerEntry { kind, style: style.clone() });
        style
    }

    /// Returns the layers built under this scope's root, by path.
    pub fn layers(&self) -> BTreeMap<String, LayerEntry> {
        self.register().layers.clone()
    }

    /// Returns how the parameter `id` was specified, if it was made under this scope's root.
    pub fn spec(&self, id: ParamId) -> Option<ParamSpec> {
        self.register().specs.get(&id.val()).cloned()
    }

    /// Returns the parameters made under this scope's root, by path.
    pub fn specs(&self) -> BTreeMap<String, ParamSpec> {
        self.register().specs.values().map(|spec| (spec.path.clone(), spec.clone())).collect()
    }

    /// Splits what this rank holds of a parameter along `dim` over `parts` ranks along `axes`, and
    /// keeps part `index` on the scope's device.
    ///
    /// The parameter keeps its identity. One without a value stays without, and makes only its
    /// block when it is used: no rank ever makes the whole.
    ///
    /// # Errors
    ///
    /// The parameter was made elsewhere.
    ///
    /// # Panics
    ///
    /// If there is no such dimension or part.
    pub fn shard_param<const D: usize>(
        &self,
        param: Param<Tensor<D>>,
        axes: impl Into<AxisSet>,
        dim: usize,
        parts: usize,
        index: usize,
    ) -> Result<Param<Tensor<D>>, UnknownParam> {
        let id = param.id;
        let mut spec = self.spec(id).ok_or(UnknownParam { id })?;
        let before = spec.layout.block.offset[dim];
        spec.layout = spec.layout.shard(axes, dim, parts, index);
        self.register().specs.insert(id.val(), spec.clone());
        let requires_grad = takes_gradients(&param);
        if !param.is_initialized() {
            return Ok(lazy(id, spec, &self.device, requires_grad));
        }
        let range = spec.layout.block.range(dim);
        let (_, value, mapper) = param.consume();
        let plain = self.device.clone().inner();
        let value = value.inner().narrow(dim, range.start - before, range.len());
        let value = if value.device() == plain { value } else { value.to_device(&plain) };
        let value = if self.device.is_autodiff() {
            value.autodiff().set_require_grad(requires_grad)
        } else {
            value
        };
        Ok(Param::from_mapped_value(id, value, mapper))
    }

    /// Marks the gradient of the parameter `id` as one term of a sum over `axes`.
    ///
    /// # Errors
    ///
    /// The parameter was made elsewhere.
    pub fn mark_partial_gradient(
        &self,
        id: ParamId,
        axes: impl Into<AxisSet>,
    ) -> Result<(), UnknownParam> {
        let mut register = self.register();
        let spec = register.specs.get_mut(&id.val()).ok_or(UnknownParam { id })?;
        spec.layout = spec.layout.clone().with_partial_gradient(axes);
        Ok(())
    }

    /// Marks the block of the parameter `id` as one of which these neighbors hold copies.
    ///
    /// # Errors
    ///
    /// The parameter was made elsewhere.
    pub fn mark_copies(&self, id: ParamId, copies: Neighbors) -> Result<(), UnknownParam> {
        let mut register = self.register();
        let spec = register.specs.get_mut(&id.val()).ok_or(UnknownParam { id })?;
        spec.layout = spec.layout.clone().with_copies(copies);
        Ok(())
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a parameter that holds no value until it is used.
fn lazy<const D: usize>(
    id: ParamId,
    spec: ParamSpec,
    device: &Device,
    require_grad: bool,
) -> Param<Tensor<D>> {
    let shape = Shape::from(spec.layout.block.shape.clone());
    let fill = move |device: &Device, require_grad: bool| {
        Tensor::from_data(spec.materialize(), device).set_require_grad(require_grad)
    };
    Param::uninitialized(id, fill, device.clone(), require_grad, shape)
}
