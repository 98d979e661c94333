//! The command line of the tutorial.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tp_tutorial::{lecture, perceptron, transformer};

/// Shows tensor parallelism on a few threads.
#[derive(Parser)]
struct Cli {
    /// Number of ranks; without it, 2 where something is split and 1 otherwise.
    #[arg(long, global = true, value_parser = clap::value_parser!(u8).range(1..=8))]
    nproc: Option<u8>,
    #[command(subcommand)]
    exercise: Exercise,
}

#[derive(Subcommand)]
enum Exercise {
    /// Two layers: the output, the loss and the gradient of the first weight.
    Mlp {
        /// Splits both layers.
        #[arg(long = "TP")]
        tensor_parallel: bool,
    },
    /// A transformer that overfits one batch in five iterations.
    Transformer(TransformerArgs),
    /// Column-split layers forward and backward, by default 4 ranks with 128 rows of 1024.
    Lecture {
        /// Rows of the input.
        #[arg(long = "batch_size", default_value_t = 128)]
        batch_size: usize,
        /// Size of each layer, a multiple of the ranks.
        #[arg(long, default_value_t = 1024)]
        hidden: usize,
    },
}

#[derive(Args)]
struct TransformerArgs {
    /// Splits attention and feed-forward layers.
    #[arg(long = "TP")]
    tensor_parallel: bool,
    /// Splits the vocabulary: embedding, head and loss.
    #[arg(long = "loss_parallel")]
    loss_parallel: bool,
    /// Size of the hidden states, a multiple of the 8 heads.
    #[arg(long, default_value_t = 256)]
    hidden: usize,
    /// Sequences of a batch; with it comes `--seq_len`. Without both: one sentence.
    #[arg(long = "batch_size", requires = "seq_len")]
    batch_size: Option<usize>,
    /// Tokens of a sequence.
    #[arg(long = "seq_len", requires = "batch_size", value_parser = clap::value_parser!(u16).range(2..=1024))]
    seq_len: Option<u16>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    match run(&cli, &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when this fails too.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn run(cli: &Cli, out: &mut impl Write) -> Result<()> {
    let ranks = |default: usize| cli.nproc.map_or(default, usize::from);
    match &cli.exercise {
        Exercise::Mlp { tensor_parallel } => {
            let world_size = greet(out, ranks(1 + usize::from(*tensor_parallel)))?;
            check_split("the hidden layer", perceptron::WIDTHS[1], world_size)?;
            for (i, iteration) in perceptron::run(world_size)?.iter().enumerate() {
                writeln!(
                    out,
                    "iteration {i}\n  output {:.4?}\n  loss {}",
                    iteration.output, iteration.loss
                )?;
                writeln!(out, "  fc1_grad")?;
                for row in iteration.fc1_grad.chunks(perceptron::WIDTHS[1]) {
                    writeln!(out, "    {row:.4?}")?;
                }
            }
        }
        Exercise::Transformer(args) => {
            let splits = args.tensor_parallel || args.loss_parallel;
            let world_size = greet(out, ranks(1 + usize::from(splits)))?;
            show_transformer(args, world_size, out)?;
        }
        Exercise::Lecture { batch_size, hidden } => {
            let world_size = greet(out, ranks(4))?;
            check_split("`--hidden`", *hidden, world_size)?;
            let outcome = lecture::run(world_size, *batch_size, *hidden)?;
            let [gathers, reductions] = outcome.calls;
            writeln!(out, "forward pass produced activations {}", outcome.activations)?;
            writeln!(
                out,
                "loss {}\n{gathers} all-gathers forward, {reductions} all-reduces backward",
                outcome.loss
            )?;
        }
    }
    Ok(())
}

fn greet(out: &mut impl Write, world_size: usize) -> io::Result<usize> {
    (0..world_size).try_for_each(|rank| writeln!(out, "rank: {rank}, world size: {world_size}"))?;
    Ok(world_size)
}

fn check_split(what: &str, size: usize, ranks: usize) -> Result<()> {
    if size == 0 || !size.is_multiple_of(ranks) {
        return Err(format!("{what} is {size} but must be a multiple of the {ranks} ranks").into());
    }
    Ok(())
}

fn show_transformer(args: &TransformerArgs, world_size: usize, out: &mut impl Write) -> Result<()> {
    check_split("`--hidden`", args.hidden, 8)?;
    check_split("the number of heads, 8,", 8, world_size)?;
    let outcome = transformer::train(transformer::Settings {
        world_size,
        tensor_parallel: args.tensor_parallel,
        loss_parallel: args.loss_parallel,
        hidden: args.hidden,
        batch: args.batch_size.zip(args.seq_len).map(|(rows, len)| [rows, len.into()]),
    })?;
    // State of Adam in `f32`: value, gradient and two moments.
    let gigabytes = outcome.local_params as f64 * 16.0 / 1e9;
    writeln!(
        out,
        "rank 0 holds {} parameters, {gigabytes:.3} GB with gradients and moments",
        outcome.local_params
    )?;
    for (i, loss) in outcome.losses.iter().enumerate() {
        writeln!(out, "iteration {i}\n  loss {loss} over {} labels", outcome.num_targets)?;
    }
    Ok(())
}
