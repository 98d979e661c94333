//! The console never stops training: it is full, closed, gone, paused or tiny, and signals are heard.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use super::{folder, program, run, text};

/// Far above what any of these runs takes.
const PROMPT: Duration = Duration::from_mins(2);
/// More steps than any test lets run.
const ENDLESS: &str = "training_parameters.steps=1000000";

/// What is at the other end of both standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    /// A disk without room.
    Full,
    /// A pipe whose reader left, as `head` does.
    Closed,
    /// A full pipe whose reader does not read.
    Paused,
    /// A terminal that was closed.
    Gone,
    /// A terminal of one column and row that nobody reads.
    Tiny,
}

const CONSOLES: [Console; 5] =
    [Console::Full, Console::Closed, Console::Paused, Console::Gone, Console::Tiny];

impl Console {
    /// Returns one stream after the other, and what must live as long as the program.
    fn open(self) -> (Stdio, Stdio, Box<dyn Any>) {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        match self {
            Self::Full => (full().into(), full().into(), Box::new(())),
            Self::Closed => {
                let (_, writer) = io::pipe().unwrap();
                (writer.try_clone().unwrap().into(), writer.into(), Box::new(()))
            }
            Self::Paused => {
                let (reader, mut writer) = io::pipe().unwrap();
                writer.write_all(&vec![b'.'; 64 << 10]).unwrap();
                (writer.try_clone().unwrap().into(), writer.into(), Box::new(reader))
            }
            Self::Gone => {
                let pty = openpty(None, None).unwrap();
                (pty.slave.try_clone().unwrap().into(), pty.slave.into(), Box::new(()))
            }
            Self::Tiny => {
                let size = Winsize { ws_row: 1, ws_col: 1, ws_xpixel: 0, ws_ypixel: 0 };
                let pty = openpty(&size, None).unwrap();
                let out = pty.slave.try_clone().unwrap();
                (out.into(), pty.slave.into(), Box::new(pty.master))
            }
        }
    }
}

/// The arguments of a run that prints a line per step.
fn arguments<'a>(sets: &[&'a str]) -> Vec<&'a str> {
    let always = ["--config", "run.toml", "--set", "metrics.console_every_n_steps=1"];
    always.into_iter().chain(sets.iter().flat_map(|set| ["--set", *set])).collect()
}

fn training(folder: &Path, sets: &[&str]) -> Command {
    let mut command = program::command(folder, &arguments(sets));
    command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    command
}

fn run_folder(folder: &Path) -> PathBuf {
    folder.join("outputs/dream-train/default/run")
}

fn rows(folder: &Path) -> usize {
    let metrics = fs::read_to_string(run_folder(folder).join("metrics.jsonl"));
    metrics.map_or(0, |text| text.lines().count())
}

fn log(folder: &Path) -> String {
    fs::read_to_string(run_folder(folder).join("logs/rank-0.log")).unwrap_or_default()
}

/// Waits until something is so, while the program runs.
#[track_caller]
fn until(child: &mut Child, what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before this: {what}");
        assert!(start.elapsed() < PROMPT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end; a program that hangs is killed.
#[track_caller]
fn end(mut child: Child, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PROMPT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what} hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, child: &Child) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_console_in_any_state_does_not_stop_training() {
    for console in CONSOLES {
        let folder = folder();
        let (out, err, _other_end) = console.open();
        let mut command = training(folder.path(), &["training_parameters.steps=30"]);
        let child = command.stdout(out).stderr(err).spawn().unwrap();
        let status = end(child, &format!("{console:?}"));
        assert_eq!(status.code(), Some(0), "{console:?}");
        assert_eq!(rows(folder.path()), 30, "{console:?}");
        let log = log(folder.path());
        let warnings = log.lines().filter(|line| line.contains("the console")).count();
        match console {
            Console::Full | Console::Closed | Console::Gone => assert_eq!(warnings, 1, "{log}"),
            Console::Paused => {
                assert!(log.contains("the console did not take the last"), "{log}");
            }
            Console::Tiny => assert!(warnings <= 1, "{log}"),
        }
    }
}

#[test]
fn a_signal_ends_the_run_whatever_the_console_does() {
    let signals = [("-TERM", 0), ("-INT", 1), ("-HUP", 2), ("-TERM", 3), ("-HUP", 4)];
    for (signal_name, console) in signals {
        let signal_name = program::heeded(signal_name);
        let console = CONSOLES[console];
        let folder = folder();
        let (out, err, _other_end) = console.open();
        let mut command = training(folder.path(), &[ENDLESS, "checkpoint.enable=true"]);
        let mut child = command.stdout(out).stderr(err).spawn().unwrap();
        until(&mut child, "it trains", || rows(folder.path()) > 2);
        signal(signal_name, &child);
        let status = end(child, &format!("{signal_name} with {console:?}"));
        assert_eq!(status.code(), Some(130), "{signal_name} with {console:?}");
        let saved = fs::read_dir(run_folder(folder.path()).join("checkpoints")).unwrap();
        assert!(saved.count() >= 1, "the last step is saved: {signal_name} with {console:?}");
    }
}

#[test]
fn a_second_signal_ends_the_run_at_once() {
    let folder = folder();
    // One step of so many microbatches takes longer than the test.
    let sets = [
        "training_parameters.global_batch_size=200000",
        "training_parameters.micro_batch_size=1",
        "training_parameters.num_sanity_val_steps=0",
        "data.num_sequences=200000",
    ];
    let (out, err, _other_end) = Console::Paused.open();
    let mut child = training(folder.path(), &sets).stdout(out).stderr(err).spawn().unwrap();
    until(&mut child, "it starts", || run_folder(folder.path()).join("logs/rank-0.log").exists());
    signal("-HUP", &child);
    until(&mut child, "it tells", || log(folder.path()).contains("interrupted"));
    // A terminal that goes away sends more than one.
    signal("-HUP", &child);
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "a second hang-up belongs to the first");
    signal("-TERM", &child);
    assert_eq!(end(child, "the second signal").code(), Some(130));
    assert_eq!(rows(folder.path()), 0, "the step was not waited for");
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for name in ["HUP", "INT"] {
        let folder = folder();
        let script = format!("trap '' {name}; exec \"$0\" \"$@\"");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, program::PROGRAM]).args(arguments(&[ENDLESS]));
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.env_clear().spawn().unwrap();
        until(&mut child, "it trains", || rows(folder.path()) > 2);
        signal(&format!("-{name}"), &child);
        let before = rows(folder.path());
        until(&mut child, "it goes on", || rows(folder.path()) > before + 5);
        signal("-TERM", &child);
        assert_eq!(end(child, name).code(), Some(130), "{name}");
    }
}

#[test]
fn sigusr1_saves_and_goes_on() {
    for (launch, ranks) in [(false, "1"), (true, "2")] {
        let folder = folder();
        let sets = [ENDLESS, "checkpoint.enable=true", "device_parameters.preset=ddp"];
        let mut arguments = arguments(&sets);
        arguments.extend(["--world-size", ranks]);
        if launch {
            arguments.extend(["--max-restarts", "0"]);
        }
        let mut command = program::command(folder.path(), &arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        until(&mut child, "it trains", || rows(folder.path()) > 2);
        signal("-USR1", &child);
        let checkpoints = run_folder(folder.path()).join("checkpoints");
        let is_saved = || {
            let names = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
            names.into_iter().any(|entry| entry.path().join("manifest.json").exists())
        };
        until(&mut child, "it saves", is_saved);
        let before = rows(folder.path());
        until(&mut child, "it goes on", || rows(folder.path()) > before + 5);
        signal("-TERM", &child);
        assert_eq!(end(child, "the run").code(), Some(130));
    }
}

#[test]
fn sigusr1_without_checkpoints_is_answered() {
    let folder = folder();
    let mut command = training(folder.path(), &[ENDLESS]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(&mut child, "it trains", || rows(folder.path()) > 2);
    signal("-USR1", &child);
    until(&mut child, "it warns", || log(folder.path()).contains("`checkpoint.enable` is false"));
    signal("-TERM", &child);
    assert_eq!(end(child, "the run").code(), Some(130));
}

/// Commands that print, and more than a reader of one line takes.
const COMMANDS: [&[&str]; 8] = [
    &["--help"],
    &["--version"],
    &["completions", "bash"],
    &["topo", "--world-size", "4096", "--tp", "2"],
    &["config", "docs"],
    &["config", "schema"],
    &["plan", "--config", "run.toml"],
    &["doctor"],
];

#[test]
fn a_command_whose_reader_leaves_ends_quietly_and_a_full_disk_is_an_error() {
    let folder = folder();
    for arguments in COMMANDS {
        let (closed, _, _) = Console::Closed.open();
        let output = program::command(folder.path(), arguments).stdout(closed).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{arguments:?}");

        let (full, _, _) = Console::Full.open();
        let output = program::command(folder.path(), arguments).stdout(full).output().unwrap();
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {shown}");
        assert!(shown.starts_with("error: cannot write to standard output"), "{shown}");
    }
}

#[test]
fn an_error_that_nobody_can_be_told_keeps_its_exit_code() {
    let folder = folder();
    let failing: [(&[&str], i32); 3] = [
        (&["--no-such-flag"], 2),
        (&["--config", "missing.toml"], 2),
        (&["--config", "run.toml", "--set", "model.vocab_size=50"], 6),
    ];
    for console in CONSOLES {
        for (arguments, code) in failing {
            let (out, err, _other_end) = console.open();
            let mut command = program::command(folder.path(), arguments);
            let child = command.stdout(out).stderr(err).spawn().unwrap();
            let status = end(child, &format!("{arguments:?} with {console:?}"));
            assert_eq!(status.code(), Some(code), "{arguments:?} with {console:?}");
        }
    }
}

/// Runs a command on a terminal and returns all that the terminal got.
fn on_terminal(mut command: Command) -> String {
    let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    command.stdout(Stdio::from(pty.slave.try_clone().unwrap())).stderr(Stdio::from(pty.slave));
    let child = command.spawn().unwrap();
    // The command holds the other side, which the reader below waits for the end of.
    drop(command);
    let mut shown = Vec::new();
    let mut terminal = File::from(pty.master);
    let mut buffer = [0; 4096];
    // The end of a terminal is an error.
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
    }
    end(child, "a command on a terminal");
    text(&shown)
}

#[test]
fn colors_and_bars_are_for_terminals_that_want_them() {
    let folder = folder();
    let launched = [
        ("OMPI_COMM_WORLD_RANK", "0"),
        ("OMPI_COMM_WORLD_SIZE", "1"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "1"),
    ];
    let plain: [(&str, &[(&str, &str)]); 4] = [
        ("a terminal", &[]),
        ("TERM=dumb", &[("TERM", "dumb")]),
        ("NO_COLOR", &[("NO_COLOR", "1")]),
        ("mpirun", &launched),
    ];
    for (name, variables) in plain {
        for more in [&[][..], &["--help"], &["--no-such-flag"], &["--set", "optimizer.lrr=1"]] {
            let set = format!("run.experiment={}", name.replace(' ', "_"));
            let mut command = training(folder.path(), &[&set]);
            command.args(more).envs(variables.iter().copied());
            let shown = on_terminal(command);
            let is_plain = !shown.contains('\x1b');
            assert_eq!(is_plain, name != "a terminal", "{name} {more:?}: {shown:?}");
        }
    }
    let output = training(folder.path(), &["run.experiment=pipe"]).output().unwrap();
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert!(shown.contains("step 3/3") && !shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn log_filters_and_quiet_and_verbose_do_what_they_say() {
    let folder = folder();
    let mut wrong = program::command(folder.path(), &arguments(&[]));
    let output = wrong.env("DREAM_TRAIN_LOG", "dream_trainer=dbug").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("`DREAM_TRAIN_LOG=dream_trainer=dbug`"));
    assert!(!folder.path().join("outputs").exists(), "nothing was started");

    let quiet = run(folder.path(), &["--config", "run.toml", "--quiet"]);
    assert_eq!((text(&quiet.stdout), text(&quiet.stderr)), (String::new(), String::new()));
}
