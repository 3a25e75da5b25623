use super::FileArg;
use clap::Args;

/// Decide a recorded trace again by another policy, without a model.
///
/// A table on standard error says which decisions would be others, how often and where; the tokens stay those of the
/// trace, and texts that conditions ask for hold nowhere. Lines that are bare signals, such as {"entropy": 1.2,
/// "varentropy": 0.4} in nats, each stand alone, and what is decided for each is a line of the output: {"region",
/// "decision", parameters; null where a signal is missing}.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The trace (see batch --trace), or lines of bare signals; - is standard input.
    #[arg(value_name = "TRACE")]
    pub trace: FileArg,
    /// A built-in policy's name, or a TOML file.
    #[arg(long, value_name = "NAME|FILE")]
    pub policy: String,
    /// Change one parameter of the policy; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The calibration of the model, for thresholds that are quantiles.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<FileArg>,
    /// What is decided for lines of bare signals; - is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: FileArg,
}
