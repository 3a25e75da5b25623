use super::job::FormatArg;
use super::run::ChatArgs;
use super::{FileArg, ModelArgs, values};
use clap::Args;

/// Measure what a model's signals usually are, for policies whose thresholds are quantiles.
///
/// Some hundred prompts, in any form that batch takes, are answered with the likeliest tokens; the file holds the
/// quantiles of every signal over generated tokens, over tokens of prompts, and over whole answers, with the SHA-256
/// of the model. Give it to run and batch with --calibration.
///
/// With --labels, the problems whose answers are known are also answered from their most uncertain token on with the
/// runner-up: the file then says how often answers were right by how doubtful they were, and from which doubt on the
/// other line is the better one.
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
    /// Known answers, JSON lines {"id": ..., "answer": ...}; the ids are those of the prompts.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<FileArg>,
    /// What the answer is, in what the model says and in labels.
    #[arg(long, value_name = "WHAT", default_value = "last_number")]
    pub answer: AnswerArg,
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

/// What the answer is in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum AnswerArg {
    /// The last number.
    LastNumber,
    /// What is in the last \boxed{}.
    Boxed,
}
