//! Turns a declared configuration into concrete numbers.

use std::time::Duration;

use super::{
    Config,
    batch::{Batch, BatchRequest, divide},
    device::{DeviceKind, FloatType, LoadBalance, PipelineSchedule, Preset},
    effect::has_validation,
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    key::KeyPath,
    layers::Loaded,
    plan::{ResolvedConfig, ResolvedDevice, ResolvedPipeline, ResolvedTraining},
    provenance::Origin,
    source::Place,
    validate,
};
use crate::{
    fsdp::Reshard,
    mesh::{Axis, AxisSet, Degree, DeviceMesh, MeshError},
    train::RunLength,
    world::MOST_RANKS,
};

/// Most tokens of a step: thousands of times what any run has used.
const MOST_TOKENS: usize = 1 << 40;

/// Returns the key that declares the degree of an axis.
pub(crate) const fn degree_key(axis: Axis) -> &'static str {
    match axis {
        Axis::Pp => "pipeline_parallel",
        Axis::DpReplicate => "dp_replicate",
        Axis::DpShard => "dp_shard",
        Axis::Cp => "context_parallel",
        Axis::Tp => "tensor_parallel",
    }
}

pub(crate) fn device_key(key: &str) -> KeyPath {
    KeyPath::dotted("device_parameters").child(key)
}

impl Loaded {
    /// Works out every number and checks what can be checked without the model and the data. It
    /// opens no socket and no file.
    ///
    /// `launched` is the number of ranks that an outside launcher started, if one did.
    ///
    /// # Errors
    /// Returns everything that contradicts itself, does not divide or lies outside its range, with
    /// places.
    pub fn resolve(&self, launched: Option<usize>) -> Result<ResolvedConfig, ConfigErrors> {
        let config = &self.config;
        let mut errors = Vec::new();
        let mesh = keep(self.resolve_mesh(launched), &mut errors);
        let tables = validate::check_tables(self, &mut errors);
        let training = mesh.and_then(|mesh| self.resolve_training(&mesh, &mut errors));
        let device = mesh.zip(training.as_ref().map(|training| training.micro_batch_size));
        let device = device.and_then(|(mesh, micro)| {
            self.resolve_device(mesh, launched.is_some(), micro, &mut errors)
        });
        match (device, training, tables) {
            (Some(device), Some(training), Some((optimizer, data))) if errors.is_empty() => {
                Ok(ResolvedConfig {
                    run: config.run.clone(),
                    device,
                    training,
                    model: config.model.clone(),
                    optimizer,
                    lr_scheduler: config.lr_scheduler.clone(),
                    data,
                    checkpoint: config.checkpoint.clone(),
                    metrics: config.metrics.clone(),
                    callbacks: config.callbacks.clone(),
                })
            }
            _ => Err(ConfigErrors::found(errors)),
        }
    }

    fn resolve_mesh(&self, launched: Option<usize>) -> Result<DeviceMesh, ConfigError> {
        let device = &self.config.device_parameters;
        let world_key = device_key("world_size");
        let configured = match device.world_size {
            Some(Degree::Fixed(configured)) => Some(configured),
            Some(Degree::Auto) | None => None,
        };
        let world_size = match (configured, launched) {
            (Some(configured), Some(launched)) if configured != launched => {
                let conflict = ConfigErrorKind::WorldConflict { configured, launched };
                return Err(conflict.at(self.provenance.place(&world_key)));
            }
            (configured, launched) => launched.or(configured).unwrap_or(self.unasked_ranks()),
        };
        if world_size > MOST_RANKS {
            let error = ConfigErrorKind::WorldTooLarge { ranks: world_size, most: MOST_RANKS };
            return Err(error.at(self.provenance.place(&world_key)));
        }
        let shard_key = device_key("dp_shard");
        if device.preset == Some(Preset::Hsdp) && !self.provenance.is_written(&shard_key) {
            let reason = "the preset `hsdp` shards within groups of this many ranks".into();
            let missing = ConfigErrorKind::Missing { key: shard_key, reason };
            return Err(missing.at(self.provenance.place(&device_key("preset"))));
        }
        device
            .degrees()
            .resolve(world_size, device.mesh_order)
            .map_err(|error| self.mesh_error(error))
    }

    /// Returns the number of ranks where nobody says one.
    fn unasked_ranks(&self) -> usize {
        let device = &self.config.device_parameters;
        let degrees = device.degrees();
        let takes_all = Axis::ALL.into_iter().any(|axis| degrees.get(axis) == Degree::Auto);
        if device.device == DeviceKind::Cuda && takes_all { self.gpus.max(1) } else { 1 }
    }

    fn mesh_error(&self, error: MeshError) -> ConfigError {
        let degrees = self.config.device_parameters.degrees();
        let keys = Axis::ALL.into_iter().filter(|axis| degrees.get(*axis) != Degree::Fixed(1));
        let autos: Vec<KeyPath> = Axis::ALL
            .into_iter()
            .filter(|axis| degrees.get(*axis) == Degree::Auto)
            .map(|axis| device_key(degree_key(axis)))
            .collect();
        if let MeshError::SeveralAuto { .. } = error {
            let named = |key: &KeyPath| match self.provenance.origin(key) {
                Origin::Preset(preset) => format!("`{key}` (preset `{preset}`)"),
                _ => format!("`{key}`"),
            };
            let keys = autos.iter().map(named).collect();
            let places = self.places(autos.into_iter().chain([device_key("preset")]));
            return ConfigErrorKind::SeveralAuto { keys }.at(places);
        }
        let keys = keys.map(|axis| device_key(degree_key(axis)));
        let others = ["world_size", "preset"].map(device_key);
        let places = self.places(keys.chain(others));
        ConfigErrorKind::Mesh(error).at(places)
    }

    fn resolve_training(
        &self,
        mesh: &DeviceMesh,
        errors: &mut Vec<ConfigError>,
    ) -> Option<ResolvedTraining> {
        let declared = &self.config.training_parameters;
        let length = keep(self.run_length(), errors);
        let request = BatchRequest {
            global: declared.global_batch_size,
            micro: declared.micro_batch_size,
            accumulation: declared.gradient_accumulation_steps,
            data_parallel: mesh.size(AxisSet::DP),
        };
        let batch = keep(request.resolve().map_err(|kind| self.batch_error(kind)), errors);
        errors.extend(self.check_sequence(mesh).err());
        errors.extend(self.check_tokens().err());
        let (length, Batch { micro, accumulation }) = (length?, batch?);
        let validates = has_validation(&self.config.data);
        let cadence = Some(declared.val_every_n_steps).filter(|steps| *steps > 0 && validates);
        Some(ResolvedTraining {
            length,
            global_batch_size: declared.global_batch_size,
            micro_batch_size: micro,
            gradient_accumulation_steps: accumulation,
            sequence_length: declared.sequence_length,
            max_grad_norm: Some(declared.max_grad_norm).filter(|norm| *norm > 0.0),
            val_every_n_steps: cadence,
            val_steps: cadence.map(|_| declared.val_steps).filter(|steps| *steps > 0),
            num_sanity_val_steps: if validates { declared.num_sanity_val_steps } else { 0 },
            on_nonfinite: declared.on_nonfinite,
            max_consecutive_skips: declared.max_consecutive_skips,
        })
    }

    fn run_length(&self) -> Result<RunLength, ConfigError> {
        let declared = &self.config.training_parameters;
        let table = KeyPath::dotted("training_parameters");
        let (steps, epochs) = (table.child("steps"), table.child("epochs"));
        match (declared.steps, declared.epochs) {
            (Some(steps), None) => Ok(RunLength::Steps(steps)),
            (None, Some(epochs)) => Ok(RunLength::Epochs(epochs)),
            (Some(_), Some(_)) => {
                let places = self.places([steps.clone(), epochs.clone()]);
                let reason = "each fixes the length of the run";
                Err(ConfigErrorKind::Exclusive { first: steps, second: epochs, reason }.at(places))
            }
            (None, None) => {
                let reason =
                    "exactly one of `steps` and `epochs` fixes the length of the run".into();
                let place = self.provenance.place(&table);
                Err(ConfigErrorKind::Missing { key: steps, reason }.at(place))
            }
        }
    }

    fn batch_error(&self, kind: ConfigErrorKind) -> ConfigError {
        let keys = ["global_batch_size", "micro_batch_size", "gradient_accumulation_steps"];
        let table = KeyPath::dotted("training_parameters");
        let degrees = ["dp_replicate", "dp_shard", "preset", "world_size"].map(device_key);
        kind.at(self.places(keys.map(|key| table.child(key)).into_iter().chain(degrees)))
    }

    /// Checks that the tokens of a step can be counted and held anywhere.
    fn check_tokens(&self) -> Result<(), ConfigError> {
        let declared = &self.config.training_parameters;
        let (sequences, length) = (declared.global_batch_size, declared.sequence_length);
        if sequences.checked_mul(length).is_some_and(|tokens| tokens <= MOST_TOKENS) {
            return Ok(());
        }
        let table = KeyPath::dotted("training_parameters");
        let keys = ["global_batch_size", "sequence_length"].map(|key| table.child(key));
        Err(ConfigErrorKind::StepTooLarge { sequences, length }.at(self.places(keys)))
    }

    /// Checks that context and tensor parallelism can share a sequence evenly.
    fn check_sequence(&self, mesh: &DeviceMesh) -> Result<(), ConfigError> {
        let (declared, device) = (&self.config.training_parameters, &self.config.device_parameters);
        let (cp, tp) = (mesh.size(Axis::Cp), mesh.size(Axis::Tp));
        let key = "training_parameters.sequence_length";
        let check = |words: &str, by: usize| {
            divide(key, declared.sequence_length, words, by).map_err(|kind| {
                let keys = ["context_parallel", "tensor_parallel"].map(device_key);
                kind.at(self.places([KeyPath::dotted(key)].into_iter().chain(keys)))
            })
        };
        if cp > 1 && device.context.load_balance == LoadBalance::Zigzag {
            check("2 x context_parallel (zigzag)", cp.saturating_mul(2))?;
        } else {
            check("context_parallel", cp)?;
        }
        if device.sequence_parallel {
            check("context_parallel x tensor_parallel", cp.saturating_mul(tp))?;
        }
        Ok(())
    }

    fn resolve_device(
        &self,
        mesh: DeviceMesh,
        is_launched: bool,
        micro_batch_size: usize,
        errors: &mut Vec<ConfigError>,
    ) -> Option<ResolvedDevice> {
        let declared = &self.config.device_parameters;
        let pipeline = keep(self.resolve_pipeline(&mesh, micro_batch_size), errors)?;
        validate::check_device(self, errors);
        validate::check_ranks(self, &mesh, is_launched, errors);
        // What a stronger layer turned off, or `"auto"` made a single rank, is off.
        let splits_weights = mesh.size(Axis::Tp) > 1;
        let shards = mesh.size(AxisSet::FSDP) > 1;
        Some(ResolvedDevice {
            kind: declared.device,
            mesh,
            is_launched,
            ranks: declared.ranks,
            param_dtype: declared.param_dtype,
            reduce_dtype: declared.reduce_dtype,
            grad_scaler: (declared.param_dtype == FloatType::F16)
                .then(|| declared.grad_scaler.clone()),
            loss_parallel: declared.loss_parallel && splits_weights,
            sequence_parallel: declared.sequence_parallel && splits_weights,
            async_tensor_parallel: declared.async_tensor_parallel && splits_weights,
            activation_checkpointing: declared.recomputed(),
            reshard: if shards { declared.reshard } else { Reshard::default() },
            accumulate_whole_gradients: declared.accumulate_whole_gradients && shards,
            cpu_offload: declared.cpu_offload,
            compile: declared.compile,
            init_timeout: Duration::from_secs(declared.comm.init_timeout_secs),
            timeout: Duration::from_secs(declared.comm.timeout_secs),
            reduction: declared.comm.reduction,
            pipeline,
            context: declared.context.clone(),
        })
    }

    fn resolve_pipeline(
        &self,
        mesh: &DeviceMesh,
        micro: usize,
    ) -> Result<Option<ResolvedPipeline>, ConfigError> {
        let stages = mesh.size(Axis::Pp);
        if stages == 1 {
            return Ok(None);
        }
        let declared = &self.config.device_parameters.pipeline;
        let number_key = "device_parameters.pipeline.num_microbatches";
        let num_microbatches = declared.num_microbatches.unwrap_or(micro);
        let micro_key = "training_parameters.micro_batch_size";
        let places = || {
            let keys = [number_key, micro_key, "training_parameters.global_batch_size"];
            self.places(keys.into_iter().map(KeyPath::dotted))
        };
        divide(micro_key, micro, "num_microbatches", num_microbatches)
            .map_err(|kind| kind.at(places()))?;
        if declared.schedule == PipelineSchedule::InterleavedOneForwardOneBackward {
            let words = "pipeline_parallel (interleaved_1f1b)";
            divide(number_key, num_microbatches, words, stages)
                .map_err(|kind| kind.at(places()))?;
        }
        Ok(Some(ResolvedPipeline { schedule: declared.schedule, num_microbatches }))
    }

    /// Returns where the user wrote the given keys, as far as they were written.
    pub(crate) fn places(&self, keys: impl IntoIterator<Item = KeyPath>) -> Vec<Place> {
        keys.into_iter().filter_map(|key| self.provenance.place(&key)).collect()
    }
}

/// Sets an error aside, so that the checks after it still run.
fn keep<T>(result: Result<T, ConfigError>, errors: &mut Vec<ConfigError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

impl Config {
    /// Returns how many steps the run takes, where the configuration alone tells.
    pub(crate) fn num_steps(&self) -> Option<u64> {
        self.lr_scheduler.total_steps.or(self.training_parameters.steps)
    }
}
