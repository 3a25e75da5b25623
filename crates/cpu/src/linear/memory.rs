//! Memory on vector boundaries.
#![allow(unsafe_code)]

use super::layout::ALIGNMENT;
use entropix_model::{Class, Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::ptr::NonNull;

/// Zeroed bytes that start on a vector boundary.
pub(crate) struct AlignedBytes {
    first: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are owned and have no interior mutability of their own; whoever writes through `as_ptr`
// answers for its own races.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zeros.
    ///
    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn zeroed(len: usize, what: &str) -> Result<Self> {
        if len == 0 {
            return Ok(Self { first: NonNull::dangling(), len });
        }
        Self::layout(len)
            // SAFETY: the size is not 0.
            .and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }))
            .map(|first| Self { first, len })
            .ok_or_else(|| {
                Error::new(
                    Class::Temp,
                    "OutOfMemory",
                    format!("{what}: no memory for {} MiB; free some or take a smaller model", len >> 20),
                )
            })
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len, ALIGNMENT).ok()
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.first.as_ptr()
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes were allocated and zeroed; a dangling pointer goes with a length of 0.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len).filter(|layout| layout.size() > 0) {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.first.as_ptr(), layout) }
        }
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

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
        static SCRATCH: RefCell<Option<AlignedBytes>> = const { RefCell::new(None) };
    }
    let taken = SCRATCH.with(|scratch| scratch.borrow_mut().take());
    let scratch = taken.filter(|scratch| scratch.len() >= n_bytes).unwrap_or_else(|| {
        let n_bytes = n_bytes.next_multiple_of(ALIGNMENT);
        AlignedBytes::zeroed(n_bytes, "an opened group of weights").unwrap_or_else(|e| panic!("{e}"))
    });
    f(scratch.as_ptr());
    SCRATCH.with(|kept| *kept.borrow_mut() = Some(scratch));
}
