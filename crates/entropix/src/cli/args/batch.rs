use super::run::ChatArgs;
use super::{FileArg, ModelArgs, SamplingArgs, SignalsArg, values};
use clap::{Args, ValueEnum};
use entropix::jobs::InputFormat;

/// Answer a file of prompts, each token with its signals.
///
/// Results are written as they finish, one whole line a request. Input lines are {"id"?, "prompt" | "messages", parameters…}, OpenAI batch lines, or plain text (one prompt
/// a line, put through the model's chat template unless --no-chat-template says otherwise). All lines are
/// checked before anything is written. A request that fails becomes a line {"id", "error"} and exit code 3.
#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    /// The prompts; - is standard input.
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
    /// Signals in each result: off, summary (a few numbers), or token (five numbers a token).
    #[arg(long, value_name = "HOW MUCH", default_value = "summary", help_heading = "Output")]
    pub signals: SignalsArg,
    /// Write everything that happens, tokens that are taken back too, one JSON object a line.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<FileArg>,
}

/// What an input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// A JSON object a line.
    Jsonl,
    /// A prompt a line.
    Text,
}

impl From<FormatArg> for InputFormat {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Jsonl => InputFormat::Jsonl,
            FormatArg::Text => InputFormat::Text,
        }
    }
}
