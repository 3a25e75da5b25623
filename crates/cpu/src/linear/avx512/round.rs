//! Rounding activations to 8 bits and to bf16.
#![allow(unsafe_code)]

use crate::linear::activations::{Int8Block, ORDINARY, Row, int8_scale, write_int8_scale};
use crate::linear::layout::BLOCK;
use std::arch::x86_64::*;

/// As [`Int8Block`] does it, bit for bit.
///
/// # Safety
/// There is room for every block of the 8-bit form, and nobody else touches it; the processor has the
/// instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::linear) unsafe fn write_int8(row: &Row<'_>) {
    for (i, block) in row.values.as_chunks::<BLOCK>().0.iter().enumerate() {
        // SAFETY: promised by the caller; a block has two vectors.
        unsafe {
            let to = row.first.add(i * row.stride);
            let (low, high) = (_mm512_loadu_ps(block.as_ptr()), _mm512_loadu_ps(block.as_ptr().add(16)));
            let magnitude = _mm512_set1_epi32(0x7fff_ffff);
            let largest = _mm512_max_epi32(
                _mm512_and_si512(_mm512_castps_si512(low), magnitude),
                _mm512_and_si512(_mm512_castps_si512(high), magnitude),
            );
            let largest = f32::from_bits(_mm512_reduce_max_epi32(largest) as u32);
            if !ORDINARY.contains(&largest) {
                Int8Block::new(block).write(to);
                continue;
            }
            let scale = int8_scale(largest);
            let inverse = _mm512_set1_ps(1.0 / scale);
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            let low = _mm512_cvt_roundps_epi32::<NEAREST>(_mm512_mul_ps(low, inverse));
            let high = _mm512_cvt_roundps_epi32::<NEAREST>(_mm512_mul_ps(high, inverse));
            let quants = _mm256_set_m128i(_mm512_cvtepi32_epi8(high), _mm512_cvtepi32_epi8(low));
            _mm256_storeu_si256(to.cast(), quants);
            let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), quants);
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
            let sums = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
            write_int8_scale(to, scale, sums);
        }
    }
}

/// To bf16, to the nearest, ties to even (subnormal numbers become 0); a NaN stays one.
///
/// # Safety
/// There is room for every block of pairs, and nobody else touches it; the processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(in crate::linear) unsafe fn write_pairs(row: &Row<'_>) {
    for (i, values) in row.values.chunks(BLOCK).enumerate() {
        let mut block = [0.0f32; BLOCK];
        block[..values.len()].copy_from_slice(values);
        // SAFETY: promised by the caller; a block has two vectors.
        unsafe {
            let to = row.first.add(i * row.stride);
            let (low, high) = (_mm512_loadu_ps(block.as_ptr()), _mm512_loadu_ps(block.as_ptr().add(16)));
            let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.cast(), pairs);
            let first = _mm512_slli_epi32::<16>(pairs);
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32 as i32));
            let mut sums = [0f32; 16];
            let pair_sums = _mm512_add_ps(_mm512_castsi512_ps(first), _mm512_castsi512_ps(second));
            _mm512_storeu_ps(sums.as_mut_ptr(), pair_sums);
            to.add(2 * BLOCK).cast::<f32>().write_unaligned(sum_of_halves(sums));
        }
    }
}

/// The sum, the upper half added to the lower over and over.
#[inline(always)]
pub(in crate::linear) fn sum_of_halves(mut numbers: [f32; 16]) -> f32 {
    for n in [8, 4, 2, 1] {
        for i in 0..n {
            numbers[i] += numbers[i + n];
        }
    }
    numbers[0]
}
