//! What every kernel family offers: one function for each stored type and form of activations.
#![allow(unsafe_code)]

use super::activations::Form;
use super::layout::{ALIGNMENT, GroupLayout};
use super::memory::{prefetch_far, prefetch_near};
use super::{Precision, ROW_GROUP};
use crate::features::KernelPath;
use entropix_model::DType;
use std::ops::Range;

/// A rectangle of products: some tokens times whole groups of rows of one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Job {
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
}

impl Job {
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
            let offset = token / form.panel() * self.panel_stride + within * form.token_bytes();
            let panel = self.panels.wrapping_add(offset);
            f(panel, n, (token - self.tokens.start) * self.stride);
            token += n;
        }
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
/// foresees by itself ends at every page and at every plane. Each line is asked for twice: a good while before, so that
/// memory has time to bring it to the second level, and once more when its group is next, into the first.
pub(crate) struct Ahead {
    next: *const u8,
    end: *const u8,
    lines_a_block: usize,
    near: bool,
    /// Where the job ends, and how far from there to what is read after it.
    job_end: *const u8,
    jump: isize,
}

impl Ahead {
    /// For `together` groups from `i` on, whose tokens are cut into `n_tiles` tiles.
    #[inline(always)]
    pub(crate) fn new(job: &Job, i: usize, together: usize, n_tiles: usize) -> Self {
        let n_bytes = together * job.layout.n_bytes;
        let n_lines = n_bytes / ALIGNMENT;
        let job_end = job.group(job.n_groups).0;
        let next = if i + together < job.n_groups { job.group(i + together).0 } else { job.upcoming };
        Self {
            next,
            end: next.wrapping_add(n_bytes),
            lines_a_block: n_lines.div_ceil((job.layout.n_blocks * n_tiles).max(1)),
            near: n_bytes <= NEAR_BYTES,
            job_end,
            jump: job.upcoming.addr().wrapping_sub(job_end.addr()) as isize,
        }
    }

    /// Where the weights are in the cache already.
    #[inline(always)]
    pub(crate) fn nothing() -> Self {
        let none = std::ptr::null();
        Self { next: none, end: none, lines_a_block: 0, near: false, job_end: none, jump: 0 }
    }

    /// Called once a block.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        if self.next >= self.end {
            return;
        }
        let is_past = self.next < self.job_end && self.next.wrapping_add(FAR_BYTES) >= self.job_end;
        let far = self.next.wrapping_add(FAR_BYTES).wrapping_offset(if is_past { self.jump } else { 0 });
        for line in 0..self.lines_a_block {
            prefetch_far(far.wrapping_add(line * ALIGNMENT));
            if self.near {
                prefetch_near(self.next.wrapping_add(line * ALIGNMENT));
            }
        }
        self.next = self.next.wrapping_add(self.lines_a_block * ALIGNMENT);
    }
}

/// What may be loaded into the first-level cache ahead of time, beside the groups and tokens at work.
const NEAR_BYTES: usize = 16 << 10;
/// How far ahead of that the second level is filled.
const FAR_BYTES: usize = 32 << 10;

/// Computes a job.
///
/// # Safety
/// The machine must have the family's instructions. `groups` must hold `n_groups` groups of the type and
/// `panels` the tokens in the form the kernel was chosen for; `out[t * stride + r]` must be writable for every
/// token t and row r of the job, and nobody else may touch it.
pub(crate) type Kernel = unsafe fn(&Job);

/// The form of activations that a stored type reads.
pub(crate) fn form(precision: Precision, dtype: DType) -> Form {
    match precision {
        Precision::Exact => Form::F32,
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
        KernelPath::Avx512 => Some(unsafe { super::avx512::peak::vectors(loops) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelPath::Amx => Some(unsafe { super::avx512::peak::tiles(loops) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelPath::Avx2 => Some(unsafe { super::avx2::dot_products(loops) }),
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
        KernelPath::Avx512 => super::avx512::select(dtype, form),
        #[cfg(target_arch = "x86_64")]
        KernelPath::Amx => super::avx512::select_tiles(dtype, form),
        #[cfg(not(target_arch = "x86_64"))]
        _ => super::portable::select(dtype, form),
    }
}
