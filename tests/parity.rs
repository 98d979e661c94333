//! The same run on different meshes gives the same numbers.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use support::tolerance::{FIRST_STEP, LATER_STEP, REPLICAS};
use support::{GPT2, Run, TINY, close};

fn losses(sets: &[&str]) -> Vec<(f64, f64)> {
    losses_of(TINY, sets)
}

fn losses_of(toml: &str, sets: &[&str]) -> Vec<(f64, f64)> {
    let folder = tempfile::tempdir().unwrap();
    let (_, seen) = Run::new(folder.path(), toml).with(sets).go().unwrap();
    seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[track_caller]
fn check_equal(reference: &[(f64, f64)], other: &[(f64, f64)], what: &str) {
    assert_eq!(reference.len(), other.len(), "{what}");
    for (step, (a, b)) in reference.iter().zip(other).enumerate() {
        close(a.0, b.0, REPLICAS, &format!("{what}: loss of step {}", step + 1));
        close(a.1, b.1, REPLICAS, &format!("{what}: gradient norm of step {}", step + 1));
    }
}

#[test]
fn replicas_give_the_single_rank_run_over_twenty_steps() {
    let steps = "training_parameters.steps=20";
    for optimizer in ["optimizer.name=adamw", "optimizer.name=sgd"] {
        let reference = losses(&[steps, optimizer]);
        assert!(reference[19].0 < reference[0].0, "the loss falls: {reference:?}");
        for world_size in [2, 4] {
            let world = format!("device_parameters.world_size={world_size}");
            let ddp = losses(&[steps, optimizer, &world, "device_parameters.preset=ddp"]);
            check_equal(&reference, &ddp, &format!("{optimizer} on {world_size} ranks"));
        }
    }
}

#[test]
fn accumulation_gives_the_same_numbers_as_one_large_batch() {
    let reference = losses(&[]);
    for sets in [
        vec!["training_parameters.micro_batch_size=2"],
        vec!["training_parameters.gradient_accumulation_steps=8"],
        vec![
            "training_parameters.micro_batch_size=1",
            "device_parameters.preset=ddp",
            "device_parameters.world_size=2",
        ],
    ] {
        check_equal(&reference, &losses(&sets), &sets.join(", "));
    }
}

#[test]
fn masked_labels_weigh_the_same_on_every_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        (0..400).map(|i| format!("document {i} says {}", i * i)).collect::<Vec<_>>().join("\n");
    for (i, part) in text.as_bytes().chunks(97).enumerate() {
        std::fs::write(folder.path().join(format!("{i:03}.txt")), part).unwrap();
    }
    let files = format!("data.files=['{}/*.txt']", folder.path().display());
    let data =
        ["data.source=text", &files, "data.mask_document_boundaries=true", "model.vocab_size=257"];
    let toml = TINY.replace("vocab_size = 96\nnum_sequences = 64", "tokenizer = \"byte\"");
    let run = |more: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let (_, seen) = Run::new(folder.path(), &toml).with(&data).with(more).go().unwrap();
        seen.steps
    };
    let reference = run(&[]);
    assert!(reference.iter().any(|step| step.tokens < 8 * 16), "some labels are masked");
    let ranks = run(&["device_parameters.preset=ddp", "device_parameters.world_size=4"]);
    for (a, b) in reference.iter().zip(&ranks) {
        assert_eq!(a.tokens, b.tokens);
        close(a.loss, b.loss, REPLICAS, "loss");
        close(a.grad_norm, b.grad_norm, REPLICAS, "gradient norm");
    }
}

#[track_caller]
fn check_split(reference: &[(f64, f64)], sets: &[&str]) {
    check_split_of(TINY, reference, sets);
}

#[track_caller]
fn check_split_of(toml: &str, reference: &[(f64, f64)], sets: &[&str]) {
    let split = losses_of(toml, sets);
    assert_eq!(reference.len(), split.len());
    for (step, (a, b)) in reference.iter().zip(&split).enumerate() {
        let tolerance = if step == 0 { FIRST_STEP } else { LATER_STEP };
        let what = |number| format!("{}: {number} of step {}", sets.join(", "), step + 1);
        close(a.0, b.0, tolerance, &what("loss"));
        close(a.1, b.1, tolerance, &what("gradient norm"));
    }
}

#[test]
fn split_matrices_give_the_single_rank_run() {
    let models: [(&str, &[&str]); 3] = [
        (TINY, &["model.num_kv_heads=4", "model.tied_embeddings=false"]),
        (TINY, &["model.num_kv_heads=4", "model.tied_embeddings=true"]),
        (GPT2, &[]),
    ];
    let modes = [(true, true), (false, true), (true, false), (false, false)];
    for (toml, model) in models {
        let rest = ["training_parameters.steps=5", "optimizer.name=sgd", "optimizer.lr=1e-2"];
        let common = [model, &rest[..]].concat();
        let reference = losses_of(toml, &common);
        let check = |tensor_parallel: usize, replicas: usize, switches: &[String]| {
            let mesh = [
                format!("device_parameters.world_size={}", tensor_parallel * replicas),
                format!("device_parameters.tensor_parallel={tensor_parallel}"),
                format!("device_parameters.dp_replicate={replicas}"),
            ];
            let all = mesh.iter().chain(switches).map(String::as_str);
            check_split_of(
                toml,
                &reference,
                &common.iter().copied().chain(all).collect::<Vec<_>>(),
            );
        };
        for (tensor_parallel, replicas) in [(2, 1), (2, 2), (4, 1), (4, 2)] {
            // Eight ranks take their time on a few cores: one mode is enough.
            let modes = if replicas * tensor_parallel == 8 { &modes[..1] } else { &modes[..] };
            for (sequence, loss) in modes {
                let switches = [
                    format!("device_parameters.sequence_parallel={sequence}"),
                    format!("device_parameters.loss_parallel={loss}"),
                ];
                check(tensor_parallel, replicas, &switches);
            }
        }
        check(2, 2, &["device_parameters.async_tensor_parallel=true".to_owned()]);
    }
}

#[test]
fn copies_of_key_value_heads_give_the_single_rank_run() {
    let rest = ["training_parameters.steps=5", "optimizer.name=sgd", "optimizer.lr=1e-2"];
    let biases = ["model.attention_bias=true", "model.mlp_bias=true"];
    // Key-value heads, and meshes with more tensor-parallel ranks than that.
    let two: [&[&str]; 6] = [
        &["world_size=4", "tensor_parallel=4"],
        &["world_size=4", "tensor_parallel=4", "sequence_parallel=false"],
        &["world_size=4", "tensor_parallel=4", "loss_parallel=false"],
        &["world_size=4", "tensor_parallel=4", "async_tensor_parallel=true"],
        &["world_size=8", "tensor_parallel=4", "preset=fsdp"],
        &["world_size=8", "tensor_parallel=4", "dp_replicate=2"],
    ];
    let one: [&[&str]; 6] = [
        &["world_size=2", "tensor_parallel=2"],
        &["world_size=2", "tensor_parallel=2", "sequence_parallel=false"],
        &["world_size=2", "tensor_parallel=2", "async_tensor_parallel=true"],
        &["world_size=4", "tensor_parallel=4"],
        &["world_size=4", "tensor_parallel=2", "preset=fsdp", "activation_checkpointing=full"],
        &["world_size=8", "tensor_parallel=2", "preset=hsdp", "dp_shard=2"],
    ];
    for (heads, meshes) in [("model.num_kv_heads=2", two), ("model.num_kv_heads=1", one)] {
        for biases in [&[][..], &biases] {
            let common = [&[heads], &rest[..], biases].concat();
            let reference = losses(&common);
            for mesh in meshes {
                let mesh: Vec<String> =
                    mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
                let sets = common.iter().copied().chain(mesh.iter().map(String::as_str));
                check_split(&reference, &sets.collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn heads_that_ranks_can_neither_split_nor_share_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [
        "model.num_heads=12",
        "model.head_dim=8",
        "model.num_kv_heads=6",
        "device_parameters.world_size=4",
        "device_parameters.tensor_parallel=4",
    ];
    let refused = Run::new(folder.path(), TINY).with(&sets).go().unwrap_err();
    let expected =
        "`num_kv_heads` is 6 but must be a multiple or a divisor of the tensor-parallel degree 4";
    assert!(refused.contains(expected), "{refused}");
}

#[test]
fn sharded_parameters_give_the_single_rank_run() {
    let five = "training_parameters.steps=5";
    let optimizer = ["optimizer.name=sgd", "optimizer.lr=1e-2"];
    let reference = losses(&[&[five], &optimizer[..]].concat());
    for mesh in [
        &["world_size=2", "preset=fsdp"][..],
        &["world_size=4", "preset=fsdp"],
        &["world_size=4", "preset=hsdp", "dp_shard=2"],
        &["world_size=4", "preset=fsdp", "tensor_parallel=2"],
        &["world_size=2", "preset=fsdp", "reshard=gradients"],
        &["world_size=2", "preset=fsdp", "reshard=optimizer"],
        &["world_size=2", "preset=fsdp", "activation_checkpointing=full"],
        &["world_size=1", "activation_checkpointing=selective"],
    ] {
        let mesh: Vec<String> = mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
        let mut sets = vec![five];
        sets.extend(optimizer);
        sets.extend(mesh.iter().map(String::as_str));
        check_split(&reference, &sets);
        sets.push("training_parameters.micro_batch_size=1");
        check_split(&reference, &sets);
    }
}
