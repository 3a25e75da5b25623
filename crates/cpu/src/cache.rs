//! The paged cache of keys and values.
//!
//! Sixteen positions make a panel. Keys lie transposed, (head_dim, 16 positions), so that one vector load
//! brings one component of sixteen keys and a score is a chain of multiply-adds in one lane; values lie
//! (16 positions, head_dim), so that a weighted sum runs along a vector. A block is one or more panels.
#![allow(unsafe_code)]

use crate::memory::Zeroed;
use crate::shared::Shared;
use crate::simd::{LANES, Lanes};
use entropix_model::{BlockCopy, BlockId, ModelConfig, Result};

/// Positions a panel.
pub(crate) const PANEL: usize = LANES;

/// How a cached number is stored.
pub(crate) trait Element: Copy + Send + Sync + bytemuck::Pod {
    fn load<L: Lanes>(from: &[Self; LANES]) -> L;
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]);
}

impl Element for f32 {
    #[inline(always)]
    fn load<L: Lanes>(from: &[Self; LANES]) -> L {
        L::load(from)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        lanes.store(to);
    }
}

/// The bits of an IEEE half.
impl Element for u16 {
    #[inline(always)]
    fn load<L: Lanes>(from: &[Self; LANES]) -> L {
        L::load_f16(from)
    }

    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        lanes.store_f16(to);
    }
}

/// Where things lie in a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) n_layers: usize,
    pub(crate) n_blocks: usize,
    /// Panels a block.
    pub(crate) block_panels: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Geometry {
    pub(crate) fn new(config: &ModelConfig, n_blocks: usize, block_size: usize) -> Self {
        assert!(
            block_size > 0 && block_size.is_multiple_of(PANEL),
            "blocks of {block_size} positions; they must be a multiple of {PANEL}"
        );
        Self {
            n_layers: config.n_layers,
            n_blocks,
            block_panels: block_size / PANEL,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Vectors of a value, zeros behind the last component.
    pub(crate) fn value_vectors(self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Vectors of the keys of one head in one panel.
    pub(crate) fn key_panel(self) -> usize {
        self.head_dim
    }

    /// Vectors of the values of one head in one panel.
    pub(crate) fn value_panel(self) -> usize {
        PANEL * self.value_vectors()
    }

    fn n_panels(self) -> usize {
        self.n_blocks * self.block_panels * self.n_kv_heads
    }

    /// Bytes of the whole cache when a number takes `width` of them.
    pub(crate) fn n_bytes(self, width: usize) -> usize {
        self.n_layers * self.n_panels() * (self.key_panel() + self.value_panel()) * LANES * width
    }

    /// The panel, counted over all heads of the layer, that holds `position` of a sequence for a head.
    #[inline(always)]
    pub(crate) fn panel(self, blocks: &[BlockId], position: usize, kv_head: usize) -> usize {
        let panel = position / PANEL;
        let block = blocks[panel / self.block_panels] as usize;
        (block * self.block_panels + panel % self.block_panels) * self.n_kv_heads + kv_head
    }
}

/// Keys and values of every layer, in one element type.
#[derive(Debug)]
pub(crate) struct Pages<E> {
    pub(crate) geometry: Geometry,
    /// (n_layers, n_blocks, block_panels, n_kv_heads, head_dim, 16)
    keys: Zeroed<[E; LANES]>,
    /// (n_layers, n_blocks, block_panels, n_kv_heads, 16, value_vectors, 16)
    values: Zeroed<[E; LANES]>,
}

impl<E: Element> Pages<E> {
    pub(crate) fn new(geometry: Geometry) -> Result<Self> {
        let panels = geometry.n_layers * geometry.n_panels();
        Ok(Self {
            geometry,
            keys: Zeroed::new(panels * geometry.key_panel(), "the keys of the cache")?,
            values: Zeroed::new(panels * geometry.value_panel(), "the values of the cache")?,
        })
    }

    /// One layer, for threads that write different tokens or only read.
    pub(crate) fn layer(&mut self, layer: usize) -> LayerPages<'_, E> {
        let panels = self.geometry.n_panels();
        let part = |vectors: usize| layer * panels * vectors..(layer + 1) * panels * vectors;
        LayerPages {
            geometry: self.geometry,
            keys: Shared::new(&mut self.keys[part(self.geometry.key_panel())]),
            values: Shared::new(&mut self.values[part(self.geometry.value_panel())]),
        }
    }

    /// Copies the first positions of blocks, all layers. Positions that were never written stay behind.
    pub(crate) fn copy(&mut self, copy: BlockCopy) {
        let g = self.geometry;
        for (done, from) in (0..copy.tokens).step_by(PANEL).zip(0..) {
            let n = PANEL.min(copy.tokens - done);
            for layer in 0..g.n_layers {
                for head in 0..g.n_kv_heads {
                    let at = |block: BlockId| {
                        let panel = block as usize * g.block_panels + from;
                        layer * g.n_panels() + panel * g.n_kv_heads + head
                    };
                    let (source, target) = (at(copy.from), at(copy.to));
                    for i in 0..g.key_panel() {
                        let vector = self.keys[source * g.key_panel() + i];
                        self.keys[target * g.key_panel() + i][..n].copy_from_slice(&vector[..n]);
                    }
                    let first = source * g.value_panel();
                    let written = first..first + n * g.value_vectors();
                    self.values.copy_within(written, target * g.value_panel());
                }
            }
        }
    }
}

/// Keys and values of one layer.
pub(crate) struct LayerPages<'a, E> {
    pub(crate) geometry: Geometry,
    keys: Shared<'a, [E; LANES]>,
    values: Shared<'a, [E; LANES]>,
}

impl<'a, E: Element> LayerPages<'a, E> {
    /// Writes key and value, (head_dim) each, of one position of one head.
    ///
    /// # Safety
    /// Nobody else may read or write this position meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn write<L: Lanes>(
        &self,
        blocks: &[BlockId],
        position: usize,
        kv_head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let g = self.geometry;
        let panel = g.panel(blocks, position, kv_head);
        let lane = position % PANEL;
        let (key_first, value_first) =
            (panel * g.key_panel(), panel * g.value_panel() + lane * g.value_vectors());
        assert!(key.len() == g.head_dim && value.len() == g.head_dim, "components of a key or value");
        let keys = self.keys.pointer(key_first..key_first + g.key_panel()).cast::<E>();
        for (i, chunk) in key.chunks(LANES).enumerate() {
            let mut stored = [E::zeroed(); LANES];
            E::store(padded::<L>(chunk), &mut stored);
            for (d, &x) in stored[..chunk.len()].iter().enumerate() {
                // SAFETY: within the panel, as head_dim components were asserted. Only this lane is written, and
                // it is this position's alone; a reference to the whole vector would claim its neighbours, which
                // other threads may be writing.
                unsafe { *keys.add((i * LANES + d) * LANES + lane) = x };
            }
        }
        for (i, chunk) in value.chunks(LANES).enumerate() {
            // SAFETY: the vectors of this position, promised to be ours.
            E::store(padded::<L>(chunk), unsafe { self.values.at(value_first + i) });
        }
    }

    /// The keys of one panel, (head_dim) vectors of one component of 16 positions.
    ///
    /// # Safety
    /// Nobody may write this panel while the result lives.
    #[inline(always)]
    pub(crate) unsafe fn keys(&self, panel: usize) -> &'a [[E; LANES]] {
        let n = self.geometry.key_panel();
        // SAFETY: promised by the caller.
        unsafe { self.keys.read(panel * n..(panel + 1) * n) }
    }

    /// Where keys and values of a block lie: first byte and bytes of each.
    pub(crate) fn of_block(&self, block: BlockId) -> [(*const u8, usize); 2] {
        let g = self.geometry;
        let panels = g.block_panels * g.n_kv_heads;
        let of = |vectors: &Shared<'a, [E; LANES]>, n: usize| {
            let first = block as usize * n;
            (vectors.pointer(first..first + n).cast_const().cast(), n * size_of::<[E; LANES]>())
        };
        [of(&self.keys, panels * g.key_panel()), of(&self.values, panels * g.value_panel())]
    }

    /// The values of one panel, (16, value_vectors).
    ///
    /// # Safety
    /// As for [`LayerPages::keys`].
    #[inline(always)]
    pub(crate) unsafe fn values(&self, panel: usize) -> &'a [[E; LANES]] {
        let n = self.geometry.value_panel();
        // SAFETY: promised by the caller.
        unsafe { self.values.read(panel * n..(panel + 1) * n) }
    }
}

/// Up to sixteen numbers, zeros behind them.
#[inline(always)]
fn padded<L: Lanes>(chunk: &[f32]) -> L {
    match chunk.try_into() {
        Ok(whole) => L::load(whole),
        Err(_) => {
            let mut part = [0.0; LANES];
            part[..chunk.len()].copy_from_slice(chunk);
            L::load(&part)
        }
    }
}

#[cfg(test)]
impl<E: Element> Pages<E> {
    /// Every slot of the cache, as if somebody else had left it there.
    pub(crate) fn fill(&mut self, with: E) {
        self.keys.fill([with; LANES]);
        self.values.fill([with; LANES]);
    }
}
