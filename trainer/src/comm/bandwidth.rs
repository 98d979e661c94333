//! The bytes and bandwidths by which collectives are compared.
//!
//! # References
//!
//! NCCL tests, "Performance reported by NCCL tests": the size S is the larger of a rank's input and
//! output, the algorithm bandwidth is S/t, and the bus bandwidth multiplies it by what a ring moves
//! over each link per byte of S.

use super::Collective;

/// Returns the size S of a call from the bytes of a rank's input: the larger of its input and its
/// output.
pub fn nominal_bytes(collective: &Collective, input_bytes: usize, group_size: usize) -> usize {
    match collective {
        Collective::AllGather { .. } | Collective::Gather { .. } => input_bytes * group_size,
        _ => input_bytes,
    }
}

/// Returns S/t in bytes per second.
pub fn algorithm_bandwidth(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / seconds
}

/// Returns the factor from algorithm to bus bandwidth for a group of `group_size`.
pub fn bus_factor(collective: &Collective, group_size: usize) -> f64 {
    let n = group_size as f64;
    match collective {
        Collective::AllReduce { .. } => 2.0 * (n - 1.0) / n,
        Collective::AllGather { .. }
        | Collective::ReduceScatter { .. }
        | Collective::AllToAll { .. }
        | Collective::Scatter { .. }
        | Collective::Gather { .. } => (n - 1.0) / n,
        Collective::Broadcast { .. } | Collective::Reduce { .. } | Collective::Barrier => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::ReduceOp;

    #[test]
    fn bus_factors_follow_nccl_tests() {
        let sum = ReduceOp::Sum;
        let rows = [
            (Collective::AllReduce { op: sum }, 4, 1.5),
            (Collective::AllReduce { op: sum }, 2, 1.0),
            (Collective::AllReduce { op: sum }, 1, 0.0),
            (Collective::AllGather { dim: 0 }, 4, 0.75),
            (Collective::ReduceScatter { dim: 0, op: sum }, 4, 0.75),
            (Collective::AllToAll { split_dim: 0, concat_dim: 0 }, 8, 0.875),
            (Collective::Broadcast { root: 0 }, 8, 1.0),
            (Collective::Reduce { root: 0, op: sum }, 8, 1.0),
        ];
        for (collective, n, factor) in rows {
            assert_eq!(bus_factor(&collective, n), factor, "{collective} of {n}");
        }
    }

    #[test]
    fn sizes_are_the_larger_of_input_and_output() {
        // 400 MiB per rank: an all-reduce keeps the size, a gather of four quarters makes it.
        let (mib, sum) = (1 << 20, ReduceOp::Sum);
        assert_eq!(nominal_bytes(&Collective::AllReduce { op: sum }, 400 * mib, 4), 400 * mib);
        assert_eq!(nominal_bytes(&Collective::AllGather { dim: 0 }, 400 * mib, 4), 1600 * mib);
        let scatter = Collective::ReduceScatter { dim: 0, op: sum };
        assert_eq!(nominal_bytes(&scatter, 1600 * mib, 4), 1600 * mib);
        assert_eq!(algorithm_bandwidth(400 * mib, 0.5), (800 * mib) as f64);
    }
}
