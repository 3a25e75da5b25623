//! Rounding activations to 8 bits.
#![allow(unsafe_code)]

use crate::linear::activations::{Int8Block, ORDINARY, Row, int8_scale, write_int8_scale};
use crate::linear::layout::BLOCK;
use std::arch::x86_64::*;

/// As [`Int8Block`] does it, bit for bit.
///
/// # Safety
/// There is room for every block of the 8-bit form, and nobody else touches it; the processor has the
/// instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::linear) unsafe fn write_int8(row: &Row<'_>) {
    for (i, block) in row.values.as_chunks::<BLOCK>().0.iter().enumerate() {
        // SAFETY: promised by the caller; a block has four vectors.
        unsafe {
            let to = row.first.add(i * row.stride);
            let magnitude = _mm256_set1_epi32(0x7fff_ffff);
            let mut x = [_mm256_setzero_ps(); 4];
            let mut largest = _mm256_setzero_si256();
            for i in 0..4 {
                x[i] = _mm256_loadu_ps(block.as_ptr().add(8 * i));
                largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
            }
            let largest =
                _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
            let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b01_00_11_10>(largest));
            let largest = _mm_max_epi32(largest, _mm_shuffle_epi32::<0b10_11_00_01>(largest));
            let largest = f32::from_bits(_mm_cvtsi128_si32(largest) as u32);
            if !ORDINARY.contains(&largest) {
                Int8Block::new(block).write(to);
                continue;
            }
            let scale = int8_scale(largest);
            let inverse = _mm256_set1_ps(1.0 / scale);
            let mut q = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                let rounded = _mm256_round_ps::<NEAREST>(_mm256_mul_ps(x[i], inverse));
                q[i] = _mm256_cvtps_epi32(rounded);
            }
            // Packing works within 128-bit lanes, so groups of four land in the order 0 2 4 6 1 3 5 7.
            let narrow = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            let quants = _mm256_permutevar8x32_epi32(narrow, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(to.cast(), quants);
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), quants);
            let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
            let sums = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
            write_int8_scale(to, scale, sums);
        }
    }
}
