//! The number formats of stored weights and what each of them means.
//!
//! [`dequantise`] is the definition every faster kernel is held against: plain loops, one rounding an
//! operation, in the order of ggml's `dequantize_row_*` (`ggml-quants.c`), so the values agree with
//! llama.cpp's bit for bit. It is total: any bytes have a value, and a scale that is NaN or infinite gives
//! NaN or infinite weights by the ordinary rules of IEEE arithmetic.
#![forbid(unsafe_code)]

use half::{bf16, f16};

/// How numbers are stored. The quantised types are the blocks of ggml (`ggml-common.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum DType {
    /// IEEE 754 single.
    F32,
    /// IEEE 754 half.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 values: f16 scale d, 4-bit q; x = d (q - 8).
    Q4_0,
    /// 32 values: f16 d, f16 m, 4-bit q; x = d q + m.
    Q4_1,
    /// 32 values: f16 d, 5-bit q; x = d (q - 16).
    Q5_0,
    /// 32 values: f16 d, f16 m, 5-bit q; x = d q + m.
    Q5_1,
    /// 32 values: f16 d, 8-bit q; x = d q.
    Q8_0,
    /// 256 values in 8 blocks of 32 with 6-bit scales and minima.
    Q4_K,
    /// 256 values in 8 blocks of 32 with 6-bit scales and minima, 5-bit q.
    Q5_K,
    /// 256 values in 16 blocks of 16 with 8-bit scales, 6-bit q.
    Q6_K,
}

impl DType {
    /// Every format, in the order of their definition.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ];

    /// (values a block, bytes a block).
    pub fn block(self) -> (usize, usize) {
        match self {
            DType::F32 => (1, 4),
            DType::F16 | DType::BF16 => (1, 2),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (32, 22),
            DType::Q5_1 => (32, 24),
            DType::Q8_0 => (32, 34),
            DType::Q4_K => (256, 144),
            DType::Q5_K => (256, 176),
            DType::Q6_K => (256, 210),
        }
    }

    /// The name model files and llama.cpp use, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q4_K => "Q4_K",
            DType::Q5_K => "Q5_K",
            DType::Q6_K => "Q6_K",
        }
    }

    /// Whether values share scales in blocks.
    pub fn is_quantised(self) -> bool {
        self.block().0 > 1
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the values of whole blocks: `bytes` is (n_blocks, block bytes), `out` is (n_blocks, block values).
///
/// # Panics
/// When `bytes` is no whole number of blocks or `out` does not hold exactly their values.
pub fn dequantise(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let (block_values, block_bytes) = dtype.block();
    assert!(
        bytes.len().is_multiple_of(block_bytes) && bytes.len() / block_bytes * block_values == out.len(),
        "{} bytes of {dtype} are not {} values",
        bytes.len(),
        out.len()
    );
    let write: fn(&[u8], &mut [f32]) = match dtype {
        DType::F32 => |b, x| x[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::F16 => |b, x| x[0] = half_at(b, 0),
        DType::BF16 => |b, x| x[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q5_0 => q5_0,
        DType::Q5_1 => q5_1,
        DType::Q8_0 => q8_0,
        DType::Q4_K => q4_k,
        DType::Q5_K => q5_k,
        DType::Q6_K => q6_k,
    };
    for (block, values) in bytes.chunks_exact(block_bytes).zip(out.chunks_exact_mut(block_values)) {
        write(block, values);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// d (2), q (16): value j is the low nibble of byte j, value j + 16 its high nibble.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        out[j] = ((q & 15) as i32 - 8) as f32 * d;
        out[j + 16] = ((q >> 4) as i32 - 8) as f32 * d;
    }
}

/// d (2), m (2), q (16).
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, &q) in block[4..].iter().enumerate() {
        out[j] = (q & 15) as f32 * d + m;
        out[j + 16] = (q >> 4) as f32 * d + m;
    }
}

/// The 32 5-bit numbers of a fifth-bit word (4) and nibbles (16): bit j of the word tops value j.
fn five_bits(high: &[u8], low: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    std::array::from_fn(|j| {
        let nibble = if j < 16 { low[j] & 15 } else { low[j - 16] >> 4 };
        nibble | ((high >> j & 1) << 4) as u8
    })
}

/// d (2), fifth bits (4), q (16).
fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (x, q) in out.iter_mut().zip(five_bits(&block[2..6], &block[6..])) {
        *x = (q as i32 - 16) as f32 * d;
    }
}

/// d (2), m (2), fifth bits (4), q (16).
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (x, q) in out.iter_mut().zip(five_bits(&block[4..8], &block[8..])) {
        *x = q as f32 * d + m;
    }
}

/// d (2), q (32, signed).
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = q as i8 as f32 * d;
    }
}

/// The 6-bit (scale, minimum) of sub-block `j` in 0..8 of the packed 12 bytes of Q4_K and Q5_K.
///
/// Sub-blocks 0..4 lie in the low 6 bits of bytes j and j + 4; of 4..8 the low nibbles lie in byte j + 4
/// and the upper two bits on top of bytes j - 4 and j.
pub fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// d (2), dmin (2), scales and minima (12), q (128): 64 values take 32 bytes, low nibbles first.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (j, x) in out.iter_mut().enumerate() {
        let (sub_block, within) = (j / 32, j % 32);
        let (scale, min) = scale_and_min(packed, sub_block);
        let byte = quants[sub_block / 2 * 32 + within];
        let q = if sub_block % 2 == 0 { byte & 15 } else { byte >> 4 };
        *x = d * scale as f32 * q as f32 - dmin * min as f32;
    }
}

/// d (2), dmin (2), scales and minima (12), fifth bits (32), q (128): bit s of fifth-bit byte i tops value i
/// of sub-block s.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, fifth, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (j, x) in out.iter_mut().enumerate() {
        let (sub_block, within) = (j / 32, j % 32);
        let (scale, min) = scale_and_min(packed, sub_block);
        let byte = quants[sub_block / 2 * 32 + within];
        let nibble = if sub_block % 2 == 0 { byte & 15 } else { byte >> 4 };
        let q = nibble | (fifth[within] >> sub_block & 1) << 4;
        *x = d * scale as f32 * q as f32 - dmin * min as f32;
    }
}

/// low nibbles (128), upper two bits (64), scales (16, signed), d (2). Each half of 128 values takes 64 bytes
/// of nibbles and 32 of upper bits; quarter t of a half has nibbles in bytes (t % 2) 32.., low for t < 2, and
/// upper bits at bit 2 t.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (j, x) in out.iter_mut().enumerate() {
        let (half, quarter, within) = (j / 128, j % 128 / 32, j % 32);
        let byte = low[half * 64 + quarter % 2 * 32 + within];
        let nibble = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let upper = high[half * 32 + within] >> (2 * quarter) & 3;
        let q = (nibble | upper << 4) as i32 - 32;
        *x = d * scales[j / 16] as i8 as f32 * q as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Blocks and values worked out by hand from the layouts; the record made by the Python `gguf` package is
    // checked in tests/dequantise.rs.
    #[test]
    fn scales_of_all_sub_blocks_are_unpacked() {
        let mut packed = [0u8; 12];
        let scales = [1u8, 17, 33, 63, 48, 21, 42, 59];
        let mins = [62u8, 5, 40, 31, 16, 37, 58, 11];
        for j in 0..4 {
            packed[j] = scales[j] | (scales[j + 4] >> 4) << 6;
            packed[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
            packed[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
        }
        for j in 0..8 {
            assert_eq!(scale_and_min(&packed, j), (scales[j], mins[j]), "sub-block {j}");
        }
    }

    #[test]
    fn any_bytes_have_a_value() {
        for dtype in DType::ALL {
            let (values, bytes) = dtype.block();
            let mut out = vec![0.0; values];
            for fill in [0x00, 0x7c, 0x7e, 0x7f, 0x80, 0xfc, 0xff] {
                dequantise(dtype, &vec![fill; bytes], &mut out);
            }
            // A scale of 0x7e7e is a NaN: the weights must say so and not pass for numbers.
            dequantise(dtype, &vec![0x7f; bytes], &mut out);
            if dtype != DType::BF16 && dtype != DType::F32 {
                assert!(out.iter().all(|x| x.is_nan()), "{dtype}: {out:?}");
            }
        }
    }

    #[test]
    fn an_infinite_scale_gives_infinite_weights() {
        let mut block = [0u8; 34];
        block[..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        (block[2], block[3], block[4]) = (1, 0xff, 0);
        let mut out = [0.0; 32];
        dequantise(DType::Q8_0, &block, &mut out);
        assert_eq!(out[..2], [f32::INFINITY, f32::NEG_INFINITY]);
        assert!(out[2].is_nan());
    }

    #[test]
    #[should_panic(expected = "35 bytes of Q8_0 are not 32 values")]
    fn a_torn_block_is_a_fault_of_ours() {
        dequantise(DType::Q8_0, &[0; 35], &mut [0.0; 32]);
    }
}
