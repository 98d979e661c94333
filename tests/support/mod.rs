//! Runs configurations inside the test process and collects what callbacks see.

pub mod tolerance;

use std::path::Path;
use std::sync::{Arc, Mutex};

use dream_trainer::callbacks::{
    Callback, CallbackResult, CallbackSet, MemoryUse, Requests, RunView,
};
use dream_trainer::comm::Ranks;
use dream_trainer::config::{self, Sources};
use dream_trainer::metrics::{PrecisionReport, StepInfo, ValidationInfo};
use dream_trainer::recipe::{Prepared, Recipe, find};
use dream_trainer::train::{Interrupt, RunOutcome};

/// A Llama of 20 thousand parameters on made-up tokens.
pub const TINY: &str = r#"
[model]
name = "llama3"
dim = 32
num_layers = 2
num_heads = 4
num_kv_heads = 2
ffn_dim = 64
vocab_size = 96

[training_parameters]
steps = 6
global_batch_size = 8
sequence_length = 16

[optimizer]
lr = 1e-2

[data]
source = "synthetic"
vocab_size = 96
num_sequences = 64

[metrics]
jsonl = false
"#;

/// A GPT-2 with biases on made-up tokens.
pub const GPT2: &str = r#"
[model]
name = "gpt2"
dim = 32
num_layers = 2
num_heads = 4
vocab_size = 97
max_seq_len = 64
bias = true

[training_parameters]
steps = 6
global_batch_size = 8
sequence_length = 16

[optimizer]
lr = 1e-2

[data]
source = "synthetic"
vocab_size = 97
num_sequences = 64

[metrics]
jsonl = false
"#;

/// What a run reported.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Steps, in order.
    pub steps: Vec<StepInfo>,
    /// What the first step showed of memory.
    pub memory: Option<MemoryUse>,
    /// Validations, in order.
    pub validations: Vec<ValidationInfo>,
    /// Element types of the first update.
    pub precision: Option<PrecisionReport>,
    /// Epochs that began and ended, in order.
    pub epochs: Vec<Epoch>,
}

/// The beginning or the end of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    /// Before its first step.
    Begins(u64),
    /// After its last step.
    Ends(u64),
}

struct Collect {
    seen: Arc<Mutex<Seen>>,
    stop_after: Option<u64>,
    save_after: Option<u64>,
}

impl Callback for Collect {
    fn name(&self) -> &'static str {
        "collect"
    }

    fn post_train_step(
        &mut self,
        _: &RunView,
        info: &StepInfo,
        requests: &mut Requests,
    ) -> CallbackResult {
        self.seen.lock().unwrap().steps.push(info.clone());
        requests.stop = self.stop_after == Some(info.step);
        requests.save = self.save_after == Some(info.step);
        Ok(())
    }

    fn pre_epoch(&mut self, _: &RunView, epoch: u64) -> CallbackResult {
        self.seen.lock().unwrap().epochs.push(Epoch::Begins(epoch));
        Ok(())
    }

    fn post_epoch(&mut self, _: &RunView, epoch: u64) -> CallbackResult {
        self.seen.lock().unwrap().epochs.push(Epoch::Ends(epoch));
        Ok(())
    }

    fn post_first_step(&mut self, _: &RunView, memory: &MemoryUse) -> CallbackResult {
        self.seen.lock().unwrap().memory = Some(*memory);
        Ok(())
    }

    fn post_first_update(&mut self, _: &RunView, report: &PrecisionReport) -> CallbackResult {
        self.seen.lock().unwrap().precision = Some(report.clone());
        Ok(())
    }

    fn post_validation(&mut self, _: &RunView, info: &ValidationInfo) -> CallbackResult {
        self.seen.lock().unwrap().validations.push(info.clone());
        Ok(())
    }
}

/// A configuration to run: a TOML text in a folder, and settings over it.
pub struct Run<'a> {
    /// Folder for the file and the outputs.
    pub folder: &'a Path,
    /// TOML text.
    pub toml: &'a str,
    /// `key=value` settings.
    pub sets: Vec<String>,
    /// Step after which a callback asks to stop.
    pub stop_after: Option<u64>,
    /// Step after which a callback asks for a checkpoint.
    pub save_after: Option<u64>,
}

impl<'a> Run<'a> {
    /// Prepares to run a text.
    pub fn new(folder: &'a Path, toml: &'a str) -> Self {
        Self { folder, toml, sets: Vec::new(), stop_after: None, save_after: None }
    }

    /// Adds settings.
    pub fn with(mut self, sets: &[&str]) -> Self {
        self.sets.extend(sets.iter().map(|set| (*set).to_owned()));
        self
    }

    /// Stops after a step.
    pub fn stopping_after(mut self, step: u64) -> Self {
        self.stop_after = Some(step);
        self
    }

    /// Saves after a step.
    pub fn saving_after(mut self, step: u64) -> Self {
        self.save_after = Some(step);
        self
    }

    /// Runs it; an error comes as text.
    pub fn go(self) -> Result<(RunOutcome, Seen), String> {
        let (stop_after, save_after) = (self.stop_after, self.save_after);
        self.prepared(|prepared| run_prepared(prepared, stop_after, save_after))?
    }

    /// Prepares it and hands it over; an error comes as text.
    pub fn prepared<R>(self, then: impl FnOnce(&dyn Prepared) -> R) -> Result<R, String> {
        let file = self.folder.join("run.toml");
        std::fs::write(&file, self.toml).unwrap();
        let mut sets = vec![format!("run.output_dir='{}'", self.folder.join("outputs").display())];
        sets.extend(self.sets);
        let sources = Sources { files: vec![file], sets, ..Sources::default() };
        let loaded = config::load(&sources).map_err(|errors| errors.to_string())?;
        let resolved = loaded.resolve(None).map_err(|errors| errors.to_string())?;
        let recipes: Vec<Recipe> = recipes();
        let recipe = find(&recipes, &resolved.model).map_err(|errors| errors.to_string())?;
        let prepared = recipe.prepare(&loaded, &resolved).map_err(|error| chain(&error))?;
        Ok(then(prepared.as_ref()))
    }
}

/// The recipes of the program.
pub fn recipes() -> Vec<Recipe> {
    dream_models::recipes().into()
}

fn run_prepared(
    prepared: &dyn Prepared,
    stop_after: Option<u64>,
    save_after: Option<u64>,
) -> Result<(RunOutcome, Seen), String> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let plan = prepared.plan();
    let callbacks = |rank| {
        let terminal = dream_trainer::callbacks::Terminal::new(Box::new(std::io::sink()));
        let quiet = dream_trainer::callbacks::Verbosity::Quiet;
        let mut set: CallbackSet =
            dream_trainer::callbacks::build(&plan.metrics, &plan.callbacks, rank, &terminal, quiet);
        set.push(Box::new(Collect { seen: Arc::clone(&seen), stop_after, save_after })).unwrap();
        set
    };
    std::fs::create_dir_all(prepared.plan().run.directory()).unwrap();
    let ranks = Ranks::Threads(plan.mesh.world_size());
    let outcome = prepared
        .fit(&ranks, &Interrupt::default(), &callbacks)
        .map_err(|failure| chain(&failure))?;
    let seen = seen.lock().unwrap().clone();
    Ok((outcome, seen))
}

/// Asserts that two numbers agree to a relative tolerance.
#[track_caller]
pub fn close(a: f64, b: f64, tolerance: f64, what: &str) {
    let difference = (a - b).abs() / a.abs().max(b.abs()).max(f64::MIN_POSITIVE);
    assert!(
        difference <= tolerance,
        "{what}: {a} and {b} differ by {difference:e}, more than {tolerance:e}"
    );
}

/// Joins an error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
