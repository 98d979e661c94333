//! The rotary fields of a Hugging Face `config.json`, in the old layout (`rope_theta`,
//! `rope_scaling`) and the newer one (`rope_parameters`).

use std::fmt::Display;

use dream_trainer::checkpoint::hf::FieldReader;
use serde_json::json;

use super::{RopeScaling, RopeScalingConfig, RopeType};
use crate::error::{ModelError, unsupported};

/// Base and stretching of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HfRope {
    pub(super) theta: f64,
    pub(super) scaling: Option<RopeScaling>,
}

/// Lengths that the scaling may refer to.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    /// `max_position_embeddings`.
    max_positions: usize,
    /// `original_max_position_embeddings` beside it, as some folders have it.
    original: Option<usize>,
}

impl HfRope {
    /// Reads all rotary fields. What is said twice must be said alike.
    pub(super) fn read(
        fields: &mut FieldReader<'_>,
        max_positions: usize,
    ) -> Result<Self, ModelError> {
        let mut rope: Option<(&str, f64)> = None;
        let mut scaling: Option<Option<RopeScaling>> = None;
        let lengths = Lengths {
            max_positions,
            original: fields.optional("original_max_position_embeddings")?,
        };
        let theta: Option<f64> = fields.optional("rope_theta")?;
        let mut thetas = vec![("rope_theta", theta)];
        for (name, theta) in [
            ("rope_scaling", "rope_scaling.rope_theta"),
            ("rope_parameters", "rope_parameters.rope_theta"),
        ] {
            let Some(mut nested) = fields.nested(name)? else { continue };
            thetas.push((theta, nested.optional("rope_theta")?));
            let found = read_scaling(&mut nested, lengths)?;
            nested.finish()?;
            if scaling.is_some_and(|first| first != found) {
                let shown = |scaling: Option<RopeScaling>| {
                    scaling.map_or_else(|| "none".to_owned(), |scaling| json!(scaling).to_string())
                };
                return Err(contradiction(
                    ("rope_scaling", shown(scaling.flatten())),
                    (name, shown(found)),
                ));
            }
            scaling = Some(found);
        }
        for (name, theta) in thetas {
            let Some(theta) = theta else { continue };
            match rope {
                Some((first, value)) if value != theta => {
                    return Err(contradiction((first, value), (name, theta)));
                }
                _ => rope = Some((name, theta)),
            }
        }
        let theta = rope.map_or(10_000.0, |(_, theta)| theta);
        Ok(Self { theta, scaling: scaling.flatten() })
    }
}

/// Returns the longest sequence that a model is meant for: with `dynamic` scaling
/// `max_position_embeddings` is the length before stretching.
pub(super) fn longest_sequence(max_positions: usize, scaling: Option<&RopeScaling>) -> usize {
    match scaling {
        Some(RopeScaling::Dynamic { factor, .. }) => {
            (max_positions as f64 * factor.max(1.0)) as usize
        }
        _ => max_positions,
    }
}

fn contradiction<A: Display, B: Display>(
    (field, value): (&str, A),
    (other, other_value): (&str, B),
) -> ModelError {
    ModelError::Contradiction {
        field: field.to_owned(),
        value: value.to_string(),
        other: other.to_owned(),
        other_value: other_value.to_string(),
    }
}

fn read_scaling(
    nested: &mut FieldReader<'_>,
    lengths: Lengths,
) -> Result<Option<RopeScaling>, ModelError> {
    let partial: f64 = nested.optional("partial_rotary_factor")?.unwrap_or(1.0);
    if partial != 1.0 {
        return Err(unsupported("partial_rotary_factor", partial, "1"));
    }
    let rope_type = rope_type(nested)?;
    let mut config = RopeScalingConfig { rope_type, ..RopeScalingConfig::default() };
    match rope_type {
        RopeType::Unscaled => {}
        RopeType::Linear => {
            config.factor = Some(nested.required("factor")?);
            // The method has no use for it.
            nested.ignore(&["original_max_position_embeddings"]);
        }
        RopeType::Dynamic => {
            config.factor = Some(nested.required("factor")?);
            let given: Option<usize> = nested.optional("original_max_position_embeddings")?;
            // Hugging Face reads the length of the model here, whatever the table says.
            if let Some(given) = given.filter(|given| *given != lengths.max_positions) {
                return Err(contradiction(
                    ("original_max_position_embeddings", given),
                    ("max_position_embeddings", lengths.max_positions),
                ));
            }
            config.original_max_position_embeddings = Some(lengths.max_positions);
        }
        RopeType::Yarn => {
            let original = original(nested, lengths)?;
            let ratio = || lengths.max_positions as f64 / original as f64;
            config.original_max_position_embeddings = Some(original);
            config.factor = Some(nested.optional("factor")?.unwrap_or_else(ratio));
            read_yarn(nested, &mut config)?;
        }
        RopeType::Llama3 => {
            config.original_max_position_embeddings = Some(original(nested, lengths)?);
            config.factor = Some(nested.required("factor")?);
            config.low_freq_factor = Some(nested.required("low_freq_factor")?);
            config.high_freq_factor = Some(nested.required("high_freq_factor")?);
        }
    }
    config.resolve()
}

fn rope_type(nested: &mut FieldReader<'_>) -> Result<RopeType, ModelError> {
    let legacy: Option<String> = nested.optional("type")?;
    let named: Option<String> = nested.optional("rope_type")?;
    if let (Some(legacy), Some(named)) = (&legacy, &named)
        && legacy != named
    {
        return Err(contradiction(("type", legacy), ("rope_type", named)));
    }
    let all =
        [RopeType::Unscaled, RopeType::Linear, RopeType::Dynamic, RopeType::Yarn, RopeType::Llama3];
    let name = named.or(legacy).unwrap_or_else(|| RopeType::Unscaled.name().to_owned());
    all.into_iter().find(|known| known.name() == name).ok_or_else(|| {
        let known: Vec<String> = all.iter().map(|known| format!("\"{}\"", known.name())).collect();
        unsupported("rope_type", json!(name), &known.join(", "))
    })
}

/// Returns the length before stretching: in the table, beside it, or that of the model.
fn original(nested: &mut FieldReader<'_>, lengths: Lengths) -> Result<usize, ModelError> {
    let inner: Option<usize> = nested.optional("original_max_position_embeddings")?;
    match (inner, lengths.original) {
        (Some(inner), Some(outer)) if inner != outer => Err(contradiction(
            ("original_max_position_embeddings", outer),
            ("rope_scaling.original_max_position_embeddings", inner),
        )),
        (inner, outer) => Ok(inner.or(outer).unwrap_or(lengths.max_positions)),
    }
}

fn read_yarn(
    nested: &mut FieldReader<'_>,
    config: &mut RopeScalingConfig,
) -> Result<(), ModelError> {
    // Says how the weights were made.
    nested.ignore(&["finetuned"]);
    config.attention_factor = nested.optional("attention_factor")?;
    config.beta_fast = nested.optional("beta_fast")?;
    config.beta_slow = nested.optional("beta_slow")?;
    config.truncate = nested.optional("truncate")?;
    let mscales = (nested.optional("mscale")?, nested.optional("mscale_all_dim")?);
    // Hugging Face reads the pair only where it needs it and is given both.
    if let (None, (Some(mscale), Some(all))) = (config.attention_factor, mscales) {
        (config.mscale, config.mscale_all_dim) = (Some(mscale), Some(all));
    }
    Ok(())
}
