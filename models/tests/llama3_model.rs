//! What the Llama 3 module computes, on small shapes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/tolerance.rs"]
mod tolerance;

use std::collections::BTreeMap;
use tolerance::MODEL;

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use dream_models::llama3::{Llama3, Llama3Config, Llama3Shape, TokenLayout};
use dream_trainer::kernels::RopePositions;
use dream_trainer::nn::{Scope, assign_values, for_each_value, take_gradients};

const VOCAB: usize = 40;

fn small() -> Llama3Config {
    Llama3Config {
        dim: Some(32),
        num_layers: Some(2),
        num_heads: Some(4),
        num_kv_heads: Some(2),
        ffn_dim: Some(48),
        vocab_size: Some(VOCAB),
        max_seq_len: Some(64),
        ..Llama3Config::default()
    }
}

fn build(config: &Llama3Config, device: &Device, seed: u64) -> (Llama3Shape, Llama3) {
    let shape = config.resolve().unwrap();
    let model = shape.init(&Scope::root(device.clone(), seed));
    (shape, model)
}

/// Ids that repeat with a period prime to the vocabulary.
fn ids(batch: usize, sequence: usize, device: &Device) -> Tensor<2, Int> {
    let ids =
        (0..batch * sequence).map(|i| ((i * i * 7 + 3 * i) % VOCAB) as i64).collect::<Vec<_>>();
    Tensor::from_data(TensorData::new(ids, [batch, sequence]), device)
}

fn logits(model: &Llama3, tokens: Tensor<2, Int>, layout: &TokenLayout) -> Tensor<3> {
    model.logits(model.forward(tokens, layout))
}

fn largest<const D: usize>(x: Tensor<D>) -> f32 {
    x.abs().max().into_scalar::<f32>()
}

fn values(model: &Llama3) -> BTreeMap<String, Vec<f32>> {
    let mut values = BTreeMap::new();
    for_each_value(model, |path, _, value| {
        values.insert(path.to_owned(), value.into_data().try_to_vec::<f32>().unwrap());
    });
    values
}

#[test]
fn later_tokens_do_not_change_earlier_logits() {
    let device = Device::flex();
    let (_, model) = build(&small(), &device, 1);
    let tokens = ids(2, 12, &device);
    let before = logits(&model, tokens.clone(), &TokenLayout::default());
    for changed in [0, 5, 11] {
        let other = tokens.clone().slice([0..2, changed..changed + 1]).add_scalar(1) % VOCAB as i64;
        let other = tokens.clone().slice_assign([0..2, changed..changed + 1], other);
        let after = logits(&model, other, &TokenLayout::default());
        let difference = (after - before.clone()).abs();
        if changed > 0 {
            let earlier = largest(difference.clone().slice([0..2, 0..changed]));
            assert_eq!(earlier, 0.0, "token {changed} reached back");
        }
        assert!(
            largest(difference.slice([0..2, changed..12])) > 1e-4,
            "token {changed} had no effect"
        );
    }
}

#[test]
fn grouped_heads_equal_repeated_key_value_heads() {
    let device = Device::flex();
    let (shape, grouped) = build(&small(), &device, 2);
    let (_, repeated) = build(&Llama3Config { num_kv_heads: Some(4), ..small() }, &device, 2);
    let (groups, head_dim) = (shape.num_heads / shape.num_kv_heads, shape.head_dim);
    let source = values(&grouped);
    let repeated = assign_values(repeated, |entry| -> Result<_, std::convert::Infallible> {
        let values = &source[&entry.path];
        let values = if entry.path.contains(".wk.") || entry.path.contains(".wv.") {
            let heads = values.chunks(head_dim);
            heads.flat_map(|head| head.repeat(groups)).collect()
        } else {
            values.clone()
        };
        Ok(Some(TensorData::new(values, entry.shape.clone())))
    });
    let tokens = ids(2, 12, &device);
    let expected = logits(&repeated.unwrap(), tokens.clone(), &TokenLayout::default());
    let scale = largest(expected.clone());
    let difference = largest(logits(&grouped, tokens, &TokenLayout::default()) - expected);
    assert!(f64::from(difference) <= MODEL * f64::from(scale), "differ by {difference} of {scale}");
}

#[test]
fn packed_documents_are_computed_as_if_alone() {
    let device = Device::flex();
    let (_, model) = build(&small(), &device, 3);
    let tokens = ids(1, 12, &device);
    let int =
        |values: [i64; 12]| Tensor::from_data(TensorData::new(values.to_vec(), [1, 12]), &device);
    let layout = TokenLayout {
        positions: RopePositions::PerToken(int([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6])),
        documents: Some(int([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1])),
    };
    let packed = logits(&model, tokens.clone(), &layout);
    for range in [0..5, 5..12] {
        let alone = tokens.clone().slice([0..1, range.clone()]);
        let alone = logits(&model, alone, &TokenLayout::default());
        let difference = largest(packed.clone().slice([0..1, range.clone()]) - alone);
        assert!(f64::from(difference) <= MODEL, "tokens {range:?} differ by {difference}");
    }
}

#[test]
fn logits_depend_on_relative_positions_alone() {
    let device = Device::flex();
    let (_, model) = build(&small(), &device, 4);
    let tokens = ids(1, 8, &device);
    let at = |offset| TokenLayout { positions: RopePositions::Offset(offset), documents: None };
    let start = logits(&model, tokens.clone(), &at(0));
    let shifted = logits(&model, tokens, &at(40));
    let difference = largest(shifted - start);
    assert!(f64::from(difference) <= MODEL, "differ by {difference}");
}

#[test]
fn first_loss_is_that_of_guessing() {
    let device = Device::flex();
    for tied_embeddings in [false, true] {
        let config = Llama3Config {
            dim: Some(64),
            num_layers: Some(2),
            vocab_size: Some(512),
            tied_embeddings: Some(tied_embeddings),
            ..Llama3Config::default()
        };
        let (_, model) = build(&config, &device, 5);
        let hidden = model.forward(ids(4, 32, &device), &TokenLayout::default());
        let labels = ids(4, 32, &device).flip([1]);
        let head = model.head_weight().unwrap();
        let loss = head.cross_entropy(hidden, labels).into_scalar::<f32>() / 128.0;
        // Logits of deviation 1 around guessing: ln V + 1/2. A tied head also sees the token
        // itself, whose logit is sqrt(dim).
        let others = 512.0_f32 * 0.5_f32.exp();
        let (own, tolerance) = if tied_embeddings {
            // The blocks' output thins the token itself.
            (8.0_f32.exp(), 0.6)
        } else {
            (0.0, 0.3)
        };
        let expected = (others + own).ln();
        assert!(
            (loss - expected).abs() < tolerance,
            "tied {tied_embeddings}: {loss}, expected about {expected}"
        );
    }
}

#[test]
fn initial_values_do_not_depend_on_the_order_of_construction() {
    let device = Device::flex();
    let shape = small().resolve().unwrap();
    let first = shape.init(&Scope::root(device.clone(), 6));
    let scope = Scope::root(device.clone(), 6);
    let _other = shape.init(&scope.child("other"));
    let second = shape.init(&scope);
    // Values are made at first use: the second model's head first.
    let head = second.output.as_ref().unwrap().module().weight.val().into_data();
    assert_eq!(head.try_to_vec::<f32>().unwrap(), values(&first)["output.weight"]);
    assert_eq!(values(&first), values(&second));
    assert_ne!(values(&first), values(&build(&small(), &device, 7).1));
}

#[test]
fn initial_deviations_follow_depth() {
    let device = Device::flex();
    let (_, model) = build(&Llama3Config { dim: Some(128), ..small() }, &device, 8);
    let values = values(&model);
    let rows = [
        ("tok_embeddings.weight", 1.0),
        ("layers.0.attention.wq.weight", 0.02),
        ("layers.1.feed_forward.w1.weight", 0.02),
        ("layers.0.attention.wo.weight", 0.02 / 2.0_f64.sqrt()),
        ("layers.1.feed_forward.w2.weight", 0.01),
        ("layers.1.feed_forward.w3.weight", 0.01),
        // A normal cut at 3 deviations has 0.9866 of its deviation left.
        ("output.weight", 0.9866 / 128.0_f64.sqrt()),
    ];
    for (path, expected) in rows {
        let squares = values[path].iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let deviation = (squares / values[path].len() as f64).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.05, "{path}: {deviation}, not {expected}");
    }
    let cut = 3.0 / 128.0_f32.sqrt();
    assert!(values["output.weight"].iter().all(|x| x.abs() <= cut * 1.000_001));
}

#[test]
fn tied_gradient_is_the_sum_of_both_uses() {
    let device = Device::flex().autodiff();
    let (_, tied) = build(&Llama3Config { tied_embeddings: Some(true), ..small() }, &device, 9);
    let (shape, untied) = build(&small(), &device, 9);
    let source = values(&tied);
    let untied = assign_values(untied, |entry| -> Result<_, std::convert::Infallible> {
        let values = match entry.path.as_str() {
            "output.weight" => {
                let table = &source["tok_embeddings.weight"];
                let (rows, columns) = (shape.vocab_size, shape.dim);
                (0..rows * columns).map(|i| table[(i % rows) * columns + i / rows]).collect()
            }
            path => source[path].clone(),
        };
        Ok(Some(TensorData::new(values, entry.shape.clone())))
    });
    let gradients = |model: &Llama3| {
        let hidden = model.forward(ids(2, 12, &device), &TokenLayout::default());
        let labels = ids(2, 12, &device).flip([1]);
        let loss = model.head_weight().unwrap().cross_entropy(hidden, labels);
        let mut found = BTreeMap::new();
        take_gradients(model, &mut loss.backward(), |path, gradient| {
            found.insert(path.to_owned(), gradient);
        });
        found
    };
    let (tied, untied) = (gradients(&tied), gradients(&untied.unwrap()));
    let (rows, columns) = (shape.vocab_size, shape.dim);
    let head = untied["output.weight"].clone().reshape([columns, rows]).transpose();
    let lookup = untied["tok_embeddings.weight"].clone();
    assert!(largest(lookup.clone()) > 0.0 && largest(head.clone()) > 0.0);
    let expected = lookup + head.reshape([rows * columns]);
    let difference = largest(tied["tok_embeddings.weight"].clone() - expected.clone());
    assert!(
        f64::from(difference) <= MODEL * f64::from(largest(expected)),
        "differ by {difference}"
    );
    assert_eq!(tied.len(), untied.len() - 1, "every parameter has a gradient");
}

#[test]
fn gradient_is_the_slope_of_the_loss() {
    let device = Device::flex().autodiff();
    let (_, model) = build(&small(), &device, 10);
    let loss = |model: &Llama3| {
        let hidden = model.forward(ids(2, 12, &device), &TokenLayout::default());
        model.head_weight().unwrap().cross_entropy(hidden, ids(2, 12, &device).flip([1]))
    };
    let mut slope = 0.0;
    let mut directions = BTreeMap::new();
    take_gradients(&model, &mut loss(&model).backward(), |path, gradient| {
        let noise = Tensor::<1>::random(gradient.dims(), Distribution::Default, &gradient.device());
        let direction = gradient.clone().sign() * noise;
        slope += f64::from((gradient * direction.clone()).sum().into_scalar::<f32>());
        directions.insert(path.to_owned(), direction.into_data().try_to_vec::<f32>().unwrap());
    });
    let source = values(&model);
    let moved = |step: f32| {
        let moved = assign_values(model.clone(), |entry| -> Result<_, std::convert::Infallible> {
            let pairs = source[&entry.path].iter().zip(&directions[&entry.path]);
            let values = pairs.map(|(x, direction)| x + step * direction).collect::<Vec<_>>();
            Ok(Some(TensorData::new(values, entry.shape.clone())))
        });
        f64::from(loss(&moved.unwrap()).into_scalar::<f32>())
    };
    let step = 2e-4;
    let measured = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
    assert!((measured / slope - 1.0).abs() < 2e-2, "measured {measured}, computed {slope}");
}
