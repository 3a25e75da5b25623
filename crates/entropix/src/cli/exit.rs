//! How the program ends: the exit codes of sysexits.h, and one message.

use crate::report::say::sayln;
use crate::report::tally::counted;
use entropix::jobs::Flow;
use entropix_model::{Class, Error};
use std::process::ExitCode;

/// How many failed rows are told.
const TOLD: usize = 5;
/// Some rows failed, the rest are done.
pub(super) const FAILED_ROWS: u8 = 3;

/// Help and version are no failure; anything else on the command line is 64.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    match printed {
        _ if error.use_stderr() => ExitCode::from(Class::Usage.exit_code()),
        // A closed pipe is no reason to fail over a message.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            sayln!("error: cannot write to standard output: {e}");
            ExitCode::from(Class::Io.exit_code())
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Tells the whole chain once and ends with the code of its class.
pub(super) fn failure(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        // Whoever read standard output has seen enough.
        return ExitCode::SUCCESS;
    }
    sayln!("error: {error:#}");
    ExitCode::from(code(error))
}

/// The failed rows of a job: how many, and what the first of them say.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: usize,
    first: Vec<String>,
}

impl Failures {
    /// Notes one.
    pub(crate) fn add(&mut self, id: &str, error: &Error) {
        self.count += 1;
        if self.first.len() < TOLD {
            let id: String = id.chars().take(40).collect();
            self.first.push(format!("{id:?}: {}: {}", error.code, error.message));
        }
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// How a job ended.
pub(crate) struct Ending {
    /// How far it was let go.
    pub(crate) flow: Flow,
    /// Requests without a line, if somebody counted.
    pub(crate) n_left: Option<usize>,
    /// Lines of failures that earlier runs wrote.
    pub(crate) n_failed_earlier: usize,
    /// What to do to go on, if that is possible.
    pub(crate) go_on: Option<&'static str>,
}

impl Ending {
    /// Whether nothing is left to do, interrupted or not.
    pub(crate) fn is_done(&self) -> bool {
        self.flow == Flow::Continue || self.n_left == Some(0)
    }
}

/// Ends a job: all is well, some rows failed, or it was ended before it was done.
pub(crate) fn job(ending: &Ending, failures: &Failures) -> ExitCode {
    let Ending { flow, n_left, n_failed_earlier, go_on } = ending;
    let Failures { count, first } = failures;
    if *count > 0 {
        match count {
            1 => sayln!("error: 1 request failed; its line in the output says why:"),
            n => sayln!("error: {n} requests failed; their lines in the output say why:"),
        }
        first.iter().for_each(|failure| sayln!("  {failure}"));
        if *count > first.len() {
            sayln!("  and {} more", count - first.len());
        }
    }
    if *n_failed_earlier > 0 {
        let requests = counted(*n_failed_earlier, "request");
        sayln!("error: {requests} failed in earlier runs; --retry-errors tries what failed again");
    }
    let undone = !ending.is_done();
    if undone {
        let why = if *flow == Flow::Fail { "stopped at the first failure" } else { "interrupted" };
        let left = n_left.map_or(String::new(), |n| format!(" with {n} requests to do"));
        let go_on = go_on.map_or(String::new(), |go_on| format!("; {go_on}"));
        sayln!("error: {why}{left}; every line of the output is whole{go_on}");
    }
    if undone && *flow != Flow::Fail {
        return ExitCode::from(Class::Temp.exit_code());
    }
    if *count + n_failed_earlier > 0 { ExitCode::from(FAILED_ROWS) } else { ExitCode::SUCCESS }
}

fn code(error: &anyhow::Error) -> u8 {
    let class = error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<Error>() {
            Some(error.class)
        } else {
            cause.downcast_ref::<std::io::Error>().map(|_| Class::Io)
        }
    });
    class.unwrap_or(Class::Internal).exit_code()
}

/// Standard output was closed by its reader. Failures of files are [`Error`]s and never get here.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn the_code_is_that_of_the_cause() {
        let error = Error::new(Class::Config, "Policy", "bad");
        assert_eq!(code(&anyhow!(error).context("reading the policy")), 78);
        let io: Result<(), _> = Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(code(&io.context("writing").unwrap_err()), 74);
        assert_eq!(code(&anyhow!("what?")), 70);
    }
}
