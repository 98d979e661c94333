//! The root-mean-square norms on a `CubeCL` device, as steps of the tape.

use burn::tensor::Tensor;

use super::cube;
use crate::backend::Erased;
use crate::kernels::cube::{closed, opened};
use crate::kernels::fused::{JointKernel, Kernel, apply, apply_erased_joint};

/// Normalizes as [`rms_norm`](super::rms_norm) says.
pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let kernel = DeviceRmsNorm { epsilon: epsilon as f32 };
    apply([Erased::new(x), Erased::new(weight)], kernel)
}

/// Adds and normalizes as [`add_rms_norm`](super::add_rms_norm) says.
pub(super) fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    delta: Tensor<D>,
    weight: Tensor<1>,
    epsilon: f64,
) -> [Tensor<D>; 2] {
    let inputs = vec![Erased::new(x), Erased::new(delta), Erased::new(weight)];
    let kernel = DeviceRmsNorm { epsilon: epsilon as f32 };
    let mut outputs = apply_erased_joint(inputs, kernel).into_iter();
    [(); 2].map(|()| outputs.next().expect("the sum and its norm").into_tensor())
}

#[derive(Debug, Clone, Copy)]
struct DeviceRmsNorm {
    epsilon: f32,
}

impl Kernel<2, Erased> for DeviceRmsNorm {
    /// The inverse root mean square of each row.
    type Saved = Erased;

    fn reads(&self, _needs: [bool; 2]) -> [bool; 2] {
        [true; 2]
    }

    fn weights(&self) -> [bool; 2] {
        [false, true]
    }

    fn forward(&self, [x, weight]: [Erased; 2], _needs: [bool; 2]) -> (Erased, Erased) {
        let (y, inverses) = cube::rms_norm(opened(x), opened(weight), self.epsilon);
        (closed(y), closed(inverses))
    }

    fn backward(
        &self,
        inputs: [Option<Erased>; 2],
        inverses: Erased,
        grad: Erased,
        _needs: [bool; 2],
    ) -> [Option<Erased>; 2] {
        let [x, weight] = inputs.map(|input| opened(input.expect("both inputs were kept")));
        let (dx, dweight) =
            cube::backward::rms_norm_backward(x, weight, opened(inverses), opened(grad), None);
        [Some(closed(dx)), Some(closed(dweight))]
    }
}

/// Inputs: two terms and a scale. Outputs: the sum and its norm.
impl JointKernel<Erased> for DeviceRmsNorm {
    /// The sum, and the inverse root mean square of each row.
    type Saved = (Erased, Erased);

    fn reads(&self, needs: &[bool]) -> Vec<bool> {
        (0..needs.len()).map(|i| i == 2).collect()
    }

    fn first_weight(&self) -> usize {
        2
    }

    fn forward(&self, inputs: Vec<Erased>) -> (Vec<Erased>, Self::Saved) {
        let mut inputs = inputs.into_iter().map(opened);
        let mut next = || inputs.next().expect("two terms and a scale");
        let (x, delta, weight) = (next(), next(), next());
        let (sum, y, inverses) = cube::add_rms_norm(x, delta, weight, self.epsilon);
        let sum = closed(sum);
        (vec![sum.clone(), closed(y)], (sum, closed(inverses)))
    }

    fn backward(
        &self,
        mut inputs: Vec<Option<Erased>>,
        (sum, inverses): Self::Saved,
        grads: Vec<Option<Erased>>,
        _needs: &[bool],
    ) -> Vec<Option<Erased>> {
        let weight = inputs[2].take().expect("the weight was kept");
        let mut grads = grads.into_iter();
        let (of_sum, of_norm) = (grads.next().flatten(), grads.next().flatten());
        let Some(of_norm) = of_norm else {
            return vec![of_sum.clone(), of_sum, None];
        };
        let of_sum = of_sum.map(opened);
        let (sum, inverses) = (opened(sum), opened(inverses));
        let (dx, dweight) = cube::backward::rms_norm_backward(
            sum,
            opened(weight),
            inverses,
            opened(of_norm),
            of_sum,
        );
        let dx = closed(dx);
        vec![Some(dx.clone()), Some(dx), Some(closed(dweight))]
    }
}
