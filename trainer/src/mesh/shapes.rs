//! The mesh shapes a world size allows.

use serde::Serialize;

/// The degrees of one possible mesh; data parallelism is what the others leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Shape {
    /// Tensor parallelism.
    pub tp: usize,
    /// Context parallelism.
    pub cp: usize,
    /// Pipeline parallelism.
    pub pp: usize,
    /// Data parallelism, replicated and sharded together.
    pub dp: usize,
}

/// Which shapes to list; the default lists all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShapeFilter {
    /// Only shapes with this tensor parallelism.
    pub tp: Option<usize>,
    /// Only shapes with this context parallelism.
    pub cp: Option<usize>,
    /// Only shapes with this pipeline parallelism.
    pub pp: Option<usize>,
    /// Only shapes with at most this tensor parallelism, such as the ranks of a node.
    pub max_tp: Option<usize>,
    /// Only shapes whose product of `tp`, `cp` and `pp` is at most this.
    pub max_product: Option<usize>,
    /// Only shapes whose `tp`, `cp` and `pp` are powers of two.
    pub powers_of_two: bool,
}

impl ShapeFilter {
    fn admits(&self, shape: &Shape) -> bool {
        let Shape { tp, cp, pp, .. } = *shape;
        let is_fixed = |fixed: Option<usize>, degree| fixed.is_none_or(|fixed| fixed == degree);
        let is_at_most = |most: Option<usize>, value| most.is_none_or(|most| value <= most);
        let all_powers = [tp, cp, pp].into_iter().all(usize::is_power_of_two);
        is_fixed(self.tp, tp)
            && is_fixed(self.cp, cp)
            && is_fixed(self.pp, pp)
            && is_at_most(self.max_tp, tp)
            && is_at_most(self.max_product, tp * cp * pp)
            && (all_powers || !self.powers_of_two)
    }
}

/// Lists the shapes of `world_size` ranks that `filter` admits, ordered by product, then by degree.
///
/// Every shape multiplies to the world size exactly. A world of zero ranks has none.
pub fn enumerate_shapes(world_size: usize, filter: &ShapeFilter) -> Vec<Shape> {
    let divisors = divisors(world_size);
    let within = |n: usize| divisors.iter().copied().filter(move |d| n.is_multiple_of(*d));
    let mut shapes = Vec::new();
    for tp in within(world_size) {
        for cp in within(world_size / tp) {
            for pp in within(world_size / tp / cp) {
                let shape = Shape { tp, cp, pp, dp: world_size / tp / cp / pp };
                shapes.extend(filter.admits(&shape).then_some(shape));
            }
        }
    }
    shapes.sort_unstable_by_key(|shape| (world_size / shape.dp, *shape));
    shapes
}

fn divisors(n: usize) -> Vec<usize> {
    let small: Vec<usize> =
        (1..=n).take_while(|d| *d <= n / *d).filter(|d| n.is_multiple_of(*d)).collect();
    let large = small.iter().rev().map(|d| n / d).skip_while(|d| small.last() == Some(d));
    small.iter().copied().chain(large).collect()
}
