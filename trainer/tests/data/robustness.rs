//! Whatever the bytes of a file, reading it gives sequences or an error, never a panic.

use dream_trainer::data::{DataConfig, SourceName, Splits, TokenWidth};
use proptest::prelude::*;

use crate::fixture::{Folder, open, sequences, table, tokenizer_json};

/// Reads every sequence and checks what holds for any data.
fn visit(splits: &Splits) {
    let dataset = &splits.train;
    let vocab_size = dataset.vocab_size().unwrap();
    for (tokens, labels) in sequences(dataset) {
        assert_eq!(tokens.len(), labels.len());
        if vocab_size <= 1 << 16 {
            assert!(tokens.iter().all(|id| (0..vocab_size as i32).contains(id)));
        }
    }
}

fn read(config: &DataConfig, length: usize) {
    if let Ok(splits) = open(config, length) {
        visit(&splits);
    }
}

/// Bytes that often look like JSON lines.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"{\"text\": \"".to_vec()),
        Just(b"\"}\n".to_vec()),
        Just(b"{\"a\": [[{\"b\": 1e999}]], \"text\": \"\\ud800\"}\n".to_vec()),
        Just(b"\\u00".to_vec()),
        Just(b"\n".to_vec()),
        Just(vec![b'['; 300]),
        Just(b"null".to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
        "[a-z \"{}:,]{0,12}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn token_files(bytes in prop::collection::vec(any::<u8>(), 0..200), wide: bool, length in 1usize..20) {
        let folder = Folder::new();
        folder.write("a.bin", &bytes);
        let width = if wide { TokenWidth::U32 } else { TokenWidth::U16 };
        let config = DataConfig {
            token_width: Some(width),
            eos_id: Some(7),
            mask_document_boundaries: true,
            ..table(SourceName::Tokens, &[folder.pattern("a.bin")])
        };
        let is_whole = bytes.len() % width.num_bytes() == 0 && bytes.len() / width.num_bytes() > length;
        prop_assert_eq!(open(&config, length).is_ok(), is_whole);
        read(&config, length);
    }

    #[test]
    fn json_lines(bytes in json_like(), length in 1usize..20) {
        let folder = Folder::new();
        folder.write("a.jsonl", &bytes);
        read(&table(SourceName::Jsonl, &[folder.pattern("a.jsonl")]), length);
    }

    #[test]
    fn texts(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 1usize..20, is_byte: bool) {
        let folder = Folder::new();
        folder.write("a.txt", &bytes);
        let tokenizer = folder.write("tokenizer.json", tokenizer_json());
        let config = DataConfig {
            tokenizer: (!is_byte).then(|| tokenizer.to_str().unwrap().to_owned()),
            ..table(SourceName::Text, &[folder.pattern("a.txt")])
        };
        read(&config, length);
    }

    #[test]
    fn sidecars_and_tokenizers(bytes in json_like(), cut in 0usize..900, flip in 0usize..900) {
        let folder = Folder::new();
        folder.write_u16("a.bin", 0..50);
        folder.write("a.bin.json", &bytes);
        read(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 4);
        let mut json = tokenizer_json().into_bytes();
        json.truncate(json.len().min(cut + 200));
        let flip = flip % json.len();
        json[flip] = json[flip].wrapping_add(1);
        folder.write("a.txt", "a b z");
        let tokenizer = folder.write("tokenizer.json", json);
        let config = DataConfig {
            tokenizer: Some(tokenizer.to_str().unwrap().to_owned()),
            ..table(SourceName::Text, &[folder.pattern("a.txt")])
        };
        read(&config, 1);
    }
}
