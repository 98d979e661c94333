//! Made-up rows for an MLP.

use burn::tensor::{Device, Tensor, TensorData};
use dream_trainer::data::SourcePlan;
use dream_trainer::nn::Initializer;
use dream_trainer::train::{Batch, BatchStream, DataContext, Result, Streams};
use serde_json::{Value, json};

/// Rows of standard normal numbers.
#[derive(Debug, Clone)]
pub struct RowBatch {
    rows: Tensor<2>,
}

impl RowBatch {
    /// Takes rows, `[b, i]`.
    pub fn new(rows: Tensor<2>) -> Self {
        Self { rows }
    }

    /// Returns the rows, `[b, i]`.
    pub fn rows(&self) -> Tensor<2> {
        self.rows.clone()
    }
}

impl Batch for RowBatch {
    fn num_targets(&self) -> usize {
        self.rows.dims()[0]
    }

    fn open(ctx: &DataContext<'_>) -> Result<Streams<Self>> {
        let SourcePlan::Synthetic { num_sequences, .. } = ctx.plan.data.source else {
            return Err(
                "an MLP trains on made-up rows only: `data.source` must be `synthetic`".into()
            );
        };
        let training = &ctx.plan.training;
        let global = training.global_batch_size as u64;
        if num_sequences < global {
            return Err(format!(
                "`data.num_sequences` is {num_sequences} but a step takes {global} rows"
            )
            .into());
        }
        let train = RowStream {
            seed: ctx.plan.run.seed,
            width: training.sequence_length,
            num_rows: num_sequences,
            global: training.global_batch_size,
            micro: training.micro_batch_size,
            num_micro: training.gradient_accumulation_steps,
            dp_rank: ctx.dp_rank,
            epoch: 0,
            taken: 0,
            device: ctx.device.clone(),
        };
        Ok(Streams { train: Box::new(train), validation: None })
    }
}

/// Row `r` of an epoch is a pure function of the seed and `r`.
struct RowStream {
    seed: u64,
    width: usize,
    num_rows: u64,
    global: usize,
    micro: usize,
    num_micro: usize,
    dp_rank: usize,
    epoch: u64,
    /// Rows of the epoch already taken by all ranks together.
    taken: u64,
    device: Device,
}

impl RowStream {
    /// Begins the next epoch where no step is left in this one.
    fn wrap(&mut self) {
        if self.steps_left_in_epoch() == 0 {
            (self.epoch, self.taken) = (self.epoch.saturating_add(1), 0);
        }
    }

    fn rows(&self, first: u64) -> RowBatch {
        let mut values = vec![0.0; self.micro * self.width];
        Initializer::Normal { std: 1.0 }.fill(
            self.seed,
            "rows",
            first as usize * self.width,
            &mut values,
        );
        RowBatch::new(Tensor::from_data(
            TensorData::new(values, [self.micro, self.width]),
            &self.device,
        ))
    }
}

impl BatchStream<RowBatch> for RowStream {
    fn next_step(&mut self) -> Result<Vec<RowBatch>> {
        let own = self.taken + (self.dp_rank * self.micro * self.num_micro) as u64;
        let batches = (0..self.num_micro).map(|index| self.rows(own + (index * self.micro) as u64));
        let batches = batches.collect();
        self.taken += self.global as u64;
        self.wrap();
        Ok(batches)
    }

    fn steps_per_epoch(&self) -> u64 {
        self.num_rows / self.global as u64
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn steps_left_in_epoch(&self) -> u64 {
        self.num_rows.saturating_sub(self.taken) / self.global as u64
    }

    fn begins_epoch(&self) -> bool {
        self.taken == 0
    }

    fn rewind(&mut self) -> Result<()> {
        (self.epoch, self.taken) = (0, 0);
        Ok(())
    }

    fn state(&self) -> Result<Value> {
        Ok(json!({ "epoch": self.epoch, "taken": self.taken, "rows": self.num_rows }))
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        let read = |key: &str| {
            state[key].as_u64().ok_or_else(|| format!("the saved position has no `{key}`"))
        };
        let rows = read("rows")?;
        if rows != self.num_rows {
            let now = self.num_rows;
            return Err(
                format!("the saved position is in {rows} rows, but the run has {now}").into()
            );
        }
        (self.epoch, self.taken) = match read("global") {
            // Earlier versions counted steps of one size.
            Ok(global) => {
                let (step, per_epoch) = (read("step")?, (rows / global.max(1)).max(1));
                (step / per_epoch, step % per_epoch * global)
            }
            Err(_) => (read("epoch")?, read("taken")?),
        };
        self.wrap();
        Ok(())
    }

    fn describe(&self) -> String {
        format!("{} made-up rows of {} numbers", self.num_rows, self.width)
    }
}
