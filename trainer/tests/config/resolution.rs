//! Resolution: concrete numbers from what is declared and the world there is.

use dream_trainer::config::load;
use dream_trainer::fsdp::Reshard;
use dream_trainer::mesh::{Axis, AxisSet};
use dream_trainer::train::RunLength;

use crate::written::{LEAST, load_sets, load_texts, resolve_sets};

#[test]
fn ranks_degrees_and_batches_become_numbers() {
    let ddp = "device_parameters.preset=ddp";
    // Sets, launched ranks; then dp_replicate, dp_shard, tp, micro batch, accumulation.
    let rows: [(&[&str], Option<usize>, [usize; 5]); 8] = [
        (&[], None, [1, 1, 1, 8, 1]),
        (&[ddp, "device_parameters.world_size=4"], None, [4, 1, 1, 2, 1]),
        (&[ddp], Some(4), [4, 1, 1, 2, 1]),
        (&[ddp, "device_parameters.world_size=4"], Some(4), [4, 1, 1, 2, 1]),
        (&[ddp, "training_parameters.micro_batch_size=1"], Some(2), [2, 1, 1, 1, 4]),
        (&["device_parameters.preset=fsdp"], Some(8), [1, 8, 1, 1, 1]),
        (
            &["device_parameters.preset=fsdp", "device_parameters.tensor_parallel=2"],
            Some(8),
            [1, 4, 2, 2, 1],
        ),
        (
            &["device_parameters.preset=hsdp", "device_parameters.dp_shard=2"],
            Some(4),
            [2, 2, 1, 2, 1],
        ),
    ];
    for (sets, launched, expected) in rows {
        let plan = resolve_sets(sets, launched).unwrap();
        let (mesh, training) = (&plan.device.mesh, &plan.training);
        let found = [
            mesh.size(Axis::DpReplicate),
            mesh.size(Axis::DpShard),
            mesh.size(Axis::Tp),
            training.micro_batch_size,
            training.gradient_accumulation_steps,
        ];
        assert_eq!(found, expected, "{sets:?}");
        let product = training.micro_batch_size
            * training.gradient_accumulation_steps
            * mesh.size(AxisSet::DP);
        assert_eq!(product, training.global_batch_size, "{sets:?}");
    }
}

#[test]
fn a_launcher_that_contradicts_the_configuration_is_refused() {
    let sets = ["device_parameters.preset=ddp", "device_parameters.world_size=4"];
    let text = resolve_sets(&sets, Some(2)).unwrap_err().to_string();
    assert!(
        text.contains("`device_parameters.world_size = 4` but the launcher started 2 ranks"),
        "{text}"
    );
}

#[test]
fn switches_of_axes_that_are_off_are_off() {
    let plan = resolve_sets(&[], None).unwrap();
    assert!(
        !plan.device.loss_parallel
            && !plan.device.sequence_parallel
            && plan.device.pipeline.is_none()
    );
    let sets = ["device_parameters.tensor_parallel=2", "device_parameters.pipeline_parallel=2"];
    let device = resolve_sets(&sets, Some(4)).unwrap().device;
    assert!(device.loss_parallel && device.sequence_parallel);
    assert_eq!(device.pipeline.unwrap().num_microbatches, 8);
}

#[test]
fn zero_turns_off_what_documents_it() {
    let sets = ["training_parameters.max_grad_norm=0", "training_parameters.val_every_n_steps=0"];
    let training = resolve_sets(&sets, None).unwrap().training;
    assert_eq!((training.max_grad_norm, training.val_every_n_steps), (None, None));
    assert_eq!(training.length, RunLength::Steps(2));
}

#[test]
fn numbers_that_do_not_divide_are_refused_with_the_nearest_that_do() {
    let rows: [(&[&str], usize, &str); 5] = [
        (
            &["device_parameters.preset=ddp", "training_parameters.global_batch_size=10"],
            4,
            "10 % 4 = 2",
        ),
        (
            &["device_parameters.context_parallel=2", "training_parameters.sequence_length=6"],
            2,
            "6 % 4 = 2",
        ),
        (
            &[
                "device_parameters.context_parallel=2",
                "device_parameters.context.load_balance=none",
                "training_parameters.sequence_length=7",
            ],
            2,
            "7 % 2 = 1",
        ),
        (
            &["device_parameters.tensor_parallel=4", "training_parameters.sequence_length=6"],
            4,
            "6 % 4 = 2",
        ),
        (
            &[
                "device_parameters.pipeline_parallel=4",
                "device_parameters.pipeline.schedule=interleaved_1f1b",
                "training_parameters.global_batch_size=6",
            ],
            4,
            "6 % 4 = 2",
        ),
    ];
    for (sets, launched, expected) in rows {
        let errors = resolve_sets(sets, Some(launched)).unwrap_err();
        assert!(errors.to_string().contains(expected), "{errors}");
        assert!(
            errors
                .iter()
                .all(|error| error.kind.help().is_some_and(|help| help.contains("nearest")))
        );
    }
}

#[test]
fn the_gpus_of_a_machine_are_the_ranks_that_nobody_counts() {
    // Sets, launched ranks, GPUs, ranks.
    let rows: [(&[&str], Option<usize>, usize, usize); 6] = [
        (&["device_parameters.device=cuda", "device_parameters.preset=fsdp"], None, 4, 4),
        (&["device_parameters.device=cuda", "device_parameters.preset=fsdp"], Some(2), 4, 2),
        (&["device_parameters.device=cuda", "device_parameters.preset=fsdp"], None, 0, 1),
        (&["device_parameters.device=cuda"], None, 4, 1),
        (&["device_parameters.preset=fsdp"], None, 4, 1),
        (
            &[
                "device_parameters.device=cuda",
                "device_parameters.preset=ddp",
                "device_parameters.world_size=2",
            ],
            None,
            4,
            2,
        ),
    ];
    for (sets, launched, gpus, expected) in rows {
        let mut loaded = load_sets(sets).unwrap();
        loaded.gpus = gpus;
        let plan = loaded.resolve(launched).unwrap();
        assert_eq!(plan.device.mesh.world_size(), expected, "{sets:?} {launched:?} {gpus}");
    }
}

#[test]
fn ranks_of_a_launcher_are_processes_that_the_device_can_join() {
    let rows: [(&[&str], Option<usize>, &str); 4] = [
        (&["device_parameters.device=wgpu"], Some(2), "WebGPU cannot join"),
        (&["device_parameters.ranks=threads"], Some(2), "which are the ranks"),
        (&["device_parameters.ranks=processes"], None, "CPU ranks are by `mpirun`"),
        (
            &["device_parameters.device=wgpu", "device_parameters.ranks=processes"],
            None,
            "are started as processes here",
        ),
    ];
    for (sets, launched, expected) in rows {
        let sets = [sets, &["device_parameters.preset=ddp"][..]].concat();
        let text = resolve_sets(&sets, launched).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    for sets in [["device=cuda", "ranks=processes"], ["device=cuda", "ranks=threads"]] {
        let sets = sets.map(|set| format!("device_parameters.{set}"));
        assert!(resolve_sets(&[sets[0].as_str(), &sets[1]], None).is_ok(), "{sets:?}");
    }
}

#[test]
fn errors_of_several_tables_come_together() {
    let sets = [
        "run.group=a/b",
        "optimizer.eps=-1",
        "data.validation_fraction=1",
        "training_parameters.epochs=1",
    ];
    let errors = resolve_sets(&sets, None).unwrap_err();
    assert_eq!(errors.iter().count(), 4, "{errors}");
    assert!(errors.iter().all(|error| !error.places.is_empty()), "{errors}");
}

#[test]
fn the_same_sources_give_the_same_plan() {
    let show = || {
        let loaded = load_sets(&["device_parameters.preset=fsdp"]).unwrap();
        let text = loaded.show(&loaded.resolve(Some(8)).unwrap());
        text.lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(show(), show());
    assert!(load(&dream_trainer::config::Sources::default()).is_err());
}

#[test]
fn what_a_stronger_layer_turns_off_may_stay() {
    // A file, what the command line says, and the key that would be refused in the file.
    let rows = [
        ("[checkpoint]\nenable = true\nevery_n_steps = 2", "checkpoint.enable=false"),
        (
            "[training_parameters]\nval_every_n_steps = 2\nval_steps = 1\n[data]\nvalidation_fraction = 0.5",
            "training_parameters.val_every_n_steps=0",
        ),
        (
            "[training_parameters]\nval_every_n_steps = 2\n[data]\nvalidation_fraction = 0.5",
            "data.validation_fraction=0",
        ),
        (
            "[device_parameters]\ntensor_parallel = 2\nasync_tensor_parallel = true",
            "device_parameters.tensor_parallel=1",
        ),
        (
            "[device_parameters]\npreset = \"fsdp\"\nreshard = \"optimizer\"",
            "device_parameters.preset=ddp",
        ),
        (
            "[device_parameters]\nparam_dtype = \"f16\"\n[device_parameters.grad_scaler]\ninit_scale = 8",
            "device_parameters.param_dtype=f32",
        ),
        ("[lr_scheduler]\nname = \"cosine\"\nmin_lr_factor = 0.1", "lr_scheduler.name=constant"),
        ("[checkpoint]\nenable = true\ninit_from = \"weights\"", "checkpoint.resume=must"),
    ];
    for (file, set) in rows {
        let loaded = load_texts(&[LEAST, file], &[], &[set]).unwrap();
        let plan = loaded.resolve(None).unwrap_or_else(|errors| panic!("{set}: {errors}"));
        // The plan that is shown has nothing that would be refused.
        let shown = loaded.show(&plan);
        let again = load_texts(&[&shown], &[], &[]).unwrap();
        let again_plan = again.resolve(None).unwrap_or_else(|errors| panic!("{shown}\n{errors}"));
        assert_eq!(plan.device, again_plan.device, "{set}");
        assert_eq!(plan.training, again_plan.training, "{set}");
        assert!(shown.contains(", no effect: "), "{shown}");
        // In the same layer it is a contradiction.
        let (key, value) = set.split_once('=').unwrap();
        let (table, key) = key.split_once('.').unwrap();
        let is_toml = format!("{key} = {value}").parse::<toml::Table>().is_ok();
        let value = if is_toml { value.to_owned() } else { format!("\"{value}\"") };
        let mut text: toml::Table = format!("{LEAST}\n").parse().unwrap();
        for (name, keys) in file.parse::<toml::Table>().unwrap() {
            let into = text.entry(name).or_insert_with(|| toml::Table::new().into());
            into.as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
        }
        let value: toml::Table = format!("{key} = {value}").parse().unwrap();
        text[table].as_table_mut().unwrap().extend(value);
        let errors = load_texts(&[&text.to_string()], &[], &[]).unwrap().resolve(None).unwrap_err();
        assert!(errors.to_string().contains("but has no effect: "), "{set}: {errors}");
    }
}

#[test]
fn where_a_run_starts_is_not_turned_off() {
    for key in ["resume = \"must\"", "resume = \"never\"", "resume_step = 4"] {
        let file = format!("[checkpoint]\nenable = true\n{key}");
        let loaded = load_texts(&[LEAST, &file], &[], &["checkpoint.enable=false"]).unwrap();
        let text = loaded.resolve(None).unwrap_err().to_string();
        assert!(text.contains("neither saves nor resumes"), "{key}: {text}");
    }
}

#[test]
fn options_of_a_degree_that_may_be_anything_and_defaults_that_are_written_may_stay() {
    let rows = [
        "[device_parameters]\npreset = \"fsdp\"\nreshard = \"optimizer\"",
        "[device_parameters]\ntensor_parallel = \"auto\"\nasync_tensor_parallel = true\nloss_parallel = false",
        "[checkpoint]\nenable = false\nevery_n_steps = 0\nkeep_latest = 3\nresume = \"auto\"",
        "[lr_scheduler]\nmin_lr_factor = 0",
        "[device_parameters]\nloss_parallel = true\n[device_parameters.pipeline]\nschedule = \"1f1b\"",
    ];
    for file in rows {
        let plan = load_texts(&[LEAST, file], &[], &[]).unwrap().resolve(None);
        let device = plan.unwrap_or_else(|errors| panic!("{file}: {errors}")).device;
        assert!(!device.async_tensor_parallel && device.reshard == Reshard::Parameters);
    }
}
