//! Large buffers, asked for once.
#![allow(unsafe_code)]

use entropix_model::{Class, Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

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

/// A cache line, and a vector of 512 bits.
const LINE: usize = 64;
/// A page of the larger kind.
const HUGE_PAGE: usize = 2 << 20;

impl<T: bytemuck::Zeroable> Zeroed<T> {
    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn new(len: usize, what: &str) -> Result<Self> {
        Self::on_boundary(len, LINE, what)
    }

    /// In huge pages where the system has them and the room fills one: for what is read as a whole, over and over. Not
    /// for room that is used here and there, since each use would take a whole page.
    ///
    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn in_huge_pages(len: usize, what: &str) -> Result<Self> {
        if len < HUGE_PAGE / size_of::<T>() {
            return Self::new(len, what);
        }
        let zeroed = Self::on_boundary(len, HUGE_PAGE, what)?;
        #[cfg(target_os = "linux")]
        // SAFETY: the range is ours; the advice changes no byte of it, and a refusal no behaviour.
        unsafe {
            libc::madvise(zeroed.as_ptr().cast(), len * size_of::<T>(), libc::MADV_HUGEPAGE);
        }
        Ok(zeroed)
    }

    fn on_boundary(len: usize, boundary: usize, what: &str) -> Result<Self> {
        const { assert!(align_of::<T>() <= 16 && size_of::<T>() > 0) };
        let refused = || {
            let mib = (len as u128 * size_of::<T>() as u128) >> 20;
            let message = format!("{what}: no memory for {mib} MiB; free some, or ask for less");
            Error::new(Class::Temp, "OutOfMemory", message)
        };
        // Aligned here rather than by the allocator, which would write zeros over what comes zeroed from the
        // system.
        let bytes = len.checked_mul(size_of::<T>()).and_then(|n| n.checked_add(boundary));
        let layout = bytes.and_then(|n| Layout::from_size_align(n, 16).ok()).ok_or_else(refused)?;
        // SAFETY: the size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(refused());
        }
        let first = start.wrapping_add(start.align_offset(boundary));
        let first = NonNull::new(first.cast()).ok_or_else(refused)?;
        Ok(Self { start, layout, first, len })
    }
}

impl<T> Zeroed<T> {
    /// How many elements, without a look at them.
    pub(crate) fn n_elements(&self) -> usize {
        self.len
    }

    /// For writers that share the elements; who writes through it answers for its own races.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.first.as_ptr()
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
        // SAFETY: allocated in `on_boundary` with this layout; T has no destructor, being plain data.
        unsafe { dealloc(self.start, self.layout) }
    }
}

impl<T> std::fmt::Debug for Zeroed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.len, std::any::type_name::<T>())
    }
}

/// Large room, handed out piece by piece to many owners. (By themselves they would lie on small pages, each a look into
/// the page tables, and at each a processor stops foreseeing what is read next.)
#[derive(Debug, Default)]
pub(crate) struct Arena(Mutex<Option<(Arc<Zeroed<u8>>, usize)>>);

impl Arena {
    /// Room for `n_bytes`.
    ///
    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn new(n_bytes: usize, what: &str) -> Result<Self> {
        Ok(Self(Mutex::new(Some((Arc::new(Zeroed::in_huge_pages(n_bytes, what)?), 0)))))
    }

    /// `len` zeros on a cache line, out of the room as long as it lasts.
    ///
    /// # Errors
    /// When there is no memory; `what` is named in the message.
    pub(crate) fn take(&self, len: usize, what: &str) -> Result<Piece> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((room, used)) = &mut *open
            && let Some(end) = used.checked_add(len).filter(|end| *end <= room.n_elements())
        {
            let first = std::mem::replace(used, end.next_multiple_of(LINE));
            return Ok(Piece { room: Arc::clone(room), first, len });
        }
        Ok(Piece { room: Arc::new(Zeroed::new(len, what)?), first: 0, len })
    }
}

/// Bytes out of an [`Arena`], which nobody else has.
#[derive(Debug)]
pub(crate) struct Piece {
    room: Arc<Zeroed<u8>>,
    first: usize,
    len: usize,
}

impl std::ops::Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `take` found the range within the room and gives none of it twice, so whoever writes it borrows this
        // piece.
        unsafe { std::slice::from_raw_parts(self.room.as_ptr().add(self.first), self.len) }
    }
}

impl std::ops::DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive, and nobody borrows the room as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.room.as_ptr().add(self.first), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_an_arena_are_zeros_on_cache_lines_and_do_not_overlap() {
        for room in [0, 1000, HUGE_PAGE + 1000] {
            let arena = Arena::new(room, "room").unwrap();
            let lens = [1usize, 64, 100, 0, 500, 70_000, 200, 3];
            let mut pieces: Vec<Piece> =
                lens.iter().map(|&len| arena.take(len, "a piece").unwrap()).collect();
            for (i, piece) in (1..).zip(&mut pieces) {
                assert!(piece.iter().all(|byte| *byte == 0));
                assert!(piece.as_ptr().cast::<u8>().addr().is_multiple_of(LINE));
                piece.fill(i);
            }
            for ((i, piece), len) in (1..).zip(&pieces).zip(lens) {
                assert!(
                    piece.len() == len && piece.iter().all(|byte| *byte == i),
                    "piece {i} of {room} bytes"
                );
            }
        }
    }

    #[test]
    fn large_room_begins_with_a_huge_page() {
        let at = |n: usize| Zeroed::<u64>::in_huge_pages(n, "room").unwrap().as_ptr().addr();
        assert!(
            at(HUGE_PAGE / 8).is_multiple_of(HUGE_PAGE)
                && at(3 * HUGE_PAGE / 8 + 1).is_multiple_of(HUGE_PAGE)
        );
        assert!(at(1).is_multiple_of(LINE));
    }

    #[test]
    fn more_than_there_can_be_is_refused_with_what_it_was_for() {
        for len in [usize::MAX, usize::MAX / 4, usize::MAX >> 4] {
            for refusal in [Zeroed::<u64>::new(len, "sums"), Zeroed::in_huge_pages(len, "sums")] {
                let error = refusal.unwrap_err();
                assert_eq!((error.class, error.code), (Class::Temp, "OutOfMemory"));
                assert!(error.message.starts_with("sums: no memory for "), "{}", error.message);
            }
            assert!(Arena::default().take(len, "a matrix").unwrap_err().message.starts_with("a matrix: "));
        }
    }
}
