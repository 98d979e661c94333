//! Mutated files never panic a reader and never yield a tensor other than the one saved.

use std::fs;
use std::path::Path;

use dream_trainer::checkpoint::Block;
use proptest::prelude::*;

use crate::fixture::{counted, store_with};

#[derive(Debug, Clone)]
enum Mutation {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Number(usize, u64),
}

fn mutations() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<usize>(), 1_u8..).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        any::<usize>().prop_map(Mutation::Cut),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (any::<usize>(), prop_oneof![Just(0), Just(u64::MAX), Just(1 << 61), any::<u64>()])
            .prop_map(|(nth, number)| Mutation::Number(nth, number)),
    ]
}

/// Applies a mutation within the first `reach` bytes.
fn mutate(path: &Path, mutation: &Mutation, reach: usize) {
    let mut bytes = fs::read(path).unwrap();
    let reach = reach.min(bytes.len());
    match mutation {
        Mutation::Flip(at, bits) => bytes[at % reach] ^= bits,
        Mutation::Cut(at) => bytes.truncate(at % reach),
        Mutation::Insert(at, more) => {
            let at = at % reach;
            bytes.splice(at..at, more.iter().copied());
        }
        Mutation::Number(nth, number) => replace_number(&mut bytes, *nth, *number, reach),
    }
    fs::write(path, bytes).unwrap();
}

/// Writes `number` in place of the nth run of digits.
fn replace_number(bytes: &mut Vec<u8>, nth: usize, number: u64, reach: usize) {
    let digit = |at: usize| bytes[at].is_ascii_digit();
    let starts: Vec<usize> = (8..reach).filter(|&at| digit(at) && !digit(at - 1)).collect();
    if let Some(&start) = starts.get(nth % starts.len().max(1)) {
        let end = (start..bytes.len()).find(|&at| !digit(at)).unwrap_or(bytes.len());
        bytes.splice(start..end, number.to_string().into_bytes());
    }
}

fn check(file: &str, mutation: &Mutation, reach: usize) {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1]);
    mutate(&store.root().join("step-00000001").join(file), mutation, reach);
    if let Ok(checkpoint) = store.open(1) {
        let _ = checkpoint.verify();
        if let Ok(data) = checkpoint.read("model/w")
            && data.shape().as_slice() == [8, 6]
            && file.ends_with(".safetensors")
        {
            assert_eq!(data, counted(&[8, 6], &Block::whole(&[8, 6])));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_mutated_manifest_never_panics(mutation in mutations()) {
        check("manifest.json", &mutation, usize::MAX);
    }

    #[test]
    fn a_mutated_tensor_file_never_yields_other_values(mutation in mutations()) {
        check("rank-00001.safetensors", &mutation, usize::MAX);
    }
}
