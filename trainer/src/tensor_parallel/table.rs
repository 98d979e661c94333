//! A resolved plan as a table.

use std::collections::BTreeSet;
use std::fmt;

use super::style::FEATURES;
use super::{LayerPlacement, ResolvedPlan, Style};
use crate::mesh::Placement;
use crate::nn::LayerKind;

impl fmt::Display for ResolvedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = rows(&self.layers);
        let width = rows.iter().map(|row| row.path.len()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:19}  {:4}  {:4}  parameters", "layer", "style", "in", "out")?;
        for Row { path, layer, .. } in &rows {
            let (takes, gives) = ends(layer);
            write!(f, "{path:width$}  {:19}  {takes:4}  {gives}", layer.style)?;
            for (i, param) in layer.params.iter().enumerate() {
                let gap = if i == 0 { 6_usize.saturating_sub(gives.len()) } else { 2 };
                let name = param.path.rsplit('.').next().unwrap_or(&param.path);
                let partial = if param.partial_gradient { ", gradient P(sum)" } else { "" };
                write!(f, "{:gap$}{name} {:?} {}{partial}", "", param.shape, param.placement)?;
            }
            writeln!(f)?;
        }
        let whole: BTreeSet<_> =
            self.replicated.iter().map(|param| (pattern(&param.path), &param.shape)).collect();
        for (path, shape) in whole {
            writeln!(f, "{path:width$}  whole on every rank {shape:?}")?;
        }
        write!(
            f,
            "parameters per rank: {} to {}",
            self.local_params(self.degree - 1),
            self.local_params(0)
        )
    }
}

/// Layers that differ in nothing but a number in their path.
struct Row<'a> {
    path: String,
    layer: &'a LayerPlacement,
}

fn rows(layers: &[LayerPlacement]) -> Vec<Row<'_>> {
    let alike = |a: &LayerPlacement, b: &LayerPlacement| {
        let params = |layer: &LayerPlacement| {
            layer
                .params
                .iter()
                .map(|param| (param.shape.clone(), param.placement))
                .collect::<Vec<_>>()
        };
        a.style == b.style && a.kind == b.kind && params(a) == params(b)
    };
    let mut rows: Vec<Row<'_>> = Vec::new();
    for layer in layers {
        let path = pattern(&layer.path);
        match rows.iter().find(|row| row.path == path) {
            Some(row) if alike(row.layer, layer) => {}
            Some(_) => rows.push(Row { path: layer.path.clone(), layer }),
            None => rows.push(Row { path, layer }),
        }
    }
    rows
}

/// Writes `*` for the numbers in a path.
fn pattern(path: &str) -> String {
    let number =
        |segment: &str| !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    path.split('.')
        .map(|segment| if number(segment) { "*" } else { segment })
        .collect::<Vec<_>>()
        .join(".")
}

/// Returns what a layer takes and gives; ids and logits are no hidden states.
fn ends(layer: &LayerPlacement) -> (String, String) {
    let (takes, gives) = (layer.style.input().to_string(), layer.style.output().to_string());
    match (layer.style, layer.kind) {
        (_, LayerKind::Embedding) => ("ids".to_owned(), gives),
        (Style::Vocab(style), _) => {
            let logits = if style.loss_parallel { FEATURES } else { Placement::Replicate };
            (takes, logits.to_string())
        }
        _ => (takes, gives),
    }
}
