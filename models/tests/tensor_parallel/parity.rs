//! Five steps of training are the same on every mesh.

use dream_trainer::tensor_parallel::TensorParallelOptions;

use crate::harness::{assemble, assert_close, assert_gradients};
use crate::subject::{Gpt, Llama, STEPS, Setting, SharedKeys, Subject, train};
use crate::tolerance::{FIRST_STEP, LATER_STEP, MODEL};

/// Ranks along `tp` and `dp`.
const MESHES: [(usize, usize); 7] = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1)];

fn check<S: Subject>(meshes: &[(usize, usize)]) {
    let mut dense = train::<S>(Setting::dense(), STEPS);
    let dense = dense.remove(0);
    assert!(
        dense.losses[STEPS - 1] < dense.losses[0] - 0.05,
        "{}: it learns: {:?}",
        S::NAME,
        dense.losses
    );
    let expected = assemble(vec![dense.first]);
    let modes = [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (true, true, false),
        (true, true, true),
    ];
    for &(tp, dp) in meshes {
        // Eight ranks take their time on a few cores: two modes are enough.
        let modes = if tp * dp == 8 { &modes[3..] } else { &modes[..] };
        for &(sequence_parallel, loss_parallel, overlap) in modes {
            let options = TensorParallelOptions { sequence_parallel, loss_parallel, overlap };
            let setting = Setting { dp, tp, options };
            let what = format!("{} {setting:?}", S::NAME);
            let runs = train::<S>(setting, STEPS);
            for run in &runs {
                let losses = |steps| (&run.losses[steps..=steps], &dense.losses[steps..=steps]);
                let (first, expected) = losses(0);
                assert_close(&format!("{what}: first loss"), first, expected, FIRST_STEP);
                let (fifth, expected) = losses(STEPS - 1);
                assert_close(&format!("{what}: fifth loss"), fifth, expected, LATER_STEP);
            }
            if dp == 1 {
                let gradients = assemble(runs.into_iter().map(|run| run.first).collect());
                assert_gradients(&what, &gradients, &expected, MODEL);
            }
        }
    }
}

#[test]
fn llama3_trains_alike_on_every_mesh() {
    check::<Llama>(&MESHES);
}

#[test]
fn gpt2_trains_alike_on_every_mesh() {
    check::<Gpt>(&MESHES);
}

#[test]
fn ranks_that_share_key_value_heads_train_as_one_does() {
    check::<SharedKeys>(&[(2, 1), (4, 1), (4, 2), (8, 1)]);
}
