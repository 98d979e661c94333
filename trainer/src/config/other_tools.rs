//! What users of other tools write, and what it is called here.
//!
//! torchtitan, the Hugging Face Trainer, Lightning, Accelerate and Dream Trainer name the same
//! things in other ways. The rows are data; a test checks that each answer is a key of ours.

use super::key::KeyPath;

/// A name of another tool and what stands for it here.
pub(crate) struct Name {
    /// Last part of the key, or the name of a table.
    theirs: &'static str,
    /// Our key in full. Nothing where there is none.
    pub(crate) key: Option<&'static str>,
    /// What to know beside the other name; often empty.
    pub(crate) note: &'static str,
}

const fn same(theirs: &'static str, key: &'static str) -> Name {
    Name { theirs, key: Some(key), note: "" }
}

const fn with(theirs: &'static str, key: &'static str, note: &'static str) -> Name {
    Name { theirs, key: Some(key), note }
}

const fn none(theirs: &'static str, note: &'static str) -> Name {
    Name { theirs, key: None, note }
}

const STEPS_NOT_SHARE: &str = "warm-up is counted in steps: ratio x steps of the run";
const DTYPE: &str = "16 bits are chosen by `device_parameters.param_dtype = \"bf16\"` or `\"f16\"`";
const WORLD: &str =
    "the number of ranks is the product of the degrees; a launcher or `--world-size N` sets it";
const SAVING: &str = "checkpoints are saved with `checkpoint.enable = true`";
const ACCUMULATION: &str =
    "the global batch is declared; accumulation follows from it, or is given beside it";
const GLOBAL_BATCH: &str = "`global_batch_size` counts the sequences of a step over all ranks, `micro_batch_size` those of one pass";
const PRESET: &str = "`device_parameters.preset` is `ddp`, `fsdp` or `hsdp`";

/// Names of keys, wherever they stand.
const KEYS: &[Name] = &[
    // Length of the run and batch.
    same("max_steps", "training_parameters.steps"),
    same("num_steps", "training_parameters.steps"),
    same("train_steps", "training_parameters.steps"),
    same("total_train_steps", "training_parameters.steps"),
    same("max_train_steps", "training_parameters.steps"),
    same("num_train_steps", "training_parameters.steps"),
    same("num_train_epochs", "training_parameters.epochs"),
    same("num_epochs", "training_parameters.epochs"),
    same("n_epochs", "training_parameters.epochs"),
    same("max_epochs", "training_parameters.epochs"),
    with(
        "train_steps_per_epoch",
        "training_parameters.steps",
        "a run is counted in steps or in epochs",
    ),
    with("batch_size", "training_parameters.global_batch_size", GLOBAL_BATCH),
    with("train_batch_size", "training_parameters.global_batch_size", GLOBAL_BATCH),
    same("local_batch_size", "training_parameters.micro_batch_size"),
    same("per_device_train_batch_size", "training_parameters.micro_batch_size"),
    same("train_micro_batch_size_per_gpu", "training_parameters.micro_batch_size"),
    with(
        "per_device_eval_batch_size",
        "training_parameters.micro_batch_size",
        "validation uses the batches of training",
    ),
    with("gradient_accumulation", "training_parameters.gradient_accumulation_steps", ACCUMULATION),
    with("grad_accum_steps", "training_parameters.gradient_accumulation_steps", ACCUMULATION),
    with(
        "accumulate_grad_batches",
        "training_parameters.gradient_accumulation_steps",
        ACCUMULATION,
    ),
    with(
        "batch_accumulation_per_replica",
        "training_parameters.gradient_accumulation_steps",
        ACCUMULATION,
    ),
    same("seq_len", "training_parameters.sequence_length"),
    same("seq_length", "training_parameters.sequence_length"),
    same("max_seq_length", "training_parameters.sequence_length"),
    same("block_size", "training_parameters.sequence_length"),
    same("max_norm", "training_parameters.max_grad_norm"),
    same("clip_grad_norm", "training_parameters.max_grad_norm"),
    same("clip_grad", "training_parameters.max_grad_norm"),
    same("gradient_clip_val", "training_parameters.max_grad_norm"),
    same("gradient_clipping", "training_parameters.max_grad_norm"),
    same("eval_steps", "training_parameters.val_every_n_steps"),
    same("eval_every", "training_parameters.val_every_n_steps"),
    same("eval_interval", "training_parameters.val_every_n_steps"),
    same("val_check_interval", "training_parameters.val_every_n_steps"),
    same("check_val_every_n_epoch", "training_parameters.val_every_n_steps"),
    same("val_steps_per_epoch", "training_parameters.val_steps"),
    same("limit_val_batches", "training_parameters.val_steps"),
    same("eval_iters", "training_parameters.val_steps"),
    same("eval_strategy", "training_parameters.val_every_n_steps"),
    same("evaluation_strategy", "training_parameters.val_every_n_steps"),
    // Optimizer and schedule.
    same("learning_rate", "optimizer.lr"),
    same("peak_lr", "optimizer.lr"),
    same("max_lr", "optimizer.lr"),
    same("wd", "optimizer.weight_decay"),
    same("optim", "optimizer.name"),
    with("beta1", "optimizer.betas", "both rates stand in one list, `betas = [0.9, 0.95]`"),
    with("beta2", "optimizer.betas", "both rates stand in one list, `betas = [0.9, 0.95]`"),
    with("adam_beta1", "optimizer.betas", "both rates stand in one list, `betas = [0.9, 0.95]`"),
    with("adam_beta2", "optimizer.betas", "both rates stand in one list, `betas = [0.9, 0.95]`"),
    same("adam_epsilon", "optimizer.eps"),
    same("epsilon", "optimizer.eps"),
    same("lr_scheduler_type", "lr_scheduler.name"),
    same("lr_schedule", "lr_scheduler.name"),
    same("lr_decay_style", "lr_scheduler.name"),
    same("decay_type", "lr_scheduler.decay_shape"),
    with("warmup_ratio", "lr_scheduler.warmup_steps", STEPS_NOT_SHARE),
    same("num_warmup_steps", "lr_scheduler.warmup_steps"),
    same("warmup_iters", "lr_scheduler.warmup_steps"),
    same("lr_min", "lr_scheduler.min_lr_factor"),
    with("min_lr", "lr_scheduler.min_lr_factor", "the lowest rate is given as a share of the peak"),
    // Ranks, mesh and precision.
    same("data_parallel_replicate_degree", "device_parameters.dp_replicate"),
    with("data_parallel_degree", "device_parameters.dp_replicate", PRESET),
    with("data_parallel_size", "device_parameters.dp_replicate", PRESET),
    same("data_parallel_shard_degree", "device_parameters.dp_shard"),
    same("fsdp_config", "device_parameters.dp_shard"),
    with("fsdp", "device_parameters.preset", PRESET),
    with("ddp", "device_parameters.preset", PRESET),
    with("strategy", "device_parameters.preset", PRESET),
    with("distributed_type", "device_parameters.preset", PRESET),
    with("force_fsdp", "device_parameters.preset", PRESET),
    with("force_ddp", "device_parameters.preset", PRESET),
    with(
        "deepspeed",
        "device_parameters.reshard",
        "ZeRO 1, 2 and 3 are `reshard = \"optimizer\"`, `\"gradients\"` and `\"parameters\"`",
    ),
    with(
        "zero_stage",
        "device_parameters.reshard",
        "ZeRO 1, 2 and 3 are `\"optimizer\"`, `\"gradients\"` and `\"parameters\"`",
    ),
    same("fsdp_reshard_after_forward", "device_parameters.reshard"),
    same("tensor_parallel_degree", "device_parameters.tensor_parallel"),
    same("tensor_parallel_size", "device_parameters.tensor_parallel"),
    same("tp", "device_parameters.tensor_parallel"),
    same("tp_size", "device_parameters.tensor_parallel"),
    same("context_parallel_degree", "device_parameters.context_parallel"),
    same("context_parallel_size", "device_parameters.context_parallel"),
    same("cp", "device_parameters.context_parallel"),
    same("context_parallel_rotate_method", "device_parameters.context.method"),
    same("pipeline_parallel_degree", "device_parameters.pipeline_parallel"),
    same("pipeline_parallel_size", "device_parameters.pipeline_parallel"),
    same("pp", "device_parameters.pipeline_parallel"),
    same("pipeline_parallel_schedule", "device_parameters.pipeline.schedule"),
    same("pipeline_parallel_microbatch_size", "device_parameters.pipeline.num_microbatches"),
    with(
        "disable_loss_parallel",
        "device_parameters.loss_parallel",
        "it is on unless `loss_parallel = false`",
    ),
    same("enable_async_tensor_parallel", "device_parameters.async_tensor_parallel"),
    with("num_processes", "device_parameters.world_size", WORLD),
    with("nproc_per_node", "device_parameters.world_size", WORLD),
    with("num_gpus", "device_parameters.world_size", WORLD),
    with("devices", "device_parameters.world_size", WORLD),
    with("num_machines", "device_parameters.world_size", WORLD),
    with("num_nodes", "device_parameters.world_size", WORLD),
    same("accelerator", "device_parameters.device"),
    same("use_cpu", "device_parameters.device"),
    same("no_cuda", "device_parameters.device"),
    with("bf16", "device_parameters.param_dtype", DTYPE),
    with("fp16", "device_parameters.param_dtype", DTYPE),
    with("mixed_precision", "device_parameters.param_dtype", DTYPE),
    with("precision", "device_parameters.param_dtype", DTYPE),
    with("dtype", "device_parameters.param_dtype", DTYPE),
    with("torch_dtype", "device_parameters.param_dtype", DTYPE),
    same("mixed_precision_param", "device_parameters.param_dtype"),
    same("mixed_precision_reduce", "device_parameters.reduce_dtype"),
    same("checkpoint_activations", "device_parameters.activation_checkpointing"),
    same("gradient_checkpointing", "device_parameters.activation_checkpointing"),
    same("selective_ac_option", "device_parameters.checkpoint_every_nth_block"),
    same("enable_cpu_offload", "device_parameters.cpu_offload"),
    same("compile_model", "device_parameters.compile"),
    same("torch_compile", "device_parameters.compile"),
    same("train_timeout_seconds", "device_parameters.comm.timeout_secs"),
    same("init_timeout_seconds", "device_parameters.comm.init_timeout_secs"),
    same("ddp_timeout", "device_parameters.comm.timeout_secs"),
    // The run.
    same("output_folder", "run.output_dir"),
    same("dump_folder", "run.output_dir"),
    same("default_root_dir", "run.output_dir"),
    same("run_name", "run.experiment"),
    same("seed_everything", "run.seed"),
    // Data.
    same("dataset", "data.source"),
    same("dataset_path", "data.files"),
    same("dataset_name", "data.source"),
    same("train_file", "data.files"),
    same("data_files", "data.files"),
    same("validation_file", "data.validation_files"),
    same("tokenizer_path", "data.tokenizer"),
    same("tokenizer_name", "data.tokenizer"),
    same("hf_assets_path", "data.tokenizer"),
    same("dataset_text_field", "data.field"),
    same("text_column", "data.field"),
    // Checkpoints.
    with("save_steps", "checkpoint.every_n_steps", SAVING),
    with("save_every", "checkpoint.every_n_steps", SAVING),
    with("save_interval", "checkpoint.every_n_steps", SAVING),
    with("every_n_train_steps", "checkpoint.every_n_steps", SAVING),
    with("interval", "checkpoint.every_n_steps", SAVING),
    with("checkpoint_interval", "checkpoint.every_n_steps", SAVING),
    with("save_strategy", "checkpoint.every_n_steps", SAVING),
    with("enable_checkpoint", "checkpoint.enable", SAVING),
    same("save_total_limit", "checkpoint.keep_latest"),
    same("keep_latest_k", "checkpoint.keep_latest"),
    same("save_top_k", "checkpoint.keep_latest"),
    same("async_mode", "checkpoint.background"),
    with(
        "resume_from_checkpoint",
        "checkpoint.resume",
        "a run goes on from its own newest checkpoint; weights of another are `checkpoint.init_from`",
    ),
    with(
        "ckpt_path",
        "checkpoint.resume",
        "a run goes on from its own newest checkpoint; weights of another are `checkpoint.init_from`",
    ),
    same("load_step", "checkpoint.resume_step"),
    same("initial_load_path", "checkpoint.init_from"),
    same("model_name_or_path", "checkpoint.init_from"),
    // Metrics and callbacks.
    same("logging_steps", "metrics.console_every_n_steps"),
    same("log_freq", "metrics.console_every_n_steps"),
    same("log_interval", "metrics.console_every_n_steps"),
    same("log_every_n_steps", "metrics.console_every_n_steps"),
    same("enable_tensorboard", "metrics.tensorboard"),
    same("report_to", "metrics.tensorboard"),
    same("disable_tqdm", "callbacks.progress_bar"),
    same("enable_progress_bar", "callbacks.progress_bar"),
    // Models; told only where the recipe has the key.
    same("hidden_size", "model.dim"),
    same("n_embd", "model.dim"),
    same("d_model", "model.dim"),
    same("num_hidden_layers", "model.num_layers"),
    same("n_layers", "model.num_layers"),
    same("n_layer", "model.num_layers"),
    same("num_attention_heads", "model.num_heads"),
    same("n_heads", "model.num_heads"),
    same("n_head", "model.num_heads"),
    same("num_key_value_heads", "model.num_kv_heads"),
    same("n_kv_heads", "model.num_kv_heads"),
    same("intermediate_size", "model.ffn_dim"),
    same("hidden_dim", "model.ffn_dim"),
    same("rms_norm_eps", "model.norm_eps"),
    same("layer_norm_epsilon", "model.norm_eps"),
    same("tie_word_embeddings", "model.tied_embeddings"),
    same("max_position_embeddings", "model.max_seq_len"),
    same("n_positions", "model.max_seq_len"),
    same("n_vocab", "model.vocab_size"),
    same("hidden_dropout_prob", "model.dropout"),
    same("model_type", "model.name"),
];

/// Names of tables at the top of a file.
const TABLES: &[Name] = &[
    same("training", "training_parameters"),
    same("trainer", "training_parameters"),
    same("train", "training_parameters"),
    same("training_args", "training_parameters"),
    same("training_arguments", "training_parameters"),
    same("validation", "training_parameters"),
    same("parallelism", "device_parameters"),
    same("parallel", "device_parameters"),
    same("distributed", "device_parameters"),
    same("comm", "device_parameters.comm"),
    same("pipeline", "device_parameters.pipeline"),
    same("activation_checkpoint", "device_parameters.activation_checkpointing"),
    same("compile", "device_parameters.compile"),
    same("job", "run"),
    same("general", "run"),
    same("logging", "metrics"),
    none("profiling", "profiles are made by `dream-train profile --config FILE`"),
    none("profiler", "profiles are made by `dream-train profile --config FILE`"),
    same("scheduler", "lr_scheduler"),
    same("lr_schedule", "lr_scheduler"),
    same("dataset", "data"),
    same("checkpoints", "checkpoint"),
    same("model_args", "model"),
];

/// Values of other tools and ours, told where ours is among the choices.
const VALUES: &[(&str, &str)] = &[
    ("gpu", "cuda"),
    ("bfloat16", "bf16"),
    ("bf16-mixed", "bf16"),
    ("fp16", "f16"),
    ("float16", "f16"),
    ("half", "f16"),
    ("16-mixed", "f16"),
    ("fp32", "f32"),
    ("float32", "f32"),
    ("float", "f32"),
    ("no", "f32"),
    ("adamw_torch", "adamw"),
    ("adamw_torch_fused", "adamw"),
    ("adamw_hf", "adamw"),
    ("constant_with_warmup", "constant"),
    ("cosine_with_restarts", "cosine"),
    ("cosine_with_min_lr", "cosine"),
    ("warmup_stable_decay", "wsd"),
    ("allgather", "all_gather"),
    ("interleaved1f1b", "interleaved_1f1b"),
    ("zero1", "optimizer"),
    ("zero2", "gradients"),
    ("zero3", "parameters"),
];

/// Returns what a key that nobody knows here is called, if another tool has it. `allowed` are the
/// keys of its table.
pub(crate) fn name_here(key: &KeyPath, allowed: &[String]) -> Option<&'static Name> {
    let (table, last) = key.split_last()?;
    let is_top = table.segments().is_empty();
    let in_model = table.segments().first().is_some_and(|table| table == "model");
    let tables = TABLES.iter().filter(|_| is_top);
    let mut named = tables.chain(KEYS).filter(|name| name.theirs == last);
    named.find(|name| match name.key.and_then(|key| key.strip_prefix("model.")) {
        Some(ours) => in_model && allowed.iter().any(|key| key == ours),
        None => true,
    })
}

/// Says what to write instead of a value that other tools, or Python, know.
pub(crate) fn value_here(value: &str, expected: &str) -> Option<String> {
    let written = value.strip_prefix('"')?.strip_suffix('"')?;
    if ["None", "null", "none", "~", "nil"].contains(&written) {
        return Some("TOML has no word for a missing value: leave the key out".to_owned());
    }
    let is_choice = |name: &str| expected.contains(&format!("`{name}`"));
    if is_choice("true") && ["True", "False", "yes", "no", "on", "off"].contains(&written) {
        let ours = matches!(written, "True" | "yes" | "on");
        return Some(format!("did you mean `{ours}`?"));
    }
    let lower = written.to_ascii_lowercase();
    let (_, ours) = VALUES
        .iter()
        .find(|(theirs, ours)| *theirs == lower && is_choice(&format!("\"{ours}\"")))?;
    Some(format!("did you mean `\"{ours}\"`?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, schema};

    #[test]
    fn answers_name_keys_that_exist() {
        let root = schema::schema_of::<Config>();
        for name in KEYS.iter().chain(TABLES) {
            let Some(key) = name.key.map(KeyPath::dotted) else { continue };
            // Keys of recipes are told only where the recipe has them.
            let is_recipe = key.segments()[0] == "model" && key.segments().len() > 1;
            assert!(
                is_recipe || schema::find(&root, &root, key.segments()).is_some(),
                "{} is not {key}",
                name.theirs
            );
        }
    }

    #[test]
    fn a_name_is_told_once() {
        for names in [KEYS, TABLES] {
            for (position, name) in names.iter().enumerate() {
                assert!(
                    names[..position].iter().all(|other| other.theirs != name.theirs),
                    "{}",
                    name.theirs
                );
            }
        }
    }
}
