//! What makes a run the same: a checkpoint of another one is refused with all that differs, parts of it
//! begin anew on purpose, and weights are taken strictly.

use std::path::Path;

use dream_trainer::metrics::StepInfo;

use crate::CHECKPOINTS;
use crate::support::{Run, TINY};

/// A run that stopped after two steps, with SGD where it says so.
fn stopped(sets: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(sets).stopping_after(2).go().unwrap();
    folder
}

/// Keys of a difference table.
fn keys(table: &str) -> Vec<&str> {
    let cells = table.lines().filter_map(|line| line.split_once(" | "));
    cells.map(|(key, _)| key.trim()).filter(|key| *key != "key").collect()
}

#[test]
fn what_makes_another_run_is_refused_with_all_that_differs() {
    let groups = "optimizer.param_groups=[{pattern='norm', weight_decay=0.0}]";
    let sgd: &[&str] = &["optimizer.name=sgd"];
    let rows: [(&[&str], &[&str], &[&str]); 16] = [
        (&[], &["model.tied_embeddings=true"], &["model.tied_embeddings"]),
        (&[], &["model.num_layers=1"], &["model.num_layers"]),
        (&[], &["model.num_layers=3"], &["model.num_layers"]),
        (&[], &["model.num_heads=2"], &["model.num_heads", "model.head_dim"]),
        (&[], &["model.norm_eps=1e-6"], &["model.norm_eps"]),
        (&[], &["model.rope_theta=1e4"], &["model.rope_theta"]),
        (&[], sgd, &["optimizer.name", "optimizer.state"]),
        (sgd, &["optimizer.name=adamw"], &["optimizer.name", "optimizer.state"]),
        (&[], &["optimizer.name=adam"], &["optimizer.name"]),
        (sgd, &[sgd[0], "optimizer.momentum=0.9"], &["optimizer.state"]),
        (&[], &[groups], &["optimizer.param_groups[0].pattern"]),
        (&[], &["run.seed=1"], &["run.seed", "data.fingerprint"]),
        (&[], &["data.shuffle=false"], &["data.shuffle"]),
        (&[], &["data.num_sequences=128"], &["data.num_sequences", "data.fingerprint"]),
        (
            &[],
            &["training_parameters.sequence_length=8"],
            &["training_parameters.sequence_length", "data.fingerprint"],
        ),
        (
            &[],
            &["model.norm_eps=1e-6", "optimizer.name=adam", "data.shuffle=false"],
            &["model.norm_eps", "optimizer.name", "data.shuffle"],
        ),
    ];
    let (adamw, sgd_run) = (stopped(&[]), stopped(sgd));
    for (first, second, expected) in rows {
        let folder = if first.is_empty() { &adamw } else { &sgd_run };
        let run = Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(second).go();
        let error = run.expect_err("it is another run");
        assert!(error.contains("belongs to another run"), "{second:?}: {error}");
        assert_eq!(keys(&error), expected, "{second:?}: {error}");
    }
}

#[test]
fn what_may_change_goes_on() {
    let rows: [&[&str]; 9] = [
        &["optimizer.lr=1e-3", "optimizer.weight_decay=0.0", "optimizer.eps=1e-7"],
        &["lr_scheduler.name=constant", "training_parameters.max_grad_norm=0.5"],
        &["training_parameters.global_batch_size=4"],
        &["training_parameters.micro_batch_size=2"],
        &["device_parameters.preset=fsdp", "device_parameters.world_size=2"],
        &["device_parameters.param_dtype=bf16"],
        &["metrics.console_every_n_steps=1", "checkpoint.every_n_steps=5"],
        // Another way to name the same model, and a limit that changes nothing.
        &["model.flavor=debug", "model.head_dim=8", "model.max_seq_len=64"],
        &["model.rope_theta=500000"],
    ];
    for sets in rows {
        let folder = stopped(&[]);
        let run = Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(sets).go();
        assert_eq!(run.unwrap().0.step, 6, "{sets:?}");
    }
}

#[test]
fn parts_begin_anew_once_where_that_is_asked() {
    // Everything anew but the weights is a fresh run from them.
    let all = "checkpoint.reset=['optimizer', 'data', 'schedule']";
    let folder = stopped(&[]);
    let weights = format!("checkpoint.init_from='{}'", folder.path().join(RUN).display());
    let fresh = tempfile::tempdir().unwrap();
    let (_, fresh) = Run::new(fresh.path(), TINY)
        .with(&CHECKPOINTS)
        .with(&[&weights, "training_parameters.steps=4"])
        .go()
        .unwrap();
    let anew = || Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&[all]);
    let (_, first) = anew().stopping_after(4).go().unwrap();
    // The same command again goes on with what it saved.
    let (outcome, second) = anew().go().unwrap();
    assert_eq!(outcome.step, 6);
    let seen = first.steps.iter().chain(&second.steps);
    let numbers = |step: &StepInfo| [step.loss, step.grad_norm, step.lr].map(f64::to_bits);
    let seen: Vec<_> = seen.map(numbers).collect();
    assert_eq!(seen, fresh.steps.iter().map(numbers).collect::<Vec<_>>());
}

#[test]
fn a_part_that_begins_anew_may_be_another() {
    let rows: [&[&str]; 3] = [
        &["checkpoint.reset=['optimizer']", "optimizer.name=sgd"],
        &["checkpoint.reset=['data']", "data.num_sequences=128", "run.seed=1"],
        &["checkpoint.reset=['schedule']", "lr_scheduler.warmup_steps=2"],
    ];
    for sets in rows {
        let folder = stopped(&[]);
        let run = || Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(sets);
        assert_eq!(run().stopping_after(4).go().unwrap().0.step, 4, "{sets:?}");
        assert_eq!(run().go().unwrap().0.step, 6, "{sets:?}");
    }
    // One part does not excuse another, and the model is no part.
    let folder = stopped(&[]);
    for (reset, other) in [
        ("data", "optimizer.name=sgd"),
        ("optimizer", "run.seed=1"),
        ("data", "model.norm_eps=1e-6"),
    ] {
        let reset = format!("checkpoint.reset=['{reset}']");
        let run = Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&[&reset, other]).go();
        assert!(run.unwrap_err().contains("belongs to another run"), "{reset} {other}");
    }
}

const RUN: &str = "outputs/dream-train/default/run";

#[test]
fn weights_alone_start_a_fresh_run() {
    let folder = tempfile::tempdir().unwrap();
    let (_, trained) = Run::new(folder.path(), TINY).with(&CHECKPOINTS).go().unwrap();
    let run = folder.path().join(RUN);
    let sources = [&run, &run.join("checkpoints"), &run.join("checkpoints/step-00000006")];
    for source in sources {
        let other = tempfile::tempdir().unwrap();
        let init = format!("checkpoint.init_from='{}'", source.display());
        let (outcome, seen) = Run::new(other.path(), TINY).with(&[&init]).go().unwrap();
        assert_eq!((outcome.step, seen.steps[0].step), (6, 1));
        assert!(seen.steps[0].loss < trained.steps[0].loss, "it starts from trained weights");
    }
    let nothing = format!("checkpoint.init_from='{}'", folder.path().display());
    let error = Run::new(folder.path(), TINY).with(&[&nothing]).go().unwrap_err();
    assert!(error.contains("is no checkpoint, holds no complete one"), "{error}");
}

/// Starts from weights in a folder; an error comes as text.
fn init(toml: &str, from: &Path, sets: &[&str]) -> Result<f64, String> {
    let folder = tempfile::tempdir().unwrap();
    let init = format!("checkpoint.init_from='{}'", from.display());
    let one = "training_parameters.steps=1";
    let (_, seen) = Run::new(folder.path(), toml).with(&[&init, one]).with(sets).go()?;
    Ok(seen.steps[0].loss)
}

#[test]
fn weights_of_another_model_are_refused_unless_a_part_is_chosen() {
    let folder = stopped(&[]);
    let run = folder.path().join(RUN);
    let refused = [
        ("model.num_layers=1", "model.num_layers"),
        ("model.tied_embeddings=true", "model.tied_embeddings"),
        ("model.norm_eps=1e-6", "model.norm_eps"),
        ("model.rope_theta=1e4", "model.rope_theta"),
    ];
    for (set, key) in refused {
        let error = init(TINY, &run, &[set]).unwrap_err();
        assert!(error.contains("are those of another model"), "{set}: {error}");
        assert_eq!(keys(&error), [key], "{set}: {error}");
    }
    let one = "model.num_layers=1";
    let rows: [(&[&str], Option<&str>); 7] = [
        (&[one, "checkpoint.init_exclude=['^layers.1.']"], None),
        (&["model.num_layers=3", "checkpoint.init_exclude=['^layers.2.']"], None),
        (&["model.norm_eps=1e-6", "checkpoint.init_include=['.']"], None),
        (
            &["model.num_layers=3", "checkpoint.init_include=['^layers']"],
            Some("without a value `layers.2.attention.wk.weight`"),
        ),
        (
            &[one, "checkpoint.init_include=['^layers']"],
            Some("without a parameter `layers.1.attention.wk.weight`"),
        ),
        (
            &["checkpoint.init_exclude=['^layers.7']"],
            Some("pattern `^layers.7` of `checkpoint.init_exclude` matches no parameter"),
        ),
        (&["model.ffn_dim=32", "checkpoint.init_include=['w1']"], Some("has shape [32, 64]")),
    ];
    for (sets, expected) in rows {
        match (init(TINY, &run, sets), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => assert!(error.contains(part), "{sets:?}: {error}"),
            (result, _) => panic!("{sets:?}: {result:?}"),
        }
    }
    let patterns = Run::new(folder.path(), TINY).with(&["checkpoint.init_include=['.']"]).go();
    assert!(patterns.unwrap_err().contains("chooses among the weights of `checkpoint.init_from`"));
}

/// The shape of a Hugging Face folder among the fixtures.
const PUBLISHED: &str = r#"
[model]
name = "llama3"
dim = 32
num_layers = 2
num_heads = 4
num_kv_heads = 2
ffn_dim = 48
vocab_size = 48
norm_eps = 1e-6
rope_theta = 10000.0
tied_embeddings = true
[model.rope_scaling]
rope_type = "default"
[training_parameters]
steps = 1
sequence_length = 16
[data]
vocab_size = 48
num_sequences = 64
"#;

#[test]
fn a_published_model_must_be_the_one_that_is_configured() {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_hf/tied_single_file");
    let scaled =
        |kind: &str, keys: &str| format!("model.rope_scaling={{rope_type='{kind}', {keys}}}");
    let by = |factor: &str| {
        let keys = "low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64";
        scaled("llama3", &format!("factor={factor}, {keys}"))
    };
    let rows: [(&[&str], &[&str]); 10] = [
        (&[], &[]),
        (&["model.max_seq_len=16"], &[]),
        // The parameters have the same shapes; only the mathematics is another.
        (
            &["model.num_heads=8", "model.num_kv_heads=4"],
            &["model.num_heads", "model.num_kv_heads", "model.head_dim"],
        ),
        (&["model.norm_eps=1e-5"], &["model.norm_eps"]),
        (&["model.rope_theta=500000.0"], &["model.rope_theta"]),
        (&[&scaled("linear", "factor=1.0")], &[]),
        (&[&by("1.0")], &[]),
        (
            &[&by("8.0")],
            &[
                "model.rope_scaling.rope_type",
                "model.rope_scaling.factor",
                "model.rope_scaling.low_freq_factor",
                "model.rope_scaling.high_freq_factor",
                "model.rope_scaling.original_max_position_embeddings",
            ],
        ),
        (&["model.tied_embeddings=false"], &["model.tied_embeddings"]),
        (&["model.num_layers=1", "model.vocab_size=64"], &["model.num_layers", "model.vocab_size"]),
    ];
    for (sets, expected) in rows {
        match init(PUBLISHED, &fixture, sets) {
            Ok(_) => assert!(expected.is_empty(), "{sets:?} was accepted"),
            Err(error) => assert_eq!(keys(&error), expected, "{sets:?}: {error}"),
        }
    }
    let part = ["model.num_layers=1", "checkpoint.init_exclude=['layers.1.']"];
    init(PUBLISHED, &fixture, &part).unwrap();
}
