use super::run::ChatArgs;
use super::{FileArg, JobArgs, ModelArgs, SamplingArgs, SignalsArg, values};
use clap::Args;

/// Answer a file of prompts, each token with its signals.
///
/// Input lines are {"id"?, "prompt" | "messages", parameters…}, OpenAI batch lines, or plain text (one prompt a line,
/// put through the model's chat template unless --no-chat-template says otherwise). All lines are checked before
/// anything is written. Results are appended as they finish, one whole line a request; a request that fails becomes a
/// line {"id", "error"} and exit code 3. OUTPUT.manifest.json says what they were made with: when a job was ended by
/// anything (Ctrl-C, a full disk, kill -9), the same command answers what is missing, and is refused when a line would
/// come out otherwise than before.
#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Begin with the requests that take longest, as far as a few thousand can be seen ahead.
    #[arg(long, conflicts_with = "ordered", help_heading = "Job")]
    pub longest_first: bool,
    /// Tokens that decisions may throw away, as a share of those answered, e.g. 0.5. From there on policies go on with
    /// what costs nothing; what was begun is carried out, so a small job may end well above. Which answers that hits
    /// depends on the order they are computed in.
    #[arg(long, value_name = "SHARE", value_parser = values::share, allow_negative_numbers = true, help_heading = "Job")]
    pub extra_tokens: Option<f64>,
    /// Most requests computed at once.
    #[arg(short, long, value_name = "ROWS", default_value = "32", value_parser = values::at_least_one,
          alias = "max-num-seqs")]
    pub batch_size: usize,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Signals in each result: off, summary (a few numbers), or token (entropy, varentropy, ln p, region,
    /// decision and place in the text of every token).
    #[arg(long, value_name = "HOW MUCH", default_value = "summary", help_heading = "Output")]
    pub signals: SignalsArg,
    /// Write everything that happens, tokens that are taken back too, one JSON object a line; `entropix report` draws
    /// it. FILE.parquet is made at the end of FILE.parquet.jsonl.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<FileArg>,
    /// The likeliest tokens of every step that the trace tells with their ln p; at least those the policy picks among.
    #[arg(long, value_name = "K", default_value_t = 8, requires = "trace",
          value_parser = clap::value_parser!(u16).range(2..=256), help_heading = "Output")]
    pub trace_candidates: u16,
}
