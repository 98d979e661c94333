//! [`Plan`]: which layer takes which style, as data.

use super::Style;

/// Maps layer paths to styles, in order, and says which layers follow each other.
///
/// Paths are dotted; `*` stands for one segment. No layer may match two rules.
///
/// # Examples
///
/// ```
/// use dream_trainer::tensor_parallel::{ColwiseParallel, Plan, RowwiseParallel};
///
/// let plan = Plan::new()
///     .style("layers.*.up", ColwiseParallel::default())
///     .style("layers.*.down", RowwiseParallel::default())
///     .flow(["layers.*.up", "layers.*.down"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub(super) rules: Vec<(String, Style)>,
    pub(super) flows: Vec<Vec<String>>,
}

impl Plan {
    /// Starts without rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the layers that match `path` a style.
    #[must_use]
    pub fn style(mut self, path: impl Into<String>, style: impl Into<Style>) -> Self {
        self.rules.push((path.into(), style.into()));
        self
    }

    /// Says that the output of each of these paths is the input of the next, so that their layouts
    /// must meet.
    ///
    /// A module below whose [`Boundary`](crate::nn::Boundary) layers lie stands before the first of
    /// them. Where two paths both have `*`, those with the same segments there follow each other.
    #[must_use]
    pub fn flow<P: Into<String>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.flows.push(paths.into_iter().map(Into::into).collect());
        self
    }

    /// Returns the rules in order.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &Style)> {
        self.rules.iter().map(|(path, style)| (path.as_str(), style))
    }
}
