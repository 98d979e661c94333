//! The activations on a `CubeCL` device, as steps of the tape.

use burn::tensor::Tensor;

use super::cube;
use crate::backend::Erased;
use crate::kernels::cube::{closed, opened};
use crate::kernels::fused::{Kernel, apply};

/// Computes as [`swiglu`](super::swiglu) says.
pub(super) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    apply([Erased::new(gate), Erased::new(up)], DeviceSwiglu)
}

/// Computes as [`gelu`](super::gelu) says.
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply([Erased::new(x)], DeviceGelu)
}

#[derive(Debug, Clone, Copy)]
struct DeviceSwiglu;

impl Kernel<2, Erased> for DeviceSwiglu {
    type Saved = ();

    fn reads(&self, _needs: [bool; 2]) -> [bool; 2] {
        [true; 2]
    }

    fn forward(&self, [gate, up]: [Erased; 2], _needs: [bool; 2]) -> (Erased, ()) {
        (closed(cube::swiglu(opened(gate), opened(up))), ())
    }

    fn backward(
        &self,
        inputs: [Option<Erased>; 2],
        (): (),
        grad: Erased,
        _needs: [bool; 2],
    ) -> [Option<Erased>; 2] {
        let [gate, up] = inputs.map(|input| opened(input.expect("both inputs were kept")));
        let (dgate, dup) = cube::swiglu_backward(gate, up, opened(grad));
        [Some(closed(dgate)), Some(closed(dup))]
    }
}

#[derive(Debug, Clone, Copy)]
struct DeviceGelu;

impl Kernel<1, Erased> for DeviceGelu {
    type Saved = ();

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [true]
    }

    fn forward(&self, [x]: [Erased; 1], _needs: [bool; 1]) -> (Erased, ()) {
        (closed(cube::gelu(opened(x))), ())
    }

    fn backward(
        &self,
        [x]: [Option<Erased>; 1],
        (): (),
        grad: Erased,
        _needs: [bool; 1],
    ) -> [Option<Erased>; 1] {
        let x = opened(x.expect("the input was kept"));
        [Some(closed(cube::gelu_backward(x, opened(grad))))]
    }
}
