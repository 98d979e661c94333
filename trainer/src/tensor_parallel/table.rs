//! A resolved plan as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use super::style::FEATURES;
use super::traffic::Traffic;
use super::{LayerPlacement, ParamPlacement, ResolvedPlan, Style};
use crate::mesh::Placement;
use crate::nn::LayerKind;

/// What a table has beside the layer's path.
const COLUMNS: [&str; 5] = ["style", "in", "out", "forward", "backward"];

impl fmt::Display for ResolvedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let mut widths = COLUMNS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(cell.len());
            }
        }
        let whole: BTreeSet<_> =
            self.replicated.iter().map(|param| (pattern(&param.path), &param.shape)).collect();
        let paths = rows.iter().map(|row| &row.path).chain(whole.iter().map(|(path, _)| path));
        let first = paths.map(String::len).max().unwrap_or(0).max(5);
        let line = |path: &str, cells: &[String; 5], rest: &str| {
            let mut line = format!("{path:first$}");
            // Writing to a string does not fail.
            for (cell, width) in cells.iter().zip(widths) {
                let _ = write!(line, "  {cell:width$}");
            }
            format!("{line}  {rest}").trim_end().to_owned()
        };
        writeln!(f, "{}", line("layer", &COLUMNS.map(str::to_owned), "parameters"))?;
        for row in &rows {
            writeln!(f, "{}", line(&row.path, &row.cells, &row.params))?;
        }
        for (path, shape) in whole {
            writeln!(f, "{path:first$}  whole on every rank {shape:?}")?;
        }
        if self.params().any(|param| param.partial_gradient || param.copies > 1) {
            writeln!(f, "gradients P(sum): one all-reduce each per step")?;
        }
        let (least, most) = (self.local_params(self.degree - 1), self.local_params(0));
        if least == most {
            return write!(f, "parameters per rank: {most}");
        }
        write!(f, "parameters per rank: {least} to {most}")
    }
}

/// One line.
struct Row {
    path: String,
    cells: [String; 5],
    params: String,
    is_head: bool,
}

impl Row {
    fn new(
        layer: &LayerPlacement,
        style: String,
        [takes, gives]: [String; 2],
        traffic: &Traffic,
    ) -> Self {
        let [forward, backward] = [&traffic.forward, &traffic.backward].map(|n| Traffic::cell(n));
        let (path, params) = (layer.path.clone(), String::new());
        Self { path, cells: [style, takes, gives, forward, backward], params, is_head: false }
    }
}

impl ResolvedPlan {
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for layer in &self.layers {
            let (style, params) = (layer.style.to_string(), self.describe(layer));
            let row = Row::new(layer, style, ends(layer), &self.traffic(layer));
            rows.push(Row { params, ..row });
            if let Some(traffic) = self.tied_head(layer) {
                let (style, ends) = ("  as head, if tied".to_owned(), head_ends(&layer.style));
                rows.push(Row { is_head: true, ..Row::new(layer, style, ends, &traffic) });
            }
        }
        joined(rows)
    }

    /// Writes the parameters of a layer: global shape, placement, shape on a rank.
    fn describe(&self, layer: &LayerPlacement) -> String {
        let describe = |param: &ParamPlacement| {
            let name = param.path.rsplit('.').next().unwrap_or(&param.path);
            let mut text = format!("{name} {:?} {}", param.shape, param.placement);
            let [most, least] =
                [0, self.degree - 1].map(|rank| param.local_shape(self.degree, rank));
            if most != param.shape {
                let _ = write!(text, " -> {most:?}");
            }
            if least != most {
                let _ = write!(text, " to {least:?}");
            }
            if param.partial_gradient {
                text += ", gradient P(sum)";
            }
            if param.copies > 1 {
                let _ = write!(text, ", held by {} ranks each, gradient P(sum)", param.copies);
            }
            text
        };
        layer.params.iter().map(describe).collect::<Vec<_>>().join("  ")
    }
}

/// Joins layers that differ in nothing but a number in their path; the others keep theirs.
fn joined(rows: Vec<Row>) -> Vec<Row> {
    let key = |row: &Row| (pattern(&row.path), row.is_head);
    let said = |row: &Row| (row.cells.clone(), row.params.clone());
    let mut alike: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in &rows {
        alike.entry(key(row)).or_default().insert(said(row));
    }
    let mut seen = BTreeSet::new();
    let join = |row: Row| match alike[&key(&row)].len() {
        1 => seen.insert(key(&row)).then(|| Row { path: pattern(&row.path), ..row }),
        _ => Some(row),
    };
    rows.into_iter().filter_map(join).collect()
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
fn ends(layer: &LayerPlacement) -> [String; 2] {
    let (takes, gives) = (layer.style.input().to_string(), layer.style.output().to_string());
    match (layer.style, layer.kind) {
        (_, LayerKind::Embedding) => ["ids".to_owned(), gives],
        (Style::Vocab(_), _) => head_ends(&layer.style),
        _ => [takes, gives],
    }
}

/// Returns what a head takes and how its logits lie.
fn head_ends(style: &Style) -> [String; 2] {
    let loss_parallel = matches!(style, Style::Vocab(style) if style.loss_parallel);
    let logits = if loss_parallel { FEATURES } else { Placement::Replicate };
    [style.input().to_string(), logits.to_string()]
}
