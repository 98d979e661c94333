//! Batches prepared in the background are those of the loader, and so is the position.

use dream_trainer::data::{Batch, Loader, Prefetcher};

use crate::fixture::{options, synthetic};

fn loader() -> Loader {
    Loader::new(synthetic(11, 2), options(3)).unwrap()
}

fn steps(prefetcher: &mut Prefetcher, num_steps: usize) -> Vec<Vec<Batch>> {
    (0..num_steps).map(|_| prefetcher.next_step().unwrap()).collect()
}

#[test]
fn hands_out_the_batches_of_the_loader() {
    let mut reference = loader();
    for depth in [0, 1, 5] {
        reference.rewind();
        let mut prefetcher = Prefetcher::new(loader(), depth).unwrap();
        for _ in 0..10 {
            assert_eq!(prefetcher.state(), reference.state());
            assert_eq!(prefetcher.next_step().unwrap(), reference.next_step().unwrap());
        }
    }
}

#[test]
fn resumes_at_every_step_although_later_ones_are_prepared() {
    let reference = steps(&mut Prefetcher::new(loader(), 2).unwrap(), 8);
    let mut second = Prefetcher::new(loader(), 2).unwrap();
    for stop in 0..8 {
        let mut first = Prefetcher::new(loader(), 2).unwrap();
        steps(&mut first, stop);
        // The second one stands somewhere else, with other steps prepared.
        second.restore(&first.state()).unwrap();
        assert_eq!(second.state(), first.state());
        assert_eq!(steps(&mut second, 8 - stop), reference[stop..]);
    }
}

#[test]
fn a_refused_position_leaves_it_where_it_was() {
    let mut prefetcher = Prefetcher::new(loader(), 1).unwrap();
    let reference = steps(&mut Prefetcher::new(loader(), 1).unwrap(), 4);
    steps(&mut prefetcher, 2);
    let other = Loader::new(synthetic(12, 2), options(3)).unwrap().state();
    prefetcher.restore(&other).unwrap_err();
    assert_eq!(steps(&mut prefetcher, 2), reference[2..]);
}
