//! The keys that come after those at work.
#![allow(unsafe_code)]

use crate::cache::{Element, LayerPages, PANEL};
use crate::simd::prefetch;
use entropix_model::BlockId;
use std::ops::Range;

/// Keys that the same thread reads after those of a split, so that they can be in its cache by then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NextKeys<'a> {
    /// A row's block table.
    pub(super) blocks: &'a [BlockId],
    pub(super) kv_head: usize,
    /// The first position.
    pub(super) first: usize,
    /// How many.
    pub(super) n: usize,
}

impl NextKeys<'_> {
    /// Starts to load the keys of some panels.
    ///
    /// # Safety
    /// As for [`super::tile::Tile::split`], for these keys too.
    #[inline(always)]
    pub(super) unsafe fn prefetch<E: Element>(&self, pages: &LayerPages<'_, E>, panels: Range<usize>) {
        for panel in panels.start..panels.end.min(self.n.div_ceil(PANEL)) {
            let at = pages.geometry.panel(self.blocks, self.first + panel * PANEL, self.kv_head);
            // SAFETY: nobody writes the cache, by the contract of the caller.
            prefetch(unsafe { pages.keys(at) });
        }
    }
}
