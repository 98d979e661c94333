//! Names of Llama 3's parameters in Hugging Face checkpoints.
//!
//! Published weights turn the two halves of a head against each other, as our rotary positions do,
//! so rows are never permuted.

use super::Llama3Shape;
use crate::{HfWeight, HfWeights};

/// Maps each parameter path to its place in a Hugging Face checkpoint.
pub fn hf_weights(shape: &Llama3Shape) -> HfWeights {
    let (dim, ffn) = (shape.dim, shape.ffn_dim);
    let (queries, keys) = (shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim);
    let (attention, mlp) = (shape.attention_bias, shape.mlp_bias);
    // Per block: our name, theirs, inputs, outputs, whether there is a bias.
    let linears = [
        ("attention.wq", "self_attn.q_proj", dim, queries, attention),
        ("attention.wk", "self_attn.k_proj", dim, keys, attention),
        ("attention.wv", "self_attn.v_proj", dim, keys, attention),
        ("attention.wo", "self_attn.o_proj", queries, dim, attention),
        ("feed_forward.w1", "mlp.gate_proj", dim, ffn, mlp),
        ("feed_forward.w2", "mlp.down_proj", ffn, dim, mlp),
        ("feed_forward.w3", "mlp.up_proj", dim, ffn, mlp),
    ];
    let norms = [("attention_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
    let mut map = HfWeights::new();
    for layer in 0..shape.num_layers {
        for (ours, theirs, inputs, outputs, bias) in linears {
            let (ours, theirs) =
                (format!("layers.{layer}.{ours}"), format!("model.layers.{layer}.{theirs}"));
            let weight = HfWeight::linear(format!("{theirs}.weight"), inputs, outputs);
            map.insert(format!("{ours}.weight"), weight);
            if bias {
                let bias = HfWeight::plain(format!("{theirs}.bias"), &[outputs]);
                map.insert(format!("{ours}.bias"), bias);
            }
        }
        for (ours, theirs) in norms {
            let name = format!("model.layers.{layer}.{theirs}.weight");
            map.insert(format!("layers.{layer}.{ours}.weight"), HfWeight::plain(name, &[dim]));
        }
    }
    let table = HfWeight::plain("model.embed_tokens.weight", &[shape.vocab_size, dim]);
    map.insert("tok_embeddings.weight".to_owned(), table);
    map.insert("norm.weight".to_owned(), HfWeight::plain("model.norm.weight", &[dim]));
    if !shape.tied_embeddings {
        let head = HfWeight::linear("lm_head.weight", dim, shape.vocab_size);
        map.insert("output.weight".to_owned(), head);
    }
    map
}

/// Tells whether a stored tensor that no parameter maps to may be skipped.
///
/// Old checkpoints store the rotary frequencies, and some tied ones a copy of the embedding as
/// head.
pub fn is_redundant_hf_tensor(shape: &Llama3Shape, name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (shape.tied_embeddings && name == "lm_head.weight")
}
