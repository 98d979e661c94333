//! Distributed data parallelism: every rank holds the model, gradients are summed over ranks.
//!
//! Weights need no broadcast, because every rank makes the same ones from the seed.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

use super::layouts::Layouts;
use crate::comm::{CommError, MeshComm, ProcessGroup, ReduceOp, Work};
use crate::mesh::AxisSet;

/// How gradients are reduced over the ranks that hold copies of the model.
#[derive(Debug, Clone)]
pub struct Replicate {
    comm: MeshComm,
    bucket_bytes: usize,
}

impl Replicate {
    pub(crate) fn new(comm: MeshComm) -> Self {
        Self { comm, bucket_bytes: 25 << 20 }
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

    /// Sums each gradient, in place, over the axes that its parameter's layout leaves to be summed.
    ///
    /// # Communication
    ///
    /// All-reduces over those axes, `2 (n - 1) / n` times the bytes of the gradients for n ranks. The
    /// buckets are issued in reverse path order, that of the backward pass, before the first is
    /// waited for.
    ///
    /// # Errors
    ///
    /// A rank failed, is late, or holds other gradients.
    pub(crate) fn reduce(
        &self,
        gradients: &mut BTreeMap<String, Tensor<1>>,
        layouts: &Layouts,
        device: &Device,
    ) -> Result<(), CommError> {
        let mut buckets: BTreeMap<AxisSet, Bucket> = BTreeMap::new();
        let mut pending = Vec::new();
        let mut reduced = BTreeMap::new();
        while let Some((path, gradient)) = gradients.pop_last() {
            let axes = layouts.axes_to_reduce(&path);
            if self.comm.mesh().size(axes) == 1 {
                reduced.insert(path, gradient);
                continue;
            }
            let bucket = buckets.entry(axes).or_default();
            bucket.push(path, gradient);
            if bucket.bytes >= self.bucket_bytes {
                pending.push(std::mem::take(bucket).issue(&self.comm.group(axes))?);
            }
        }
        for (axes, bucket) in buckets.into_iter().filter(|(_, bucket)| !bucket.parts.is_empty()) {
            pending.push(bucket.issue(&self.comm.group(axes))?);
        }
        for issued in pending {
            issued.wait(&mut reduced, device)?;
        }
        *gradients = reduced;
        Ok(())
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

    fn issue(self, group: &ProcessGroup) -> Result<IssuedBucket, CommError> {
        let (layout, mut tensors): (Vec<_>, Vec<_>) = self
            .parts
            .into_iter()
            .map(|(path, gradient)| ((path, gradient.dims()[0]), gradient))
            .unzip();
        // One gradient alone travels in its own buffer.
        let flat = if tensors.len() == 1 { tensors.remove(0) } else { Tensor::cat(tensors, 0) };
        Ok(IssuedBucket { layout, work: group.issue_all_reduce(flat.into_data(), ReduceOp::Sum)? })
    }
}

struct IssuedBucket {
    layout: Vec<(String, usize)>,
    work: Work,
}

impl IssuedBucket {
    fn wait(
        self,
        gradients: &mut BTreeMap<String, Tensor<1>>,
        device: &Device,
    ) -> Result<(), CommError> {
        let flat = Tensor::<1>::from_data(self.work.wait()?, device);
        let mut start = 0;
        for (path, len) in self.layout {
            let range = start..start + len;
            start = range.end;
            gradients.insert(path, flat.clone().slice([range]));
        }
        Ok(())
    }
}
