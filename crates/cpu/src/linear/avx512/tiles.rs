//! 8-bit activations by AMX: the integer dot products of sixteen tokens and sixteen rows over a block are one tile
//! instruction (Intel, Architecture Instruction Set Extensions Programming Reference, chapter 3). Sums of integers
//! are exact in any order and the folding into f32 is that of the vector kernels, so the bits are theirs.
//!
//! A block of an opened group, (8 quads, 16 rows, 4 columns) bytes, is the tile of weights as it lies; a panel of
//! tokens is the tile of activations with the stride of a token.
#![allow(unsafe_code)]

use super::int8;
use super::opened::{Opened, Opening, RUN};
use super::weights::{self, Packed, Weights};
use crate::linear::activations::Form;
use crate::linear::kernels::{Ahead, Job, Kernel, Run};
use crate::linear::layout::BLOCK;
use crate::linear::memory::with_scratch;
use entropix_model::DType;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Whether the processor has tiles of 8-bit integers and the system lets this process use them.
pub(crate) fn is_available() -> bool {
    static IS_AVAILABLE: OnceLock<bool> = OnceLock::new();
    *IS_AVAILABLE.get_or_init(|| is_in_processor() && is_permitted())
}

fn is_in_processor() -> bool {
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    let highest = __cpuid(0).eax;
    highest >= 7 && __cpuid_count(7, 0).edx & (AMX_TILE | AMX_INT8) == AMX_TILE | AMX_INT8
}

/// Linux keeps the 8 KB of tiles only for processes that ask.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: a request without pointers; a kernel that does not know it answers with an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

pub(super) fn select(dtype: DType) -> Kernel {
    match dtype {
        DType::Q4_0 => run::<weights::Q4_0>,
        DType::Q4_1 => run::<weights::Q4_1>,
        DType::Q5_0 => run::<weights::Q5_0>,
        DType::Q5_1 => run::<weights::Q5_1>,
        DType::Q8_0 => run::<weights::Q8_0>,
        DType::Q4_K => run::<weights::Q4_K>,
        DType::Q5_K => run::<weights::Q5_K>,
        DType::Q6_K => run::<weights::Q6_K>,
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} weights meet no 8-bit activations"),
    }
}

/// Tokens of a panel from which tiles pay.
const FEWEST_TOKENS: usize = 9;

const TOKEN: usize = Form::Int8.token_bytes();
/// Tokens of a tile, all of a panel.
const TOKENS: usize = Form::Int8.panel();

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn run<W: Packed>(job: &Job<'_>) {
    // SAFETY: the job's promise.
    unsafe {
        if job.tokens.len() < FEWEST_TOKENS {
            return int8::run::<W, false>(job);
        }
        match (W::SIGNED, W::HALVES) {
            (true, false) => run_opened::<W, true, false>(job),
            (true, true) => run_opened::<W, true, true>(job),
            (false, _) => run_opened::<W, false, false>(job),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn run_opened<W: Packed, const SIGNED: bool, const HALVES: bool>(job: &Job<'_>) {
    let n_tiles = job.tokens.len().div_ceil(TOKENS);
    with_scratch(RUN * Opened::<SIGNED, HALVES, false>::BLOCK, |scratch| {
        configure();
        for i in 0..job.n_groups {
            let (group, out) = job.group(i);
            let mut ahead = Ahead::new(job, i, 1, n_tiles);
            for run in Run::each(&job.layout, RUN) {
                // SAFETY: the job's promise, and scratch memory of the size asked for.
                unsafe {
                    let weights = W::new(group, &job.layout);
                    Opening::<W, false>::new(weights, run, scratch, &Cell::default()).open(run.n_blocks);
                    many_tiles::<SIGNED, HALVES>(job, run, scratch, out, &mut ahead);
                }
            }
        }
    });
}

/// One opened run of a group times all tokens; the same code for all types that open alike.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn many_tiles<const SIGNED: bool, const HALVES: bool>(
    job: &Job<'_>,
    run: Run,
    group: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    job.for_each_tile(
        Form::Int8,
        |n| n.min(TOKENS),
        |panel, n, to| {
            let (panel, out) = (run.panel(panel, Form::Int8), out.wrapping_add(to));
            // SAFETY: the job's promise; tiles and groups stay within it. Tokens past the panel are read and
            // forgotten; activations have room for them.
            unsafe {
                match n {
                    0..FEWEST_TOKENS => {
                        let weights = Opened::<SIGNED, HALVES, false>::new(group);
                        int8::few(job, run, weights, panel, out, n, ahead);
                    }
                    9..=12 => tile::<SIGNED, HALVES, 12>(job, run, group, panel, out, n, ahead),
                    _ => tile::<SIGNED, HALVES, 16>(job, run, group, panel, out, n, ahead),
                }
            }
        },
    );
}

/// Dot products of a block: (16 tokens, 16 rows), of its second half apart where it has two scales.
#[repr(C, align(64))]
struct Dots([[[i32; 16]; TOKENS]; 2]);

/// A run of a group times n <= T tokens. `group` and `panel` start with the run's first block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<const SIGNED: bool, const HALVES: bool, const T: usize>(
    job: &Job<'_>,
    run: Run,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    n: usize,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for the group, for T tokens from `panel` on and for n rows of `out`.
    unsafe {
        let weights = Opened::<SIGNED, HALVES, false>::new(group);
        let mut sums = [_mm512_setzero_ps(); T];
        if run.start > 0 {
            for t in 0..T {
                if t < n {
                    sums[t] = _mm512_loadu_ps(out.add(t * job.stride));
                }
            }
        }
        // The processor multiplies one block while the one before is folded.
        let mut dots = [const { MaybeUninit::<Dots>::uninit() }; 2];
        multiply::<HALVES>(panel, group, dots[0].as_mut_ptr());
        for block in 0..run.n_blocks {
            ahead.step();
            let first = panel.add(block * TOKENS * TOKEN);
            if block + 1 < run.n_blocks {
                let weights = group.add((block + 1) * Opened::<SIGNED, HALVES, false>::BLOCK);
                multiply::<HALVES>(first.add(TOKENS * TOKEN), weights, dots[(block + 1) % 2].as_mut_ptr());
            }
            let dots = dots[block % 2].as_ptr();
            let (d, m) = weights.scales(block);
            for t in 0..T {
                let token = first.add(t * TOKEN);
                let number = |at: usize| _mm512_set1_ps(token.add(at).cast::<f32>().read_unaligned());
                let offset = |at: usize| _mm512_set1_epi32(token.add(at).cast::<i32>().read_unaligned());
                let dx = number(BLOCK);
                let dot = |half: usize| _mm512_load_si512((&raw const (*dots).0[half][t]).cast());
                if !SIGNED {
                    sums[t] = _mm512_fmadd_ps(m, number(BLOCK + 4), sums[t]);
                }
                if HALVES {
                    let low = _mm512_add_epi32(dot(0), offset(BLOCK + 12));
                    let high = _mm512_sub_epi32(offset(BLOCK + 8), offset(BLOCK + 12));
                    let high = _mm512_add_epi32(dot(1), high);
                    sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_mul_ps(d[0], dx), sums[t]);
                    sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_mul_ps(d[1], dx), sums[t]);
                } else {
                    let dot = if SIGNED { _mm512_add_epi32(dot(0), offset(BLOCK + 8)) } else { dot(0) };
                    sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d[0], dx), sums[t]);
                }
            }
        }
        for t in 0..T {
            if t < n {
                _mm512_storeu_ps(out.add(t * job.stride), sums[t]);
            }
        }
    }
}

/// Starts the products of sixteen tokens and an opened block.
///
/// # Safety
/// Tiles are configured; sixteen tokens may be read from `tokens` on, and 8 vectors of `weights`.
#[inline(always)]
unsafe fn multiply<const HALVES: bool>(tokens: *const u8, weights: *const u8, dots: *mut Dots) {
    // SAFETY: promised above; the shapes are those of `Configured`.
    unsafe {
        if HALVES {
            asm!(
                "tilezero tmm3",
                "tilezero tmm4",
                "tileloadd tmm5, [{tokens} + {token}*1]",
                "tileloadd tmm6, [{weights} + {vector}*1]",
                "tdpbsud tmm3, tmm5, tmm6",
                "tileloadd tmm5, [{tokens} + {token}*1 + 16]",
                "tileloadd tmm6, [{weights} + {vector}*1 + 256]",
                "tdpbsud tmm4, tmm5, tmm6",
                "tilestored [{dots} + {vector}*1], tmm3",
                "tilestored [{dots} + {vector}*1 + 1024], tmm4",
                tokens = in(reg) tokens,
                weights = in(reg) weights,
                dots = in(reg) dots,
                token = in(reg) TOKEN,
                vector = in(reg) 64usize,
                out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack, preserves_flags),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm1, [{tokens} + {token}*1]",
                "tileloadd tmm2, [{weights} + {vector}*1]",
                "tdpbsud tmm0, tmm1, tmm2",
                "tilestored [{dots} + {vector}*1], tmm0",
                tokens = in(reg) tokens,
                weights = in(reg) weights,
                dots = in(reg) dots,
                token = in(reg) TOKEN,
                vector = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// The instruction by itself, `loops` times.
///
/// # Safety
/// The machine has tiles.
pub(super) unsafe fn multiply_alone(loops: usize) {
    configure();
    for _ in 0..loops {
        // SAFETY: promised above; no memory.
        unsafe {
            asm!("tdpbsud tmm0, tmm1, tmm2", out("tmm0") _, options(nomem, nostack, preserves_flags));
        }
    }
}

/// What `ldtilecfg` reads and `sttilecfg` writes.
#[derive(PartialEq)]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tiles `multiply` wants: whole blocks use 0 to 2, halves 3 to 6.
static CONFIG: Config = {
    const SHAPES: [(u8, u16); 7] =
        [(16, 64), (16, BLOCK as u16), (8, 64), (16, 64), (16, 64), (16, BLOCK as u16 / 2), (4, 64)];
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < SHAPES.len() {
        (rows[i], row_bytes[i]) = SHAPES[i];
        i += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Gives the tiles of this thread their shapes. They keep them: to look costs a twentieth of setting them anew.
#[inline(always)]
fn configure() {
    let mut now = MaybeUninit::<Config>::uninit();
    // SAFETY: kernels of this module run only where `is_available` said yes; the shapes are within the limits of
    // palette 1, 16 rows of 64 bytes. All bytes of `now` are written, and any are a `Config`.
    unsafe {
        asm!("sttilecfg [{}]", in(reg) now.as_mut_ptr(), options(nostack, preserves_flags));
        if *now.as_ptr() != CONFIG {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly));
        }
    }
}
