//! Products of a sequence that arrives in chunks.
//!
//! An operation of the tape has one output, and several layers share one gather. So there is one
//! operation for the input and one per layer, tied by a token without meaning: the parts of the
//! layers run between the input's forward and its backward, and leave their work in [`Shared`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use faer::MatRef;

use super::chunks::{Chunks, wait};
use crate::comm::{ProcessGroup, Work};
use crate::kernels::fused::{Kernel, apply1, apply2, apply3};
use crate::kernels::{column_sums, flex, matmul};

/// A weight with its bias.
type Affine = (Tensor<2>, Option<Tensor<1>>);

pub(super) fn all_gather_project(
    x: Tensor<3>,
    layers: Vec<Affine>,
    group: &ProcessGroup,
) -> Vec<Tensor<3>> {
    let [batch, part, width] = x.dims();
    let shared = Arc::new(Shared {
        chunks: Chunks::new(batch, part, group),
        group: group.clone(),
        width,
        layers: layers.len(),
        state: Mutex::default(),
    });
    let token: Tensor<1> = apply1(x, InputKernel(Arc::clone(&shared)));
    let part = |(weight, bias): Affine| {
        let kernel = LayerKernel(Arc::clone(&shared));
        match bias {
            Some(bias) => apply3(token.clone(), weight, bias, kernel),
            None => apply2(token.clone(), weight, kernel),
        }
    };
    layers.into_iter().map(part).collect()
}

/// What the operations of one gather share.
#[derive(Debug)]
struct Shared {
    chunks: Chunks,
    group: ProcessGroup,
    /// Features of the input.
    width: usize,
    layers: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The own part of the input.
    own: Option<FlexTensor>,
    /// Chunks of the input under way, and those that are here.
    arriving: VecDeque<Work>,
    gathered: Vec<FlexTensor>,
    /// Layers that are done in this direction.
    done: usize,
    /// Whether a weight needs the input again.
    learns: bool,
    /// Sums of the layers' gradients of the input, by chunk.
    gradient: Vec<Vec<f32>>,
    /// Those sums under way.
    leaving: Vec<Work>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue_gathers(&self, state: &mut State) {
        let own = state.own.as_ref().expect("the input was kept");
        let issue = |chunk| self.chunks.issue_gather(own.storage(), chunk, self.width, &self.group);
        state.arriving = (0..self.chunks.count()).map(issue).collect();
    }

    /// Takes the gradients of the input that are not under way yet, and sends them.
    fn issue_scatters(&self, state: &mut State) {
        for values in std::mem::take(&mut state.gradient) {
            state.leaving.push(self.chunks.issue_scatter(values, self.width, &self.group));
        }
    }
}

impl State {
    /// Returns a chunk of the whole input.
    fn chunk(&mut self, chunk: usize) -> &FlexTensor {
        while self.gathered.len() <= chunk {
            let work = self.arriving.pop_front().expect("all chunks were issued");
            self.gathered.push(wait(work));
        }
        &self.gathered[chunk]
    }

    /// Counts a layer and tells whether it is the last one.
    fn finish(&mut self, layers: usize) -> bool {
        self.done += 1;
        let last = self.done == layers;
        if last {
            self.gathered.clear();
            self.done = 0;
        }
        last
    }
}

/// Issues the gather; backward takes the scattered gradient.
#[derive(Debug, Clone)]
struct InputKernel(Arc<Shared>);

impl Kernel<1> for InputKernel {
    /// The own part of the input.
    type Saved = FlexTensor;

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [false]
    }

    fn forward(&self, [x]: [FlexTensor; 1], _needs: [bool; 1]) -> (FlexTensor, FlexTensor) {
        let x = flex::contiguous(x);
        let mut state = self.0.state();
        state.own = Some(x.clone());
        self.0.issue_gathers(&mut state);
        (flex::tensor(vec![0.0], [1]), x)
    }

    fn backward(
        &self,
        _inputs: [Option<FlexTensor>; 1],
        _own: FlexTensor,
        _token: FlexTensor,
        _needs: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let shared = &self.0;
        let mut state = shared.state();
        // A layer whose output nobody used never was the last one.
        shared.issue_scatters(&mut state);
        let leaving = std::mem::take(&mut state.leaving);
        *state = State::default();
        [Some(shared.chunks.join(leaving, shared.width))]
    }
}

/// Applies one layer.
#[derive(Debug, Clone)]
struct LayerKernel(Arc<Shared>);

impl<const N: usize> Kernel<N> for LayerKernel {
    type Saved = ();

    fn reads(&self, needs: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| i == 1 && needs[0])
    }

    fn weights(&self) -> [bool; N] {
        std::array::from_fn(|i| i > 0)
    }

    fn forward(&self, inputs: [FlexTensor; N], needs: [bool; N]) -> (FlexTensor, ()) {
        let Shared { chunks, width, layers, .. } = &*self.0;
        let mut inputs = inputs.into_iter().skip(1);
        let weight = matmul::viewable(inputs.next().expect("a layer has a weight"));
        let weight = matmul::view(&weight).expect("the weight was made viewable");
        let bias = inputs.next().map(flex::contiguous);
        let outputs = weight.ncols();
        let [rows, ..] = chunks.rows();
        let mut y = match &bias {
            Some(bias) => bias.storage::<f32>().repeat(rows),
            None => flex::scratch(rows * outputs),
        };
        let mut state = self.0.state();
        state.learns |= needs[1];
        for chunk in 0..chunks.count() {
            let x = state.chunk(chunk);
            for (to, from) in chunks.blocks(chunk) {
                let block = chunks.block(x.storage(), from, *width);
                chunks.product((&mut y, to), block, weight, bias.is_some());
            }
        }
        state.finish(*layers);
        (flex::tensor(y, chunks.whole(outputs)), ())
    }

    fn backward(
        &self,
        inputs: [Option<FlexTensor>; N],
        (): (),
        grad: FlexTensor,
        needs: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        let grad = flex::contiguous(grad);
        let mut state = self.0.state();
        if state.done == 0 && state.learns {
            self.0.issue_gathers(&mut state);
        }
        let is_last = state.done + 1 == self.0.layers;
        let mut results = [const { None }; N];
        if let Some(weight) = inputs.into_iter().nth(1).flatten() {
            let weight = matmul::viewable(weight);
            let weight = matmul::view(&weight).expect("the weight was made viewable");
            self.add_input_gradient(&mut state, &grad, weight.transpose(), is_last);
            results[0] = Some(flex::tensor(vec![0.0], [1]));
        }
        if needs[1] {
            results[1] = Some(self.weight_gradient(&mut state, &grad));
        }
        if N > 2 && needs[2] {
            results[2] = Some(column_sums(&grad));
        }
        state.finish(self.0.layers);
        results
    }
}

impl LayerKernel {
    /// Adds this layer's gradient of the input chunk by chunk; the last layer sends each on its way.
    fn add_input_gradient(
        &self,
        state: &mut State,
        grad: &FlexTensor,
        weight: MatRef<'_, f32>,
        is_last: bool,
    ) {
        let Shared { chunks, group, width, .. } = &*self.0;
        let ([.., rows], outputs) = (chunks.rows(), weight.nrows());
        let mut before = std::mem::take(&mut state.gradient).into_iter();
        for chunk in 0..chunks.count() {
            let (mut sum, adds) = match before.next() {
                Some(sum) => (sum, true),
                None => (flex::scratch(rows * width), false),
            };
            for (from, to) in chunks.blocks(chunk) {
                let block = chunks.block(grad.storage(), from, outputs);
                chunks.product((&mut sum, to), block, weight, adds);
            }
            if is_last {
                state.leaving.push(chunks.issue_scatter(sum, *width, group));
            } else {
                state.gradient.push(sum);
            }
        }
    }

    fn weight_gradient(&self, state: &mut State, grad: &FlexTensor) -> FlexTensor {
        let Shared { chunks, width, .. } = &*self.0;
        let (_, outputs) = flex::matrix_dims(grad);
        let mut dw = vec![0.0; width * outputs];
        for chunk in 0..chunks.count() {
            let x = state.chunk(chunk);
            for (at, from) in chunks.blocks(chunk) {
                let x = chunks.block(x.storage(), from, *width).transpose();
                let block = chunks.block(grad.storage(), at, outputs);
                matmul::add_product(matmul::rows_mut(&mut dw, *width, outputs), x, block);
            }
        }
        flex::tensor(dw, [*width, outputs])
    }
}
