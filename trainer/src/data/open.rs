//! Opens what a plan names: tokenizes or maps the files.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    DataError, DataPlan, Dataset, DocumentFormat, Sidecar, SourcePlan, Splits, TokenWidth,
    Tokenizer, cache,
    documents::Documents,
    sidecar::sidecar_path,
    split::{Cutter, Opened},
    stream::{TokenStore, TokenStream},
    synthetic::Synthetic,
    token_file,
};

impl Dataset {
    /// Opens the data of a plan, cut into sequences. `seed` makes up the tokens of the synthetic
    /// source; the others do not read it.
    pub fn open(plan: &DataPlan, sequence_length: usize, seed: u64) -> Result<Splits, DataError> {
        if sequence_length == 0 || sequence_length >= i32::MAX as usize {
            return Err(DataError::OutOfRange {
                key: "training_parameters.sequence_length",
                value: sequence_length.to_string(),
                constraint: "in [1, 2147483646]".into(),
            });
        }
        let cutter = Cutter { plan, sequence_length };
        match &plan.source {
            SourcePlan::Synthetic { vocab_size, num_sequences } => {
                let (vocab_size, num_sequences) = (*vocab_size, *num_sequences);
                cutter.synthetic(Synthetic { seed, vocab_size, num_sequences })
            }
            SourcePlan::Tokens { files, width, eos_id } => {
                cutter.files(files, &|files| open_tokens(files, *width, *eos_id))
            }
            SourcePlan::Documents { format, files, tokenizer, options, eos_id, cache_dir } => {
                let tokenizer = Tokenizer::load(tokenizer, *options)?;
                let eos_id = tokenizer.eos_id(*eos_id)?;
                let open = |files: &[PathBuf]| {
                    let documents = Documents { format, files, tokenizer: &tokenizer, eos_id };
                    open_documents(&documents, cache_dir.as_ref())
                };
                cutter.files(files, &open)
            }
        }
    }
}

fn open_documents(
    documents: &Documents<'_>,
    cache_dir: Option<&PathBuf>,
) -> Result<Opened, DataError> {
    let vocab_size = documents.tokenizer.vocab_size();
    let width = TokenWidth::for_vocab(vocab_size);
    let store = match cache_dir {
        Some(folder) => cache::open(documents, width, folder)?,
        None => token_file::in_memory(documents, width)?,
    };
    let kind = match documents.format {
        DocumentFormat::Text => "text",
        DocumentFormat::Jsonl { .. } => "JSON-lines",
    };
    let name = documents.tokenizer.name();
    Ok(Opened {
        description: describe(
            kind,
            documents.files.len(),
            store.num_tokens(),
            &format!(", tokenizer `{name}`"),
        ),
        stream: TokenStream::new(vec![store]),
        vocab_size: Some(vocab_size),
        eos_id: documents.eos_id,
    })
}

fn open_tokens(
    files: &[PathBuf],
    width: Option<TokenWidth>,
    eos_id: Option<u32>,
) -> Result<Opened, DataError> {
    let mut stores: Vec<TokenStore> = Vec::with_capacity(files.len());
    let mut described: Vec<(&PathBuf, Sidecar)> = Vec::new();
    let files = without_sidecars(files);
    for &path in &files {
        let (store, sidecar) = token_file::open(path, width)?;
        if let Some(id) = eos_id.filter(|id| *id > store.width.max_id()) {
            return Err(DataError::OutOfRange {
                key: "data.eos_id",
                value: id.to_string(),
                constraint: format!(
                    "at most {}, the largest `{}`",
                    store.width.max_id(),
                    store.width
                ),
            });
        }
        stores.push(store);
        described.extend(sidecar.map(|sidecar| (path, sidecar)));
    }
    check_same_tokenizer(&described)?;
    let is_all_described = described.len() == files.len();
    let sidecar = described.first().map(|(_, sidecar)| sidecar).filter(|_| is_all_described);
    let stream = TokenStream::new(stores);
    Ok(Opened {
        description: describe("token", files.len(), stream.num_tokens(), ""),
        stream,
        vocab_size: sidecar.map(|sidecar| sidecar.vocab_size),
        eos_id: eos_id.or(sidecar.and_then(|sidecar| sidecar.eos_id)),
    })
}

/// Refuses token files whose ids mean different things.
fn check_same_tokenizer(described: &[(&PathBuf, Sidecar)]) -> Result<(), DataError> {
    let meaning = |sidecar: &Sidecar| (sidecar.tokenizer_fingerprint, sidecar.eos_id);
    let Some((first_path, first)) = described.first() else {
        return Ok(());
    };
    match described.iter().find(|(_, other)| meaning(other) != meaning(first)) {
        None => Ok(()),
        Some((path, _)) => Err(DataError::DifferentTokenizers {
            first: (*first_path).clone(),
            second: (*path).clone(),
        }),
    }
}

fn describe(kind: &str, num_files: usize, num_tokens: u64, suffix: &str) -> String {
    let files = if num_files == 1 { "file" } else { "files" };
    format!("{num_files} {kind} {files} ({num_tokens} tokens{suffix})")
}

/// Leaves out the sidecars that a wide pattern also matches.
fn without_sidecars(files: &[PathBuf]) -> Vec<&PathBuf> {
    let sidecars: BTreeSet<_> = files.iter().map(|path| sidecar_path(path)).collect();
    files.iter().filter(|path| !sidecars.contains(*path)).collect()
}
