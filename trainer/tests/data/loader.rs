//! Global batches: the same on every mesh, complete, and resumed exactly.

use dream_trainer::data::{DataConfig, LastBatch, Loader, LoaderOptions, SourceName};
use proptest::prelude::*;

use crate::fixture::{
    Folder, explain, global_batches, open, options, ranks, rows, sequences, synthetic, table,
};

#[test]
fn splits_a_step_in_contiguous_blocks_over_ranks_and_micro_batches() {
    let folder = Folder::new();
    folder.write_u16("a.bin", 0..33);
    let dataset = open(&table(SourceName::Tokens, &[folder.pattern("a.bin")]), 2).unwrap().train;
    let options = LoaderOptions { shuffle: false, ..options(8) };
    let mut loaders = ranks(&dataset, &options, 2, 2);
    let step: Vec<_> = loaders.iter_mut().map(|loader| loader.next_step().unwrap()).collect();
    let tokens: Vec<Vec<_>> =
        step.iter().map(|rank| rank.iter().map(|batch| batch.tokens.clone()).collect()).collect();
    assert_eq!(
        tokens,
        [[vec![0, 1, 2, 3], vec![4, 5, 6, 7]], [vec![8, 9, 10, 11], vec![12, 13, 14, 15]],]
    );
    assert_eq!(step[1][0].labels, [9, 10, 11, 12]);
    assert_eq!(loaders[1].next_step().unwrap()[1].labels, [29, 30, 31, 32]);
}

#[test]
fn global_batches_do_not_depend_on_ranks_or_micro_batches() {
    let dataset = synthetic(21, 3);
    for shuffle in [false, true] {
        let options = LoaderOptions { shuffle, ..options(8) };
        let reference = global_batches(&mut ranks(&dataset, &options, 1, 8), 5);
        for (dp_size, micro_batch_size) in [(1, 1), (1, 4), (2, 1), (2, 4), (4, 1), (4, 2), (8, 1)]
        {
            let batches =
                global_batches(&mut ranks(&dataset, &options, dp_size, micro_batch_size), 5);
            assert_eq!(batches, reference, "{dp_size} ranks, micro-batches of {micro_batch_size}");
        }
    }
}

#[test]
fn an_epoch_visits_no_sequence_twice_and_the_next_in_another_order() {
    let dataset = synthetic(22, 2);
    let mut loader = ranks(&dataset, &options(5), 1, 5);
    assert_eq!(loader[0].steps_per_epoch(), 4);
    let mut epochs = [global_batches(&mut loader, 4), global_batches(&mut loader, 4)]
        .map(|epoch| epoch.concat());
    assert_eq!((loader[0].epoch(), loader[0].sequences()), (2, 0));
    assert_ne!(epochs[0], epochs[1]);
    for epoch in &mut epochs {
        epoch.sort();
        epoch.dedup();
        assert_eq!(epoch.len(), 20);
    }
}

#[test]
fn a_padded_epoch_counts_every_sequence_once() {
    let dataset = synthetic(6, 2);
    let options = LoaderOptions { global_batch_size: 4, ..options(4) }.for_validation();
    let mut loaders = ranks(&dataset, &options, 2, 2);
    assert_eq!(loaders[0].steps_per_epoch(), 2);
    let mut epoch = global_batches(&mut loaders, 2).concat();
    let padding = epoch.split_off(6);
    assert_eq!(epoch, sequences(&dataset));
    assert_eq!(padding, vec![(vec![0, 0], vec![-100, -100]); 2]);
    assert_eq!(loaders[0].epoch(), 1);
    loaders[0].rewind();
    assert_eq!(rows(&loaders[0].next_step().unwrap()), sequences(&dataset)[..2]);
}

#[test]
fn numbers_documents_and_positions_where_asked_for() {
    let folder = Folder::new();
    folder.write_u16("a.bin", [5, 6, 0, 7, 0, 0, 8, 9, 4]);
    let config =
        DataConfig { eos_id: Some(0), ..table(SourceName::Tokens, &[folder.pattern("a.bin")]) };
    let dataset = open(&config, 4).unwrap().train;
    let options =
        LoaderOptions { shuffle: false, number_documents: true, micro_batch_size: 2, ..options(2) };
    let batch = Loader::new(dataset, options.clone()).unwrap().next_step().unwrap().remove(0);
    assert_eq!(batch.documents.unwrap(), [0, 0, 0, 1, 0, 1, 2, 2]);
    assert_eq!(batch.positions.unwrap(), [0, 1, 2, 0, 0, 0, 0, 1]);
    let error = Loader::new(synthetic(4, 4), options).unwrap_err();
    assert!(error.to_string().contains("needs an end-of-document id"), "{error}");
}

#[test]
fn resumes_at_every_step_on_any_mesh() {
    let dataset = synthetic(19, 2);
    let options = options(4);
    let reference = global_batches(&mut ranks(&dataset, &options, 1, 4), 12);
    for stop in 0..12 {
        let mut first = ranks(&dataset, &options, 2, 1);
        global_batches(&mut first, stop);
        let json = serde_json::to_string(&first[0].state()).unwrap();
        assert_eq!(first[0].state(), first[1].state());
        for dp_size in [1, 4] {
            let mut second = ranks(&dataset, &options, dp_size, 1);
            let state = serde_json::from_str(&json).unwrap();
            for loader in &mut second {
                loader.restore(&state).unwrap();
            }
            assert_eq!(
                global_batches(&mut second, 12 - stop),
                reference[stop..],
                "stopped at {stop}"
            );
        }
    }
}

#[test]
fn another_global_batch_size_continues_with_the_next_sequence() {
    let dataset = synthetic(26, 2);
    let mut small = ranks(&dataset, &options(2), 1, 1);
    let epoch = global_batches(&mut small, 13).concat();
    small[0].rewind();
    global_batches(&mut small, 4);
    let state = small[0].state();
    // (batch size, steps left of the 18 sequences that were not taken, those that do not fill one)
    for (size, steps, rest) in [(8, 2, 2), (6, 3, 0), (5, 3, 3), (18, 1, 0), (1, 18, 0)] {
        let mut large = ranks(&dataset, &options(size), 1, 1);
        large[0].restore(&state).unwrap();
        assert_eq!((large[0].epoch(), large[0].steps_left_in_epoch()), (0, steps), "{size}");
        let rows = global_batches(&mut large, steps as usize).concat();
        assert_eq!(
            rows,
            epoch[8..26 - rest],
            "{size}: no sequence comes twice, none is jumped over"
        );
        let per_epoch = large[0].steps_per_epoch();
        assert_eq!((large[0].epoch(), large[0].sequences()), (1, 0));
        assert_eq!(large[0].steps_left_in_epoch(), per_epoch);
    }
    // Where no batch is left, or the epoch was over, the next one begins.
    for (size, taken, epoch) in [(19, 8, 1), (2, 26, 1), (2, 8, 0)] {
        let mut loader = ranks(&dataset, &options(size), 1, 1).remove(0);
        let state = dream_trainer::data::LoaderState { sequences: taken, ..state.clone() };
        loader.restore(&state).unwrap();
        assert_eq!(loader.epoch(), epoch, "{size} {taken}");
    }
}

#[test]
fn a_position_of_other_data_or_order_is_refused() {
    let dataset = synthetic(8, 2);
    let state = Loader::new(dataset.clone(), options(2)).unwrap().state();
    let restore = |dataset, options| {
        explain(&Loader::new(dataset, options).unwrap().restore(&state).unwrap_err())
    };
    let version = dream_trainer::data::LoaderState { version: 9, ..state.clone() };
    let messages = [
        restore(synthetic(9, 2), options(2)),
        restore(synthetic(8, 3), options(2)),
        restore(dataset.clone(), LoaderOptions { seed: 8, ..options(2) }),
        restore(dataset.clone(), LoaderOptions { shuffle: false, ..options(2) }),
        explain(&Loader::new(dataset, options(2)).unwrap().restore(&version).unwrap_err()),
    ];
    insta::assert_snapshot!(messages.join("\n"), @r"
    the data have the fingerprint `2a989c91e4e0b435`, but the saved position belongs to data `16cd8dea74bb14d2` [resume with the data and settings the run was started with, or start a new run from its weights]
    the data have the fingerprint `904fe4b138ab9940`, but the saved position belongs to data `16cd8dea74bb14d2` [resume with the data and settings the run was started with, or start a new run from its weights]
    `run.seed` is `8`, but the saved position belongs to an order drawn with `7` [resume with the data and settings the run was started with, or start a new run from its weights]
    `data.shuffle` is `false`, but the saved position belongs to an order drawn with `true` [resume with the data and settings the run was started with, or start a new run from its weights]
    the saved data position has version 9, but this program reads version 1
    ");
}

#[test]
fn refuses_batches_that_do_not_divide() {
    let rows = [
        (
            LoaderOptions { dp_size: 4, ..options(6) },
            "`global_batch_size` = 6 is not a multiple of the number of data-parallel ranks = 4",
        ),
        (
            LoaderOptions { dp_size: 2, micro_batch_size: 2, ..options(6) },
            "`global_batch_size` = 6 is not a multiple of `micro_batch_size` x data-parallel ranks = 4",
        ),
        (
            LoaderOptions { dp_rank: 2, dp_size: 2, ..options(6) },
            "`dp_rank` is `2` but must be below the 2 data-parallel ranks",
        ),
        (options(0), "`global_batch_size` is `0` but must be at least 1"),
        (LoaderOptions { micro_batch_size: 0, ..options(6) }, "`micro_batch_size` is `0`"),
        (LoaderOptions { dp_size: 0, ..options(6) }, "`dp_size` is `0`"),
        (options(11), "an epoch has 10 sequences, fewer than one global batch of 11"),
    ];
    for (options, expected) in rows {
        let message = Loader::new(synthetic(10, 2), options).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let padded = LoaderOptions { last_batch: LastBatch::Pad, ..options(11) };
    assert_eq!(Loader::new(synthetic(10, 2), padded).unwrap().steps_per_epoch(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_sequence_of_an_epoch_comes_once(
        num_sequences in 1u64..60,
        micro_batch_size in 1usize..4,
        dp_size in 1usize..4,
        accumulation in 1usize..3,
        seed: u64,
        shuffle: bool,
        stop in 0u64..1000,
    ) {
        let dataset = synthetic(num_sequences, 2);
        let global_batch_size = micro_batch_size * dp_size * accumulation;
        let options = LoaderOptions { seed, shuffle, last_batch: LastBatch::Pad, ..options(global_batch_size) };
        let mut loaders = ranks(&dataset, &options, dp_size, micro_batch_size);
        let steps = loaders[0].steps_per_epoch();
        let stop = (stop % (steps + 1)) as usize;
        let mut epoch = global_batches(&mut loaders, stop);
        let state = loaders[0].state();
        let mut loaders = ranks(&dataset, &options, 1, 1);
        loaders[0].restore(&state).unwrap();
        epoch.extend(global_batches(&mut loaders, steps as usize - stop));
        let mut seen: Vec<_> = epoch.concat().into_iter().filter(|(_, labels)| labels[0] != -100).collect();
        let mut expected = sequences(&dataset);
        seen.sort();
        expected.sort();
        prop_assert_eq!(seen, expected);
    }
}
