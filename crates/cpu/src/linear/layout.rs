//! How packed weights lie in memory: for all kernel families alike, at the width they are stored in.
//!
//! Sixteen rows make a group and are interleaved, so that one 64-byte vector holds one thing of all sixteen
//! rows. Columns come in blocks of 32, eight quads of four. A group of a quantised type has three planes, one
//! after the other, each (n_blocks, ...):
//!
//! - quants: `Nibbles` (4 vectors, 16 rows, 4 columns) a byte; the low nibble of vector j belongs to quad j,
//!   the high one to quad j + 4. `Bytes` (8 quads, 16 rows, 4 columns), the number plus 128.
//! - low bits of 5- and 6-bit numbers, whose nibble is their upper 4 bits: `One` (16 rows, 4 columns) bytes,
//!   bit j belongs to quad j; `Two` (2, 16 rows, 4 columns), bits 2j of the first byte belong to quad j, of the
//!   second to quad j + 4.
//! - scales: `Plain` (16) f16 d; `Min` (16) f16 d, (16) f16 m; a super-block of 256 columns with `SuperMin`
//!   has (16) f16 d, (16) f16 dmin, then (8 blocks, [scale, min], 16) u8; with `SuperHalves` (16) f16 d, then
//!   (16 half-blocks, 16) i8.
//!
//! So a number q of b bits stands left-aligned in a byte once nibble and low bits are put together: the
//! kernels use `q << (8 - b)` and `d / 2^(8 - b)`, which is the same product, and every type with signed
//! numbers has the same offset of 128.
//!
//! Types without blocks: F32 and F16 are (n_cols, 16), BF16 is (n_cols / 2, 16, 2). Columns are padded with
//! zeros to whole blocks.

use super::ROW_GROUP;
use entropix_model::DType;
use half::{bf16, f16};

/// Columns that share a scale, of weights and of 8-bit activations.
pub(crate) const BLOCK: usize = 32;
/// Columns of a super-block of the K types.
pub(crate) const SUPER_BLOCK: usize = 256;
/// Every plane and group starts at a multiple of this.
pub(crate) const ALIGNMENT: usize = 64;

/// The quants plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quants {
    /// 4-bit numbers, or the upper 4 bits of longer ones.
    Nibbles,
    /// 8-bit numbers plus 128.
    Bytes,
}

/// The plane of low bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LowBits {
    None,
    One,
    Two,
}

/// The plane of scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    Plain,
    Min,
    SuperMin,
    SuperHalves,
}

/// The planes of a quantised type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planes {
    pub(crate) quants: Quants,
    pub(crate) low_bits: LowBits,
    pub(crate) scales: Scales,
}

#[inline(always)]
pub(crate) fn planes(dtype: DType) -> Planes {
    let (quants, low_bits, scales) = match dtype {
        DType::Q4_0 => (Quants::Nibbles, LowBits::None, Scales::Plain),
        DType::Q4_1 => (Quants::Nibbles, LowBits::None, Scales::Min),
        DType::Q5_0 => (Quants::Nibbles, LowBits::One, Scales::Plain),
        DType::Q5_1 => (Quants::Nibbles, LowBits::One, Scales::Min),
        DType::Q8_0 => (Quants::Bytes, LowBits::None, Scales::Plain),
        DType::Q4_K => (Quants::Nibbles, LowBits::None, Scales::SuperMin),
        DType::Q5_K => (Quants::Nibbles, LowBits::One, Scales::SuperMin),
        DType::Q6_K => (Quants::Nibbles, LowBits::Two, Scales::SuperHalves),
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} has no planes"),
    };
    Planes { quants, low_bits, scales }
}

/// Where the planes of one group are: the quants plane is at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupLayout {
    /// Blocks of 32 columns.
    pub(crate) n_blocks: usize,
    /// Offset of the plane of low bits.
    pub(crate) low_bits: usize,
    /// Offset of the scales.
    pub(crate) scales: usize,
    /// From one group to the next.
    pub(crate) n_bytes: usize,
}

impl GroupLayout {
    pub(crate) fn new(dtype: DType, n_cols: usize) -> Self {
        let n_blocks = n_cols.div_ceil(BLOCK);
        let n_padded = n_blocks * BLOCK * ROW_GROUP;
        if !dtype.is_quantised() {
            let n_bytes = n_padded * dtype.block().1;
            return Self { n_blocks, low_bits: n_bytes, scales: n_bytes, n_bytes };
        }
        let planes = planes(dtype);
        let quants = match planes.quants {
            Quants::Nibbles => n_padded / 2,
            Quants::Bytes => n_padded,
        };
        let low_bits = match planes.low_bits {
            LowBits::None => 0,
            LowBits::One => n_padded / 8,
            LowBits::Two => n_padded / 4,
        };
        let n_super = n_cols / SUPER_BLOCK;
        let scales = match planes.scales {
            Scales::Plain => n_blocks * PLAIN_BYTES,
            Scales::Min => n_blocks * MIN_BYTES,
            Scales::SuperMin => n_super * SUPER_MIN_BYTES,
            Scales::SuperHalves => n_super * SUPER_HALVES_BYTES,
        };
        let n_bytes = (quants + low_bits + scales).next_multiple_of(ALIGNMENT);
        Self { n_blocks, low_bits: quants, scales: quants + low_bits, n_bytes }
    }
}

/// Bytes of the scales of one block of a group.
pub(crate) const PLAIN_BYTES: usize = 2 * ROW_GROUP;
/// The same with minima.
pub(crate) const MIN_BYTES: usize = 4 * ROW_GROUP;
/// Bytes of the scales of one super-block of Q4_K and Q5_K.
pub(crate) const SUPER_MIN_BYTES: usize = 4 * ROW_GROUP + 16 * ROW_GROUP;
/// The same of Q6_K.
pub(crate) const SUPER_HALVES_BYTES: usize = 2 * ROW_GROUP + 16 * ROW_GROUP;

/// The four bytes of row `lane` in vector `vector` of a plane.
#[inline(always)]
fn word(plane: &[u8], vector: usize, lane: usize) -> u32 {
    let at = (vector * ROW_GROUP + lane) * 4;
    u32::from_le_bytes([plane[at], plane[at + 1], plane[at + 2], plane[at + 3]])
}

/// Offset of one value of a type without blocks within its group.
#[inline(always)]
pub(crate) fn float_offset(dtype: DType, lane: usize, col: usize) -> usize {
    match dtype {
        DType::BF16 => ((col / 2) * ROW_GROUP + lane) * 4 + col % 2 * 2,
        _ => (col * ROW_GROUP + lane) * dtype.block().1,
    }
}

/// The 32 numbers of one block of one row, left-aligned in their bytes.
#[inline(always)]
pub(crate) fn numbers(
    dtype: DType,
    group: &[u8],
    layout: &GroupLayout,
    lane: usize,
    block: usize,
) -> [u8; BLOCK] {
    let planes = planes(dtype);
    let low_bits = &group[layout.low_bits..layout.scales];
    let mut out = [0; BLOCK];
    for (quad, numbers) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let upper = match planes.quants {
            Quants::Bytes => word(group, block * 8 + quad, lane),
            Quants::Nibbles => word(group, block * 4 + quad % 4, lane) << (4 - quad / 4 * 4) & 0xf0f0_f0f0,
        };
        let lower = match planes.low_bits {
            LowBits::None => 0,
            LowBits::One => (word(low_bits, block, lane) >> quad & 0x0101_0101) << 3,
            LowBits::Two => {
                (word(low_bits, block * 2 + quad / 4, lane) >> (2 * (quad % 4)) & 0x0303_0303) << 2
            }
        };
        *numbers = (upper | lower).to_le_bytes();
    }
    out
}

/// What multiplies a left-aligned number (less 128 where numbers are signed) in each half of a block, and what
/// is added: x = d (q - offset) + m. Both are exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BlockScale {
    pub(crate) d: [f32; 2],
    pub(crate) m: f32,
}

/// The scale of one block of one row.
#[inline(always)]
pub(crate) fn block_scale(
    dtype: DType,
    group: &[u8],
    layout: &GroupLayout,
    lane: usize,
    block: usize,
) -> BlockScale {
    let planes = planes(dtype);
    let scales = &group[layout.scales..layout.n_bytes];
    let half = |at: usize| f16::from_le_bytes([scales[at + 2 * lane], scales[at + 2 * lane + 1]]).to_f32();
    let align = match (planes.quants, planes.low_bits) {
        (Quants::Bytes, _) => 1.0,
        (_, LowBits::None) => 1.0 / 16.0,
        (_, LowBits::One) => 1.0 / 8.0,
        (_, LowBits::Two) => 1.0 / 4.0,
    };
    let (d, m) = match planes.scales {
        Scales::Plain => ([half(block * PLAIN_BYTES); 2], 0.0),
        Scales::Min => ([half(block * MIN_BYTES); 2], half(block * MIN_BYTES + PLAIN_BYTES)),
        Scales::SuperMin => {
            let first = block / 8 * SUPER_MIN_BYTES;
            let small = first + MIN_BYTES + block % 8 * 2 * ROW_GROUP + lane;
            let d = half(first) * scales[small] as f32;
            ([d; 2], -(half(first + PLAIN_BYTES) * scales[small + ROW_GROUP] as f32))
        }
        Scales::SuperHalves => {
            let first = block / 8 * SUPER_HALVES_BYTES;
            let small = first + PLAIN_BYTES + block % 8 * 2 * ROW_GROUP + lane;
            let scale = |at: usize| half(first) * scales[at] as i8 as f32;
            ([scale(small), scale(small + ROW_GROUP)], 0.0)
        }
    };
    BlockScale { d: d.map(|d| d * align), m }
}

/// Whether numbers of a quantised type stand for themselves less 128 (left-aligned); the others have minima.
#[inline(always)]
pub(crate) fn is_signed(dtype: DType) -> bool {
    matches!(planes(dtype).scales, Scales::Plain | Scales::SuperHalves)
}

/// Writes the first `out.len()` weights of row `lane` of a group, bit for bit what `quant::dequantise` gives.
pub(crate) fn dequantise_row(dtype: DType, group: &[u8], layout: &GroupLayout, lane: usize, out: &mut [f32]) {
    let mut whole = [0.0; BLOCK];
    for (block, values) in out.chunks_mut(BLOCK).enumerate() {
        dequantise_block(dtype, group, layout, lane, block, &mut whole);
        values.copy_from_slice(&whole[..values.len()]);
    }
}

/// The same for one block of 32 columns, zeros in place of columns that the matrix does not have.
#[inline(always)]
pub(crate) fn dequantise_block(
    dtype: DType,
    group: &[u8],
    layout: &GroupLayout,
    lane: usize,
    block: usize,
    out: &mut [f32; BLOCK],
) {
    if dtype.is_quantised() {
        let signed = is_signed(dtype);
        let scale = block_scale(dtype, group, layout, lane, block);
        let numbers = numbers(dtype, group, layout, lane, block);
        for (col, (x, q)) in out.iter_mut().zip(numbers).enumerate() {
            let d = scale.d[col / 16];
            *x = if signed { (q as i32 - 128) as f32 * d } else { q as f32 * d + scale.m };
        }
        return;
    }
    for (col, x) in out.iter_mut().enumerate() {
        let b = &group[float_offset(dtype, lane, block * BLOCK + col)..];
        *x = match dtype {
            DType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            DType::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        };
    }
}
