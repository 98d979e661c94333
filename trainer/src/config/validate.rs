//! Checks across tables, and the components' own checks with the place of the key they are about.

use std::path::Path;

use figment::value::Value;

use super::{
    Config,
    device::{DeviceKind, FloatType, RankKind},
    effect::check_effects,
    error::{ConfigError, ConfigErrorKind},
    key::KeyPath,
    layers::Loaded,
    resolve::device_key,
};
use crate::{
    checkpoint::{ResumeMode, SelectionError},
    data::{DataError, DataPlan},
    mesh::DeviceMesh,
    optim::{OptimError, OptimizerPlan},
    world::why_no_home,
};

/// Checks all tables but `device_parameters` and `training_parameters`, and resolves those whose
/// components can.
pub(crate) fn check_tables(
    loaded: &Loaded,
    errors: &mut Vec<ConfigError>,
) -> Option<(OptimizerPlan, DataPlan)> {
    check_run(loaded, errors);
    check_homes(loaded, errors);
    check_checkpoint(loaded, errors);
    if loaded.config.metrics.peak_flops.is_some_and(|flops| flops <= 0.0) {
        errors.push(loaded.refuse(&KeyPath::dotted("metrics.peak_flops"), "it must be above 0"));
    }
    let optimizer = loaded.config.optimizer.resolve();
    let optimizer = optimizer.map_err(|error| errors.push(optim_error(loaded, error))).ok();
    // With epochs the number of steps depends on the data; the trainer checks the schedule then.
    if let Some(num_steps) = loaded.config.num_steps() {
        let schedule = loaded.config.lr_scheduler.resolve(num_steps);
        errors.extend(schedule.err().map(|error| optim_error(loaded, error)));
    }
    let data = loaded.config.data.resolve();
    let data = data.map_err(|error| errors.push(data_error(loaded, error))).ok();
    check_effects(loaded, errors);
    optimizer.zip(data)
}

/// Checks what a device cannot do, whatever the build.
pub(crate) fn check_device(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let device = &loaded.config.device_parameters;
    let on_cpu = device.device == DeviceKind::Cpu;
    let on_wgpu = device.device == DeviceKind::Wgpu;
    let f32_only = "shaders of `device = \"wgpu\"` compute in `f32` only";
    let computes_in = device.param_dtype;
    let rows = [
        (
            on_cpu && device.cpu_offload,
            "cpu_offload",
            "with `device = \"cpu\"` parameters and optimizer state live in host memory already",
        ),
        (on_cpu && device.compile, "compile", "kernels are fused on GPUs only"),
        (on_wgpu && computes_in != FloatType::F32, "param_dtype", f32_only),
        (on_wgpu && device.reduce_dtype != FloatType::F32, "reduce_dtype", f32_only),
        (
            device.reduce_dtype == FloatType::F16,
            "reduce_dtype",
            "a sum over ranks soon leaves the range of `f16`; `f32` and `bf16` hold it",
        ),
    ];
    let scaler = device.grad_scaler.validate().err();
    errors.extend(scaler.map(|error| optim_error(loaded, error)));
    for (_, key, reason) in rows.into_iter().filter(|(wrong, ..)| *wrong) {
        errors.push(loaded.refuse(&device_key(key), reason));
    }
}

/// Checks what ranks cannot be.
pub(crate) fn check_ranks(
    loaded: &Loaded,
    mesh: &DeviceMesh,
    is_launched: bool,
    errors: &mut Vec<ConfigError>,
) {
    let device = &loaded.config.device_parameters;
    let are_started = is_launched && mesh.world_size() > 1;
    let on_cuda = device.device == DeviceKind::Cuda;
    let rows = [
        (
            are_started && device.device == DeviceKind::Wgpu,
            "device",
            "a launcher started several processes, which WebGPU cannot join; start one process, whose ranks are threads",
        ),
        (
            are_started && device.ranks == Some(RankKind::Threads),
            "ranks",
            "a launcher started several processes, which are the ranks; start one process for ranks that are threads",
        ),
        (
            !are_started && !on_cuda && device.ranks == Some(RankKind::Processes),
            "ranks",
            "only ranks with `device = \"cuda\"` are started as processes here; CPU ranks are by `mpirun` or `dream-train launch`",
        ),
    ];
    for (_, key, reason) in rows.into_iter().filter(|(wrong, ..)| *wrong) {
        errors.push(loaded.refuse(&device_key(key), reason));
    }
}

fn check_run(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let run = &loaded.config.run;
    for (key, name) in
        [("project", &run.project), ("group", &run.group), ("experiment", &run.experiment)]
    {
        // Each is one folder; a separator or `..` would put the run elsewhere.
        let is_folder =
            !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
        if !is_folder {
            let key = KeyPath::dotted("run").child(key);
            errors.push(
                loaded.refuse(&key, "it names a folder, so it must be a single non-empty name"),
            );
        }
    }
}

/// Checks that a leading `~` of a path can be replaced: it would become a folder of that name.
fn check_homes(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let Config { run, data, checkpoint, model, .. } = &loaded.config;
    let file = |path: &Path| path.to_string_lossy().into_owned();
    let mut paths = vec![
        ("run.output_dir", Some(file(&run.output_dir))),
        ("checkpoint.init_from", checkpoint.init_from.as_deref().map(file)),
        ("data.tokenizer", data.tokenizer.clone()),
        ("data.cache_dir", data.cache_dir.as_deref().map(file)),
        ("model.hf_dir", model.values().get("hf_dir").and_then(Value::as_str).map(str::to_owned)),
    ];
    let lists = [("data.files", &data.files), ("data.validation_files", &data.validation_files)];
    for (key, patterns) in lists {
        paths.extend(patterns.iter().map(|pattern| (key, Some(pattern.clone()))));
    }
    for (key, path) in paths {
        if let Some(reason) = path.as_deref().and_then(why_no_home) {
            errors.push(loaded.refuse(&KeyPath::dotted(key), reason));
        }
    }
}

fn check_checkpoint(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let checkpoint = &loaded.config.checkpoint;
    let needs_a_checkpoint = [
        (
            checkpoint.resume_step.is_some(),
            "checkpoint.resume_step",
            "a run that never resumes has no step to resume from",
        ),
        (
            !checkpoint.reset.is_empty(),
            "checkpoint.reset",
            "a run that never resumes begins with everything new",
        ),
    ];
    for (is_given, key, reason) in needs_a_checkpoint {
        if is_given && checkpoint.resume == ResumeMode::Never {
            let [first, second] = [key, "checkpoint.resume"].map(KeyPath::dotted);
            let places = loaded.places([first.clone(), second.clone()]);
            errors.push(ConfigErrorKind::Exclusive { first, second, reason }.at(places));
        }
    }
    if let Err(error) = checkpoint.selection() {
        let key = match &error {
            SelectionError::BadPattern { key, .. } | SelectionError::Unused { key, .. } => key,
        };
        errors.push(loaded.refuse(&KeyPath::dotted(key), error.to_string()));
    }
}

/// Points an error of the optimizer or schedule at the key it is about.
fn optim_error(loaded: &Loaded, error: OptimError) -> ConfigError {
    let keys = match &error {
        OptimError::KeyOfAnother { key, .. } if key.starts_with("lr_scheduler") => {
            vec![*key, "lr_scheduler.name"]
        }
        OptimError::KeyOfAnother { key, .. } => vec![*key, "optimizer.name"],
        OptimError::OutOfRange { key, .. } => vec![key.as_str()],
        OptimError::WarmupTooLong { .. } => {
            vec![
                "lr_scheduler.warmup_steps",
                "lr_scheduler.total_steps",
                "training_parameters.steps",
            ]
        }
        OptimError::BadPattern { index, .. } | OptimError::UnusedPattern { index, .. } => {
            let key = format!("optimizer.param_groups.{index}.pattern");
            let places = loaded.places([KeyPath::dotted(&key)]);
            return ConfigErrorKind::Optim(error).at(places);
        }
        _ => Vec::new(),
    };
    let places = loaded.places(keys.into_iter().map(KeyPath::dotted));
    ConfigErrorKind::Optim(error).at(places)
}

/// Points an error of the data at the key it is about.
fn data_error(loaded: &Loaded, error: DataError) -> ConfigError {
    let keys = match &error {
        DataError::KeyOfOtherSource { key, .. } | DataError::MissingKey { key, .. } => {
            vec![*key, "source"]
        }
        DataError::ExclusiveKeys { first, second } => vec![*first, *second],
        DataError::OutOfRange { key, .. } | DataError::InvalidPattern { key, .. } => vec![*key],
        _ => Vec::new(),
    };
    let table = KeyPath::dotted("data");
    let keys = keys.into_iter().map(|key| key.strip_prefix("data.").unwrap_or(key));
    let places = loaded.places(keys.map(|key| table.child(key)));
    ConfigErrorKind::Data(Box::new(error)).at(places)
}
