//! Every way of sharding gives the losses, gradient norms and gathered gradients of one rank, with
//! plain gradient descent, which hides no wrong scale.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeMap;

use dream_trainer::checkpoint::CheckpointStore;
use support::{Run, TINY, close};

/// Momentum so small that its buffer is the gradient, which a checkpoint thereby holds.
const PLAIN: [&str; 6] = [
    "optimizer.name=sgd",
    "optimizer.momentum=1e-30",
    "optimizer.lr=1e-2",
    "training_parameters.steps=10",
    "training_parameters.max_grad_norm=0",
    "checkpoint.enable=true",
];

/// Steps whose gradients are compared, and how closely.
const COMPARED: [(u64, f64); 2] = [(1, 1e-6), (10, 1e-5)];

type Gradients = BTreeMap<String, Vec<f32>>;

struct Trained {
    steps: Vec<(f64, f64)>,
    gradients: Vec<Gradients>,
}

fn train(sets: &[&str]) -> Trained {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(folder.path(), TINY).with(&PLAIN).with(sets).saving_after(1);
    let (_, seen) = run.go().unwrap();
    let root = folder.path().join("outputs/dream-train/default/run/checkpoints");
    let read = |(step, _): &(u64, f64)| {
        let checkpoint = CheckpointStore::new(&root).open(*step).unwrap();
        let prefix = "optimizer/main/momentum_buffer/";
        let keys = checkpoint.keys().filter_map(|key| key.strip_prefix(prefix));
        let value = |path: &str| {
            let data = checkpoint.read(&format!("{prefix}{path}")).unwrap();
            (path.to_owned(), data.try_into_vec::<f32>().unwrap())
        };
        keys.map(value).collect()
    };
    Trained {
        steps: seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect(),
        gradients: COMPARED.iter().map(read).collect(),
    }
}

#[track_caller]
fn check(reference: &Trained, sets: &[&str]) {
    let sharded = train(sets);
    for (step, (a, b)) in reference.steps.iter().zip(&sharded.steps).enumerate() {
        let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
        close(a.0, b.0, tolerance, &format!("{sets:?}: loss of step {}", step + 1));
        close(a.1, b.1, tolerance, &format!("{sets:?}: gradient norm of step {}", step + 1));
    }
    let gradients = reference.gradients.iter().zip(&sharded.gradients);
    for ((step, tolerance), (expected, found)) in COMPARED.iter().zip(gradients) {
        assert!(expected.keys().eq(found.keys()) && !found.is_empty());
        for (path, expected) in expected {
            let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let error = expected
                .iter()
                .zip(&found[path])
                .fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(
                f64::from(error) <= tolerance * f64::from(largest),
                "{sets:?}: gradient of `{path}` at step {step} is off by {error} of {largest}"
            );
        }
    }
}

#[test]
fn sharded_runs_have_the_gradients_of_one_rank() {
    let reference = train(&[]);
    for (ranks, mesh) in [
        (2, &["preset=fsdp"][..]),
        (4, &["preset=fsdp"]),
        (8, &["preset=fsdp"]),
        (4, &["preset=hsdp", "dp_shard=2"]),
        (2, &["preset=fsdp", "reshard=gradients"]),
        (2, &["preset=fsdp", "reshard=optimizer"]),
    ] {
        for tensor_parallel in [1, 2] {
            let mut sets: Vec<String> =
                mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
            sets.push(format!("device_parameters.tensor_parallel={tensor_parallel}"));
            sets.push(format!("device_parameters.world_size={}", ranks * tensor_parallel));
            check(&reference, &sets.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

#[test]
fn copies_of_key_value_heads_have_the_gradients_of_one_rank() {
    let meshes: [(&str, &[&str]); 5] = [
        ("model.num_kv_heads=2", &["tensor_parallel=4", "world_size=4"]),
        ("model.num_kv_heads=2", &["tensor_parallel=4", "world_size=8", "preset=fsdp"]),
        ("model.num_kv_heads=1", &["tensor_parallel=2", "world_size=2"]),
        ("model.num_kv_heads=1", &["tensor_parallel=2", "world_size=4", "preset=fsdp"]),
        ("model.num_kv_heads=1", &["tensor_parallel=2", "world_size=4", "dp_replicate=2"]),
    ];
    let biases = "model.attention_bias=true";
    for heads in ["model.num_kv_heads=2", "model.num_kv_heads=1"] {
        let reference = train(&[heads, biases]);
        for (_, mesh) in meshes.iter().filter(|(of, _)| *of == heads) {
            let mesh: Vec<String> =
                mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
            let sets = [heads, biases].into_iter().chain(mesh.iter().map(String::as_str));
            check(&reference, &sets.collect::<Vec<_>>());
        }
    }
}

#[test]
fn accumulated_gradients_are_those_of_one_rank() {
    let reference = train(&[]);
    let fsdp = ["device_parameters.preset=fsdp", "device_parameters.world_size=2"];
    for more in [
        "device_parameters.accumulate_whole_gradients=false",
        "device_parameters.accumulate_whole_gradients=true",
        "device_parameters.reshard=optimizer",
    ] {
        let sets = [&fsdp[..], &["training_parameters.micro_batch_size=1", more]].concat();
        check(&reference, &sets);
    }
}
