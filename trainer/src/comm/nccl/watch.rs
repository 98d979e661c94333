//! Operations that a device carries out behind the host's back, and the time they may take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Tells whether an operation has ended.
pub(super) trait Probe {
    /// # Errors
    ///
    /// The operation failed; the text says how.
    fn is_done(&self) -> Result<bool, String>;
}

/// An operation under way.
#[derive(Debug)]
struct Entry<P> {
    probe: P,
    sequence: u64,
    call: String,
    issued: Instant,
}

/// The operations of one group, in the order in which the device carries them out.
#[derive(Debug)]
pub(super) struct Queue<P> {
    entries: VecDeque<Entry<P>>,
    /// When the operation before the first was seen to have ended.
    last_end: Option<Instant>,
}

/// What a look at a queue found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing is wrong.
    Fine,
    /// The first operation takes too long: its number and what was called.
    Late(u64, String),
    /// The first operation failed: its number, what was called, and what the device says.
    Failed(u64, String, String),
}

impl<P> Default for Queue<P> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), last_end: None }
    }
}

impl<P: Probe> Queue<P> {
    /// Notes an operation that was just handed to the device.
    pub(super) fn push(&mut self, probe: P, sequence: u64, call: String, now: Instant) {
        self.entries.push_back(Entry { probe, sequence, call, issued: now });
    }

    /// Tells whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets operations that have ended and judges the first that has not.
    ///
    /// Its time begins when it was issued or when the one before it ended, whichever is later: a host
    /// that runs far ahead of its device makes nobody late.
    pub(super) fn look(&mut self, now: Instant, limit: Duration) -> Finding {
        while let Some(entry) = self.entries.front() {
            let (sequence, call) = (entry.sequence, || entry.call.clone());
            match entry.probe.is_done() {
                Ok(true) => {
                    self.entries.pop_front();
                    self.last_end = Some(now);
                }
                Ok(false) => {
                    let begun = self.last_end.map_or(entry.issued, |end| end.max(entry.issued));
                    let is_late = now.saturating_duration_since(begun) >= limit;
                    return if is_late { Finding::Late(sequence, call()) } else { Finding::Fine };
                }
                Err(message) => return Finding::Failed(sequence, call(), message),
            }
        }
        Finding::Fine
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    type Fake = Rc<RefCell<Result<bool, String>>>;

    impl Probe for Fake {
        fn is_done(&self) -> Result<bool, String> {
            self.borrow().clone()
        }
    }

    fn fake() -> Fake {
        Rc::new(RefCell::new(Ok(false)))
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_operation_is_late_by_its_own_time_alone() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let (first, second) = (fake(), fake());
        let mut queue = Queue::default();
        queue.push(Rc::clone(&first), 4, "one".to_owned(), at(0));
        queue.push(Rc::clone(&second), 5, "two".to_owned(), at(1));
        assert_eq!(queue.look(at(9), LIMIT), Finding::Fine);
        *first.borrow_mut() = Ok(true);
        assert_eq!(queue.look(at(9), LIMIT), Finding::Fine);
        assert_eq!(queue.look(at(18), LIMIT), Finding::Fine, "the second began at 9");
        assert_eq!(queue.look(at(19), LIMIT), Finding::Late(5, "two".to_owned()));
        *second.borrow_mut() = Ok(true);
        assert_eq!(queue.look(at(20), LIMIT), Finding::Fine);
        assert!(queue.is_empty());
        let third = fake();
        queue.push(third, 6, "three".to_owned(), at(100));
        assert_eq!(queue.look(at(109), LIMIT), Finding::Fine, "idle time counts for nothing");
        assert_eq!(queue.look(at(110), LIMIT), Finding::Late(6, "three".to_owned()));
    }

    #[test]
    fn a_failure_is_found_before_lateness_and_names_the_operation() {
        let start = Instant::now();
        let (first, second) = (fake(), fake());
        let mut queue = Queue::default();
        queue.push(Rc::clone(&first), 0, "one".to_owned(), start);
        queue.push(second, 1, "two".to_owned(), start);
        *first.borrow_mut() = Err("remote process exited".to_owned());
        let failed = Finding::Failed(0, "one".to_owned(), "remote process exited".to_owned());
        assert_eq!(queue.look(start + 2 * LIMIT, LIMIT), failed);
    }
}
