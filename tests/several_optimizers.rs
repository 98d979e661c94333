//! An algorithm with two models and two optimizers, as a generator and its critic have.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/tolerance.rs"]
mod tolerance;

use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::tensor::Tensor;
use dream_trainer::callbacks::CallbackSet;
use dream_trainer::comm::Ranks;
use dream_trainer::config::{self, Sources};
use dream_trainer::nn::{self, Linear, LinearConfig};
use dream_trainer::recipe::Recipe;
use dream_trainer::train::{
    ApplyReplicate, Interrupt, Loss, ModelSetup, OptimizerScope, Result, SetupContext, StepContext,
    TokenBatch, Trainer, TrainingStep,
};

#[derive(Module, Debug)]
struct Pair {
    generator: Linear,
    critic: Linear,
}

/// Sums of the weights of both models after each update.
type Trace = Arc<Mutex<Vec<[f64; 2]>>>;

struct Adversaries(Trace);

impl ModelSetup for Adversaries {
    type Config = std::collections::BTreeMap<String, String>;
    type Model = Pair;

    fn configure_model(&self, _: &Self::Config, ctx: &SetupContext) -> Result<Pair> {
        Ok(Pair {
            generator: LinearConfig::new(8, 8).init(&ctx.child("generator")),
            critic: LinearConfig::new(8, 1).init(&ctx.child("critic")),
        })
    }

    fn optimizers(&self) -> Vec<OptimizerScope> {
        ["generator", "critic"]
            .map(|name| OptimizerScope { name: name.into(), prefix: name.into() })
            .into()
    }
}

impl ApplyReplicate for Adversaries {}

impl TrainingStep for Adversaries {
    type Batch = TokenBatch;
    type Output = Tensor<2>;

    fn forward(&self, model: &Pair, batch: &TokenBatch) -> Result<Tensor<2>> {
        let made = model.generator.forward(batch.tokens().float() * 0.1);
        Ok(model.critic.forward(made))
    }

    fn loss(&self, _: &Pair, output: Tensor<2>, _: &TokenBatch) -> Result<Loss> {
        Ok(Loss::sum((output.clone() * output).sum()))
    }

    fn training_step(
        &self,
        mut model: Pair,
        batches: Vec<TokenBatch>,
        ctx: &mut StepContext<'_>,
    ) -> Result<Pair> {
        for name in ["critic", "generator"] {
            for batch in &batches {
                let loss = self.loss(&model, self.forward(&model, batch)?, batch)?;
                ctx.backward_for(&model, loss, name)?;
            }
            model = ctx.step(model, name)?;
            self.0.lock().unwrap().push([sum(&model, "generator"), sum(&model, "critic")]);
        }
        Ok(model)
    }
}

fn sum(model: &Pair, prefix: &str) -> f64 {
    let mut total = 0.0;
    nn::for_each_value(model, |path, _, value| {
        if path.starts_with(prefix) {
            total += value.into_data().iter::<f64>().sum::<f64>();
        }
    });
    total
}

fn run(sets: &[&str]) -> Result<Vec<[f64; 2]>, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    sets.extend(
        [
            "model.name=adversaries",
            "training_parameters.steps=2",
            "training_parameters.global_batch_size=4",
            "training_parameters.sequence_length=8",
            "optimizer.name=sgd",
            "optimizer.lr=1e-3",
            "data.source=synthetic",
            "metrics.jsonl=false",
        ]
        .map(String::from),
    );
    sets.push(format!("run.output_dir='{}'", folder.path().display()));
    let loaded = config::load(&Sources { sets, ..Sources::default() }).unwrap();
    let resolved = loaded.resolve(None).unwrap();
    let trace = Trace::default();
    let trainer = Trainer::new(Adversaries(Arc::clone(&trace))).with_replicate();
    let recipe = Recipe::new("adversaries", trainer);
    let prepared = recipe.prepare(&loaded, &resolved).map_err(|error| error.to_string())?;
    let ranks = Ranks::Threads(prepared.plan().mesh.world_size());
    let outcome = prepared.fit(&ranks, &Interrupt::default(), &CallbackSet::new);
    outcome.map_err(|failure| failure.to_string())?;
    let trace = trace.lock().unwrap().clone();
    Ok(trace)
}

#[test]
fn each_optimizer_moves_its_own_model_only() {
    let trace = run(&[]).unwrap();
    assert_eq!(trace.len(), 4);
    for (before, after) in trace.iter().zip(&trace[1..]) {
        let moved = [before[0] != after[0], before[1] != after[1]];
        assert!(moved == [true, false] || moved == [false, true], "{trace:?}");
    }
    assert_ne!(trace[0][0], trace[1][0], "the generator moves second");
    assert_ne!(trace[1][1], trace[2][1], "the critic moves first");
}

#[test]
fn replicas_take_the_same_steps() {
    let alone = run(&[]).unwrap();
    let ranks = run(&["device_parameters.preset=ddp", "device_parameters.world_size=2"]).unwrap();
    assert_eq!(ranks.len(), 8, "two ranks");
    for sums in ranks {
        let found = alone.iter().any(|a| {
            a.iter()
                .zip(&sums)
                .all(|(a, b)| (a - b).abs() <= tolerance::REPLICAS * a.abs().max(1.0))
        });
        assert!(found, "{sums:?} is not in {alone:?}");
    }
}

/// A pair under one optimizer.
#[derive(Clone, Copy)]
struct Parts {
    /// Name of the optimizer.
    optimizer: &'static str,
    /// Whether the loss depends on the critic.
    uses_critic: bool,
    /// Whether the critic takes gradients.
    trains_critic: bool,
}

impl ModelSetup for Parts {
    type Config = std::collections::BTreeMap<String, String>;
    type Model = Pair;

    fn configure_model(&self, _: &Self::Config, ctx: &SetupContext) -> Result<Pair> {
        let critic = LinearConfig::new(8, 1).init(&ctx.child("critic"));
        Ok(Pair {
            generator: LinearConfig::new(8, 8).init(&ctx.child("generator")),
            critic: if self.trains_critic { critic } else { critic.no_grad() },
        })
    }

    fn optimizers(&self) -> Vec<OptimizerScope> {
        vec![OptimizerScope { name: self.optimizer.into(), prefix: String::new() }]
    }
}

impl TrainingStep for Parts {
    type Batch = TokenBatch;
    type Output = Tensor<2>;

    fn forward(&self, model: &Pair, batch: &TokenBatch) -> Result<Tensor<2>> {
        let made = model.generator.forward(batch.tokens().float() * 0.1);
        Ok(if self.uses_critic { model.critic.forward(made) } else { made })
    }

    fn loss(&self, _: &Pair, output: Tensor<2>, _: &TokenBatch) -> Result<Loss> {
        Ok(Loss::sum((output.clone() * output).sum()))
    }

    fn training_step(
        &self,
        model: Pair,
        batches: Vec<TokenBatch>,
        ctx: &mut StepContext<'_>,
    ) -> Result<Pair> {
        ctx.forward_backward(self, &model, &batches)?;
        Ok(ctx.step(model, self.optimizer)?)
    }
}

/// Trains to a step, from what the folder holds; an error comes with its causes.
fn train(parts: Parts, folder: &std::path::Path, steps: u64) -> Result<(), String> {
    let sets = [
        "model.name=parts",
        "training_parameters.global_batch_size=4",
        "training_parameters.sequence_length=8",
        "metrics.jsonl=false",
        "checkpoint.enable=true",
        &format!("training_parameters.steps={steps}"),
        &format!("run.output_dir='{}'", folder.display()),
    ]
    .map(String::from);
    let loaded = config::load(&Sources { sets: sets.into(), ..Sources::default() }).unwrap();
    let resolved = loaded.resolve(None).unwrap();
    let recipe = Recipe::new("parts", Trainer::new(parts));
    let prepared = recipe.prepare(&loaded, &resolved).map_err(|error| error.to_string())?;
    let outcome = prepared.fit(&Ranks::Threads(1), &Interrupt::default(), &CallbackSet::new);
    let Err(failure) = outcome else { return Ok(()) };
    let first: &dyn std::error::Error = &failure;
    let causes = std::iter::successors(Some(first), |error| error.source());
    Err(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

#[test]
fn optimizer_state_must_be_all_that_the_updates_left() {
    let all = Parts { optimizer: "main", uses_critic: true, trains_critic: true };
    let unused = Parts { uses_critic: false, ..all };
    let frozen = Parts { trains_critic: false, ..all };
    let renamed = Parts { optimizer: "other", ..all };
    let rows = [
        (all, all, None),
        // What no update has reached has no state yet, and none is missed.
        (unused, unused, None),
        (unused, all, None),
        (frozen, all, Some("missing `optimizer/main/exp_avg/critic.weight`")),
        (all, frozen, Some("unexpected `optimizer/main/exp_avg/critic.weight`")),
        (all, renamed, Some("optimizer.scopes.main")),
    ];
    for (index, (first, second, expected)) in rows.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        train(first, folder.path(), 1).unwrap();
        match (train(second, folder.path(), 2), expected) {
            (Ok(()), None) => {}
            (Err(error), Some(part)) => assert!(error.contains(part), "row {index}: {error}"),
            (result, _) => panic!("row {index}: {result:?}"),
        }
    }
}
