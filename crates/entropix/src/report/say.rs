//! Standard error. It may be closed, and that is no reason to fail: `eprintln!` would panic.

use std::fmt::Arguments;
use std::io::Write;

/// Writes to standard error, if anybody listens.
pub(crate) fn write(text: Arguments) {
    let _ = std::io::stderr().write_fmt(text);
}

/// As `eprint!`, without the panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::report::say::write(format_args!($($text)*)) };
}

/// As `eprintln!`, without the panic.
macro_rules! sayln {
    () => { $crate::report::say::write(format_args!("\n")) };
    ($($text:tt)*) => { $crate::report::say::write(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {say, sayln};
