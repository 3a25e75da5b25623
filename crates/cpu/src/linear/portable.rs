//! Plain Rust kernels that every processor can run. The loops over the sixteen rows of a group are what the
//! compiler makes vectors of.

use super::ROW_GROUP;
use super::activations::{Form, PANEL};
use super::kernels::{Job, Kernel};
use super::layout::{self, BLOCK};
use entropix_model::DType;

/// A token's block of weights has one job a stored type; the type is a constant so that decoding it is code and
/// not a decision a number.
pub(super) fn select(dtype: DType, form: Form) -> Kernel {
    macro_rules! for_each_type {
        ($($name:ident => $index:literal),*) => {
            match (dtype, form) {
                $((DType::$name, Form::Int8) => int8::<$index>,
                (DType::$name, Form::F32 | Form::Rounded) => float::<$index>,)*
            }
        };
    }
    for_each_type!(F32 => 0, F16 => 1, BF16 => 2, Q4_0 => 3, Q4_1 => 4, Q5_0 => 5, Q5_1 => 6, Q8_0 => 7,
        Q4_K => 8, Q5_K => 9, Q6_K => 10)
}

/// a * b + c, fused where that is one instruction.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

/// The weights of one block: (32 columns, 16 rows).
type Block = [[f32; ROW_GROUP]; BLOCK];

fn decode(dtype: DType, group: &[u8], job: &Job, block: usize, weights: &mut Block) {
    let mut row = [0.0; BLOCK];
    for lane in 0..ROW_GROUP {
        layout::dequantise_block(dtype, group, &job.layout, lane, block, &mut row);
        for (weights, x) in weights.iter_mut().zip(row) {
            weights[lane] = x;
        }
    }
}

/// Activations of F32 or Rounded form.
unsafe fn float<const TYPE: usize>(job: &Job) {
    let dtype = DType::ALL[TYPE];
    let token_floats = BLOCK;
    let mut weights: Block = [[0.0; ROW_GROUP]; BLOCK];
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        // SAFETY: the job's promise.
        let group = unsafe { std::slice::from_raw_parts(group, job.layout.n_bytes) };
        for block in 0..job.layout.n_blocks {
            decode(dtype, group, job, block, &mut weights);
            job.for_each_tile(
                Form::F32,
                |n| n.min(PANEL),
                |panel, n, to| {
                    let panel = panel.cast::<f32>().wrapping_add(block * PANEL * token_floats);
                    for t in 0..n {
                        let out = out.wrapping_add(to + t * job.stride).cast::<[f32; ROW_GROUP]>();
                        // SAFETY: the job's promise; the sums of earlier blocks wait in `out`.
                        unsafe {
                            let x = &*panel.add(t * token_floats).cast::<[f32; BLOCK]>();
                            let mut sums = if block == 0 { [0.0; ROW_GROUP] } else { out.read() };
                            for (x, weights) in x.iter().zip(&weights) {
                                for (sum, w) in sums.iter_mut().zip(weights) {
                                    *sum = multiply_add(*w, *x, *sum);
                                }
                            }
                            out.write(sums);
                        }
                    }
                },
            );
        }
    }
}

/// The numbers of one block, less 128 where the type is signed: (8 quads, 16 rows, 4 columns).
type Numbers = [[[i16; 4]; ROW_GROUP]; BLOCK / 4];

unsafe fn int8<const TYPE: usize>(job: &Job) {
    let dtype = DType::ALL[TYPE];
    let signed = layout::is_signed(dtype);
    let halves = dtype == DType::Q6_K;
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        // SAFETY: the job's promise.
        let group = unsafe { std::slice::from_raw_parts(group, job.layout.n_bytes) };
        for block in 0..job.layout.n_blocks {
            let mut numbers: Numbers = [[[0; 4]; ROW_GROUP]; BLOCK / 4];
            let mut d = [[0.0; ROW_GROUP]; 2];
            let mut m = [0.0; ROW_GROUP];
            for lane in 0..ROW_GROUP {
                let scale = layout::block_scale(dtype, group, &job.layout, lane, block);
                (d[0][lane], d[1][lane], m[lane]) = (scale.d[0], scale.d[1], scale.m);
                let row = layout::numbers(dtype, group, &job.layout, lane, block);
                for (col, q) in row.into_iter().enumerate() {
                    numbers[col / 4][lane][col % 4] = q as i16 - if signed { 128 } else { 0 };
                }
            }
            job.for_each_tile(
                Form::Int8,
                |n| n.min(PANEL),
                |panel, n, to| {
                    let panel = panel.wrapping_add(block * PANEL * Form::Int8.token_bytes());
                    for t in 0..n {
                        let out = out.wrapping_add(to + t * job.stride).cast::<[f32; ROW_GROUP]>();
                        let token = panel.wrapping_add(t * Form::Int8.token_bytes());
                        // SAFETY: the job's promise; the sums of earlier blocks wait in `out`.
                        unsafe {
                            let x = &*token.cast::<[i8; BLOCK]>();
                            let [dx, sum] = token.add(BLOCK).cast::<[f32; 2]>().read_unaligned();
                            let mut sums = if block == 0 { [0.0; ROW_GROUP] } else { out.read() };
                            if !signed {
                                for (acc, m) in sums.iter_mut().zip(&m) {
                                    *acc = multiply_add(*m, sum, *acc);
                                }
                            }
                            if halves {
                                fold(&mut sums, dots(&numbers[..4], &x[..16]), &d[0], dx);
                                fold(&mut sums, dots(&numbers[4..], &x[16..]), &d[1], dx);
                            } else {
                                fold(&mut sums, dots(&numbers, x), &d[0], dx);
                            }
                            out.write(sums);
                        }
                    }
                },
            );
        }
    }
}

#[inline(always)]
fn dots(numbers: &[[[i16; 4]; ROW_GROUP]], x: &[i8]) -> [i32; ROW_GROUP] {
    let mut dots = [0; ROW_GROUP];
    for (rows, x) in numbers.iter().zip(x.chunks_exact(4)) {
        for (dot, q) in dots.iter_mut().zip(rows) {
            *dot += q.iter().zip(x).map(|(q, x)| *q as i32 * *x as i32).sum::<i32>();
        }
    }
    dots
}

#[inline(always)]
fn fold(sums: &mut [f32; ROW_GROUP], dots: [i32; ROW_GROUP], d: &[f32; ROW_GROUP], dx: f32) {
    for ((sum, dot), d) in sums.iter_mut().zip(dots).zip(d) {
        *sum = multiply_add(dot as f32, d * dx, *sum);
    }
}
