//! A Llama 3 shape from a Hugging Face `config.json`.

use std::path::Path;

use dream_trainer::checkpoint::hf::{FieldReader, HARMLESS_FIELDS, HfDirectory};
use serde_json::{Value, json};

use super::{Llama3Shape, RopeScaling};
use crate::error::{ModelError, divided, unsupported};

impl Llama3Shape {
    /// Reads the `config.json` of a Hugging Face folder, whose weight files must be there too.
    pub fn from_hf_dir(dir: &Path) -> Result<Self, ModelError> {
        Self::from_hf(HfDirectory::open(dir)?.config())
    }

    /// Reads a Hugging Face `config.json`.
    ///
    /// Fields that are absent take the defaults of Hugging Face's `LlamaConfig`.
    ///
    /// # Errors
    ///
    /// Fails on other architectures, on values this model does not compute exactly, and on fields
    /// not known to be harmless.
    pub fn from_hf(config: &Value) -> Result<Self, ModelError> {
        let mut fields = FieldReader::new(config)?;
        refuse_variants(&mut fields)?;
        let (rope_theta, rope_scaling) = rope(&mut fields)?;
        let dim = fields.required("hidden_size")?;
        let num_heads = fields.required("num_attention_heads")?;
        let num_kv_heads = fields.optional("num_key_value_heads")?.unwrap_or(num_heads);
        let head_dim = match fields.optional("head_dim")? {
            Some(head_dim) => head_dim,
            None => divided("hidden_size", dim, "num_attention_heads", num_heads)?,
        };
        let shape = Self {
            dim,
            num_layers: fields.required("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            ffn_dim: fields.required("intermediate_size")?,
            vocab_size: fields.required("vocab_size")?,
            rope_theta,
            rope_scaling,
            max_seq_len: fields.optional("max_position_embeddings")?.unwrap_or(2048),
            norm_eps: fields.optional("rms_norm_eps")?.unwrap_or(1e-6),
            tied_embeddings: fields.optional("tie_word_embeddings")?.unwrap_or(false),
        };
        fields.ignore(&HARMLESS_FIELDS);
        fields.finish()?;
        shape.validate()?;
        Ok(shape)
    }
}

/// Refuses other architectures, and switches of this one that change what it computes.
fn refuse_variants(fields: &mut FieldReader<'_>) -> Result<(), ModelError> {
    let model_type: String = fields.required("model_type")?;
    if model_type != "llama" {
        return Err(unsupported("model_type", json!(model_type), "\"llama\""));
    }
    fields.only("architectures", &json!(["LlamaForCausalLM"]))?;
    fields.only("attention_bias", &json!(false))?;
    fields.only("mlp_bias", &json!(false))?;
    fields.only("pretraining_tp", &json!(1))?;
    fields.only("hidden_act", &json!("silu"))?;
    let dropout: f64 = fields.optional("attention_dropout")?.unwrap_or(0.0);
    if dropout != 0.0 {
        return Err(unsupported("attention_dropout", dropout, "0"));
    }
    Ok(())
}

/// Reads base and stretching of the rotary frequencies, in the old layout (`rope_theta`,
/// `rope_scaling`) or the newer one (`rope_parameters`).
fn rope(fields: &mut FieldReader<'_>) -> Result<(f64, Option<RopeScaling>), ModelError> {
    let theta = fields.optional("rope_theta")?;
    let old = fields.nested("rope_scaling")?;
    let newer = fields.nested("rope_parameters")?;
    if newer.is_some() && (old.is_some() || theta.is_some()) {
        let fixed_by = if theta.is_some() { "rope_theta" } else { "rope_scaling" };
        return Err(ModelError::FixedBy { key: "rope_parameters", fixed_by });
    }
    let Some(mut nested) = newer.or(old) else {
        return Ok((theta.unwrap_or(10_000.0), None));
    };
    let inner_theta = nested.optional("rope_theta")?;
    let scaling = rope_scaling(&mut nested)?;
    nested.finish()?;
    Ok((theta.or(inner_theta).unwrap_or(10_000.0), scaling))
}

fn rope_scaling(nested: &mut FieldReader<'_>) -> Result<Option<RopeScaling>, ModelError> {
    let legacy: Option<String> = nested.optional("type")?;
    let kind = match legacy {
        Some(kind) => nested.optional("rope_type")?.unwrap_or(kind),
        None => nested.required("rope_type")?,
    };
    match kind.as_str() {
        "default" => Ok(None),
        "llama3" => Ok(Some(RopeScaling {
            factor: nested.required("factor")?,
            low_freq_factor: nested.required("low_freq_factor")?,
            high_freq_factor: nested.required("high_freq_factor")?,
            original_max_position_embeddings: nested
                .required("original_max_position_embeddings")?,
        })),
        other => Err(unsupported("rope_type", json!(other), "\"default\" or \"llama3\"")),
    }
}
