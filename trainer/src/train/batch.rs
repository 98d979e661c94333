//! What a forward pass takes, and the streams that give it.

use std::sync::{Mutex, OnceLock, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Value, json};

use super::{Result, RunPlan};
use crate::data::{
    self, Dataset, LastBatch, Loader, LoaderOptions, LoaderState, Prefetcher, Splits,
};
use crate::mesh::AxisSet;
use crate::nn::Draw;

/// Input of one forward pass.
pub trait Batch: Send + Sized + 'static {
    /// Returns the number of targets of this rank that count in the loss.
    fn num_targets(&self) -> usize;

    /// Opens training and validation streams for one data-parallel rank.
    ///
    /// # Errors
    ///
    /// Data that is missing or does not fit the plan.
    fn open(ctx: &DataContext<'_>) -> Result<Streams<Self>>;
}

/// Training and validation data of one rank.
pub struct Streams<B> {
    /// Endless training steps.
    pub train: Box<dyn BatchStream<B>>,
    /// One pass over the validation data at a time, if there is any.
    pub validation: Option<Box<dyn BatchStream<B>>>,
}

/// Batches of one rank, step by step. All data-parallel ranks hold streams of equal length; what
/// they give together does not depend on their number.
pub trait BatchStream<B> {
    /// Returns the microbatches of the next step and moves on, into the next epoch where this one
    /// ends.
    ///
    /// # Errors
    ///
    /// Data that cannot be read.
    fn next_step(&mut self) -> Result<Vec<B>>;

    /// Returns the steps of one whole epoch.
    fn steps_per_epoch(&self) -> u64;

    /// Returns the epoch of the next step, from 0, which is the number of finished epochs.
    fn epoch(&self) -> u64;

    /// Returns the steps that are left in the epoch of the next step, at least 1. Where an earlier
    /// start took steps of another size in it, they are not simply the rest of
    /// [`BatchStream::steps_per_epoch`].
    fn steps_left_in_epoch(&self) -> u64;

    /// Tells whether the next step is the first of its epoch.
    fn begins_epoch(&self) -> bool;

    /// Returns the steps that are left until so many epochs are finished.
    fn steps_until(&self, epochs: u64) -> u64 {
        match epochs.checked_sub(self.epoch().saturating_add(1)) {
            Some(whole) => whole
                .saturating_mul(self.steps_per_epoch())
                .saturating_add(self.steps_left_in_epoch()),
            None => 0,
        }
    }

    /// Starts over.
    ///
    /// # Errors
    ///
    /// Data that cannot be read.
    fn rewind(&mut self) -> Result<()>;

    /// Returns the position, for a checkpoint; it means the same on any number of ranks.
    ///
    /// # Errors
    ///
    /// A position that cannot be written down.
    fn state(&self) -> Result<Value>;

    /// Continues from a saved position.
    ///
    /// # Errors
    ///
    /// A position in other data.
    fn restore(&mut self, state: Value) -> Result<()>;

    /// Names the data by content, as a table: what a position belongs to. Where it is the same, it
    /// does not matter where data come from. By default null: data are known by their
    /// configuration only.
    ///
    /// # Errors
    ///
    /// Data that cannot be read.
    fn identity(&self) -> Result<Value> {
        Ok(Value::Null)
    }

    /// Describes the data in one line.
    fn describe(&self) -> String;
}

/// What a stream is opened with.
#[derive(Debug)]
pub struct DataContext<'a> {
    /// The run.
    pub plan: &'a RunPlan,
    /// Device of the batches.
    pub device: Device,
    /// Index among the data-parallel ranks.
    pub dp_rank: usize,
    /// Number of token ids the model knows.
    pub vocab_size: Option<usize>,
    pub(crate) shared: &'a SharedData,
}

/// Data opened once per process, whatever its number of thread ranks.
#[derive(Debug, Default)]
pub(crate) struct SharedData {
    splits: OnceLock<Splits>,
    opening: Mutex<()>,
}

impl SharedData {
    fn open(&self, plan: &RunPlan, vocab_size: Option<usize>) -> Result<Splits, data::DataError> {
        // One rank opens while the others wait; a failure leaves the cell empty and each of them
        // reports it.
        let _guard = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(splits) = self.splits.get() {
            return Ok(splits.clone());
        }
        let splits = Dataset::open(&plan.data, plan.training.sequence_length, plan.run.seed)?;
        let splits = match vocab_size {
            Some(vocab_size) => splits.for_vocab(vocab_size)?,
            None => splits,
        };
        Ok(self.splits.get_or_init(|| splits).clone())
    }
}

/// Token sequences with the next token as the label.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    tokens: Tensor<2, Int>,
    labels: Tensor<2, Int>,
    documents: Option<Tensor<2, Int>>,
    num_targets: usize,
    draw: Draw,
}

impl TokenBatch {
    /// Moves a batch to a device.
    pub fn new(batch: data::Batch, device: &Device) -> Self {
        let num_targets = batch.num_valid();
        let draw = Draw { step: batch.step, first_sequence: batch.first_sequence as u64 };
        let shape = [batch.num_sequences, batch.sequence_length];
        let tensor = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, shape), device);
        Self {
            num_targets,
            draw,
            tokens: tensor(batch.tokens),
            labels: tensor(batch.labels),
            documents: batch.documents.map(tensor),
        }
    }

    /// Returns the token ids, `[sequences, tokens]`.
    pub fn tokens(&self) -> Tensor<2, Int> {
        self.tokens.clone()
    }

    /// Returns the labels, `[sequences, tokens]`, -100 where none counts.
    pub fn labels(&self) -> Tensor<2, Int> {
        self.labels.clone()
    }

    /// Returns what the random decisions of its forward pass are functions of.
    pub fn draw(&self) -> Draw {
        self.draw
    }

    /// Returns which document of its sequence each token belongs to, if attention is to stay within
    /// documents.
    pub fn documents(&self) -> Option<Tensor<2, Int>> {
        self.documents.clone()
    }
}

impl Batch for TokenBatch {
    fn num_targets(&self) -> usize {
        self.num_targets
    }

    fn open(ctx: &DataContext<'_>) -> Result<Streams<Self>> {
        let (plan, device) = (ctx.plan, &ctx.device);
        let splits = ctx.shared.open(plan, ctx.vocab_size)?;
        let options = LoaderOptions {
            seed: plan.run.seed,
            shuffle: plan.data.shuffle,
            global_batch_size: plan.training.global_batch_size,
            micro_batch_size: plan.training.micro_batch_size,
            dp_rank: ctx.dp_rank,
            dp_size: plan.mesh.size(AxisSet::DP),
            last_batch: LastBatch::Drop,
            number_documents: false,
        };
        let validation = splits
            .validation
            .map(|split| TokenStream::open(split, options.for_validation(), device))
            .transpose()?;
        let train = TokenStream::open(splits.train, options, device)?;
        Ok(Streams {
            train: Box::new(train),
            validation: validation.map(|stream| Box::new(stream) as _),
        })
    }
}

/// Steps prepared ahead on a background thread.
const PREFETCHED_STEPS: usize = 2;

struct TokenStream {
    identity: Value,
    start: LoaderState,
    prefetcher: Prefetcher,
    description: String,
    device: Device,
}

impl TokenStream {
    fn open(dataset: Dataset, options: LoaderOptions, device: &Device) -> Result<Self> {
        let description = dataset.describe();
        // Which id ends a document matters where labels are masked there; the ids name the rest.
        let end_of_document = dataset.eos_id().filter(|_| dataset.masks_document_boundaries());
        let identity = json!({
            "fingerprint": dataset.fingerprint()?,
            "end_of_document": end_of_document,
        });
        let loader = Loader::new(dataset, options)?;
        let start = loader.state();
        let prefetcher = Prefetcher::new(loader, PREFETCHED_STEPS)?;
        Ok(Self { identity, start, prefetcher, description, device: device.clone() })
    }
}

impl BatchStream<TokenBatch> for TokenStream {
    fn next_step(&mut self) -> Result<Vec<TokenBatch>> {
        let batches = self.prefetcher.next_step()?;
        Ok(batches.into_iter().map(|batch| TokenBatch::new(batch, &self.device)).collect())
    }

    fn steps_per_epoch(&self) -> u64 {
        self.prefetcher.steps_per_epoch()
    }

    fn epoch(&self) -> u64 {
        self.prefetcher.state().epoch
    }

    fn steps_left_in_epoch(&self) -> u64 {
        self.prefetcher.steps_left_in_epoch()
    }

    fn begins_epoch(&self) -> bool {
        self.prefetcher.state().sequences == 0
    }

    fn rewind(&mut self) -> Result<()> {
        Ok(self.prefetcher.restore(&self.start)?)
    }

    fn state(&self) -> Result<Value> {
        Ok(serde_json::to_value(self.prefetcher.state())?)
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        let state: LoaderState = serde_json::from_value(state)?;
        Ok(self.prefetcher.restore(&state)?)
    }

    fn identity(&self) -> Result<Value> {
        Ok(self.identity.clone())
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
