//! What products ask of the caches, and scratch memory.
#![allow(unsafe_code)]

use crate::memory::Zeroed;
use std::cell::RefCell;

/// Starts to load a cache line into the second level; does nothing where there is no such instruction.
#[inline(always)]
pub(crate) fn prefetch_far(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect a program can see, at any address, and every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// The same into the first level.
#[inline(always)]
pub(crate) fn prefetch_near(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Gives `f` scratch memory of this thread, `n_bytes` on a vector boundary.
#[inline(always)]
pub(crate) fn with_scratch(n_bytes: usize, f: impl FnOnce(*mut u8)) {
    thread_local! {
        static SCRATCH: RefCell<Option<Zeroed<u8>>> = const { RefCell::new(None) };
    }
    let taken = SCRATCH.with(|scratch| scratch.borrow_mut().take());
    let scratch = taken.filter(|scratch| scratch.len() >= n_bytes).unwrap_or_else(|| {
        Zeroed::new(n_bytes, "an opened group of weights").unwrap_or_else(|e| panic!("{e}"))
    });
    f(scratch.as_ptr());
    SCRATCH.with(|kept| *kept.borrow_mut() = Some(scratch));
}
