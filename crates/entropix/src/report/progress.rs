//! How far a job has come: a bar on a terminal, a plain line every ten seconds elsewhere, or nothing.

use crate::cli::args::{OutputArgs, ProgressArg};
use crate::report::say::sayln;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Progress of something.
pub(crate) struct Progress {
    shown: Shown,
    unit: Unit,
    total: Option<u64>,
    /// What was done at first; it tells nothing about the speed.
    before: Option<u64>,
}

enum Shown {
    Bar(ProgressBar),
    Plain { what: String, last: Instant, started: Instant },
    Nothing,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Anything by the piece.
    Pieces,
}

impl Progress {
    /// Progress of `what`, `total` of `unit` if that is known, shown as the flags say.
    pub(crate) fn new(output: &OutputArgs, what: &str, total: Option<u64>, unit: Unit) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shown = match output.progress {
            _ if output.quiet => Shown::Nothing,
            ProgressArg::None => Shown::Nothing,
            ProgressArg::Auto if terminal => Shown::Bar(bar(what, total, unit)),
            ProgressArg::Auto | ProgressArg::Plain => {
                let now = Instant::now();
                Shown::Plain { what: what.to_owned(), last: now, started: now }
            }
        };
        Self { shown, unit, total, before: None }
    }

    /// `done` of the total are done; `note` says what else is known (speed, failures).
    pub(crate) fn set(&mut self, done: u64, note: impl FnOnce() -> String) {
        if let (None, Shown::Bar(bar)) = (self.before, &self.shown) {
            bar.set_position(done);
            bar.reset_eta();
        }
        let before = *self.before.get_or_insert(done);
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(note());
            }
            Shown::Plain { what, last, started } => {
                if last.elapsed() < PLAIN_EVERY {
                    return;
                }
                *last = Instant::now();
                let amount = |n| amount(n, self.unit);
                let far = match self.total {
                    None => amount(done),
                    Some(total) => {
                        let share = if total == 0 { 1.0 } else { done as f64 / total as f64 };
                        let left = match done.saturating_sub(before) {
                            0 => String::new(),
                            n => {
                                let rest = total.saturating_sub(done) as f64 / n as f64;
                                format!(", {} left", duration(started.elapsed().mul_f64(rest)))
                            }
                        };
                        format!("{} of {} ({:.0} %){left}", amount(done), amount(total), share * 100.0)
                    }
                };
                sayln!("{what}: {far}  {}", note());
            }
            Shown::Nothing => {}
        }
    }

    /// Whether it is a bar.
    pub(crate) fn is_bar(&self) -> bool {
        matches!(self.shown, Shown::Bar(_))
    }

    /// A line beside the progress.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.println(text),
            Shown::Plain { .. } => sayln!("{text}"),
            Shown::Nothing => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, total: Option<u64>, unit: Unit) -> ProgressBar {
    let counts = match (unit, total) {
        (Unit::Bytes, _) => "{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
        (Unit::Pieces, Some(_)) => "{pos}/{len}",
        (Unit::Pieces, None) => "{pos}",
    };
    let template = match total {
        Some(_) => format!("{{prefix}} {{wide_bar:.cyan/dim}} {counts} {{eta}} {{msg}}"),
        None => format!("{{prefix}} {{spinner}} {counts} {{msg}}"),
    };
    let style = ProgressStyle::with_template(&template).expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(total, indicatif::ProgressDrawTarget::stderr())
        .with_style(style.progress_chars("━╸─"))
        .with_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A number of bytes or pieces as a person reads it.
pub(crate) fn amount(n: u64, unit: Unit) -> String {
    match unit {
        Unit::Pieces => n.to_string(),
        Unit::Bytes if n < 1000 => format!("{n} B"),
        Unit::Bytes if n < 1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        Unit::Bytes if n < 1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        Unit::Bytes => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// A time as a person reads it.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(amount(999, Unit::Bytes), "999 B");
        assert_eq!(amount(98_362_432, Unit::Bytes), "98.4 MB");
        assert_eq!(amount(98_362_432, Unit::Pieces), "98362432");
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(61)), "61 s");
        assert_eq!(duration(Duration::from_secs(3599)), "59 min 59 s");
        assert_eq!(duration(Duration::from_secs(7265)), "2 h 01 min");
    }
}
