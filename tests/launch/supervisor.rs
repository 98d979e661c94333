//! A run ends with whoever watches over it.

use std::time::{Duration, Instant};

use crate::processes;
use crate::program::{self, command, text};
use crate::{PROMPT, end, folder, run_folder, signal, supervised};

/// A run that goes on until it is told to end.
const ENDLESS: [&str; 4] = ["--config", "run.toml", "--set", "training_parameters.steps=1000000"];

#[test]
fn a_run_ends_with_its_supervisor() {
    let restarts = ["--max-restarts", "2"];
    let launched = [&["launch"][..], &ENDLESS].concat();
    let followed = [&launched[..], &["--idle-timeout", "60"]].concat();
    let plain = [&ENDLESS[..], &restarts].concat();
    // How the supervisor ends, and the exit code it leaves with; nothing after SIGKILL.
    let rows = [
        (&plain, "-KILL", None),
        (&launched, "-KILL", None),
        // What it prints goes to the supervisor, and so nowhere.
        (&followed, "-KILL", None),
        (&plain, "-HUP", Some(130)),
        (&followed, "-INT", Some(130)),
        (&plain, "-TERM", Some(130)),
    ];
    for (arguments, name, code) in rows {
        let folder = folder();
        let (child, watched) = supervised(folder.path(), arguments);
        signal(program::heeded(name), child.id());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{name}: {}", text(&output));
        processes::gone(&[watched]);
        // It ended in order: its last step is saved, and the folder is free.
        let (done, _) = end(folder.path());
        let saved = run_folder(folder.path()).join(format!("checkpoints/step-{done:08}"));
        assert!(saved.join("manifest.json").exists(), "{name}: step {done} is not saved");
        let last = format!("training_parameters.steps={}", done + 1);
        let again = command(folder.path(), &["--config", "run.toml", "--set", &last]).output();
        let again = again.unwrap();
        assert_eq!(again.status.code(), Some(0), "{name}: {}", text(&again));
        assert_eq!(end(folder.path()).0, done + 1);
    }
}

#[test]
fn a_restarted_run_ends_with_its_supervisor_too() {
    let folder = folder();
    let arguments = [&ENDLESS[..], &["--max-restarts", "2", "--restart-delay", "0"]].concat();
    let (child, first) = supervised(folder.path(), &arguments);
    signal("-KILL", first);
    let start = Instant::now();
    let second = loop {
        assert!(start.elapsed() < PROMPT, "it was not started again");
        match processes::children(child.id())[..] {
            [process] if process != first => break process,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    signal("-KILL", child.id());
    child.wait_with_output().unwrap();
    processes::gone(&[second]);
}
