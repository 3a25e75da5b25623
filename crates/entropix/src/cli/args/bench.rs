use super::{KvTypeArg, ModelArgs, values, values::Sizes};
use clap::{Args, Subcommand, ValueEnum};
use entropix::Device;
use std::ffi::OsString;

/// Measure the speed of prompt and generation, and what the signals cost.
///
/// The columns of llama-bench, the share of what this machine's memory could do, and the cost of signals. pp is a prompt of -p tokens read at once; tg is -n tokens generated, one a step, for each of -b rows. -d puts
/// that many tokens into the cache first. All but -r take several values with commas between.
///
/// -m random:SHAPE measures random weights where no model is at hand: smollm2-135m, llama-3.2-1b, llama-3.1-8b or tiny, in
/// bf16 or in another type, e.g. random:llama-3.2-1b:Q4_1.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    /// Tokens of the prompt; 0 leaves the test out.
    #[arg(short = 'p', long, value_name = "N,…", default_value = "512", value_parser = values::sizes)]
    pub n_prompt: Sizes,
    /// Tokens to generate; 0 leaves the test out.
    #[arg(short = 'n', long, value_name = "N,…", default_value = "128", value_parser = values::sizes)]
    pub n_gen: Sizes,
    /// Rows generated at once.
    #[arg(short, long, value_name = "ROWS,…", default_value = "1,8,32",
          value_parser = values::sizes_at_least_one, alias = "max-num-seqs")]
    pub batch_size: Sizes,
    /// Tokens in the cache before a test begins.
    #[arg(short = 'd', long, value_name = "N,…", default_value = "0", value_parser = values::sizes)]
    pub n_depth: Sizes,
    /// Repetitions; the result is their mean and standard deviation.
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = values::at_least_one)]
    pub repetitions: usize,
    /// How to print the results.
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub output: BenchFormat,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(subcommand)]
    pub part: Option<BenchPart>,
}

/// Parts of a step.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchPart {
    Kernels(KernelsArgs),
}

/// Take steps apart on a CUDA device: what each kernel takes, and its share of what the memory could do.
///
/// A step is recorded with and without the launches of a kernel, and both are replayed in turn: a kernel takes what the step
/// is shorter without it. A decode step is measured for each of -b rows that each see -d positions, and the prompt step of
/// each of -p tokens. Flags stand behind the word kernels.
#[derive(Debug, Args)]
pub(crate) struct KernelsArgs {
    /// Rows generated at once; 0 leaves them out.
    #[arg(short, long, value_name = "ROWS,…", default_value = "1,8,32,64", value_parser = values::sizes,
          alias = "max-num-seqs")]
    pub batch_size: Sizes,
    /// Positions that each row sees, rounded up to a multiple of 256.
    #[arg(short = 'd', long, value_name = "N,…", default_value = "512", value_parser = values::sizes_at_least_one)]
    pub n_depth: Sizes,
    /// Tokens of a prompt step, two at least; 0 leaves it out.
    #[arg(short = 'p', long, value_name = "N,…", default_value = "512", value_parser = values::sizes)]
    pub n_prompt: Sizes,
    /// How to print the results.
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub output: BenchFormat,
    /// As of bench; random:SHAPE too.
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<OsString>,
    /// Which device: cuda or cuda:N [default: cuda].
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
    /// Keys and values in the cache: bf16, f16 or int8 [default: auto, which is bf16].
    #[arg(long, value_name = "TYPE")]
    pub kv_cache_dtype: Option<KvTypeArg>,
}

/// How to print results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    /// A Markdown table.
    Md,
    /// One JSON array.
    Json,
    /// Comma-separated values.
    Csv,
}
