//! From stored rows to packed groups.

use super::ROW_GROUP;
use super::layout::{
    BLOCK, GroupLayout, MIN_BYTES, PLAIN_BYTES, SUPER_HALVES_BYTES, SUPER_MIN_BYTES, float_offset,
};
use entropix_model::DType;
use entropix_model::quant::scale_and_min;

/// Packs stored rows as the first rows of a group; `group` was zeroed.
pub(crate) fn pack_group(dtype: DType, rows: &[&[u8]], layout: &GroupLayout, group: &mut [u8]) {
    match dtype {
        DType::F32 => return pack_floats::<4>(dtype, rows, group),
        DType::F16 | DType::BF16 => return pack_floats::<2>(dtype, rows, group),
        _ => (),
    }
    let (_, block_bytes) = dtype.block();
    let (quants, rest) = group.split_at_mut(layout.low_bits);
    let (low_bits, scales) = rest.split_at_mut(layout.scales - layout.low_bits);
    for (lane, row) in rows.iter().enumerate() {
        let to = &mut Lane { lane, quants, low_bits, scales };
        for (i, block) in row.chunks_exact(block_bytes).enumerate() {
            to.pack(dtype, block, i);
        }
    }
}

/// Packs values of N bytes.
fn pack_floats<const N: usize>(dtype: DType, rows: &[&[u8]], group: &mut [u8]) {
    // Some columns of every row at a time, so that the lines they share are written while at hand.
    let n_cols = rows.first().map_or(0, |row| row.len()) / N;
    for start in (0..n_cols).step_by(BLOCK) {
        for (lane, row) in rows.iter().enumerate() {
            for (i, value) in row.as_chunks::<N>().0[start..n_cols.min(start + BLOCK)].iter().enumerate() {
                let at = float_offset(dtype, lane, start + i);
                group[at..at + N].copy_from_slice(value);
            }
        }
    }
}

/// One row of a group on its way into the planes.
struct Lane<'a> {
    lane: usize,
    quants: &'a mut [u8],
    low_bits: &'a mut [u8],
    scales: &'a mut [u8],
}

/// Four bytes of a row at a time: the numbers of one quad, one a byte.
type Quads = [u32; BLOCK / 4];

impl Lane<'_> {
    /// The `i`-th stored block.
    fn pack(&mut self, dtype: DType, block: &[u8], i: usize) {
        match dtype {
            DType::Q4_0 | DType::Q4_1 => {
                let (header, nibbles) = block.split_at(block.len() - BLOCK / 2);
                // Stored nibbles are paired like packed ones: columns c and c + 16.
                for (j, quad) in words::<4>(nibbles).into_iter().enumerate() {
                    put(self.quants, i * 4 + j, self.lane, quad);
                }
                self.pack_scales(header, i);
            }
            DType::Q5_0 | DType::Q5_1 => {
                let (header, rest) = block.split_at(block.len() - BLOCK / 2 - 4);
                let (fifth, nibbles) = rest.split_at(4);
                let [fifth] = words::<1>(fifth);
                let nibbles = words::<4>(nibbles);
                self.pack_five_bits(
                    i,
                    std::array::from_fn(|quad| {
                        let nibble = nibbles[quad % 4] >> (quad / 4 * 4) & 0x0f0f_0f0f;
                        // Bit k of four becomes bit 0 of byte k: the factor puts copies 7 bits apart.
                        let fifth = ((fifth >> (4 * quad) & 15) * 0x0020_4081) & 0x0101_0101;
                        nibble | fifth << 4
                    }),
                );
                self.pack_scales(header, i);
            }
            DType::Q8_0 => {
                for (j, quad) in words::<8>(&block[2..]).into_iter().enumerate() {
                    put(self.quants, i * 8 + j, self.lane, quad ^ 0x8080_8080);
                }
                self.pack_scales(&block[..2], i);
            }
            DType::Q4_K => {
                self.pack_super_min(block, i);
                for sub_block in 0..8 {
                    let nibbles = words::<8>(&block[16 + sub_block / 2 * BLOCK..]);
                    let numbers = nibbles.map(|x| x >> (sub_block % 2 * 4) & 0x0f0f_0f0f);
                    self.pack_nibbles(i * 8 + sub_block, numbers);
                }
            }
            DType::Q5_K => {
                self.pack_super_min(block, i);
                let fifth = words::<8>(&block[16..]);
                for sub_block in 0..8 {
                    let nibbles = words::<8>(&block[16 + BLOCK + sub_block / 2 * BLOCK..]);
                    self.pack_five_bits(
                        i * 8 + sub_block,
                        std::array::from_fn(|quad| {
                            (nibbles[quad] >> (sub_block % 2 * 4) & 0x0f0f_0f0f)
                                | (fifth[quad] >> sub_block & 0x0101_0101) << 4
                        }),
                    );
                }
            }
            DType::Q6_K => {
                let (low, high, halves) = (&block[..128], &block[128..192], &block[192..208]);
                let scales = &mut self.scales[i * SUPER_HALVES_BYTES..][..SUPER_HALVES_BYTES];
                scales[2 * self.lane..2 * self.lane + 2].copy_from_slice(&block[208..]);
                for (half, scale) in halves.iter().enumerate() {
                    scales[PLAIN_BYTES + half * ROW_GROUP + self.lane] = *scale;
                }
                for sub_block in 0..8 {
                    let (half, quarter) = (sub_block / 4, sub_block % 4);
                    let nibbles = words::<8>(&low[half * 64 + quarter % 2 * BLOCK..]);
                    let upper = words::<8>(&high[half * BLOCK..]);
                    self.pack_six_bits(
                        i * 8 + sub_block,
                        std::array::from_fn(|quad| {
                            (nibbles[quad] >> (quarter / 2 * 4) & 0x0f0f_0f0f)
                                | (upper[quad] >> (2 * quarter) & 0x0303_0303) << 4
                        }),
                    );
                }
            }
            DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} has no blocks"),
        }
    }

    /// `header` is d, or d and m.
    fn pack_scales(&mut self, header: &[u8], block: usize) {
        let first = block * header.len() * ROW_GROUP;
        for (which, half) in header.chunks_exact(2).enumerate() {
            let at = first + (which * ROW_GROUP + self.lane) * 2;
            self.scales[at..at + 2].copy_from_slice(half);
        }
    }

    fn pack_super_min(&mut self, stored: &[u8], super_block: usize) {
        let (lane, scales) =
            (self.lane, &mut self.scales[super_block * SUPER_MIN_BYTES..][..SUPER_MIN_BYTES]);
        scales[2 * lane..2 * lane + 2].copy_from_slice(&stored[..2]);
        scales[PLAIN_BYTES + 2 * lane..PLAIN_BYTES + 2 * lane + 2].copy_from_slice(&stored[2..4]);
        for sub_block in 0..8 {
            let (scale, min) = scale_and_min(&stored[4..16], sub_block);
            scales[MIN_BYTES + sub_block * 2 * ROW_GROUP + lane] = scale;
            scales[MIN_BYTES + (sub_block * 2 + 1) * ROW_GROUP + lane] = min;
        }
    }

    fn pack_nibbles(&mut self, block: usize, numbers: Quads) {
        for j in 0..4 {
            put(self.quants, block * 4 + j, self.lane, numbers[j] | numbers[j + 4] << 4);
        }
    }

    fn pack_five_bits(&mut self, block: usize, numbers: Quads) {
        self.pack_nibbles(block, numbers.map(|q| q >> 1 & 0x0f0f_0f0f));
        let low = (0..8).fold(0, |low, quad| low | (numbers[quad] & 0x0101_0101) << quad);
        put(self.low_bits, block, self.lane, low);
    }

    fn pack_six_bits(&mut self, block: usize, numbers: Quads) {
        self.pack_nibbles(block, numbers.map(|q| q >> 2 & 0x0f0f_0f0f));
        for half in 0..2 {
            let low = |low, j: usize| low | (numbers[4 * half + j] & 0x0303_0303) << (2 * j);
            put(self.low_bits, block * 2 + half, self.lane, (0..4).fold(0, low));
        }
    }
}

/// The first N words of `bytes`.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

/// Sets the four bytes of row `lane` in vector `vector` of a plane.
fn put(plane: &mut [u8], vector: usize, lane: usize, word: u32) {
    let at = (vector * ROW_GROUP + lane) * 4;
    plane[at..at + 4].copy_from_slice(&word.to_le_bytes());
}
