//! `--cfg`: the plan as TOML with origins, which loads to the same plan again.

use crate::written::load_texts;

const TEXT: &str = "\
[device_parameters]
preset = \"fsdp\"
tensor_parallel = 2
pipeline_parallel = 2

[training_parameters]
steps = 20
global_batch_size = 32
micro_batch_size = 4

[model]
name = \"mlp\"
width = 64
\"odd key\" = [1, 2.5, { a = \"b\" }]

[model.nested]
depth = 2

[[optimizer.param_groups]]
pattern = \"norm|bias$\"
weight_decay = 0.0
";

fn show(
    texts: &[&str],
    variables: &[(&str, &str)],
    sets: &[&str],
    launched: Option<usize>,
) -> String {
    let loaded = load_texts(texts, variables, sets).unwrap();
    loaded.show(&loaded.resolve(launched).unwrap())
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let variables = [("DREAM_TRAIN_OPTIMIZER__LR", "1e-3")];
    let text = show(&[TEXT], &variables, &["run.seed=7"], Some(16));
    // Files of tests lie in a folder with a random name.
    let without_folder = text.lines().map(|line| match (line.find("# "), line.rfind('/')) {
        (Some(origin), Some(slash)) if slash > origin => {
            let words = if line.contains("the name of") { "derived from the name of " } else { "" };
            format!("{}# {words}{}\n", &line[..origin], &line[slash + 1..])
        }
        _ => format!("{line}\n"),
    });
    insta::with_settings!({prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("cfg", without_folder.collect::<String>());
    });
}

#[test]
fn the_shown_plan_loads_to_itself() {
    let rows: [(&[&str], Option<usize>); 5] = [
        (&[], Some(8)),
        (&["device_parameters.preset=ddp"], Some(16)),
        (&["device_parameters.preset=hsdp", "device_parameters.dp_shard=2"], Some(16)),
        (&["run.project=a \"b\" = [c] # d", "data.source=text", "data.files=[\"*.md\"]"], Some(8)),
        (
            &["optimizer.name=sgd", "run.project=\"two\\nlines \\u007f\"", "lr_scheduler.name=wsd"],
            Some(8),
        ),
    ];
    let values = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        table
    };
    for (sets, launched) in rows {
        let first = show(&[TEXT], &[], sets, launched);
        let second = show(&[&first], &[], &[], launched);
        assert_eq!(values(&first), values(&second), "{sets:?}");
    }
}

#[test]
fn auto_is_shown_as_the_number_it_stands_for() {
    let text = show(&[TEXT], &[], &[], Some(16));
    for line in [
        "dp_shard = 4 ",
        "world_size = 16 ",
        "gradient_accumulation_steps = 2 ",
        "num_microbatches = 4 ",
    ] {
        assert!(text.lines().any(|shown| shown.starts_with(line)), "{line} in\n{text}");
    }
}
