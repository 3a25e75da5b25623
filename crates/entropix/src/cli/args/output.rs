use clap::{Args, ValueEnum};
use entropix::jobs::SignalsLevel;

/// How to say things.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Colours: auto needs a terminal and honours NO_COLOR.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// The same as --color never.
    #[arg(long, global = true, hide = true)]
    pub no_color: bool,
    /// Progress on standard error: auto is a bar on a terminal, else a line every ten seconds.
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub progress: ProgressArg,
    /// Say only errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more: the model, the policy, and where each sampling parameter came from.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Even into files.
    Always,
    /// Nowhere.
    Never,
}

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressArg {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// Plain lines.
    Plain,
    /// Nothing.
    None,
}

/// How much is said about uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignalsArg {
    /// Nothing.
    Off,
    /// A few numbers an answer.
    Summary,
    /// Six entries a token.
    Token,
}

/// What special tokens in raw prompts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpecialArg {
    /// Text like any other.
    Text,
    /// The tokens they spell.
    Parse,
}

impl SignalsArg {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SignalsArg::Off => "off",
            SignalsArg::Summary => "summary",
            SignalsArg::Token => "token",
        }
    }
}

impl OutputArgs {
    /// When to use colours.
    pub(crate) fn color(&self) -> Color {
        if self.no_color { Color::Never } else { self.color }
    }
}

impl From<SignalsArg> for SignalsLevel {
    fn from(arg: SignalsArg) -> Self {
        match arg {
            SignalsArg::Off => SignalsLevel::Off,
            SignalsArg::Summary => SignalsLevel::Summary,
            SignalsArg::Token => SignalsLevel::Token,
        }
    }
}
