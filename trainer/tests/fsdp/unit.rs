//! A unit by itself, against plain autodiff: inputs, outputs, frozen and repeated parameters,
//! element types, failures.

use std::collections::BTreeMap;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use dream_trainer::comm::{CommTimeouts, MeshComm, RankContext, RankFault, launch_threads};
use dream_trainer::fsdp::{FsdpError, FullyShard, FullyShardConfig, Reshard, Unit};
use dream_trainer::mesh::{AxisSet, Degree, Degrees, MeshOrder};
use dream_trainer::nn::{self, Linear, LinearConfig, Scope};

use crate::tolerance::PAIR;

#[derive(Module, Debug)]
struct Pair {
    first: Linear,
    second: Linear,
}

impl Pair {
    fn new(scope: &Scope) -> Self {
        let linear = |name| LinearConfig::new(3, 5).with_bias(true).init(&scope.child(name));
        Self { first: linear("first"), second: linear("second") }
    }
}

/// A unit, the rank's tools, and two inputs that are the results of earlier operations.
struct Rank {
    unit: Unit<Pair>,
    scope: Scope,
    group: dream_trainer::comm::ProcessGroup,
    inputs: [Tensor<2>; 2],
    leaves: [Tensor<2>; 2],
}

fn rank(
    context: &RankContext,
    config: &FullyShardConfig,
    recompute: bool,
    freeze: bool,
) -> Result<Rank, FsdpError> {
    let world = context.world.world_size;
    let degrees = Degrees { dp_shard: Degree::Fixed(world), ..Degrees::default() };
    let mesh = degrees.resolve(world, MeshOrder::default()).expect("a mesh of one axis");
    let comm = MeshComm::new(context.fabric.clone(), mesh, context.rank())
        .expect("the fabric fits the mesh");
    let device = crate::place::device().autodiff();
    let scope = Scope::root(device.clone(), 3);
    let mut pair = Pair::new(&scope);
    if freeze {
        pair.first = pair.first.no_grad();
    }
    let fsdp = FullyShard::new(config, &comm, &scope)?;
    let unit = fsdp.shard(Unit::new(pair).with_recompute(recompute))?;
    let leaf = |offset: f32| {
        let values: Vec<f32> = (0..6).map(|i| (i as f32).mul_add(0.3, offset).sin()).collect();
        Tensor::<1>::from_floats(values.as_slice(), &device).reshape([2, 3]).require_grad()
    };
    let leaves = [leaf(0.1), leaf(0.7)];
    let inputs = leaves.clone().map(|leaf| leaf * 2.0);
    Ok(Rank { unit, scope, group: comm.group(AxisSet::FSDP), inputs, leaves })
}

/// What `compute` makes of a unit; the shape of its body is what each test is about.
type Compute = fn(&Unit<Pair>, [Tensor<2>; 2]) -> Tensor<1>;

/// Gradients by name, whole, as one rank alone would have them.
type Gradients = BTreeMap<String, Vec<f32>>;

fn gradients(
    world: usize,
    config: &FullyShardConfig,
    recompute: bool,
    freeze: bool,
    compute: Compute,
) -> Gradients {
    let run = |context: RankContext| {
        let rank = rank(&context, config, recompute, freeze)?;
        let mut tape = compute(&rank.unit, rank.inputs).backward();
        let mut found = Gradients::new();
        for (name, leaf) in ["x", "y"].iter().zip(&rank.leaves) {
            if let Some(gradient) = leaf.grad_remove(&mut tape) {
                found.insert((*name).to_owned(), gradient.into_data().try_into_vec().expect("f32"));
            }
        }
        let mut shards = BTreeMap::new();
        nn::take_gradients(&rank.unit, &mut tape, |path, gradient| {
            assert_eq!(gradient.dtype(), DType::F32, "the gradient of `{path}`");
            shards.insert(path.to_owned(), gradient);
        });
        let specs = rank.scope.specs();
        for (path, gradient) in shards {
            // Every rank computes the same, so the sum is as many times one.
            let spec = &specs[&path];
            let row: usize = spec.shape[1..].iter().product();
            let mut whole = vec![0.0; spec.shape.iter().product()];
            let start = spec.layout.block.offset[0] * row;
            let values: Vec<f32> =
                (gradient / world as f64).into_data().try_into_vec().expect("f32");
            whole[start..start + values.len()].copy_from_slice(&values);
            let data = burn::tensor::TensorData::new(whole, [spec.shape.iter().product::<usize>()]);
            let sum = rank
                .group
                .all_reduce(data, dream_trainer::comm::ReduceOp::Sum)
                .expect("ranks are there");
            found.insert(path, sum.try_into_vec().expect("f32"));
        }
        Ok::<_, FsdpError>(found)
    };
    let mut ranks = launch_threads(world, CommTimeouts::uniform(Duration::from_mins(1)), run)
        .expect("no rank fails");
    ranks.remove(0)
}

/// Compares every mode with plain autodiff on one rank.
fn check(freeze: bool, compute: Compute) {
    let plain = gradients(1, &FullyShardConfig::default(), false, freeze, compute);
    for reshard in [Reshard::Parameters, Reshard::Gradients, Reshard::Optimizer] {
        for (world, recompute) in [(1, true), (2, false), (2, true), (4, false), (4, true)] {
            let config = FullyShardConfig { reshard, ..FullyShardConfig::default() };
            let sharded = gradients(world, &config, recompute, freeze, compute);
            let mode = format!("{reshard:?}, {world} ranks, recompute {recompute}");
            for (name, values) in &sharded {
                // A unit gives a gradient of zero where plain autodiff gives none.
                let expected = plain.get(name).cloned().unwrap_or_else(|| vec![0.0; values.len()]);
                for (a, b) in values.iter().zip(&expected) {
                    assert!(
                        f64::from((a - b).abs()) <= PAIR * f64::from(b.abs().max(1.0)),
                        "`{name}`: {a} is not {b} with {mode}"
                    );
                }
            }
            assert!(
                plain.keys().all(|name| sharded.contains_key(name)),
                "{mode}: {sharded:?} lacks some of {plain:?}"
            );
        }
    }
}

#[test]
fn several_inputs_and_outputs() {
    check(false, |unit, [x, y]| {
        let (a, [b, c]) = unit.forward((x, [y.clone(), y]), |pair, (x, [y, z])| {
            (pair.first.forward(x.clone()), [pair.second.forward(y) * 2.0, x * z])
        });
        (a * b).sum() + c.sum()
    });
}

#[test]
fn an_input_that_the_body_ignores() {
    check(false, |unit, [x, y]| {
        unit.forward((x, y), |pair, (x, _)| pair.first.forward(x).tanh()).sum()
    });
}

#[test]
fn an_output_that_the_loss_ignores() {
    check(false, |unit, [x, y]| {
        let (a, _) =
            unit.forward((x, y), |pair, (x, y)| (pair.first.forward(x), pair.second.forward(y)));
        (a.clone() * a).sum()
    });
}

#[test]
fn a_unit_that_runs_twice() {
    check(false, |unit, [x, y]| {
        let body =
            |pair: &Pair, x: Tensor<2>| pair.first.forward(x.clone()) * pair.second.forward(x);
        (unit.forward(x, body) * unit.forward(y, body)).sum()
    });
}

#[test]
fn frozen_parameters() {
    check(true, |unit, [x, y]| {
        unit.forward((x, y), |pair, (x, y)| pair.first.forward(x) * pair.second.forward(y)).sum()
    });
}

#[test]
fn inputs_without_gradients() {
    check(false, |unit, [x, y]| {
        let (x, y) = (x.detach(), y.inner().autodiff());
        unit.forward((x, y), |pair, (x, y)| pair.first.forward(x) * pair.second.forward(y)).sum()
    });
}

#[test]
fn a_unit_within_a_recomputed_unit() {
    check(false, |unit, [x, y]| {
        let inner = unit.clone();
        let outer = Unit::new(Vec::<Linear>::new()).with_recompute(true);
        let body = move |_: &Vec<Linear>, [x, y]: [Tensor<2>; 2]| {
            inner.forward((x, y), |pair, (x, y)| pair.first.forward(x) * pair.second.forward(y))
        };
        outer.forward([x, y], body).sum()
    });
}

#[test]
fn validation_copies_compute_the_same() {
    let run = |context: RankContext| {
        let rank = rank(&context, &FullyShardConfig::default(), false, false)?;
        let body =
            |pair: &Pair, x: Tensor<2>| pair.first.forward(x.clone()) * pair.second.forward(x);
        let [x, _] = rank.inputs;
        let trained = rank.unit.forward(x.clone(), body);
        let valid = rank.unit.valid().forward(x.inner(), body);
        assert!(!valid.is_autodiff());
        assert_eq!(valid.into_data(), trained.inner().into_data());
        Ok::<_, FsdpError>(())
    };
    launch_threads(2, CommTimeouts::uniform(Duration::from_mins(1)), run).expect("no rank fails");
}

#[test]
fn sixteen_bit_computation_reduces_in_the_type_of_the_shards() {
    // Shaders know no `bf16`.
    if !crate::place::device().supports_dtype(DType::BF16) {
        return;
    }
    let compute: Compute = |unit, [x, y]| {
        let body = |pair: &Pair, (x, y): (Tensor<2>, Tensor<2>)| {
            assert_eq!(x.dtype(), pair.first.weight.val().dtype());
            pair.first.forward(x) * pair.second.forward(y)
        };
        let out = unit.forward((x, y), body);
        assert_eq!(out.dtype(), DType::F32);
        out.sum()
    };
    let plain = gradients(1, &FullyShardConfig::default(), false, false, compute);
    for recompute in [false, true] {
        let (param_dtype, output_dtype) = (Some(DType::BF16), Some(DType::F32));
        let config = FullyShardConfig { param_dtype, output_dtype, ..FullyShardConfig::default() };
        for ranks in [1, 2] {
            let sixteen = gradients(ranks, &config, recompute, false, compute);
            for (name, values) in &sixteen {
                // bf16 keeps 8 bits, and three roundings lie between a weight and its gradient.
                for (a, b) in values.iter().zip(&plain[name]) {
                    assert!((a - b).abs() <= 0.03 * b.abs().max(0.3), "`{name}`: {a} is not {b}");
                }
            }
        }
    }
}

#[test]
fn a_rank_that_fails_fails_the_others_in_their_backward_pass() {
    #[derive(Debug, thiserror::Error)]
    #[error("out of data")]
    struct OutOfData;
    let run = |context: RankContext| {
        let rank = rank(&context, &FullyShardConfig::default(), true, false)
            .expect("the unit can be sharded");
        let [x, _] = rank.inputs;
        let loss = rank.unit.forward(x, |pair, x| pair.first.forward(x)).sum();
        if rank.group.rank() == 1 {
            return Err(OutOfData);
        }
        loss.backward();
        Ok(())
    };
    let failure = launch_threads(2, CommTimeouts::uniform(Duration::from_mins(1)), run)
        .expect_err("a rank fails");
    assert_eq!(failure.rank, 1);
    assert!(matches!(*failure.fault, RankFault::Error(OutOfData)));
    assert!(failure.others[0].1.contains("rank 1"), "{:?}", failure.others);
}

#[test]
fn a_parameter_in_two_units_is_refused() {
    let run = |context: RankContext| {
        let rank = rank(&context, &FullyShardConfig::default(), false, false)?;
        let mesh = Degrees { dp_shard: Degree::Fixed(2), ..Degrees::default() };
        let mesh = mesh.resolve(2, MeshOrder::default()).expect("a mesh of one axis");
        let comm = MeshComm::new(context.fabric.clone(), mesh, context.rank())
            .expect("the fabric fits the mesh");
        let fsdp = FullyShard::new(&FullyShardConfig::default(), &comm, &rank.scope)?;
        let pair = Pair::new(&rank.scope.child("again"));
        fsdp.shard(Unit::new(pair.first.clone()))?;
        fsdp.shard(Unit::new(pair)).map(|_| ())
    };
    let failure = launch_threads(2, CommTimeouts::uniform(Duration::from_mins(1)), run)
        .expect_err("every rank fails");
    let expected = "parameter `again.first.weight` is in two units, `again.first` and `again`";
    assert_eq!(failure.fault.to_string(), expected);
}

#[test]
fn a_parameter_without_a_path_is_refused() {
    let run = |context: RankContext| {
        let rank = rank(&context, &FullyShardConfig::default(), false, false)?;
        let mesh = Degrees { dp_shard: Degree::Fixed(2), ..Degrees::default() };
        let mesh = mesh.resolve(2, MeshOrder::default()).expect("a mesh of one axis");
        let comm = MeshComm::new(context.fabric.clone(), mesh, context.rank())
            .expect("the fabric fits the mesh");
        let fsdp = FullyShard::new(&FullyShardConfig::default(), &comm, &rank.scope)?;
        let elsewhere = Scope::root(crate::place::device().autodiff(), 3);
        fsdp.shard(Unit::new(Pair::new(&elsewhere))).map(|_| ())
    };
    let failure = launch_threads(2, CommTimeouts::uniform(Duration::from_mins(1)), run)
        .expect_err("every rank fails");
    assert!(matches!(*failure.fault, RankFault::Error(FsdpError::Unknown { .. })));
}

#[test]
fn forward_passes_that_are_given_up_do_not_part_the_ranks() {
    let run = |context: RankContext| {
        let rank = rank(&context, &FullyShardConfig::default(), false, false)?;
        let body = |pair: &Pair, x: Tensor<2>| pair.first.forward(x.clone()).tanh();
        for step in 0..50 {
            let [leaf, _] = rank.leaves.clone();
            if step % 3 > 0 {
                rank.unit.forward(leaf.clone() * 3.0, body);
            }
            let up = rank.unit.forward(leaf * 2.0, body);
            let given_up = rank.unit.forward(up.clone().slice([0..2, 0..3]), body);
            let both = rank.unit.forward(up.clone().slice([0..2, 1..4]), body).sum() + up.sum();
            drop(given_up);
            let mut tape = both.backward();
            let mut gradients = 0;
            nn::take_gradients(&rank.unit, &mut tape, |_, _| gradients += 1);
            assert_eq!(gradients, 4);
        }
        Ok::<_, FsdpError>(())
    };
    for ranks in [2, 4] {
        launch_threads(ranks, CommTimeouts::uniform(Duration::from_mins(1)), run)
            .expect("no rank fails");
    }
}
