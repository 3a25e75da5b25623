use super::{JobArgs, ModelArgs, SpecialArg, values};
use clap::Args;

/// Say how likely given texts are, token by token.
///
/// Teacher-forced log-probabilities, entropy and varentropy; perplexity on standard error. Input lines are {"id"?,
/// "text"} or plain text. Output lines are {"id", "request", "tokens", "logprobs", "entropy", "varentropy"}: logprobs[i] is ln p of tokens[i] given the tokens before it (null for the first), entropy[i]
/// and varentropy[i] belong to the distribution that follows tokens[0..=i].
#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub job: JobArgs,
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
