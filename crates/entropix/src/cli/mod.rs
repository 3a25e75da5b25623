//! The verbs: what each flag sets in motion.

pub(crate) mod args;
mod batch;
mod bench;
mod calibrate;
mod child;
mod docs;
mod doctor;
mod exit;
mod explain;
mod interrupt;
mod job;
mod kernels;
mod limits;
mod load;
mod merge;
mod policy;
mod replay;
mod report;
mod roles;
mod run;
mod score;
mod sources;
mod verify;

use anyhow::Result;
use args::{Cli, Verb};
use clap::Parser;
use entropix::hub;
use entropix_model::Checkpoint;
use std::io::Write;
use std::process::ExitCode;

/// The commit this program was built from.
const BUILD_COMMIT: &str = env!("ENTROPIX_BUILD_COMMIT");

/// Runs the program on its own arguments.
pub(crate) fn main() -> ExitCode {
    if let Some(work) = std::env::args_os().nth(1).and_then(|argument| child::work(&argument)) {
        return work().map_or_else(|error| exit::failure(&error), |()| ExitCode::SUCCESS);
    }
    interrupt::survive_file_size_limits();
    interrupt::end_in_order_without_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => exit::failure(&error),
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { verb, output } = cli;
    match verb {
        Verb::Run(args) => return run::run(&args, &output),
        Verb::Batch(args) => return batch::run(&args, &output),
        Verb::Score(args) => return score::run(&args, &output),
        Verb::Merge(args) => merge::run(&args, &output)?,
        Verb::Verify(args) => verify::run(&args, &output)?,
        Verb::Bench(args) => bench::run(&args, &output)?,
        Verb::Calibrate(args) => calibrate::run(&args, &output)?,
        Verb::Replay(args) => replay::run(&args, &output)?,
        Verb::Report(args) => report::run(&args, &output)?,
        Verb::Policy(verb) => policy::run(verb)?,
        Verb::Pull(args) => {
            let settings = hub::Settings { refresh: true, ..hub::Settings::from_env() };
            let model = args.model.as_deref().unwrap_or_else(|| load::default_model().as_ref());
            let path = load::fetch(&settings, model, &output)?;
            // What is there already may be no model.
            Checkpoint::open(&path)?;
            writeln!(std::io::stdout(), "{}", path.display())?;
        }
        Verb::Doctor(args) => doctor::run(&args)?,
        Verb::Limits => limits::run()?,
        Verb::Completions(args) => docs::completions(args.shell)?,
        Verb::Man => docs::man()?,
    }
    Ok(ExitCode::SUCCESS)
}
