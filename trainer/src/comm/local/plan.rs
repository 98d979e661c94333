//! Where each element of a collective comes from and goes to, as pure arithmetic on element
//! offsets.

use super::super::{Collective, ReduceOp};

/// Places block `k` of `parts` equal blocks in a buffer where the blocks alternate every `inner`
/// elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interleave {
    inner: usize,
    parts: usize,
}

impl Interleave {
    /// The buffer holds one block.
    fn whole(length: usize) -> Self {
        Self { inner: length.max(1), parts: 1 }
    }

    /// The buffer is cut in `parts` along a dimension; `inner` elements of a block lie together.
    fn cut(inner: usize, parts: usize) -> Self {
        Self { inner: inner.max(1), parts }
    }

    /// Returns where element `p` of block `k` lies.
    pub(crate) fn locate(self, p: usize, k: usize) -> usize {
        let k = if self.parts == 1 { 0 } else { k };
        (p / self.inner * self.parts + k) * self.inner + p % self.inner
    }

    /// Tells whether blocks of `length` elements lie one after the other.
    #[cfg(any(feature = "mpi", feature = "cuda", test))]
    pub(crate) fn is_blockwise(self, length: usize) -> bool {
        self.parts == 1 || self.inner >= length
    }

    /// Returns how many elements from `p` on lie together.
    pub(crate) fn run(self, p: usize) -> usize {
        self.inner - p % self.inner
    }
}

/// Describes a collective as blocks of `length` elements that move from source buffers to target
/// buffers.
///
/// Element p of the block from source m to target t is read at `source.locate(p, t)` and written at
/// `target.locate(p, m)`. A reduction combines the blocks of all sources into one.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Elements per block.
    pub(crate) length: usize,
    /// Members that are read.
    pub(crate) sources: Vec<usize>,
    /// Members that receive a block of their own.
    pub(crate) targets: Vec<usize>,
    /// Members that receive a copy of every block written, instead of one of their own.
    pub(crate) shared_targets: bool,
    /// How blocks lie in the sources.
    pub(crate) source: Interleave,
    /// How blocks lie in the targets.
    pub(crate) target: Interleave,
    /// How sources are combined, if they are.
    pub(crate) reduce: Option<ReduceOp>,
    /// Results are written over the inputs.
    pub(crate) in_place: bool,
    /// Shape of each result.
    pub(crate) result: Vec<usize>,
}

impl Plan {
    /// Plans a collective that was validated, over inputs of `shape` in a group of `n`.
    pub(crate) fn new(collective: Collective, shape: &[usize], n: usize) -> Self {
        let everyone: Vec<usize> = (0..n).collect();
        let all_but = |root: usize| everyone.iter().copied().filter(|m| *m != root).collect();
        let (mut sources, mut targets) = (everyone.clone(), everyone.clone());
        let (mut shared_targets, mut in_place) = (false, false);
        match collective {
            Collective::AllReduce { .. } => (shared_targets, in_place) = (true, true),
            Collective::Reduce { root, .. } => {
                (shared_targets, in_place, targets) = (true, true, vec![root]);
            }
            Collective::Broadcast { root } => {
                (in_place, sources, targets) = (true, vec![root], all_but(root));
            }
            Collective::Scatter { root } => sources = vec![root],
            Collective::Gather { root } => targets = vec![root],
            Collective::Barrier => (sources, targets) = (Vec::new(), Vec::new()),
            _ => {}
        }
        let mut block = shape.to_vec();
        let mut source_inner = None;
        if let Some(dim) = collective.split_dim() {
            block[dim] /= n;
            source_inner = Some(block[dim..].iter().product());
        }
        let length = block.iter().product();
        let mut result = block.clone();
        let mut target_inner = None;
        if let Some(dim) = collective.concat_dim() {
            result[dim] *= n;
            target_inner = Some(block[dim..].iter().product());
        }
        let interleave = |inner: Option<usize>| match inner {
            Some(inner) => Interleave::cut(inner, n),
            None => Interleave::whole(length),
        };
        Self {
            length,
            sources,
            targets,
            shared_targets,
            source: interleave(source_inner),
            target: interleave(target_inner),
            reduce: collective.reduce_op(),
            in_place,
            result,
        }
    }
}
