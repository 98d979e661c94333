//! Several linear layers of one input, as one operation.
//!
//! The threads split the rows of the input, and each multiplies its rows by every weight while it has them at hand. Backward
//! sums the layers' contributions to the input's gradient in one buffer. The weights stay parameters of their own.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use faer::{Accum, MatMut, MatRef};

use super::fused::{JointKernel, MOST_INPUTS, apply_joint};
use super::linear::{self, linear};
use super::{dispatch, flex, matmul};

/// Applies several linear layers, each a weight and perhaps a bias, to one input.
///
/// # Shapes
///
/// `x` is `[.., in]`, each weight is `[in, out_i]` and its bias `[out_i]`; the results are `[.., out_i]`.
///
/// # Panics
///
/// When the dimensions do not agree.
pub fn project<const D: usize>(
    x: Tensor<D>,
    layers: Vec<(Tensor<2>, Option<Tensor<1>>)>,
) -> Vec<Tensor<D>> {
    let count = 1 + layers.len() + layers.iter().filter(|layer| layer.1.is_some()).count();
    let dtypes: Vec<_> =
        std::iter::once(x.dtype()).chain(layers.iter().map(|layer| layer.0.dtype())).collect();
    if layers.len() < 2 || count > MOST_INPUTS || !dispatch::has_fused_kernel(&x.device(), &dtypes)
    {
        let apply = |(weight, bias)| linear(x.clone(), weight, bias);
        return layers.into_iter().map(apply).collect();
    }
    let inputs = x.dims()[D - 1];
    let agree = layers.iter().all(|layer| layer.0.dims()[0] == inputs);
    assert!(agree, "the input's last dimension must be the first of every weight");
    let (mut weights, mut biases, mut biased) = (Vec::new(), Vec::new(), Vec::new());
    for (weight, bias) in layers {
        weights.push(weight.into_dispatch());
        biased.push(bias.is_some());
        biases.extend(bias.map(Tensor::into_dispatch));
    }
    let inputs = std::iter::once(x.into_dispatch()).chain(weights).chain(biases).collect();
    apply_joint(inputs, ProjectKernel { biased })
}

/// The input, then the weights, then the biases of those layers that have one.
#[derive(Debug, Clone)]
struct ProjectKernel {
    biased: Vec<bool>,
}

impl ProjectKernel {
    fn weights(&self) -> std::ops::Range<usize> {
        1..1 + self.biased.len()
    }

    /// Returns the index of each layer's bias among the inputs.
    fn biases(&self) -> impl Iterator<Item = Option<usize>> {
        let mut next = self.weights().end;
        self.biased.iter().map(move |&biased| {
            let own = next;
            next += usize::from(biased);
            biased.then_some(own)
        })
    }
}

impl JointKernel for ProjectKernel {
    type Saved = ();

    fn reads(&self, needs: &[bool]) -> Vec<bool> {
        let weights = self.weights();
        let input = needs[weights.clone()].contains(&true);
        (0..needs.len()).map(|i| if i == 0 { input } else { needs[0] && i < weights.end }).collect()
    }

    fn first_weight(&self) -> usize {
        1
    }

    fn forward(&self, inputs: Vec<FlexTensor>) -> (Vec<FlexTensor>, ()) {
        let mut inputs: Vec<_> = inputs.into_iter().map(Some).collect();
        let mut take = |i: usize| inputs[i].take().expect("each input is used once");
        let x = flex::contiguous(take(0));
        let weights: Vec<_> = self.weights().map(|i| matmul::viewable(take(i))).collect();
        let biases: Vec<_> = self.biases().map(|i| Some(flex::contiguous(take(i?)))).collect();
        let (rows, width) = flex::matrix_dims(&x);
        let views: Vec<_> = weights.iter().map(view).collect();
        let mut outputs: Vec<_> = views
            .iter()
            .zip(&biases)
            .map(|(weight, bias)| linear::output(rows, weight.ncols(), bias.as_ref()))
            .collect();
        let products = outputs.iter_mut().zip(&views).zip(&self.biased);
        let products = products.map(|((y, &weight), &biased)| {
            let accumulate = if biased { Accum::Add } else { Accum::Replace };
            (matmul::rows_mut(y, rows, weight.ncols()), accumulate, weight)
        });
        matmul::products_of_shared(matmul::rows(x.storage(), rows, width), products.collect());
        let mut shape = flex::dims(&x);
        let wrap = |(y, weight): (Vec<f32>, &MatRef<'_, f32>)| {
            *shape.last_mut().expect("an input has a last dimension") = weight.ncols();
            flex::tensor(y, shape.clone())
        };
        (outputs.into_iter().zip(&views).map(wrap).collect(), ())
    }

    fn backward(
        &self,
        inputs: Vec<Option<FlexTensor>>,
        (): (),
        grads: Vec<Option<FlexTensor>>,
        needs: &[bool],
    ) -> Vec<Option<FlexTensor>> {
        let grads: Vec<_> = grads.into_iter().map(|grad| grad.map(flex::contiguous)).collect();
        let mut inputs = inputs.into_iter();
        let x = inputs.next().flatten().map(flex::contiguous);
        let mut gradients: Vec<Option<FlexTensor>> = vec![None; needs.len()];
        if needs[0] {
            let weights = inputs.take(self.biased.len());
            let terms = grads.iter().zip(weights).filter_map(|(grad, weight)| {
                Some((grad.as_ref()?, matmul::viewable(weight.expect("the weights were kept"))))
            });
            gradients[0] = Some(input_gradient(&terms.collect::<Vec<_>>()));
        }
        for ((grad, weight), bias) in grads.iter().zip(self.weights()).zip(self.biases()) {
            let Some(grad) = grad else { continue };
            if let Some(x) = x.as_ref().filter(|_| needs[weight]) {
                gradients[weight] = Some(linear::weight_gradient(grad, x));
            }
            if let Some(bias) = bias.filter(|&bias| needs[bias]) {
                gradients[bias] = Some(linear::column_sums(grad));
            }
        }
        gradients
    }
}

fn view(weight: &FlexTensor) -> MatRef<'_, f32> {
    matmul::view(weight).expect("the weight was made viewable")
}

/// Sums the products of gradients and transposed weights in one buffer.
fn input_gradient(terms: &[(&FlexTensor, FlexTensor)]) -> FlexTensor {
    let (first, weight) = terms.first().expect("one output at least has a gradient");
    let (rows, _) = flex::matrix_dims(first);
    let inputs = view(weight).nrows();
    let mut shape = flex::dims(first);
    *shape.last_mut().expect("an output has a last dimension") = inputs;
    let mut dx = flex::scratch(rows * inputs);
    let factors = terms.iter().map(|(grad, weight)| {
        let (_, outputs) = flex::matrix_dims(grad);
        (matmul::rows(grad.storage(), rows, outputs), view(weight).transpose())
    });
    let out: MatMut<'_, f32> = matmul::rows_mut(&mut dx, rows, inputs);
    matmul::sum_of_products(out, &factors.collect::<Vec<_>>());
    flex::tensor(dx, shape)
}
