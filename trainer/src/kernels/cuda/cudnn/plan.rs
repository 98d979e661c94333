//! From a graph to a plan, and running it.

use std::ffi::c_void;
use std::time::Instant;

use cudarc::driver::sys;

use super::descriptor::Descriptor;
use super::graph::{ALIGNMENT, Constant, Graph};
use super::handle::with_stream;
use super::library::{Library, Raw};
use super::names;

/// For what GPU plans are made.
#[derive(Debug)]
pub(crate) enum Place {
    /// That of a handle.
    Handle(Raw),
    /// One that is described: such plans cannot run.
    #[cfg(test)]
    Described(Description),
}

/// The properties of a GPU.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Description(Descriptor);

/// What computes a graph. Its kernels are compiled.
#[derive(Debug)]
pub(crate) struct Plan {
    compiled: Descriptor,
    workspace: usize,
    given: Vec<i64>,
    constants: Vec<(i64, Constant)>,
    /// What the plan was made of, which goes after it.
    _made_of: Vec<Descriptor>,
}

/// A number in memory of the host, which cuDNN reads while a plan is queued.
#[repr(C)]
union Number {
    f32: f32,
    i32: i32,
}

impl Place {
    /// Describes a GPU by its properties, as cuDNN writes them.
    #[cfg(test)]
    pub(crate) fn describe(library: &'static Library, properties: &str) -> Result<Self, String> {
        let device = Descriptor::new(library, names::DEVICE)?
            .with_text(names::DEVICE_TEXT, properties)?
            .finished()?;
        Ok(Self::Described(Description(device)))
    }

    fn graph(&self, graph: Descriptor) -> Result<Descriptor, String> {
        match self {
            // SAFETY: handles are never destroyed.
            Self::Handle(raw) => unsafe { graph.with_raw(names::GRAPH_HANDLE, &[*raw]) },
            #[cfg(test)]
            Self::Described(_) => Ok(graph),
        }
    }

    #[cfg_attr(
        not(test),
        expect(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "handles are set elsewhere"
        )
    )]
    fn heuristics(&self, heuristics: Descriptor) -> Result<Descriptor, String> {
        #[cfg(test)]
        if let Self::Described(Description(device)) = self {
            return heuristics.with(names::HEURISTICS_DEVICE, &[device]);
        }
        Ok(heuristics)
    }

    fn plan(&self, plan: Descriptor) -> Result<Descriptor, String> {
        match self {
            // SAFETY: handles are never destroyed.
            Self::Handle(raw) => unsafe { plan.with_raw(names::PLAN_HANDLE, &[*raw]) },
            #[cfg(test)]
            Self::Described(Description(device)) => plan.with(names::PLAN_DEVICE, &[device]),
        }
    }
}

impl Plan {
    /// Makes a plan: cuDNN's first choice that can be had.
    ///
    /// # Errors
    ///
    /// What cuDNN said to each of its choices.
    pub(crate) fn build(graph: Graph, place: &Place) -> Result<Self, String> {
        let Graph { library, operations, parts, given, constants, .. } = graph;
        let all: Vec<&Descriptor> = operations.iter().collect();
        let graph = Descriptor::new(library, names::GRAPH)?.with(names::GRAPH_OPERATIONS, &all)?;
        let graph = place.graph(graph)?.finished()?;
        let mut refused = Vec::new();
        for mode in names::MODES {
            let configurations = match suggestions(&graph, mode, place) {
                Ok(found) => found,
                Err(message) => {
                    refused.push(message);
                    continue;
                }
            };
            for configuration in configurations {
                match finish(library, &configuration, place) {
                    Ok((compiled, workspace)) => {
                        // Whatever refers to others goes before them.
                        let mut made_of = vec![configuration, graph];
                        made_of.extend(operations);
                        made_of.extend(parts);
                        return Ok(Self {
                            compiled,
                            workspace,
                            given,
                            constants,
                            _made_of: made_of,
                        });
                    }
                    Err(message) => refused.push(message),
                }
            }
        }
        Err(if refused.is_empty() { "no engine".to_owned() } else { refused.join("; ") })
    }

    /// Returns the bytes of memory that the plan needs while it runs.
    pub(crate) fn workspace(&self) -> usize {
        self.workspace
    }

    /// Queues the plan on a stream of the current GPU; `addresses` and `numbers` belong to the tensors of those numbers.
    ///
    /// # Errors
    ///
    /// What cuDNN says.
    ///
    /// # Safety
    ///
    /// The addresses lie on the current GPU, have room for the tensors that the graph names and for the workspace, and
    /// stay valid until the stream is past the plan; the stream is live.
    pub(crate) unsafe fn queue(
        &self,
        addresses: &[(i64, u64)],
        numbers: &[(i64, f32)],
        workspace: u64,
        stream: sys::CUstream,
    ) -> Result<(), String> {
        // Read while the plan is queued: they live until the end of this function.
        let (of_numbers, values) = self.numbers(numbers);
        let (mut uids, mut pointers): (Vec<i64>, Vec<Raw>) =
            addresses.iter().map(|(uid, address)| (*uid, *address as Raw)).unzip();
        if let Some(pointer) =
            pointers.iter().find(|pointer| !pointer.addr().is_multiple_of(ALIGNMENT))
        {
            return Err(format!(
                "a tensor for cuDNN lies at {pointer:?}, between its {ALIGNMENT} bytes"
            ));
        }
        uids.extend(of_numbers);
        let pointer = |value| std::ptr::from_ref::<Number>(value).cast_mut().cast::<c_void>();
        pointers.extend(values.iter().map(pointer));
        assert!(self.given.iter().all(|uid| uids.contains(uid)), "every tensor of a plan is given");
        let library = self.compiled.library();
        let pack = Descriptor::new(library, names::PACK)?.with_numbers(names::PACK_UIDS, &uids)?;
        // SAFETY: values outlive the call, memory is by the caller's word, the handle is live.
        unsafe {
            let pack = pack
                .with_raw(names::PACK_POINTERS, &pointers)?
                .with_raw(names::PACK_WORKSPACE, &[workspace as Raw])?
                .finished()?;
            with_stream(library, stream, |handle| {
                let status = (library.execute)(handle, self.compiled.raw(), pack.raw());
                library.check(status, "cudnnBackendExecute", "plan")
            })
        }
    }

    /// Returns the numbers that the plan reads and the tensors that they belong to: those given and its own.
    fn numbers(&self, given: &[(i64, f32)]) -> (Vec<i64>, Vec<Number>) {
        let given = given.iter().map(|(uid, value)| (*uid, Number { f32: *value }));
        let fixed = self.constants.iter().map(|(uid, value)| match value {
            Constant::F32(value) => (*uid, Number { f32: *value }),
            Constant::I32(value) => (*uid, Number { i32: *value }),
        });
        given.chain(fixed).unzip()
    }
}

/// Returns the configurations that the heuristics suggest, the best in front.
fn suggestions(graph: &Descriptor, mode: i32, place: &Place) -> Result<Vec<Descriptor>, String> {
    let heuristics = Descriptor::new(graph.library(), names::HEURISTICS)?
        .with(names::HEURISTICS_GRAPH, &[graph])?
        .with_mode(names::HEURISTICS_MODE, mode)?;
    let heuristics = place.heuristics(heuristics)?.finished()?;
    let most = heuristics.count(names::HEURISTICS_RESULTS)?;
    if most == 0 {
        return Ok(Vec::new());
    }
    heuristics.parts(names::HEURISTICS_RESULTS, names::CONFIGURATION, most)
}

/// Makes the plan of a configuration, which compiles its kernels; returns it with its workspace in bytes.
fn finish(
    library: &'static Library,
    configuration: &Descriptor,
    place: &Place,
) -> Result<(Descriptor, usize), String> {
    let started = Instant::now();
    let plan =
        Descriptor::new(library, names::PLAN)?.with(names::PLAN_CONFIGURATION, &[configuration])?;
    let plan = place.plan(plan)?.finished()?;
    let workspace = plan.number(names::PLAN_WORKSPACE)?;
    let engine = configuration.parts(names::CONFIGURATION_ENGINE, names::ENGINE, 1)?;
    let engine = engine.first().map(|engine| engine.number(names::ENGINE_NUMBER)).transpose()?;
    tracing::debug!(?engine, workspace, took = ?started.elapsed(), "cuDNN made a plan");
    Ok((plan, usize::try_from(workspace).map_err(|error| error.to_string())?))
}
