use super::FileArg;
use clap::Args;

/// Draw a trace or an output as one HTML file: answers tinted by entropy, regions, branches, costs.
///
/// The file needs nothing else and fetches nothing. An output of `batch --signals token` shows texts, timelines and the
/// plane of entropy and varentropy; a trace (`batch --trace`) also branches with their scores, candidates, and what each
/// decision cost; an output with a summary only, a list by doubt. Model and policy of an output are read from its
/// manifest.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A trace, or an output of batch or score; - is standard input.
    #[arg(value_name = "FILE")]
    pub input: FileArg,
    /// The page.
    #[arg(short, long, value_name = "FILE")]
    pub output: FileArg,
    /// The calibration of the model, to draw the regions of a policy of quantiles over an output; a trace holds them.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<FileArg>,
    /// Replace an output that holds something.
    #[arg(long)]
    pub overwrite: bool,
}
