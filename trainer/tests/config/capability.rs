//! What the recipe or the build lacks is refused by name, before anything starts.

use dream_trainer::config::{Availability, Capabilities};

use crate::written::load_sets;

/// Takes something away from a recipe or build that has everything.
type Change = fn(&mut Capabilities);

fn check(sets: &[&str], launched: usize, change: Change) -> String {
    let loaded = load_sets(sets).unwrap();
    let plan = loaded.resolve(Some(launched)).unwrap();
    loaded.require(&plan, &Capabilities::all("mlp")).unwrap();
    let mut supported = Capabilities::all("mlp");
    change(&mut supported);
    loaded
        .require(&plan, &supported)
        .map_or_else(|errors| errors.to_string(), |()| "supported".into())
}

#[test]
fn a_missing_trait_names_setting_trait_and_recipe() {
    let needs = |setting: &str, name: &str| {
        format!(
            "--set device_parameters.{setting}: `device_parameters.{}` needs the setup trait `{name}`, \
             which the recipe `mlp` does not have",
            setting.replace('=', " = ")
        )
    };
    let rows: [(&str, &str, Change); 5] = [
        ("tensor_parallel=2", "ApplyTensorParallel", |s| {
            s.tensor_parallel = Availability::NoTrait;
        }),
        ("context_parallel=2", "ApplyContextParallel", |s| {
            s.context_parallel = Availability::NoTrait;
        }),
        ("pipeline_parallel=2", "ApplyPipelineParallel", |s| {
            s.pipeline_parallel = Availability::NoTrait;
        }),
        ("dp_shard=2", "ApplyFullyShard", |s| {
            s.fully_shard = Availability::NoTrait;
        }),
        ("dp_replicate=2", "ApplyReplicate", |s| {
            s.replicate = Availability::NoTrait;
        }),
    ];
    for (setting, name, change) in rows {
        let set = format!("device_parameters.{setting}");
        assert_eq!(check(&[&set], 2, change), needs(setting, name));
    }
}

#[test]
fn what_the_build_lacks_says_why() {
    let rows: [(&str, &str, Change); 4] = [
        ("device=wgpu", "device = \"wgpu\"", |s| {
            s.wgpu = Availability::NotBuilt("the reason");
        }),
        ("device=cuda", "device = \"cuda\"", |s| {
            s.cuda = Availability::NotBuilt("the reason");
        }),
        ("param_dtype=bf16", "param_dtype = \"bf16\"", |s| {
            s.half_precision = Availability::NotBuilt("the reason");
        }),
        ("activation_checkpointing=full", "activation_checkpointing = \"full\"", |s| {
            s.activation_checkpointing = Availability::NotBuilt("the reason");
        }),
    ];
    for (setting, shown, change) in rows {
        let set = format!("device_parameters.{setting}");
        let expected =
            format!("`device_parameters.{shown}` is not available in this build: the reason");
        assert!(check(&[&set], 1, change).ends_with(&expected));
    }
}

#[test]
fn a_degree_of_the_preset_points_at_the_preset() {
    let text = check(&["device_parameters.preset=fsdp"], 4, |s| {
        s.fully_shard = Availability::NoTrait;
    });
    assert!(
        text.starts_with(
            "--set device_parameters.preset=fsdp: `device_parameters.dp_shard = 4` needs"
        ),
        "{text}"
    );
}

#[test]
fn what_is_not_used_is_not_needed() {
    let text = check(&[], 1, |s| {
        let recipe = s.recipe.clone();
        let no = Availability::NoTrait;
        *s = Capabilities {
            recipe,
            replicate: no,
            fully_shard: no,
            tensor_parallel: no,
            async_tensor_parallel: no,
            context_parallel: no,
            pipeline_parallel: no,
            activation_checkpointing: no,
            half_precision: no,
            wgpu: no,
            cuda: no,
            cpu_offload: no,
            compile: no,
        };
    });
    assert_eq!(text, "supported");
}
