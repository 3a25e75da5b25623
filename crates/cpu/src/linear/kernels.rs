//! What every kernel family offers: one function for each stored type and form of activations.
#![allow(unsafe_code)]

use super::activations::Form;
use super::beside::Beside;
use super::layout::{ALIGNMENT, GroupLayout};
use super::memory::{prefetch_far, prefetch_near};
use super::{Precision, ROW_GROUP};
use crate::features::KernelPath;
use entropix_model::DType;
use std::ops::Range;

/// A rectangle of products: some tokens times whole groups of rows of one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Job<'a> {
    /// The first group.
    pub(crate) groups: *const u8,
    /// How many.
    pub(crate) n_groups: usize,
    /// What each looks like.
    pub(crate) layout: GroupLayout,
    /// Panel 0 of the activations.
    pub(crate) panels: *const u8,
    /// From one panel to the next.
    pub(crate) panel_stride: usize,
    /// Rows of the activations.
    pub(crate) tokens: Range<usize>,
    /// Where the product of the first token and the first row goes.
    pub(crate) out: *mut f32,
    /// From one token of `out` to the next.
    pub(crate) stride: usize,
    /// What the same thread reads after the last group.
    pub(crate) upcoming: *const u8,
    /// What it reads after the product, if that is worth loading meanwhile.
    pub(crate) beside: Option<&'a Beside>,
}

impl Job<'_> {
    /// Cuts the tokens into tiles that start on a panel or stay within one. `tile(n)` is the number of tokens the
    /// kernel takes of n at hand, a multiple of [`Form::panel`] when it is more than that. Calls
    /// `f(panel pointer moved to the first token, tokens, offset into out)`.
    #[inline(always)]
    pub(crate) fn for_each_tile(
        &self,
        form: Form,
        tile: impl Fn(usize) -> usize,
        mut f: impl FnMut(*const u8, usize, usize),
    ) {
        let mut token = self.tokens.start;
        while token < self.tokens.end {
            let within = token % form.panel();
            let at_hand = self.tokens.end - token;
            let n = tile(if within == 0 { at_hand } else { at_hand.min(form.panel() - within) });
            f(self.panel_of(form, token), n, (token - self.tokens.start) * self.stride);
            token += n;
        }
    }

    /// A panel pointer moved to a token.
    #[inline(always)]
    pub(crate) fn panel_of(&self, form: Form, token: usize) -> *const u8 {
        let (panel, within) = (token / form.panel(), token % form.panel());
        self.panels.wrapping_add(panel * self.panel_stride + within * form.token_bytes())
    }

    /// The job without its first `n` tokens.
    #[inline(always)]
    pub(crate) fn after(&self, n: usize) -> Self {
        let tokens = self.tokens.start + n..self.tokens.end;
        Self { tokens, out: self.out.wrapping_add(n * self.stride), ..self.clone() }
    }

    /// The job of some of its groups.
    #[inline(always)]
    pub(crate) fn of_groups(&self, groups: Range<usize>) -> Self {
        let (first, out) = self.group(groups.start);
        let upcoming = if groups.end < self.n_groups { self.group(groups.end).0 } else { self.upcoming };
        Self { groups: first, n_groups: groups.len(), out, upcoming, ..self.clone() }
    }

    /// Where group `i` starts, and where its products go.
    #[inline(always)]
    pub(crate) fn group(&self, i: usize) -> (*const u8, *mut f32) {
        (self.groups.wrapping_add(i * self.layout.n_bytes), self.out.wrapping_add(i * ROW_GROUP))
    }
}

/// A run of blocks of a group. Opened weights are kept a run at a time, so that they and the tokens they meet stay
/// in the first-level cache; the sums of earlier runs wait where the products go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Its first block.
    pub(crate) start: usize,
    /// How many blocks.
    pub(crate) n_blocks: usize,
}

impl Run {
    /// All blocks of a group in runs of `most`.
    #[inline(always)]
    pub(crate) fn each(layout: &GroupLayout, most: usize) -> impl Iterator<Item = Run> {
        let n_blocks = layout.n_blocks;
        (0..n_blocks).step_by(most).map(move |start| Run { start, n_blocks: most.min(n_blocks - start) })
    }

    /// All blocks of a group at once.
    #[inline(always)]
    pub(crate) fn whole(layout: &GroupLayout) -> Self {
        Self { start: 0, n_blocks: layout.n_blocks }
    }

    /// A panel pointer moved to the run's first block.
    #[inline(always)]
    pub(crate) fn panel(self, panel: *const u8, form: Form) -> *const u8 {
        panel.wrapping_add(self.start * form.panel() * form.token_bytes())
    }
}

/// Loads the groups after the ones at work while these are computed, a few lines a block, since what a processor
/// foresees by itself ends at every page and at every plane. Lines of small groups are asked for twice: a good while before,
/// so that memory has time to bring them to the second level, which can wait for more of them than the first, and into
/// the first when their group is next. Large groups are next a good while before as it is.
pub(crate) struct Ahead<'a> {
    next: *const u8,
    end: *const u8,
    lines_a_block: usize,
    near: bool,
    /// Where the job ends, and what is read after it; null when nothing is.
    job_end: *const u8,
    upcoming: *const u8,
    /// What is loaded besides, and how many lines of it a block.
    beside: Option<(&'a Beside, usize)>,
}

/// Lines to load: so many from each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lines {
    /// Into the second level; null for none.
    far: *const u8,
    /// Into the first; null for none.
    near: *const u8,
    n: usize,
}

impl<'a> Ahead<'a> {
    /// For `together` groups from `i` on, whose tokens are cut into `n_tiles` tiles.
    #[inline(always)]
    pub(crate) fn new(job: &Job<'a>, i: usize, together: usize, n_tiles: usize) -> Self {
        let n_bytes = together * job.layout.n_bytes;
        let n_lines = n_bytes / ALIGNMENT;
        let steps = (job.layout.n_blocks * n_tiles).max(1);
        let next = if i + together < job.n_groups { job.group(i + together).0 } else { job.upcoming };
        Self {
            next,
            end: if next.is_null() { next } else { next.wrapping_add(n_bytes) },
            lines_a_block: n_lines.div_ceil(steps),
            near: n_bytes <= NEAR_BYTES,
            job_end: job.group(job.n_groups).0,
            upcoming: job.upcoming,
            beside: job.beside.map(|beside| (beside, beside.lines_a_step(steps, together))),
        }
    }

    /// Where the weights are in the cache already.
    #[inline(always)]
    pub(crate) fn nothing() -> Self {
        let none = std::ptr::null();
        Self {
            next: none,
            end: none,
            lines_a_block: 0,
            near: false,
            job_end: none,
            upcoming: none,
            beside: None,
        }
    }

    /// Called once a block.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        if let Some((beside, lines)) = self.beside {
            beside.step(lines);
        }
        if self.next >= self.end {
            return;
        }
        let Lines { far, near, n } = self.lines();
        for line in 0..n {
            if !far.is_null() {
                prefetch_far(far.wrapping_add(line * ALIGNMENT));
            }
            if !near.is_null() {
                prefetch_near(near.wrapping_add(line * ALIGNMENT));
            }
        }
    }

    /// What to load during the next block.
    #[inline(always)]
    fn lines(&mut self) -> Lines {
        let (next, n) = (self.next, self.lines_a_block);
        self.next = next.wrapping_add(n * ALIGNMENT);
        if !self.near {
            return Lines { far: next, near: std::ptr::null(), n };
        }
        let far = next.wrapping_add(FAR_BYTES);
        let far = match far.addr().checked_sub(self.job_end.addr()) {
            // Past the end of the job.
            Some(past) if next < self.job_end => {
                self.upcoming.wrapping_add(if self.upcoming.is_null() { 0 } else { past })
            }
            _ => far,
        };
        Lines { far, near: next, n }
    }
}

/// What may be loaded into the first-level cache ahead of time, beside the groups and tokens at work.
const NEAR_BYTES: usize = 16 << 10;
/// How far ahead of the first level the second is filled.
const FAR_BYTES: usize = 32 << 10;

/// Computes a job.
///
/// # Safety
/// The machine must have the family's instructions. `groups` must hold `n_groups` groups of the type and
/// `panels` the tokens in the form the kernel was chosen for; `out[t * stride + r]` must be writable for every
/// token t and row r of the job, and nobody else may touch it.
pub(crate) type Kernel = unsafe fn(&Job<'_>);

/// The form of activations that a stored type reads.
pub(crate) fn form(precision: Precision, path: KernelPath, dtype: DType) -> Form {
    // What bf16 cannot hold is multiplied in f32.
    let is_in_pairs = path == KernelPath::Avx512Bf16 && !matches!(dtype, DType::F32 | DType::F16);
    match precision {
        Precision::Exact => Form::F32,
        Precision::Bf16 if is_in_pairs => Form::Pairs,
        Precision::Bf16 => Form::Rounded,
        Precision::Int8 if dtype.is_quantised() => Form::Int8,
        Precision::Int8 => Form::F32,
    }
}

/// Runs the instruction that a family multiplies 8-bit numbers with from registers, `loops` times some; returns the
/// operations done (a multiply-add is two), or none for a family without one.
pub(crate) fn dot_products(path: KernelPath, loops: usize) -> Option<f64> {
    assert!(path.is_available(), "the {path} kernels cannot run on this machine");
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: checked above.
        KernelPath::Avx512 | KernelPath::Avx512Bf16 => Some(unsafe { super::avx512::peak::vectors(loops) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelPath::Amx => Some(unsafe { super::avx512::peak::tiles(loops) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelPath::Avx2 => Some(unsafe { super::avx2::dot_products(loops) }),
        _ => None,
    }
}

/// The same of pairs of bf16, or none for a family that does not multiply these.
pub(crate) fn pair_products(path: KernelPath, loops: usize) -> Option<f64> {
    assert!(path.is_available(), "the {path} kernels cannot run on this machine");
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: checked above.
        KernelPath::Avx512Bf16 => Some(unsafe { super::avx512::peak::pairs(loops) }),
        _ => None,
    }
}

/// The kernel of a family for a stored type and a form.
pub(crate) fn select(path: KernelPath, dtype: DType, form: Form) -> Kernel {
    match path {
        KernelPath::Portable => super::portable::select(dtype, form),
        #[cfg(target_arch = "x86_64")]
        KernelPath::Avx2 => super::avx2::select(dtype, form),
        #[cfg(target_arch = "x86_64")]
        KernelPath::Avx512 | KernelPath::Avx512Bf16 => super::avx512::select(dtype, form),
        #[cfg(target_arch = "x86_64")]
        KernelPath::Amx => super::avx512::select_tiles(dtype, form),
        #[cfg(not(target_arch = "x86_64"))]
        _ => super::portable::select(dtype, form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Line number -> how often it was asked for, (far, near), by the groups of a job of `n_groups` at line `at` that
    /// `upcoming` follows.
    fn asked(
        dtype: DType,
        n_cols: usize,
        n_groups: usize,
        at: usize,
        upcoming: Option<usize>,
    ) -> BTreeMap<usize, [usize; 2]> {
        let pointer = |line: usize| std::ptr::without_provenance::<u8>(line * ALIGNMENT);
        let job = Job {
            groups: pointer(at),
            n_groups,
            layout: GroupLayout::new(dtype, n_cols),
            panels: std::ptr::null(),
            panel_stride: 0,
            tokens: 0..1,
            out: std::ptr::null_mut(),
            stride: 0,
            upcoming: upcoming.map_or(std::ptr::null(), pointer),
            beside: None,
        };
        let mut lines = BTreeMap::new();
        for i in 0..n_groups {
            let mut ahead = Ahead::new(&job, i, 1, 1);
            for _ in 0..job.layout.n_blocks {
                if ahead.next < ahead.end {
                    let Lines { far, near, n } = ahead.lines();
                    for (which, from) in [far, near].into_iter().enumerate() {
                        for line in 0..if from.is_null() { 0 } else { n } {
                            lines.entry(from.addr() / ALIGNMENT + line).or_insert([0; 2])[which] += 1;
                        }
                    }
                }
            }
        }
        lines
    }

    #[test]
    fn every_line_of_a_job_and_the_first_of_the_next_are_loaded_ahead() {
        for (dtype, n_cols) in
            [(DType::Q4_1, 576), (DType::Q8_0, 576), (DType::Q4_1, 1536), (DType::Q4_1, 4096)]
        {
            let group = GroupLayout::new(dtype, n_cols).n_bytes / ALIGNMENT;
            let is_near = group * ALIGNMENT <= NEAR_BYTES;
            let (n_groups, at, upcoming) = (40, 1_000_000, 5_000_000);
            let (end, far_lines) = (at + n_groups * group, FAR_BYTES / ALIGNMENT);
            let lines = asked(dtype, n_cols, n_groups, at, Some(upcoming));
            // Lines of one block; so many may be missed where the job ends.
            let most = 16;
            // The first group and what is far ahead of it were the job's before.
            let within = if is_near { at + group + far_lines..end } else { at + group..end };
            let next = upcoming..upcoming + group + if is_near { far_lines } else { 0 };
            for line in within.chain(next.start + if is_near { most } else { 0 }..next.end) {
                assert!(
                    lines.get(&line).is_some_and(|n| n[0] > 0),
                    "{dtype} {n_cols}: line {line} is not far ahead"
                );
            }
            for line in (at + group..end).chain(upcoming..upcoming + group) {
                assert_eq!(lines[&line][1] > 0, is_near, "{dtype} {n_cols}: line {line} near");
            }
            for (&line, n) in &lines {
                let expected =
                    (at + group..end + most).contains(&line) || (next.start..next.end + most).contains(&line);
                assert!(expected && n[0] <= 2 && n[1] <= 2, "{dtype} {n_cols}: line {line} {n:?}");
            }
        }
    }

    #[test]
    fn nothing_is_loaded_when_nothing_is_upcoming() {
        for n_cols in [576, 4096] {
            let group = GroupLayout::new(DType::Q4_1, n_cols).n_bytes / ALIGNMENT;
            let lines = asked(DType::Q4_1, n_cols, 40, 1_000_000, None);
            let end = 1_000_000 + 40 * group + 16;
            assert!(lines.keys().all(|line| (1_000_000 + group..end).contains(line)), "{n_cols} columns");
        }
    }
}
