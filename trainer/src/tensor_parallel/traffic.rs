//! Where a plan communicates, in words.

use super::style::{FEATURES, SEQUENCE};
use super::{LayerPlacement, ResolvedPlan, Style};
use crate::mesh::Placement;
use crate::nn::LayerKind;

/// The collectives of a layer, forward and backward.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) forward: Vec<&'static str>,
    pub(super) backward: Vec<&'static str>,
}

impl Traffic {
    fn then(mut self, [forward, backward]: [Option<&'static str>; 2]) -> Self {
        self.forward.extend(forward);
        // Backward takes the way back.
        self.backward.splice(..0, backward);
        self
    }

    /// Writes one direction in a cell of a table.
    pub(super) fn cell(names: &[&str]) -> String {
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    }
}

/// Names the collectives that bring a tensor from one layout to another, where every rank computes
/// something of its own from a replicated result (`distinct`) or all compute the same.
fn change(from: Placement, to: Placement, distinct: bool) -> [Option<&'static str>; 2] {
    use Placement::{Partial, Replicate, Shard};
    match (from, to) {
        (Replicate, Replicate) => [None, distinct.then_some("all-reduce")],
        (Replicate, Shard(_)) => [None, Some("all-gather")],
        (Replicate | Shard(_) | Partial(_), Partial(_)) => [None, None],
        (Shard(_), Replicate) => [Some("all-gather"), distinct.then_some("reduce-scatter")],
        (Shard(from), Shard(to)) if from == to => [None, None],
        (Shard(_), Shard(_)) => [Some("all-to-all"), Some("all-to-all")],
        (Partial(_), Replicate) => [Some("all-reduce"), distinct.then_some("all-reduce")],
        (Partial(_), Shard(_)) => [Some("reduce-scatter"), Some("all-gather")],
    }
}

/// Brings terms of a sum to a layout.
fn sum(to: Placement) -> [Option<&'static str>; 2] {
    change(Placement::Partial(crate::mesh::ReduceKind::Sum), to, false)
}

impl ResolvedPlan {
    /// Lists the collectives of a layer; of a table of embeddings those of the lookup.
    pub(super) fn traffic(&self, layer: &LayerPlacement) -> Traffic {
        let traffic = Traffic::default();
        let features = |to| change(FEATURES, to, false);
        match (layer.style, layer.kind) {
            (Style::Colwise(style), LayerKind::Embedding) => traffic.then(features(style.output)),
            (Style::Colwise(style), _) => {
                let entered = layer.prepared && style.input == Placement::Replicate;
                let enter = change(style.input, Placement::Replicate, true);
                traffic.then(if entered { [None; 2] } else { enter }).then(features(style.output))
            }
            (Style::Rowwise(style), LayerKind::Embedding) => traffic.then(sum(style.output)),
            (Style::Rowwise(style), _) => {
                let enter = change(style.input, FEATURES, false);
                traffic.then(enter).then(sum(style.output))
            }
            (Style::Vocab(style), LayerKind::Embedding) => traffic.then(sum(style.output)),
            (Style::Vocab(_), _) => head(layer.style),
            (Style::Sequence(_), LayerKind::Embedding) => traffic,
            (Style::Sequence(style), _) => traffic.then(change(style.input, SEQUENCE, false)),
            (Style::Input(style), _) => {
                let mut traffic = traffic.then(change(style.input, style.desired, true));
                let gathers = (style.input, style.desired) == (SEQUENCE, Placement::Replicate);
                if gathers && self.overlap && self.can_overlap(layer) {
                    // Only the own part is kept for the gradients of the weights.
                    traffic.backward.insert(0, "all-gather");
                }
                traffic
            }
            (Style::Output(style), _) => traffic.then(change(style.output, style.desired, false)),
        }
    }

    /// Lists the collectives of a table of embeddings that is also the head; nothing if it is not.
    pub(super) fn tied_head(&self, layer: &LayerPlacement) -> Option<Traffic> {
        let is_vocabulary = |layer: &LayerPlacement| matches!(layer.style, Style::Vocab(_));
        let has_head =
            |other: &LayerPlacement| other.kind == LayerKind::Linear && is_vocabulary(other);
        let tied = layer.kind == LayerKind::Embedding
            && is_vocabulary(layer)
            && !self.layers.iter().any(has_head);
        tied.then(|| head(layer.style))
    }
}

/// Lists the collectives of an output projection and the loss over it.
fn head(style: Style) -> Traffic {
    let Style::Vocab(style) = style else { return Traffic::default() };
    let entered = Traffic::default().then(change(style.head_input, Placement::Replicate, true));
    if style.loss_parallel {
        entered.then([Some("3 all-reduces of a number per token"), None])
    } else {
        entered.then(change(FEATURES, Placement::Replicate, false))
    }
}
