//! The choice between kernel and reference, and kernels under gradient checkpointing.

use burn::tensor::{Device, Tensor};
use dream_trainer::kernels::{self, Implementation};

use crate::harness::{flat, numbers, read};

#[test]
fn the_reference_is_chosen_for_a_scope_only() {
    let default = kernels::implementation();
    assert_ne!(default.cpu_f32, Implementation::Reference);
    let inside = kernels::with_reference(kernels::implementation);
    assert_eq!(inside.cpu_f32, Implementation::Reference);
    let panicked = std::panic::catch_unwind(|| kernels::with_reference(|| panic!("in the scope")));
    assert!(panicked.is_err());
    assert_eq!(kernels::implementation(), default);
}

/// Gradients of a chain of kernels whose inputs come from recomputable operations.
fn gradients(device: &Device) -> Vec<Vec<f64>> {
    let leaf =
        |seed, len| flat(&numbers(seed, len), burn::tensor::DType::F32, device).require_grad();
    let leaves = [leaf(1, 30), leaf(2, 24), leaf(3, 4)];
    let [x, weight, scale] = leaves.clone();
    let weight = (weight * 0.5).reshape([6, 4]);
    let hidden: Tensor<2> = kernels::linear((x + 1.0).reshape([5, 6]), weight.clone(), None);
    let hidden = kernels::rms_norm(hidden, scale.exp(), 1e-5);
    let layers = vec![(weight.clone().transpose(), None), (weight.clone().transpose(), None)];
    let [gate, up] = kernels::project(hidden, layers).try_into().expect("two layers");
    let [sum, norm] = kernels::add_rms_norm(gate.clone(), up, Tensor::ones([6], device), 1e-5);
    let output = kernels::swiglu(sum, norm);
    let [q, k, v] = [0, 2, 4].map(|i| output.clone().narrow(1, i, 2).reshape([1, 5, 1, 2]));
    let attended = kernels::attention(q, k, v, &kernels::AttentionOptions::causal());
    let output = Tensor::cat(vec![output, attended.reshape([5, 2])], 1).narrow(1, 2, 6);
    let output = kernels::linear(output, weight.clone(), None);
    let mut grads = kernels::linear(output, weight.transpose(), None).sum().backward();
    let taken = leaves.iter().map(|leaf| leaf.grad_remove(&mut grads));
    taken.map(|grad| read(grad.expect("every leaf has a gradient"))).collect()
}

#[test]
fn every_instruction_set_of_the_machine_computes_the_same_bits() {
    let all = kernels::implementations();
    assert_eq!(all[0], kernels::implementation().cpu_f32);
    let compute = || gradients(&Device::flex().autodiff());
    let best = compute();
    for implementation in all {
        let run = || (kernels::implementation().cpu_f32, compute());
        let (used, found) = kernels::with_implementation(implementation, run).expect("listed");
        assert_eq!((used, found), (implementation, best.clone()));
    }
}

#[test]
fn kernels_differentiate_under_gradient_checkpointing() {
    let kept = gradients(&Device::flex().autodiff());
    let recomputed = gradients(&Device::flex().autodiff().gradient_checkpointing());
    assert_eq!(kept, recomputed);
}
