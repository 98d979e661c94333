//! Checking a plan against a model: what each layer does and which block of each parameter a rank
//! will hold.

use std::collections::BTreeMap;

use super::meet::check_flows;
use super::pattern::{captures, nearest};
use super::style::{FEATURES, SEQUENCE};
use super::{Plan, Style, TensorParallelError};
use crate::mesh::{Placement, shard_range};
use crate::nn::{LayerEntry, LayerKind, ParamSpec};

/// How a parameter will lie over the tensor-parallel ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamPlacement {
    /// Dotted path.
    pub path: String,
    /// Global shape.
    pub shape: Vec<usize>,
    /// `S(dim)` or `R`.
    pub placement: Placement,
    /// Whether the gradient is a term per rank although the parameter is whole.
    pub partial_gradient: bool,
    /// Neighboring ranks that hold the same part, whose gradients are terms; 1 where each rank has
    /// a part of its own.
    pub copies: usize,
}

impl ParamPlacement {
    /// Returns the shape that rank `index` of `degree` holds.
    pub fn local_shape(&self, degree: usize, index: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Placement::Shard(dim) = self.placement {
            shape[dim] = shard_range(shape[dim], degree / self.copies, index / self.copies).len();
        }
        shape
    }

    /// Returns the number of elements that rank `index` of `degree` holds.
    pub fn local_elements(&self, degree: usize, index: usize) -> usize {
        self.local_shape(degree, index).iter().product()
    }
}

/// What a layer does under a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlacement {
    /// Dotted path.
    pub path: String,
    /// What it is.
    pub kind: LayerKind,
    /// Its style.
    pub style: Style,
    /// Whether a module above it sums the gradient of its input.
    pub prepared: bool,
    /// Its parameters.
    pub params: Vec<ParamPlacement>,
}

/// A plan that fits a model. Displayed, it is a table with one row for layers that repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPlan {
    /// Number of tensor-parallel ranks.
    pub degree: usize,
    /// Whether products run while parts of their inputs or outputs travel.
    pub overlap: bool,
    /// Layers with a style, in the order of the plan.
    pub layers: Vec<LayerPlacement>,
    /// Parameters without a style: whole on every rank.
    pub replicated: Vec<ParamPlacement>,
}

impl ResolvedPlan {
    /// Iterates over all parameters of the model.
    pub fn params(&self) -> impl Iterator<Item = &ParamPlacement> {
        self.layers.iter().flat_map(|layer| &layer.params).chain(&self.replicated)
    }

    /// Tells whether the products of a layer can run while parts of their input or output travel:
    /// those that enter a module only if every layer that reads the input leaves its output split.
    pub(super) fn can_overlap(&self, layer: &LayerPlacement) -> bool {
        let reads = |other: &&LayerPlacement| other.prepared && parent(&other.path) == layer.path;
        let keeps_features = |other: &LayerPlacement| other.style.output() == FEATURES;
        !matches!(layer.style, Style::Input(_))
            || self.layers.iter().filter(reads).all(keeps_features)
    }

    /// Returns the number of parameters that rank `index` holds.
    pub fn local_params(&self, index: usize) -> usize {
        self.params().map(|param| param.local_elements(self.degree, index)).sum()
    }
}

/// Checks a plan against the registered layers and parameters of a model.
pub(super) fn resolve(
    plan: &Plan,
    layers: &BTreeMap<String, LayerEntry>,
    specs: &BTreeMap<String, ParamSpec>,
    degree: usize,
    overlap: bool,
) -> Result<ResolvedPlan, TensorParallelError> {
    let (mut styled, mut order) = (BTreeMap::new(), Vec::new());
    for (pattern, style) in &plan.rules {
        let matching: Vec<_> =
            layers.keys().filter(|path| captures(pattern, path).is_some()).collect();
        if matching.is_empty() {
            let nearest = nearest(pattern, layers.keys().map(String::as_str));
            return Err(TensorParallelError::UnknownPath { pattern: pattern.clone(), nearest });
        }
        for path in matching {
            order.push(path.as_str());
            if let Some(first) = styled.insert(path.as_str(), *style) {
                let first: Style = first;
                let (first, second) = (first.to_string(), style.to_string());
                return Err(TensorParallelError::Conflict { path: path.clone(), first, second });
            }
        }
    }
    let mut resolved = Vec::new();
    for path in order {
        let style = styled[path];
        let prepared = takes_prepared_input(path, &style, &styled);
        let layer = Layer { path, kind: layers[path].kind, style, degree };
        resolved.push(LayerPlacement {
            path: path.to_owned(),
            kind: layer.kind,
            style,
            prepared,
            params: layer.params(specs)?,
        });
    }
    check_flows(plan, layers, &styled)?;
    let replicated = uncovered(layers, specs, &styled)?;
    Ok(ResolvedPlan { degree, overlap, layers: resolved, replicated })
}

/// Returns the path of the module directly above.
fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn takes_prepared_input(path: &str, style: &Style, styled: &BTreeMap<&str, Style>) -> bool {
    let prepares = matches!(styled.get(parent(path)), Some(Style::Input(prepare)) if prepare.desired == Placement::Replicate);
    prepares && matches!(style, Style::Colwise(style) if style.input == Placement::Replicate)
}

/// Lists the parameters of layers without a style. Where the sequence is split there must be none,
/// and no dropout either.
fn uncovered(
    layers: &BTreeMap<String, LayerEntry>,
    specs: &BTreeMap<String, ParamSpec>,
    styled: &BTreeMap<&str, Style>,
) -> Result<Vec<ParamPlacement>, TensorParallelError> {
    let splits_sequence =
        styled.values().any(|style| style.input() == SEQUENCE || style.output() == SEQUENCE);
    let has_own_masks = |(path, layer): &(&String, &LayerEntry)| {
        layer.kind == LayerKind::Dropout && !styled.contains_key(path.as_str())
    };
    if let Some((path, _)) = layers.iter().find(has_own_masks).filter(|_| splits_sequence) {
        return Err(TensorParallelError::OtherMasks { path: path.clone() });
    }
    let mut replicated = Vec::new();
    for (path, spec) in specs {
        let owner = parent(path);
        if styled.contains_key(owner) {
            continue;
        }
        if splits_sequence {
            let path = if layers.contains_key(owner) { owner } else { path };
            return Err(TensorParallelError::Uncovered { path: path.to_owned() });
        }
        replicated.push(ParamPlacement {
            path: path.clone(),
            shape: spec.shape.clone(),
            placement: Placement::Replicate,
            partial_gradient: false,
            copies: 1,
        });
    }
    Ok(replicated)
}

/// One layer under check.
struct Layer<'a> {
    path: &'a str,
    kind: LayerKind,
    style: Style,
    degree: usize,
}

impl Layer<'_> {
    fn params(
        &self,
        specs: &BTreeMap<String, ParamSpec>,
    ) -> Result<Vec<ParamPlacement>, TensorParallelError> {
        self.check_layouts()?;
        let mut params = Vec::new();
        for name in ["weight", "bias"] {
            let path = if self.path.is_empty() {
                name.to_owned()
            } else {
                format!("{}.{name}", self.path)
            };
            let Some(spec) = specs.get(&path) else { continue };
            let (placement, partial_gradient) = self.placement(name)?;
            let (shape, copies) = (spec.shape.clone(), self.copies());
            if let Placement::Shard(dim) = placement {
                self.check_split(&path, dim, shape[dim])?;
            }
            params.push(ParamPlacement { path, shape, placement, partial_gradient, copies });
        }
        Ok(params)
    }

    /// Returns how many ranks hold each part of the parameters.
    fn copies(&self) -> usize {
        match self.style {
            Style::Colwise(style) => style.copies(self.degree),
            _ => 1,
        }
    }

    /// Returns where a parameter goes and whether its gradient is a term per rank.
    fn placement(&self, name: &str) -> Result<(Placement, bool), TensorParallelError> {
        use Placement::{Replicate, Shard};
        Ok(match (self.style, self.kind, name) {
            (Style::Rowwise(style), LayerKind::Linear, "bias") => {
                (Replicate, style.output == SEQUENCE)
            }
            (Style::Colwise(_), LayerKind::Linear, "bias")
            | (Style::Rowwise(_), LayerKind::Linear | LayerKind::Embedding, _)
            | (Style::Vocab(_), LayerKind::Embedding, _) => (Shard(0), false),
            (Style::Colwise(_), LayerKind::Linear | LayerKind::Embedding, _)
            | (Style::Vocab(_), LayerKind::Linear, "weight") => (Shard(1), false),
            (Style::Sequence(_), LayerKind::Linear | LayerKind::Norm | LayerKind::Embedding, _) => {
                (Replicate, true)
            }
            _ => return Err(self.unsuitable()),
        })
    }

    fn unsuitable(&self) -> TensorParallelError {
        let (path, style) = (self.path.to_owned(), self.style.to_string());
        TensorParallelError::Unsuitable { path, kind: self.kind, style }
    }

    fn check_layouts(&self) -> Result<(), TensorParallelError> {
        let is_boundary = self.kind == LayerKind::Boundary;
        if matches!(self.style, Style::Input(_) | Style::Output(_)) != is_boundary {
            return Err(self.unsuitable());
        }
        if self.kind == LayerKind::Dropout && !matches!(self.style, Style::Sequence(_)) {
            return Err(self.unsuitable());
        }
        let embedding = self.kind == LayerKind::Embedding;
        let (takes, gives) = match self.style {
            Style::Colwise(_) if embedding => ("R", "R, S(1) or S(2)"),
            // Put side by side, the outputs of copies would be there several times.
            Style::Colwise(_) if self.copies() > 1 => ("R or S(1)", "S(2)"),
            Style::Colwise(_) => ("R or S(1)", "R, S(1) or S(2)"),
            // The ids of an embedding are whole, whatever its input layout says.
            Style::Rowwise(_) => ("R or S(2)", "R or S(1)"),
            Style::Vocab(_) | Style::Sequence(_) => ("R or S(1)", "R or S(1)"),
            Style::Input(_) | Style::Output(_) => {
                ("R, S(0), S(1), S(2) or P(sum)", "R, S(0), S(1), S(2) or P(sum)")
            }
        };
        for (side, layout, allowed) in
            [("input", self.style.input(), takes), ("output", self.style.output(), gives)]
        {
            let written = layout.to_string();
            if !allowed.split([',', ' ']).any(|word| word == written) {
                let (path, style) = (self.path.to_owned(), self.style.to_string());
                return Err(TensorParallelError::Layout { path, style, side, layout, allowed });
            }
        }
        Ok(())
    }

    fn check_split(&self, path: &str, dim: usize, size: usize) -> Result<(), TensorParallelError> {
        let degree = self.degree;
        let is_vocabulary = matches!(self.style, Style::Vocab(_))
            || (self.kind == LayerKind::Embedding && dim == 0);
        if is_vocabulary {
            // The last rank holds least.
            let last = shard_range(size, degree, degree - 1);
            let path = path.to_owned();
            return if last.is_empty() {
                Err(TensorParallelError::EmptyShard { path, size, degree })
            } else {
                Ok(())
            };
        }
        let units = match self.style {
            Style::Colwise(style) => style.units,
            Style::Rowwise(style) => style.units,
            _ => None,
        };
        if let Some((key, units)) = units {
            if units == 0 || !size.is_multiple_of(units) {
                let (path, key) = (path.to_owned(), key.to_owned());
                return Err(TensorParallelError::Units { path, dim, size, key, units });
            }
            if self.copies() > 1 {
                return Ok(());
            }
            if !units.is_multiple_of(degree) {
                let (what, size) = (key.to_owned(), units);
                return Err(match self.style {
                    Style::Colwise(style) if style.shared => {
                        TensorParallelError::IndivisibleEitherWay { what, size, degree }
                    }
                    _ => TensorParallelError::Indivisible { what, size, degree },
                });
            }
        }
        if size.is_multiple_of(degree) {
            return Ok(());
        }
        Err(TensorParallelError::Indivisible {
            what: format!("dimension {dim} of {path}"),
            size,
            degree,
        })
    }
}
