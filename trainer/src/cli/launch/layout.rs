//! How many processes, on how many nodes.

use std::fmt;

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) total: Option<u32>,
    pub(super) nodes: Option<u32>,
    pub(super) per_node: Option<u32>,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) total: u32,
    /// Where it is known.
    pub(super) nodes: Option<u32>,
    /// Where it is known.
    pub(super) per_node: Option<u32>,
}

/// Numbers that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contradiction {
    total: u32,
    nodes: u32,
    per_node: u32,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, nodes, per_node } = self;
        write!(
            f,
            "{total} processes do not take {nodes} nodes with {per_node} on each; leave one of `--nproc`, `--nodes` and `--ranks-per-node` out"
        )
    }
}

impl Layout {
    /// Completes what was asked for from the allocation, and the third number from two. The last
    /// node may have fewer processes than the others.
    ///
    /// # Errors
    ///
    /// Numbers that contradict each other.
    pub(super) fn new(wanted: Wanted, allocation: Wanted) -> Result<Self, Contradiction> {
        let per_node = wanted.per_node.or(match wanted {
            // A number of processes and of nodes leaves nothing to the allocation.
            Wanted { total: Some(total), nodes: Some(nodes), .. } => Some(total.div_ceil(nodes)),
            _ => allocation.per_node,
        });
        let fitting = wanted.total.zip(per_node).map(|(total, per_node)| total.div_ceil(per_node));
        let nodes = wanted.nodes.or(fitting).or(allocation.nodes);
        let full = nodes.zip(per_node).map(|(nodes, per_node)| nodes * per_node);
        let total = wanted.total.or(full).or(wanted.nodes).or(allocation.total).unwrap_or(1);
        if let (Some(nodes), Some(per_node)) = (nodes, per_node)
            && total.div_ceil(per_node) != nodes
        {
            return Err(Contradiction { total, nodes, per_node });
        }
        Ok(Self { total, nodes, per_node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(total: u32, nodes: u32, per_node: u32) -> Wanted {
        let some = |n: u32| (n > 0).then_some(n);
        Wanted { total: some(total), nodes: some(nodes), per_node: some(per_node) }
    }

    #[test]
    fn the_third_number_follows_from_two() {
        // Asked for, of the allocation, and the result; 0 where nothing is said.
        let rows = [
            ((0, 0, 0), (0, 0, 0), (1, 0, 0)),
            ((4, 0, 0), (0, 0, 0), (4, 0, 0)),
            ((0, 2, 12), (0, 0, 0), (24, 2, 12)),
            ((13, 0, 12), (0, 0, 0), (13, 2, 12)),
            ((8, 2, 0), (0, 0, 0), (8, 2, 4)),
            ((0, 0, 0), (0, 3, 4), (12, 3, 4)),
            ((4, 0, 0), (0, 3, 4), (4, 1, 4)),
            ((0, 0, 0), (5, 0, 0), (5, 0, 0)),
            ((0, 2, 0), (0, 3, 4), (8, 2, 4)),
        ];
        for ((a, b, c), (d, e, f), (total, nodes, per_node)) in rows {
            let found = Layout::new(wanted(a, b, c), wanted(d, e, f));
            let Wanted { nodes, per_node, .. } = wanted(0, nodes, per_node);
            assert_eq!(found, Ok(Layout { total, nodes, per_node }), "{a} {b} {c} in {d} {e} {f}");
        }
    }

    #[test]
    fn numbers_that_contradict_are_refused() {
        let error = Layout::new(wanted(9, 2, 4), Wanted::default()).expect_err("9 is not 8");
        assert_eq!(error, Contradiction { total: 9, nodes: 2, per_node: 4 });
        assert!(
            Layout::new(wanted(4, 2, 4), Wanted::default()).is_err(),
            "one node would be empty"
        );
    }
}
