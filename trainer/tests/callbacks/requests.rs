//! What callbacks ask of the trainer, on one rank and over several.

use std::path::Path;

use dream_trainer::callbacks::{
    Callback, CallbackResult, CallbackSet, Interruption, MergedRequests, Requests, RunView,
};
use dream_trainer::metrics::StepInfo;

use crate::support::{run_in, step};

/// Asks for the same after every step.
struct Asker {
    name: &'static str,
    asks: Requests,
}

impl Callback for Asker {
    fn name(&self) -> &str {
        self.name
    }

    fn post_train_step(
        &mut self,
        _: &RunView,
        _: &StepInfo,
        requests: &mut Requests,
    ) -> CallbackResult {
        assert_eq!(*requests, Requests::default(), "nobody sees what others ask for");
        *requests = self.asks.clone();
        Ok(())
    }
}

#[test]
fn requests_add_up_and_the_first_to_stop_is_named() {
    let (no, save) = (Requests::default(), Requests { save: true, ..Requests::default() });
    let stop = Requests { stop: true, ..Requests::default() };
    let validate = Requests { validate: true, ..Requests::default() };
    let rows = [
        ([&no, &no, &no], (false, false), None),
        ([&save, &validate, &no], (true, true), None),
        ([&no, &stop, &stop], (false, false), Some("b")),
        ([&save, &no, &stop], (true, false), Some("c")),
    ];
    let run = run_in(Path::new("out"), 10, 0);
    for (asks, expected, stopped_by) in rows {
        let mut set = CallbackSet::new(0);
        for (name, asks) in ["a", "b", "c"].into_iter().zip(asks) {
            set.push(Box::new(Asker { name, asks: asks.clone() })).unwrap();
        }
        let merged = set.post_train_step(&run, &step(1)).unwrap();
        assert_eq!((merged.save, merged.validate), expected);
        let why = stopped_by.map(|name| Interruption::Requested { callback: name.to_owned() });
        assert_eq!(set.interruption(&merged), why);
    }
}

#[test]
fn maximum_of_codes_over_ranks_is_what_any_rank_asked_for() {
    let asked = |save, validate, stop| MergedRequests { save, validate, stop };
    let ranks = [asked(false, true, None), asked(true, false, Some(0)), asked(false, false, None)];
    let codes = ranks.map(MergedRequests::to_codes);
    for (rank, code) in ranks.iter().zip(codes) {
        assert_eq!(MergedRequests::from_codes(code), *rank);
    }
    let reduced = codes.into_iter().reduce(|a, b| std::array::from_fn(|i| a[i].max(b[i]))).unwrap();
    assert_eq!(MergedRequests::from_codes(reduced), asked(true, true, Some(0)));
}
