//! The shuffled order: a bijection, spread evenly, different every epoch.

use dream_trainer::data::Permutation;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn visits_every_element_once(len in 1u64..3000, seed: u64, epoch: u64) {
        let permutation = Permutation::new(len, seed, epoch);
        let mut seen = vec![false; len as usize];
        for place in 0..len {
            let element = permutation.apply(place) as usize;
            prop_assert!(!std::mem::replace(&mut seen[element], true), "{element} twice");
        }
    }

    #[test]
    fn stays_inside_the_largest_domains(len in (1u64 << 40)..=u64::MAX, seed: u64, place: u64) {
        let permutation = Permutation::new(len, seed, 0);
        let (first, second) = (place % len, place.wrapping_add(1) % len);
        prop_assert!(permutation.apply(first) < len);
        prop_assert_ne!(permutation.apply(first), permutation.apply(second));
    }
}

#[test]
fn small_domains_are_shuffled_evenly() {
    const EPOCHS: u64 = 6000;
    for len in 2..=5usize {
        // How often each element comes at each place; both the uniform count and its spread are
        // known.
        let mut counts = vec![vec![0u64; len]; len];
        for epoch in 0..EPOCHS {
            let permutation = Permutation::new(len as u64, 3, epoch);
            for (place, counts) in counts.iter_mut().enumerate() {
                counts[permutation.apply(place as u64) as usize] += 1;
            }
        }
        let expected = EPOCHS as f64 / len as f64;
        let spread = (EPOCHS as f64 * (1.0 / len as f64) * (1.0 - 1.0 / len as f64)).sqrt();
        for count in counts.into_iter().flatten() {
            let deviation = (count as f64 - expected).abs() / spread;
            assert!(deviation < 5.0, "{count} of {EPOCHS} in {len} elements");
        }
    }
}

#[test]
fn neighbors_do_not_stay_together() {
    let len = 10_000;
    let order = |epoch| {
        let permutation = Permutation::new(len, 3, epoch);
        (0..len).map(|place| permutation.apply(place)).collect::<Vec<_>>()
    };
    let order = [order(0), order(1)];
    for order in &order {
        let near = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 10).count();
        // 20 of 9,999 random pairs are expected to be so near.
        assert!(near < 50, "{near} neighbors stayed within 10");
    }
    let fixed = order[0].iter().zip(&order[1]).filter(|(a, b)| a == b).count();
    assert!(fixed < 10, "{fixed} sequences keep their place in the next epoch");
}
