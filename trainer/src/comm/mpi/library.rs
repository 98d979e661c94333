//! The MPI calls that `rsmpi` offers only with borrowed buffers: operations that own theirs and are
//! tested, never waited for.
#![expect(
    unsafe_code,
    reason = "MPI keeps addresses of buffers between the start and the end of a call"
)]

use std::ffi::{CStr, c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};

use burn::tensor::{Bytes, DType, TensorData};
use mpi::environment::Universe;
use mpi::ffi;
use mpi::topology::{Color, Communicator as _, SimpleCommunicator};
use mpi::traits::AsRaw;

use super::super::ReduceOp;
use super::super::local::storage::Storage;
use super::operation::{Operation, int};

/// The initialized library. There is one, behind a mutex, and every call needs it: that is what
/// makes `MPI_THREAD_SERIALIZED` enough.
pub(super) struct Library {
    _universe: Universe,
}

impl Library {
    /// Takes the library over from `rsmpi`; dropping it ends MPI in this process.
    pub(super) fn new(universe: Universe) -> Self {
        Self { _universe: universe }
    }
}

/// A communicator. It is never freed: freeing is one more collective call, and the end of the
/// library does it.
pub(super) struct Communicator(ManuallyDrop<SimpleCommunicator>);

// SAFETY: a communicator is a handle that every thread may use; calls are serialized by `Library`.
unsafe impl Send for Communicator {}
// SAFETY: as above; nothing can be done with a shared handle without the `Library`.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// Returns the communicator of all processes.
    pub(super) fn world() -> Self {
        Self::new(SimpleCommunicator::world())
    }

    fn new(communicator: SimpleCommunicator) -> Self {
        // SAFETY: the handle is valid; errors are to come back as codes and not to end the process.
        unsafe { ffi::MPI_Comm_set_errhandler(communicator.as_raw(), ffi::RSMPI_ERRORS_RETURN) };
        Self(ManuallyDrop::new(communicator))
    }

    pub(super) fn rank(&self, _: &mut Library) -> usize {
        self.0.rank() as usize
    }

    pub(super) fn size(&self, _: &mut Library) -> usize {
        self.0.size() as usize
    }

    /// Returns a communicator of the same processes. All of them call this.
    pub(super) fn duplicate(&self, _: &mut Library) -> Self {
        Self::new(self.0.duplicate())
    }

    /// Returns the communicator of the processes that call this with the same color. All processes
    /// call this; ranks keep their order.
    pub(super) fn split(&self, _: &mut Library, color: usize) -> Self {
        let part = self.0.split_by_color(Color::with_value(color as c_int));
        Self::new(part.expect("every process gives a color"))
    }

    /// Returns the communicator of the processes that share this one's memory. All processes call
    /// this.
    pub(super) fn split_shared(&self, _: &mut Library) -> Self {
        Self::new(self.0.split_shared(0))
    }

    /// Ends all processes.
    pub(super) fn abort(&self, _: &mut Library, code: i32) -> ! {
        self.0.abort(code)
    }

    /// Tells whether a message under `tag` has come: its source and its bytes.
    pub(super) fn probe(
        &self,
        _: &mut Library,
        tag: i32,
    ) -> Result<Option<(usize, usize)>, String> {
        let mut flag: c_int = 0;
        let mut status = MaybeUninit::uninit();
        let mut bytes: c_int = 0;
        // SAFETY: the addresses are those of local variables; the status is read only if MPI says
        // that it has written it.
        unsafe {
            check(ffi::MPI_Iprobe(
                ffi::RSMPI_ANY_SOURCE,
                tag,
                self.0.as_raw(),
                &raw mut flag,
                status.as_mut_ptr(),
            ))?;
            if flag == 0 {
                return Ok(None);
            }
            check(ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &raw mut bytes))?;
            Ok(Some((status.assume_init().MPI_SOURCE as usize, bytes as usize)))
        }
    }
}

/// An operation under way, with the buffers MPI still uses.
pub(super) struct Request {
    raw: ffi::MPI_Request,
    buffers: ManuallyDrop<Buffers>,
    is_done: bool,
}

struct Buffers {
    send: Option<Bytes>,
    receive: Option<Storage>,
    received: usize,
    /// Counts and offsets of the operations that take arrays of them.
    arrays: [Vec<c_int>; 4],
}

// SAFETY: a request is a handle that every thread may use, and the buffers are owned.
unsafe impl Send for Request {}

impl Request {
    /// Starts an operation that reads `send` and receives `received` elements of `dtype`.
    ///
    /// The caller vouches for nothing: lengths are checked against the operation.
    pub(super) fn start(
        library: &mut Library,
        on: &Communicator,
        operation: &Operation,
        send: Option<Bytes>,
        received: Option<usize>,
        dtype: DType,
    ) -> Result<Self, String> {
        let members = on.size(library);
        let sent = send.as_ref().map_or(0, |bytes| bytes.len() / dtype.size());
        operation.check(members, sent, received);
        let receive = received.map(|count| Storage::reserve(count, dtype.size()));
        let arrays = operation.arrays(members)?;
        let received = received.unwrap_or(0);
        let mut buffers = ManuallyDrop::new(Buffers { send, receive, received, arrays });
        // SAFETY: `check` has made sure that the buffers hold what the operation reads and have
        // room for what it writes; they stay where they are until `test` has seen the end.
        let raw = unsafe { operation.start(on.0.as_raw(), &mut buffers, sent, dtype)? };
        Ok(Self { raw, buffers, is_done: false })
    }

    /// Tells whether the operation has ended.
    pub(super) fn test(&mut self, _: &mut Library) -> Result<bool, String> {
        if !self.is_done {
            let mut flag: c_int = 0;
            // SAFETY: the request is live: it becomes null only when the flag is set.
            let code = unsafe {
                ffi::MPI_Test(&raw mut self.raw, &raw mut flag, ffi::RSMPI_STATUS_IGNORE)
            };
            check(code)?;
            self.is_done = flag != 0;
        }
        Ok(self.is_done)
    }

    /// Tells whether [`Self::test`] has seen the end.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Returns what was received by an operation that has ended, as `shape`; nothing where nothing
    /// was to be.
    ///
    /// # Panics
    ///
    /// If the operation has not ended, or `shape` has more elements than were received.
    pub(super) fn into_received(mut self, shape: Vec<usize>, dtype: DType) -> Option<TensorData> {
        assert!(self.is_done, "results are taken at the end");
        let elements: usize = shape.iter().product();
        let storage = self.buffers.receive.take()?;
        assert!(elements <= self.buffers.received, "a result is what was received");
        // SAFETY: the operation has written all elements and holds the address no more.
        Some(unsafe { storage.finish(shape, dtype) })
    }

    /// Returns the buffer that was sent by an operation that has ended.
    pub(super) fn into_sent(mut self) -> Option<Bytes> {
        assert!(self.is_done, "buffers are taken back at the end");
        self.buffers.send.take()
    }
}

impl Drop for Request {
    /// Lets go of the buffers, unless MPI may still write to them: then they are never freed.
    fn drop(&mut self) {
        if self.is_done {
            // SAFETY: dropped once, here; MPI holds the addresses no more.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        }
    }
}

impl Operation {
    /// Starts the operation.
    ///
    /// # Safety
    ///
    /// The buffers fit the operation and neither move nor go before it has ended.
    unsafe fn start(
        &self,
        on: ffi::MPI_Comm,
        buffers: &mut Buffers,
        sent: usize,
        dtype: DType,
    ) -> Result<ffi::MPI_Request, String> {
        let from = buffers.send.as_ref().map_or(std::ptr::null(), |bytes| bytes.as_ptr());
        let from: *const c_void = from.cast();
        let to = buffers.receive.as_mut().map_or(std::ptr::null_mut(), Storage::as_mut_ptr);
        let to: *mut c_void = to.cast();
        let (sent, received) = (int(sent)?, int(buffers.received)?);
        let [counts, offsets, receive_counts, receive_offsets] = &buffers.arrays;
        let mut raw = MaybeUninit::uninit();
        let request = raw.as_mut_ptr();
        // SAFETY: as promised by the caller; MPI writes the request before it returns.
        unsafe {
            let (unit, number) = (unit(dtype), number(dtype));
            check(match *self {
                Self::AllGather { count } => {
                    let count = int(count)?;
                    ffi::MPI_Iallgather(from, count, unit, to, count, unit, on, request)
                }
                Self::AllGatherV { .. } => {
                    let (counts, offsets) = (receive_counts.as_ptr(), receive_offsets.as_ptr());
                    ffi::MPI_Iallgatherv(from, sent, unit, to, counts, offsets, unit, on, request)
                }
                Self::AllToAll { count } => {
                    let count = int(count)?;
                    ffi::MPI_Ialltoall(from, count, unit, to, count, unit, on, request)
                }
                Self::AllToAllV { .. } => ffi::MPI_Ialltoallv(
                    from,
                    counts.as_ptr(),
                    offsets.as_ptr(),
                    unit,
                    to,
                    receive_counts.as_ptr(),
                    receive_offsets.as_ptr(),
                    unit,
                    on,
                    request,
                ),
                Self::Broadcast { root } => {
                    // The root's buffer is only read, whatever the type of the parameter.
                    let buffer = if to.is_null() { from.cast_mut() } else { to };
                    ffi::MPI_Ibcast(buffer, sent.max(received), unit, int(root)?, on, request)
                }
                Self::Scatter { root, count } => {
                    let (count, root) = (int(count)?, int(root)?);
                    ffi::MPI_Iscatter(from, count, unit, to, count, unit, root, on, request)
                }
                Self::Gather { root, count } => {
                    let (count, root) = (int(count)?, int(root)?);
                    ffi::MPI_Igather(from, count, unit, to, count, unit, root, on, request)
                }
                Self::AllReduce { op } => {
                    ffi::MPI_Iallreduce(from, to, sent, number, reduction(op), on, request)
                }
                Self::ReduceScatter { op, count } => {
                    let (count, op) = (int(count)?, reduction(op));
                    ffi::MPI_Ireduce_scatter_block(from, to, count, number, op, on, request)
                }
                Self::Reduce { op, root } => {
                    ffi::MPI_Ireduce(from, to, sent, number, reduction(op), int(root)?, on, request)
                }
                Self::Send { to, tag } => {
                    ffi::MPI_Isend(from, sent, unit, int(to)?, tag, on, request)
                }
                Self::Receive { from, tag } => {
                    ffi::MPI_Irecv(to, received, unit, int(from)?, tag, on, request)
                }
                Self::Barrier => ffi::MPI_Ibarrier(on, request),
            })?;
            Ok(raw.assume_init())
        }
    }
}

/// Returns the MPI type that moves elements of this size.
unsafe fn unit(dtype: DType) -> ffi::MPI_Datatype {
    // SAFETY: constants of the library, written before `main`.
    unsafe {
        match dtype.size() {
            1 => ffi::RSMPI_UINT8_T,
            2 => ffi::RSMPI_UINT16_T,
            4 => ffi::RSMPI_UINT32_T,
            _ => ffi::RSMPI_UINT64_T,
        }
    }
}

/// Returns the MPI type that MPI itself can reduce; callers ask only for those it has.
unsafe fn number(dtype: DType) -> ffi::MPI_Datatype {
    // SAFETY: as above.
    unsafe {
        match dtype {
            DType::F32 => ffi::RSMPI_FLOAT,
            DType::F64 => ffi::RSMPI_DOUBLE,
            DType::I32 => ffi::RSMPI_INT32_T,
            DType::I64 => ffi::RSMPI_INT64_T,
            _ => ffi::RSMPI_DATATYPE_NULL,
        }
    }
}

/// Returns MPI's reduction; an average is a sum that the caller divides.
unsafe fn reduction(op: ReduceOp) -> ffi::MPI_Op {
    // SAFETY: as above.
    unsafe {
        match op {
            ReduceOp::Sum | ReduceOp::Avg => ffi::RSMPI_SUM,
            ReduceOp::Prod => ffi::RSMPI_PROD,
            ReduceOp::Max => ffi::RSMPI_MAX,
            ReduceOp::Min => ffi::RSMPI_MIN,
        }
    }
}

/// Turns an error code into MPI's own words.
fn check(code: c_int) -> Result<(), String> {
    // MPI_SUCCESS is 0 in the standard.
    if code == 0 {
        return Ok(());
    }
    let mut text = [0; 4096];
    let mut length = 0;
    // SAFETY: the buffer is longer than MPI_MAX_ERROR_STRING of any library and ends with zeros.
    let text = unsafe {
        ffi::MPI_Error_string(code, text.as_mut_ptr(), &raw mut length);
        CStr::from_ptr(text.as_ptr())
    };
    Err(text.to_string_lossy().into_owned())
}
