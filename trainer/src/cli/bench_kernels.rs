//! `dream-train bench-kernels`: every fused operation, forward and backward, at the shapes of a Llama.

use std::io::{self, Write};

use serde_json::json;

use crate::config::{DeviceKind, FloatType};
use crate::kernels::{self, Timing, TimingSizes};
use crate::train::{TrainError, device_of};
use crate::world::World;

/// Sizes of the model and of its batch; the defaults are those of a debug Llama.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchKernelsArgs {
    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub batch: usize,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub sequence: usize,
    /// Size of the hidden states
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub dim: usize,
    /// Number of blocks
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub layers: usize,
    /// Number of query heads
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub heads: usize,
    /// Number of key-value heads
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub kv_heads: usize,
    /// Width of the feed-forward layer
    #[arg(long, value_name = "N", default_value_t = 768)]
    pub ffn: usize,
    /// Size of the vocabulary
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub vocabulary: usize,
    /// Runs of which the median is reported
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub repeats: usize,
    /// Device that computes
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceKind,
    /// Element type of what the operations of a block compute on
    #[arg(long, value_enum, default_value_t)]
    pub dtype: FloatType,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// A benchmark that could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchKernelsError {
    /// The sizes contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// The device is not there.
    #[error("cannot open the device")]
    Device(#[source] TrainError),
    /// No threads could be started.
    #[error("cannot start the threads of the benchmark")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// The result could not be written.
    #[error("cannot write the result of the benchmark")]
    Write(#[source] io::Error),
}

/// Measures and writes a table.
///
/// # Errors
///
/// See [`BenchKernelsError`].
pub fn run(args: &BenchKernelsArgs, out: &mut impl Write) -> Result<(), BenchKernelsError> {
    let sizes = sizes(args)?;
    if !args.device.is_built() {
        let (device, feature) = (args.device, args.device.feature());
        return Err(BenchKernelsError::Arguments(format!(
            "this build has no {device:?} device; build with `--features {feature}`"
        )));
    }
    let device = device_of(args.device, &World::thread(0, 1)).map_err(BenchKernelsError::Device)?;
    let pool = rayon::ThreadPoolBuilder::new().build().map_err(BenchKernelsError::Threads)?;
    let dtype = args.dtype.dtype();
    let rows = pool.install(|| kernels::time_operations(&sizes, args.repeats, &device, dtype));
    let written = if args.json {
        let used = kernels::implementation().cpu_f32.to_string();
        writeln!(out, "{}", json!({ "kernels": rows, "implementation": used }))
    } else {
        write_table(&rows, out)
    };
    written.map_err(BenchKernelsError::Write)
}

fn sizes(args: &BenchKernelsArgs) -> Result<TimingSizes, BenchKernelsError> {
    let given = [
        ("batch", args.batch),
        ("sequence", args.sequence),
        ("dim", args.dim),
        ("layers", args.layers),
        ("heads", args.heads),
        ("kv-heads", args.kv_heads),
        ("ffn", args.ffn),
        ("vocabulary", args.vocabulary),
    ];
    let refuse = |problem| Err(BenchKernelsError::Arguments(problem));
    if let Some((name, _)) = given.iter().find(|(_, value)| *value == 0) {
        return refuse(format!("`--{name}` is 0 but must be at least 1"));
    }
    if !args.dim.is_multiple_of(2 * args.heads) {
        let (dim, heads) = (args.dim, args.heads);
        return refuse(format!("`--dim` is {dim}, which {heads} heads of even size do not divide"));
    }
    if !args.heads.is_multiple_of(args.kv_heads) {
        let (heads, kv) = (args.heads, args.kv_heads);
        return refuse(format!("`--kv-heads` is {kv}, which does not divide {heads} heads"));
    }
    let &BenchKernelsArgs {
        batch, sequence, dim, layers, heads, kv_heads, ffn, vocabulary, ..
    } = args;
    Ok(TimingSizes { batch, sequence, dim, layers, heads, kv_heads, ffn, vocabulary })
}

fn write_table(rows: &[Timing], out: &mut impl Write) -> io::Result<()> {
    let per_step = |row: &Timing| row.per_step * (row.forward_seconds + row.backward_seconds);
    let all: f64 = rows.iter().map(per_step).sum();
    writeln!(
        out,
        "{:22} {:>8} {:>7} {:>11} {:>9} {:>11} {:>9}",
        "operation", "per step", "share", "forward ms", "rate", "backward ms", "rate"
    )?;
    for row in rows {
        let share = 100.0 * per_step(row) / all;
        write!(out, "{:22} {:>8} {share:>6.1}%", row.name, row.per_step)?;
        let directions =
            [(row.forward_seconds, row.forward_work), (row.backward_seconds, row.backward_work)];
        for (seconds, work) in directions {
            if seconds == 0.0 {
                write!(out, " {:>11} {:>9}", "-", "-")?;
            } else {
                write!(out, " {:>11.3} {:>9.1}", seconds * 1e3, work / seconds / 1e9)?;
            }
        }
        writeln!(out, " {}", row.unit)?;
    }
    writeln!(out, "all calls of a step: {:.1} ms", all * 1e3)
}
