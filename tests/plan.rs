//! What `dream-train plan` says of a configuration, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/program.rs"]
mod program;
#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use support::{GPT2, TINY};

const MLP: &str = r#"
[model]
name = "mlp"
widths = [16, 64, 32, 64]
bias = true
[training_parameters]
steps = 1
global_batch_size = 8
sequence_length = 16
[data]
source = "synthetic"
num_sequences = 64
"#;

/// Runs `dream-train plan --placements` and returns its exit code and what it printed.
fn plan(toml: &str, sets: &[&str]) -> (i32, String) {
    let folder = program::folder_with(toml);
    let arguments = ["plan", "--placements", "--config", "run.toml"];
    let mut command = program::command(folder.path(), &arguments);
    let output = command.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap();
    assert!(!folder.path().join("outputs").exists(), "a plan writes nothing");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

const TWO: [&str; 2] = ["device_parameters.world_size=2", "device_parameters.tensor_parallel=2"];

#[track_caller]
fn shown(toml: &str, sets: &[&str]) -> String {
    let (code, text) = plan(toml, sets);
    assert_eq!(code, 0, "{text}");
    text
}

#[test]
fn plans_say_what_every_rank_holds_and_where_it_communicates() {
    let [world, tp] = TWO;
    insta::assert_snapshot!("llama3", shown(TINY, &TWO));
    let tied = [world, tp, "model.tied_embeddings=true", "device_parameters.loss_parallel=false"];
    insta::assert_snapshot!("llama3_tied", shown(TINY, &tied));
    let sequences = [world, tp, "device_parameters.sequence_parallel=false"];
    insta::assert_snapshot!("gpt2", shown(GPT2, &TWO));
    insta::assert_snapshot!("gpt2_without_sequence_parallel", shown(GPT2, &sequences));
    let overlapped = [world, tp, "device_parameters.async_tensor_parallel=true"];
    insta::assert_snapshot!("gpt2_async", shown(GPT2, &overlapped));
    insta::assert_snapshot!("mlp", shown(MLP, &TWO));
}

#[test]
fn a_plan_without_tensor_parallelism_says_so() {
    insta::assert_snapshot!("one_rank", shown(TINY, &[]));
    let sharded = ["device_parameters.world_size=2", "device_parameters.preset=fsdp"];
    insta::assert_snapshot!("sharded", shown(TINY, &sharded));
}

#[test]
fn a_plan_that_does_not_fit_is_refused_before_anything_starts() {
    let ranks = |n: usize| {
        [
            format!("device_parameters.world_size={n}"),
            format!("device_parameters.tensor_parallel={n}"),
        ]
    };
    let six_heads = TINY.replace("num_heads = 4", "num_heads = 12\nhead_dim = 8");
    let six_heads = six_heads.replace("num_kv_heads = 2", "num_kv_heads = 6");
    for (toml, n, set, message) in [
        (
            six_heads.as_str(),
            4,
            "run.seed=1",
            "`num_kv_heads` is 6 but must be a multiple or a divisor of the tensor-parallel degree 4",
        ),
        (
            TINY,
            2,
            "model.ffn_dim=65",
            "is 65 but must be a multiple of the tensor-parallel degree 2",
        ),
        (TINY, 2, "training_parameters.sequence_length=15", "15 % 2 = 1"),
        (
            GPT2,
            8,
            "run.seed=1",
            "`num_heads` is 4 but must be a multiple of the tensor-parallel degree 8",
        ),
        (
            MLP,
            2,
            "model.widths=[16, 63, 32]",
            "is 63 but must be a multiple of the tensor-parallel degree 2",
        ),
    ] {
        let ranks = ranks(n);
        let (code, text) = plan(toml, &[&ranks[0], &ranks[1], set]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(message), "{text}");
    }
}
