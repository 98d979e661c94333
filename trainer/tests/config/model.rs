//! The `[model]` table is read by the recipe, as strictly as the trainer's own tables.

use dream_trainer::config::{
    ConfigErrors, ModelSchemas, file_schema, model_schema, reference_page,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::written::{load_texts, plain};

/// Keys of a recipe made up for these tests.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mlp {
    /// Neurons of a layer.
    #[schemars(range(min = 1))]
    width: usize,
    /// Activation between layers.
    #[serde(default)]
    activation: Activation,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Activation {
    #[default]
    Gelu,
    Relu,
}

fn parse(keys: &str) -> Result<Mlp, ConfigErrors> {
    let text = format!("[model]\nname = \"mlp\"\n{keys}\n[training_parameters]\nsteps = 1\n");
    load_texts(&[&text], &[], &[]).unwrap().config.model.parse()
}

#[test]
fn the_recipe_gets_its_keys_without_the_name() {
    assert_eq!(
        parse("width = 8\nactivation = \"relu\"").unwrap(),
        Mlp { width: 8, activation: Activation::Relu }
    );
    assert_eq!(parse("width = 8").unwrap(), Mlp { width: 8, activation: Activation::Gelu });
}

#[test]
fn faults_of_the_recipes_keys_name_place_and_what_is_allowed() {
    let rows = [
        ("width = 8\nwidht = 3", "4:1: unknown key `model.widht`"),
        ("width = \"wide\"", "3:1: `model.width` is \"wide\" but must be an integer of at least 1"),
        ("width = 0", "3:1: `model.width` is 0 but must be an integer of at least 1"),
        ("", "1:2: `model.width` is missing: it must be an integer of at least 1"),
        (
            "width = 1\nactivation = \"gely\"",
            "4:1: `model.activation` is \"gely\" but must be one of `\"gelu\"`, `\"relu\"`",
        ),
    ];
    for (keys, expected) in rows {
        let errors = parse(keys).unwrap_err();
        assert!(errors.to_string().contains(expected), "{errors}");
    }
    let text = plain(&parse("width = 8\nwidht = 3").unwrap_err());
    assert!(text.contains("did you mean `width`?"), "{text}");
}

#[test]
fn a_recipe_can_refuse_a_value_at_its_place() {
    let text = "[model]\nname = \"mlp\"\nwidth = 7\n[training_parameters]\nsteps = 1\n";
    let loaded = load_texts(&[text], &[], &[]).unwrap();
    let error = loaded.config.model.refuse("width", "it must be even").to_string();
    assert!(error.ends_with("3:1: `model.width` is 7: it must be even"), "{error}");
    let error = loaded.config.model.unknown_name(&["gpt", "llama3"]).to_string();
    assert!(
        error.ends_with("2:1: `model.name` is \"mlp\" but must be one of `\"gpt\"`, `\"llama3\"`"),
        "{error}"
    );
}

#[test]
fn the_schema_and_the_reference_hold_the_recipes() {
    let models = ModelSchemas::from([("mlp".to_owned(), model_schema::<Mlp>())]);
    let schema = file_schema(&models);
    let model = &schema["properties"]["model"]["oneOf"][0];
    assert_eq!(model["properties"]["name"]["const"], "mlp");
    assert_eq!(model["properties"]["width"]["minimum"], 1);
    assert!(schema["$defs"]["Activation"].is_object());
    let page = reference_page(&models);
    let row = "| `width` | an integer of at least 1 | required | Neurons of a layer. |";
    assert!(page.contains(row) && page.contains("`[model]` with `name = \"mlp\"`"), "{page}");
}
