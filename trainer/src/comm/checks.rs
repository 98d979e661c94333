//! Checks that a world communicates rightly: known inputs and outputs of every operation, for any
//! number of ranks.
//!
//! With four ranks the inputs are the textbook vectors, such as `[0, 1, 2, 3] + rank`; with n ranks
//! they have n elements.

use std::time::Duration;

use burn::tensor::{Element, TensorData};

use super::{CommError, ProcessGroup, ReduceOp};

/// Names a check and what it does on one rank.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// Runs the check; every member of the group runs it at the same time.
    pub run: fn(&ProcessGroup) -> Result<(), CheckError>,
}

/// Describes a check that did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// An operation failed.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// An operation returned something else.
    #[error("{what} is {found} instead of {expected}")]
    Wrong {
        /// What was compared.
        what: &'static str,
        /// What it should have been.
        expected: String,
        /// What it was.
        found: String,
    },
}

/// Every check, in the order they are shown.
pub const CHECKS: [Check; 17] = [
    Check { name: "broadcast", run: broadcast },
    Check { name: "scatter", run: scatter },
    Check { name: "gather", run: gather },
    Check { name: "reduce", run: reduce },
    Check { name: "all_gather", run: all_gather },
    Check { name: "all_reduce sum", run: |group| all_reduce(group, ReduceOp::Sum) },
    Check { name: "all_reduce avg", run: |group| all_reduce(group, ReduceOp::Avg) },
    Check { name: "all_reduce max", run: |group| all_reduce(group, ReduceOp::Max) },
    Check { name: "all_reduce min", run: |group| all_reduce(group, ReduceOp::Min) },
    Check { name: "all_reduce prod", run: |group| all_reduce(group, ReduceOp::Prod) },
    Check { name: "reduce_scatter", run: reduce_scatter },
    Check { name: "all_to_all", run: all_to_all },
    Check { name: "send and recv in a ring", run: ring },
    Check { name: "send and recv in a chain", run: chain },
    Check { name: "barrier", run: barrier },
    Check { name: "no elements, and NaN", run: extremes },
    Check { name: "mismatched calls are refused", run: mismatch },
];

/// Checks that a group works at all: a barrier, then the sum of the ranks of its members.
///
/// # Errors
///
/// See [`CheckError`].
pub fn handshake(group: &ProcessGroup) -> Result<(), CheckError> {
    group.barrier()?;
    let mine = group.members()[group.rank()] as i64;
    let expected: i64 = group.members().iter().map(|rank| *rank as i64).sum();
    let sum = group.all_reduce(tensor([mine]), ReduceOp::Sum)?;
    expect("the sum of ranks", &sum, [expected])
}

fn broadcast(group: &ProcessGroup) -> Result<(), CheckError> {
    let mine = if group.rank() == 0 { [7.0, 8.0] } else { [f32::NAN; 2] };
    expect("the result", &group.broadcast(tensor(mine), 0)?, [7.0_f32, 8.0])
}

fn scatter(group: &ProcessGroup) -> Result<(), CheckError> {
    let all = || tensor((0..group.size()).map(|r| 10.0 + r as f32).collect::<Vec<_>>());
    let part = group.scatter((group.rank() == 0).then(all), 0)?;
    expect("the part", &part, [10.0 + group.rank() as f32])
}

fn gather(group: &ProcessGroup) -> Result<(), CheckError> {
    let all: Vec<f32> = (0..group.size()).map(|r| 10.0 + r as f32).collect();
    let gathered = group.gather(tensor([10.0 + group.rank() as f32]), 0)?;
    only_root(group, gathered.as_ref(), &all)
}

fn reduce(group: &ProcessGroup) -> Result<(), CheckError> {
    let n = group.size();
    let reduced = group.reduce(tensor([group.rank() as f32 + 1.0]), 0, ReduceOp::Sum)?;
    only_root(group, reduced.as_ref(), &[(n * (n + 1) / 2) as f32])
}

fn only_root(
    group: &ProcessGroup,
    found: Option<&TensorData>,
    expected: &[f32],
) -> Result<(), CheckError> {
    match (group.rank(), found) {
        (0, Some(found)) => expect("the result of the root", found, expected),
        (0, None) => Err(wrong("the result of the root", "a tensor", "nothing")),
        (_, Some(_)) => Err(wrong("the result of another rank", "nothing", "a tensor")),
        (_, None) => Ok(()),
    }
}

fn all_gather(group: &ProcessGroup) -> Result<(), CheckError> {
    let (r, n) = (group.rank() as f32, group.size());
    let all = |first: f32| (0..n).map(move |r| first + r as f32);
    let gathered = group.all_gather(tensor([10.0 + r]), 0)?;
    expect("the result along dimension 0", &gathered, all(10.0).collect::<Vec<_>>())?;
    let gathered = group.all_gather(TensorData::from([[r], [r]]), 1)?;
    expect("the result along dimension 1", &gathered, all(0.0).chain(all(0.0)).collect::<Vec<_>>())
}

/// Element i of rank r is i + r.
fn ramp(group: &ProcessGroup) -> TensorData {
    tensor((0..group.size()).map(|i| (i + group.rank()) as f64).collect::<Vec<_>>())
}

fn reduced(n: usize, i: usize, op: ReduceOp) -> f64 {
    let values = (0..n).map(|r| (i + r) as f64);
    match op {
        ReduceOp::Sum => values.sum(),
        ReduceOp::Avg => values.sum::<f64>() / n as f64,
        ReduceOp::Max => (i + n - 1) as f64,
        ReduceOp::Min => i as f64,
        ReduceOp::Prod => values.product(),
    }
}

fn all_reduce(group: &ProcessGroup, op: ReduceOp) -> Result<(), CheckError> {
    let n = group.size();
    let result = group.all_reduce(ramp(group), op)?;
    expect("the result", &result, (0..n).map(|i| reduced(n, i, op)).collect::<Vec<_>>())
}

fn reduce_scatter(group: &ProcessGroup) -> Result<(), CheckError> {
    let n = group.size();
    let part = group.reduce_scatter(ramp(group), 0, ReduceOp::Sum)?;
    expect("the part", &part, [reduced(n, group.rank(), ReduceOp::Sum)])?;
    let whole = group.all_gather(part, 0)?;
    let sums: Vec<_> = (0..n).map(|i| reduced(n, i, ReduceOp::Sum)).collect();
    expect("the parts put together", &whole, sums)
}

fn all_to_all(group: &ProcessGroup) -> Result<(), CheckError> {
    let (r, n) = (group.rank(), group.size());
    let mine: Vec<i64> = (0..n).map(|i| (n * r + i) as i64).collect();
    let expected: Vec<_> = (0..n).map(|m| (n * m + r) as i64).collect();
    expect("the result", &group.all_to_all(tensor(mine), 0, 0)?, expected)
}

fn ring(group: &ProcessGroup) -> Result<(), CheckError> {
    let (r, n) = (group.rank(), group.size());
    let mut held = tensor([r as i64]);
    for hop in 1..=n {
        group.send(held, (r + 1) % n, hop as u64)?;
        held = group.recv((r + n - 1) % n, hop as u64)?;
        expect("the value after a hop", &held, [((r + n - hop) % n) as i64])?;
    }
    Ok(())
}

fn chain(group: &ProcessGroup) -> Result<(), CheckError> {
    let (r, n) = (group.rank(), group.size());
    if r > 0 {
        expect("the value received", &group.recv(r - 1, 0)?, [4 + r as i64])?;
    }
    if r + 1 < n {
        group.send(tensor([5 + r as i64]), r + 1, 0)?;
    }
    Ok(())
}

/// Lets the ranks come one after the other: nobody may leave before the last has come and left
/// word.
fn barrier(group: &ProcessGroup) -> Result<(), CheckError> {
    let (r, n) = (group.rank(), group.size());
    std::thread::sleep(Duration::from_millis((50 * r / n) as u64));
    for to in 0..n {
        group.send(tensor([r as i64]), to, 0)?;
    }
    group.barrier()?;
    for from in 0..n {
        expect("the word of a rank", &group.recv(from, 0)?, [from as i64])?;
    }
    Ok(())
}

fn extremes(group: &ProcessGroup) -> Result<(), CheckError> {
    let empty = group.all_reduce(tensor(Vec::<f32>::new()), ReduceOp::Sum)?;
    expect("the sum of nothing", &empty, Vec::<f32>::new())?;
    let mine = if group.rank() == 0 { f32::NAN } else { 1.0 };
    for op in ReduceOp::ALL {
        let result = group.all_reduce(tensor([mine]), op)?;
        if !values::<f32>(&result)?.iter().all(|x| x.is_nan()) {
            return Err(wrong("the reduction with NaN", "NaN", &format!("{result:?}")));
        }
    }
    Ok(())
}

/// Lets the last rank make another call than the rest; a group of one has nobody to disagree with.
fn mismatch(group: &ProcessGroup) -> Result<(), CheckError> {
    let last = group.rank() + 1 == group.size();
    let length = if last { 3 } else { 2 };
    match group.all_reduce(tensor(vec![0.0_f32; length]), ReduceOp::Sum) {
        Ok(_) if group.size() == 1 => Ok(()),
        Ok(_) => Err(wrong("the result of calls that differ", "an error", "a tensor")),
        Err(CommError::Mismatch { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn tensor<E: Element>(values: impl Into<Vec<E>>) -> TensorData {
    let values = values.into();
    let length = values.len();
    TensorData::new(values, [length])
}

fn values<E: Element>(data: &TensorData) -> Result<&[E], CheckError> {
    let wrong = |_| wrong("the element type", E::dtype().name(), data.dtype().name());
    data.as_slice().map_err(wrong)
}

fn expect<E: Element + PartialEq>(
    what: &'static str,
    found: &TensorData,
    expected: impl AsRef<[E]>,
) -> Result<(), CheckError> {
    let (found, expected) = (values::<E>(found)?, expected.as_ref());
    if found == expected {
        return Ok(());
    }
    Err(wrong(what, &format!("{expected:?}"), &format!("{found:?}")))
}

fn wrong(what: &'static str, expected: &str, found: &str) -> CheckError {
    CheckError::Wrong { what, expected: expected.to_owned(), found: found.to_owned() }
}
