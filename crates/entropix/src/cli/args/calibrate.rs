use super::job::FormatArg;
use super::run::ChatArgs;
use super::{FileArg, ModelArgs, values};
use clap::Args;

/// Measure what a model's signals usually are, for policies whose thresholds are quantiles.
///
/// Some hundred prompts, in any form that batch takes, are answered with the likeliest tokens; the file holds the
/// quantiles of every signal over generated tokens, over tokens of prompts, and over whole answers, with the SHA-256
/// of the model. Give it to run and batch with --calibration.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// The prompts; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub input: FileArg,
    /// The calibration, a TOML file; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: FileArg,
    /// Replace an output that holds something.
    #[arg(long)]
    pub overwrite: bool,
    /// What the input is [default: JSONL when its first character is {, else text].
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<FormatArg>,
    /// Most requests computed at once.
    #[arg(short, long, value_name = "ROWS", default_value = "16", value_parser = values::at_least_one,
          alias = "max-num-seqs")]
    pub batch_size: usize,
    /// Most tokens of an answer.
    #[arg(short = 'n', long, value_name = "N", default_value = "256", value_parser = values::size)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub model: ModelArgs,
}
