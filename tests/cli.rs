//! The program as a user runs it: exit codes, messages, files.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[cfg(target_os = "linux")]
#[path = "cli/console.rs"]
mod console;
#[path = "support/program.rs"]
mod program;
#[path = "cli/run_folder.rs"]
mod run_folder;

use std::path::Path;
use std::process::Output;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program::command(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const TOML: &str = r#"
[model]
name = "llama3"
dim = 32
num_layers = 1
num_heads = 4
num_kv_heads = 2
ffn_dim = 64
vocab_size = 96
[training_parameters]
steps = 3
global_batch_size = 4
sequence_length = 16
[data]
source = "synthetic"
vocab_size = 96
num_sequences = 16
"#;

fn folder() -> tempfile::TempDir {
    program::folder_with(TOML)
}

#[test]
fn trains_and_writes_metrics_at_full_precision() {
    let folder = folder();
    let output = run(folder.path(), &["--config", "run.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for part in ["step 1/3", "loss", "grad_norm", "tok/s", "eta", "finished 3 steps"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let metrics = folder.path().join("outputs/dream-train/default/run/metrics.jsonl");
    let lines = std::fs::read_to_string(metrics).unwrap();
    assert_eq!(lines.lines().count(), 3);
    for line in lines.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second"] {
            assert!(row[key].is_number(), "{key} in {line}");
        }
    }
}

#[test]
fn thread_ranks_are_one_flag_away() {
    let folder = folder();
    let arguments =
        ["--config", "run.toml", "--world-size", "2", "--set", "device_parameters.preset=ddp"];
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let logs = folder.path().join("outputs/dream-train/default/run/logs");
    assert!(logs.join("rank-0.log").exists() && logs.join("rank-1.log").exists());
}

#[test]
fn a_plan_is_printed_with_origins_and_nothing_runs() {
    let folder = folder();
    let output =
        run(folder.path(), &["--config", "run.toml", "--cfg", "--set", "optimizer.lr=1e-4"]);
    assert_eq!(output.status.code(), Some(0));
    let plan = text(&output.stdout);
    for part in ["run.toml:11", "--set", "default", "[device_parameters]"] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    assert!(!folder.path().join("outputs").exists());
}

/// Exit codes and the part of the message that must be there.
const FAULTS: [(&[&str], i32, &str); 11] = [
    (&[], 2, "no configuration"),
    (&["--config", "missing.toml"], 2, "missing.toml"),
    (&["--config", "run.toml", "--set", "optimizer.lrr=1"], 2, "`lr`"),
    (&["--config", "run.toml", "--set", "model.hidden_size=8"], 2, "did you mean `dim`?"),
    (&["--config", "run.toml", "--set", "checkpoint.resume=must"], 2, "has no effect"),
    (&["--config", "run.toml", "--set", "model.name=llama4"], 2, "llama3"),
    (&["--config", "run.toml", "--set", "device_parameters.world_size=3"], 2, "3"),
    (&["--config", "run.toml", "--set", "model.vocab_size=50"], 6, "50"),
    (&["--config", "run.toml", "--resume"], 5, "no complete checkpoint"),
    (&["--config", "run.toml", "--init-from", "nowhere"], 5, "nowhere"),
    (&["--config", "run.toml", "--set", "device_parameters.device=cuda"], 2, "cuda"),
];

#[test]
fn faults_have_exit_codes_and_say_what_to_do() {
    for (arguments, code, part) in FAULTS {
        let folder = folder();
        let output = run(folder.path(), arguments);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
        assert!(shown.contains(part), "{arguments:?}: {shown}");
        assert!(!shown.contains("panicked"), "{arguments:?}: {shown}");
    }
}

#[test]
fn a_run_that_changed_is_compared_with_its_checkpoint() {
    let folder = folder();
    let go = |sets: &[&str]| {
        let mut arguments = vec!["--config", "run.toml", "--set", "checkpoint.enable=true"];
        arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
        run(folder.path(), &arguments)
    };
    assert_eq!(go(&[]).status.code(), Some(0));
    let output = go(&[
        "training_parameters.steps=4",
        "optimizer.name=sgd",
        "model.tied_embeddings=true",
        "run.seed=7",
    ]);
    assert_eq!(output.status.code(), Some(5));
    let shown = text(&output.stderr);
    let error = shown.find("error:").map_or(&shown[..], |start| &shown[start..]);
    insta::assert_snapshot!(error.trim_end());

    let output = go(&["training_parameters.steps=4", "optimizer.lr=1e-4"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = program::text(&output);
    for part in ["changed since the checkpoint of step 3", "optimizer.lr", "0.0001"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }

    let reset = "checkpoint.reset=['schedule']";
    let output = go(&["training_parameters.steps=5", "checkpoint.init_from=nowhere", reset]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = program::text(&output);
    for part in ["`checkpoint.init_from` (nowhere) is not read", "begins anew at step 4"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn variables_of_launchers_are_told_with_a_way_out() {
    type Variables = [(&'static str, &'static str)];
    let config = ["--config", "run.toml", "--cfg"];
    let rows: [(&Variables, i32, &str); 7] = [
        (&[("WORLD_SIZE", "4")], 3, "env -u WORLD_SIZE .."),
        (&[("WORLD_SIZE", "1")], 0, "[device_parameters]"),
        (&[("RANK", "1"), ("WORLD_SIZE", "2")], 3, "`LOCAL_RANK` is not set"),
        (&[("RANK", "0"), ("WORLD_SIZE", "1")], 0, "[device_parameters]"),
        (&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")], 0, "[run]"),
        (&[("WORLD_SIZE", "4"), ("DREAM_TRAIN_LAUNCHER", "none")], 0, "[device_parameters]"),
        (&[("DREAM_TRAIN_LOG", "debug"), ("DREAM_TRAIN_RUN__SEED", "7")], 0, "seed = 7"),
    ];
    for (variables, code, part) in rows {
        let folder = folder();
        let mut command = program::command(folder.path(), &config);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let shown = program::text(&output);
        assert_eq!(output.status.code(), Some(code), "{variables:?}: {shown}");
        assert!(shown.contains(part), "{variables:?}: {shown}");
    }
}

#[test]
fn the_log_is_chosen_by_its_variable() {
    let log = |filter: &str| {
        let folder = folder();
        let mut command = program::command(folder.path(), &["--config", "run.toml"]);
        let allocation = [("SLURM_NTASKS", "4"), ("DREAM_TRAIN_LOG", filter)];
        let output = command.envs(allocation).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", program::text(&output));
        program::text(&output)
            .contains("`SLURM_NTASKS` is 4, but `srun` did not start this process")
    };
    assert!(log("warn") && !log("off"));
}

/// A limit of the address space stands in for a machine that gives no more threads.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_be_started_end_the_run() {
    let folder = folder();
    let sets = "--set device_parameters.preset=ddp --set training_parameters.global_batch_size=400";
    let lines = [
        "selftest --world-size 400".to_owned(),
        format!("--config run.toml --world-size 400 {sets}"),
        "selftest --world-size 1000000000".to_owned(),
    ];
    for line in lines {
        let script = format!("ulimit -v 8000000; exec '{}' {line}", program::PROGRAM);
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]).current_dir(folder.path());
        let output = command.output().unwrap();
        let shown = program::text(&output);
        assert_eq!(output.status.code(), Some(3), "{line}: {shown}");
        assert!(shown.contains("000 ranks") || shown.contains("400 ranks"), "{line}: {shown}");
        assert!(!shown.contains("panicked"), "{line}: {shown}");
    }
}

#[test]
fn an_output_folder_that_cannot_be_made_is_an_error_before_training() {
    let folder = folder();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let output =
        run(folder.path(), &["--config", "run.toml", "--set", "run.output_dir=file/below"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("output_dir"));
}

#[test]
fn a_listing_of_the_mesh_is_one_command() {
    let folder = folder();
    let arguments = [
        "topo",
        "--world-size",
        "24",
        "--tp",
        "2",
        "--cp",
        "2",
        "--pp",
        "2",
        "--mesh-order",
        "dp,pp,cp,tp",
    ];
    let shown = text(&run(folder.path(), &arguments).stdout);
    assert!(shown.contains("[ 5/23]: [cp:0/1][pp:1/1][tp:1/1][dp:0/2]"), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with('[')).count(), 24);
}

#[test]
fn helpers_run_without_a_configuration() {
    let folder = folder();
    for (arguments, part) in [
        (&["selftest", "--world-size", "2"][..], "all_reduce"),
        (&["doctor"], "kernels"),
        (&["config", "schema"], "\"device_parameters\""),
        (&["completions", "bash"], "_dream"),
        (&["summarize", "--config", "run.toml"], "parameters"),
        (&["benchmark", "--config", "run.toml", "--steps", "3", "--warmup", "1"], "tok/s"),
        (&["bench-comm", "--world-size", "2", "--bytes", "64KiB", "--iters", "3"], "all_reduce"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains(part), "{arguments:?}: {}", text(&output.stdout));
    }
}

#[test]
fn prepared_tokens_train() {
    let folder = folder();
    let words = "the quick brown fox jumps over the lazy dog\n".repeat(60);
    std::fs::write(folder.path().join("text.txt"), words).unwrap();
    let prepare = ["data", "prepare", "--input", "text.txt", "--output", "text.bin"];
    let output = run(folder.path(), &prepare);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let twice = run(folder.path(), &prepare);
    assert_eq!(twice.status.code(), Some(6), "an existing file is not overwritten");
    let config = TOML.replace(
        "source = \"synthetic\"\nvocab_size = 96\nnum_sequences = 16",
        "source = \"tokens\"\nfiles = [\"text.bin\"]",
    );
    std::fs::write(
        folder.path().join("tokens.toml"),
        config.replace("vocab_size = 96", "vocab_size = 257"),
    )
    .unwrap();
    let output = run(folder.path(), &["--config", "tokens.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn the_configuration_reference_is_fresh() {
    let folder = folder();
    let generated = text(&run(folder.path(), &["config", "docs"]).stdout);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = std::fs::read_to_string(page).unwrap();
    assert!(generated == written, "docs/configuration.md is stale; run `cargo xtask docs`");
}

#[test]
fn pipeline_schedules_are_drawn_and_read_back() {
    let folder = folder();
    let out =
        run(folder.path(), &["pipeline", "--schedule", "1f1b", "--pp", "2", "--microbatches", "4"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    insta::assert_snapshot!(text(&out.stdout));

    let made = ["--schedule", "zbv", "--pp", "4", "--microbatches", "8"];
    let form = |form| [&["pipeline"], &made[..], &["--format", form]].concat();
    let csv = run(folder.path(), &form("csv"));
    std::fs::write(folder.path().join("zbv.csv"), &csv.stdout).unwrap();
    let read = run(folder.path(), &["pipeline", "--file", "zbv.csv", "--format", "actions"]);
    assert_eq!(text(&read.stdout), text(&run(folder.path(), &form("actions")).stdout));
    assert!(text(&run(folder.path(), &form("svg")).stdout).starts_with("<svg"));

    for (arguments, part) in [
        (&["--schedule", "zbv", "--virtual-stages", "3"][..], "holds two stages on each rank"),
        (&["--schedule", "2f2b"], "one of gpipe, 1f1b"),
        (&["--file", "run.toml"], "row 1, column 1"),
        (&["--file", "nothing.csv"], "cannot read the schedule"),
    ] {
        let refused = run(folder.path(), &[&["pipeline"], arguments].concat());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(text(&refused.stderr).contains(part), "{part} in {}", text(&refused.stderr));
    }
}

#[test]
fn a_complete_run_says_so_with_its_folder() {
    let folder = folder();
    let arguments = ["--config", "run.toml", "--set", "checkpoint.enable=true"];
    assert_eq!(run(folder.path(), &arguments).status.code(), Some(0));
    let again = run(folder.path(), &arguments);
    assert_eq!(again.status.code(), Some(0), "{}", program::text(&again));
    let shown = program::text(&again);
    for part in ["this run is complete", "outputs/dream-train/default/run", "step=3"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("step 3/3"), "{shown}");
}

#[test]
fn a_leading_tilde_is_the_home_folder() {
    let folder = folder();
    let home = folder.path().join("home");
    std::fs::create_dir_all(home.join("texts")).unwrap();
    std::fs::write(home.join("texts/a.txt"), "a text of some length ".repeat(99)).unwrap();
    let sets = ["run.output_dir='~/runs'", "model.vocab_size=257"];
    let toml = TOML.split("[data]").next().unwrap();
    std::fs::write(
        folder.path().join("run.toml"),
        format!("{toml}[data]\nsource = \"text\"\nfiles = [\"~/texts/*.txt\"]\n"),
    )
    .unwrap();
    let arguments = ["--config", "run.toml", "--set", sets[0], "--set", sets[1]];
    let homeless = run(folder.path(), &arguments);
    assert_eq!(homeless.status.code(), Some(2), "{}", program::text(&homeless));
    let shown = program::text(&homeless);
    for part in ["run.output_dir", "data.files", "`HOME` is not set"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let output = program::command(folder.path(), &arguments).env("HOME", &home).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", program::text(&output));
    assert!(home.join("runs/dream-train/default/run/metrics.jsonl").exists());
    assert!(!folder.path().join("~").exists());
}

#[cfg(unix)]
#[test]
fn data_that_cannot_be_trusted_end_a_run_with_their_exit_code() {
    let folder = folder();
    let toml = TOML.split("[data]").next().unwrap().replace("vocab_size = 96", "vocab_size = 257");
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
    assert!(made.unwrap().success());
    let ids = |largest: u16| (0..999).flat_map(|i| (i % largest).to_le_bytes()).collect::<Vec<_>>();
    let files: [(&str, &[u8]); 6] = [
        ("foreign.bin", &ids(258)),
        ("odd.bin", &ids(9)[1..]),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        ("list.jsonl", b"[1]"),
        ("blank.jsonl", b"\n\n"),
        ("wide.txt", b"\xff\xfea\0"),
    ];
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let rows = [
        ("tokens", "pipe", "`pipe`: it is a named pipe"),
        ("text", "/dev/zero", "`/dev/zero`"),
        ("tokens", "foreign.bin", "token 257 of `foreign.bin` is the id 257"),
        ("tokens", "odd.bin", "`odd.bin` has 1997 bytes"),
        ("jsonl", "cut.jsonl.gz", "`cut.jsonl.gz`"),
        ("jsonl", "list.jsonl", "`list.jsonl` line 1"),
        ("jsonl", "blank.jsonl", "the data hold 0 tokens"),
        ("text", "wide.txt", "`wide.txt` is UTF-16"),
    ];
    for (source, file, expected) in rows {
        let data = format!("{toml}[data]\nsource = \"{source}\"\nfiles = [\"{file}\"]\n");
        std::fs::write(folder.path().join("run.toml"), data).unwrap();
        let output = run(folder.path(), &["--config", "run.toml"]);
        let shown = program::text(&output);
        assert_eq!(output.status.code(), Some(6), "{file}: {shown}");
        let flat = shown.replace("\n  caused by: ", ": ");
        assert!(flat.contains(expected), "{expected} in {shown}");
    }
}
