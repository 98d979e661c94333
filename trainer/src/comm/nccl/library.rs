//! The calls to NCCL. The library is opened when it is first called, which whoever joins a world has
//! made sure is possible.
//!
//! Communicators are non-blocking: a call may return while its operation is still being set up with the
//! other members, and none may follow before [`Communicator::is_ready`] says so. So nothing ever blocks
//! inside NCCL, and every wait has a time limit.
#![expect(unsafe_code, reason = "NCCL works on handles and addresses")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use burn::tensor::DType;
use cudarc::nccl::sys;

use super::super::ReduceOp;
use super::bootstrap::ADDRESS_VARIABLE;
use crate::backend::driver::{Span, Stream};

/// Bytes of an identifier.
pub(super) const ID_BYTES: usize = 128;
/// Magic number and undefined value of NCCL's configuration, from its header.
const CONFIG_MAGIC: u32 = 0xcafe_beef;
const UNDEFINED: c_int = c_int::MIN;
/// Color of members that get no communicator.
const NO_COLOR: c_int = -1;
/// Version of NCCL whose configuration this file fills in.
const CONFIG_VERSION: u32 = 23_000;

/// Names a world to those who join it.
#[derive(Clone, Copy)]
pub(super) struct Identifier(sys::ncclUniqueId);

impl Identifier {
    /// Makes an identifier; with `NCCL_COMM_ID` set it is the same on every process.
    pub(super) fn new() -> Result<Self, String> {
        let mut id = sys::ncclUniqueId { internal: [0; ID_BYTES] };
        // SAFETY: NCCL writes the identifier, which is plain bytes.
        check(unsafe { sys::ncclGetUniqueId(&raw mut id) }, std::ptr::null_mut())?;
        Ok(Self(id))
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        bytemuck::cast::<_, [u8; ID_BYTES]>(self.0.internal).to_vec()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; ID_BYTES] = bytes.try_into().ok()?;
        Some(Self(sys::ncclUniqueId { internal: bytemuck::cast(bytes) }))
    }
}

/// What a collective does with its buffers. Counts are in elements of the send buffer, except that
/// a reduce-scatter counts those of the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    AllReduce(ReduceOp),
    AllGather,
    ReduceScatter(ReduceOp),
    Broadcast(usize),
    Reduce(ReduceOp, usize),
}

/// One end of a communicator. It is never destroyed in order: that is one more call that all members
/// make, and the end of the process does it. [`Self::abort`] ends it with everything under way.
#[derive(Debug)]
pub(super) struct Communicator {
    raw: sys::ncclComm_t,
    members: usize,
}

// SAFETY: a communicator may be used from any thread, one at a time.
unsafe impl Send for Communicator {}

/// Where NCCL writes the handle of a new communicator, from a thread of its own. The few bytes are
/// never freed, so it may write them again.
#[derive(Debug)]
pub(super) struct Child {
    cell: &'static AtomicPtr<sys::ncclComm>,
    members: usize,
}

impl Child {
    fn new(members: usize) -> Self {
        Self { cell: Box::leak(Box::new(AtomicPtr::new(std::ptr::null_mut()))), members }
    }

    /// Returns the communicator, once whoever makes it is ready.
    pub(super) fn into_communicator(self) -> Result<Communicator, String> {
        let raw = self.cell.load(Ordering::Acquire);
        if raw.is_null() {
            return Err("NCCL made no communicator".to_owned());
        }
        Ok(Communicator { raw, members: self.members })
    }
}

impl Communicator {
    /// Starts to join a world. NCCL writes the handle at once; setting up goes on behind.
    pub(super) fn join(
        id: Identifier,
        members: usize,
        rank: usize,
        version: u32,
    ) -> Result<Self, String> {
        let child = Child::new(members);
        let mut config = config(version);
        let (count, number) = (int(members)?, int(rank)?);
        let cell = child.cell.as_ptr();
        // SAFETY: the handle's memory is never freed, and NCCL copies the configuration.
        let code =
            unsafe { sys::ncclCommInitRankConfig(cell, count, id.0, number, &raw mut config) };
        check(code, std::ptr::null_mut())?;
        child.into_communicator()
    }

    /// Starts to make the communicator of the members that give the same color, in the order of their
    /// keys; without a color none is made. All members call this; the child is there when this one is
    /// ready again.
    pub(super) fn split(
        &mut self,
        color: Option<usize>,
        key: usize,
        members: usize,
    ) -> Result<Child, String> {
        let child = Child::new(members);
        let color = color.map_or(Ok(NO_COLOR), int)?;
        let (key, cell) = (int(key)?, child.cell.as_ptr());
        // SAFETY: the handle is live, the child's memory is never freed, and no configuration means
        // that of the parent.
        let code = unsafe { sys::ncclCommSplit(self.raw, color, key, cell, std::ptr::null_mut()) };
        check(code, self.raw)?;
        Ok(child)
    }

    /// Tells whether the last call has done its part and another may follow.
    ///
    /// # Errors
    ///
    /// It failed, or an operation that was under way did.
    pub(super) fn is_ready(&self) -> Result<bool, String> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the handle is live; NCCL writes one number.
        check(unsafe { sys::ncclCommGetAsyncError(self.raw, &raw mut state) }, self.raw)?;
        match state {
            sys::ncclResult_t::ncclInProgress => Ok(false),
            state => check(state, self.raw).map(|()| true),
        }
    }

    /// Queues a collective. The communicator is ready, and the memory stays until it has ended.
    pub(super) fn transfer(
        &mut self,
        transfer: Transfer,
        (send, receive): (Span, Span),
        count: usize,
        dtype: DType,
        stream: &Stream,
    ) -> Result<(), String> {
        self.fits(transfer, (send, receive), count * dtype.size());
        let kind = element(dtype)?;
        let (from, to) = (send.address as *const c_void, receive.address as *mut c_void);
        let (on, queue) = (self.raw, stream.raw().cast());
        // SAFETY: the handles are live and the buffers hold what the operation reads and writes; that
        // they stay is the caller's part, and they are memory of the GPU, not of this program.
        let code = unsafe {
            match transfer {
                Transfer::AllReduce(op) => {
                    sys::ncclAllReduce(from, to, count, kind, reduction(op), on, queue)
                }
                Transfer::AllGather => sys::ncclAllGather(from, to, count, kind, on, queue),
                Transfer::ReduceScatter(op) => {
                    sys::ncclReduceScatter(from, to, count, kind, reduction(op), on, queue)
                }
                Transfer::Broadcast(root) => {
                    sys::ncclBroadcast(from, to, count, kind, int(root)?, on, queue)
                }
                Transfer::Reduce(op, root) => {
                    sys::ncclReduce(from, to, count, kind, reduction(op), int(root)?, on, queue)
                }
            }
        };
        check(code, self.raw)
    }

    fn fits(&self, transfer: Transfer, (send, receive): (Span, Span), bytes: usize) {
        let (sent, received) = match transfer {
            Transfer::AllGather => (bytes, bytes * self.members),
            Transfer::ReduceScatter(_) => (bytes * self.members, bytes),
            _ => (bytes, bytes),
        };
        assert!(
            sent <= send.bytes && received <= receive.bytes,
            "{transfer:?} of {bytes} bytes does not fit {send:?} and {receive:?}"
        );
    }

    /// Queues messages to and from members as one operation, in which none waits for another. The
    /// communicator is ready, and the memory stays until it has ended.
    pub(super) fn exchange(
        &mut self,
        sends: &[(usize, Span)],
        receives: &[(usize, Span)],
        stream: &Stream,
    ) -> Result<(), String> {
        let byte = sys::ncclDataType_t::ncclUint8;
        let (on, queue) = (self.raw, stream.raw().cast());
        // SAFETY: the handles are live; the spans are memory of the GPU, which the caller keeps. A
        // group that was started is ended on every way out.
        unsafe {
            check(sys::ncclGroupStart(), self.raw)?;
            let sent = sends.iter().try_for_each(|(peer, part)| {
                let from = part.address as *const c_void;
                check(sys::ncclSend(from, part.bytes, byte, int(*peer)?, on, queue), on)
            });
            let received = receives.iter().try_for_each(|(peer, part)| {
                let to = part.address as *mut c_void;
                check(sys::ncclRecv(to, part.bytes, byte, int(*peer)?, on, queue), on)
            });
            let ended = check(sys::ncclGroupEnd(), self.raw);
            sent.and(received).and(ended)
        }
    }

    /// Ends the communicator and whatever is under way on it, behind the caller's back: it may wait for
    /// the GPU.
    pub(super) fn abort(self) {
        let run = move || {
            let whole = self;
            // SAFETY: the handle is live and was given up by its only owner. What it says does not
            // matter any more.
            let _ = unsafe { sys::ncclCommAbort(whole.raw) };
        };
        // Without a thread the end of the process does it.
        let _ = std::thread::Builder::new().name("nccl abort".to_owned()).spawn(run);
    }
}

/// Returns the configuration of a world: only that calls do not block is chosen.
fn config(version: u32) -> sys::ncclConfig_t {
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        // An older library reads the fields it knows; a newer one fills in its own.
        version: version.min(CONFIG_VERSION),
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}

/// Returns the type in which NCCL moves and reduces elements.
pub(super) fn element(dtype: DType) -> Result<sys::ncclDataType_t, String> {
    Ok(match dtype {
        DType::F64 => sys::ncclDataType_t::ncclFloat64,
        DType::F32 => sys::ncclDataType_t::ncclFloat32,
        DType::F16 => sys::ncclDataType_t::ncclFloat16,
        DType::BF16 => sys::ncclDataType_t::ncclBfloat16,
        DType::I64 => sys::ncclDataType_t::ncclInt64,
        DType::I32 => sys::ncclDataType_t::ncclInt32,
        DType::I8 => sys::ncclDataType_t::ncclInt8,
        DType::U64 => sys::ncclDataType_t::ncclUint64,
        DType::U32 => sys::ncclDataType_t::ncclUint32,
        DType::U8 => sys::ncclDataType_t::ncclUint8,
        _ => return Err(format!("NCCL has no element type {}", dtype.name())),
    })
}

fn reduction(op: ReduceOp) -> sys::ncclRedOp_t {
    match op {
        ReduceOp::Sum => sys::ncclRedOp_t::ncclSum,
        ReduceOp::Avg => sys::ncclRedOp_t::ncclAvg,
        ReduceOp::Max => sys::ncclRedOp_t::ncclMax,
        ReduceOp::Min => sys::ncclRedOp_t::ncclMin,
        ReduceOp::Prod => sys::ncclRedOp_t::ncclProd,
    }
}

fn int(value: usize) -> Result<c_int, String> {
    c_int::try_from(value).map_err(|_| format!("{value} is more than NCCL counts"))
}

/// Tells NCCL, and every process started later, where rank 0 listens.
///
/// To be called before anything of NVIDIA's is opened in this process.
pub(super) fn announce(address: &str) {
    // SAFETY: Rust's own readers of the environment take its lock, and the C libraries that read it
    // without are not open yet.
    unsafe { std::env::set_var(ADDRESS_VARIABLE, address) };
}

/// Turns a code into NCCL's own words.
fn check(code: sys::ncclResult_t, on: sys::ncclComm_t) -> Result<(), String> {
    if matches!(code, sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress) {
        return Ok(());
    }
    // SAFETY: NCCL returns text of its own that ends with a zero; it takes no handle as well.
    let (kind, last) =
        unsafe { (text(sys::ncclGetErrorString(code)), text(sys::ncclGetLastError(on))) };
    Err(if last.is_empty() { kind } else { format!("{kind}: {}", last.trim()) })
}

/// # Safety
///
/// The pointer is null or ends with a zero.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
