//! Which part of each parameter this rank holds, and what that means for gradients, norms and files.

use std::collections::BTreeMap;

use burn::module::Module;

use crate::comm::{CommError, MeshComm, ReduceOp};
use crate::fsdp::axes_to_reduce;
use crate::mesh::{Axis, AxisSet, Neighbors};
use crate::nn::{self, ParamLayout, Scope};

/// A parameter as the whole mesh sees it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) global_shape: Vec<usize>,
    pub(crate) layout: ParamLayout,
}

/// The parameters of a model by path. It is equal on all ranks but for the blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layouts(BTreeMap<String, Held>);

impl Layouts {
    /// Reads the register of the scope under which the model was built; a parameter made elsewhere is
    /// held whole.
    pub(crate) fn of<M: Module>(model: &M, scope: &Scope) -> Self {
        let held = |entry: &nn::ParameterEntry| match scope.spec(entry.id) {
            Some(spec) => Held { global_shape: spec.shape, layout: spec.layout },
            None => {
                Held { global_shape: entry.shape.clone(), layout: ParamLayout::whole(&entry.shape) }
            }
        };
        Self(nn::parameters(model).iter().map(|entry| (entry.path.clone(), held(entry))).collect())
    }

    /// Iterates over all parameters in the order of their paths.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.0.iter().map(|(path, held)| (path.as_str(), held))
    }

    /// Returns a parameter.
    pub(crate) fn get(&self, path: &str) -> &Held {
        self.0.get(path).expect("layouts list every parameter of the model")
    }

    /// Returns the axes over which the gradient of a parameter is still to be summed.
    pub(crate) fn axes_to_reduce(&self, path: &str) -> AxisSet {
        axes_to_reduce(&self.get(path).layout)
    }

    /// Sums squares of local parts to the square of the global norm.
    ///
    /// # Communication
    ///
    /// An all-reduce of one number per distinct set of axes that parameters are split over.
    pub(crate) fn global_square<'a>(
        &self,
        squares: impl Iterator<Item = (&'a str, f64)>,
        comm: &MeshComm,
    ) -> Result<f64, CommError> {
        let mut by_axes: BTreeMap<AxisSet, f64> = BTreeMap::new();
        for (path, square) in squares {
            let layout = &self.get(path).layout;
            let counts = layout.is_first_copy(comm.mesh(), comm.rank());
            *by_axes.entry(layout.sharded_axes()).or_default() += if counts { square } else { 0.0 };
        }
        let mut total = 0.0;
        for (axes, square) in by_axes {
            let mut sum = [square];
            comm.group(axes).all_reduce_scalars(&mut sum, ReduceOp::Sum)?;
            total += sum[0];
        }
        Ok(total)
    }

    /// Returns the neighbors that hold copies of this rank's block of a parameter, whose gradients
    /// are still to be summed.
    pub(crate) fn copies(&self, path: &str) -> Option<Neighbors> {
        self.get(path).layout.copies
    }

    /// Tells whether this rank is the one that writes its block: the first along every axis over
    /// which the parameter is replicated, and of those with copies of the block.
    pub(crate) fn writes(&self, path: &str, comm: &MeshComm) -> bool {
        let layout = &self.get(path).layout;
        let (sharded, coordinate) = (layout.sharded_axes(), comm.coordinate());
        Axis::ALL.into_iter().all(|axis| sharded.contains(axis) || coordinate.get(axis) == 0)
            && layout.is_first_copy(comm.mesh(), comm.rank())
    }
}
