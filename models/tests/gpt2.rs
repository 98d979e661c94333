//! The GPT-2-style transformer: parameter counts, refusals, and its logits against a plain
//! computation in `f64`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/tolerance.rs"]
mod tolerance;

use std::collections::BTreeMap;
use tolerance::MODEL;

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::gpt2::{Gpt2, Gpt2Config};
use dream_trainer::nn::{ParameterEntry, Scope, assign_values, for_each_value, parameters};

fn tokens(ids: &[i64], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), device)
}

#[test]
fn parameters_are_counted_exactly() {
    let small = Gpt2Config::default();
    let rows = [
        (small.clone(), 14_702_080),
        (Gpt2Config { dim: 2048, ..small.clone() }, 205_697_024),
        // GPT-2 itself.
        (Gpt2Config { dim: 768, num_layers: 12, num_heads: 12, bias: true, ..small }, 124_439_808),
    ];
    for (config, expected) in rows {
        let shape = config.resolve().unwrap();
        assert_eq!(shape.num_params(), expected, "{config:?}");
        let scope = Scope::root(Device::flex(), 0);
        let listed = parameters(&shape.init(&scope));
        let counted: usize = listed.iter().map(ParameterEntry::num_elements).sum();
        assert_eq!(counted, expected, "{config:?}, counted in the module");
        for param in listed {
            assert_eq!(scope.spec(param.id).unwrap().path, param.path);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let small = Gpt2Config::default;
    let rows = [
        (
            Gpt2Config { num_heads: 7, ..small() },
            "`dim` is 256 but must be a multiple of `num_heads` = 7",
        ),
        (Gpt2Config { num_heads: 0, ..small() }, "`num_heads` is 0 but must be at least 1"),
        (Gpt2Config { vocab_size: 0, ..small() }, "`vocab_size` is 0 but must be at least 1"),
        (
            Gpt2Config { norm_eps: -1.0, ..small() },
            "`norm_eps` is -1 but must be positive and finite",
        ),
    ];
    for (config, message) in rows {
        assert_eq!(config.resolve().unwrap_err().to_string(), message);
    }
    let error = small().resolve().unwrap().check_sequence(1025).unwrap_err();
    assert_eq!(error.to_string(), "sequence length is 1025 but `max_seq_len` = 1024");
}

#[test]
fn first_loss_is_that_of_guessing() {
    let device = Device::flex();
    let model = Gpt2Config::default().resolve().unwrap().init(&Scope::root(device.clone(), 1234));
    let ids: Vec<i64> = (0..96).map(|i| (i * i * 7919 + 17) % 50_257).collect();
    let hidden = model.forward(tokens(&ids[..95], &device));
    let head = model.head_weight().unwrap();
    let loss = head.cross_entropy(hidden, tokens(&ids[1..], &device)).into_scalar::<f32>() / 95.0;
    // ln V and half the variance 1/3 of the logits, give or take three deviations of the mean:
    // 0.577 / sqrt(95).
    let expected = 50_257.0_f32.ln() + 1.0 / 6.0;
    assert!((loss - expected).abs() < 0.18, "{loss}, expected about {expected}");
}

#[test]
fn logits_equal_a_plain_computation() {
    for bias in [false, true] {
        let config = Gpt2Config {
            vocab_size: 11,
            max_seq_len: 6,
            dim: 8,
            num_layers: 2,
            num_heads: 2,
            bias,
            norm_eps: 1e-3,
            dropout: 0.0,
        };
        let device = Device::flex();
        let model = config.resolve().unwrap().init(&Scope::root(device.clone(), 7));
        let model = with_visible_biases(model);
        let ids = [3, 10, 0, 7, 3];
        let logits = model.logits(model.forward(tokens(&ids, &device))).into_data();
        let expected = Reference::new(&model, &config).logits(&ids.map(|id| id as usize));
        let logits = logits.as_slice::<f32>().unwrap();
        assert_eq!(logits.len(), expected.len());
        for (i, (x, y)) in logits.iter().zip(&expected).enumerate() {
            assert!((f64::from(*x) - y).abs() < MODEL, "bias {bias}, element {i}: {x} and {y}");
        }
    }
}

/// Biases start at 0 and norms at 1, where a mistake with them would not show.
fn with_visible_biases(model: Gpt2) -> Gpt2 {
    let model = assign_values(model, |entry| -> Result<_, std::convert::Infallible> {
        if entry.shape.len() != 1 {
            return Ok(None);
        }
        let values =
            (0..entry.shape[0]).map(|i| 0.7 + ((i * 37 + entry.path.len()) % 10) as f32 / 20.0);
        Ok(Some(TensorData::new(values.collect::<Vec<_>>(), entry.shape.clone())))
    });
    model.unwrap()
}

/// The model written out over vectors of one token.
struct Reference {
    values: BTreeMap<String, Vec<f64>>,
    config: Gpt2Config,
}

impl Reference {
    fn new(model: &Gpt2, config: &Gpt2Config) -> Self {
        let mut values = BTreeMap::new();
        for_each_value(model, |path, _, value| {
            let value = value.into_data().try_to_vec::<f32>().unwrap();
            values.insert(path.to_owned(), value.into_iter().map(f64::from).collect());
        });
        Self { values, config: config.clone() }
    }

    fn linear(&self, path: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.values[&format!("{path}.weight")];
        let outputs = weight.len() / x.len();
        let bias = self.values.get(&format!("{path}.bias"));
        let start = |j: usize| bias.map_or(0.0, |bias| bias[j]);
        let terms = |j: usize| x.iter().enumerate().map(move |(i, x)| x * weight[i * outputs + j]);
        (0..outputs).map(|j| start(j) + terms(j).sum::<f64>()).collect()
    }

    fn norm(&self, path: &str, x: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let bias = self.values.get(&format!("{path}.bias"));
        let scale = (variance + self.config.norm_eps).sqrt();
        let weight = &self.values[&format!("{path}.weight")];
        let normed = x.iter().zip(weight).map(|(x, weight)| (x - mean) / scale * weight);
        normed.enumerate().map(|(i, x)| x + bias.map_or(0.0, |bias| bias[i])).collect()
    }

    fn attention(&self, path: &str, xs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let all = |name: &str| -> Vec<Vec<f64>> {
            xs.iter().map(|x| self.linear(&format!("{path}.{name}"), x)).collect()
        };
        let (q, k, v) = (all("wq"), all("wk"), all("wv"));
        let d = self.config.dim / self.config.num_heads;
        let attend = |i: usize| -> Vec<f64> {
            let mut out = vec![0.0; self.config.dim];
            for head in (0..self.config.dim).step_by(d) {
                let score = |j: usize| (0..d).map(|c| q[i][head + c] * k[j][head + c]).sum::<f64>();
                let weights: Vec<f64> =
                    (0..=i).map(|j| (score(j) / (d as f64).sqrt()).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (j, weight) in weights.iter().enumerate() {
                    (0..d).for_each(|c| out[head + c] += weight / total * v[j][head + c]);
                }
            }
            self.linear(&format!("{path}.wo"), &out)
        };
        (0..xs.len()).map(attend).collect()
    }

    fn logits(&self, ids: &[usize]) -> Vec<f64> {
        let dim = self.config.dim;
        let row = |path: &str, i: usize| &self.values[path][i * dim..(i + 1) * dim];
        let add =
            |x: &[f64], y: &[f64]| -> Vec<f64> { x.iter().zip(y).map(|(x, y)| x + y).collect() };
        let embed = |(position, &id): (usize, &usize)| {
            add(row("tok_embeddings.weight", id), row("pos_embeddings.weight", position))
        };
        let mut xs: Vec<Vec<f64>> = ids.iter().enumerate().map(embed).collect();
        for layer in 0..self.config.num_layers {
            let path = |name: &str| format!("layers.{layer}.{name}");
            let normed: Vec<_> = xs.iter().map(|x| self.norm(&path("attention_norm"), x)).collect();
            let attended = self.attention(&path("attention"), &normed);
            xs = xs.iter().zip(&attended).map(|(x, y)| add(x, y)).collect();
            for x in &mut xs {
                let up = self.linear(&path("feed_forward.w1"), &self.norm(&path("ffn_norm"), x));
                let activated: Vec<f64> = up.into_iter().map(gelu).collect();
                *x = add(x, &self.linear(&path("feed_forward.w2"), &activated));
            }
        }
        let head = |x: &Vec<f64>| -> Vec<f64> {
            let x = self.norm("norm", x);
            let token =
                |id| row("tok_embeddings.weight", id).iter().zip(&x).map(|(w, x)| w * x).sum();
            (0..self.config.vocab_size).map(token).collect()
        };
        xs.iter().flat_map(head).collect()
    }
}

/// Gaussian error linear unit, by the Taylor series of the error function.
fn gelu(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let mut term = z;
    let mut erf = z;
    for n in 1..120 {
        term *= -z * z / f64::from(n);
        erf += term / f64::from(2 * n + 1);
    }
    x * 0.5 * (1.0 + erf * 2.0 / std::f64::consts::PI.sqrt())
}
