//! Distributed data parallelism: every rank holds the model, gradients are summed over ranks.
//!
//! Weights need no broadcast, because every rank makes the same ones from the seed.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};

use super::layouts::Layouts;
use crate::comm::{Collective, CommError, Erased, MeshComm, ProcessGroup, ReduceOp, TensorWork};
use crate::mesh::AxisSet;
use crate::metrics::ElementCounts;

/// How gradients are reduced over the ranks that hold copies of the model.
#[derive(Debug, Clone)]
pub struct Replicate {
    comm: MeshComm,
    bucket_bytes: usize,
    reduce_dtype: Option<DType>,
}

impl Replicate {
    /// `reduce_dtype` is the element type in which gradients are summed, by default their own.
    pub(crate) fn new(comm: MeshComm, reduce_dtype: Option<DType>) -> Self {
        Self { comm, bucket_bytes: 25 << 20, reduce_dtype }
    }

    /// Returns the number of copies.
    pub fn size(&self) -> usize {
        self.comm.mesh().size(AxisSet::DP)
    }

    /// Sets how many bytes of gradients travel in one message at least; a larger gradient travels
    /// alone. It changes no number.
    pub fn set_bucket_cap_mib(&mut self, mib: usize) {
        self.bucket_bytes = mib << 20;
    }

    /// Sums each gradient, in place, over the axes that its parameter's layout leaves to be summed,
    /// then over the neighbors that hold copies of its block, and returns what traveled.
    ///
    /// # Communication
    ///
    /// All-reduces over those axes, `2 (n - 1) / n` times the bytes of the gradients for n ranks. The
    /// buckets are issued in reverse path order, that of the backward pass, before the first is
    /// waited for. The same again over the neighbors.
    ///
    /// # Errors
    ///
    /// A rank failed, is late, or holds other gradients.
    pub(crate) fn reduce(
        &self,
        gradients: &mut BTreeMap<String, Tensor<1>>,
        layouts: &Layouts,
    ) -> Result<ElementCounts, CommError> {
        let mut traveled = ElementCounts::default();
        let axes = |path: &str| {
            let axes = layouts.axes_to_reduce(path);
            (self.comm.mesh().size(axes) > 1).then_some(axes)
        };
        self.sum(gradients, axes, |axes| Ok(self.comm.group(axes)), &mut traveled)?;
        let copies = |path: &str| layouts.copies(path);
        self.sum(gradients, copies, |copies| self.comm.neighbors(copies), &mut traveled)?;
        Ok(traveled)
    }

    /// Sums each gradient over the ranks that `over` names, if it names any.
    fn sum<K: Ord + Copy>(
        &self,
        gradients: &mut BTreeMap<String, Tensor<1>>,
        over: impl Fn(&str) -> Option<K>,
        group: impl Fn(K) -> Result<ProcessGroup, CommError>,
        traveled: &mut ElementCounts,
    ) -> Result<(), CommError> {
        // Gradients in host memory and those on a device travel apart.
        let mut buckets: BTreeMap<(K, bool), Bucket> = BTreeMap::new();
        let mut pending = Vec::new();
        let mut reduced = BTreeMap::new();
        while let Some((path, gradient)) = gradients.pop_last() {
            let Some(ranks) = over(&path) else {
                reduced.insert(path, gradient);
                continue;
            };
            let is_host = gradient.device() == Device::flex();
            let bucket = buckets.entry((ranks, is_host)).or_default();
            bucket.push(path, gradient);
            if bucket.bytes >= self.bucket_bytes {
                pending.push(self.issue(std::mem::take(bucket), &group(ranks)?, traveled)?);
            }
        }
        for ((ranks, _), bucket) in
            buckets.into_iter().filter(|(_, bucket)| !bucket.parts.is_empty())
        {
            pending.push(self.issue(bucket, &group(ranks)?, traveled)?);
        }
        for issued in pending {
            issued.wait(&mut reduced)?;
        }
        *gradients = reduced;
        Ok(())
    }

    fn issue(
        &self,
        bucket: Bucket,
        group: &ProcessGroup,
        traveled: &mut ElementCounts,
    ) -> Result<IssuedBucket, CommError> {
        let (layout, mut tensors): (Vec<_>, Vec<_>) = bucket
            .parts
            .into_iter()
            .map(|(path, gradient)| ((path, gradient.dims()[0]), gradient))
            .unzip();
        // One gradient alone travels in its own buffer.
        let flat = if tensors.len() == 1 { tensors.remove(0) } else { Tensor::cat(tensors, 0) };
        let dtype = flat.dtype();
        let flat = flat.cast(self.reduce_dtype.unwrap_or(dtype));
        traveled.add(flat.dtype(), flat.dims()[0]);
        let collective = Collective::AllReduce { op: ReduceOp::Sum };
        let work = group.issue_with(collective, Erased::new(flat))?;
        Ok(IssuedBucket { layout, dtype, work })
    }
}

#[derive(Default)]
struct Bucket {
    parts: Vec<(String, Tensor<1>)>,
    bytes: usize,
}

impl Bucket {
    fn push(&mut self, path: String, gradient: Tensor<1>) {
        self.bytes += gradient.dims()[0] * gradient.dtype().size();
        self.parts.push((path, gradient));
    }
}

struct IssuedBucket {
    layout: Vec<(String, usize)>,
    /// Element type of the gradients, whatever the one they travel in.
    dtype: DType,
    work: TensorWork,
}

impl IssuedBucket {
    fn wait(self, gradients: &mut BTreeMap<String, Tensor<1>>) -> Result<(), CommError> {
        let flat = self.work.wait()?.cast(self.dtype).into_tensor::<1>();
        let mut start = 0;
        for (path, len) in self.layout {
            let range = start..start + len;
            start = range.end;
            gradients.insert(path, flat.clone().slice([range]));
        }
        Ok(())
    }
}
