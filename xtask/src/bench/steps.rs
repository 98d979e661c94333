//! Whole steps and peak memory of the trainer, of a bare Burn loop and of `PyTorch`.

use std::fmt::Write as _;

use clap::Args;

use super::{figure, has_torch, measure, median};

/// How long to measure, and what.
#[derive(Debug, Args)]
pub(crate) struct StepsArgs {
    /// Steps timed in each round
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Rounds; in each, every contestant runs once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Models
    #[arg(long, value_delimiter = ',', default_value = "llama,llama-gqa")]
    models: Vec<Model>,
    /// Sequence lengths; the batch holds 2048 tokens, at least one sequence
    #[arg(long, value_delimiter = ',', default_value = "256,1024,4096")]
    sequences: Vec<usize>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "2,1")]
    threads: Vec<usize>,
    /// Also measure `torch.compile`, which compiles for a minute per setting
    #[arg(long)]
    compiled: bool,
    /// Also measure the bare loop, which knows only `llama-gqa` at sequence 256
    #[arg(long)]
    bare: bool,
}

/// A debug Llama: 6 layers, width 256, 8 heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Model {
    /// 8 key-value heads, vocabulary 2048: 6.16 million parameters
    Llama,
    /// 4 key-value heads, vocabulary 512: the model of `configs/llama3_debug.toml`
    LlamaGqa,
}

impl Model {
    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::LlamaGqa => "llama-gqa",
        }
    }

    /// Returns the number of key-value heads and the size of the vocabulary.
    fn sizes(self) -> [usize; 2] {
        match self {
            Self::Llama => [8, 2048],
            Self::LlamaGqa => [4, 512],
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    model: Model,
    sequence: usize,
    threads: usize,
}

struct Contestant {
    name: &'static str,
    program: &'static str,
    arguments: Vec<String>,
    tokens_per_second: Vec<f64>,
    peak_bytes: Vec<f64>,
}

/// Measures every setting, round by round, and returns a table of medians.
pub(super) fn table(args: &StepsArgs) -> Result<String, String> {
    let torch = has_torch();
    let mut table = String::from(
        "| model | sequence | threads | what | tokens/s, median | trainer / this | peak MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for setting in settings(args) {
        let mut contestants = setting.contestants(args, torch);
        for _ in 0..args.rounds {
            for contestant in &mut contestants {
                let Contestant { program, arguments, .. } = contestant;
                let report = measure(setting.threads, program, arguments)?;
                contestant.tokens_per_second.push(figure(&report, "tokens_per_second")?);
                contestant.peak_bytes.push(figure(&report, "peak_memory_bytes")?);
            }
        }
        let reference = median(&contestants[0].tokens_per_second);
        for contestant in &contestants {
            let found = median(&contestant.tokens_per_second);
            let ratio = reference / found;
            let peak = median(&contestant.peak_bytes) / f64::from(1 << 20);
            let Setting { model, sequence, threads } = setting;
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "| {} | {sequence} | {threads} | {} | {found:.0} | {ratio:.2} | {peak:.0} |",
                model.name(),
                contestant.name
            );
        }
    }
    Ok(table)
}

fn settings(args: &StepsArgs) -> Vec<Setting> {
    let mut all = Vec::new();
    for &model in &args.models {
        for &sequence in &args.sequences {
            all.extend(args.threads.iter().map(|&threads| Setting { model, sequence, threads }));
        }
    }
    all
}

impl Setting {
    fn contestants(self, args: &StepsArgs, torch: bool) -> Vec<Contestant> {
        let contestant = |name, program, arguments| Contestant {
            name,
            program,
            arguments,
            tokens_per_second: Vec::new(),
            peak_bytes: Vec::new(),
        };
        let mut all =
            vec![contestant("dream-train", "target/release/dream-train", self.trainer(args.steps))];
        if args.bare && self.model == Model::LlamaGqa && self.sequence == 256 {
            let arguments = vec![args.steps.to_string()];
            all.push(contestant("bare loop", "target/release/examples/bare_loop", arguments));
        }
        if torch {
            let peer = self.peer(args.steps);
            all.push(contestant("PyTorch eager", "python3", peer.clone()));
            if args.compiled {
                let compiled = [peer, vec!["--compile".into()]].concat();
                all.push(contestant("PyTorch compiled", "python3", compiled));
            }
        }
        all
    }

    fn batch(self) -> usize {
        (2048 / self.sequence).max(1)
    }

    fn trainer(self, steps: usize) -> Vec<String> {
        let [kv_heads, vocabulary] = self.model.sizes();
        let settings = [
            ("model.num_kv_heads", kv_heads),
            ("model.vocab_size", vocabulary),
            ("training_parameters.sequence_length", self.sequence),
            ("training_parameters.global_batch_size", self.batch()),
        ];
        let steps = steps.to_string();
        let fixed =
            ["benchmark", "--config", "configs/llama3_debug.toml", "--json", "--steps", &steps];
        let mut arguments: Vec<String> = fixed.map(String::from).into();
        for (key, value) in settings {
            arguments.extend(["--set".into(), format!("{key}={value}")]);
        }
        arguments
    }

    fn peer(self, steps: usize) -> Vec<String> {
        let [kv_heads, vocabulary] = self.model.sizes();
        let options = [
            ("--kv-heads", kv_heads),
            ("--vocabulary", vocabulary),
            ("--sequence", self.sequence),
            ("--batch", self.batch()),
            ("--threads", self.threads),
            ("--steps", steps),
        ];
        let mut arguments = vec!["benches/peer/torch_llama.py".to_owned()];
        for (name, value) in options {
            arguments.extend([name.to_owned(), value.to_string()]);
        }
        arguments
    }
}
