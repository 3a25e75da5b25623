//! Memory that the threads of a region write in disjoint parts.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A slice borrowed exclusively, parts of which are handed to threads.
#[derive(Debug)]
pub(crate) struct Shared<'a, T> {
    first: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out only through `part` and `at`, whose callers promise that they are disjoint.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        Self { first: all.as_mut_ptr(), len: all.len(), borrow: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, nobody else may touch these elements.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        // SAFETY: within the slice, and not aliased by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(range.start), range.len()) }
    }

    /// Where the elements of `range` start; writing through it is up to the caller.
    ///
    /// # Panics
    /// As for [`Shared::part`].
    pub(crate) fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        self.first.wrapping_add(range.start)
    }

    /// One element.
    ///
    /// # Safety
    /// As for [`Shared::part`].
    ///
    /// # Panics
    /// As for [`Shared::part`].
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn at(&self, index: usize) -> &'a mut T {
        // SAFETY: promised by the caller.
        let one = unsafe { self.part(index..index + 1) };
        &mut one[0]
    }

    /// The elements of `range`, to read.
    ///
    /// # Safety
    /// While the result lives, nobody may write these elements.
    ///
    /// # Panics
    /// As for [`Shared::part`].
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        // SAFETY: within the slice, and not written by the contract above.
        unsafe { std::slice::from_raw_parts(self.first.add(range.start), range.len()) }
    }
}
