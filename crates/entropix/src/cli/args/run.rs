use super::{FileArg, ModelArgs, SamplingArgs, SignalsArg, SpecialArg, values};
use clap::Args;
use entropix::text::Date;

/// Answer one prompt, or chat on a terminal.
///
/// The answer is streamed to standard output, on a terminal with every token tinted by its entropy. The prompt is
/// -p, a file, or standard input; without any of them and on a terminal it is a chat. It goes through the model's
/// chat template unless --no-chat-template says otherwise.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt; - reads it from standard input.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Read the prompt from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", alias = "file")]
    pub prompt_file: Option<FileArg>,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Show every token on a line of its own as it comes, with its signals, its region and what was decided, and the
    /// tokens that are taken back; then the answer.
    #[arg(long, help_heading = "Output")]
    pub explain: bool,
    /// What to show of the uncertainty: summary is a footer and tinted text, token also a table.
    #[arg(long, value_name = "HOW MUCH", default_value = "summary", help_heading = "Output")]
    pub signals: SignalsArg,
}

/// How text becomes a prompt.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct ChatArgs {
    /// A system message, where the conversation has none of its own.
    #[arg(long, value_name = "TEXT", conflicts_with = "no_chat_template")]
    pub system: Option<String>,
    /// Give the model the raw prompt.
    #[arg(long)]
    pub no_chat_template: bool,
    /// A Jinja chat template instead of the model's own.
    #[arg(long, value_name = "FILE", conflicts_with = "no_chat_template")]
    pub chat_template: Option<FileArg>,
    /// The day that a chat template may ask for [default: today].
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = values::date)]
    pub(crate) date: Option<Date>,
    /// Special tokens spelled out in a raw prompt: parse them, or take them as text.
    #[arg(long, value_name = "HOW", default_value = "parse")]
    pub special: SpecialArg,
}
