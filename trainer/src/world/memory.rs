//! The memory of this machine.

use std::fs;

/// Returns the bytes of memory that this process may use, swap included: those of the machine, or of
/// its control group if that allows less. Nothing where the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    let machine = total(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = limit.and_then(|limit| limit.trim().parse::<u64>().ok());
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// Adds memory and swap of a listing in kibibytes.
fn total(listing: &str) -> Option<u64> {
    let row = |name: &str| {
        let line = listing.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 =
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    row("MemTotal")?.checked_add(row("SwapTotal").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_are_added() {
        let listing = "MemTotal:       1000 kB\nMemFree:  1 kB\nSwapTotal:  24 kB\n";
        assert_eq!(total(listing), Some(1024 * 1024));
        assert_eq!(total("MemTotal: 2 kB"), Some(2048));
        assert_eq!(total("MemFree: 2 kB"), None);
    }
}
