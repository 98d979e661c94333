//! Runs, steps and consoles to test with.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use dream_trainer::callbacks::{BatchShape, MemoryUse, ParameterRow, RunView, SetupReport};
use dream_trainer::mesh::{Degrees, DeviceMesh, MeshOrder};
use dream_trainer::metrics::{StepInfo, ValidationInfo};

/// Bytes that can be read while someone else writes them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn run_in(directory: &Path, num_steps: u64, start_step: u64) -> RunView {
    RunView {
        directory: directory.to_owned(),
        name: "dream-train/docs/debug".to_owned(),
        rank: 0,
        mesh: DeviceMesh::single(),
        num_steps,
        start_step,
        tokens_per_step: 4096,
        config: String::new(),
    }
}

pub(crate) fn four_ranks() -> DeviceMesh {
    let degrees = Degrees { dp_replicate: 2.into(), tp: 2.into(), ..Degrees::default() };
    degrees.resolve(4, MeshOrder::default()).unwrap()
}

pub(crate) fn step(step: u64) -> StepInfo {
    StepInfo {
        step,
        epoch: 0,
        loss: 2.5 - 0.01 * step as f64,
        grad_norm: 0.87,
        lr: 3e-4,
        tokens: 4000,
        total_tokens: 4000 * step,
        step_seconds: 0.25,
        data_seconds: 0.01,
        communication_seconds: 0.05,
        tokens_per_second: 16_000.0,
        gpu_bytes: None,
        skipped: false,
        loss_scale: None,
        extra: BTreeMap::default(),
    }
}

pub(crate) fn memory() -> MemoryUse {
    MemoryUse {
        rank_parameters: 1250,
        activation_bytes: Some(3 << 20),
        activation_estimate: Some(3 << 19),
    }
}

pub(crate) fn validation(step: u64, sanity: bool) -> ValidationInfo {
    ValidationInfo { step, sanity, loss: 2.25, tokens: 8192, seconds: 1.5 }
}

pub(crate) fn parameter(path: &str, shape: &[usize]) -> ParameterRow {
    ParameterRow { path: path.to_owned(), shape: shape.to_vec(), trainable: true, element_bytes: 4 }
}

pub(crate) fn report(parameters: Vec<ParameterRow>) -> SetupReport {
    SetupReport {
        model: "llama3".to_owned(),
        parameters,
        batch: BatchShape {
            global_batch_size: 32,
            micro_batch_size: 4,
            gradient_accumulation_steps: 4,
            sequence_length: 128,
        },
        train_data: "text docs/**/*.md, 1,234,567 tokens".to_owned(),
        validation_data: Some("the last 5.0% of it".to_owned()),
        optimizers: vec!["adamw  lr 3e-4, betas 0.9 0.95, decay 0.1".to_owned()],
        flops_per_token: Some(1e9),
        activation_estimate: None,
    }
}
