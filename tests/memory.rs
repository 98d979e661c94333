//! What a rank holds: planned without a value, and measured in a run.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use dream_trainer::callbacks::MemoryUse;
use support::{GPT2, Run, TINY};

/// Largest part by which an estimate may miss what is measured.
const ESTIMATE: f64 = 0.01;

const MLP: &str = r#"
[model]
name = "mlp"
widths = [16, 64, 32, 64, 16]
activation = "gelu"
[training_parameters]
steps = 1
global_batch_size = 8
sequence_length = 16
[data]
source = "synthetic"
num_sequences = 64
[metrics]
jsonl = false
"#;

/// Runs one step and returns what it showed and what the plan had said of the parameters.
fn step(toml: &str, sets: &[&str]) -> MemoryUse {
    let folder = tempfile::tempdir().unwrap();
    let sets = [sets, &["training_parameters.steps=1"]].concat();
    let prepare = || Run::new(folder.path(), toml).with(&sets);
    let planned = prepare().prepared(|run| run.placements(0).unwrap().num_local_parameters());
    let (_, seen) = prepare().go().unwrap();
    let memory = seen.memory.unwrap();
    assert_eq!(planned.unwrap() as u64, memory.rank_parameters, "{sets:?}");
    memory
}

#[track_caller]
fn check_estimate(memory: &MemoryUse, what: &str) {
    let (measured, estimate) =
        (memory.activation_bytes.unwrap() as f64, memory.activation_estimate.unwrap() as f64);
    assert!(
        (estimate / measured - 1.0).abs() <= ESTIMATE,
        "{what}: estimated {estimate}, measured {measured}"
    );
}

fn mesh(tp: usize, switches: &[(&str, bool)]) -> Vec<String> {
    let mut sets = vec![
        format!("device_parameters.world_size={tp}"),
        format!("device_parameters.tensor_parallel={tp}"),
    ];
    if tp > 1 {
        sets.extend(switches.iter().map(|(switch, on)| format!("device_parameters.{switch}={on}")));
    }
    sets
}

fn on_mesh(toml: &str, model: &[&str], tp: usize, switches: &[(&str, bool)]) -> MemoryUse {
    let mesh = mesh(tp, switches);
    let sets: Vec<&str> = model.iter().copied().chain(mesh.iter().map(String::as_str)).collect();
    let memory = step(toml, &sets);
    check_estimate(&memory, &sets.join(", "));
    memory
}

const LLAMA: [&str; 2] = ["model.num_heads=4", "model.num_kv_heads=4"];

#[test]
fn what_a_rank_holds_falls_with_tensor_parallelism_as_estimated() {
    for (toml, model) in [(TINY, &LLAMA[..]), (GPT2, &[])] {
        let dense = on_mesh(toml, model, 1, &[]);
        for tp in [2, 4] {
            let at = |sequence, loss, overlap| {
                let switches = [
                    ("sequence_parallel", sequence),
                    ("loss_parallel", loss),
                    ("async_tensor_parallel", overlap),
                ];
                on_mesh(toml, model, tp, &switches)
            };
            let replicated = at(false, true, false);
            let split = at(true, true, false);
            let overlapped = at(true, true, true);
            let gathered = at(true, false, false);
            assert!(split.rank_parameters < dense.rank_parameters);
            assert_eq!(split.rank_parameters, replicated.rank_parameters);
            // Without sequence parallelism norms and the inputs of products stay whole; with it only
            // the latter do, and where they are gathered again not even those.
            assert!(replicated.activation_bytes < dense.activation_bytes);
            assert!(split.activation_bytes < replicated.activation_bytes);
            assert!(overlapped.activation_bytes < split.activation_bytes);
            assert!(gathered.activation_bytes > split.activation_bytes, "whole logits are kept");
        }
    }
}

#[test]
fn recomputed_activations_and_pairs_of_layers_are_estimated_too() {
    let layers = "model.num_layers=4";
    let kept = on_mesh(TINY, &[layers], 1, &[]);
    let again = "device_parameters.activation_checkpointing=full";
    for every in [1, 2] {
        let every = format!("device_parameters.checkpoint_every_nth_block={every}");
        let memory = on_mesh(TINY, &[layers, again, &every], 1, &[]);
        assert!(memory.activation_bytes < kept.activation_bytes, "{every}");
    }
    let dense = on_mesh(MLP, &[], 1, &[]);
    let split = on_mesh(MLP, &[], 2, &[]);
    assert!(split.activation_bytes < dense.activation_bytes);
    assert_eq!(2 * split.rank_parameters, dense.rank_parameters);
}

#[test]
fn sharded_parameters_are_planned_as_they_are_held() {
    for mesh in [
        &["world_size=2", "preset=fsdp"][..],
        &["world_size=4", "preset=fsdp", "tensor_parallel=2"],
    ] {
        let sets: Vec<String> = mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
        let memory = step(TINY, &sets.iter().map(String::as_str).collect::<Vec<_>>());
        check_estimate(&memory, &sets.join(", "));
    }
}

#[test]
fn copies_of_key_value_heads_are_planned_as_they_are_held() {
    for (heads, tp) in [("model.num_kv_heads=1", 2), ("model.num_kv_heads=2", 4)] {
        on_mesh(TINY, &[heads, "model.attention_bias=true", "model.mlp_bias=true"], tp, &[]);
    }
}

#[test]
fn the_tutorials_model_falls_to_the_published_parameters_per_rank() {
    let folder = tempfile::tempdir().unwrap();
    // Hidden size, parameters, parameters of a rank of two: the split vocabulary of 50,257 leaves the
    // first rank 25,129 rows.
    for (hidden, whole, local) in [(256, 14_702_080, 7_482_880), (2048, 205_697_024, 103_903_232)] {
        let toml = GPT2.replace("dim = 32", &format!("dim = {hidden}"));
        let toml = toml.replace("num_heads = 4", "num_heads = 8").replace("bias = true", "");
        let sets = ["model.vocab_size=50257", "model.max_seq_len=1024"];
        let mesh = mesh(2, &[]);
        let run = Run::new(folder.path(), &toml).with(&sets);
        let run = run.with(&mesh.iter().map(String::as_str).collect::<Vec<_>>());
        let placements = run.prepared(|prepared| prepared.placements(0).unwrap()).unwrap();
        assert_eq!(placements.num_parameters(), whole);
        assert_eq!(placements.num_local_parameters(), local);
    }
}
