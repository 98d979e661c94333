//! The multi-layer perceptron: parameter counts, refusals, values and gradients worked out by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/tolerance.rs"]
mod tolerance;

use burn::tensor::{Device, Tensor, TensorData};
use dream_models::mlp::{Activation, Mlp, MlpConfig};
use dream_trainer::nn::{ParameterEntry, Scope, assign_values, parameters};
use tolerance::MODEL;

fn build(config: &MlpConfig, device: &Device, weights: &[&[f32]]) -> Mlp {
    let model = config.init(&Scope::root(device.clone(), 0)).unwrap();
    let mut weights = weights.iter();
    let model = assign_values(model, |entry| -> Result<_, std::convert::Infallible> {
        let values = weights.next().expect("one list per parameter").to_vec();
        Ok(Some(TensorData::new(values, entry.shape.clone())))
    });
    model.unwrap()
}

#[test]
fn parameters_are_counted_exactly() {
    let with_bias = MlpConfig { widths: vec![3, 5, 2], bias: true, ..MlpConfig::default() };
    let rows = [
        (MlpConfig::default(), 2 * 128 * 128),
        (MlpConfig::gelu(1024, 4), 4 * 1024 * 1024),
        (with_bias, 4 * 5 + 6 * 2),
    ];
    for (config, expected) in rows {
        assert_eq!(config.num_params(), expected);
        let scope = Scope::root(Device::flex(), 0);
        let listed = parameters(&config.init(&scope).unwrap());
        let counted: usize = listed.iter().map(ParameterEntry::num_elements).sum();
        assert_eq!(counted, expected, "{config:?}, counted in the module");
        for param in listed {
            assert_eq!(scope.spec(param.id).unwrap().path, param.path);
        }
    }
}

#[test]
fn shapes_without_a_layer_or_size_are_refused() {
    let rows = [
        (vec![], "`widths.len` is 0 but must be at least 2, input and output"),
        (vec![4], "`widths.len` is 1 but must be at least 2, input and output"),
        (vec![4, 0, 4], "`widths` is 0 but must be at least 1"),
    ];
    for (widths, message) in rows {
        let config = MlpConfig { widths, ..MlpConfig::default() };
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
}

#[test]
fn output_is_activated_only_where_asked() {
    let device = Device::flex();
    let x = Tensor::<2>::from_data([[1.0_f32, 2.0]], &device);
    // x W1 = [-1, 3], relu [0, 3], W2 gives [-3]; gelu(-1) = -0.158655, gelu(3) = 2.995950.
    let weights: [&[f32]; 2] = [&[1.0, 1.0, -1.0, 1.0], &[2.0, -1.0]];
    let rows = [
        (Activation::Relu, false, -3.0),
        (Activation::Relu, true, 0.0),
        (Activation::Gelu, false, -0.317_31 - 2.995_95),
    ];
    for (activation, activate_output, expected) in rows {
        let config = MlpConfig { widths: vec![2, 2, 1], activation, activate_output, bias: false };
        let y = build(&config, &device, &weights).forward(x.clone()).into_scalar::<f32>();
        assert!(f64::from((y - expected).abs()) < MODEL, "{activation:?}, {activate_output}: {y}");
    }
}

#[test]
fn dead_units_get_no_gradient_at_all() {
    let device = Device::flex().autodiff();
    let config = MlpConfig { widths: vec![2, 2, 1], ..MlpConfig::default() };
    let model = build(&config, &device, &[&[1.0, 1.0, -1.0, 1.0], &[2.0, -1.0]]);
    // The first unit is negative for both rows.
    let x = Tensor::<2>::from_data([[1.0_f32, 2.0], [0.0, 1.0]], &device);
    let gradients = model.forward(x).sum().backward();
    let gradient = model.layers[0].module().weight.val().grad(&gradients).unwrap().into_data();
    assert_eq!(gradient.as_slice::<f32>().unwrap(), [0.0, -1.0, 0.0, -3.0]);
}
