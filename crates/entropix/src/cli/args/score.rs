use super::batch::FormatArg;
use super::{FileArg, ModelArgs, SpecialArg, values};
use clap::Args;

/// Say how likely given texts are, token by token.
///
/// Teacher-forced log-probabilities, entropy and varentropy; perplexity on standard error. Input lines are {"id"?, "text"} or plain text. Output lines are {"id", "tokens", "logprobs", "entropy",
/// "varentropy"}: logprobs[i] is ln p of tokens[i] given the tokens before it (null for the first), entropy[i]
/// and varentropy[i] belong to the distribution that follows tokens[0..=i].
#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// The texts; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub input: FileArg,
    /// The results, JSON lines; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: FileArg,
    /// Replace an output that holds something.
    #[arg(long)]
    pub overwrite: bool,
    /// What the input is [default: JSONL when its first character is {, else text].
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<FormatArg>,
    /// Most texts computed at once.
    #[arg(short, long, value_name = "ROWS", default_value = "8", value_parser = values::at_least_one,
          alias = "max-num-seqs")]
    pub batch_size: usize,
    /// Special tokens spelled out in a text: parse them, or take them as text.
    #[arg(long, value_name = "HOW", default_value = "parse")]
    pub special: SpecialArg,
    #[command(flatten)]
    pub model: ModelArgs,
}
