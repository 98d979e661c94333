//! [`Trace`]: when every rank did what, in the trace event format that Perfetto and Chrome read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::world::rank_of_thread;

/// The span of an optimizer step; its field `step` counts from 1.
const STEP: &str = "step";

/// The span of a collective from its issue to the end of the wait. It is never entered: other work
/// goes on meanwhile.
const IN_FLIGHT: &str = "in_flight";

/// Which steps a trace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceWindow {
    /// First steps of which nothing is recorded.
    pub wait: u64,
    /// Steps after those that are recorded and thrown away, so that what follows is no first time.
    pub warmup: u64,
}

/// Records the spans of the ranks' steps.
///
/// A rank is a process of the trace and its threads are tracks. Communication under way lies on
/// tracks of its own, one per operation, because it overlaps what the threads do. Spans carry their
/// fields and those of the spans around them.
///
/// A clone records into the same trace.
#[derive(Debug, Clone)]
pub struct Trace {
    begin: Instant,
    window: TraceWindow,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    /// Ranks within a step that is recorded.
    recording: BTreeSet<usize>,
    events: Vec<Event>,
    threads: BTreeMap<(usize, String), usize>,
}

#[derive(Debug)]
struct Event {
    name: String,
    rank: usize,
    thread: usize,
    start: Duration,
    end: Duration,
    /// Number of a collective under way; nothing for work of a thread.
    in_flight: Option<u64>,
    fields: Map<String, Value>,
}

/// What a span remembers until it ends.
struct Open {
    fields: Map<String, Value>,
    rank: usize,
    start: Option<Duration>,
}

impl Trace {
    /// Starts an empty trace.
    pub fn new(window: TraceWindow) -> Self {
        Self { begin: Instant::now(), window, record: Arc::default() }
    }

    /// Writes the trace as JSON and returns the number of spans.
    ///
    /// # Errors
    ///
    /// The writer's.
    pub fn write(&self, mut out: impl Write) -> io::Result<usize> {
        let mut record = self.record();
        record.events.sort_by_key(|event| (event.start, std::cmp::Reverse(event.end)));
        let ranks: BTreeSet<usize> = record.threads.keys().map(|(rank, _)| *rank).collect();
        let named = |kind: &str, rank: usize, thread: usize, name: &str| json!({"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": {"name": name}});
        let processes =
            ranks.iter().map(|rank| named("process_name", *rank, 0, &format!("rank {rank}")));
        let threads = record
            .threads
            .iter()
            .map(|((rank, name), thread)| named("thread_name", *rank, *thread, name));
        out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        let mut separator = "\n";
        for row in processes.chain(threads).chain(record.events.iter().flat_map(Event::rows)) {
            write!(out, "{separator}{row}")?;
            separator = ",\n";
        }
        out.write_all(b"\n]}\n")?;
        out.flush()?;
        Ok(record.events.len())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Notes that a rank begins a step.
    fn begin_step(&self, rank: usize, step: u64) {
        let mut record = self.record();
        if step > self.window.wait {
            record.recording.insert(rank);
        }
        if step == self.window.wait + self.window.warmup + 1 {
            record.events.retain(|event| event.rank != rank);
        }
    }

    /// Adds a span that ended on this thread.
    fn push(&self, name: String, open: &Open, start: Duration, in_flight: Option<u64>) {
        let end = self.now();
        let thread = std::thread::current();
        let mut record = self.record();
        let next = record.threads.keys().filter(|(rank, _)| *rank == open.rank).count();
        let thread = (open.rank, thread.name().unwrap_or("unnamed").to_owned());
        let thread = *record.threads.entry(thread).or_insert(next);
        let (rank, fields) = (open.rank, open.fields.clone());
        record.events.push(Event { name, rank, thread, start, end, in_flight, fields });
    }
}

impl Event {
    fn rows(&self) -> Vec<Value> {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let base = |phase: &str, at: Duration| {
            json!({
                "ph": phase, "name": self.name, "pid": self.rank, "tid": self.thread, "ts": micros(at),
            })
        };
        match self.in_flight {
            None => {
                let mut row = base("X", self.start);
                row["dur"] = json!(micros(self.end.saturating_sub(self.start)));
                row["args"] = json!(self.fields);
                vec![row]
            }
            Some(id) => {
                let row = |phase, at, fields: &Map<String, Value>| {
                    let mut row = base(phase, at);
                    row["cat"] = json!("communication");
                    row["id2"] = json!({ "local": format!("{id:#x}") });
                    row["args"] = json!(fields);
                    row
                };
                vec![row("b", self.start, &self.fields), row("e", self.end, &Map::new())]
            }
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Trace {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let outer = span.parent().and_then(|parent| {
            parent.extensions().get::<Open>().map(|open| (open.rank, open.fields.clone()))
        });
        let Some(rank) = rank_of_thread().or(outer.as_ref().map(|(rank, _)| *rank)) else { return };
        let mut fields = Fields(outer.map(|(_, fields)| fields).unwrap_or_default());
        attributes.record(&mut fields);
        if let (STEP, Some(step)) = (span.name(), fields.0.get(STEP).and_then(Value::as_u64)) {
            self.begin_step(rank, step);
        }
        let is_recorded = self.record().recording.contains(&rank);
        let start = (span.name() == IN_FLIGHT && is_recorded).then(|| self.now());
        span.extensions_mut().insert(Open { fields: fields.0, rank, start });
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else { return };
        if self.record().recording.contains(&open.rank) {
            open.start = Some(self.now());
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else { return };
        if let Some(start) = open.start.take() {
            self.push(shown(&span, &open.fields), open, start, None);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let extensions = span.extensions();
        let Some(open) = extensions.get::<Open>() else { return };
        match (span.name(), open.start) {
            (STEP, _) => {
                self.record().recording.remove(&open.rank);
            }
            (IN_FLIGHT, Some(start)) => {
                let op = open.fields.get("op").and_then(Value::as_str).unwrap_or(IN_FLIGHT);
                self.push(op.to_owned(), open, start, Some(id.into_u64()));
            }
            _ => {}
        }
    }
}

/// Returns the name of a span with what tells it from others of its kind.
fn shown<S: for<'a> LookupSpan<'a>>(span: &SpanRef<'_, S>, fields: &Map<String, Value>) -> String {
    let own = |key: &str| span.fields().field(key).and(fields.get(key));
    let inherited = |key: &str| fields.get(key).filter(|_| span.name() == "wait");
    let detail = own("unit").or(own("step")).or(own("microbatch")).or(inherited("op"));
    match detail {
        Some(Value::String(text)) => format!("{} {text}", span.name()),
        Some(other) => format!("{} {other}", span.name()),
        None => span.name().to_owned(),
    }
}

/// Fields of a span by name.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }
}
