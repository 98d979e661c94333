//! A stream of token ids over one or several stores, read at any place.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use rayon::prelude::*;

use super::{Fingerprint, TokenWidth, fingerprint::Hasher, mapped::FileBytes};

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
    pub(crate) bytes: Arc<FileBytes>,
    pub(crate) width: TokenWidth,
    /// Largest id, where the writer of the store noted it.
    pub(crate) max_id: Option<u32>,
}

impl TokenStore {
    pub(crate) fn num_tokens(&self) -> u64 {
        (self.bytes.as_slice().len() / self.width.num_bytes()) as u64
    }

    /// Decodes `out.len()` ids from `start` on.
    fn read(&self, start: usize, out: &mut [i32]) {
        let size = self.width.num_bytes();
        let bytes = &self.bytes.as_slice()[start * size..(start + out.len()) * size];
        match self.width {
            TokenWidth::U16 => {
                for (id, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *id = i32::from(u16::from_le_bytes(*bytes));
                }
            }
            TokenWidth::U32 => {
                for (id, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *id = u32::from_le_bytes(*bytes) as i32;
                }
            }
        }
    }

    fn scan_max_id(&self) -> Option<u32> {
        let bytes = self.bytes.as_slice();
        let block_bytes = BLOCK_TOKENS as usize * self.width.num_bytes();
        let blocks = bytes.par_chunks(block_bytes);
        match self.width {
            TokenWidth::U16 => blocks
                .filter_map(|block| {
                    let ids =
                        block.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
                    ids.max().map(u32::from)
                })
                .max(),
            TokenWidth::U32 => blocks
                .filter_map(|block| {
                    block.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).max()
                })
                .max(),
        }
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
    pub(crate) fn read(&self, start: u64, mut out: &mut [i32]) {
        // The last store that starts at or before `start`; empty stores before it share its start.
        let mut index = self.starts.partition_point(|&first| first <= start).saturating_sub(1);
        let mut position = start;
        while !out.is_empty() {
            let store = &self.stores[index];
            let offset = position - self.starts[index];
            let length = out.len().min((store.num_tokens() - offset) as usize);
            let (head, tail) = out.split_at_mut(length);
            store.read(offset as usize, head);
            out = tail;
            position += length as u64;
            index += 1;
        }
    }

    /// Returns the largest id, scanning the stores whose writer did not note it; once.
    pub(crate) fn max_id(&self) -> Option<u32> {
        *self.max_id.get_or_init(|| {
            self.stores
                .iter()
                .filter_map(|store| store.max_id.or_else(|| store.scan_max_id()))
                .max()
        })
    }

    /// Names the ids by their number and by samples spread over them, whatever their width and
    /// their division into stores; once.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        *self.fingerprint.get_or_init(|| self.sample())
    }

    fn sample(&self) -> Fingerprint {
        let mut hasher = Hasher::default().number(self.num_tokens);
        let mut ids = Vec::new();
        for range in samples(self.num_tokens) {
            ids.resize((range.end - range.start) as usize, 0);
            self.read(range.start, &mut ids);
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            hasher = hasher.bytes(&bytes);
        }
        hasher.finish()
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
