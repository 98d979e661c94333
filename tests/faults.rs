//! What goes wrong ends the whole run, says where, and hangs nothing.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use std::panic::panic_any;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::Tensor;
use dream_trainer::callbacks::{Callback, CallbackResult, CallbackSet, Requests, RunView};
use dream_trainer::cli::Exit;
use dream_trainer::comm::{CommError, CommTimeouts, RankFault, Ranks};
use dream_trainer::config::{self, Sources};
use dream_trainer::metrics::StepInfo;
use dream_trainer::nn::{Linear, LinearConfig};
use dream_trainer::recipe::Recipe;
use dream_trainer::run_folder::{RunFolder, RunFolderError};
use dream_trainer::train::{
    ApplyReplicate, Interrupt, Loss, ModelSetup, Result, SetupContext, StepContext, TokenBatch,
    TrainError, Trainer, TrainingStep,
};
use support::{Run, TINY};

/// A recipe that misbehaves on one rank at step 2.
#[derive(Clone, Copy)]
enum Fault {
    Error,
    Panic,
    Pass,
    NotFinite,
    /// From step 2 on.
    NeverFinite,
}

#[derive(Module, Debug)]
struct Tiny {
    layer: Linear,
    #[module(skip)]
    rank: usize,
}

struct Faulty(Fault);

impl ModelSetup for Faulty {
    type Config = std::collections::BTreeMap<String, String>;
    type Model = Tiny;

    fn configure_model(&self, _: &Self::Config, ctx: &SetupContext) -> Result<Tiny> {
        Ok(Tiny { layer: LinearConfig::new(16, 4).init(&ctx.child("layer")), rank: ctx.rank })
    }
}

impl ApplyReplicate for Faulty {}

impl TrainingStep for Faulty {
    type Batch = TokenBatch;
    type Output = Tensor<2>;

    fn forward(&self, model: &Tiny, batch: &TokenBatch) -> Result<Tensor<2>> {
        Ok(model.layer.forward(batch.tokens().float() * 0.01))
    }

    fn loss(&self, _: &Tiny, output: Tensor<2>, _: &TokenBatch) -> Result<Loss> {
        Ok(Loss::sum((output.clone() * output).sum()))
    }

    fn training_step(
        &self,
        model: Tiny,
        batches: Vec<TokenBatch>,
        ctx: &mut StepContext<'_>,
    ) -> Result<Tiny> {
        let is_due = match self.0 {
            Fault::NeverFinite => ctx.step_number() >= 2,
            _ => ctx.step_number() == 2,
        };
        if is_due && model.rank == 1 {
            match self.0 {
                Fault::Error => return Err("the disk is on fire".into()),
                Fault::Panic => panic!("index 7 out of bounds"),
                // What a gather in a forward pass does when its peers are late.
                Fault::Pass => panic_any(CommError::Timeout {
                    group: "dp_shard".to_owned(),
                    sequence: 3,
                    call: "all_gather(dim 0)".to_owned(),
                    waited: Duration::from_secs(5),
                    missing: vec!["rank 2".to_owned()],
                }),
                Fault::NotFinite | Fault::NeverFinite => {
                    let output = self.forward(&model, &batches[0])?;
                    let loss = Loss::sum((output * f64::NAN).sum());
                    ctx.backward(&model, loss)?;
                    return Ok(ctx.step(model, "main")?);
                }
            }
        }
        ctx.forward_backward(self, &model, &batches)?;
        Ok(ctx.step(model, "main")?)
    }
}

fn run(fault: Fault, sets: &[&str]) -> Result<u64, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let toml = TINY.split("[training_parameters]").nth(1).unwrap();
    std::fs::write(&file, format!("[model]\nname = \"faulty\"\n[training_parameters]\n{toml}"))
        .unwrap();
    let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    sets.push("device_parameters.preset=ddp".into());
    sets.push("device_parameters.world_size=4".into());
    sets.push(format!("run.output_dir='{}'", folder.path().display()));
    let loaded = config::load(&Sources { files: vec![file], sets, ..Sources::default() }).unwrap();
    let resolved = loaded.resolve(None).unwrap();
    let recipe = Recipe::new("faulty", Trainer::new(Faulty(fault)).with_replicate());
    let prepared = recipe.prepare(&loaded, &resolved).map_err(|error| error.to_string())?;
    let ranks = Ranks::Threads(prepared.plan().mesh.world_size());
    let outcome = prepared.fit(&ranks, &Interrupt::default(), &CallbackSet::new);
    outcome.map(|outcome| outcome.skipped_steps).map_err(|failure| {
        let source =
            std::error::Error::source(&failure).map_or_else(String::new, ToString::to_string);
        format!("{failure}: {source}")
    })
}

#[test]
fn an_error_on_one_rank_names_rank_step_and_cause() {
    let text = run(Fault::Error, &[]).unwrap_err();
    for part in ["rank 1", "step 2", "training_step"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn communication_that_fails_inside_a_pass_names_step_and_operation() {
    let text = run(Fault::Pass, &[]).unwrap_err();
    let parts = ["rank 1", "step 2, training: ", "all_gather(dim 0)", "waited 5s for rank 2"];
    for part in parts {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_panic_on_one_rank_ends_all() {
    let text = run(Fault::Panic, &[]).unwrap_err();
    for part in ["rank 1", "step 2, training: ", "index 7 out of bounds", "faults.rs:"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_number_that_is_not_finite_stops_with_step_and_rank() {
    let text = run(Fault::NotFinite, &[]).unwrap_err();
    for part in ["step 2", "rank 1", "NaN"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_number_that_is_not_finite_can_be_skipped_and_counted() {
    assert_eq!(run(Fault::NotFinite, &["training_parameters.on_nonfinite=skip"]).unwrap(), 1);
}

#[test]
fn updates_are_not_skipped_for_ever() {
    let skip = "training_parameters.on_nonfinite=skip";
    let limit = |limit| format!("training_parameters.max_consecutive_skips={limit}");
    let text = run(Fault::NeverFinite, &[skip, &limit(3)]).unwrap_err();
    for part in [
        "the updates of 3 steps in a row were dropped",
        "that of step 5",
        "`training_parameters.max_consecutive_skips` is 3",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // Five of six steps are within a limit of five; 0 is no limit.
    assert_eq!(run(Fault::NeverFinite, &[skip, &limit(5)]).unwrap(), 5);
    assert_eq!(run(Fault::NeverFinite, &[skip, &limit(0)]).unwrap(), 5);
}

#[test]
fn a_recipe_without_the_trait_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let sets = ["device_parameters.world_size=2", "device_parameters.preset=ddp"];
    let file = folder.path().join("run.toml");
    std::fs::write(&file, TINY.replace("llama3", "faulty").split("dim = 32").next().unwrap())
        .unwrap();
    let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    sets.extend(["training_parameters.steps=1".into(), "data.source=synthetic".into()]);
    let loaded = config::load(&Sources { files: vec![file], sets, ..Sources::default() }).unwrap();
    let resolved = loaded.resolve(None).unwrap();
    let recipe = Recipe::new("faulty", Trainer::new(Faulty(Fault::Error)));
    let text = recipe.prepare(&loaded, &resolved).err().unwrap().to_string();
    assert!(text.contains("ApplyReplicate") && text.contains("faulty"), "{text}");
}

#[test]
fn data_that_does_not_fit_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let rows: [(&[&str], &str); 3] = [
        (&["data.vocab_size=200"], "96"),
        (&["data.num_sequences=4"], "4"),
        (&["model.max_seq_len=8"], "max_seq_len"),
    ];
    for (sets, expected) in rows {
        let error = Run::new(folder.path(), TINY).with(sets).go().unwrap_err();
        assert!(error.contains(expected), "{sets:?}: {error}");
    }
}

/// Removes the run's folder after a step.
struct Remover;

impl Callback for Remover {
    fn name(&self) -> &'static str {
        "remover"
    }

    fn post_train_step(
        &mut self,
        run: &RunView,
        info: &StepInfo,
        _: &mut Requests,
    ) -> CallbackResult {
        if info.step == 2 {
            std::fs::remove_dir_all(&run.directory)?;
        }
        Ok(())
    }
}

#[test]
fn a_folder_that_is_removed_ends_the_run_on_any_number_of_ranks() {
    // The last step is the one after which nothing would notice.
    for (ranks, steps, saves) in
        [(1, 6, false), (1, 6, true), (2, 6, true), (1, 2, false), (2, 2, true)]
    {
        let folder = tempfile::tempdir().unwrap();
        let sets = [
            format!("device_parameters.world_size={ranks}"),
            "device_parameters.preset=ddp".to_owned(),
            format!("training_parameters.steps={steps}"),
            format!("checkpoint.enable={saves}"),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let failure = Run::new(folder.path(), TINY).with(&sets).prepared(|prepared| {
            let callbacks = |rank| {
                let mut set = CallbackSet::new(rank);
                set.push(Box::new(Remover)).unwrap();
                set
            };
            let fitted = prepared.fit(&Ranks::Threads(ranks), &Interrupt::default(), &callbacks);
            assert!(!prepared.plan().run.directory().exists(), "it is not made again");
            fitted.unwrap_err()
        });
        let failure = failure.unwrap();
        let RankFault::Error(error) = failure.fault.as_ref() else { panic!("{failure}") };
        assert!(matches!(error.root(), TrainError::Folder(RunFolderError::Gone { .. })), "{error}");
        assert_eq!(Exit::of(error), Exit::Environment);
    }
}

#[test]
fn a_folder_that_another_run_has_is_refused_to_programs_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let run = || Run::new(folder.path(), TINY);
    let directory = run().prepared(|prepared| prepared.plan().run.directory()).unwrap();
    let owner = RunFolder::claim(&directory, &Ranks::Threads(1), CommTimeouts::default()).unwrap();
    let error = run().go().unwrap_err();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    drop(owner);
    run().go().unwrap();
}
