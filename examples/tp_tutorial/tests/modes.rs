//! What the tutorial teaches, checked.

#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;

use tolerance::{FIRST_STEP, MODEL};
use tp_tutorial::transformer::{Settings, train};
use tp_tutorial::{lecture, perceptron};

const DENSE: Settings = Settings {
    world_size: 1,
    tensor_parallel: false,
    loss_parallel: false,
    hidden: 32,
    batch: None,
};

#[test]
fn four_modes_have_one_loss_curve() {
    for batch in [None, Some([2, 64])] {
        let dense = train(Settings { batch, ..DENSE }).expect("the ranks end well");
        assert!(dense.losses[4] < dense.losses[0], "it learns: {:?}", dense.losses);
        assert_eq!(dense.num_targets, if batch.is_some() { 114 } else { 9 });
        for (tensor_parallel, loss_parallel) in [(false, true), (true, false), (true, true)] {
            let split =
                train(Settings { world_size: 2, tensor_parallel, loss_parallel, batch, ..DENSE })
                    .expect("the ranks end well");
            for (a, b) in split.losses.iter().zip(&dense.losses) {
                assert!(
                    f64::from(((a - b) / b).abs()) <= FIRST_STEP,
                    "{tensor_parallel} {loss_parallel}: {:?} {:?}",
                    split.losses,
                    dense.losses
                );
            }
            assert!(split.local_params < dense.local_params);
        }
    }
}

#[test]
fn a_sentence_is_learned_by_heart() {
    let outcome = train(Settings { hidden: 256, ..DENSE }).expect("the ranks end well");
    assert_eq!(outcome.local_params, 14_702_080);
    let [first, .., fifth] = outcome.losses[..] else { panic!("five losses") };
    assert!((10.825..11.2).contains(&first) && fifth < 0.5, "{:?}", outcome.losses);
}

#[test]
fn the_first_weight_has_one_gradient_and_the_same_dead_units() {
    let dense = perceptron::run(1).expect("the ranks end well");
    for world_size in [2, 4] {
        for (split, dense) in
            perceptron::run(world_size).expect("the ranks end well").iter().zip(&dense)
        {
            assert!(((split.loss - dense.loss) / dense.loss).abs() <= 3e-6);
            for (a, b) in split.fc1_grad.iter().zip(&dense.fc1_grad) {
                assert!((a - b).abs() <= 1e-4);
            }
            let dead = |gradient: &[f32]| -> Vec<usize> {
                let columns = perceptron::WIDTHS[1];
                (0..columns)
                    .filter(|column| {
                        gradient.iter().skip(*column).step_by(columns).all(|g| *g == 0.0)
                    })
                    .collect()
            };
            assert_eq!(dead(&split.fc1_grad), dead(&dense.fc1_grad));
        }
    }
}

#[test]
fn the_homework_has_the_gradients_of_the_whole_network() {
    let dense = lecture::run(1, 16, 32).expect("the ranks end well");
    let split = lecture::run(4, 16, 32).expect("the ranks end well");
    assert_eq!(split.calls, [4, 3]);
    assert_eq!((split.activations.rows, split.activations.columns), (16, 32));
    for (split, dense) in split.gradients.iter().zip(&dense.gradients) {
        let norm = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|v| f64::from(v * v)).sum::<f64>().sqrt()
        };
        let error = norm(&mut split.iter().zip(dense).map(|(a, b)| a - b));
        assert!(error <= MODEL * norm(&mut dense.iter().copied()));
    }
}
