//! `dream-train launch` and supervision: the commands it prints, and runs that hang or are killed.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/processes.rs"]
mod processes;
#[path = "support/program.rs"]
mod program;
#[path = "launch/supervisor.rs"]
mod supervisor;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::{PROGRAM, command, folder_with, text};

/// Far above what any of these runs takes.
const PROMPT: Duration = Duration::from_mins(2);

/// What a dry run prints, with the program as a user calls it.
fn dry_run(folder: &Path, arguments: &[&str], variables: &[(&str, String)]) -> String {
    let mut command = command(folder, arguments);
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.arg("--dry-run").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    text(&output).trim_end().replace(PROGRAM, "dream-train")
}

/// Variables of a scheduler, arguments of `launch`, the command it prints.
type CommandRow<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn each_scheduler_gets_its_command() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = folder.path().join("nodes");
    fs::write(&nodes, "one\ntwo\none\ntwo\n").unwrap();
    let slurm =
        [("SLURM_JOB_ID", "1"), ("SLURM_JOB_NUM_NODES", "2"), ("SLURM_NTASKS_PER_NODE", "4")];
    let pbs = [("PBS_JOBID", "1"), ("PBS_NODEFILE", nodes.to_str().unwrap())];
    let rows: [CommandRow<'_>; 10] = [
        (&[], &[], "dream-train --config a.toml"),
        (
            &[],
            &["--nproc", "4"],
            "OMPI_MCA_odls_base_sigkill_timeout=60 mpiexec -n 4 dream-train --config a.toml",
        ),
        (
            &[],
            &[
                "--nproc",
                "4",
                "--launcher-arg=--bind-to",
                "--launcher-arg=none",
                "--set",
                "run.project='a b'",
            ],
            r"OMPI_MCA_odls_base_sigkill_timeout=60 mpiexec -n 4 --bind-to none dream-train --config a.toml --set 'run.project='\''a b'\'''",
        ),
        (
            &slurm,
            &[],
            "srun --ntasks=8 --nodes=2 --ntasks-per-node=4 --mpi=pmix --kill-on-bad-exit=1 dream-train --config a.toml",
        ),
        (
            &slurm,
            &["--nproc", "4"],
            "srun --ntasks=4 --nodes=1 --ntasks-per-node=4 --mpi=pmix --kill-on-bad-exit=1 dream-train --config a.toml",
        ),
        (&pbs, &["--ranks-per-node", "12"], "mpiexec -n 24 --ppn 12 dream-train --config a.toml"),
        (
            &slurm,
            &["--scheduler", "mpi", "--nodes", "2", "--ranks-per-node", "3"],
            "OMPI_MCA_odls_base_sigkill_timeout=60 mpiexec -n 6 --map-by ppr:3:node dream-train --config a.toml",
        ),
        (
            &[],
            &["--scheduler", "slurm", "--nproc", "3"],
            "srun --ntasks=3 --mpi=pmix --kill-on-bad-exit=1 dream-train --config a.toml",
        ),
        (&[], &["--scheduler", "local"], "dream-train --config a.toml"),
        (
            &[],
            &["--scheduler", "local", "--nproc", "2"],
            "DREAM_TRAIN_LAUNCHER=dream-train RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 \
             MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 dream-train --config a.toml\n\
             DREAM_TRAIN_LAUNCHER=dream-train RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 \
             MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 dream-train --config a.toml",
        ),
    ];
    for (variables, arguments, expected) in rows {
        let variables: Vec<(&str, String)> =
            variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let arguments = [&["launch", "--config", "a.toml"][..], arguments].concat();
        assert_eq!(dry_run(folder.path(), &arguments, &variables), expected);
    }
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["launch", "--nproc", "9", "--nodes", "2", "--ranks-per-node", "4", "--dry-run"];
    let output = command(folder.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("9 processes do not take 2 nodes"), "{}", text(&output));
}

#[test]
fn processes_of_one_machine_have_neither_nodes_nor_a_launcher() {
    let folder = tempfile::tempdir().unwrap();
    let rows: [(&[&str], &str); 2] = [
        (&["--nodes", "2", "--ranks-per-node", "2"], "on this machine only"),
        (&["--nproc", "2", "--launcher-arg=--bind-to"], "has nowhere to go"),
    ];
    for (arguments, expected) in rows {
        let arguments = [&["launch", "--scheduler", "local"][..], arguments].concat();
        let output = command(folder.path(), &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

/// CPU ranks that are processes meet over MPI, which this launcher does not start: every one says so,
/// and the supervisor ends with the exit code of the first.
#[test]
fn processes_that_cannot_join_end_the_run() {
    let folder = folder();
    let arguments = ["launch", "--scheduler", "local", "--nproc", "2", "--config", "run.toml"];
    let output = command(folder.path(), &arguments).output().unwrap();
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("dream-train started 2 processes"), "{shown}");
    assert!(shown.contains("launch: the run ended with exit code 3"), "{shown}");
}

/// The comment `#   COMMAND` of a template is what its last line starts in an allocation of the
/// template's own directives.
#[test]
fn templates_say_what_they_start() {
    let folder = tempfile::tempdir().unwrap();
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/launch");
    for name in ["slurm.sbatch", "pbs.sh"] {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        let directive = |key: &str| {
            let value = page.lines().find_map(|line| line.split_once(key)).map(|(_, value)| value);
            value.map(|value| value.trim().to_owned())
        };
        let variables = if name == "pbs.sh" {
            let count: usize = directive("-l select=").unwrap().parse().unwrap();
            let nodes: Vec<String> = (0..count).map(|node| format!("node{node}\n")).collect();
            let list = folder.path().join("nodes");
            fs::write(&list, nodes.concat()).unwrap();
            vec![("PBS_JOBID", "1".to_owned()), ("PBS_NODEFILE", list.display().to_string())]
        } else {
            vec![
                ("SLURM_JOB_ID", "1".to_owned()),
                ("SLURM_JOB_NUM_NODES", directive("#SBATCH --nodes=").unwrap()),
                ("SLURM_NTASKS_PER_NODE", directive("#SBATCH --ntasks-per-node=").unwrap()),
            ]
        };
        let started = page.lines().find_map(|line| line.strip_prefix("exec dream-train ")).unwrap();
        let arguments: Vec<&str> = started.split_whitespace().collect();
        let said = page.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();
        assert_eq!(dry_run(folder.path(), &arguments, &variables), said, "{name}");
    }
    let page = fs::read_to_string(pages.join("mpi.md")).unwrap();
    let mut lines = page.lines().skip_while(|line| !line.contains("--dry-run --config"));
    let shown = lines.next().unwrap().trim_start_matches("$ dream-train ");
    let arguments: Vec<&str> =
        shown.split_whitespace().filter(|word| *word != "--dry-run").collect();
    assert_eq!(dry_run(folder.path(), &arguments, &[]), lines.next().unwrap());
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
[device_parameters]
preset = "ddp"
world_size = 2
[training_parameters]
steps = 300
global_batch_size = 4
sequence_length = 16
num_sanity_val_steps = 0
[data]
source = "synthetic"
vocab_size = 96
num_sequences = 64
[checkpoint]
enable = true
keep_latest = 0
every_n_steps = 20
"#;

fn folder() -> tempfile::TempDir {
    folder_with(TOML)
}

fn run_folder(folder: &Path) -> PathBuf {
    folder.join("outputs/dream-train/default/run")
}

/// Starts a supervised run and returns it with the process it watches, once that has saved.
fn supervised(folder: &Path, arguments: &[&str]) -> (Child, u32) {
    supervised_to(20, folder, arguments)
}

/// Starts a supervised run and returns it with the process it watches, once a step is saved.
fn supervised_to(step: u64, folder: &Path, arguments: &[&str]) -> (Child, u32) {
    let mut command = command(folder, arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let saved = run_folder(folder).join(format!("checkpoints/step-{step:08}"));
    let start = Instant::now();
    while !saved.exists() {
        assert!(start.elapsed() < PROMPT, "the run did not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    let id = child.id();
    let watched = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    (child, watched.trim().parse().unwrap())
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

/// Step and loss of the last line of metrics.
fn end(folder: &Path) -> (u64, f64) {
    let lines = fs::read_to_string(run_folder(folder).join("metrics.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    (row["step"].as_u64().unwrap(), row["loss"].as_f64().unwrap())
}

#[test]
fn a_killed_run_starts_again_from_its_checkpoint_and_gives_the_same_numbers() {
    let whole = folder();
    let output = command(whole.path(), &["--config", "run.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let folder = folder();
    let arguments = ["--config", "run.toml", "--max-restarts", "2", "--restart-delay", "0"];
    let (child, watched) = supervised(folder.path(), &arguments);
    signal("-KILL", watched);
    let output = child.wait_with_output().unwrap();
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("ended by signal 9; restart 1 of 2"), "{shown}");
    assert_eq!(shown.matches("launch: ").count(), 1, "{shown}");
    assert_eq!(end(folder.path()), end(whole.path()));
}

#[test]
fn a_branch_begins_once_however_often_its_run_starts_again() {
    let whole = folder();
    let output = command(whole.path(), &["--config", "run.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let folder = folder();
    let short = ["--config", "run.toml", "--set", "training_parameters.steps=40"];
    let output = command(folder.path(), &short).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let arguments = [
        &["--config", "run.toml", "--max-restarts", "2", "--restart-delay", "0"][..],
        &["--set", "checkpoint.resume_step=20"],
    ]
    .concat();
    let (child, watched) = supervised_to(80, folder.path(), &arguments);
    signal("-KILL", watched);
    let output = child.wait_with_output().unwrap();
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("restart 1 of 2"), "{shown}");
    assert_eq!(shown.matches("a branch begins at step 20").count(), 1, "{shown}");
    assert_eq!(shown.matches("resume_step = 20 in `[checkpoint]` was carried out").count(), 1);
    assert!(shown.contains("step-00000040.superseded-1"), "{shown}");
    assert!(!run_folder(folder.path()).join("checkpoints/step-00000040.superseded-2").exists());
    assert_eq!(end(folder.path()), end(whole.path()));
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_cause() {
    let folder = folder();
    let set = |steps| format!("training_parameters.steps={steps}");
    let go = |steps| {
        let output =
            command(folder.path(), &["--config", "run.toml", "--set", &set(steps)]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    go(40);
    let manifest = run_folder(folder.path()).join("checkpoints/step-00000040/manifest.json");
    fs::remove_file(manifest).unwrap();
    let shown = go(60);
    let lines: String = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "the checkpoint of step 40 is damaged and was set aside as",
        "step-00000040.damaged-1",
        "holds no `manifest.json`",
        "the run goes on from step 20",
    ] {
        assert!(lines.contains(part), "{part}: {shown}");
    }
    assert!(!go(60).contains("damaged"));
}

#[test]
fn a_run_that_hangs_is_ended_and_started_again() {
    let folder = folder();
    let arguments = [
        &["launch", "--config", "run.toml", "--idle-timeout", "4"][..],
        &["--max-restarts", "1", "--restart-delay", "0"],
    ]
    .concat();
    let (child, watched) = supervised(folder.path(), &arguments);
    signal("-STOP", watched);
    let output = child.wait_with_output().unwrap();
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(
        shown.contains("printed nothing for too long and was ended; restart 1 of 1"),
        "{shown}"
    );
    assert_eq!(end(folder.path()).0, 300);
}

#[test]
fn a_run_that_hangs_for_good_leaves_with_its_own_exit_code() {
    let folder = folder();
    let (child, watched) =
        supervised(folder.path(), &["--config", "run.toml", "--idle-timeout", "2"]);
    signal("-STOP", watched);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{}", text(&output));
}

#[test]
fn a_wish_to_end_is_passed_on_once() {
    let folder = folder();
    let arguments = ["launch", "--config", "run.toml", "--max-restarts", "3"];
    let (child, _) = supervised(folder.path(), &arguments);
    signal("-TERM", child.id());
    let output = child.wait_with_output().unwrap();
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(130), "{shown}");
    assert!(!shown.contains("restart"), "{shown}");
    let saved = fs::read_dir(run_folder(folder.path()).join("checkpoints")).unwrap();
    assert!(saved.count() >= 2, "the last step is saved on the way out");
}

#[test]
fn what_is_wrong_every_time_is_not_tried_again() {
    let folder = folder();
    let arguments = ["--config", "run.toml", "--max-restarts", "3", "--set", "optimizer.lrr=1"];
    let output = command(folder.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(!text(&output).contains("restart"), "{}", text(&output));
}

#[test]
fn one_rank_of_a_world_supervises_nobody() {
    let folder = folder();
    let mut command = command(folder.path(), &["--config", "run.toml", "--max-restarts", "1"]);
    for (name, value) in
        [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")]
    {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("dream-train launch"), "{}", text(&output));
}
