//! The token embedding on a `CubeCL` device, as a step of the tape.

use burn::tensor::{DType, Int, Tensor};

use super::cube::embedding_backward;
use crate::backend::Erased;
use crate::kernels::cube::{closed, opened, opened_integers};
use crate::kernels::fused::{Kernel, apply};

/// Looks up as [`embedding`](super::embedding) says.
pub(super) fn embedding(weight: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let kernel = DeviceEmbedding { ids, vocabulary: weight.dims()[0], dtype: weight.dtype() };
    apply([Erased::new(weight)], kernel)
}

#[derive(Debug, Clone)]
struct DeviceEmbedding {
    ids: Tensor<2, Int>,
    vocabulary: usize,
    dtype: DType,
}

impl Kernel<1, Erased> for DeviceEmbedding {
    type Saved = ();

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [false]
    }

    fn weights(&self) -> [bool; 1] {
        [true]
    }

    fn forward(&self, [weight]: [Erased; 1], _needs: [bool; 1]) -> (Erased, ()) {
        let [batch, sequence] = self.ids.dims();
        let hidden = weight.shape()[1];
        let ids = self.ids.clone().reshape([batch * sequence]);
        let rows = Erased::new(weight.into_tensor::<2>().select(0, ids));
        (rows.reshape(vec![batch, sequence, hidden]), ())
    }

    fn backward(
        &self,
        _inputs: [Option<Erased>; 1],
        (): (),
        grad: Erased,
        _needs: [bool; 1],
    ) -> [Option<Erased>; 1] {
        let ids = opened_integers(self.ids.clone());
        let table = embedding_backward(ids, opened(grad), self.vocabulary, self.dtype);
        [Some(closed(table))]
    }
}
