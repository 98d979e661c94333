//! Styled layers against plain ones: outputs, gradients of inputs and of weights.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use dream_trainer::comm::ProcessGroup;
use dream_trainer::kernels;
use dream_trainer::mesh::Placement;
use dream_trainer::nn::{Boundary, LayerNorm, LayerNormConfig, Linear, LinearConfig, Scope};
use dream_trainer::tensor_parallel::{
    ColwiseParallel, Plan, PrepareModuleInput, PrepareModuleOutput, RowwiseParallel, SEQUENCE,
    SequenceParallel, TensorParallel, TensorParallelOptions,
};

use crate::harness::{
    Piece, assemble, assert_close, assert_gradients, device, pieces, ranks, read, tensor,
};
use crate::tolerance::PAIR;

const SHAPE: [usize; 3] = [2, 16, 16];

/// A residual feed-forward block with everything a style may act on.
#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    #[module(skip)]
    edge: Boundary,
    #[module(skip)]
    end: Boundary,
}

impl Block {
    fn new(scope: &Scope, bias: bool) -> Self {
        let linear = |inputs, outputs, name| {
            LinearConfig::new(inputs, outputs).with_bias(bias).init(&scope.child("mlp").child(name))
        };
        Self {
            norm: LayerNormConfig::new(16).init(&scope.child("norm")),
            gate: linear(16, 32, "gate"),
            up: linear(16, 32, "up"),
            down: linear(32, 16, "down"),
            edge: Boundary::new(&scope.child("mlp")),
            end: Boundary::new(&scope.child("end")),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [gate, up] = self.edge.project(self.norm.forward(x.clone()), [&self.gate, &self.up]);
        self.end.output(x + self.down.forward(kernels::swiglu(gate, up)))
    }
}

/// Which way the block is laid out.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Plain,
    /// Without a boundary that sums the gradients of both projections.
    PlainUnprepared,
    Sequence,
    /// The layers themselves gather and scatter.
    SequenceUnprepared,
    Overlapped,
    /// Gathered again behind the block.
    SequenceGathered,
}

impl Way {
    fn splits_sequence(self) -> bool {
        !matches!(self, Self::Plain | Self::PlainUnprepared)
    }

    fn plan(self) -> Plan {
        let between = if self.splits_sequence() { SEQUENCE } else { Placement::Replicate };
        let prepared = !matches!(self, Self::PlainUnprepared | Self::SequenceUnprepared);
        let colwise = ColwiseParallel::default();
        let colwise = if prepared { colwise } else { colwise.with_input(between) };
        let mut plan = Plan::new()
            .style("mlp.gate", colwise)
            .style("mlp.up", colwise)
            .style("mlp.down", RowwiseParallel::default().with_output(between))
            .flow(["norm", "mlp", "mlp.gate", "mlp.down"]);
        if prepared {
            plan = plan
                .style("mlp", PrepareModuleInput { input: between, desired: Placement::Replicate });
        }
        if self.splits_sequence() {
            plan = plan.style("norm", SequenceParallel::default());
        }
        if self == Self::SequenceGathered {
            plan = plan.style(
                "end",
                PrepareModuleOutput { output: SEQUENCE, desired: Placement::Replicate },
            );
        }
        plan
    }
}

struct Outcome {
    output: Vec<f64>,
    input: Vec<f64>,
    gradients: Vec<Piece>,
}

/// Parameters that start at zero or one would hide a bias that is added as often as there are
/// ranks.
fn spread_out(model: Block, scope: &Scope) -> Block {
    dream_trainer::nn::assign_values(model, |entry| {
        let spec = scope.spec(entry.id).expect("made under the scope");
        let block = &spec.layout.block;
        if block.shape.len() > 1 {
            return Ok::<_, std::convert::Infallible>(None);
        }
        let whole = crate::harness::numbers(entry.path.len() as u64, spec.shape[0]);
        Ok(Some(TensorData::new(whole[block.range(0)].to_vec(), [block.shape[0]])))
    })
    .expect("it cannot fail")
}

fn run(way: Option<Way>, bias: bool, group: &ProcessGroup) -> Outcome {
    let scope = Scope::root(device(), 3);
    let mut model = Block::new(&scope, bias);
    let options = TensorParallelOptions {
        overlap: way == Some(Way::Overlapped),
        ..TensorParallelOptions::default()
    };
    if let Some(way) = way {
        let tp = TensorParallel::new(scope.clone(), group.clone(), options);
        model = tp.parallelize(model, &way.plan()).expect("the plan fits");
    }
    let model = spread_out(model, &scope);
    let splits = way.is_some_and(Way::splits_sequence);
    let part = |x: Tensor<3>| {
        let len = SHAPE[1] / group.size();
        if splits { x.narrow(1, group.rank() * len, len) } else { x }
    };
    let x = part(tensor(1, SHAPE)).detach().require_grad();
    let y = model.forward(x.clone());
    let weight = if y.dims() == SHAPE { tensor(2, SHAPE) } else { part(tensor(2, SHAPE)) };
    let mut grads = (y.clone() * weight).sum().backward();
    let input = read(x.grad_remove(&mut grads).expect("x is a leaf"));
    Outcome { output: read(y), input, gradients: pieces(&model, &scope, grads) }
}

/// Puts parts of the sequence side by side, or takes the first of equal copies.
fn join(parts: Vec<Vec<f64>>) -> Vec<f64> {
    let [b, s, h] = SHAPE;
    if parts[0].len() == b * s * h {
        return parts.into_iter().next().expect("a rank");
    }
    let row = s / parts.len() * h;
    (0..b)
        .flat_map(|i| {
            parts
                .iter()
                .flat_map(move |part| part[i * row..(i + 1) * row].to_vec())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn styled_blocks_equal_the_plain_one() {
    for bias in [false, true] {
        let dense = ranks(1, |group| run(None, bias, group)).remove(0);
        let expected = assemble(vec![dense.gradients]);
        for n in [2, 4, 8] {
            use Way::{
                Overlapped, Plain, PlainUnprepared, Sequence, SequenceGathered, SequenceUnprepared,
            };
            for way in
                [Plain, PlainUnprepared, Sequence, SequenceUnprepared, Overlapped, SequenceGathered]
            {
                let what = format!("{way:?}, {n} ranks, bias {bias}");
                let (mut outputs, mut inputs, mut gradients) = (Vec::new(), Vec::new(), Vec::new());
                for outcome in ranks(n, |group| run(Some(way), bias, group)) {
                    outputs.push(outcome.output);
                    inputs.push(outcome.input);
                    gradients.push(outcome.gradients);
                }
                assert_close(&format!("{what}: output"), &join(outputs), &dense.output, PAIR);
                assert_close(
                    &format!("{what}: gradient of the input"),
                    &join(inputs),
                    &dense.input,
                    PAIR,
                );
                assert_gradients(&what, &assemble(gradients), &expected, PAIR);
            }
        }
    }
}

/// Sets the weight of a layer to `[[1, 2, 3, 4], [5, 6, 7, 8]]` and returns output and gradients
/// for the input `[1, 2]` and the sum as loss.
fn mini(plan: &Plan, group: &ProcessGroup) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let scope = Scope::root(device(), 0);
    let layer = LinearConfig::new(2, 4).init(&scope);
    let tp = TensorParallel::new(scope.clone(), group.clone(), TensorParallelOptions::default());
    let layer = tp.parallelize(layer, plan).expect("the plan fits");
    let layer = dream_trainer::nn::assign_values(layer, |entry| {
        let block = scope.spec(entry.id).expect("made under the scope").layout.block;
        let value = |i: usize| {
            let (row, column) =
                (i / block.shape[1] + block.offset[0], i % block.shape[1] + block.offset[1]);
            (row * 4 + column + 1) as f32
        };
        let values: Vec<f32> = (0..block.num_elements()).map(value).collect();
        Ok::<_, std::convert::Infallible>(Some(TensorData::new(values, block.shape)))
    })
    .expect("it cannot fail");
    let x = Tensor::<2>::from_data([[1.0, 2.0]], &device()).require_grad();
    let y = layer.forward(x.clone());
    let mut grads = y.clone().sum().backward();
    let dx = read(x.grad_remove(&mut grads).expect("x is a leaf"));
    (read(y), dx, pieces(&layer, &scope, grads).remove(0).gradient)
}

#[test]
fn column_and_row_split_a_known_product() {
    let column = Plan::new().style("", ColwiseParallel::default());
    let results = ranks(2, |group| mini(&column, group));
    let expected: [([f64; 2], [f64; 2], [f64; 4]); 2] = [
        ([11.0, 14.0], [10.0, 26.0], [1.0, 1.0, 2.0, 2.0]),
        ([17.0, 20.0], [10.0, 26.0], [1.0, 1.0, 2.0, 2.0]),
    ];
    for (actual, expected) in results.iter().zip(&expected) {
        assert_eq!(
            (&actual.0[..], &actual.1[..], &actual.2[..]),
            (&expected.0[..], &expected.1[..], &expected.2[..])
        );
    }
    let gathered =
        Plan::new().style("", ColwiseParallel::default().with_output(Placement::Replicate));
    let row = Plan::new().style("", RowwiseParallel::default().with_input(Placement::Replicate));
    for plan in [gathered, row] {
        for (y, dx, _) in ranks(2, |group| mini(&plan, group)) {
            assert_eq!(y, [11.0, 14.0, 17.0, 20.0]);
            assert_eq!(dx, [10.0, 26.0]);
        }
    }
}

#[test]
fn no_rank_makes_more_than_its_block() {
    let shapes = ranks(4, |group| {
        let scope = Scope::root(device(), 3);
        let tp =
            TensorParallel::new(scope.clone(), group.clone(), TensorParallelOptions::default());
        let model =
            tp.parallelize(Block::new(&scope, true), &Way::Sequence.plan()).expect("the plan fits");
        let mut values = BTreeMap::new();
        dream_trainer::nn::for_each_value(&model, |path, shape, value| {
            values.insert(path.to_owned(), (shape.to_vec(), read(value)));
        });
        values
    });
    let whole = {
        let scope = Scope::root(device(), 3);
        read(Block::new(&scope, true).up.weight.val())
    };
    for (rank, values) in shapes.iter().enumerate() {
        // `#[derive(Module)]` names fields, not scopes.
        let (shape, block) = &values["up.weight"];
        assert_eq!(*shape, [16, 8]);
        let expected: Vec<f64> =
            (0..16).flat_map(|row| whole[row * 32 + rank * 8..][..8].to_vec()).collect();
        assert_eq!(*block, expected, "rank {rank} starts from its slice of the global values");
        assert_eq!(values["down.weight"].0, [8, 16]);
        assert_eq!(values["down.bias"].0, [16]);
    }
}
