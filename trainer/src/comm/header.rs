//! A call as its peers compare it: a few words of fixed size.

use burn::tensor::{BoolStore, DType, TensorData};

use super::{Call, Collective, ReduceOp};

/// Element types by their code on the wire.
const TYPES: [DType; 16] = [
    DType::F64,
    DType::F32,
    DType::Flex32,
    DType::F16,
    DType::BF16,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::Bool(BoolStore::Native),
    DType::Bool(BoolStore::U8),
    DType::Bool(BoolStore::U32),
];

/// Most dimensions of a tensor that travels.
const MAX_DIMS: usize = 8;
/// Words of a header: operation, reduction, two arguments, element type, dimensions.
pub(super) const WORDS: usize = 6 + MAX_DIMS;
/// Code of a type for members that give no tensor.
const NOTHING: u64 = u64::MAX;

/// A call in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u64; WORDS]);

/// Shape and element type in words, if they fit.
pub(super) fn encode_type(shape: &[usize], dtype: DType) -> Option<[u64; 2 + MAX_DIMS]> {
    let code = TYPES.iter().position(|known| *known == dtype)?;
    let mut words = [0; 2 + MAX_DIMS];
    words[0] = code as u64;
    words[1] = shape.len() as u64;
    for (word, size) in words[2..].iter_mut().zip(shape) {
        *word = *size as u64;
    }
    (shape.len() <= MAX_DIMS).then_some(words)
}

/// Reads what [`encode_type`] wrote.
pub(super) fn decode_type(words: &[u64]) -> Option<(Vec<usize>, DType)> {
    let dtype = *TYPES.get(usize::try_from(*words.first()?).ok()?)?;
    let dims = usize::try_from(*words.get(1)?).ok()?.min(MAX_DIMS);
    Some((words.get(2..2 + dims)?.iter().map(|size| *size as usize).collect(), dtype))
}

impl Header {
    /// Writes a call down; `None` for a tensor that cannot travel.
    pub(super) fn new(call: &Call) -> Option<Self> {
        let mut words = [0; WORDS];
        words[0] = call.collective.index() as u64;
        let op = call.collective.reduce_op();
        words[1] = op.map_or(0, |op| {
            1 + ReduceOp::ALL.iter().position(|o| *o == op).map_or(0, |p| p as u64)
        });
        let (first, second) = match call.collective {
            Collective::AllGather { dim } | Collective::ReduceScatter { dim, .. } => (dim, 0),
            Collective::AllToAll { split_dim, concat_dim } => (split_dim, concat_dim),
            _ => (call.collective.root().unwrap_or(0), 0),
        };
        (words[2], words[3]) = (first as u64, second as u64);
        match &call.input {
            Some((shape, dtype)) => words[4..].copy_from_slice(&encode_type(shape, *dtype)?),
            None => words[4] = NOTHING,
        }
        Some(Self(words))
    }

    /// Returns the header as a tensor of words.
    pub(super) fn to_data(self) -> TensorData {
        TensorData::new(self.0.to_vec(), [WORDS])
    }

    /// Reads the headers of all members, one after the other.
    pub(super) fn read_all(words: &[u64]) -> Vec<Self> {
        let read = |words: &[u64]| {
            let mut header = [0; WORDS];
            header.copy_from_slice(words);
            Self(header)
        };
        words.chunks_exact(WORDS).map(read).collect()
    }

    /// Returns shape and element type of the tensor the member gives.
    pub(super) fn input(&self) -> Option<(Vec<usize>, DType)> {
        decode_type(&self.0[4..])
    }

    /// Returns true if two members may take part in one operation with these calls; the words of
    /// [`Call::matches`].
    fn matches(&self, other: &Self) -> bool {
        let gives_both = self.0[4] != NOTHING && other.0[4] != NOTHING;
        self.0[..4] == other.0[..4] && (!gives_both || self.0[4..] == other.0[4..])
    }
}

/// Returns the first two members whose calls differ.
pub(super) fn conflict(headers: &[Header]) -> Option<(usize, usize)> {
    (0..headers.len()).find_map(|first| {
        let differs = |second: &usize| !headers[first].matches(&headers[*second]);
        (first + 1..headers.len()).find(differs).map(|second| (first, second))
    })
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::*;

    fn header(collective: Collective, input: Option<(Vec<usize>, DType)>) -> Header {
        Header::new(&Call::of(collective, input, Location::caller())).expect("it fits")
    }

    #[test]
    fn calls_differ_in_words_where_they_differ_in_fact() {
        let sum = Collective::AllReduce { op: ReduceOp::Sum };
        let given = |shape: &[usize], dtype| Some((shape.to_vec(), dtype));
        let base = header(sum, given(&[2, 3], DType::F32));
        assert!(base.matches(&header(sum, given(&[2, 3], DType::F32))));
        let others = [
            header(sum, given(&[3, 2], DType::F32)),
            header(sum, given(&[6], DType::F32)),
            header(sum, given(&[2, 3], DType::I32)),
            header(Collective::AllReduce { op: ReduceOp::Max }, given(&[2, 3], DType::F32)),
            header(Collective::AllGather { dim: 0 }, given(&[2, 3], DType::F32)),
            header(Collective::Broadcast { root: 1 }, given(&[2, 3], DType::F32)),
        ];
        for other in others {
            assert!(!base.matches(&other), "{other:?}");
        }
        let root = header(Collective::Scatter { root: 0 }, given(&[4], DType::BF16));
        let rest = header(Collective::Scatter { root: 0 }, None);
        assert!(root.matches(&rest) && rest.matches(&root));
        assert_eq!(root.input(), given(&[4], DType::BF16));
        assert_eq!(rest.input(), None);
    }

    #[test]
    fn the_first_two_that_differ_are_named() {
        let barrier = header(Collective::Barrier, None);
        let gather = header(Collective::AllGather { dim: 0 }, Some((vec![1], DType::F32)));
        assert_eq!(conflict(&[barrier; 3]), None);
        assert_eq!(conflict(&[barrier, barrier, gather]), Some((0, 2)));
        assert_eq!(conflict(&[gather, barrier, barrier]), Some((0, 1)));
    }

    #[test]
    fn tensors_of_too_many_dimensions_do_not_travel() {
        assert_eq!(encode_type(&[1; 9], DType::F32), None);
        let words = encode_type(&[1; 8], DType::F16).expect("eight dimensions fit");
        assert_eq!(decode_type(&words), Some((vec![1; 8], DType::F16)));
    }
}
