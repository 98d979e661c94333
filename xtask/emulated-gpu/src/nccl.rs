//! Communicators: non-blocking ones, whose calls return before their operation is queued.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::communicator::{
    Call, Communicator, IN_PROGRESS, INVALID_ARGUMENT, INVALID_USAGE, Operation, SUCCESS, SYSTEM,
};
use crate::device::current;
use crate::reduce::{is_known, size};
use crate::stream::Stream;
use crate::world::{Refusal, World, serve};
use crate::{lock, setting};

const ID_BYTES: usize = 128;
const MAGIC: u32 = 0xcafe_beef;
/// First version that lets ranks share a GPU.
const SHARING: i32 = 23_000;
/// Pause before anything that happens behind the caller's back.
const PAUSE: Duration = Duration::from_millis(2);

/// `ncclUniqueId`: here the address of rank 0, as text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Identifier([u8; ID_BYTES]);

/// The head of `ncclConfig_t`.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

type Shared = Arc<Communicator>;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static GROUP: RefCell<Vec<(Shared, usize, Call)>> = const { RefCell::new(Vec::new()) };
}

unsafe fn of(handle: *mut c_void) -> Shared {
    Arc::clone(unsafe { &*handle.cast::<Shared>() })
}

fn version() -> c_int {
    setting("EMULATED_NCCL_VERSION", 23_004)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(to: *mut c_int) -> c_int {
    unsafe { *to = version() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(code: c_int) -> *const c_char {
    match code {
        SYSTEM => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        _ => c"no error",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetLastError(communicator: *mut c_void) -> *const c_char {
    if communicator.is_null() {
        return c"".as_ptr();
    }
    let communicator = unsafe { of(communicator) };
    let message = communicator.message();
    // A message lives as long as the process: it is read at leisure.
    message.into_raw()
}

/// Returns the address that `NCCL_COMM_ID` names.
fn announced() -> Option<SocketAddr> {
    use std::net::ToSocketAddrs;
    let text = std::env::var("NCCL_COMM_ID").ok()?;
    text.to_socket_addrs().ok()?.next()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut Identifier) -> c_int {
    let address = match announced() {
        Some(address) => address,
        None => match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
            Ok(listener) => {
                let Ok(address) = listener.local_addr() else { return SYSTEM };
                // How many come is in the first card's world; the listener waits for that.
                *lock(&WAITING) = Some(listener);
                address
            }
            Err(_) => return SYSTEM,
        },
    };
    let mut bytes = [0; ID_BYTES];
    let text = address.to_string();
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    unsafe { *id = Identifier(bytes) };
    SUCCESS
}

/// Where this process, as rank 0, waits for a world whose size it does not know yet.
static WAITING: Mutex<Option<TcpListener>> = Mutex::new(None);

/// Meets the others; what happens behind `ncclCommInitRankConfig`.
fn meet(
    address: SocketAddr,
    (rank, members): (usize, usize),
    gpu: usize,
) -> Result<Arc<World>, Refusal> {
    if rank == 0 {
        let waiting = lock(&WAITING).take();
        let listener = match waiting {
            Some(listener) => listener,
            None => TcpListener::bind(address)?,
        };
        thread::spawn(move || serve(&listener, members));
    }
    let may_share = version() >= SHARING && setting("NCCL_MULTI_RANK_GPU_ENABLE", 0) == 1;
    World::join(address, (rank, members), gpu, may_share)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    handle: *mut *mut c_void,
    members: c_int,
    id: Identifier,
    rank: c_int,
    config: *mut Config,
) -> c_int {
    let config = unsafe { &*config };
    let is_sound = config.magic == MAGIC && config.size >= size_of::<Config>();
    if !is_sound || config.blocking != 0 || config.version < 2_000 || rank >= members || rank < 0 {
        return INVALID_ARGUMENT;
    }
    let text = String::from_utf8_lossy(&id.0);
    let Ok(address) = text.trim_end_matches('\0').parse::<SocketAddr>() else {
        return INVALID_ARGUMENT;
    };
    let (rank, members) = (rank as usize, members as usize);
    let gpu = current().unwrap_or(0);
    let made: Shared = Arc::new(Communicator::of_world(rank, members));
    unsafe { *handle = Box::into_raw(Box::new(Arc::clone(&made))).cast() };
    thread::spawn(move || {
        thread::sleep(PAUSE);
        match meet(address, (rank, members), gpu) {
            Ok(world) => made.enter(world),
            Err(Refusal::System(message)) => {
                made.fail(SYSTEM, &message);
            }
            Err(Refusal::SharedGpu(message)) => {
                made.fail(INVALID_USAGE, &message);
            }
        }
        made.end();
    });
    IN_PROGRESS
}

/// Members with a color find each other; the child's handle is written when it is ready.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(
    parent: *mut c_void,
    color: c_int,
    key: c_int,
    child: *mut *mut c_void,
    _config: *mut Config,
) -> c_int {
    let parent = unsafe { of(parent) };
    let code = parent.begin();
    if code != SUCCESS {
        return code;
    }
    unsafe { *child = std::ptr::null_mut() };
    let child = child.expose_provenance();
    thread::spawn(move || {
        thread::sleep(PAUSE);
        if let Some(made) = parent.split(color, key).map(Arc::new) {
            let handle: *mut c_void = Box::into_raw(Box::new(made)).cast();
            let child = std::ptr::with_exposed_provenance_mut::<*mut c_void>(child);
            // SAFETY: the caller keeps the handle's place until the parent is ready.
            unsafe { *child = handle };
        }
        parent.end();
    });
    IN_PROGRESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(handle: *mut c_void, code: *mut c_int) -> c_int {
    unsafe { *code = of(handle).status() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(handle: *mut c_void) -> c_int {
    unsafe { of(handle) }.abort();
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> c_int {
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    SUCCESS
}

/// Starts what was called since the group began.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> c_int {
    let depth = DEPTH.with(|depth| depth.replace(depth.get().saturating_sub(1)));
    match depth {
        0 => return INVALID_USAGE,
        1 => {}
        _ => return SUCCESS,
    }
    let group = GROUP.with(RefCell::take);
    let Some((communicator, stream, _)) = group.first().cloned() else { return SUCCESS };
    if !group.iter().all(|(other, queue, _)| Arc::ptr_eq(other, &communicator) && *queue == stream)
    {
        return communicator.fail(INVALID_USAGE, "one communicator and stream in a group, here");
    }
    let code = communicator.begin();
    if code != SUCCESS {
        return code;
    }
    let calls: Vec<Call> = group.into_iter().map(|(_, _, call)| call).collect();
    thread::spawn(move || {
        thread::sleep(PAUSE);
        let runner = Arc::clone(&communicator);
        let stream = std::ptr::with_exposed_provenance_mut(stream);
        unsafe { Stream::of(stream) }.queue(move || {
            runner.run(&calls);
        });
        communicator.end();
    });
    IN_PROGRESS
}

/// Adds a call to the group, or makes one of it.
unsafe fn call(handle: *mut c_void, stream: *mut c_void, call: Call) -> c_int {
    let communicator = unsafe { of(handle) };
    let (members, known) = (communicator.size(), size(call.kind).is_some());
    let is_sound = known
        && match call.operation {
            Operation::AllReduce(op) | Operation::ReduceScatter(op) => is_known(op),
            Operation::Reduce(op, root) => is_known(op) && root < members,
            Operation::Broadcast(peer) | Operation::Send(peer) | Operation::Receive(peer) => {
                peer < members
            }
            Operation::AllGather => true,
        };
    if !is_sound {
        return communicator.fail(INVALID_ARGUMENT, "an argument is out of range");
    }
    ncclGroupStart();
    GROUP.with_borrow_mut(|group| {
        group.push((communicator, stream.expose_provenance(), call));
    });
    ncclGroupEnd()
}

macro_rules! collective {
    ($name:ident, ($($extra:ident),*), $operation:expr) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            from: u64,
            to: u64,
            count: usize,
            kind: c_int,
            $($extra: c_int,)*
            communicator: *mut c_void,
            stream: *mut c_void,
        ) -> c_int {
            let operation = $operation;
            unsafe { call(communicator, stream, Call { operation, from, to, count, kind }) }
        }
    };
}

collective!(ncclAllReduce, (op), Operation::AllReduce(op));
collective!(ncclAllGather, (), Operation::AllGather);
collective!(ncclReduceScatter, (op), Operation::ReduceScatter(op));
collective!(ncclBroadcast, (root), Operation::Broadcast(root as usize));
collective!(ncclReduce, (op, root), Operation::Reduce(op, root as usize));

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclSend(
    from: u64,
    count: usize,
    kind: c_int,
    peer: c_int,
    communicator: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let operation = Operation::Send(peer as usize);
    unsafe { call(communicator, stream, Call { operation, from, to: 0, count, kind }) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclRecv(
    to: u64,
    count: usize,
    kind: c_int,
    peer: c_int,
    communicator: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let operation = Operation::Receive(peer as usize);
    unsafe { call(communicator, stream, Call { operation, from: 0, to, count, kind }) }
}
