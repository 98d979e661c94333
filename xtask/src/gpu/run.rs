//! Running a program with a time limit, with its output in a file and the GPU's memory watched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(100);
/// Pause between two readings of the GPU's memory.
const READING: Duration = Duration::from_secs(1);
/// How long a program that was asked to end may take.
const GRACE: Duration = Duration::from_secs(5);

/// What a program did.
#[derive(Debug)]
pub(super) struct Ran {
    /// Whether it ended by itself, and well.
    pub(super) is_success: bool,
    pub(super) has_timed_out: bool,
    pub(super) seconds: f64,
    /// All it printed.
    pub(super) output: String,
    /// Most memory of the first GPU in MiB, if `nvidia-smi` tells.
    pub(super) peak_gpu_mib: Option<u64>,
}

/// Runs a program in a folder and writes what it prints to a file.
pub(super) fn run(
    words: &[String],
    folder: &Path,
    log: &Path,
    limit: Duration,
) -> Result<Ran, String> {
    let failed = |error: std::io::Error| format!("cannot run `{}`: {error}", words[0]);
    let begun = Instant::now();
    let file = File::create(log).map_err(failed)?;
    let errors = file.try_clone().map_err(failed)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null()).stdout(file).stderr(errors);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(failed)?;
    let (mut peak, mut read_at, mut has_timed_out) = (None, begun, false);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if begun.elapsed() >= limit {
            has_timed_out = true;
            end(&mut child);
            break child.wait().map_err(failed)?;
        }
        if read_at <= Instant::now() {
            peak = peak.max(gpu_memory());
            read_at = Instant::now() + READING;
        }
        thread::sleep(LOOK);
    };
    let output = std::fs::read(log).map_err(failed)?;
    Ok(Ran {
        is_success: status.success() && !has_timed_out,
        has_timed_out,
        seconds: begun.elapsed().as_secs_f64(),
        output: String::from_utf8_lossy(&output).into_owned(),
        peak_gpu_mib: peak,
    })
}

/// Ends a program and what it has started: first by asking, then for good.
fn end(child: &mut Child) {
    for how in ["-TERM", "-KILL"] {
        // `kill` is everywhere where GPUs are; without it the wait below shows it.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args([how, "--", &group]).stderr(Stdio::null()).status();
        let begun = Instant::now();
        while begun.elapsed() < GRACE {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK);
        }
    }
    let _ = child.kill();
}

/// Returns the first line that a program prints, if it succeeds.
pub(super) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

fn gpu_memory() -> Option<u64> {
    first_line("nvidia-smi", &["--query-gpu=memory.used", "--format=csv,noheader,nounits"])?
        .parse()
        .ok()
}

/// Writes a command as a shell reads it.
pub(super) fn shown(words: &[String]) -> String {
    let quoted = |word: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Returns an absolute path of something that exists.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_what_it_started() {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("xtask-gpu-run-{}.log", std::process::id()));
        let words = ["sh", "-c", "echo begun; sleep 600 & sleep 600"].map(String::from);
        let begun = Instant::now();
        let ran = run(&words, &folder, &log, Duration::from_millis(500)).expect("it runs");
        assert!(ran.has_timed_out && !ran.is_success && ran.output == "begun\n", "{ran:?}");
        assert!(begun.elapsed() < Duration::from_mins(1));
        std::fs::remove_file(log).expect("it was written");
    }

    #[test]
    fn commands_are_shown_as_a_shell_reads_them() {
        let words = ["a", "--set", "x='a b'", ""].map(String::from);
        assert_eq!(shown(&words), r"a --set 'x='\''a b'\''' ''");
    }
}
