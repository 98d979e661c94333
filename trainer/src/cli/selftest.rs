//! `dream-train selftest`: runs every collective on known inputs, and shakes hands along every axis
//! of a mesh.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::comm::{
    CHECKS, CheckError, CommError, CommTimeouts, DeviceCheck, MeshComm, RankContext, Ranks,
    handshake, launch,
};
use crate::config::DeviceKind;
use crate::mesh::{Axis, AxisSet, Degree, Degrees, DeviceMesh, MeshError, MeshOrder};
use crate::train::{device_of, gather_text};

/// Which world to test.
#[derive(Debug, Clone, clap::Args)]
pub struct SelftestArgs {
    /// Number of ranks, as threads of this process; under a launcher, its processes are the ranks
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub world_size: usize,
    /// Device of the ranks; with `cuda`, ranks are processes where NCCL is found
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceKind,
    /// Tensor parallelism: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub tp: Option<Degree>,
    /// Context parallelism: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub cp: Option<Degree>,
    /// Pipeline parallelism: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub pp: Option<Degree>,
    /// Whole copies of the model: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub dp_replicate: Option<Degree>,
    /// Shards of each copy: a number or `auto` [default: what the other degrees leave]
    #[arg(long, value_name = "DEGREE")]
    pub dp_shard: Option<Degree>,
    /// Axes from outer to inner: `pp,dp,cp,tp` or `dp,pp,cp,tp`
    #[arg(long, value_name = "AXES", default_value_t)]
    pub mesh_order: MeshOrder,
    /// Seconds after which a rank that does not come counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub timeout: u64,
}

/// A selftest that could not run, or found something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelftestError {
    /// The arguments describe no mesh.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// Checks did not pass; the table names them.
    #[error("{failed} of {total} checks failed on {world_size} ranks")]
    Failed {
        /// Number of checks that failed.
        failed: usize,
        /// Number of checks.
        total: usize,
        /// Number of ranks.
        world_size: usize,
    },
    /// This build cannot use the device.
    #[error("this build has no {0:?} device; build with `--features {feature}`", feature = .0.feature())]
    NoDevice(DeviceKind),
    /// The table could not be written.
    #[error("cannot write the result of the selftest")]
    Write(#[source] io::Error),
}

/// How a check ended: a remark, or what went wrong on which ranks.
type Verdict = Result<String, BTreeMap<usize, String>>;

/// Runs all checks, each in a world of its own so that one failure does not hide another, and
/// writes a table.
///
/// # Errors
///
/// See [`SelftestError`].
pub fn run(args: &SelftestArgs, ranks: &Ranks, out: &mut dyn Write) -> Result<(), SelftestError> {
    let world_size = ranks.world_size();
    let mesh = resolve(args, world_size)?;
    if !args.device.is_built() {
        return Err(SelftestError::NoDevice(args.device));
    }
    let timeouts = CommTimeouts::uniform(Duration::from_secs(args.timeout));
    let start = Instant::now();
    let mut table = Table { out, total: 0, failed: 0 };
    for check in CHECKS {
        let verdict = on_all_ranks(ranks, timeouts, |ctx| {
            (check.run)(&ctx.world_group()).map_err(|error| error.to_string())
        });
        table.row(check.name, verdict.map(|()| String::new())).map_err(SelftestError::Write)?;
    }
    if args.device != DeviceKind::Cpu {
        for check in DeviceCheck::all() {
            let verdict = on_all_ranks(ranks, timeouts, |ctx| {
                let device =
                    device_of(args.device, &ctx.world).map_err(|error| error.to_string())?;
                check.run(&ctx.world_group(), &device).map_err(|error| error.to_string())
            });
            let verdict = verdict.map(|()| String::new());
            table.row(&check.name(), verdict).map_err(SelftestError::Write)?;
        }
    }
    for axes in handshake_sets(&mesh) {
        let name = format!("handshake along {axes}");
        let verdict = shake_hands(ranks, &mesh, timeouts, axes);
        table.row(&name, verdict).map_err(SelftestError::Write)?;
    }
    table.end(world_size, start.elapsed())
}

fn resolve(args: &SelftestArgs, world_size: usize) -> Result<DeviceMesh, MeshError> {
    let fixed = |degree: Option<Degree>| degree.unwrap_or_default();
    let others = [args.tp, args.cp, args.pp, args.dp_replicate];
    // Someone else takes what is left, or the shards do.
    let rest = if others.contains(&Some(Degree::Auto)) { Degree::default() } else { Degree::Auto };
    let degrees = Degrees {
        pp: fixed(args.pp),
        dp_replicate: fixed(args.dp_replicate),
        dp_shard: args.dp_shard.unwrap_or(rest),
        cp: fixed(args.cp),
        tp: fixed(args.tp),
    };
    degrees.resolve(world_size, args.mesh_order)
}

/// Returns the sets of axes to test: every axis that is on, and every derived group that is more
/// than one of them.
fn handshake_sets(mesh: &DeviceMesh) -> Vec<AxisSet> {
    let axes = Axis::ALL.into_iter().filter(|axis| mesh.size(*axis) > 1).map(AxisSet::from);
    let derived = [AxisSet::DP, AxisSet::FSDP, AxisSet::LOSS, AxisSet::WORLD];
    axes.chain(derived.into_iter().filter(|set| mesh.size(*set) > 1)).collect()
}

fn shake_hands(ranks: &Ranks, mesh: &DeviceMesh, timeouts: CommTimeouts, axes: AxisSet) -> Verdict {
    let run = |ctx: &RankContext| -> Result<(), CheckError> {
        let comm = MeshComm::new(ctx.fabric.clone(), *mesh, ctx.rank())?;
        handshake(&comm.group(axes))
    };
    let world_size = mesh.world_size();
    on_all_ranks(ranks, timeouts, |ctx| run(ctx).map_err(|error| error.to_string()))?;
    let size = mesh.size(axes);
    Ok(match world_size / size {
        1 => format!("1 group of {size}"),
        count => format!("{count} groups of {size}"),
    })
}

/// Runs a check on every rank and collects what went wrong.
fn on_all_ranks(
    ranks: &Ranks,
    timeouts: CommTimeouts,
    check: impl Fn(&RankContext) -> Result<(), String> + Sync,
) -> Result<(), BTreeMap<usize, String>> {
    // A verdict is a result here: no rank ends the world before the others had their say.
    let run = |ctx: RankContext| Ok::<_, CommError>((ctx.rank(), check(&ctx).err()));
    // In a world of its own, so that what a check broke does not matter.
    let collect = |verdicts: Vec<(usize, Option<String>)>| {
        launch(ranks, timeouts, |ctx: RankContext| {
            let mine = verdicts.iter().find(|(rank, _)| *rank == ctx.rank());
            let text = mine.and_then(|(_, verdict)| verdict.clone()).unwrap_or_default();
            gather_text(&ctx.world_group(), &text)
        })
    };
    match launch(ranks, timeouts, run).and_then(collect) {
        Ok(texts) => {
            let texts = texts.into_iter().flatten().flatten().enumerate();
            let texts = texts.map(|(rank, text)| (rank, text.trim_end().to_owned()));
            let failed: BTreeMap<_, _> = texts.filter(|(_, text)| !text.is_empty()).collect();
            if failed.is_empty() { Ok(()) } else { Err(failed) }
        }
        Err(failure) => {
            let first = (failure.rank, failure.fault.to_string());
            Err(failure.others.into_iter().chain([first]).collect())
        }
    }
}

struct Table<'a> {
    out: &'a mut dyn Write,
    total: usize,
    failed: usize,
}

impl Table<'_> {
    fn row(&mut self, name: &str, verdict: Verdict) -> io::Result<()> {
        self.total += 1;
        match verdict {
            Ok(remark) => writeln!(self.out, "{}", format!("{name:<32} ok  {remark}").trim_end()),
            Err(ranks) => {
                self.failed += 1;
                let (rank, text) = ranks.iter().next().expect("a failure names a rank");
                let more = match ranks.len() - 1 {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                writeln!(self.out, "{name:<32} FAILED  rank {rank}: {text}{more}")
            }
        }
    }

    fn end(self, world_size: usize, elapsed: Duration) -> Result<(), SelftestError> {
        let Self { out, total, failed } = self;
        if failed > 0 {
            return Err(SelftestError::Failed { failed, total, world_size });
        }
        let secs = elapsed.as_secs_f64();
        let ranks = if world_size == 1 { "1 rank".into() } else { format!("{world_size} ranks") };
        writeln!(out, "{total} checks on {ranks}: ok ({secs:.1} s)").map_err(SelftestError::Write)
    }
}
