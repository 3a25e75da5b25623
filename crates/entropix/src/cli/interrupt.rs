//! Signals: the first SIGINT, SIGTERM or SIGHUP asks to finish what was begun, the second to stop after the step that
//! is being computed. Either way an output ends with a whole line, because nobody but the writer of lines stops the
//! writing. The third ends the program.

use crate::report::say::sayln;
use anyhow::Context;
use entropix::jobs::Flow;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A program that SIGINT ended, as shells report it.
pub(super) const INTERRUPTED: u8 = 130;

/// That many interrupts end the program wherever it is.
const AT_ONCE: usize = 3;

/// A write beyond RLIMIT_FSIZE kills a program unless it listens; then the write fails with EFBIG, the torn
/// line is cut off and the exit code says what happened.
pub(super) fn survive_file_size_limits() {
    // Should this fail, the limit kills us as it would have; nothing else depends on it.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::<AtomicBool>::default());
}

/// Counts the requests to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupts {
    count: Arc<AtomicUsize>,
    at_prompt: Arc<AtomicBool>,
}

impl Interrupts {
    /// Listens from now on, on a thread of its own.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Self::start().context("cannot listen for signals")
    }

    fn start() -> io::Result<Self> {
        let interrupts = Self::default();
        let Self { count, at_prompt } = interrupts.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if at_prompt.load(Ordering::Relaxed) {
                    // The shell's own prompt starts a line of its own.
                    sayln!();
                    std::process::exit(INTERRUPTED.into());
                }
                if count.fetch_add(1, Ordering::Relaxed) + 1 == AT_ONCE {
                    // Something does not come back; a line that is torn now is repaired by the next run.
                    std::process::exit(INTERRUPTED.into());
                }
            }
        })?;
        Ok(interrupts)
    }

    /// How often since the last [`Interrupts::clear`].
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// What a job does about them.
    pub(crate) fn flow(&self) -> Flow {
        match self.count() {
            0 => Flow::Continue,
            1 => Flow::Drain,
            _ => Flow::Stop,
        }
    }

    /// Forgets them.
    pub(super) fn clear(&self) {
        self.count.store(0, Ordering::Relaxed);
    }

    /// While `wait` waits for a person, an interrupt ends the program.
    pub(super) fn while_waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.at_prompt.store(true, Ordering::Relaxed);
        let result = wait();
        self.at_prompt.store(false, Ordering::Relaxed);
        result
    }
}
