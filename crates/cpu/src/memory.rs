//! Large buffers, asked for once.
#![allow(unsafe_code)]

use entropix_model::{Class, Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A fixed number of zeroed elements on a cache-line boundary. The system hands out the pages when they are
/// first written, so room that is never used costs nothing.
pub(crate) struct Zeroed<T> {
    /// What the allocator gave.
    start: *mut u8,
    layout: Layout,
    first: NonNull<T>,
    len: usize,
}

// SAFETY: the elements are owned, like those of a Vec.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: bytemuck::Zeroable> Zeroed<T> {
    /// A cache line.
    const ALIGNMENT: usize = 64;

    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn new(len: usize, what: &str) -> Result<Self> {
        const { assert!(align_of::<T>() <= 16 && size_of::<T>() > 0) };
        let refused = || {
            let mib = (len as u128 * size_of::<T>() as u128) >> 20;
            Error::new(Class::Temp, "OutOfMemory", format!("no memory for {what}: {mib} MiB"))
        };
        // Aligned here rather than by the allocator, which would write zeros over what comes zeroed from the
        // system.
        let bytes = len.checked_mul(size_of::<T>()).and_then(|n| n.checked_add(Self::ALIGNMENT));
        let layout = bytes.and_then(|n| Layout::from_size_align(n, 16).ok()).ok_or_else(refused)?;
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(refused());
        }
        let first = start.wrapping_add(start.align_offset(Self::ALIGNMENT));
        let first = NonNull::new(first.cast()).ok_or_else(refused)?;
        Ok(Self { start, layout, first, len })
    }
}

impl<T> std::ops::Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements fit behind `first`; all zeros are a value of T.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> std::ops::DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; T has no destructor, being plain data.
        unsafe { dealloc(self.start, self.layout) }
    }
}

impl<T> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.len, std::any::type_name::<T>())
    }
}
