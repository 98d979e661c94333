//! Token files: golden sequences, widths, several files, splits, sidecars and damage.

use dream_trainer::data::{DataConfig, Loader, SourceName, TokenWidth};

use crate::fixture::{Folder, explain, open, options, sequences, synthetic, table, tokens};

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
    assert_eq!(splits.train.vocab_size().unwrap(), 10);
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
    assert_eq!(whole.fingerprint().unwrap(), parts.fingerprint().unwrap());
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
    assert_eq!(dataset.vocab_size().unwrap(), 1_000_001);
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
    dataset.clone().for_vocab(10).unwrap();
    let error = dataset.for_vocab(9).unwrap_err();
    assert_eq!(
        folder.redact(&error.to_string()),
        "token 1 of `DIR/a.bin` is the id 9, but the model's vocabulary has 9 ids, 0 to 8"
    );
    // Made-up data lie in no file.
    let error = synthetic(3, 2).for_vocab(9).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the data hold the token id 1048575, but the model's vocabulary has 9 ids, 0 to 8"
    );
}

#[test]
fn a_foreign_id_is_found_wherever_it_lies() {
    let folder = Folder::new();
    let num_tokens = 3 << 20;
    for place in [0, 1, 1_234_567, num_tokens - 1] {
        let mut ids = vec![5_u32; num_tokens];
        ids[place] = u32::MAX - 1;
        folder.write("a.bin", ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>());
        let config = DataConfig {
            token_width: Some(TokenWidth::U32),
            ..table(SourceName::Tokens, &[folder.pattern("a.bin")])
        };
        let error = open(&config, 8).unwrap().train.for_vocab(9).unwrap_err();
        let expected = format!("token {place} of `DIR/a.bin` is the id 4294967294");
        assert!(folder.redact(&error.to_string()).starts_with(&expected), "{error}");
    }
}

#[test]
fn an_id_that_came_into_a_file_later_is_found_when_it_is_read() {
    let folder = Folder::new();
    let path = folder.write_u16("a.bin", (0..40).map(|i| i % 9));
    let dataset = open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 4).unwrap().train;
    let dataset = dataset.for_vocab(9).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * 21] = 77;
    std::fs::write(&path, bytes).unwrap();
    let read = |index| dataset.sequence(index, &mut [0; 4], &mut [0; 4]);
    read(4).unwrap();
    let error = read(5).unwrap_err();
    assert_eq!(
        folder.redact(&error.to_string()),
        "token 21 of `DIR/a.bin` is the id 77, but the model's vocabulary has 9 ids, 0 to 8"
    );
}

#[test]
fn a_file_that_is_cut_short_while_it_is_read_is_an_error() {
    let folder = Folder::new();
    let path = folder.write_u16("a.bin", (0..4000).map(|i| i % 9 + 3));
    let dataset = open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 4).unwrap().train;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    dataset.sequence(0, &mut [0; 4], &mut [0; 4]).unwrap();
    let error = dataset.sequence(900, &mut [0; 4], &mut [0; 4]).unwrap_err();
    assert_eq!(
        folder.redact(&explain(&error)),
        "`DIR/a.bin` was cut short while it was in use: it has 100 bytes now, and had 8000 [replace token files by renaming a new one, not in place]"
    );
    // The thread that reads ahead hands the error on.
    let loader = Loader::new(dataset, options(2));
    assert!(loader.is_err(), "the fingerprint reads all of a short file");
}

#[test]
fn wide_ids_without_a_sidecar_are_noticed() {
    let folder = Folder::new();
    let wide = |largest: u32| {
        (0..100_u32).flat_map(|i| (i * 1021 % largest).to_le_bytes()).collect::<Vec<_>>()
    };
    for largest in [50_257, 128_256] {
        folder.write("a.bin", wide(largest));
        let config = table(SourceName::Tokens, &[folder.pattern("a.bin")]);
        let message = folder.redact(&explain(&open(&config, 4).unwrap_err()));
        assert_eq!(
            message,
            "`DIR/a.bin` has no sidecar, and its ids look like `u32` although `u16` is the default width [set `data.token_width` to the width it was written with]"
        );
        for width in [TokenWidth::U16, TokenWidth::U32] {
            open(&DataConfig { token_width: Some(width), ..config.clone() }, 4).unwrap();
        }
    }
    // Ids that are all small, and files too short to tell, are taken as they are.
    folder.write_u16("a.bin", (0..400).map(|i| i % 2));
    open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 4).unwrap();
    folder.write("a.bin", &wide(50_257)[..80]);
    open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 4).unwrap();
}

#[test]
fn a_file_counts_once_under_all_its_names() {
    let folder = Folder::new();
    folder.write_u16("sub/a.bin", [3, 9, 1, 2, 8]);
    let once = open(&table(SourceName::Tokens, &[folder.pattern("sub/a.bin")]), 2).unwrap().train;
    let detour = folder.pattern("sub/../sub/a.bin");
    std::fs::hard_link(folder.path("sub/a.bin"), folder.path("hard.bin")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path("sub/a.bin"), folder.path("soft.bin")).unwrap();
    let patterns = [folder.pattern("sub/a.bin"), detour.clone(), folder.pattern("*.bin")];
    let all = open(&table(SourceName::Tokens, &patterns), 2).unwrap().train;
    assert_eq!(sequences(&all), sequences(&once));
    for other in
        ["hard.bin", "soft.bin"].map(|name| folder.pattern(name)).into_iter().chain([detour])
    {
        let config = DataConfig {
            validation_files: vec![other],
            ..table(SourceName::Tokens, &[folder.pattern("sub/a.bin")])
        };
        let message = folder.redact(&explain(&open(&config, 2).unwrap_err()));
        let both = "`data.files` and `data.validation_files`, there as `DIR/sub/a.bin`";
        assert!(message.contains(both), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let folder = Folder::new();
    let made = std::process::Command::new("mkfifo").arg(folder.path("pipe.bin")).status();
    assert!(made.unwrap().success());
    let rows = [
        (SourceName::Tokens, folder.pattern("pipe.bin"), "a named pipe"),
        (SourceName::Tokens, folder.pattern(""), "a folder"),
        (SourceName::Text, folder.pattern("pipe.bin"), "a named pipe"),
        (SourceName::Jsonl, folder.pattern("pipe.bin"), "a named pipe"),
        (SourceName::Tokens, "/dev/zero".to_owned(), "a device"),
        (SourceName::Text, "/dev/zero".to_owned(), "a device"),
        (SourceName::Jsonl, "/dev/urandom".to_owned(), "a device"),
    ];
    for (source, pattern, kind) in rows {
        let message = explain(&open(&table(source, &[pattern]), 2).unwrap_err());
        assert!(message.contains(&format!("it is {kind}, not a regular file")), "{message}");
    }
    folder.write("a.txt", "text");
    for (pattern, kind) in
        [(folder.pattern("pipe.bin"), "a named pipe"), ("/dev/zero".into(), "a device")]
    {
        let config = DataConfig {
            tokenizer: Some(pattern),
            ..table(SourceName::Text, &[folder.pattern("a.txt")])
        };
        let message = explain(&open(&config, 2).unwrap_err());
        assert!(message.contains(kind), "{message}");
    }
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
    assert_ne!(short.fingerprint().unwrap(), long.fingerprint().unwrap());
    for (tokens, labels) in sequences(&long) {
        assert_eq!(tokens[1..], labels[..15]);
        assert!(tokens.iter().chain(&labels).all(|id| (0..50).contains(id)));
        let follows = tokens.iter().zip(&labels).filter(|(t, l)| (5 * **t + 7) % 50 == **l).count();
        assert!(follows >= 6, "{follows} of 16 tokens follow from the one before");
    }
}
