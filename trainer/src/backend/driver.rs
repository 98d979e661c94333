//! The driver of the GPU: streams, events, memory for host data on its way, and the memory and streams
//! of `CubeCL`. Every raw call but those to NCCL is here.
#![expect(unsafe_code, reason = "the driver works on handles and addresses")]

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::{DeviceHandle, StreamId};
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl::server::{BufferBinding, Handle, ServerStorage};
use cubecl_server::runtime::Runtime;
use cubecl_server::storage::{ComputeStorage, ManagedResource};
use cubecl_server::stream::WriteScoped;
use cudarc::driver::{DriverError, result, sys};

type Server = <CudaRuntime as Runtime>::Server;
type Resource = <<Server as ServerStorage>::Storage as ComputeStorage>::Resource;

pub(crate) fn told(error: DriverError) -> String {
    format!("the CUDA driver says {error:?}")
}

/// The context of one GPU that everything in this process shares.
#[derive(Debug)]
pub(crate) struct Gpu {
    context: sys::CUcontext,
}

// SAFETY: a context is a handle that every thread may make current; the primary one is never
// released here, so it is valid to the end of the process.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Opens the GPU with this number among the visible ones. The caller has found `libcuda`.
    pub(crate) fn open(number: usize) -> Result<Arc<Self>, String> {
        result::init().map_err(told)?;
        let number = i32::try_from(number).map_err(|error| error.to_string())?;
        let device = result::device::get(number).map_err(told)?;
        // SAFETY: the device comes from `device::get`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(told)?;
        Ok(Arc::new(Self { context }))
    }

    /// Makes the GPU the one that calls of this thread are about.
    pub(crate) fn enter(&self) -> Result<(), String> {
        // SAFETY: the context is live, see the type.
        unsafe { result::ctx::set_current(self.context) }.map_err(told)
    }
}

/// A queue of the GPU. It is never destroyed: it lives as long as its communicator, which lives to the
/// end of the process.
#[derive(Debug)]
pub(crate) struct Stream {
    raw: sys::CUstream,
}

// SAFETY: a stream is a handle that every thread may use.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver locks it.
unsafe impl Sync for Stream {}

impl Stream {
    /// Makes a stream that waits for no other. The GPU is entered.
    pub(crate) fn new() -> Result<Self, String> {
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(told)?;
        Ok(Self { raw })
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Lets what is queued from now on wait for an event.
    pub(crate) fn wait(&self, event: &Event) -> Result<(), String> {
        // SAFETY: both are live.
        unsafe { event.hold_back(self.raw) }
    }
}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event {
    raw: sys::CUevent,
}

// SAFETY: an event is a handle that every thread may use.
unsafe impl Send for Event {}
// SAFETY: as above; the driver locks it.
unsafe impl Sync for Event {}

impl Event {
    /// Makes an event that counts as reached. The GPU is entered.
    pub(crate) fn new() -> Result<Self, String> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        result::event::create(flags).map(|raw| Self { raw }).map_err(told)
    }

    /// Makes an event that is reached when everything queued so far has run.
    pub(crate) fn after(stream: &Stream) -> Result<Self, String> {
        let event = Self::new()?;
        // SAFETY: both are live.
        unsafe { event.record(stream.raw) }?;
        Ok(event)
    }

    /// Tells whether it was reached.
    pub(crate) fn is_reached(&self) -> Result<bool, String> {
        // SAFETY: the event is live.
        match unsafe { result::event::query(self.raw) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(told(error)),
        }
    }

    /// # Safety
    ///
    /// The stream is live.
    unsafe fn record(&self, stream: sys::CUstream) -> Result<(), String> {
        // SAFETY: the event is live; the stream is by the caller's word.
        unsafe { result::event::record(self.raw, stream) }.map_err(told)
    }

    /// # Safety
    ///
    /// The stream is live.
    unsafe fn hold_back(&self, stream: sys::CUstream) -> Result<(), String> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the event is live; the stream is by the caller's word.
        unsafe { result::stream::wait_event(stream, self.raw, flags) }.map_err(told)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: destroyed once, here. The driver keeps what waiting streams still need.
        let _ = unsafe { result::event::destroy(self.raw) };
    }
}

/// Memory of the GPU that someone keeps until the operation that uses it has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// Memory of the GPU for host data on its way, with pinned memory of the host beside it. It is kept
/// for the next call and never freed: freeing would wait for the GPU, which may hang.
#[derive(Debug)]
pub(crate) struct Staging {
    device: sys::CUdeviceptr,
    host: *mut u8,
    capacity: usize,
}

// SAFETY: the addresses belong to this value alone.
unsafe impl Send for Staging {}
// SAFETY: nothing is changed through a shared reference by the host.
unsafe impl Sync for Staging {}

impl Staging {
    /// Allocates both. The GPU is entered.
    pub(crate) fn new(capacity: usize) -> Result<Self, String> {
        // SAFETY: the memory is written before it is read: `write` or a receive comes first.
        unsafe {
            let device = result::malloc_sync(capacity).map_err(told)?;
            let host = result::malloc_host(capacity, 0).map_err(told)?;
            Ok(Self { device, host: host.cast(), capacity })
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns a part of the memory on the GPU.
    pub(crate) fn span(&self, offset: usize, bytes: usize) -> Span {
        assert!(offset + bytes <= self.capacity, "messages lie in their buffer");
        Span { address: self.device + offset as u64, bytes }
    }

    /// Copies bytes to the host side, and from there to the GPU when the stream comes to it.
    pub(crate) fn upload(&mut self, bytes: &[u8], stream: &Stream) -> Result<(), String> {
        assert!(bytes.len() <= self.capacity, "the buffer was taken for these bytes");
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the host side has room for the bytes and nothing is under way on it: a staging
        // is handed out again only after its operation has ended. It outlives the copy, because it
        // is never freed.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host, bytes.len());
            let host = std::slice::from_raw_parts(self.host, bytes.len());
            result::memcpy_htod_async(self.device, host, stream.raw).map_err(told)
        }
    }

    /// Copies the first bytes of the GPU to the host side when the stream comes to it.
    pub(crate) fn download(&self, bytes: usize, stream: &Stream) -> Result<(), String> {
        assert!(bytes <= self.capacity, "the buffer was taken for these bytes");
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: as in `upload`; nobody reads the host side before `read`.
        let copied = unsafe {
            sys::cuMemcpyDtoHAsync_v2(self.host.cast::<c_void>(), self.device, bytes, stream.raw)
        };
        copied.result().map_err(told)
    }

    /// Returns the first bytes of the host side, once `end`, made after the download, is reached.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub(crate) fn read(&self, bytes: usize, end: &Event) -> Vec<u8> {
        assert!(bytes <= self.capacity, "the buffer was taken for these bytes");
        assert_eq!(end.is_reached(), Ok(true), "results are read at the end");
        // SAFETY: the download has written the bytes, and its stream is past it.
        unsafe { std::slice::from_raw_parts(self.host, bytes) }.to_vec()
    }
}

/// The memory of a tensor, which stays where it is while this lives.
pub(crate) struct Pinned {
    resource: ManagedResource<Resource>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pinned({:?})", self.span())
    }
}

impl Pinned {
    pub(crate) fn span(&self) -> Span {
        let resource = self.resource.resource();
        Span { address: resource.ptr, bytes: resource.size as usize }
    }
}

/// What went wrong first in work that nobody waited for. The GPU's state is unknown from then on.
static FAILED: Mutex<Option<String>> = Mutex::new(None);

/// The thread on which `CubeCL` hands work to the GPU.
#[derive(Clone)]
pub(crate) struct Runner {
    handle: DeviceHandle<Server>,
}

impl Runner {
    /// Finds the runner of the GPU on which a tensor lives.
    pub(crate) fn of(tensor: &CubeTensor) -> Self {
        Self { handle: DeviceHandle::new(tensor.client.service_id().device) }
    }

    /// Finds the runner of a GPU.
    pub(crate) fn at(device: &CubeDevice) -> Self {
        Self { handle: DeviceHandle::new(device.to_id()) }
    }

    /// Pins the memory of tensors, and returns it with the point at which everything is done that the
    /// calling thread has queued so far.
    pub(crate) fn pin(&self, handles: Vec<Handle>) -> Result<(Vec<Pinned>, Event), String> {
        let stream = StreamId::current();
        let task = move |server: &mut Server| {
            let pinned = pinned(server, handles.into_iter().map(Handle::binding), stream)?;
            let event = Event::new()?;
            let stream = raw(server, stream).ok_or("the thread has no stream")?;
            // SAFETY: the server's streams live as long as the server, which runs this.
            unsafe { event.record(stream) }?;
            Ok((pinned, event))
        };
        self.run(task)
    }

    /// Lets what the streams run from now on wait for an event. Nothing waits here.
    pub(crate) fn hold_back(
        &self,
        streams: Vec<StreamId>,
        event: &Arc<Event>,
    ) -> Result<(), String> {
        let event = Arc::clone(event);
        self.run(move |server: &mut Server| {
            // A thread that has queued nothing yet has no stream; it will wait for those of the tensors.
            for stream in streams.into_iter().filter_map(|stream| raw(server, stream)) {
                // SAFETY: the server's streams live as long as the server, which runs this.
                unsafe { event.hold_back(stream) }?;
            }
            Ok(())
        })
    }

    /// Queues work on the stream of the calling thread, behind everything that it has queued so far, and does
    /// not wait. The work gets the memory of the tensors, in their order; it must only queue, on that stream.
    ///
    /// # Errors
    ///
    /// What went wrong in work that was queued before.
    pub(crate) fn queue(
        &self,
        handles: Vec<Handle>,
        work: impl FnOnce(&[Span], sys::CUstream) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let stream = StreamId::current();
        // Bindings keep the memory and do not count as holders, so that the owner of a tensor may write to it in place
        // while earlier work still waits here.
        let bindings: Vec<_> = handles.into_iter().map(Handle::binding).collect();
        self.handle.submit(move |server: &mut Server| {
            let outcome = pinned(server, bindings.into_iter(), stream).and_then(|pinned| {
                let spans: Vec<Span> = pinned.iter().map(Pinned::span).collect();
                let stream = raw(server, stream).ok_or("the thread has no stream")?;
                work(&spans, stream)
            });
            if let Err(message) = outcome {
                FAILED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
            }
        });
        match FAILED.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(message) => Err(message),
            None => Ok(()),
        }
    }

    /// Runs a task on the thread, with the GPU current, and waits for it; nothing waits for the GPU.
    ///
    /// # Errors
    ///
    /// Those of the task, or what the driver says.
    pub(crate) fn call<T: Send>(
        &self,
        task: impl FnOnce() -> Result<T, String> + Send,
    ) -> Result<T, String> {
        let number = usize::from(self.handle.device_id().index_id);
        self.run(move |_server: &mut Server| {
            // The one context of the GPU, which is `CubeCL`'s as well.
            Gpu::open(number)?.enter()?;
            task()
        })
    }

    fn run<T: Send>(
        &self,
        task: impl FnOnce(&mut Server) -> Result<T, String> + Send,
    ) -> Result<T, String> {
        let ran = self.handle.submit_blocking(task);
        ran.map_err(|error| {
            let message = error.message().unwrap_or("it has ended");
            format!("the thread that feeds the GPU failed: {message}")
        })?
    }
}

/// Pins memory for work on a stream.
fn pinned(
    server: &mut Server,
    bindings: impl Iterator<Item = BufferBinding>,
    stream: StreamId,
) -> Result<Vec<Pinned>, String> {
    let pin = |binding| {
        let resource = server.get_resource(binding, stream);
        resource.map(|resource| Pinned { resource }).map_err(|error| error.to_string())
    };
    bindings.map(pin).collect()
}

/// Returns the stream behind a number, if something was queued or pinned under it.
fn raw(server: &mut Server, stream: StreamId) -> Option<sys::CUstream> {
    server.write_streams().try_stream_mut(&stream).map(|stream| stream.sys)
}
