//! What an attention admits: which keys each query sees, and the scale of the scores.

use burn::tensor::{Int, Tensor};

/// Says which keys each query sees.
///
/// Positions are global: `query_offset` and `key_offset` say where the given blocks begin, so that a block of a longer
/// sequence masks exactly as the whole would. The default is full attention.
#[derive(Debug, Clone, Default)]
pub struct AttentionOptions {
    /// Admits only keys at or before the query's position.
    pub causal: bool,
    /// Admits only keys less than this many positions away from the query: the query itself and `window - 1` before it
    /// (and as many after it, without `causal`).
    pub window: Option<usize>,
    /// Multiplies the scores; `1 / sqrt(head_dim)` by default.
    pub scale: Option<f64>,
    /// Document of each query, `[batch, queries]`; attention stays within a document.
    pub documents: Option<Tensor<2, Int>>,
    /// Document of each key, `[batch, keys]`; the queries' documents by default.
    pub key_documents: Option<Tensor<2, Int>>,
    /// Position of the first query.
    pub query_offset: usize,
    /// Position of the first key.
    pub key_offset: usize,
}

impl AttentionOptions {
    /// Returns causal attention over one sequence.
    pub fn causal() -> Self {
        Self { causal: true, ..Self::default() }
    }

    pub(crate) fn scale(&self, head_dim: usize) -> f64 {
        self.scale.unwrap_or_else(|| 1.0 / (head_dim as f64).sqrt())
    }

    pub(crate) fn check(&self, q: [usize; 4], k: [usize; 4], v: [usize; 4]) {
        assert_eq!(k, v, "keys and values must have one shape");
        assert_eq!(
            (q[0], q[3]),
            (k[0], k[3]),
            "queries and keys must agree in batch and head size"
        );
        assert!(
            k[2] > 0 && q[2].is_multiple_of(k[2]),
            "key-value heads must divide the query heads"
        );
        let keys_have_documents = self.key_documents.is_some() || q[1] == k[1];
        assert!(
            self.documents.is_none() || keys_have_documents,
            "`key_documents` is required when the keys are not those of the queries"
        );
    }
}
