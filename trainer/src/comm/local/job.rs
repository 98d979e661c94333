//! A collective whose inputs are all there, cut into tasks that any member may carry out.
#![expect(
    unsafe_code,
    reason = "members write disjoint ranges of shared buffers at the same time, without locks"
)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Bytes, DType, TensorData, bf16, f16};

use super::super::{Collective, ReduceOp};
use super::plan::Plan;
use super::reduce::{Lane, finish, fold, start, store};
use super::storage::Storage;

/// Bytes of a block that one task handles at most, so that its part of every buffer stays in the
/// second-level cache.
const MAX_TASK_BYTES: usize = 256 << 10;
/// Bytes of a block that one task handles at least, so that claiming it costs nothing beside it.
const MIN_TASK_BYTES: usize = 16 << 10;
/// Tasks per member a block is cut into between these bounds: members that come late still find
/// work.
const TASKS_PER_MEMBER: usize = 2;
/// Elements accumulated at a time, so that the accumulator stays in the first-level cache.
const BLOCK: usize = 1024;

/// A result as it waits for its member.
#[derive(Debug)]
enum Held {
    /// Written over the member's input.
    InPlace(Bytes),
    /// In memory of its own.
    Fresh(Storage),
}

/// Work that is shared by the members of a group.
///
/// All access to buffers between `new` and the end of the last task goes through the addresses. A
/// task owns the range of the targets it writes and is claimed once; sources that are also targets
/// are read in that same range only. The buffers live as long as the job; they are handed out by
/// [`Self::take`] after the last task.
#[derive(Debug)]
pub(crate) struct Job {
    plan: Plan,
    dtype: DType,
    source_addresses: Vec<*const u8>,
    target_addresses: Vec<*mut u8>,
    /// Inputs that are only read; they stay until every member is done.
    kept_inputs: Vec<Bytes>,
    results: Mutex<Vec<Option<Held>>>,
    task_elements: usize,
    pieces: usize,
    tasks: usize,
    claimed: AtomicUsize,
    done: AtomicUsize,
}

// SAFETY: the addresses point into buffers the job owns, which are `Send` and `Sync`; tasks access
// disjoint ranges (see `Job`).
unsafe impl Send for Job {}
// SAFETY: as above; claiming and finishing go through atomics, handing out through a mutex.
unsafe impl Sync for Job {}

impl Job {
    /// Cuts a validated collective of `inputs.len()` members into tasks.
    pub(crate) fn new(collective: Collective, inputs: Vec<Option<TensorData>>) -> Self {
        let n = inputs.len();
        let first = inputs.iter().flatten().next();
        let (shape, dtype) =
            first.map_or((Vec::new(), DType::U8), |data| (data.shape().to_vec(), data.dtype()));
        let plan = Plan::new(collective, &shape, n);
        let inputs = inputs.into_iter().map(|data| data.map(TensorData::into_bytes)).collect();
        let mut job = Self::empty(plan, dtype, n);
        job.place(inputs);
        job
    }

    fn empty(plan: Plan, dtype: DType, n: usize) -> Self {
        let share = plan.length.div_ceil(TASKS_PER_MEMBER * n.max(1)).next_multiple_of(64);
        let bounds = (MIN_TASK_BYTES / dtype.size(), MAX_TASK_BYTES / dtype.size());
        let task_elements = share.clamp(bounds.0, bounds.1);
        let pieces = plan.length.div_ceil(task_elements);
        let groups = match (plan.reduce.is_some(), plan.shared_targets) {
            (true, true) => 1,
            (true, false) => plan.targets.len(),
            (false, _) => plan.targets.len() * plan.sources.len(),
        };
        Self {
            dtype,
            source_addresses: Vec::new(),
            target_addresses: Vec::new(),
            kept_inputs: Vec::new(),
            results: Mutex::new((0..n).map(|_| None).collect()),
            task_elements,
            pieces,
            tasks: groups * pieces,
            claimed: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            plan,
        }
    }

    /// Takes the addresses of all buffers and puts the buffers where they are kept until the end.
    fn place(&mut self, mut inputs: Vec<Option<Bytes>>) {
        let in_place = self.plan.in_place;
        let mut fresh: Vec<Option<Storage>> = (0..inputs.len()).map(|_| None).collect();
        for target in &self.plan.targets {
            let address = if in_place {
                let input = inputs[*target].as_mut().expect("members of in-place operations give");
                input.as_mut_ptr()
            } else {
                let count = self.plan.result.iter().product();
                fresh[*target].insert(Storage::reserve(count, self.dtype.size())).as_mut_ptr()
            };
            self.target_addresses.push(address);
        }
        for source in &self.plan.sources {
            // A source that is also a target keeps the one address through which it is written.
            let target = self.plan.targets.iter().position(|target| target == source);
            let address = match target.filter(|_| in_place) {
                Some(target) => self.target_addresses[target].cast_const(),
                None => inputs[*source].as_ref().expect("sources give a tensor").as_ptr(),
            };
            self.source_addresses.push(address);
        }
        let results = self.results.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (member, (input, fresh)) in inputs.into_iter().zip(fresh).enumerate() {
            let keeps =
                in_place && (self.plan.targets.contains(&member) || self.plan.reduce.is_none());
            match (input, fresh) {
                (Some(input), None) if keeps => results[member] = Some(Held::InPlace(input)),
                (input, fresh) => {
                    self.kept_inputs.extend(input);
                    results[member] = fresh.map(Held::Fresh);
                }
            }
        }
    }

    /// Returns true if there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    /// Returns true if a task is left for someone to take.
    pub(crate) fn has_unclaimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed) < self.tasks
    }

    /// Carries out tasks until none is left to take; returns true for the caller that finished the
    /// last one.
    pub(crate) fn help(&self) -> bool {
        loop {
            let task = self.claimed.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return false;
            }
            self.run(task);
            // Release this task's writes and acquire those of the tasks before it.
            if self.done.fetch_add(1, Ordering::AcqRel) + 1 == self.tasks {
                return true;
            }
        }
    }

    /// Returns the result of a member, after every task is done.
    pub(crate) fn take(&self, member: usize) -> Option<TensorData> {
        assert_eq!(self.done.load(Ordering::Acquire), self.tasks, "results are taken at the end");
        let held = self.results.lock().unwrap_or_else(PoisonError::into_inner)[member].take()?;
        let (shape, dtype) = (self.plan.result.clone(), self.dtype);
        Some(match held {
            Held::InPlace(bytes) => TensorData::from_bytes(bytes, shape, dtype),
            // SAFETY: the blocks of a plan cover each target, and all tasks are done.
            Held::Fresh(storage) => unsafe { storage.finish(shape, dtype) },
        })
    }

    fn run(&self, task: usize) {
        let (group, piece) = (task / self.pieces, task % self.pieces);
        let begin = piece * self.task_elements;
        let end = (begin + self.task_elements).min(self.plan.length);
        match (self.plan.reduce, self.dtype) {
            (None, _) => self.copy(group, begin, end),
            (Some(op), DType::F32) => self.reduce::<f32>(op, group, begin, end),
            (Some(op), DType::F64) => self.reduce::<f64>(op, group, begin, end),
            (Some(op), DType::BF16) => self.reduce::<bf16>(op, group, begin, end),
            (Some(op), DType::F16) => self.reduce::<f16>(op, group, begin, end),
            (Some(op), DType::I32) => self.reduce::<i32>(op, group, begin, end),
            (Some(op), DType::I64) => self.reduce::<i64>(op, group, begin, end),
            (Some(_), _) => unreachable!("other element types are refused before they come here"),
        }
    }

    /// Copies elements `begin..end` of one block from one source to one target.
    fn copy(&self, group: usize, begin: usize, end: usize) {
        let (t, s) = (group / self.plan.sources.len(), group % self.plan.sources.len());
        let (target, source) = (self.plan.targets[t], self.plan.sources[s]);
        let size = self.dtype.size();
        let mut p = begin;
        while p < end {
            let count = self.plan.source.run(p).min(self.plan.target.run(p)).min(end - p);
            let from = self.plan.source.locate(p, target) * size;
            let to = self.plan.target.locate(p, source) * size;
            // SAFETY: both ranges lie inside their buffers by the arithmetic of `Plan`; the target
            // range belongs to this task alone, and no source of a copy is a target.
            unsafe {
                let (from, to) =
                    (self.source_addresses[s].add(from), self.target_addresses[t].add(to));
                std::ptr::copy_nonoverlapping(from, to, count * size);
            }
            p += count;
        }
    }

    /// Reduces elements `begin..end` of one block over all sources, and writes them to the targets
    /// of the group.
    fn reduce<L: Lane>(&self, op: ReduceOp, group: usize, begin: usize, end: usize) {
        let targets = if self.plan.shared_targets {
            0..self.target_addresses.len()
        } else {
            group..group + 1
        };
        let block_index = self.plan.targets[targets.start];
        let mut accumulator = [L::Wide::default(); BLOCK];
        let mut p = begin;
        while p < end {
            let count = self.plan.source.run(p).min(end - p).min(BLOCK);
            let acc = &mut accumulator[..count];
            let from = self.plan.source.locate(p, block_index);
            for (s, address) in self.source_addresses.iter().enumerate() {
                // SAFETY: the range lies inside the source by the arithmetic of `Plan`, is aligned
                // (checked at the rendezvous) and initialized; only this task writes it, below,
                // when this slice is gone.
                let input =
                    unsafe { std::slice::from_raw_parts(address.cast::<L>().add(from), count) };
                if s == 0 {
                    start(acc, input);
                } else {
                    fold(acc, input, op);
                }
            }
            finish(acc, self.source_addresses.len(), op);
            let to = self.plan.target.locate(p, 0);
            for address in &self.target_addresses[targets.clone()] {
                let result = address.cast::<MaybeUninit<L>>();
                // SAFETY: the range lies inside the target by the arithmetic of `Plan`, is aligned,
                // and belongs to this task alone; the slices that read it are gone.
                store(acc, unsafe { std::slice::from_raw_parts_mut(result.add(to), count) });
            }
            p += count;
        }
    }
}
