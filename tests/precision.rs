//! Mixed precision from TOML: what computes in which type, how far the numbers go, loss scaling.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use dream_trainer::metrics::{ElementCounts, PrecisionReport};
use dream_trainer::train::RunOutcome;
use support::tolerance::{CURVE_BF16, CURVE_F16, FIRST_STEP, LATER_STEP, REPLICAS};
use support::{Run, Seen, TINY, close};

/// A GPT of the size of [`TINY`].
const GPT: [&str; 2] = ["name = \"llama3\"", "name = \"gpt2\""];

/// An MLP on made-up rows.
const MLP: &str = r#"
[model]
name = "mlp"
widths = [8, 16, 8]

[training_parameters]
steps = 20
global_batch_size = 16
sequence_length = 8

[optimizer]
name = "sgd"
lr = 0.1

[metrics]
jsonl = false
"#;

/// Parameters of [`TINY`], and those of its last norm, which is in no unit.
const TINY_PARAMETERS: [u64; 2] = [24_736, 32];

fn run_text(text: &str, sets: &[&str]) -> (RunOutcome, Seen) {
    let folder = tempfile::tempdir().unwrap();
    Run::new(folder.path(), text).with(sets).go().unwrap()
}

fn gpt() -> String {
    TINY.replace(GPT[0], GPT[1]).replace("num_kv_heads = 2\nffn_dim = 64\n", "")
}

/// Adds the table to device settings.
fn device(sets: &[&str]) -> Vec<String> {
    sets.iter().map(|set| format!("device_parameters.{set}")).collect()
}

fn run(sets: &[&str], on: &[&str]) -> (RunOutcome, Seen) {
    let on = device(on);
    let sets: Vec<&str> = sets.iter().copied().chain(on.iter().map(String::as_str)).collect();
    run_text(TINY, &sets)
}

fn numbers(seen: &Seen) -> Vec<(f64, f64)> {
    seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[track_caller]
fn check_close(what: &str, a: &Seen, b: &Seen, [first, later]: [f64; 2]) {
    assert_eq!(a.steps.len(), b.steps.len(), "{what}");
    for (step, (a, b)) in numbers(a).into_iter().zip(numbers(b)).enumerate() {
        let tolerance = if step == 0 { first } else { later };
        close(a.0, b.0, tolerance, &format!("{what}: loss of step {}", step + 1));
        close(a.1, b.1, tolerance, &format!("{what}: gradient norm of step {}", step + 1));
    }
}

#[test]
fn a_policy_of_f32_equals_replicas() {
    for optimizer in [&["optimizer.name=sgd"][..], &["optimizer.name=adamw"]] {
        let (_, replicas) = run(optimizer, &["preset=ddp", "world_size=2"]);
        let policy = ["param_dtype=f32", "reduce_dtype=f32", "preset=fsdp", "world_size=2"];
        let (_, sharded) = run(optimizer, &policy);
        check_close("f32 policy", &sharded, &replicas, [REPLICAS; 2]);
    }
}

/// Returns the counts of one type.
fn only(name: &str, counts: &ElementCounts) -> u64 {
    assert_eq!(counts.to_string(), name);
    counts.get(name)
}

#[test]
fn live_tensors_have_the_types_of_the_policy() {
    let [all, outside] = TINY_PARAMETERS;
    let meshes: [(&[&str], u64, u64); 6] = [
        // Settings, ranks that share a parameter at rest, ranks that share one in use.
        (&["world_size=1"], 1, 1),
        (&["world_size=2", "preset=ddp"], 1, 1),
        (&["world_size=2", "preset=fsdp"], 2, 1),
        (&["world_size=4", "preset=hsdp", "dp_shard=2"], 2, 1),
        (&["world_size=2", "preset=fsdp", "activation_checkpointing=full"], 2, 1),
        (&["world_size=4", "preset=fsdp", "tensor_parallel=2"], 4, 2),
    ];
    for dtype in ["bf16", "f16"] {
        for (mesh, at_rest, in_use) in meshes {
            let param_dtype = format!("param_dtype={dtype}");
            let on: Vec<&str> = mesh.iter().copied().chain([param_dtype.as_str()]).collect();
            let seen = run(&["training_parameters.steps=3"], &on).1;
            let report: PrecisionReport = seen.precision.unwrap();
            let what = format!("{on:?}: {report:?}");
            assert_eq!(only("f32", &report.loss), 1, "{what}");
            let resting = only("f32", &report.parameters);
            assert_eq!(report.computation.get("f32"), outside, "{what}");
            let computing = report.computation.get(dtype);
            if in_use == 1 {
                assert_eq!(computing, all - outside, "{what}");
                assert_eq!(resting, (all - outside) / at_rest + outside, "{what}");
            } else {
                // Norms are whole on both tensor-parallel ranks.
                assert!(computing > (all - outside) / in_use && computing < all, "{what}");
            }
            assert_eq!(only("f32", &report.gradients), resting, "{what}");
            assert_eq!(only("f32", &report.optimizer_state), 2 * resting, "{what}");
            let alone = mesh == ["world_size=1"];
            assert_eq!(report.reduction.to_string(), if alone { "none" } else { "f32" }, "{what}");
        }
    }
}

#[test]
fn gradients_travel_in_the_reduce_dtype() {
    for mesh in [&["preset=ddp"][..], &["preset=fsdp"], &["preset=fsdp", "reshard=optimizer"]] {
        for param_dtype in ["param_dtype=f32", "param_dtype=bf16"] {
            let on = [mesh, &["world_size=2", "reduce_dtype=bf16", param_dtype]].concat();
            let (_, seen) = run(&["training_parameters.steps=2"], &on);
            let report = seen.precision.unwrap();
            only("bf16", &report.reduction);
            only("f32", &report.gradients);
        }
    }
}

/// Steps whose losses are compared. Runs that round differently drift apart as they go on, whatever
/// rounds; how fast is the model's affair.
const COMPARED: usize = 10;

#[test]
fn loss_curves_in_half_precision_stay_near_those_in_f32() {
    let steps = "training_parameters.steps=20";
    let gpt = gpt();
    for (model, text, sets) in [
        ("llama3", TINY, &[steps][..]),
        ("llama3, tied", TINY, &[steps, "model.tied_embeddings=true"]),
        ("gpt2", &gpt, &[steps]),
        ("mlp", MLP, &[]),
    ] {
        let (_, single) = run_text(text, sets);
        let (first, last) = (single.steps[0].loss, single.steps[19].loss);
        assert!(last < first, "{model} trains: {first} to {last}");
        for (dtype, tolerance) in [("bf16", CURVE_BF16), ("f16", CURVE_F16)] {
            for mesh in [&["world_size=1"][..], &["world_size=2", "tensor_parallel=2"]] {
                let param_dtype = format!("param_dtype={dtype}");
                let on = device(&[mesh, &[&param_dtype]].concat());
                let sets: Vec<&str> =
                    sets.iter().copied().chain(on.iter().map(String::as_str)).collect();
                let (_, half) = run_text(text, &sets);
                for (a, b) in half.steps.iter().zip(&single.steps).take(COMPARED) {
                    let what = format!("{model}, {dtype}, {mesh:?}, step {}", b.step);
                    close(a.loss, b.loss, tolerance, &what);
                }
            }
        }
    }
}

#[test]
fn ranks_in_half_precision_give_the_single_rank_run() {
    // One rank that accumulates the same microbatches rounds the same numbers; what is left to
    // differ is summed in f32.
    for dtype in ["param_dtype=bf16", "param_dtype=f16"] {
        let accumulated = ["training_parameters.micro_batch_size=4"];
        let (_, single) = run(&accumulated, &[dtype]);
        for mesh in [&["preset=fsdp"][..], &["preset=ddp"], &["preset=fsdp", "reshard=gradients"]] {
            let on = [mesh, &["world_size=2", dtype]].concat();
            let (_, ranks) = run(&[], &on);
            check_close(&format!("{on:?}"), &ranks, &single, [FIRST_STEP, LATER_STEP]);
        }
    }
}

#[test]
fn activations_made_again_are_the_same_bits() {
    let kept = run(&[], &["param_dtype=bf16"]).1;
    let made_again = run(&[], &["param_dtype=bf16", "activation_checkpointing=full"]).1;
    assert_eq!(numbers(&kept), numbers(&made_again));
}

#[test]
fn an_overflow_skips_the_step_on_all_ranks_and_halves_the_scale() {
    let steps = 24;
    let sets = ["training_parameters.steps=24", "optimizer.lr=3e-3"];
    for mesh in [
        &["world_size=1"][..],
        &["world_size=2", "preset=ddp"],
        &["world_size=2", "preset=fsdp"],
        &["world_size=2", "tensor_parallel=2"],
    ] {
        let scaler = ["param_dtype=f16", "grad_scaler.init_scale=1073741824.0"];
        let (outcome, seen) = run(&sets, &[mesh, &scaler].concat());
        let skipped = seen.steps.iter().filter(|step| step.skipped).count();
        assert!(seen.steps[0].skipped && skipped < steps / 2, "{mesh:?}: {skipped} skipped");
        assert!(!seen.steps[0].grad_norm.is_finite());
        assert_eq!(outcome.skipped_steps, skipped as u64);
        let mut scale = 1_073_741_824.0;
        for step in &seen.steps {
            assert_eq!(step.loss_scale, Some(scale), "{mesh:?}, step {}", step.step);
            scale *= if step.skipped { 0.5 } else { 1.0 };
        }
        let updated = seen.steps.iter().find(|step| !step.skipped).unwrap();
        assert_eq!(seen.precision.unwrap().step, updated.step, "{mesh:?}");
        assert!(seen.steps[steps - 1].loss < seen.steps[0].loss, "{mesh:?}");
    }
}

#[test]
fn the_scale_is_divided_out_again() {
    let run = |scale: &str| {
        let scale = format!("grad_scaler.init_scale={scale}");
        run(&[], &["param_dtype=f16", &scale]).1
    };
    // What differs is what falls below the normal numbers of `f16`: less than its roundoff.
    check_close("scales", &run("1024.0"), &run("65536.0"), [1.0 / 2048.0; 2]);
}

#[test]
fn without_a_finite_gradient_a_run_ends() {
    let sets = ["optimizer.name=sgd", "optimizer.lr=1e30", "training_parameters.max_grad_norm=0.0"];
    let folder = tempfile::tempdir().unwrap();
    let f16 = "device_parameters.param_dtype=f16";
    let error = Run::new(folder.path(), TINY).with(&sets).with(&[f16]).go().unwrap_err();
    assert!(error.contains("the loss is"), "{error}");
}

#[test]
fn only_overflows_that_a_lower_scale_may_help_against_are_free() {
    let folder = tempfile::tempdir().unwrap();
    let skip =
        ["training_parameters.on_nonfinite=skip", "training_parameters.max_consecutive_skips=2"];
    let f16 = "device_parameters.param_dtype=f16";
    let scale = |value: &str| format!("device_parameters.grad_scaler.init_scale={value}");
    // Every step overflows, and the scale goes down step by step.
    let high = scale("1e30");
    let outcome = Run::new(folder.path(), TINY).with(&skip).with(&[f16, &high]).go().unwrap().0;
    assert_eq!((outcome.step, outcome.skipped_steps), (6, 6));
    // After the first update nothing is finite: one step lowers the scale below 1, two more are allowed.
    let hopeless =
        ["optimizer.name=sgd", "optimizer.lr=1e30", "training_parameters.max_grad_norm=0"];
    let low = scale("1.0");
    let run = Run::new(folder.path(), TINY).with(&skip).with(&hopeless).with(&[f16, &low]);
    let error = run.go().unwrap_err();
    assert!(error.contains("the updates of 2 steps in a row were dropped"), "{error}");
    assert!(error.contains("that of step 5"), "{error}");
}
