//! What members tell each other before they move host data: the call, and which calls of device tensors
//! came before it. A call that differs is an error on all members that names both lines.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::header::{Header, WORDS, conflict};
use super::super::{Call, CommError, Side};

/// Bytes of a greeting.
pub(super) const BYTES: usize = 1024;
const WORD_BYTES: usize = WORDS * 8;
/// Where the trail and the two texts begin.
const TRAIL: usize = WORD_BYTES;
const CALL_TEXT: usize = TRAIL + 16;
const LAST_TEXT: usize = CALL_TEXT + (BYTES - CALL_TEXT) / 2;

/// The calls of device tensors that a member has made: they are compared with the next call of host
/// data, because a comparison of each would make the host wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trail {
    count: u64,
    hash: u64,
    last: String,
}

impl Trail {
    /// Adds a call; `None` for a tensor that cannot travel.
    pub(super) fn add(&mut self, call: &Call) -> Option<()> {
        let words = Header::new(call)?.to_data().into_bytes();
        self.hash = xxh3_64_with_seed(&words, self.hash);
        self.count += 1;
        self.last = call.to_string();
        Some(())
    }
}

/// Writes a greeting; `None` for a tensor that cannot travel.
pub(super) fn write(call: &Call, trail: &Trail) -> Option<Vec<u8>> {
    let words = Header::new(call)?.to_data().into_bytes();
    let mut bytes = vec![b' '; BYTES];
    bytes[..WORD_BYTES].copy_from_slice(&words);
    bytes[TRAIL..TRAIL + 8].copy_from_slice(&trail.count.to_ne_bytes());
    bytes[TRAIL + 8..CALL_TEXT].copy_from_slice(&trail.hash.to_ne_bytes());
    put(&mut bytes[CALL_TEXT..LAST_TEXT], &call.to_string());
    put(&mut bytes[LAST_TEXT..], &trail.last);
    Some(bytes)
}

fn put(room: &mut [u8], text: &str) {
    let length = text.len().min(room.len());
    room[..length].copy_from_slice(&text.as_bytes()[..length]);
}

/// The greetings of all members.
#[derive(Debug)]
pub(super) struct Greetings {
    headers: Vec<Header>,
    bytes: Vec<u8>,
}

impl Greetings {
    /// Reads greetings that lie one after the other.
    pub(super) fn read(bytes: Vec<u8>) -> Self {
        let words = bytes.chunks_exact(BYTES).flat_map(|one| one[..WORD_BYTES].chunks_exact(8));
        let number = |word: &[u8]| word.try_into().map_or(0, u64::from_ne_bytes);
        let words: Vec<u64> = words.map(number).collect();
        Self { headers: Header::read_all(&words), bytes }
    }

    /// Returns the header of a member.
    pub(super) fn header(&self, member: usize) -> &Header {
        &self.headers[member]
    }

    fn trail(&self, member: usize) -> &[u8] {
        &self.bytes[member * BYTES + TRAIL..member * BYTES + CALL_TEXT]
    }

    fn text(&self, member: usize, from: usize, to: usize) -> String {
        let text = &self.bytes[member * BYTES + from..member * BYTES + to];
        String::from_utf8_lossy(text).trim_end().to_owned()
    }

    /// Compares all members.
    ///
    /// # Errors
    ///
    /// [`CommError::Mismatch`] with the first two that differ.
    pub(super) fn agree(
        &self,
        group: &str,
        sequence: u64,
        labels: &[String],
    ) -> Result<(), CommError> {
        let mismatch = |first: Side, second: Side| CommError::Mismatch {
            group: group.to_owned(),
            sequence,
            first: Box::new(first),
            second: Box::new(second),
        };
        let call = |member: usize| self.text(member, CALL_TEXT, LAST_TEXT);
        let side = |member: usize, call: String| Side { member: labels[member].clone(), call };
        if let Some((first, second)) = conflict(&self.headers) {
            return Err(mismatch(side(first, call(first)), side(second, call(second))));
        }
        let strayed = (1..self.headers.len()).find(|member| self.trail(*member) != self.trail(0));
        let Some(other) = strayed else { return Ok(()) };
        let after = |member: usize| {
            let count = self.trail(member)[..8].try_into().map_or(0, u64::from_ne_bytes);
            let last = self.text(member, LAST_TEXT, BYTES);
            side(
                member,
                format!("{} after {count} calls of device tensors, the last {last}", call(member)),
            )
        };
        Err(mismatch(after(0), after(other)))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use burn::tensor::DType;

    use super::super::super::{Collective, ReduceOp};
    use super::*;

    fn call(collective: Collective, length: usize) -> Call {
        Call::of(collective, Some((vec![length], DType::F32)), Location::caller())
    }

    fn compare(members: &[(Call, Trail)]) -> Result<(), CommError> {
        let bytes =
            members.iter().flat_map(|(call, trail)| write(call, trail).expect("it travels"));
        let labels: Vec<String> = (0..members.len()).map(|rank| format!("rank {rank}")).collect();
        Greetings::read(bytes.collect()).agree("tp", 7, &labels)
    }

    #[test]
    fn members_that_call_the_same_agree() {
        let sum = call(Collective::AllReduce { op: ReduceOp::Sum }, 3);
        let mut trail = Trail::default();
        trail.add(&sum).expect("it travels");
        assert_eq!(compare(&[(sum.clone(), trail.clone()), (sum.clone(), trail.clone())]), Ok(()));
        let written = write(&sum, &trail).expect("it travels");
        let header = *Greetings::read(written).header(0);
        assert_eq!(header.input(), Some((vec![3], DType::F32)));
    }

    #[test]
    fn calls_that_differ_name_both_members_and_lines() {
        let sum = call(Collective::AllReduce { op: ReduceOp::Sum }, 3);
        let gather = call(Collective::AllGather { dim: 0 }, 3);
        let trail = Trail::default();
        let error = compare(&[(sum.clone(), trail.clone()), (sum, trail.clone()), (gather, trail)]);
        let text = error.expect_err("they differ").to_string();
        assert!(text.contains("call 7 of group `tp`"), "{text}");
        assert!(text.contains("rank 0 called all_reduce(sum) of f32[3] at"), "{text}");
        assert!(text.contains("rank 2 called all_gather(dim 0) of f32[3] at"), "{text}");
        assert!(text.contains("greeting.rs:"), "{text}");
    }

    #[test]
    fn device_calls_that_differed_are_found_by_the_next_host_call() {
        let barrier = Call::of(Collective::Barrier, None, Location::caller());
        let sum = call(Collective::AllReduce { op: ReduceOp::Sum }, 3).on_device();
        let gather = call(Collective::AllGather { dim: 0 }, 3).on_device();
        let trail = |calls: &[&Call]| {
            let mut trail = Trail::default();
            calls.iter().try_for_each(|call| trail.add(call)).expect("they travel");
            trail
        };
        let (one, other) = (trail(&[&sum, &gather]), trail(&[&gather, &sum]));
        let error = compare(&[(barrier.clone(), one.clone()), (barrier.clone(), other)]);
        let text = error.expect_err("another order").to_string();
        assert!(text.contains("rank 0 called barrier at"), "{text}");
        assert!(text.contains("after 2 calls of device tensors, the last all_gather"), "{text}");
        let error = compare(&[(barrier.clone(), one.clone()), (barrier, trail(&[&sum]))]);
        assert!(error.expect_err("one less").to_string().contains("after 1 calls"));
        assert_eq!(one, trail(&[&sum, &gather]));
    }
}
