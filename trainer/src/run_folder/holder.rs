//! Who holds a run folder, as its lock file tells others.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::host_name;

/// Largest part of a lock file that is read.
const MOST_BYTES: u64 = 4096;
/// Pause between two looks at a lock file whose holder may still be writing.
const LOOK: Duration = Duration::from_millis(20);
/// How often a lock file is looked at.
const LOOKS: u32 = 50;

/// A process that holds a run folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id on its host.
    pub process: u32,
    /// Host name.
    pub host: String,
    /// When it took the folder: date and time in UTC, to the second, as in RFC 3339.
    pub started: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, host, started } = self;
        write!(f, "process {process} on host `{host}` since {started}")
    }
}

impl Holder {
    /// Describes this process, now.
    pub(super) fn this_process() -> Self {
        let now = OffsetDateTime::now_utc();
        let started = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339);
        let started = started.unwrap_or_else(|_| now.unix_timestamp().to_string());
        Self { process: std::process::id(), host: host_name(), started }
    }

    /// Writes it into a lock file in place of an earlier holder.
    pub(super) fn write(&self, file: &mut File) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())
    }

    /// Reads it from the lock file of another process.
    ///
    /// That process writes right after it has taken the lock. Until two looks see the same, the file
    /// may be empty or may still name the holder before.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let mut before = None;
        for _ in 0..LOOKS {
            let now = look(path);
            if now.is_some() && now == before {
                return now;
            }
            before = now;
            std::thread::sleep(LOOK);
        }
        None
    }
}

fn look(path: &Path) -> Option<Holder> {
    let mut text = String::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    toml::from_str(&text).ok()
}
