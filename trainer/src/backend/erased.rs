//! Float tensors without their rank: what travels between ranks, and what a unit passes around.

use std::sync::Arc;

#[cfg(feature = "cube")]
use burn::backend::Cube;
use burn::backend::autodiff::{NodeId, grads};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchDevice, DispatchTensor, DispatchTensorKind, Flex,
    GradientCheckpointingStrategy, TensorMetadata,
};
use burn::tensor::{Bytes, DType, Device, Gradients, Shape, Slice, Tensor, TensorData};
#[cfg(feature = "cube")]
use burn_cubecl::kernel::into_contiguous;

/// A float tensor of any rank. Its methods are those of [`Tensor`] that do not depend on the rank.
#[derive(Debug, Clone)]
pub struct Erased(DispatchTensor);

impl Erased {
    pub(crate) fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }

    /// Gives the tensor back its rank, which must be the one it was made with.
    pub(crate) fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_dispatch(self.0)
    }

    /// Makes a plain tensor of the shape of `data`.
    pub(crate) fn from_data(data: TensorData, device: &Device) -> Self {
        fn of<const D: usize>(data: TensorData, device: &Device) -> Erased {
            let options = (device, data.dtype());
            Erased::new(Tensor::<D>::from_data(data, options))
        }
        match data.shape().num_dims() {
            1 => of::<1>(data, device),
            2 => of::<2>(data, device),
            3 => of::<3>(data, device),
            4 => of::<4>(data, device),
            5 => of::<5>(data, device),
            6 => of::<6>(data, device),
            dims => unreachable!("parameters have one to six dimensions, not {dims}"),
        }
    }

    /// Views the tensor under a rank that it need not have; only methods that do not look at the
    /// rank may follow.
    pub(crate) fn any_rank(&self) -> Tensor<1> {
        Tensor::from_dispatch(self.0.clone())
    }

    pub(crate) fn into_any_rank(self) -> Tensor<1> {
        Tensor::from_dispatch(self.0)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.any_rank().dtype()
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.any_rank().is_tracked()
    }

    pub(crate) fn inner(self) -> Self {
        Self::new(self.into_any_rank().inner())
    }

    /// Returns the checkpointing strategy of the autodiff device it lives on; nothing if it is
    /// plain.
    pub(crate) fn strategy(&self) -> Option<GradientCheckpointingStrategy> {
        self.any_rank().gradient_checkpointing_strategy()
    }

    /// Puts a plain tensor on the autodiff device of a strategy, or leaves it plain.
    pub(crate) fn lift(self, strategy: Option<GradientCheckpointingStrategy>) -> Self {
        match strategy {
            Some(strategy) => Self::new(
                self.into_any_rank().autodiff().with_gradient_checkpointing_strategy(strategy),
            ),
            None => self,
        }
    }

    /// Returns the plain device.
    pub(crate) fn device(&self) -> Device {
        self.any_rank().device().inner()
    }

    /// Takes the gradient of a leaf.
    pub(crate) fn take_gradient(&self, gradients: &mut Gradients) -> Option<Self> {
        self.any_rank().grad_remove(gradients).map(Self::new)
    }

    pub(crate) fn require_grad(self) -> Self {
        Self::new(self.into_any_rank().require_grad())
    }

    pub(crate) fn cast(self, dtype: DType) -> Self {
        if self.dtype() == dtype { self } else { Self::new(self.into_any_rank().cast(dtype)) }
    }

    pub(crate) fn zeros_like(&self) -> Self {
        Self::new(self.any_rank().zeros_like())
    }

    pub(crate) fn add(self, other: Self) -> Self {
        Self::new(self.into_any_rank() + other.into_any_rank())
    }

    pub(crate) fn into_data(self) -> TensorData {
        self.into_any_rank().into_data()
    }

    /// Reads the elements in row-major order, without a copy where they lie so on the host.
    pub(crate) fn read_bytes<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        if let DispatchTensorKind::Flex(BackendTensor::Float(values)) = &self.0.kind
            && values.is_contiguous()
        {
            let size = values.dtype().size();
            let start = values.layout().start_offset() * size;
            return read(&values.bytes()[start..start + values.layout().num_elements() * size]);
        }
        read(self.clone().into_data().as_bytes())
    }

    /// Returns the host buffer that holds the elements, by which its lifetime can be watched;
    /// nothing on other backends.
    pub(crate) fn host_buffer(&self) -> Option<Arc<Bytes>> {
        match &self.0.kind {
            DispatchTensorKind::Flex(BackendTensor::Float(values)) => Some(values.data_arc()),
            _ => None,
        }
    }

    /// Tells whether the elements lie in host memory.
    pub(crate) fn is_host(&self) -> bool {
        is_host(&self.device())
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    pub(crate) fn zeros(shape: Vec<usize>, dtype: DType, device: &Device) -> Self {
        Self(Dispatch::float_zeros(Shape::from(shape), device.as_dispatch(), dtype.into()))
    }

    pub(crate) fn reshape(self, shape: Vec<usize>) -> Self {
        Self(Dispatch::float_reshape(self.0, Shape::from(shape)))
    }

    /// Returns a plain tensor in another shape without moving an element, where they lie in one piece.
    ///
    /// On a fused backend [`Self::reshape`] is queued, and a queue of two runs as a copy; here what is queued for the tensor
    /// runs first.
    pub(crate) fn viewed(self, shape: Vec<usize>) -> Self {
        #[cfg(feature = "cube")]
        if matches!(self.0.kind, DispatchTensorKind::Cube(_)) {
            let tensor = into_contiguous(super::cube::resolve(Cube::down(self)));
            return Cube::up(super::cube::adopt(super::cube::shaped(tensor, shape)));
        }
        self.reshape(shape)
    }

    /// Returns the elements in one row.
    pub(crate) fn flatten(self) -> Self {
        let len = self.shape().iter().product();
        self.reshape(vec![len])
    }

    /// Returns the tensor with its dimensions in another order.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn permute(self, axes: &[usize]) -> Self {
        Self(Dispatch::float_permute(self.0, axes))
    }

    /// Returns `len` places of a dimension from `start` on.
    pub(crate) fn narrow(self, dim: usize, start: usize, len: usize) -> Self {
        let slices = selection(&self.shape(), dim, start, len);
        Self(Dispatch::float_slice(self.0, &slices))
    }

    /// Returns the tensor written over `len` places of a dimension of zeros, of `whole` places.
    pub(crate) fn place(self, dim: usize, start: usize, whole: usize) -> Self {
        let mut shape = self.shape();
        let len = std::mem::replace(&mut shape[dim], whole);
        let slices = selection(&shape, dim, start, len);
        let zeros = Self::zeros(shape, self.dtype(), &self.device());
        Self(Dispatch::float_slice_assign(zeros.0, &slices, self.0))
    }

    /// Concatenates tensors along a dimension.
    pub(crate) fn cat(mut tensors: Vec<Self>, dim: usize) -> Self {
        if tensors.len() == 1 {
            return tensors.remove(0);
        }
        Self(Dispatch::float_cat(tensors.into_iter().map(|tensor| tensor.0).collect(), dim))
    }

    /// Moves a plain tensor to a device.
    pub(crate) fn moved_to(self, device: &Device) -> Self {
        if self.device() == *device {
            return self;
        }
        Self::new(self.into_any_rank().to_device(device))
    }

    /// Returns its node on the tape, if it has one.
    pub(crate) fn node(&self) -> Option<NodeId> {
        let DispatchTensorKind::Autodiff(tensor) = &self.0.kind else { return None };
        match &**tensor {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => Some(tensor.id()),
            #[cfg(feature = "cube")]
            DispatchTensorKind::Cube(BackendTensor::Autodiff(tensor)) => Some(tensor.id()),
            _ => None,
        }
    }

    /// Adds a plain tensor to the gradient of a node during a backward pass.
    pub(crate) fn register(self, node: NodeId, gradients: &mut grads::Gradients) {
        match &self.0.kind {
            #[cfg(feature = "cube")]
            DispatchTensorKind::Cube(_) => gradients.register::<Cube>(node, Cube::down(self)),
            _ => gradients.register::<Flex>(node, Flex::down(self)),
        }
    }

    /// Runs what is queued for the tensor, so that another thread may read it.
    pub(crate) fn settle(self) -> Settled {
        #[cfg(feature = "cube")]
        if matches!(self.0.kind, DispatchTensorKind::Cube(_)) {
            return Settled::Cube(super::cube::settle(Cube::down(self)));
        }
        Settled::Other(self)
    }
}

/// Runs what is queued for the tensor, whose value the caller keeps while it is read.
#[cfg(feature = "cube")]
pub(crate) fn resolve(tensor: Erased) -> Settled {
    if matches!(tensor.0.kind, DispatchTensorKind::Cube(_)) {
        return Settled::Cube(super::cube::resolve(Cube::down(tensor)));
    }
    Settled::Other(tensor)
}

/// Tells whether tensors of a device lie in host memory.
pub(crate) fn is_host(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

fn selection(shape: &[usize], dim: usize, start: usize, len: usize) -> Vec<Slice> {
    let select = |(index, size): (usize, &usize)| {
        if index == dim { (start..start + len).into() } else { (0..*size).into() }
    };
    shape.iter().enumerate().map(select).collect()
}

/// A plain tensor for which nothing is queued any more: it may go to another thread.
#[cfg_attr(
    feature = "cube",
    expect(clippy::large_enum_variant, reason = "it is moved a few times per collective")
)]
#[derive(Debug, Clone)]
pub(crate) enum Settled {
    /// On a device of `CubeCL`, outside its fusion queues.
    #[cfg(feature = "cube")]
    Cube(burn_cubecl::tensor::CubeTensor),
    /// On a backend that queues nothing.
    Other(Erased),
}

impl Settled {
    /// Returns the tensor as one of the calling thread.
    pub(crate) fn adopt(self) -> Erased {
        match self {
            #[cfg(feature = "cube")]
            Self::Cube(tensor) => Cube::up(super::cube::adopt(tensor)),
            Self::Other(tensor) => tensor,
        }
    }
}

/// Moves between a backend's primitive and [`Erased`].
pub(crate) trait Bridge: Backend {
    fn up(primitive: FloatTensor<Self>) -> Erased;
    fn down(tensor: Erased) -> FloatTensor<Self>;
}

macro_rules! bridge {
    ($backend:ty) => {
        impl Bridge for $backend {
            fn up(primitive: FloatTensor<Self>) -> Erased {
                Erased::new(Tensor::<1>::from_primitive::<Self>(primitive))
            }

            fn down(tensor: Erased) -> FloatTensor<Self> {
                tensor
                    .into_tensor::<1>()
                    .try_into_primitive::<Self>()
                    .expect("the tensors of an operation live on one backend")
            }
        }
    };
}

bridge!(Flex);
#[cfg(feature = "cube")]
bridge!(Cube);
