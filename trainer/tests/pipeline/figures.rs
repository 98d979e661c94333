//! Idle shares and live microbatches equal their closed forms.

use dream_trainer::pipeline::{Costs, ScheduleKind, Timeline};

use ScheduleKind::{
    GPipe, Interleaved1F1B, LoopedBfs, OneForwardOneBackward, ZeroBubble, ZeroBubbleV,
};

fn timeline(kind: ScheduleKind, sizes: (usize, usize, usize)) -> Timeline {
    let schedule = kind.schedule(sizes.0, sizes.1, sizes.2).unwrap();
    Timeline::of(&schedule, &Costs::default()).unwrap()
}

#[test]
fn idle_shares_are_the_published_ones() {
    // (schedule, (p, v, m), idle share in percent)
    let rows = [
        (OneForwardOneBackward, (2, 1, 4), 20.00),
        (GPipe, (4, 1, 4), 42.86),
        (OneForwardOneBackward, (4, 1, 4), 42.86),
        (OneForwardOneBackward, (4, 1, 8), 27.27),
        (OneForwardOneBackward, (4, 1, 16), 15.79),
        (OneForwardOneBackward, (8, 1, 64), 9.86),
        (OneForwardOneBackward, (4, 1, 1), 75.00),
        (Interleaved1F1B, (4, 2, 8), 15.79),
        (Interleaved1F1B, (2, 2, 4), 11.11),
    ];
    for (kind, sizes, percent) in rows {
        let share = 100.0 * timeline(kind, sizes).idle_share();
        assert!((share - percent).abs() < 0.005, "{kind} {sizes:?}: {share}");
    }
}

#[test]
fn idle_shares_follow_their_formulas_over_a_grid() {
    let close = |kind, (p, v, m): (usize, usize, usize), work: usize| {
        let share = timeline(kind, (p, v, m)).idle_share();
        let expected = (p - 1) as f64 / (work + p - 1) as f64;
        assert!((share - expected).abs() < 1e-12, "{kind} {p} {v} {m}: {share} {expected}");
    };
    for p in 1..7 {
        for rounds in 1..5 {
            let m = p * rounds;
            close(GPipe, (p, 1, m), m);
            close(OneForwardOneBackward, (p, 1, m), m);
            close(ZeroBubble, (p, 1, m), 3 * m);
            for v in 2..4 {
                close(Interleaved1F1B, (p, v, m), v * m);
                close(LoopedBfs, (p, v, m), v * m);
            }
        }
        for m in 2 * p..4 * p {
            close(ZeroBubbleV, (p, 2, m), 6 * m);
        }
    }
}

#[test]
fn live_microbatches_are_counted() {
    for p in 1..6 {
        for m in 1..12 {
            let live = |kind, stages| {
                let timeline = timeline(kind, (p, stages, m));
                (0..p).map(|rank| timeline.peak_live(rank)).collect::<Vec<_>>()
            };
            assert_eq!(live(GPipe, 1), vec![m; p]);
            let expected: Vec<usize> = (0..p).map(|rank| (p - rank).min(m)).collect();
            assert_eq!(live(OneForwardOneBackward, 1), expected, "{p} {m}");
            // No more than the fullest rank of 1F1B, on any rank; twice as many halves in the V.
            assert!(live(ZeroBubble, 1).iter().all(|live| *live <= p.min(m)), "{p} {m}");
            assert!(live(ZeroBubbleV, 2).iter().all(|live| *live <= 2 * p.min(m)), "{p} {m}");
        }
    }
}
