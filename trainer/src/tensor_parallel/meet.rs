//! Whether the layouts of layers that follow each other meet.

use std::collections::BTreeMap;

use super::pattern::{captures, nearest};
use super::{Plan, Style, TensorParallelError};
use crate::mesh::Placement;
use crate::nn::{LayerEntry, LayerKind};

/// A layer in a flow: its path and what the `*` of the pattern stood for.
type Matched<'a> = (&'a str, Vec<&'a str>);

/// Compares what each layer of a flow gives with what the next one takes.
pub(super) fn check_flows(
    plan: &Plan,
    layers: &BTreeMap<String, LayerEntry>,
    styled: &BTreeMap<&str, Style>,
) -> Result<(), TensorParallelError> {
    // A boundary without a style changes nothing and cannot disagree with a neighbor.
    let matters =
        |path: &str| styled.contains_key(path) || layers[path].kind != LayerKind::Boundary;
    for flow in &plan.flows {
        let mut before: Option<Vec<Matched<'_>>> = None;
        for pattern in flow {
            let matching: Vec<Matched<'_>> = layers
                .keys()
                .filter_map(|path| Some((path.as_str(), captures(pattern, path)?)))
                .collect();
            if matching.is_empty() {
                let nearest = nearest(pattern, layers.keys().map(String::as_str));
                return Err(TensorParallelError::UnknownPath { pattern: pattern.clone(), nearest });
            }
            if !matching.iter().any(|(path, _)| matters(path)) {
                continue;
            }
            for (from, to) in before.iter().flat_map(|before| pairs(before, &matching)) {
                let (gives, takes) = (gives(from, styled), takes(to, layers, styled));
                if gives != takes {
                    let (from, to) = (from.to_owned(), to.to_owned());
                    return Err(TensorParallelError::LayoutsDoNotMeet { from, gives, to, takes });
                }
            }
            before = Some(matching);
        }
    }
    Ok(())
}

/// Pairs layers whose `*` stand for the same segments, or all where one side has none.
fn pairs<'a>(before: &[Matched<'a>], after: &[Matched<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut pairs = Vec::new();
    for (from, left) in before {
        for (to, right) in after {
            if left.is_empty() || right.is_empty() || left == right {
                pairs.push((*from, *to));
            }
        }
    }
    pairs
}

fn gives(path: &str, styled: &BTreeMap<&str, Style>) -> Placement {
    styled.get(path).map_or(Placement::Replicate, Style::output)
}

fn takes(
    path: &str,
    layers: &BTreeMap<String, LayerEntry>,
    styled: &BTreeMap<&str, Style>,
) -> Placement {
    match styled.get(path) {
        Some(Style::Vocab(style)) if layers[path].kind == LayerKind::Linear => style.head_input,
        Some(style) => style.input(),
        None => Placement::Replicate,
    }
}
