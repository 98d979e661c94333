//! Output projection and cross-entropy on any backend, a block of tokens at a time, as one step of the tape.
//!
//! As in the kernel of the CPU, forward computes both gradients while a block of logits is at hand, and backward scales
//! them: three products in all, and no logits that outlive their block.

use burn::tensor::{Int, Tensor};

#[cfg(feature = "cube")]
use super::cube::cross_entropy_rows;
use super::rows::IGNORE_INDEX;
use super::shard::{shard_gradients, shard_maxima, shard_sums};
use crate::backend::{Erased, is_host};
#[cfg(feature = "cube")]
use crate::kernels::cube::{closed, opened, opened_integers};
#[cfg(feature = "cube")]
use crate::kernels::dispatch;
use crate::kernels::fused::{Kernel, apply};
use crate::kernels::half_precision::{wide, widened};
use crate::kernels::product::{add_product, product};

/// Logits held at a time in host memory.
const HOST_BLOCK: usize = 4 << 20;

/// Logits held at a time on a device: half a gigabyte in 16 bits. A product over few tokens would read the whole weight
/// for little work.
const DEVICE_BLOCK: usize = 256 << 20;

/// Fewest tokens of a block.
const FEWEST_TOKENS: usize = 256;

/// Projects and sums the losses; see [`linear_cross_entropy`](super::linear_cross_entropy) for the shapes.
pub(super) fn head(
    x: Tensor<2>,
    weight: Tensor<2>,
    labels: Tensor<1, Int>,
    tied: bool,
) -> Tensor<1> {
    apply([Erased::new(x), Erased::new(weight)], ComposedHead { labels, tied })
}

#[derive(Debug, Clone)]
struct ComposedHead {
    labels: Tensor<1, Int>,
    /// Whether the weight is an embedding, `[vocabulary, hidden]`.
    tied: bool,
}

impl Kernel<2, Erased> for ComposedHead {
    const NARROWS: bool = false;

    /// The gradients of a loss gradient of one.
    type Saved = [Option<Erased>; 2];

    fn reads(&self, _needs: [bool; 2]) -> [bool; 2] {
        [false; 2]
    }

    fn forward(&self, [x, weight]: [Erased; 2], needs: [bool; 2]) -> (Erased, Self::Saved) {
        let dtype = x.dtype();
        let (x, weight) = (x.into_tensor(), weight.cast(dtype).into_tensor());
        let (loss, gradients) = self.blocks(&x, &weight, needs);
        (Erased::new(loss), gradients)
    }

    fn backward(
        &self,
        _inputs: [Option<Erased>; 2],
        saved: Self::Saved,
        grad: Erased,
        _needs: [bool; 2],
    ) -> [Option<Erased>; 2] {
        let factor: Tensor<2> = grad.reshape(vec![1, 1]).into_tensor();
        let scaled = |gradient: Erased| gradient.into_tensor::<2>() * factor.clone();
        saved.map(|gradient| gradient.map(|gradient| Erased::new(scaled(gradient))))
    }
}

impl ComposedHead {
    /// Returns the summed loss, and the gradients, that of the weight in its own order; none in 16 bits.
    fn blocks(
        &self,
        x: &Tensor<2>,
        weight: &Tensor<2>,
        needs: [bool; 2],
    ) -> (Tensor<1>, [Option<Erased>; 2]) {
        let [tokens, _] = x.dims();
        let projection = if self.tied { weight.clone().transpose() } else { weight.clone() };
        let vocabulary = projection.dims()[1];
        let held = if is_host(&x.device()) { HOST_BLOCK } else { DEVICE_BLOCK };
        let block = (held / vocabulary.max(1)).max(FEWEST_TOKENS);
        let wide = wide(x.dtype());
        let mut loss = Tensor::<1>::zeros([1], (&x.device(), wide));
        let mut dx = Vec::new();
        let mut dw: Option<Tensor<2>> = None;
        for first in (0..tokens).step_by(block) {
            let count = block.min(tokens - first);
            let x = x.clone().narrow(0, first, count);
            let labels = self.labels.clone().narrow(0, first, count);
            let logits = product(x.clone(), projection.clone(), x.dtype());
            let (value, gradient) = losses(logits, &labels);
            loss = loss + value;
            if needs[0] {
                dx.push(product(gradient.clone(), projection.clone().transpose(), wide));
            }
            if needs[1] {
                let [a, b] =
                    if self.tied { [gradient.transpose(), x] } else { [x.transpose(), gradient] };
                dw = Some(match dw {
                    Some(dw) => add_product(dw, a, b),
                    None => product(a, b, wide),
                });
            }
        }
        let nothing = || Tensor::<2>::zeros(weight.dims(), (&x.device(), wide));
        let dw = needs[1].then(|| dw.unwrap_or_else(nothing));
        let dx = needs[0].then(|| if dx.is_empty() { x.zeros_like() } else { Tensor::cat(dx, 0) });
        (loss, [dx, dw].map(|gradient| gradient.map(Erased::new)))
    }
}

/// Returns the summed loss of a block and the gradient of its logits, in their element type.
fn losses(logits: Tensor<2>, labels: &Tensor<1, Int>) -> (Tensor<1>, Tensor<2>) {
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&logits.device(), &[logits.dtype()]) {
        let (logits, labels) = (opened(Erased::new(logits)), opened_integers(labels.clone()));
        let (losses, gradient) = cross_entropy_rows(logits, labels, IGNORE_INDEX as i32);
        let losses: Tensor<1> = closed(losses).into_tensor();
        return (losses.sum(), closed(gradient).into_tensor());
    }
    let dtype = logits.dtype();
    let logits = widened(logits);
    let maxima = shard_maxima(&logits);
    let (sums, targets) = shard_sums(&logits, labels, &maxima, 0);
    let log_totals = sums.log() + maxima;
    let ignored = labels.clone().equal_elem(IGNORE_INDEX);
    let loss = (log_totals.clone() - targets).mask_fill(ignored, 0.0).sum();
    (loss, shard_gradients(logits, labels, &log_totals, 0, 1.0).cast(dtype))
}
