use super::{ModelArgs, values, values::Sizes};
use clap::{Args, ValueEnum};

/// Measure the speed of prompt and generation, and what the signals cost.
///
/// The columns of llama-bench, the share of what this machine's memory could do, and the cost of signals. pp is a prompt of -p tokens read at once; tg is -n tokens generated, one a step, for each of -b rows. -d puts
/// that many tokens into the cache first. All but -r take several values with commas between.
#[derive(Debug, Args)]
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
