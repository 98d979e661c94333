//! `dream-train bench-comm`: the bandwidth of collectives against a plain copy of the same bytes.

use std::io::{self, Write};
use std::time::Instant;

use burn::tensor::TensorData;
use clap::ValueEnum;
use serde::Serialize;

use crate::comm::{
    Collective, CommError, CommTimeouts, ProcessGroup, RankContext, RankFailure, Ranks, ReduceOp,
    Reduction, algorithm_bandwidth, bus_factor, launch,
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchCommArgs {
    /// Number of ranks, as threads of this process; under a launcher, its processes are the ranks
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub world_size: usize,
    /// Size S, the larger of a rank's input and output, such as `64MiB`, `1GB` or `4096`
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "64MiB")]
    pub bytes: usize,
    /// Collectives to measure [default: all]
    #[arg(long, value_name = "OP", value_delimiter = ',')]
    pub op: Vec<BenchOp>,
    /// Runs that are not measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub warmup: usize,
    /// Runs of which the median is reported
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    pub iters: u16,
    /// Who adds up the numbers of ranks that are processes
    #[arg(long, value_name = "WHO", value_enum, default_value = "member_order")]
    pub reduction: Reduction,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A collective that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum BenchOp {
    /// Sum of all inputs on every rank.
    AllReduce,
    /// All inputs on every rank.
    AllGather,
    /// A part of the sum on every rank.
    ReduceScatter,
    /// A part of every input on every rank.
    AllToAll,
    /// One input on every rank.
    Broadcast,
}

/// A benchmark that could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchCommError {
    /// A rank failed.
    #[error(transparent)]
    Rank(#[from] RankFailure<CommError>),
    /// The numbers cannot be measured as asked.
    #[error("{0}")]
    Arguments(String),
    /// The result could not be written.
    #[error("cannot write the result of the benchmark")]
    Write(#[source] io::Error),
}

/// The median of one measurement.
#[derive(Debug, Clone, Serialize)]
struct Row {
    op: String,
    bytes: usize,
    seconds: f64,
    algorithm_gb_per_s: f64,
    bus_gb_per_s: Option<f64>,
    /// Algorithm bandwidth over that of one thread that copies as many bytes.
    of_memcpy: f64,
}

/// Measures and writes a table.
///
/// Each run starts with a barrier and lasts until the last rank has its result; the median over the
/// runs counts. The yardstick is one thread, alone, that copies S bytes between two buffers it has
/// touched before, also by its median.
///
/// # Errors
///
/// See [`BenchCommError`].
pub fn run(args: &BenchCommArgs, ranks: &Ranks, out: &mut dyn Write) -> Result<(), BenchCommError> {
    let world_size = ranks.world_size();
    let elements = elements(args, world_size)?;
    let bytes = elements * size_of::<f32>();
    let memcpy = launch(ranks, CommTimeouts::default(), |ctx: RankContext| {
        // One rank alone copies; the others wait for it.
        let times = if ctx.rank() == 0 { time_memcpy(args, bytes) } else { Vec::new() };
        ctx.world_group().barrier()?;
        Ok::<_, CommError>(times)
    })?;
    let memcpy = memcpy.into_iter().next().filter(|times| !times.is_empty());
    let memcpy = memcpy.map_or(1.0, median);
    let mut rows = vec![row("memcpy".to_owned(), bytes, memcpy, memcpy, None)];
    let ops = if args.op.is_empty() { BenchOp::value_variants() } else { &args.op };
    for op in ops {
        let times = launch(ranks, CommTimeouts::default(), |ctx: RankContext| {
            let group = ctx.world_group();
            let mut times = time_op(args, *op, elements, &group)?;
            // A run lasts as long as its slowest rank.
            group.all_reduce_scalars(&mut times, ReduceOp::Max)?;
            Ok(times)
        })?;
        let seconds = median(times.into_iter().next().unwrap_or_default());
        let factor = bus_factor(&op.collective(), world_size);
        let name = op.collective().name().to_owned();
        rows.push(row(name, bytes, seconds, memcpy, Some(factor)));
    }
    let written = if args.json {
        write_json(args, world_size, &rows, out)
    } else {
        let kind = match ranks {
            Ranks::Threads(_) => "thread ranks".to_owned(),
            Ranks::Process(process, _) => format!("processes over {}", process.describe()),
        };
        write_table(args, &format!("{world_size} {kind}"), &rows, out)
    };
    written.map_err(BenchCommError::Write)
}

fn row(op: String, bytes: usize, seconds: f64, memcpy: f64, factor: Option<f64>) -> Row {
    let algorithm = algorithm_bandwidth(bytes, seconds) / 1e9;
    let bus_gb_per_s = factor.map(|factor| factor * algorithm);
    Row {
        op,
        bytes,
        seconds,
        algorithm_gb_per_s: algorithm,
        bus_gb_per_s,
        of_memcpy: memcpy / seconds,
    }
}

impl BenchOp {
    fn collective(self) -> Collective {
        match self {
            Self::AllReduce => Collective::AllReduce { op: ReduceOp::Sum },
            Self::AllGather => Collective::AllGather { dim: 0 },
            Self::ReduceScatter => Collective::ReduceScatter { dim: 0, op: ReduceOp::Sum },
            Self::AllToAll => Collective::AllToAll { split_dim: 0, concat_dim: 0 },
            Self::Broadcast => Collective::Broadcast { root: 0 },
        }
    }

    fn call(self, group: &ProcessGroup, data: TensorData) -> Result<TensorData, CommError> {
        match self {
            Self::AllReduce => group.all_reduce(data, ReduceOp::Sum),
            Self::AllGather => group.all_gather(data, 0),
            Self::ReduceScatter => group.reduce_scatter(data, 0, ReduceOp::Sum),
            Self::AllToAll => group.all_to_all(data, 0, 0),
            Self::Broadcast => group.broadcast(data, 0),
        }
    }
}

/// Returns the number of f32 elements of the larger of input and output.
fn elements(args: &BenchCommArgs, ranks: usize) -> Result<usize, BenchCommError> {
    if ranks == 0 {
        return Err(BenchCommError::Arguments("`--world-size` is 0 but must be at least 1".into()));
    }
    let elements = args.bytes / size_of::<f32>() / ranks * ranks;
    if elements == 0 {
        let problem = format!("`--bytes` is {} but each of {ranks} ranks needs 4", args.bytes);
        return Err(BenchCommError::Arguments(problem));
    }
    Ok(elements)
}

fn time_op(
    args: &BenchCommArgs,
    op: BenchOp,
    elements: usize,
    group: &ProcessGroup,
) -> Result<Vec<f64>, CommError> {
    let length = if op == BenchOp::AllGather { elements / group.size() } else { elements };
    let mut times = Vec::new();
    for run in 0..args.warmup + usize::from(args.iters) {
        let input = TensorData::new(vec![1.0_f32; length], [length]);
        group.barrier()?;
        let start = Instant::now();
        let output = op.call(group, input)?;
        let seconds = start.elapsed().as_secs_f64();
        if run >= args.warmup {
            times.push(seconds);
        }
        drop(output);
    }
    Ok(times)
}

fn time_memcpy(args: &BenchCommArgs, bytes: usize) -> Vec<f64> {
    let source = vec![1_u8; bytes];
    let mut target = vec![2_u8; bytes];
    let mut times = Vec::new();
    for run in 0..args.warmup + usize::from(args.iters) {
        let start = Instant::now();
        target.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&mut target);
        if run >= args.warmup {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn write_table(
    args: &BenchCommArgs,
    ranks: &str,
    rows: &[Row],
    out: &mut dyn Write,
) -> io::Result<()> {
    let (iters, mib) = (args.iters, rows[0].bytes as f64 / f64::from(1 << 20));
    writeln!(out, "{ranks}, {mib:.1} MiB of f32, median of {iters} runs")?;
    writeln!(
        out,
        "{:<16} {:>10} {:>12} {:>12} {:>10}",
        "", "ms", "algbw GB/s", "busbw GB/s", "of memcpy"
    )?;
    for row in rows {
        let bus = row.bus_gb_per_s.map_or_else(|| "-".to_owned(), |bus| format!("{bus:.2}"));
        let (ms, percent) = (row.seconds * 1e3, row.of_memcpy * 100.0);
        let algorithm = row.algorithm_gb_per_s;
        writeln!(out, "{:<16} {ms:>10.3} {algorithm:>12.2} {bus:>12} {percent:>9.0}%", row.op)?;
    }
    writeln!(out, "memcpy: one thread alone copies the same bytes. GB = 1e9 bytes.")
}

fn write_json(
    args: &BenchCommArgs,
    world_size: usize,
    rows: &[Row],
    out: &mut dyn Write,
) -> io::Result<()> {
    let report = serde_json::json!({
        "world_size": world_size,
        "warmup": args.warmup,
        "iters": args.iters,
        "dtype": "f32",
        "rows": rows,
    });
    writeln!(out, "{report:#}")
}

/// Reads a size such as `64MiB`: binary units KiB, MiB, GiB, decimal units KB, MB, GB, or bytes.
fn parse_bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, usize); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let bytes = number.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| {
        "must be a whole number with KiB, MiB, GiB, KB, MB, GB or no unit".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_read_with_their_units() {
        let rows = [("4096", 4096), ("64MiB", 64 << 20), ("1 GB", 1_000_000_000), ("7B", 7)];
        for (text, bytes) in rows {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "64mib", "99999999999999999999GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
