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
        assert!(unwrapped(&text).contains(message), "{text}");
    }
}

/// Joins what a report breaks into lines.
fn unwrapped(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word != "|").collect();
    // Lines end after hyphens, too.
    words.join(" ").replace("- ", "-")
}

#[test]
fn absurd_sizes_are_refused_with_their_bytes() {
    let trillion = 1_000_000_000_000_u64;
    let rows = [
        (TINY, format!("model.num_layers={trillion}"), "parameters, "),
        (TINY, format!("model.dim={trillion}"), "parameters, "),
        (TINY, format!("model.num_heads={trillion}"), "must be a multiple of `num_heads`"),
        (TINY, format!("model.head_dim={trillion}"), "parameters, "),
        (TINY, format!("model.ffn_dim={trillion}"), "parameters, "),
        (TINY, format!("model.vocab_size={trillion}"), "parameters, "),
        (GPT2, format!("model.num_layers={trillion}"), "parameters, "),
        (GPT2, format!("model.max_seq_len={trillion}"), "parameters, "),
        (GPT2, format!("model.vocab_size={trillion}"), "parameters, "),
        (MLP, format!("model.widths=[16, {trillion}, 8]"), "parameters, "),
        (TINY, format!("training_parameters.global_batch_size={trillion}"), "bytes of token ids"),
        (TINY, format!("training_parameters.sequence_length={trillion}"), "bytes of token ids"),
        (
            TINY,
            format!("training_parameters.gradient_accumulation_steps={trillion}"),
            "is not divisible by",
        ),
        (TINY, format!("device_parameters.world_size={trillion}"), "bytes as threads"),
        (TINY, format!("optimizer.newton_schulz_steps={trillion}"), "belongs to `muon`"),
    ];
    for (toml, set, part) in rows {
        let (code, text) = plan(toml, &[&set]);
        let text = unwrapped(&text);
        assert_eq!(code, 2, "{set}: {text}");
        assert!(text.contains(part) && text.contains("--set"), "{set}: {text}");
        assert!(!text.contains("panicked"), "{set}: {text}");
    }
}

#[test]
fn a_plan_needs_no_machine_that_could_run_it() {
    // Half a petabyte of weights, and more ranks than any machine has.
    let huge = ["model.dim=1048576", "model.ffn_dim=1048576", "model.num_layers=20"];
    assert!(shown(TINY, &huge).contains("parameters"));
    let ranks = [
        "device_parameters.world_size=20000",
        "device_parameters.preset=ddp",
        "training_parameters.global_batch_size=20000",
    ];
    assert!(shown(TINY, &ranks).contains("20000 ranks"), "a plan starts no rank");
}

#[test]
fn what_does_not_fit_into_this_machine_is_refused_before_it_starts() {
    if dream_trainer::world::memory_bytes().is_none() {
        return;
    }
    let rows: [&[&str]; 4] = [
        &["model.dim=1048576", "model.ffn_dim=1048576", "model.num_layers=20"],
        &["training_parameters.global_batch_size=10000000000"],
        &[
            "training_parameters.global_batch_size=10000000000",
            "training_parameters.micro_batch_size=1",
        ],
        &[
            "device_parameters.world_size=1000000",
            "device_parameters.preset=ddp",
            "training_parameters.global_batch_size=1000000",
        ],
    ];
    for sets in rows {
        let folder = program::folder_with(TINY);
        let mut command = program::command(folder.path(), &["--config", "run.toml"]);
        let output = command.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap();
        let text = program::text(&output);
        assert_eq!(output.status.code(), Some(3), "{sets:?}: {text}");
        assert!(text.contains("on this machine, which has"), "{text}");
        assert!(!folder.path().join("outputs").exists(), "{sets:?}");
    }
}

#[test]
fn faults_that_a_recipe_finds_are_shown_with_their_lines() {
    let rows = [
        (TINY.replace("num_heads = 4", "num_heads = 5"), "run.toml", "`num_heads` = 5"),
        (MLP.replace("sequence_length = 16", "sequence_length = 17"), "run.toml", "input size"),
        (GPT2.replace("max_seq_len = 64", "max_seq_len = 2"), "run.toml", "`max_seq_len` = 2"),
    ];
    for (toml, file, part) in rows {
        let (code, text) = plan(&toml, &[]);
        assert_eq!(code, 2, "{text}");
        let text = unwrapped(&text);
        assert!(text.contains(&format!("{file}:")) && text.contains(part), "{text}");
        assert!(!text.contains("`check` failed"), "{text}");
    }
}
