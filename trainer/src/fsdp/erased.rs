//! Float tensors without their rank: what a unit passes around, whatever its module takes and
//! returns.

use std::sync::Arc;

use burn::backend::{
    BackendTensor, DispatchTensor, DispatchTensorKind, GradientCheckpointingStrategy,
};
use burn::tensor::{Bytes, DType, Device, Gradients, Tensor, TensorData};

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
    fn any_rank(&self) -> Tensor<1> {
        Tensor::from_dispatch(self.0.clone())
    }

    fn into_any_rank(self) -> Tensor<1> {
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
}

/// Float tensors that enter or leave a unit: a tensor, nothing, an array or a tuple of them.
pub trait FloatTensors: Sized {
    /// Appends the tensors, in order.
    fn erase(self, to: &mut Vec<Erased>);

    /// Takes as many tensors as [`FloatTensors::erase`] appended, in the same order.
    ///
    /// # Panics
    ///
    /// If there are too few.
    fn restore(from: &mut impl Iterator<Item = Erased>) -> Self;
}

pub(crate) fn erase(tensors: impl FloatTensors) -> Vec<Erased> {
    let mut erased = Vec::new();
    tensors.erase(&mut erased);
    erased
}

pub(crate) fn restore<T: FloatTensors>(erased: Vec<Erased>) -> T {
    T::restore(&mut erased.into_iter())
}

/// Changes the element type of tensors, or leaves them as they are.
pub(crate) fn cast<T: FloatTensors>(tensors: T, dtype: Option<DType>) -> T {
    match dtype {
        Some(dtype) => {
            restore(erase(tensors).into_iter().map(|tensor| tensor.cast(dtype)).collect())
        }
        None => tensors,
    }
}

impl<const D: usize> FloatTensors for Tensor<D> {
    fn erase(self, to: &mut Vec<Erased>) {
        to.push(Erased::new(self));
    }

    fn restore(from: &mut impl Iterator<Item = Erased>) -> Self {
        from.next().expect("as many tensors come back as were erased").into_tensor()
    }
}

impl<T: FloatTensors, const N: usize> FloatTensors for [T; N] {
    fn erase(self, to: &mut Vec<Erased>) {
        for tensors in self {
            tensors.erase(to);
        }
    }

    fn restore(from: &mut impl Iterator<Item = Erased>) -> Self {
        std::array::from_fn(|_| T::restore(from))
    }
}

macro_rules! tuple {
    ($($name:ident)*) => {
        impl<$($name: FloatTensors),*> FloatTensors for ($($name,)*) {
            #[expect(non_snake_case, reason = "a tuple's types name its parts")]
            fn erase(self, to: &mut Vec<Erased>) {
                let ($($name,)*) = self;
                $($name.erase(to);)*
            }

            fn restore(from: &mut impl Iterator<Item = Erased>) -> Self {
                ($($name::restore(from),)*)
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);

impl FloatTensors for () {
    fn erase(self, _: &mut Vec<Erased>) {}

    fn restore(_: &mut impl Iterator<Item = Erased>) -> Self {}
}
