//! A stream of token ids over one or several stores, read at any place.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use rayon::prelude::*;

use super::{DataError, Fingerprint, TokenWidth, bytes::StoreBytes, fingerprint::Hasher};

/// Tokens read at a time when all of them are visited.
const BLOCK_TOKENS: u64 = 1 << 20;
/// Tokens of one sample of the fingerprint.
const SAMPLE_TOKENS: u64 = 1 << 10;
/// Samples of a fingerprint, spread evenly: enough to tell data apart, few enough to open terabytes
/// at once.
const NUM_SAMPLES: u64 = 256;

/// Little-endian ids of one width; a clone shares them.
#[derive(Clone)]
pub(crate) struct TokenStore {
    pub(crate) bytes: Arc<StoreBytes>,
    pub(crate) width: TokenWidth,
    /// Largest id, where the writer of the store noted it.
    pub(crate) max_id: Option<u32>,
}

impl TokenStore {
    pub(crate) fn num_tokens(&self) -> u64 {
        self.bytes.len() / self.width.num_bytes() as u64
    }

    /// Reads `len` ids from `start` on.
    fn ids(&self, start: u64, len: usize) -> Result<Vec<u32>, DataError> {
        let size = self.width.num_bytes();
        let mut bytes = vec![0; len * size];
        self.bytes.read(start * size as u64, &mut bytes)?;
        Ok(match self.width {
            TokenWidth::U16 => bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| u32::from(u16::from_le_bytes(*bytes)))
                .collect(),
            TokenWidth::U32 => {
                bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
            }
        })
    }

    /// Returns the blocks in which all ids are visited: the first id of each and their number.
    fn blocks(&self) -> impl ParallelIterator<Item = (u64, usize)> {
        let num_tokens = self.num_tokens();
        (0..num_tokens.div_ceil(BLOCK_TOKENS)).into_par_iter().map(move |block| {
            let start = block * BLOCK_TOKENS;
            (start, BLOCK_TOKENS.min(num_tokens - start) as usize)
        })
    }

    fn scan_max_id(&self) -> Result<Option<u32>, DataError> {
        let largest = |(start, len)| Ok(self.ids(start, len)?.into_iter().max());
        self.blocks().map(largest).try_reduce(|| None, |a, b| Ok(a.max(b)))
    }

    /// Returns the place and the value of the first id that is not below `limit`.
    fn first_from(&self, limit: usize) -> Result<Option<(u64, u32)>, DataError> {
        let find = |(start, len)| {
            let ids = self.ids(start, len)?;
            let found = ids.iter().position(|id| *id as usize >= limit);
            Ok(found.map(|place| (start + place as u64, ids[place])))
        };
        // The smallest place over all blocks.
        let earlier = |a: Option<(u64, u32)>, b| Ok(a.into_iter().chain(b).min());
        self.blocks().map(find).try_reduce(|| None, earlier)
    }
}

/// Token stores one after the other.
pub(crate) struct TokenStream {
    stores: Vec<TokenStore>,
    /// First token of each store.
    starts: Vec<u64>,
    num_tokens: u64,
    max_id: OnceLock<Option<u32>>,
    fingerprint: OnceLock<Fingerprint>,
}

impl TokenStream {
    pub(crate) fn new(stores: Vec<TokenStore>) -> Self {
        let mut num_tokens = 0;
        let starts = stores
            .iter()
            .map(|store| {
                let start = num_tokens;
                num_tokens += store.num_tokens();
                start
            })
            .collect();
        Self { stores, starts, num_tokens, max_id: OnceLock::new(), fingerprint: OnceLock::new() }
    }

    pub(crate) fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Copies the ids from `start` on into `out`, across stores where needed.
    ///
    /// # Errors
    ///
    /// A file that can no longer be read; with `limit`, an id that is not below it, with its place.
    pub(crate) fn read(
        &self,
        start: u64,
        mut out: &mut [i32],
        limit: Option<usize>,
    ) -> Result<(), DataError> {
        // The last store that starts at or before `start`; empty stores before it share its start.
        let mut index = self.starts.partition_point(|&first| first <= start).saturating_sub(1);
        let mut position = start;
        while !out.is_empty() {
            let store = &self.stores[index];
            let offset = position - self.starts[index];
            let length = out.len().min((store.num_tokens() - offset) as usize);
            let ids = store.ids(offset, length)?;
            let foreign = |limit| ids.iter().position(|id| *id as usize >= limit);
            if let Some(place) = limit.and_then(foreign) {
                let model_vocab = limit.unwrap_or_default();
                return Err(foreign_id(store, offset + place as u64, ids[place], model_vocab));
            }
            let (head, tail) = out.split_at_mut(length);
            for (out, id) in head.iter_mut().zip(ids) {
                *out = id as i32;
            }
            out = tail;
            position += length as u64;
            index += 1;
        }
        Ok(())
    }

    /// Returns the largest id, scanning the stores whose writer did not note it; once.
    pub(crate) fn max_id(&self) -> Result<Option<u32>, DataError> {
        if let Some(known) = self.max_id.get() {
            return Ok(*known);
        }
        let mut largest = None;
        for store in &self.stores {
            let noted = store.max_id.map(Some);
            largest = largest.max(noted.map_or_else(|| store.scan_max_id(), Ok)?);
        }
        Ok(*self.max_id.get_or_init(|| largest))
    }

    /// Checks that all ids are below `model_vocab`, and names the first that is not.
    pub(crate) fn check_vocab(&self, model_vocab: usize) -> Result<(), DataError> {
        let Some(max_id) = self.max_id()?.filter(|id| *id as usize >= model_vocab) else {
            return Ok(());
        };
        for store in &self.stores {
            if let Some((place, id)) = store.first_from(model_vocab)? {
                return Err(foreign_id(store, place, id, model_vocab));
            }
        }
        // A writer's note of a larger id than there is: what it wrote for needs a larger model.
        Err(DataError::VocabTooSmall { max_id, model_vocab })
    }

    /// Names the ids by their number and by samples spread over them, whatever their width and
    /// their division into stores; once.
    pub(crate) fn fingerprint(&self) -> Result<Fingerprint, DataError> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(*known);
        }
        let sample = self.sample()?;
        Ok(*self.fingerprint.get_or_init(|| sample))
    }

    fn sample(&self) -> Result<Fingerprint, DataError> {
        let mut hasher = Hasher::default().number(self.num_tokens);
        let mut ids = Vec::new();
        for range in samples(self.num_tokens) {
            ids.resize((range.end - range.start) as usize, 0);
            self.read(range.start, &mut ids, None)?;
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            hasher = hasher.bytes(&bytes);
        }
        Ok(hasher.finish())
    }
}

fn foreign_id(store: &TokenStore, position: u64, id: u32, model_vocab: usize) -> DataError {
    match store.bytes.path() {
        Some(path) => DataError::ForeignId { path: path.to_path_buf(), position, id, model_vocab },
        None => DataError::VocabTooSmall { max_id: id, model_vocab },
    }
}

/// Returns the places of the fingerprint's samples: everything where the stream is short.
fn samples(num_tokens: u64) -> impl Iterator<Item = Range<u64>> {
    let is_short = num_tokens <= NUM_SAMPLES * SAMPLE_TOKENS;
    let num_samples = if is_short { num_tokens.div_ceil(SAMPLE_TOKENS) } else { NUM_SAMPLES };
    (0..num_samples).map(move |i| {
        let start = if is_short {
            i * SAMPLE_TOKENS
        } else {
            let last = u128::from(num_tokens - SAMPLE_TOKENS);
            (last * u128::from(i) / u128::from(NUM_SAMPLES - 1)) as u64
        };
        start..(start + SAMPLE_TOKENS).min(num_tokens)
    })
}
