//! Five steps of training are the same on every mesh.

use dream_models::gpt2::Gpt2;
use dream_models::llama3::Llama3;
use dream_trainer::tensor_parallel::TensorParallelOptions;

use crate::harness::{assemble, assert_close, assert_gradients};
use crate::subject::{STEPS, Setting, Subject, train};
use crate::tolerance::{FIFTH_LOSS, FIRST_LOSS, MODEL};

fn check<S: Subject>() {
    let mut dense = train::<S>(Setting::dense(), STEPS);
    let dense = dense.remove(0);
    assert!(
        dense.losses[STEPS - 1] < dense.losses[0] - 0.05,
        "{}: it learns: {:?}",
        S::NAME,
        dense.losses
    );
    let expected = assemble(vec![dense.first]);
    for tp in [1, 2, 4] {
        for dp in [1, 2] {
            for (sequence_parallel, loss_parallel, overlap) in [
                (false, false, false),
                (false, true, false),
                (true, false, false),
                (true, true, false),
                (true, true, true),
            ] {
                let options = TensorParallelOptions { sequence_parallel, loss_parallel, overlap };
                let setting = Setting { dp, tp, options };
                let what = format!("{} {setting:?}", S::NAME);
                let runs = train::<S>(setting, STEPS);
                for run in &runs {
                    assert_close(
                        &format!("{what}: first loss"),
                        &run.losses[..1],
                        &dense.losses[..1],
                        FIRST_LOSS,
                    );
                    assert_close(
                        &format!("{what}: fifth loss"),
                        &run.losses[4..],
                        &dense.losses[4..],
                        FIFTH_LOSS,
                    );
                }
                if dp == 1 {
                    let gradients = assemble(runs.into_iter().map(|run| run.first).collect());
                    assert_gradients(&what, &gradients, &expected, MODEL);
                }
            }
        }
    }
}

#[test]
fn llama3_trains_alike_on_every_mesh() {
    check::<Llama3>();
}

#[test]
fn gpt2_trains_alike_on_every_mesh() {
    check::<Gpt2>();
}
