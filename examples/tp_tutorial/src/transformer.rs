//! A GPT-2-style transformer that overfits one batch: dense, with split layers, with a split
//! vocabulary, or both.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor, TensorData};
use dream_models::gpt2::{Gpt2, Gpt2Config};
use dream_trainer::comm::{CommError, ProcessGroup, RankFailure};
use dream_trainer::kernels::{AdamHyper, IGNORE_INDEX, adamw_step};
use dream_trainer::mesh::Placement;
use dream_trainer::nn::{Scope, map_values, parameters, take_gradients};
use dream_trainer::tensor_parallel::{
    ColwiseParallel, Plan, PrepareModuleInput, RowwiseParallel, TensorParallel,
    TensorParallelOptions, VocabParallel,
};

use crate::ranks::{device, launch};

/// Iterations of a run.
pub const ITERATIONS: usize = 5;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Number of ranks.
    pub world_size: usize,
    /// Whether attention and feed-forward layers are split.
    pub tensor_parallel: bool,
    /// Whether the vocabulary is split: embedding, head and loss.
    pub loss_parallel: bool,
    /// Size of the hidden states.
    pub hidden: usize,
    /// Sequences and their length; nothing for one sentence.
    pub batch: Option<[usize; 2]>,
}

/// What a run gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Loss of each iteration, before its update.
    pub losses: Vec<f32>,
    /// Parameters that the first rank holds.
    pub local_params: usize,
    /// Labels that count.
    pub num_targets: usize,
}

/// Trains for [`ITERATIONS`] iterations.
///
/// # Errors
///
/// The first rank that failed.
pub fn train(settings: Settings) -> Result<Outcome, RankFailure<CommError>> {
    Ok(launch(settings.world_size, |group| train_rank(settings, group))?.remove(0))
}

fn config(hidden: usize) -> Gpt2Config {
    Gpt2Config { dim: hidden, ..Gpt2Config::default() }
}

/// Returns the styles of the chosen mode.
fn plan(settings: Settings) -> Plan {
    let enter = PrepareModuleInput { input: Placement::Replicate, desired: Placement::Replicate };
    let heads = ColwiseParallel::default().in_units("num_heads", config(settings.hidden).num_heads);
    let mut plan = Plan::new();
    if settings.tensor_parallel {
        plan = plan
            .style("layers.*.attention", enter)
            .style("layers.*.attention.wq", heads)
            .style("layers.*.attention.wk", heads)
            .style("layers.*.attention.wv", heads)
            .style("layers.*.attention.wo", RowwiseParallel::default())
            .style("layers.*.feed_forward", enter)
            .style("layers.*.feed_forward.w1", ColwiseParallel::default())
            .style("layers.*.feed_forward.w2", RowwiseParallel::default());
    }
    if settings.loss_parallel {
        plan = plan.style("tok_embeddings", VocabParallel::default());
    }
    plan
}

/// Ids in place of the words of a sentence, as GPT-2's tokenizer could give them; the last token of
/// each row has no label.
fn batch(shape: Option<[usize; 2]>) -> [Tensor<2, Int>; 2] {
    const SENTENCE: [i32; 10] = [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290, 13];
    let (shape, tokens) = match shape {
        Some([rows, len]) => {
            ([rows, len], (0..rows * len).map(|i| ((i * 7919 + 11) % 50_257) as i32).collect())
        }
        None => ([1, SENTENCE.len()], SENTENCE.to_vec()),
    };
    let [rows, len] = shape;
    // A tenth of each longer row is padding.
    let padding = if rows * len > SENTENCE.len() { len / 10 } else { 0 };
    let label = |i: usize| {
        let column = i % len;
        if column + 1 == len || column < padding { IGNORE_INDEX as i32 } else { tokens[i + 1] }
    };
    let labels: Vec<i32> = (0..rows * len).map(label).collect();
    let device = device().inner();
    [
        Tensor::from_data(TensorData::new(tokens.clone(), shape), &device),
        Tensor::from_data(TensorData::new(labels, shape), &device),
    ]
}

fn train_rank(settings: Settings, group: &ProcessGroup) -> Outcome {
    let scope = Scope::root(device(), 42);
    let shape = config(settings.hidden).resolve().expect("the hidden size was checked");
    let options =
        TensorParallelOptions { sequence_parallel: false, ..TensorParallelOptions::default() };
    let tp = TensorParallel::new(scope.clone(), group.clone(), options);
    let mut model = tp
        .parallelize(shape.init(&scope), &plan(settings))
        .expect("the number of ranks was checked");
    let [tokens, labels] = batch(settings.batch);
    let num_targets =
        labels.clone().not_equal_elem(IGNORE_INDEX).int().sum().into_scalar::<i32>() as usize;
    let mut moments = BTreeMap::new();
    let mut losses = Vec::new();
    for step in 1..=ITERATIONS as u64 {
        let loss = loss(&model, tokens.clone(), labels.clone()) * (1.0 / num_targets as f64);
        losses.push(loss.clone().into_scalar::<f32>());
        model = update(model, &loss, step, &mut moments);
    }
    let local_params =
        parameters(&model).iter().map(dream_trainer::nn::ParameterEntry::num_elements).sum();
    Outcome { losses, local_params, num_targets }
}

fn loss(model: &Gpt2, tokens: Tensor<2, Int>, labels: Tensor<2, Int>) -> Tensor<1> {
    let hidden = model.forward(tokens);
    model.head_weight().expect("the whole model has a head").cross_entropy(hidden, labels)
}

/// First and second moment of each parameter.
type Moments = BTreeMap<String, [Tensor<1>; 2]>;

fn update(model: Gpt2, loss: &Tensor<1>, step: u64, moments: &mut Moments) -> Gpt2 {
    let mut gradients = BTreeMap::new();
    take_gradients(&model, &mut loss.backward(), |path, gradient| {
        gradients.insert(path.to_owned(), gradient);
    });
    let hyper = AdamHyper {
        lr: 4e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        decoupled: true,
        step,
        grad_scale: 1.0,
    };
    let updated = map_values(model, |entry, value| {
        let Some(gradient) = gradients.remove(&entry.path) else {
            return Ok::<_, std::convert::Infallible>(value);
        };
        let [first, second] = moments
            .remove(&entry.path)
            .unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
        let (value, first, second) = adamw_step(value, gradient, first, second, &hyper);
        moments.insert(entry.path.clone(), [first, second]);
        Ok(value)
    });
    match updated {
        Ok(model) => model,
        Err(never) => match never {},
    }
}
