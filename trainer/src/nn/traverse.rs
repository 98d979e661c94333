//! Walks over a module's float parameters by path.
//!
//! Values are handed out flat and without autodiff, so that callers need not be generic over the
//! rank of a tensor.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::backend::Erased;

/// What is known of a parameter without making its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterEntry {
    /// Dotted path, for example `layers.3.attention.wq.weight`.
    pub path: String,
    /// Identity, by which a [`Scope`](super::Scope) knows how it is initialized.
    pub id: ParamId,
    /// Shape held by this rank.
    pub shape: Vec<usize>,
    /// Whether it takes gradients.
    pub trainable: bool,
    /// Where its value rests; plain.
    pub device: Device,
}

impl ParameterEntry {
    /// Returns the number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Lists the parameters in module order, making no value.
pub fn parameters<M: Module>(module: &M) -> Vec<ParameterEntry> {
    let mut entries = Vec::new();
    let mut visitor = Visitor { path: Vec::new(), visit: Listing(&mut entries) };
    module.visit(&mut visitor);
    entries
}

/// Calls `f(path, shape, flat value)` for each parameter, making values that do not exist yet.
pub fn for_each_value<M: Module>(module: &M, f: impl FnMut(&str, &[usize], Tensor<1>)) {
    module.visit(&mut Visitor { path: Vec::new(), visit: Values(f) });
}

/// Calls `f(path, flat gradient)` for each parameter that has a gradient, and removes it.
pub fn take_gradients<M: Module>(
    module: &M,
    gradients: &mut Gradients,
    f: impl FnMut(&str, Tensor<1>),
) {
    module.visit(&mut Visitor { path: Vec::new(), visit: TakeGradients { gradients, f } });
}

/// Replaces each value by what `f(path, shape, flat value)` returns. The value is handed over:
/// where nobody else holds its buffer, neither does the module while `f` runs.
///
/// # Errors
///
/// The first error of `f`; the module is lost with it.
pub fn map_values<M: Module, E>(
    module: M,
    f: impl FnMut(&ParameterEntry, Tensor<1>) -> Result<Tensor<1>, E>,
) -> Result<M, E> {
    map_params(module, MapValues(f))
}

/// Gives parameters values without making their initial ones: `f` returns row-major data of the
/// entry's shape, or nothing to leave it as it is.
///
/// # Errors
///
/// The first error of `f`; the module is lost with it.
pub fn assign_values<M: Module, E>(
    module: M,
    f: impl FnMut(&ParameterEntry) -> Result<Option<TensorData>, E>,
) -> Result<M, E> {
    map_params(module, AssignValues(f))
}

/// Replaces each parameter, making no value that the mapper does not ask for.
///
/// # Errors
///
/// The first error of the mapper; the module is lost with it.
pub fn map_params<M: Module, E, F: MapParam<E>>(module: M, map: F) -> Result<M, E> {
    let mut mapper = Mapper { path: Vec::new(), map, error: None };
    let module = module.map(&mut mapper);
    mapper.error.map_or(Ok(module), Err)
}

fn entry<const D: usize>(path: &[String], param: &Param<Tensor<D>>) -> ParameterEntry {
    ParameterEntry {
        path: path.join("."),
        id: param.id,
        shape: param.lazy_shape().to_vec(),
        trainable: takes_gradients(param),
        device: param.lazy_device().inner(),
    }
}

/// Tells whether the parameter takes gradients, making no value: a stand-in without elements is
/// loaded in its place.
pub(super) fn takes_gradients<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    if param.is_initialized() {
        return param.val().is_require_grad();
    }
    let stand_in = Tensor::empty([0; D], &param.lazy_device());
    param.clone().transform_for_load(stand_in, param.id).val().is_require_grad()
}

trait VisitParam {
    fn visit<const D: usize>(&mut self, path: &[String], param: &Param<Tensor<D>>);
}

struct Visitor<V> {
    path: Vec<String>,
    visit: V,
}

impl<V: VisitParam> ModuleVisitor for Visitor<V> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.visit.visit(&self.path, param);
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

struct Listing<'a>(&'a mut Vec<ParameterEntry>);

impl VisitParam for Listing<'_> {
    fn visit<const D: usize>(&mut self, path: &[String], param: &Param<Tensor<D>>) {
        self.0.push(entry(path, param));
    }
}

struct Values<F>(F);

impl<F: FnMut(&str, &[usize], Tensor<1>)> VisitParam for Values<F> {
    fn visit<const D: usize>(&mut self, path: &[String], param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        let shape = value.dims();
        (self.0)(&path.join("."), &shape, flatten(value));
    }
}

struct TakeGradients<'a, F> {
    gradients: &'a mut Gradients,
    f: F,
}

impl<F: FnMut(&str, Tensor<1>)> VisitParam for TakeGradients<'_, F> {
    fn visit<const D: usize>(&mut self, path: &[String], param: &Param<Tensor<D>>) {
        // A parameter without a value took no part in the loss.
        if !param.is_initialized() {
            return;
        }
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            (self.f)(&path.join("."), flatten(gradient));
        }
    }
}

/// Replaces parameters, of any number of dimensions.
pub trait MapParam<E> {
    /// Returns what takes the place of the parameter at a path.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible; the module is lost with it.
    fn map<const D: usize>(
        &mut self,
        path: &[String],
        param: Param<Tensor<D>>,
    ) -> Result<Param<Tensor<D>>, E>;
}

struct Mapper<F, E> {
    path: Vec<String>,
    map: F,
    error: Option<E>,
}

impl<E, F: MapParam<E>> ModuleMapper for Mapper<F, E> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        // The module is discarded after an error, so an empty stand-in will do.
        match self.map.map(&self.path, param) {
            Ok(param) => param,
            Err(error) => {
                self.error = Some(error);
                let device = Device::flex();
                Param::initialized(ParamId::new(), Tensor::empty([0; D], &device))
            }
        }
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

struct MapValues<F>(F);

impl<E, F: FnMut(&ParameterEntry, Tensor<1>) -> Result<Tensor<1>, E>> MapParam<E> for MapValues<F> {
    fn map<const D: usize>(
        &mut self,
        path: &[String],
        param: Param<Tensor<D>>,
    ) -> Result<Param<Tensor<D>>, E> {
        let entry = entry(path, &param);
        let (id, value, mapper) = param.consume();
        let (device, shape) = (value.device(), value.shape());
        let row = Erased::new(value.inner()).viewed(vec![shape.num_elements()]).into_tensor();
        let value = (self.0)(&entry, row)?;
        let value: Tensor<D> = Erased::new(value).viewed(shape.to_vec()).into_tensor();
        let value = if device.is_autodiff() { value.autodiff() } else { value };
        Ok(Param::from_mapped_value(
            id,
            value.set_require_grad(entry.trainable && device.is_autodiff()),
            mapper,
        ))
    }
}

struct AssignValues<F>(F);

impl<E, F: FnMut(&ParameterEntry) -> Result<Option<TensorData>, E>> MapParam<E>
    for AssignValues<F>
{
    fn map<const D: usize>(
        &mut self,
        path: &[String],
        param: Param<Tensor<D>>,
    ) -> Result<Param<Tensor<D>>, E> {
        let entry = entry(path, &param);
        let Some(data) = (self.0)(&entry)? else { return Ok(param) };
        let value = Tensor::from_data(data, &param.lazy_device());
        Ok(param.transform_for_load(value, entry.id))
    }
}

fn flatten<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let len = tensor.shape().num_elements();
    tensor.reshape([len])
}
