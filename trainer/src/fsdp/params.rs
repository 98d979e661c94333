//! The float parameters of a module as a list.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::Erased;

/// Returns the values of a module's parameters in module order, making those that do not exist yet.
pub(crate) fn values<M: Module>(module: &M) -> Vec<Erased> {
    struct Values(Vec<Erased>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(Erased::new(param.val()));
        }
    }
    let mut values = Values(Vec::new());
    module.visit(&mut values);
    values.0
}

/// Returns the values without their place on a tape.
pub(crate) fn plain<M: Module>(module: &M) -> Vec<Erased> {
    values(module).into_iter().map(Erased::inner).collect()
}

/// Returns the module with other values, in module order.
pub(crate) fn with_values<M: Module>(module: M, values: Vec<Erased>) -> M {
    struct Replace(std::vec::IntoIter<Erased>);
    impl ModuleMapper for Replace {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let value =
                self.0.next().expect("a module has as many parameters as it listed").into_tensor();
            let (id, _, mapper) = param.consume();
            Param::from_mapped_value(id, value, mapper)
        }
    }
    module.map(&mut Replace(values.into_iter()))
}
