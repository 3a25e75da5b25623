//! Large buffers, asked for once.

use entropix_model::{Class, Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// A fixed number of zeroed elements on a cache-line boundary. The system hands out the pages when they are
/// first written, so room that is never used costs nothing.
pub(crate) struct Zeroed<T> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: the elements are owned, like those of a Vec.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: bytemuck::Zeroable> Zeroed<T> {
    const ALIGNMENT: usize = 64;

    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn new(len: usize, what: &str) -> Result<Self> {
        let Some(layout) = Self::layout(len) else { return Err(Self::refused(len, what)) };
        if layout.size() == 0 {
            return Ok(Self { first: NonNull::dangling(), len });
        }
        // SAFETY: the size is not 0.
        match NonNull::new(unsafe { alloc_zeroed(layout) }.cast()) {
            Some(first) => Ok(Self { first, len }),
            None => Err(Self::refused(len, what)),
        }
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::array::<T>(len).ok()?.align_to(Self::ALIGNMENT).ok()
    }

    fn refused(len: usize, what: &str) -> Error {
        let mib = (len as u128 * size_of::<T>() as u128) >> 20;
        Error::new(Class::Temp, "OutOfMemory", format!("no memory for {what}: {mib} MiB"))
    }
}

impl<T> std::ops::Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were allocated; all zeros are a value of T.
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
        let layout = Layout::array::<T>(self.len).and_then(|l| l.align_to(64));
        if let Some(layout) = layout.ok().filter(|l| l.size() > 0) {
            // SAFETY: allocated in `new` with the same layout; T has no destructor, being plain data.
            unsafe { dealloc(self.first.as_ptr().cast(), layout) }
        }
    }
}

impl<T> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.len, std::any::type_name::<T>())
    }
}
