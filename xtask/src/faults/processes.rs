//! What is left of a run in the list of processes.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Returns a process and all it started, parents first.
pub(super) fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

/// Returns the processes that a process started.
pub(super) fn children(of: u32) -> Vec<u32> {
    // Each thread that started some lists its own.
    let threads = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    let ids = lists.iter().flat_map(|list| list.split_whitespace());
    let mut found: Vec<u32> = ids.filter_map(|id| id.parse().ok()).collect();
    found.sort_unstable();
    found
}

/// Returns the processes whose working directory is `folder`. One that has ended, but was not waited
/// for, has none.
pub(super) fn inside(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|place| place == folder)
    })
    .collect()
}

/// Returns whether a process runs a program.
pub(super) fn runs(process: u32, program: &Path) -> bool {
    fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|file| file == program)
}

/// Describes where the threads of a process are, as far as the kernel tells.
pub(super) fn threads(of: u32) -> String {
    let mut text = format!("process {of}\n");
    for thread in fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let (name, call) = (read("comm"), read("syscall"));
        let state = read("status").lines().find(|line| line.starts_with("State")).map(String::from);
        let state = state.unwrap_or_default();
        let _ = writeln!(text, "  {} {state} {}", name.trim(), call.trim());
        for line in read("stack").lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}
