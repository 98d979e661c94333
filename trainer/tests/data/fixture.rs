//! Small data on disk and loaders over them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dream_trainer::data::{
    Batch, DataConfig, DataError, Dataset, LastBatch, Loader, LoaderOptions, SourceName, Splits,
};
use tempfile::TempDir;

/// Seed of every test.
pub(crate) const SEED: u64 = 7;

/// A folder that is removed when the test ends.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn pattern(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes ids as a `u16` token file.
    pub(crate) fn write_u16(&self, name: &str, ids: impl IntoIterator<Item = u16>) -> PathBuf {
        self.write(name, ids.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<_>>())
    }

    /// Replaces the folder's path in a message by `DIR`.
    pub(crate) fn redact(&self, message: &str) -> String {
        message.replace(self.0.path().to_str().unwrap(), "DIR")
    }
}

/// A table that reads the files of patterns in stream order.
pub(crate) fn table(source: SourceName, files: &[String]) -> DataConfig {
    DataConfig { source, files: files.to_vec(), shuffle: false, ..DataConfig::default() }
}

pub(crate) fn open(config: &DataConfig, sequence_length: usize) -> Result<Splits, DataError> {
    Dataset::open(&config.resolve()?, sequence_length, SEED)
}

/// A made-up dataset whose sequences all differ.
pub(crate) fn synthetic(num_sequences: u64, sequence_length: usize) -> Dataset {
    let config = DataConfig {
        num_sequences: Some(num_sequences),
        vocab_size: Some(1 << 20),
        ..DataConfig::default()
    };
    open(&config, sequence_length).unwrap().train
}

/// Returns the tokens of a whole dataset, sequence by sequence.
pub(crate) fn tokens(dataset: &Dataset) -> Vec<i32> {
    sequences(dataset).into_iter().flat_map(|(tokens, _)| tokens).collect()
}

/// Returns tokens and labels of each sequence.
pub(crate) fn sequences(dataset: &Dataset) -> Vec<(Vec<i32>, Vec<i32>)> {
    let length = dataset.sequence_length();
    let read = |index| {
        let (mut tokens, mut labels) = (vec![0; length], vec![0; length]);
        dataset.sequence(index, &mut tokens, &mut labels).unwrap();
        (tokens, labels)
    };
    (0..dataset.num_sequences()).map(read).collect()
}

pub(crate) fn options(global_batch_size: usize) -> LoaderOptions {
    LoaderOptions {
        seed: SEED,
        shuffle: true,
        global_batch_size,
        micro_batch_size: 1,
        dp_rank: 0,
        dp_size: 1,
        last_batch: LastBatch::Drop,
        number_documents: false,
    }
}

/// Returns the rows of batches, tokens then labels, in order.
pub(crate) fn rows(batches: &[Batch]) -> Vec<(Vec<i32>, Vec<i32>)> {
    let rows = |batch: &Batch| {
        let tokens = batch.tokens.chunks(batch.sequence_length);
        let labels = batch.labels.chunks(batch.sequence_length);
        tokens.zip(labels).map(|(t, l)| (t.to_vec(), l.to_vec())).collect::<Vec<_>>()
    };
    batches.iter().flat_map(rows).collect()
}

/// Returns the global batches of the next steps, put together from all data-parallel ranks.
pub(crate) fn global_batches(
    loaders: &mut [Loader],
    num_steps: usize,
) -> Vec<Vec<(Vec<i32>, Vec<i32>)>> {
    let step = |loaders: &mut [Loader]| {
        loaders.iter_mut().flat_map(|loader| rows(&loader.next_step().unwrap())).collect()
    };
    (0..num_steps).map(|_| step(loaders)).collect()
}

/// Returns one loader for each of `dp_size` ranks.
pub(crate) fn ranks(
    dataset: &Dataset,
    options: &LoaderOptions,
    dp_size: usize,
    micro_batch_size: usize,
) -> Vec<Loader> {
    let loader = |dp_rank| {
        let options = LoaderOptions { dp_rank, dp_size, micro_batch_size, ..options.clone() };
        Loader::new(dataset.clone(), options).unwrap()
    };
    (0..dp_size).map(loader).collect()
}

/// Returns an error with its sources and hint, as one text.
pub(crate) fn explain(error: &DataError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    match error.hint() {
        Some(hint) => format!("{text} [{hint}]"),
        None => text,
    }
}

/// Returns the names of the files below a folder, hidden ones included.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Returns a Hugging Face tokenizer of the words `a`, `b`, `c` and `z`, with a hole in its ids and
/// a truncation that must not cut documents.
pub(crate) fn tokenizer_json() -> String {
    r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
        "added_tokens": [{"id": 4, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "[UNK]": 3, "<|endoftext|>": 4, "z": 9}, "unk_token": "[UNK]"}
    }"#
    .into()
}
