//! A bare Burn loop over the debug Llama: forward, backward, clipping and `AdamW` with nothing
//! around them.
//!
//! `cargo xtask bench` holds the trainer against it. Prints one line of JSON: median seconds per
//! step and tokens per second.

use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::llama3::{Flavor, Llama3Config, TokenLayout};
use dream_trainer::kernels::{self, AdamHyper};
use dream_trainer::metrics::{Spread, peak_memory_bytes};
use dream_trainer::nn::{self, Scope};
use dream_trainer::optim::clip_scale;

#[global_allocator]
static ALLOCATOR: dream_trainer::Allocator = dream_trainer::Allocator;

const BATCH: usize = 8;
const SEQUENCE: usize = 256;
const WARMUP: usize = 3;

#[expect(clippy::print_stdout, reason = "the result of a benchmark")]
fn main() {
    dream_trainer::keep_freed_memory();
    let steps: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(20);
    let config = Llama3Config {
        flavor: Some(Flavor::Debug),
        num_heads: Some(8),
        num_kv_heads: Some(4),
        vocab_size: Some(512),
        ..Llama3Config::default()
    };
    let shape = config.resolve().expect("the debug flavor is sound");
    let device = Device::flex();
    let mut model = shape.init(&Scope::root(device.clone().autodiff(), 42));
    let mut moments = std::collections::BTreeMap::new();
    let mut seconds = Vec::new();
    for step in 0..WARMUP + steps {
        let begin = Instant::now();
        let (tokens, labels) = batch(step, shape.vocab_size, &device);
        let hidden = model.forward(tokens, &TokenLayout::default());
        let loss =
            model.head_weight().expect("a whole model has a head").cross_entropy(hidden, labels);
        let mut gradients = (loss.clone() * (1.0 / (BATCH * SEQUENCE) as f64)).backward();
        let mut flat = std::collections::BTreeMap::new();
        nn::take_gradients(&model, &mut gradients, |path, gradient| {
            flat.insert(path.to_owned(), gradient);
        });
        let norm = flat.values().map(kernels::sum_of_squares).sum::<f64>().sqrt();
        let hyper = AdamHyper {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            decoupled: true,
            step: step as u64 + 1,
            grad_scale: clip_scale(norm, 1.0),
        };
        model = nn::map_values(model, |entry, value| {
            let Some(gradient) = flat.remove(&entry.path) else {
                return Ok::<_, std::convert::Infallible>(value);
            };
            let (first, second) = moments
                .remove(&entry.path)
                .unwrap_or_else(|| (value.zeros_like(), value.zeros_like()));
            let (value, first, second) =
                kernels::adamw_step(value, gradient, first, second, &hyper);
            moments.insert(entry.path.clone(), (first, second));
            Ok(value)
        })
        .expect("no update fails");
        let _ = loss.inner().into_data();
        if step >= WARMUP {
            seconds.push(begin.elapsed().as_secs_f64());
        }
    }
    let spread = Spread::of(&seconds).expect("at least one step was timed");
    let tokens_per_second = (BATCH * SEQUENCE) as f64 / spread.median;
    let (seconds, peak) = (spread.median, peak_memory_bytes().unwrap_or(0));
    println!(
        "{{\"step_seconds\":{seconds},\"tokens_per_second\":{tokens_per_second},\"peak_memory_bytes\":{peak}}}"
    );
}

fn batch(step: usize, vocab: usize, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let ids: Vec<i32> = (0..=BATCH * SEQUENCE)
        .map(|i| ((i + step * 7919) * 2_654_435_761 % vocab) as i32)
        .collect();
    let tensor = |values: &[i32]| {
        Tensor::from_data(TensorData::new(values.to_vec(), [BATCH, SEQUENCE]), device)
    };
    (tensor(&ids[..BATCH * SEQUENCE]), tensor(&ids[1..]))
}
