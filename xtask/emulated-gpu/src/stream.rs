//! Streams, each a thread that runs what is queued in its order, and events.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use crate::device::{Code, INVALID_VALUE, NOT_READY, SUCCESS, within};
use crate::lock;

type Task = Box<dyn FnOnce() + Send>;

/// A queue of work.
pub(crate) struct Stream {
    tasks: Mutex<Sender<Task>>,
}

impl Stream {
    fn start() -> Self {
        let (tasks, queue) = channel::<Task>();
        let run = move || queue.into_iter().for_each(|task| task());
        thread::Builder::new()
            .name("emulated stream".to_owned())
            .spawn(run)
            .expect("the system can start a thread");
        Self { tasks: Mutex::new(tasks) }
    }

    /// Returns the stream behind a handle; without one, that of the whole process.
    pub(crate) unsafe fn of<'a>(handle: *mut c_void) -> &'a Self {
        static DEFAULT: OnceLock<Stream> = OnceLock::new();
        if handle.is_null() {
            return DEFAULT.get_or_init(Self::start);
        }
        unsafe { &*handle.cast::<Self>() }
    }

    pub(crate) fn queue(&self, task: impl FnOnce() + Send + 'static) {
        // The thread ends with the last sender, which is this one.
        let _ = lock(&self.tasks).send(Box::new(task));
    }

    /// Waits for everything queued so far.
    pub(crate) fn synchronize(&self) {
        let (done, wait) = channel();
        self.queue(move || {
            let _ = done.send(());
        });
        let _ = wait.recv();
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> Code {
    within(|| {
        unsafe { *stream = Box::into_raw(Box::new(Stream::start())).cast() };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut *mut c_void,
    flags: c_uint,
    _priority: c_int,
) -> Code {
    unsafe { cuStreamCreate(stream, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> Code {
    if stream.is_null() {
        return INVALID_VALUE;
    }
    drop(unsafe { Box::from_raw(stream.cast::<Stream>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> Code {
    unsafe { Stream::of(stream) }.synchronize();
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(
    stream: *mut c_void,
    event: *mut c_void,
    _flags: c_uint,
) -> Code {
    within(|| {
        let event = unsafe { Event::of(event) };
        // Only what was recorded by now counts.
        let recorded = lock(&event.passes).recorded;
        unsafe { Stream::of(stream) }.queue(move || event.wait(recorded));
        SUCCESS
    })
}

/// A point in a stream, which may be set again.
#[derive(Default)]
pub(crate) struct Event {
    passes: Mutex<Passes>,
    changed: Condvar,
}

#[derive(Default)]
struct Passes {
    recorded: u64,
    reached: u64,
    at: Option<Instant>,
}

impl Event {
    unsafe fn of(handle: *mut c_void) -> Arc<Self> {
        Arc::clone(unsafe { &*handle.cast::<Arc<Self>>() })
    }

    fn wait(&self, recorded: u64) {
        let mut passes = lock(&self.passes);
        while passes.reached < recorded {
            passes = self.changed.wait(passes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn reach(&self, recorded: u64) {
        let mut passes = lock(&self.passes);
        passes.reached = passes.reached.max(recorded);
        passes.at = Some(Instant::now());
        drop(passes);
        self.changed.notify_all();
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> Code {
    within(|| {
        let made: Box<Arc<Event>> = Box::default();
        unsafe { *event = Box::into_raw(made).cast() };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Code {
    drop(unsafe { Box::from_raw(event.cast::<Arc<Event>>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> Code {
    within(|| {
        let event = unsafe { Event::of(event) };
        let mut passes = lock(&event.passes);
        passes.recorded += 1;
        let recorded = passes.recorded;
        drop(passes);
        unsafe { Stream::of(stream) }.queue(move || event.reach(recorded));
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: *mut c_void) -> Code {
    let event = unsafe { Event::of(event) };
    let passes = lock(&event.passes);
    if passes.reached < passes.recorded { NOT_READY } else { SUCCESS }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: *mut c_void) -> Code {
    let event = unsafe { Event::of(event) };
    let recorded = lock(&event.passes).recorded;
    event.wait(recorded);
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> Code {
    let [start, end] = [start, end].map(|event| {
        let event = unsafe { Event::of(event) };
        lock(&event.passes).at
    });
    let Some((start, end)) = start.zip(end) else { return NOT_READY };
    unsafe { *milliseconds = end.saturating_duration_since(start).as_secs_f32() * 1e3 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> Code {
    unsafe { cuEventElapsedTime(milliseconds, start, end) }
}
