#![allow(unsafe_code)]
use super::*;
use crate::cache::{Geometry, Pages};
use crate::features::KernelPath;
use crate::reference;
use half::f16;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// A sequence of `n` positions in a scattered cache whose unwritten slots are NaN.
struct Case<E> {
    pages: Pages<E>,
    blocks: Vec<BlockId>,
    n_heads: usize,
    n: usize,
    /// (n, n_heads * head_dim), scaled.
    queries: Vec<f32>,
    /// (n, n_kv_heads * head_dim) as stored.
    keys: Vec<f32>,
    values: Vec<f32>,
}

trait Stored: Element {
    const NAN: Self;
    fn round(x: f32) -> f32;
}

impl Stored for f32 {
    const NAN: f32 = f32::NAN;
    fn round(x: f32) -> f32 {
        x
    }
}

impl Stored for u16 {
    const NAN: u16 = 0x7e00;
    fn round(x: f32) -> f32 {
        f16::from_f32(x).to_f32()
    }
}

struct Write<'a, E> {
    pages: &'a LayerPages<'a, E>,
    blocks: &'a [BlockId],
    position: usize,
    keys: &'a [f32],
    values: &'a [f32],
}

impl<E: Element> Kernel for Write<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let head_dim = self.pages.geometry.head_dim;
        for (head, (key, value)) in
            self.keys.chunks_exact(head_dim).zip(self.values.chunks_exact(head_dim)).enumerate()
        {
            // SAFETY: the test runs on one thread.
            unsafe { self.pages.write::<L>(self.blocks, self.position, head, key, value) };
        }
    }
}

impl<E: Stored> Case<E> {
    fn new(
        family: Family,
        n_kv_heads: usize,
        group: usize,
        head_dim: usize,
        n: usize,
        block_panels: usize,
    ) -> Self {
        let size = block_panels * 16;
        let used = n.div_ceil(size);
        let n_blocks = used + 3;
        let geometry = Geometry { n_layers: 2, n_blocks, block_panels, n_kv_heads, head_dim };
        let mut pages = Pages::<E>::new(geometry).unwrap();
        pages.fill(E::NAN);
        // Blocks out of order.
        let mut blocks: Vec<BlockId> = (0..n_blocks as u32).rev().collect();
        blocks.swap(0, used / 2);
        blocks.truncate(used);
        let width = n_kv_heads * head_dim;
        let rounded =
            |seed| numbers(n * width, seed).into_iter().map(|x| E::round(x * 3.0)).collect::<Vec<_>>();
        let (keys, values) = (rounded(1), rounded(2));
        for (position, (keys, values)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate()
        {
            let pages = &pages.layer(1);
            dispatch(family, Write { pages, blocks: &blocks, position, keys, values });
        }
        let n_heads = n_kv_heads * group;
        let scale = 2.0 / (head_dim as f32).sqrt();
        let queries = numbers(n * n_heads * head_dim, 3).into_iter().map(|x| x * scale).collect();
        Self { pages, blocks, n_heads, n, queries, keys, values }
    }

    fn scratch(&self) -> Scratch {
        let g = self.pages.geometry;
        Scratch::new(self.n_heads, g.n_kv_heads, g.head_dim, self.n).unwrap()
    }

    /// Runs `f` for spans of `tokens` that end at the last position, and gives the last token's row.
    fn last_row(
        &mut self,
        tokens: usize,
        f: impl Fn(&LayerPages<'_, E>, Span<'_>, &Queries<'_>),
    ) -> Vec<f32> {
        let stride = self.n_heads * self.pages.geometry.head_dim;
        let tokens = tokens.min(self.n);
        let first = self.n - tokens;
        let mut out = vec![0.0; self.n * stride];
        let queries =
            Queries { queries: &self.queries, stride, n_heads: self.n_heads, out: Shared::new(&mut out) };
        let span =
            Span { blocks: &self.blocks, position: first, first, out: first, n_tokens: tokens, next: None };
        f(&self.pages.layer(1), span, &queries);
        out[(self.n - 1) * stride..].to_vec()
    }

    fn by_span(&mut self, family: Family, tokens: usize) -> Vec<f32> {
        let mut scratch = self.scratch();
        let scratch = std::cell::RefCell::new(&mut scratch);
        // SAFETY: the test runs on one thread.
        self.last_row(tokens, |pages, span, queries| unsafe {
            attend_span(family, pages, span, queries, &mut scratch.borrow_mut());
        })
    }

    fn by_splits(&mut self, family: Family) -> Vec<f32> {
        let g = self.pages.geometry;
        let n_splits = n_splits(self.n);
        let mut parts =
            Parts::new(2 + g.n_kv_heads * n_splits, self.n_heads / g.n_kv_heads, g.head_dim).unwrap();
        let state = std::cell::RefCell::new((self.scratch(), &mut parts));
        self.last_row(1, |pages, span, queries| {
            let (scratch, parts) = &mut *state.borrow_mut();
            for kv_head in 0..g.n_kv_heads {
                for split in (0..n_splits).rev() {
                    // SAFETY: the test runs on one thread.
                    unsafe {
                        let slot = parts.share().slot(2 + kv_head * n_splits + split);
                        attend_split(family, pages, span, (kv_head, split), queries, scratch, slot);
                    }
                }
            }
            // SAFETY: as above.
            unsafe { merge_parts(family, pages, span, queries, scratch, parts, 2) };
        })
    }

    fn by_reference(&self) -> (Vec<f32>, Vec<reference::HeadAttention>) {
        let g = self.pages.geometry;
        let width = g.n_kv_heads * g.head_dim;
        let (mut out, mut rows) = (Vec::new(), Vec::new());
        for (head, q) in
            self.queries[(self.n - 1) * self.n_heads * g.head_dim..].chunks_exact(g.head_dim).enumerate()
        {
            let at = head / (self.n_heads / g.n_kv_heads) * g.head_dim;
            let q: Vec<f32> = q.iter().map(|q| q * (g.head_dim as f32).sqrt()).collect();
            let of =
                |cache: &'static [f32]| cache.chunks_exact(width).map(move |row| &row[at..at + g.head_dim]);
            // Leaked, so that two iterators may borrow it without ceremony; a few kilobytes of a test.
            let leak = |cache: &Vec<f32>| -> &'static [f32] { Box::leak(cache.clone().into_boxed_slice()) };
            let (o, row) = reference::attend(&q, of(leak(&self.keys)), of(leak(&self.values)));
            out.extend(o);
            rows.push(row);
        }
        (out, rows)
    }

    fn signals(&mut self, family: Family) -> (Vec<f32>, entropix_model::AttentionSignals) {
        let n = self.n;
        let state =
            std::cell::RefCell::new((self.scratch(), vec![HeadSignals::default(); self.n_heads], 0.0));
        let out = self.last_row(1, |pages, span, queries| {
            let (scratch, heads, disagreement) = &mut *state.borrow_mut();
            // SAFETY: the test runs on one thread.
            unsafe { attend_with_signals(family, pages, span, queries, scratch, heads, Some(disagreement)) };
        });
        let (_, heads, disagreement) = state.into_inner();
        let mut sums = SignalSums::default();
        sums.add(&heads, n);
        (out, sums.finish(&heads, disagreement, n))
    }
}

fn check<E: Stored>(
    path: KernelPath,
    n_kv_heads: usize,
    group: usize,
    head_dim: usize,
    n: usize,
    block_panels: usize,
) {
    let family = Family::of(path);
    let mut case = Case::<E>::new(family, n_kv_heads, group, head_dim, n, block_panels);
    let place = format!("{path}, group {group}, head {head_dim}, context {n}, {block_panels} panels a block");
    let (want, rows) = case.by_reference();
    let alone = case.by_span(family, 1);
    for (i, (got, want)) in alone.iter().zip(&want).enumerate() {
        assert!((got - want).abs() < 2e-5, "{place}: number {i} is {got}, not {want}");
    }
    for tokens in [2, 3, tile_tokens(group)] {
        if tokens <= tile_tokens(group) {
            assert_eq!(case.by_span(family, tokens), alone, "{place}: {tokens} tokens together");
        }
    }
    assert_eq!(case.by_splits(family), alone, "{place}: splits apart");
    let (with_signals, got) = case.signals(family);
    assert_eq!(with_signals, alone, "{place}: with signals");
    let want = reference::attention_signals(&[rows]);
    let (got, want): ([f32; 6], [f32; 6]) = (bytemuck::cast(got), bytemuck::cast(want));
    for (i, (got, want)) in got.into_iter().zip(want).enumerate() {
        assert!((got - want).abs() < 3e-5 * (1.0 + want.abs()), "{place}: signal {i} is {got}, not {want}");
    }
}

// Catches: a mask one off, a split boundary, stale slots of the cache (they hold NaN), a vector tail of a head,
// a merge in another frame; and, bitwise, any order of additions that depends on how tokens are grouped.
#[test]
fn ragged_shapes_agree_with_the_reference_and_with_each_other() {
    for path in KernelPath::available() {
        for (head_dim, group, n_kv_heads) in [
            (64, 3, 3),
            (64, 1, 2),
            (80, 4, 1),
            (96, 7, 2),
            (128, 8, 1),
            (128, 4, 2),
            (16, 2, 2),
            (40, 3, 1),
            (64, 29, 1),
        ] {
            for n in [1, 17, 255, 256, 257, 600] {
                check::<u16>(path, n_kv_heads, group, head_dim, n, 1);
                check::<f32>(path, n_kv_heads, group, head_dim, n, if n % 2 == 0 { 2 } else { 1 });
            }
        }
        check::<u16>(path, 3, 3, 64, 1000, 2);
    }
}

// A later position of the same row that went wrong must not reach an earlier one computed beside it.
#[test]
fn a_position_sees_nothing_of_later_ones() {
    for path in KernelPath::available() {
        let family = Family::of(path);
        for n in [40, 257, 260] {
            let mut case = Case::<u16>::new(family, 1, 3, 64, n, 1);
            let clean = case.by_span(family, 1);
            let mut spoilt = Case::<u16>::new(family, 1, 3, 64, n + 4, 1);
            // The same sequence, then four positions of NaN.
            let (keys, values) = (case.keys.clone(), case.values.clone());
            for position in 0..n + 4 {
                let row = |all: &[f32]| {
                    all.get(position * 64..(position + 1) * 64).map_or(vec![f32::NAN; 64], <[f32]>::to_vec)
                };
                let (keys, values) = (row(&keys), row(&values));
                let (pages, blocks) = (&spoilt.pages.layer(1), &spoilt.blocks);
                dispatch(family, Write { pages, blocks, position, keys: &keys, values: &values });
            }
            let width = 3 * 64;
            spoilt.queries = case.queries.clone();
            spoilt.queries.extend(vec![1.0; 4 * width]);
            let mut scratch = spoilt.scratch();
            let mut out = vec![0.0; (n + 4) * width];
            let queries =
                Queries { queries: &spoilt.queries, stride: width, n_heads: 3, out: Shared::new(&mut out) };
            let span = Span {
                blocks: &spoilt.blocks,
                position: n - 1,
                first: n - 1,
                out: n - 1,
                n_tokens: 5,
                next: None,
            };
            // SAFETY: the test runs on one thread.
            unsafe { attend_span(family, &spoilt.pages.layer(1), span, &queries, &mut scratch) };
            assert_eq!(out[(n - 1) * width..n * width], clean, "{path}, {n} positions");
            assert!(out[n * width..].iter().all(|x| x.is_nan()), "{path}: a NaN it may see was lost");
        }
    }
}
