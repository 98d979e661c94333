//! The undisturbed run of a setup, made once.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::failure::{Failure, Fault, broken};
use super::lab::Lab;
use super::process::{Running, Streams};
use super::record::{Rows, tensors};
use super::setup::{FILE, RUN};

/// What an undisturbed run left.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) rows: Rows,
    pub(super) tensors: BTreeMap<String, u64>,
    /// How long it took.
    pub(super) time: Duration,
}

type Slot = Arc<OnceLock<Result<Arc<Reference>, Failure>>>;

/// References by configuration.
#[derive(Default)]
pub(super) struct References(Mutex<BTreeMap<String, Slot>>);

impl References {
    /// Returns the reference of a configuration of `steps` steps, made on first use with thread
    /// ranks: processes compute the same numbers.
    pub(super) fn get(&self, lab: &Lab, toml: &str, steps: u64) -> Result<Arc<Reference>, Failure> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(toml.to_owned()).or_default())
        };
        slot.get_or_init(|| make(lab, toml, steps).map(Arc::new)).clone()
    }
}

fn make(lab: &Lab, toml: &str, steps: u64) -> Result<Reference, Failure> {
    let mut hasher = DefaultHasher::new();
    hasher.write(toml.as_bytes());
    let folder = lab.folder.join(format!("reference-{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).map_err(broken(folder.display()))?;
    fs::write(folder.join(FILE), toml).map_err(broken(folder.display()))?;
    let begun = Instant::now();
    let command = lab.command(&folder, None, &["--config", FILE]);
    let output = folder.join("output.txt");
    Running::start(command, &output, Streams::default())?.end(lab.limit)?.check(&[0])?;
    let time = begun.elapsed();
    let run = folder.join(RUN);
    let reference = Reference { rows: Rows::read(&run)?, tensors: tensors(&run, steps)?, time };
    if reference.rows.len() < steps as usize || reference.tensors.is_empty() {
        return Err(Fault::Rows.with(format!("the reference {} is short", folder.display())));
    }
    remove(&folder)?;
    Ok(reference)
}

/// Removes a folder with all it holds.
pub(super) fn remove(folder: &Path) -> Result<(), Failure> {
    fs::remove_dir_all(folder).map_err(broken(folder.display()))
}
