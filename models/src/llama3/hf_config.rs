//! A Llama 3 shape from a Hugging Face `config.json`.

use std::path::Path;

use dream_trainer::checkpoint::hf::{FieldReader, HARMLESS_FIELDS, HfDirectory};
use serde_json::{Value, json};

use super::Llama3Shape;
use super::hf_rope::{HfRope, longest_sequence};
use crate::error::{ModelError, divided, unsupported};

/// Fields of Llama folders that say how the file was made, and that no version of Hugging Face's
/// Llama reads.
const BOOKKEEPING: [&str; 2] = ["is_llama_config", "max_sequence_length"];

impl Llama3Shape {
    /// Reads the `config.json` of a Hugging Face folder, whose weight files must be there too.
    pub fn from_hf_dir(dir: &Path) -> Result<Self, ModelError> {
        Self::from_hf(HfDirectory::open(dir)?.config())
    }

    /// Reads a Hugging Face `config.json`: the shape of the model that the folder describes.
    ///
    /// Fields that are absent or null take the defaults of Hugging Face's `LlamaConfig`. A field
    /// that changes no number of the forward pass may have any value
    /// ([`HARMLESS_FIELDS`] and names that begin with `_` or `unsloth_`); one that does must have a
    /// value that is computed exactly here; one that is not known may do either, and is refused.
    ///
    /// # Errors
    ///
    /// Fails on other architectures, on values this model does not compute exactly, and on fields
    /// not known to be harmless, each with its name and value.
    pub fn from_hf(config: &Value) -> Result<Self, ModelError> {
        let mut fields = FieldReader::new(config)?;
        refuse_variants(&mut fields)?;
        let dim = fields.required("hidden_size")?;
        let num_heads = fields.required("num_attention_heads")?;
        let num_kv_heads = fields.optional("num_key_value_heads")?.unwrap_or(num_heads);
        let head_dim = match fields.optional("head_dim")? {
            Some(head_dim) => head_dim,
            None => divided("hidden_size", dim, "num_attention_heads", num_heads)?,
        };
        let max_positions = fields.optional("max_position_embeddings")?.unwrap_or(2048);
        let HfRope { theta, scaling } = HfRope::read(&mut fields, max_positions)?;
        let shape = Self {
            dim,
            num_layers: fields.required("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            ffn_dim: fields.required("intermediate_size")?,
            vocab_size: fields.required("vocab_size")?,
            rope_theta: theta,
            rope_scaling: scaling,
            max_seq_len: longest_sequence(max_positions, scaling.as_ref()),
            norm_eps: fields.optional("rms_norm_eps")?.unwrap_or(1e-6),
            tied_embeddings: fields.optional("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: fields.optional("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.optional("mlp_bias")?.unwrap_or(false),
        };
        fields.ignore(&HARMLESS_FIELDS);
        fields.ignore(&BOOKKEEPING);
        fields.ignore_prefixed(&["_", "unsloth_"]);
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
    refuse_other_heads(fields)?;
    fields.only("pretraining_tp", &json!(1))?;
    fields.one_of("hidden_act", &[json!("silu"), json!("swish")])?;
    fields.only("rope_interleaved", &json!(false))?;
    fields.only("use_sliding_window", &json!(false))?;
    fields.only("add_cross_attention", &json!(false))?;
    fields.only("is_encoder_decoder", &json!(false))?;
    fields.only("pruned_heads", &json!({}))?;
    for (field, supported) in [("attention_dropout", 0.0), ("partial_rotary_factor", 1.0)] {
        let value: f64 = fields.optional(field)?.unwrap_or(supported);
        if value != supported {
            return Err(unsupported(field, value, &supported.to_string()));
        }
    }
    let layers: Vec<String> = fields.optional("layer_types")?.unwrap_or_default();
    if layers.iter().any(|layer| layer != "full_attention") {
        return Err(unsupported("layer_types", json!(layers), "\"full_attention\" in every layer"));
    }
    Ok(())
}

/// Accepts the name of the causal language model however a library writes it, such as
/// `LLaMAForCausalLM` of the first conversions or `FSDPLlamaForCausalLM` of a sharded run.
fn refuse_other_heads(fields: &mut FieldReader<'_>) -> Result<(), ModelError> {
    let names: Vec<String> = fields.optional("architectures")?.unwrap_or_default();
    let is_causal = |name: &String| name.to_lowercase().ends_with("llamaforcausallm");
    if names.iter().all(is_causal) {
        return Ok(());
    }
    Err(unsupported("architectures", json!(names), "[\"LlamaForCausalLM\"]"))
}
