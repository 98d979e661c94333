//! Checks that tensors of a device travel rightly: each collective gives what the same one of host data
//! gives.

use burn::tensor::{DType, Device, TensorData};

use super::{CheckError, Collective, Erased, ProcessGroup, ReduceOp};

/// A collective of device tensors to be checked.
#[derive(Debug, Clone, Copy)]
pub struct DeviceCheck {
    collective: Collective,
    dtype: DType,
}

impl DeviceCheck {
    /// Returns a check of every collective along every dimension, in each element type that ranks train
    /// in.
    pub fn all() -> Vec<Self> {
        let mut collectives: Vec<Collective> = Vec::new();
        for op in ReduceOp::ALL {
            collectives.push(Collective::AllReduce { op });
        }
        for dim in 0..3 {
            collectives.push(Collective::AllGather { dim });
            collectives.push(Collective::ReduceScatter { dim, op: ReduceOp::Sum });
            collectives.push(Collective::AllToAll { split_dim: dim, concat_dim: (dim + 1) % 3 });
        }
        collectives.extend([
            Collective::AllToAll { split_dim: 0, concat_dim: 0 },
            Collective::Broadcast { root: 0 },
            Collective::Scatter { root: 0 },
            Collective::Gather { root: 0 },
            Collective::Reduce { root: 0, op: ReduceOp::Sum },
        ]);
        let types = [DType::F32, DType::BF16];
        let of = |dtype| {
            collectives.clone().into_iter().map(move |collective| Self { collective, dtype })
        };
        types.into_iter().flat_map(of).collect()
    }

    /// Returns what is checked, for a table.
    pub fn name(&self) -> String {
        format!("device {} {}", self.collective, self.dtype.name())
    }

    /// Runs the check; every member of the group runs it at the same time.
    ///
    /// # Errors
    ///
    /// See [`CheckError`].
    pub fn run(&self, group: &ProcessGroup, device: &Device) -> Result<(), CheckError> {
        let gives = match self.collective {
            Collective::Scatter { root } => group.rank() == root,
            _ => true,
        };
        let mine = gives.then(|| input(group.rank(), group.size()).convert_dtype(self.dtype));
        let site = std::panic::Location::caller();
        let tensor = mine.clone().map(|data| Erased::from_data(data, device));
        // The second is on its way with the first, and taken before it.
        let first = group.issue_tensor(self.collective, tensor.clone(), device)?;
        let second = group.issue_tensor(self.collective, tensor, device)?;
        let (second, first) = (second.wait_any()?, first.wait_any()?);
        let expected: Option<TensorData> =
            group.issue::<Option<TensorData>>(self.collective, mine, site)?.wait()?;
        for found in [first, second] {
            self.compare(found.map(Erased::into_data), expected.as_ref())?;
        }
        Ok(())
    }

    /// Compares results. Inputs are small whole numbers, whose sums and products have no rounding in
    /// any order; averages have one.
    fn compare(
        &self,
        found: Option<TensorData>,
        expected: Option<&TensorData>,
    ) -> Result<(), CheckError> {
        let tolerance = match (self.collective.reduce_op(), self.dtype) {
            (Some(ReduceOp::Avg), DType::F32) => 1e-6,
            (Some(ReduceOp::Avg), _) => 1e-2,
            _ => 0.0,
        };
        let numbers = |data: &TensorData| -> Vec<f32> { data.iter::<f32>().collect() };
        let wrong = |expected: String, found: String| {
            Err(CheckError::Wrong { what: "the result", expected, found })
        };
        let (found, expected) = match (found, expected) {
            (None, None) => return Ok(()),
            (Some(found), Some(expected)) => (found, expected),
            (found, expected) => return wrong(format!("{expected:?}"), format!("{found:?}")),
        };
        if found.shape() != expected.shape() {
            return wrong(format!("{:?}", expected.shape()), format!("{:?}", found.shape()));
        }
        let pairs = numbers(&found).into_iter().zip(numbers(expected));
        let far = |(a, b): &(f32, f32)| {
            let distance = (a - b).abs();
            distance.is_nan() || distance > tolerance * (1.0 + b.abs())
        };
        match pairs.enumerate().find(|(_, pair)| far(pair)) {
            Some((place, (a, b))) => wrong(format!("{b} at element {place}"), a.to_string()),
            None => Ok(()),
        }
    }
}

/// Small whole numbers that differ between members and places.
fn input(rank: usize, members: usize) -> TensorData {
    let shape = [2 * members, 3 * members, 4 * members];
    let count: usize = shape.iter().product();
    let values = (0..count).map(|i| ((i * 7 + rank * 3) % 5) as f32 - 2.0);
    TensorData::new(values.collect::<Vec<_>>(), shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{CommTimeouts, launch_threads};

    #[test]
    fn tensors_of_the_processor_pass() {
        for check in DeviceCheck::all() {
            let ran = launch_threads(3, CommTimeouts::default(), |ctx| {
                check.run(&ctx.world_group(), &Device::flex())
            });
            assert!(ran.is_ok(), "{}: {}", check.name(), ran.expect_err("it failed"));
        }
    }

    #[test]
    fn a_wrong_result_is_told() {
        let check =
            DeviceCheck { collective: Collective::Broadcast { root: 0 }, dtype: DType::F32 };
        let right = input(0, 2);
        let wrong = input(1, 2);
        assert!(check.compare(Some(right.clone()), Some(&right)).is_ok());
        let text = check.compare(Some(wrong), Some(&right)).expect_err("another").to_string();
        assert!(text.contains("at element 0"), "{text}");
        assert!(check.compare(None, Some(&right)).is_err());
    }
}
