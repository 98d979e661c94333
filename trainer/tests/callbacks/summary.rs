//! The box before the first step.

use std::path::Path;

use burn::tensor::DType;
use dream_trainer::callbacks::{
    Callback, ModelSummary, ParameterRow, PrecisionRecord, Terminal, TrainerSummary,
};
use dream_trainer::metrics::PrecisionReport;

use crate::support::{Captured, four_ranks, parameter, report, run_in};

/// A small Llama with 12 layers, whose paths sorted as text put layer 10 before layer 2.
fn llama() -> Vec<ParameterRow> {
    let mut rows = vec![parameter("norm.weight", &[64]), parameter("output.weight", &[512, 64])];
    for layer in 0..12 {
        rows.push(parameter(&format!("layers.{layer}.attention.wq.weight"), &[64, 64]));
        rows.push(parameter(&format!("layers.{layer}.attention.wo.weight"), &[64, 64]));
        rows.push(parameter(&format!("layers.{layer}.norm.weight"), &[64]));
    }
    let embedding = parameter("tok_embeddings.weight", &[512, 64]);
    rows.push(ParameterRow { trainable: false, ..embedding });
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows
}

#[test]
fn box_shows_model_mesh_batch_data_optimizer_and_steps() {
    let shown = Captured::default();
    let mut run = run_in(Path::new("out"), 2000, 120);
    run.mesh = four_ranks();
    let mut summary = TrainerSummary::new(Terminal::new(Box::new(shown.clone())), 2);
    summary.post_setup(&run, &report(llama())).unwrap();
    insta::assert_snapshot!(shown.text(), @"
    +- llama3 ----------------------------------------------------------------------+
    | module          parameters  trainable                   bytes                 |
    | layers              99,072        all  396.29 kB (387.00 KiB)                 |
    | layers.0-11     12 x 8,256        all    33.02 kB (32.25 KiB)                 |
    | norm                    64        all                   256 B                 |
    | output              32,768        all  131.07 kB (128.00 KiB)                 |
    | tok_embeddings      32,768       none  131.07 kB (128.00 KiB)                 |
    | total              164,672      80.1%  658.69 kB (643.25 KiB)                 |
    +- run -------------------------------------------------------------------------+
    | name        dream-train/docs/debug                                            |
    | mesh        4 ranks = dp_replicate 2 x tp 2                                   |
    | batch       32 sequences = 2 data-parallel x 4 per microbatch x 4 accumulated |
    | tokens      4,096 per step = 32 sequences x 128                               |
    | train       text docs/**/*.md, 1,234,567 tokens                               |
    | validation  the last 5.0% of it                                               |
    | optimizer   adamw  lr 3e-4, betas 0.9 0.95, decay 0.1                         |
    | work        1.00 GFLOP per token                                              |
    | steps       2,000 = 8,192,000 tokens, continued after step 120                |
    +-------------------------------------------------------------------------------+
    ");
}

fn precision() -> PrecisionReport {
    let mut report = PrecisionReport { step: 1, ..PrecisionReport::default() };
    for counts in [&mut report.parameters, &mut report.gradients, &mut report.optimizer_state] {
        counts.add(DType::F32, 4096);
    }
    report.computation.extend([(DType::F32, 64), (DType::BF16, 4000), (DType::BF16, 32)]);
    report.loss.add(DType::F32, 1);
    report
}

#[test]
fn element_types_follow_the_first_update() {
    let shown = Captured::default();
    let mut summary = TrainerSummary::new(Terminal::new(Box::new(shown.clone())), 2);
    summary.post_first_update(&run_in(Path::new("out"), 10, 0), &precision()).unwrap();
    insta::assert_snapshot!(shown.text(), @"
    +- precision, read from the tensors of step 1 +
    | parameters       f32                        |
    | computation      bf16 4,032, f32 64         |
    | loss             f32                        |
    | gradients        f32                        |
    | reduction        none                       |
    | optimizer state  f32                        |
    +---------------------------------------------+
    ");
}

#[test]
fn element_types_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path(), 10, 0);
    PrecisionRecord.post_first_update(&run, &precision()).unwrap();
    let text = std::fs::read_to_string(folder.path().join(PrecisionRecord::FILE_NAME)).unwrap();
    assert_eq!(serde_json::from_str::<PrecisionReport>(&text).unwrap(), precision());
    // A folder that cannot be made costs the record alone.
    let file = folder.path().join(PrecisionRecord::FILE_NAME);
    PrecisionRecord.post_first_update(&run_in(&file, 10, 0), &precision()).unwrap();
}

#[test]
fn one_rank_and_a_model_alone_are_short() {
    let shown = Captured::default();
    let mut report = report(vec![parameter("scale", &[3])]);
    report.batch.micro_batch_size = 8;
    (report.validation_data, report.flops_per_token) = (None, None);
    let mut summary = TrainerSummary::new(Terminal::new(Box::new(shown.clone())), 2);
    summary.post_setup(&run_in(Path::new("out"), 10, 0), &report).unwrap();
    insta::assert_snapshot!(shown.text(), @"
    +- llama3 ----------------------------------------------------------------------+
    | module  parameters  trainable  bytes                                          |
    | scale            3        all   12 B                                          |
    | total            3        all   12 B                                          |
    +- run -------------------------------------------------------------------------+
    | name        dream-train/docs/debug                                            |
    | mesh        1 rank                                                            |
    | batch       32 sequences = 1 data-parallel x 8 per microbatch x 4 accumulated |
    | tokens      4,096 per step = 32 sequences x 128                               |
    | train       text docs/**/*.md, 1,234,567 tokens                               |
    | optimizer   adamw  lr 3e-4, betas 0.9 0.95, decay 0.1                         |
    | steps       10 = 40,960 tokens                                                |
    +-------------------------------------------------------------------------------+
    ");
}

#[test]
fn depth_decides_how_far_modules_are_shown() {
    let paths = |depth| -> Vec<String> {
        ModelSummary::new(&llama(), depth).rows.into_iter().map(|row| row.path).collect()
    };
    assert_eq!(paths(0), [""; 0]);
    assert_eq!(paths(1), ["layers", "norm", "output", "tok_embeddings"]);
    let attention = ["layers.0-11.attention", "layers.0-11.norm"];
    let deep =
        ["layers", "layers.0-11", attention[0], attention[1], "norm", "output", "tok_embeddings"];
    assert_eq!(paths(3), deep);
    let whole = paths(usize::MAX);
    assert!(whole.contains(&"layers.0-11.attention.wq".to_owned()), "{whole:?}");
}

#[test]
fn only_equal_neighbors_are_joined() {
    let mut rows = llama();
    for row in &mut rows {
        if row.path.starts_with("layers.5.norm") {
            row.trainable = false;
        }
    }
    rows.retain(|row| !row.path.starts_with("layers.8."));
    let summary = ModelSummary::new(&rows, 2);
    let layers: Vec<_> =
        summary.rows.iter().filter(|row| row.path.starts_with("layers.")).collect();
    let found: Vec<_> = layers.iter().map(|row| (row.path.as_str(), row.num_alike)).collect();
    assert_eq!(found, [("layers.0-4", 5), ("layers.5", 1), ("layers.6-7", 2), ("layers.9-11", 3)]);
    let counted: u64 = layers.iter().map(|row| row.num_alike as u64 * row.num_parameters).sum();
    assert_eq!(counted, 11 * (2 * 64 * 64 + 64));
}

#[test]
fn totals_count_every_parameter_once() {
    let total = ModelSummary::new(&llama(), 2).total;
    let expected = 12 * (2 * 64 * 64 + 64) + 2 * 512 * 64 + 64;
    assert_eq!((total.num_parameters, total.num_bytes), (expected, 4 * expected));
    assert_eq!(total.num_trainable, expected - 512 * 64);
}
