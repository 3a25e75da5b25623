//! Signals: the first SIGINT, SIGTERM or SIGHUP asks to finish what was begun, the second to stop after the step that
//! is being computed. Either way an output ends with a whole line, because nobody but the writer of lines stops the
//! writing. The third ends the program, and so does the second where nothing came of it for two seconds: the reader of
//! a pipe may have gone to sleep.

use crate::report::say::sayln;
use anyhow::Context;
use entropix_engine::{Heard, Interrupts};
use entropix_model::Class;
use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A program that SIGINT ended, as shells report it.
pub(super) const INTERRUPTED: u8 = 130;

/// That many interrupts end the program wherever it is.
const AT_ONCE: usize = 3;
/// After one less it has that long to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// A write beyond RLIMIT_FSIZE kills a program unless it listens; then the write fails with EFBIG, the torn
/// line is cut off and the exit code says what happened.
pub(super) fn survive_file_size_limits() {
    // Should this fail, the limit kills us as it would have; nothing else depends on it.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::<AtomicBool>::default());
}

/// Memory that is not to be had ends a Rust program by SIGABRT, after it has said so. With this it ends with the exit
/// code for what may succeed another time, which it is: whole lines stay, and the next run goes on.
pub(super) fn end_in_order_without_memory() {
    let always = Arc::new(AtomicBool::new(true));
    // As above.
    let _ = signal_hook::flag::register_conditional_shutdown(SIGABRT, Class::Temp.exit_code().into(), always);
}

/// Counts signals from now on, on a thread of its own. While nothing is computed one of them ends the program.
pub(super) fn listen() -> anyhow::Result<Interrupts> {
    start(Interrupts::default(), || {
        // The shell's own prompt starts a line of its own.
        sayln!();
        INTERRUPTED
    })
    .context("cannot listen for signals")
}

/// The same for a job, which has not begun until [`Interrupts::wake`] is called.
pub(super) fn listen_before_job() -> anyhow::Result<Interrupts> {
    let interrupts = Interrupts::default();
    interrupts.rest();
    start(interrupts, || {
        sayln!("error: interrupted before anything was answered; give the same command again");
        Class::Temp.exit_code()
    })
    .context("cannot listen for signals")
}

fn start(interrupts: Interrupts, end_idle: fn() -> u8) -> io::Result<Interrupts> {
    let told = interrupts.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            match told.ask() {
                Heard::Asked(n) if n < AT_ONCE => {
                    if n + 1 == AT_ONCE {
                        end_after_grace();
                    }
                }
                Heard::Asked(_) => {
                    // Something does not come back; a line that is torn now is repaired by the next run.
                    std::process::exit(INTERRUPTED.into());
                }
                Heard::Idle => std::process::exit(end_idle().into()),
            }
        }
    })?;
    Ok(interrupts)
}

fn end_after_grace() {
    // Without a thread for it the third interrupt is still there.
    let _ = std::thread::Builder::new().name("grace".into()).spawn(|| {
        std::thread::sleep(GRACE);
        std::process::exit(INTERRUPTED.into());
    });
}
