//! The run of a case: a mesh, a precision, an optimizer, data and checkpoints, as TOML.

use std::fmt::Write;
use std::path::Path;

use super::dice::Dice;

/// Name of the configuration in the folder of a case.
pub(super) const FILE: &str = "run.toml";
/// Folder of the run, from the folder of the case.
pub(super) const RUN: &str = "out/dream-train/default/run";

/// A mesh: its ranks and its keys of `[device_parameters]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mesh {
    pub(super) ranks: usize,
    pub(super) keys: &'static [&'static str],
}

const fn mesh(ranks: usize, keys: &'static [&'static str]) -> Mesh {
    Mesh { ranks, keys }
}

/// Meshes of thread ranks; those of two ranks also run as processes.
pub(super) const MESHES: [Mesh; 9] = [
    mesh(1, &[]),
    mesh(2, &["preset = \"ddp\""]),
    mesh(2, &["preset = \"fsdp\""]),
    mesh(2, &["tensor_parallel = 2"]),
    mesh(4, &["preset = \"ddp\""]),
    mesh(4, &["preset = \"fsdp\""]),
    mesh(4, &["preset = \"hsdp\"", "dp_shard = 2"]),
    mesh(4, &["preset = \"fsdp\"", "tensor_parallel = 2"]),
    mesh(4, &["preset = \"ddp\"", "tensor_parallel = 2"]),
];

/// Everything a case chooses about its run before anything happens to it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the configuration")]
pub(super) struct Setup {
    pub(super) mesh: Mesh,
    pub(super) steps: u64,
    pub(super) is_half: bool,
    pub(super) accumulation: u64,
    pub(super) optimizer: &'static str,
    pub(super) is_text: bool,
    pub(super) validates: bool,
    pub(super) every_n_steps: u64,
    pub(super) keep_latest: u64,
    pub(super) is_background: bool,
    pub(super) console_every_n_steps: u64,
    pub(super) tensorboard: bool,
}

impl Setup {
    /// Chooses a run; `processes` is the number of MPI processes, if its ranks are such.
    pub(super) fn choose(dice: &mut Dice, processes: Option<usize>) -> Self {
        let meshes: Vec<Mesh> = MESHES
            .into_iter()
            .filter(|mesh| processes.is_none_or(|processes| mesh.ranks == processes))
            .collect();
        Self {
            mesh: dice.pick(&meshes),
            steps: dice.pick(&[24, 48, 96]),
            is_half: dice.chance(20),
            accumulation: dice.pick(&[1, 1, 2]),
            optimizer: dice.pick(&["name = \"adamw\"", "name = \"sgd\"\nmomentum = 0.9"]),
            is_text: dice.chance(30),
            validates: dice.chance(30),
            every_n_steps: dice.pick(&[2, 5, 9, 20]),
            keep_latest: dice.pick(&[0, 1, 2, 3]),
            is_background: dice.chance(60),
            console_every_n_steps: dice.pick(&[0, 1, 10]),
            tensorboard: dice.chance(30),
        }
    }

    /// Returns the configuration; `words` is a text file.
    pub(super) fn toml(&self, words: &Path) -> String {
        let mut text = String::from(MODEL);
        let mut line = |line: String| text.push_str(&(line + "\n"));
        line("[run]\noutput_dir = \"out\"\nexperiment = \"run\"".into());
        line(format!("[device_parameters]\nworld_size = {}", self.mesh.ranks));
        for key in self.mesh.keys {
            line((*key).into());
        }
        if self.is_half {
            line("param_dtype = \"bf16\"".into());
        }
        line(format!("[training_parameters]\nsteps = {}", self.steps));
        line("global_batch_size = 8\nsequence_length = 32".into());
        line(format!("gradient_accumulation_steps = {}", self.accumulation));
        if self.validates {
            line("val_every_n_steps = 7\nval_steps = 1".into());
        }
        line(format!("[optimizer]\n{}\nlr = 1e-2", self.optimizer));
        line("[lr_scheduler]\nname = \"cosine\"".into());
        line("[data]".into());
        if self.is_text {
            line(format!("source = \"text\"\nfiles = ['{}']", words.display()));
        } else {
            line("source = \"synthetic\"\nvocab_size = 257\nnum_sequences = 160".into());
        }
        if self.validates {
            line("validation_fraction = 0.2".into());
        }
        line(format!("[checkpoint]\nenable = true\nevery_n_steps = {}", self.every_n_steps));
        line(format!("keep_latest = {}\nbackground = {}", self.keep_latest, self.is_background));
        line(format!("[metrics]\nconsole_every_n_steps = {}", self.console_every_n_steps));
        line(format!("tensorboard = {}", self.tensorboard));
        text
    }

    /// Describes the run in a line.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{} ranks {}", self.mesh.ranks, self.mesh.keys.join(" "));
        let _ = write!(
            text,
            ", {} steps, saves every {}, keeps {}, {}{}",
            self.steps,
            self.every_n_steps,
            self.keep_latest,
            if self.is_background { "in the background" } else { "at once" },
            if self.is_half { ", bf16" } else { "" },
        );
        text
    }
}

/// A Llama of 30,000 parameters: a step takes milliseconds.
const MODEL: &str = r#"[model]
name = "llama3"
flavor = "debug"
dim = 32
num_layers = 2
num_heads = 4
num_kv_heads = 2
ffn_dim = 64
vocab_size = 257
"#;
