//! `dream-train profile` writes a trace in which communication overlaps computation.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/program.rs"]
mod program;

use serde_json::Value;

const TOML: &str = r#"
[model]
name = "llama3"
dim = 32
num_layers = 3
num_heads = 4
num_kv_heads = 2
ffn_dim = 64
vocab_size = 96
[device_parameters]
preset = "fsdp"
world_size = 2
[training_parameters]
steps = 1
global_batch_size = 4
sequence_length = 16
[data]
source = "synthetic"
vocab_size = 96
num_sequences = 16
"#;

/// Records one step of two ranks after three others.
fn trace(sets: &[&str]) -> Vec<Value> {
    let folder = program::folder_with(TOML);
    let arguments = ["profile", "--config", "run.toml", "--steps", "1", "--output", "out.json"];
    let mut command = program::command(folder.path(), &arguments);
    let output = command.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("of 2 ranks, steps 4 to 4, in out.json")
    );
    assert!(!folder.path().join("outputs").exists(), "a profile leaves only its trace");
    let text = std::fs::read_to_string(folder.path().join("out.json")).unwrap();
    let mut trace: Value = serde_json::from_str(&text).unwrap();
    trace["traceEvents"].as_array_mut().map(std::mem::take).unwrap()
}

/// From and to, in microseconds.
type Time = (f64, f64);

/// Returns the times of a rank's spans with a name, in order.
fn spans(trace: &[Value], rank: u64, name: &str) -> Vec<Time> {
    let named = trace.iter().filter(|row| row["pid"] == rank && row["name"] == name);
    let complete = named.filter(|row| row["ph"] == "X");
    complete
        .map(|row| {
            let start = row["ts"].as_f64().unwrap();
            (start, start + row["dur"].as_f64().unwrap())
        })
        .collect()
}

/// Returns when a unit's collectives of a rank were under way, in order.
fn in_flight(trace: &[Value], rank: u64, op: &str, unit: &str) -> Vec<Time> {
    let begins = trace.iter().filter(|row| {
        row["pid"] == rank && row["name"] == op && row["ph"] == "b" && row["args"]["unit"] == unit
    });
    let end = |begin: &Value| {
        let is_end = |row: &&Value| {
            row["ph"] == "e"
                && row["pid"] == rank
                && row["id2"] == begin["id2"]
                && row["ts"].as_f64() >= begin["ts"].as_f64()
        };
        trace.iter().find(is_end).expect("what begins ends")["ts"].as_f64().unwrap()
    };
    begins.map(|begin| (begin["ts"].as_f64().unwrap(), end(begin))).collect()
}

/// Tells whether the first span is issued before the second begins and waited for after it ends.
fn covers(outer: Time, inner: Time) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

#[test]
fn gathers_and_reductions_overlap_computation() {
    let recompute = "device_parameters.activation_checkpointing=full";
    for sets in [&[][..], &[recompute]] {
        let trace = trace(sets);
        for rank in [0, 1] {
            for (unit, next) in [("layers.0", "layers.1"), ("layers.1", "layers.2")] {
                let compute = spans(&trace, rank, &format!("forward {unit}"))[0];
                let gather = in_flight(&trace, rank, "all_gather", next)[0];
                assert!(covers(gather, compute), "gather of {next}, forward of {unit}");
            }
            for (unit, behind) in [("layers.1", "layers.2"), ("layers.0", "layers.1")] {
                let reduction = in_flight(&trace, rank, "reduce_scatter", behind)[0];
                let next = spans(&trace, rank, &format!("issue reduce_scatter {unit}"))[0];
                assert!(
                    covers(reduction, next),
                    "reduction of {behind} lasts beyond the backward pass of {unit}"
                );
            }
        }
    }
}

#[test]
fn a_rank_is_a_process_with_the_phases_of_its_steps() {
    let trace = trace(&["training_parameters.micro_batch_size=1"]);
    for rank in [0, 1] {
        let is_name = |row: &&Value| row["name"] == "process_name" && row["pid"] == rank;
        assert_eq!(trace.iter().find(is_name).unwrap()["args"]["name"], format!("rank {rank}"));
        let steps = spans(&trace, rank, "step 4");
        assert_eq!(steps.len(), 1);
        for (name, count) in [("data", 1), ("forward", 2), ("backward", 2), ("optimizer", 1)] {
            let found = spans(&trace, rank, name);
            assert_eq!(found.len(), count, "{name}");
            assert!(found.iter().all(|span| covers(steps[0], *span)), "{name}");
        }
        for microbatch in ["microbatch 0", "microbatch 1"] {
            assert_eq!(spans(&trace, rank, microbatch).len(), 1);
        }
        assert!(!spans(&trace, rank, "wait all_gather").is_empty());
    }
    let in_other_steps = |row: &&Value| row["args"]["step"].as_u64().is_some_and(|step| step != 4);
    assert_eq!(trace.iter().find(in_other_steps), None);
}

#[test]
fn a_benchmark_can_leave_a_trace_of_its_timed_steps() {
    let folder = program::folder_with(TOML);
    let steps = ["--warmup", "1", "--steps", "2", "--trace", "out.json"];
    let arguments = [&["benchmark", "--config", "run.toml"], &steps[..]].concat();
    let output = program::command(folder.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", program::text(&output));
    let text = std::fs::read_to_string(folder.path().join("out.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let rows = trace["traceEvents"].as_array().unwrap();
    for rank in 0..2 {
        let counts = ["step 1", "step 2", "step 3"].map(|step| spans(rows, rank, step).len());
        assert_eq!(counts, [0, 1, 1], "the warm-up is left out");
    }
    let nowhere = [&arguments[..arguments.len() - 1], &["missing/out.json"]].concat();
    let output = program::command(folder.path(), &nowhere).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", program::text(&output));
    assert!(program::text(&output).contains("cannot write missing/out.json"));
}
