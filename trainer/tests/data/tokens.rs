//! Token files: golden sequences, widths, several files, splits, sidecars and damage.

use dream_trainer::data::{DataConfig, SourceName, TokenWidth};

use crate::fixture::{Folder, explain, open, sequences, table, tokens};

#[test]
fn cuts_sequences_at_fixed_places_with_labels_shifted_by_one() {
    let folder = Folder::new();
    folder.write_u16("a.bin", 0..10);
    let splits = open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 3).unwrap();
    assert_eq!(
        sequences(&splits.train),
        [
            (vec![0, 1, 2], vec![1, 2, 3]),
            (vec![3, 4, 5], vec![4, 5, 6]),
            (vec![6, 7, 8], vec![7, 8, 9]),
        ]
    );
    assert_eq!(splits.train.num_tokens(), 9);
    assert_eq!(splits.train.vocab_size(), 10);
    assert!(splits.validation.is_none());
}

#[test]
fn reads_files_as_one_stream_in_path_order() {
    let ids: Vec<u16> = (0..50).map(|i| i * 1000).collect();
    let whole = Folder::new();
    whole.write_u16("all.bin", ids.clone());
    let parts = Folder::new();
    // Cuts inside sequences, a file of one token and an empty one.
    for (name, range) in [("b", 7..8), ("a", 0..7), ("c", 8..8), ("d", 8..29), ("e", 29..50)] {
        parts.write_u16(&format!("{name}.bin"), ids[range].to_vec());
    }
    let whole = open(&table(SourceName::Tokens, &[whole.pattern("all.bin")]), 4).unwrap().train;
    let parts = open(&table(SourceName::Tokens, &[parts.pattern("*.bin")]), 4).unwrap().train;
    assert_eq!(sequences(&whole), sequences(&parts));
    assert_eq!(whole.fingerprint(), parts.fingerprint());
}

#[test]
fn reads_both_widths() {
    let folder = Folder::new();
    let ids = [1, 65_535, 65_536, 1_000_000, 5];
    folder.write("a.bin", ids.iter().flat_map(|id: &u32| id.to_le_bytes()).collect::<Vec<_>>());
    let config = DataConfig {
        token_width: Some(TokenWidth::U32),
        ..table(SourceName::Tokens, &[folder.pattern("a.bin")])
    };
    let dataset = open(&config, 4).unwrap().train;
    assert_eq!(tokens(&dataset), [1, 65_535, 65_536, 1_000_000]);
    assert_eq!(dataset.vocab_size(), 1_000_001);
}

#[test]
fn keeps_the_last_share_for_validation() {
    let folder = Folder::new();
    folder.write_u16("a.bin", 0..21);
    let config = DataConfig {
        validation_fraction: 0.25,
        ..table(SourceName::Tokens, &[folder.pattern("a.bin")])
    };
    let splits = open(&config, 2).unwrap();
    assert_eq!(tokens(&splits.train), (0..16).collect::<Vec<_>>());
    assert_eq!(tokens(&splits.validation.unwrap()), [16, 17, 18, 19]);
}

#[test]
fn takes_validation_from_files_of_their_own() {
    let folder = Folder::new();
    folder.write_u16("train.bin", 0..9);
    folder.write_u16("val.bin", 100..109);
    let config = DataConfig {
        validation_files: vec![folder.pattern("val.bin")],
        ..table(SourceName::Tokens, &[folder.pattern("train.bin")])
    };
    let splits = open(&config, 4).unwrap();
    assert_eq!(tokens(&splits.train), (0..8).collect::<Vec<_>>());
    assert_eq!(tokens(&splits.validation.unwrap()), (100..108).collect::<Vec<_>>());
}

#[test]
fn damaged_or_unfit_files_are_named_with_the_numbers() {
    let folder = Folder::new();
    folder.write("odd.bin", [0; 7]);
    folder.write_u16("short.bin", 0..4);
    folder.write("empty.bin", []);
    let open_one = |name: &str, change: fn(&mut DataConfig)| {
        let mut config = table(SourceName::Tokens, &[folder.pattern(name)]);
        change(&mut config);
        folder.redact(&explain(&open(&config, 4).unwrap_err()))
    };
    let messages = [
        open_one("odd.bin", |_| {}),
        open_one("odd.bin", |config| {
            config.token_width = Some(TokenWidth::U32);
        }),
        open_one("short.bin", |_| {}),
        open_one("empty.bin", |_| {}),
        open_one("absent.bin", |_| {}),
        open_one("short.bin", |config| config.eos_id = Some(70_000)),
        open_one("short.bin", |config| {
            config.validation_files.clone_from(&config.files);
        }),
        folder.redact(&explain(
            &open(&table(SourceName::Tokens, &[folder.pattern("short.bin")]), 0).unwrap_err(),
        )),
    ];
    insta::assert_snapshot!(messages.join("\n"), @r"
    `DIR/odd.bin` has 7 bytes, which is not a multiple of 2, the bytes of one `u16` token: 1 left over [the file is truncated, or `data.token_width` is not the width it was written with]
    `DIR/odd.bin` has 7 bytes, which is not a multiple of 4, the bytes of one `u32` token: 3 left over [the file is truncated, or `data.token_width` is not the width it was written with]
    the data hold 4 tokens, but one sequence of 4 reads 5 [add data or shorten `training_parameters.sequence_length`]
    the data hold 0 tokens, but one sequence of 4 reads 5 [add data or shorten `training_parameters.sequence_length`]
    no file matches `DIR/absent.bin` [patterns are relative to the working directory]
    `data.eos_id` is `70000` but must be at most 65535, the largest `u16`
    `DIR/short.bin` is matched by both `data.files` and `data.validation_files` [narrow one of the patterns, so that validation data are not trained on]
    `training_parameters.sequence_length` is `0` but must be in [1, 2147483646]
    ");
}

#[test]
fn a_split_without_a_sequence_is_an_error() {
    for (fraction, split) in [(0.1, "validation"), (0.999, "")] {
        let config = DataConfig {
            validation_fraction: fraction,
            num_sequences: Some(9),
            ..DataConfig::default()
        };
        match open(&config, 4) {
            Ok(splits) => assert_eq!((split, splits.train.num_sequences()), ("", 1)),
            Err(error) => {
                assert!(error.to_string().contains(split) && !split.is_empty(), "{error}");
            }
        }
    }
}

#[test]
fn the_vocabulary_of_the_model_must_hold_every_id() {
    let folder = Folder::new();
    folder.write_u16("a.bin", [3, 9, 1, 2, 8]);
    let dataset = open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 2).unwrap().train;
    dataset.check_vocab(10).unwrap();
    let error = dataset.check_vocab(9).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the data hold the token id 9, but the model's vocabulary has 9 ids, 0 to 8"
    );
}

#[test]
fn labels_across_document_boundaries_are_ignored_where_asked_for() {
    let folder = Folder::new();
    folder.write_u16("a.bin", [5, 6, 0, 7, 0, 0, 8, 9, 4]);
    let config = DataConfig {
        eos_id: Some(0),
        mask_document_boundaries: true,
        ..table(SourceName::Tokens, &[folder.pattern("a.bin")])
    };
    let dataset = open(&config, 4).unwrap().train;
    assert_eq!(
        sequences(&dataset),
        [(vec![5, 6, 0, 7], vec![6, 0, -100, 0]), (vec![0, 0, 8, 9], vec![-100, -100, 9, 4])]
    );
    let unmarked = DataConfig { eos_id: None, ..config };
    let message = explain(&open(&unmarked, 4).unwrap_err());
    assert_eq!(
        message,
        "`data.mask_document_boundaries` needs an end-of-document id, but none is known [set `data.eos_id` to the id that ends every document]"
    );
}

#[test]
fn made_up_tokens_depend_on_seed_and_index_alone() {
    let config = |num| DataConfig {
        num_sequences: Some(num),
        vocab_size: Some(50),
        ..DataConfig::default()
    };
    let open = |num, seed| {
        dream_trainer::data::Dataset::open(&config(num).resolve().unwrap(), 16, seed).unwrap().train
    };
    let (short, long, other) = (open(3, 1), open(30, 1), open(3, 2));
    assert_eq!(sequences(&short)[..], sequences(&long)[..3]);
    assert_ne!(sequences(&short), sequences(&other));
    assert_ne!(short.fingerprint(), long.fingerprint());
    for (tokens, labels) in sequences(&long) {
        assert_eq!(tokens[1..], labels[..15]);
        assert!(tokens.iter().chain(&labels).all(|id| (0..50).contains(id)));
        let follows = tokens.iter().zip(&labels).filter(|(t, l)| (5 * **t + 7) % 50 == **l).count();
        assert!(follows >= 6, "{follows} of 16 tokens follow from the one before");
    }
}
