//! Plain Rust kernels that every processor can run. Everything is a loop over the sixteen rows of a group, which
//! the compiler makes vectors of.
//!
//! 8-bit products are taken of integers kept in f32: their sums stay below 2^24, so they are exact.
#![allow(unsafe_code)]

use super::ROW_GROUP;
use super::activations::Form;
use super::kernels::{Job, Kernel};
use super::layout::{self, BLOCK, LowBits, Quants};
use entropix_model::DType;

/// The stored type is a constant of each kernel, so that opening weights is code and not a decision a number.
pub(super) fn select(dtype: DType, form: Form) -> Kernel {
    macro_rules! for_each_type {
        ($($name:ident => $index:literal),*) => {
            match (dtype, form) {
                $((DType::$name, Form::Int8) => int8::<$index>,
                (DType::$name, Form::F32 | Form::Rounded) => float::<$index>,)*
                (_, Form::Pairs) => unreachable!("pairs of bf16 are for vdpbf16ps"),
            }
        };
    }
    for_each_type!(F32 => 0, F16 => 1, BF16 => 2, Q4_0 => 3, Q4_1 => 4, Q5_0 => 5, Q5_1 => 6, Q8_0 => 7,
        Q4_K => 8, Q5_K => 9, Q6_K => 10)
}

/// One number of each row.
type Rows<T> = [T; ROW_GROUP];
/// One block of a group: (32 columns, 16 rows).
type Columns = [Rows<f32>; BLOCK];

/// a * b + c, fused where that is one instruction.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

/// Vector `i` of a plane: four bytes of each row.
#[inline(always)]
fn vector(plane: &[u8], i: usize) -> Rows<u32> {
    let bytes = &plane[i * 4 * ROW_GROUP..(i + 1) * 4 * ROW_GROUP];
    std::array::from_fn(|row| {
        u32::from_le_bytes([bytes[4 * row], bytes[4 * row + 1], bytes[4 * row + 2], bytes[4 * row + 3]])
    })
}

/// A block's numbers, left-aligned in a byte.
#[inline(always)]
fn open(dtype: DType, group: &[u8], job: &Job<'_>, block: usize, out: &mut Columns) {
    let planes = layout::planes(dtype);
    let low_bits = &group[job.layout.low_bits..job.layout.scales];
    for quad in 0..BLOCK / 4 {
        let mut numbers = match planes.quants {
            Quants::Bytes => vector(group, block * 8 + quad),
            Quants::Nibbles => {
                let both = vector(group, block * 4 + quad % 4);
                if quad < 4 { both.map(|x| (x & 0x0f0f_0f0f) << 4) } else { both.map(|x| x & 0xf0f0_f0f0) }
            }
        };
        match planes.low_bits {
            LowBits::None => (),
            LowBits::One => {
                let low = vector(low_bits, block);
                for (x, low) in numbers.iter_mut().zip(low) {
                    *x |= (low >> quad & 0x0101_0101) << 3;
                }
            }
            LowBits::Two => {
                let low = vector(low_bits, block * 2 + quad / 4);
                for (x, low) in numbers.iter_mut().zip(low) {
                    *x |= (low >> (2 * (quad % 4)) & 0x0303_0303) << 2;
                }
            }
        }
        for (i, column) in out[4 * quad..4 * quad + 4].iter_mut().enumerate() {
            for (x, number) in column.iter_mut().zip(&numbers) {
                *x = (number >> (8 * i) & 0xff) as i32 as f32;
            }
        }
    }
    if layout::is_signed(dtype) {
        for x in out.as_flattened_mut() {
            *x -= 128.0;
        }
    }
}

/// d of both halves of a block, and m.
#[inline(always)]
fn scales(dtype: DType, group: &[u8], job: &Job<'_>, block: usize) -> ([Rows<f32>; 2], Rows<f32>) {
    let (mut d, mut m) = ([[0.0; ROW_GROUP]; 2], [0.0; ROW_GROUP]);
    for lane in 0..ROW_GROUP {
        let scale = layout::block_scale(dtype, group, &job.layout, lane, block);
        (d[0][lane], d[1][lane], m[lane]) = (scale.d[0], scale.d[1], scale.m);
    }
    (d, m)
}

/// A block's weights.
#[inline(always)]
fn open_weights(dtype: DType, group: &[u8], job: &Job<'_>, block: usize, out: &mut Columns) {
    if dtype.is_quantised() {
        let (d, m) = scales(dtype, group, job, block);
        open(dtype, group, job, block, out);
        for (col, column) in out.iter_mut().enumerate() {
            for ((x, d), m) in column.iter_mut().zip(&d[col / 16]).zip(&m) {
                *x = *x * d + m;
            }
        }
        return;
    }
    let mut row = [0.0; BLOCK];
    for lane in 0..ROW_GROUP {
        layout::dequantise_block(dtype, group, &job.layout, lane, block, &mut row);
        for (column, x) in out.iter_mut().zip(row) {
            column[lane] = x;
        }
    }
}

/// Adds the products of some columns with a token's numbers.
#[inline(always)]
fn add_products(columns: &[Rows<f32>], x: &[f32], sums: &mut Rows<f32>) {
    for (column, x) in columns.iter().zip(x) {
        for (sum, w) in sums.iter_mut().zip(column) {
            *sum = multiply_add(*w, *x, *sum);
        }
    }
}

/// Activations of F32 or Rounded form.
unsafe fn float<const TYPE: usize>(job: &Job<'_>) {
    let dtype = DType::ALL[TYPE];
    let mut weights: Columns = [[0.0; ROW_GROUP]; BLOCK];
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        // SAFETY: the job's promise.
        let group = unsafe { std::slice::from_raw_parts(group, job.layout.n_bytes) };
        for block in 0..job.layout.n_blocks {
            open_weights(dtype, group, job, block, &mut weights);
            let tile = |panel: *const u8, n: usize, to: usize| {
                let panel = panel.cast::<f32>().wrapping_add(block * Form::F32.panel() * BLOCK);
                for t in 0..n {
                    let out = out.wrapping_add(to + t * job.stride).cast::<Rows<f32>>();
                    // SAFETY: the job's promise; the sums of earlier blocks wait in `out`.
                    unsafe {
                        let x = &*panel.add(t * BLOCK).cast::<[f32; BLOCK]>();
                        let mut sums = if block == 0 { [0.0; ROW_GROUP] } else { out.read() };
                        add_products(&weights, x, &mut sums);
                        out.write(sums);
                    }
                }
            };
            job.for_each_tile(Form::F32, |n| n.min(Form::F32.panel()), tile);
        }
    }
}

unsafe fn int8<const TYPE: usize>(job: &Job<'_>) {
    let dtype = DType::ALL[TYPE];
    let signed = layout::is_signed(dtype);
    let mut numbers: Columns = [[0.0; ROW_GROUP]; BLOCK];
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        // SAFETY: the job's promise.
        let group = unsafe { std::slice::from_raw_parts(group, job.layout.n_bytes) };
        for block in 0..job.layout.n_blocks {
            open(dtype, group, job, block, &mut numbers);
            let (d, m) = scales(dtype, group, job, block);
            let tile = |panel: *const u8, n: usize, to: usize| {
                let panel = panel.wrapping_add(block * Form::Int8.panel() * Form::Int8.token_bytes());
                for t in 0..n {
                    let out = out.wrapping_add(to + t * job.stride).cast::<Rows<f32>>();
                    let token = panel.wrapping_add(t * Form::Int8.token_bytes());
                    // SAFETY: the job's promise; the sums of earlier blocks wait in `out`.
                    unsafe {
                        let x = (*token.cast::<[i8; BLOCK]>()).map(f32::from);
                        let [dx, sum] = token.add(BLOCK).cast::<[f32; 2]>().read_unaligned();
                        let mut sums = if block == 0 { [0.0; ROW_GROUP] } else { out.read() };
                        if !signed {
                            add_products(&[m], &[sum], &mut sums);
                        }
                        if dtype == DType::Q6_K {
                            fold(&numbers[..16], &x[..16], &d[0], dx, &mut sums);
                            fold(&numbers[16..], &x[16..], &d[1], dx, &mut sums);
                        } else {
                            fold(&numbers, &x, &d[0], dx, &mut sums);
                        }
                        out.write(sums);
                    }
                }
            };
            job.for_each_tile(Form::Int8, |n| n.min(Form::Int8.panel()), tile);
        }
    }
}

/// `sums += dot * (d dx)`.
#[inline(always)]
fn fold(numbers: &[Rows<f32>], x: &[f32], d: &Rows<f32>, dx: f32, sums: &mut Rows<f32>) {
    let mut dots = [0.0; ROW_GROUP];
    add_products(numbers, x, &mut dots);
    for ((sum, dot), d) in sums.iter_mut().zip(dots).zip(d) {
        *sum = multiply_add(dot, d * dx, *sum);
    }
}
