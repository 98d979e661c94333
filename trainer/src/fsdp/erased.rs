//! The float tensors that enter and leave a unit, whatever its module takes and returns.

use burn::tensor::{DType, Tensor};

use crate::comm::Erased;

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
