//! Weight matrices in the layout that `kernels/weights.cuh` reads: tiles of 16 rows, units of 64 columns, each
//! lane's share contiguous. The numbers stay what the file holds; only their places change.

use entropix_model::DType;
use half::{bf16, f16};

/// Rows a tile.
pub const TILE_ROWS: usize = 16;
/// Columns a unit.
pub const UNIT_COLS: usize = 64;
const LANES: usize = 32;
const STEPS: usize = 4;

/// How weights are stored on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Format {
    /// bf16.
    BF16,
    /// IEEE half.
    F16,
    /// Blocks of 32: scale, 4 bits.
    Q4_0,
    /// Blocks of 32: scale, minimum, 4 bits.
    Q4_1,
    /// Blocks of 32: scale, 5 bits.
    Q5_0,
    /// Blocks of 32: scale, 8 bits.
    Q8_0,
    /// Blocks of 256: 6-bit scales and minima of 32, 4 bits.
    Q4_K,
    /// Blocks of 256: 8-bit scales of 16, 6 bits.
    Q6_K,
}

impl Format {
    /// Every format that has kernels.
    pub const ALL: [Format; 8] = [
        Format::BF16,
        Format::F16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q8_0,
        Format::Q4_K,
        Format::Q6_K,
    ];

    /// The format a tensor of `dtype` takes on the device: its own, or bf16 where no kernel reads it.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F16 => Format::F16,
            DType::Q4_0 => Format::Q4_0,
            DType::Q4_1 => Format::Q4_1,
            DType::Q5_0 => Format::Q5_0,
            DType::Q8_0 => Format::Q8_0,
            DType::Q4_K => Format::Q4_K,
            DType::Q6_K => Format::Q6_K,
            DType::F32 | DType::BF16 | DType::Q5_1 | DType::Q5_K => Format::BF16,
        }
    }

    /// The type whose bytes [`pack`] takes.
    pub fn dtype(self) -> DType {
        match self {
            Format::BF16 => DType::BF16,
            Format::F16 => DType::F16,
            Format::Q4_0 => DType::Q4_0,
            Format::Q4_1 => DType::Q4_1,
            Format::Q5_0 => DType::Q5_0,
            Format::Q8_0 => DType::Q8_0,
            Format::Q4_K => DType::Q4_K,
            Format::Q6_K => DType::Q6_K,
        }
    }

    /// How kernel names call it.
    pub fn name(self) -> &'static str {
        match self {
            Format::BF16 => "bf16",
            Format::F16 => "f16",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q8_0 => "q8_0",
            Format::Q4_K => "q4_k",
            Format::Q6_K => "q6_k",
        }
    }

    /// (16-byte loads, further words, scale bytes of two rows, super-block bytes of two rows): `Layout` of weights.cuh.
    fn layout(self) -> (usize, usize, usize, usize) {
        match self {
            Format::BF16 | Format::F16 => (4, 0, 0, 0),
            Format::Q4_0 => (1, 0, 8, 0),
            Format::Q4_1 => (1, 0, 16, 0),
            Format::Q5_0 => (1, 1, 8, 0),
            Format::Q8_0 => (2, 0, 8, 0),
            Format::Q4_K => (1, 0, 8, 8),
            Format::Q6_K => (1, 2, 8, 4),
        }
    }

    /// Bytes of a packed matrix.
    pub fn packed_bytes(self, n_rows: usize, n_cols: usize) -> usize {
        let (loads, extra, scale, supers) = self.layout();
        let (tiles, units) = (n_rows.div_ceil(TILE_ROWS), n_cols.div_ceil(UNIT_COLS));
        tiles * (units * (LANES * (16 * loads + 4 * extra) + 8 * scale) + units.div_ceil(4) * 8 * supers)
    }
}

/// One row's share of a unit.
#[derive(Default)]
struct Share {
    /// (UNIT_COLS) the stored numbers; 16-bit formats: their bits.
    numbers: Vec<u16>,
    /// Half of the format's scale bytes.
    scales: Vec<u8>,
    /// Half of the format's super-block bytes.
    supers: Vec<u8>,
}

/// A matrix of so many packed bytes is packed by all cores.
const LARGE_BYTES: usize = 1 << 20;

/// Packs a matrix. `row(i)` gives the stored bytes of packed row i, in [`Format::dtype`]; none is a row of zeros.
///
/// # Panics
/// When the columns are no whole number of blocks, or no multiple of 8.
pub fn pack<'a>(
    format: Format,
    n_rows: usize,
    n_cols: usize,
    row: impl Fn(usize) -> Option<&'a [u8]> + Sync,
) -> Vec<u8> {
    let block_values = format.dtype().block().0;
    assert!(
        n_cols.is_multiple_of(block_values) && n_cols.is_multiple_of(8),
        "{n_cols} columns of {}",
        format.dtype()
    );
    let (loads, extra, scale_bytes, super_bytes) = format.layout();
    let (n_tiles, n_units) = (n_rows.div_ceil(TILE_ROWS), n_cols.div_ceil(UNIT_COLS));
    // Bytes of a tile in each of the three parts of the matrix.
    let of_tile = [
        n_units * LANES * (16 * loads + 4 * extra),
        n_units * 8 * scale_bytes,
        n_units.div_ceil(4) * 8 * super_bytes,
    ];
    let mut out = vec![0u8; format.packed_bytes(n_rows, n_cols)];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_threads = if out.len() < LARGE_BYTES { 1 } else { cores };
    let per_thread = n_tiles.div_ceil(n_threads).max(1);
    let (units, rest) = out.split_at_mut(n_tiles * of_tile[0]);
    let (scales, supers) = rest.split_at_mut(n_tiles * of_tile[1]);
    let mut parts = [units, scales, supers];
    std::thread::scope(|scope| {
        for first in (0..n_tiles).step_by(per_thread) {
            let tiles = first..(first + per_thread).min(n_tiles);
            let mut share = [&mut [][..], &mut [][..], &mut [][..]];
            for (i, part) in parts.iter_mut().enumerate() {
                let (head, tail) = std::mem::take(part).split_at_mut(tiles.len() * of_tile[i]);
                (share[i], *part) = (head, tail);
            }
            let row = &row;
            let work = move || {
                for (at, tile) in tiles.enumerate() {
                    let [units, scales, supers] = &mut share;
                    let mut tile_of = [&mut units[..], &mut scales[..], &mut supers[..]];
                    for (part, bytes) in tile_of.iter_mut().zip(of_tile) {
                        *part = &mut std::mem::take(part)[at * bytes..(at + 1) * bytes];
                    }
                    let rows = tile * TILE_ROWS..n_rows.min((tile + 1) * TILE_ROWS);
                    pack_tile(format, n_cols, rows, row, tile_of);
                }
            };
            if n_threads == 1 { work() } else { drop(scope.spawn(work)) }
        }
    });
    out
}

/// Packs up to 16 rows into the units, scales and super-blocks of their tile.
fn pack_tile<'a>(
    format: Format,
    n_cols: usize,
    rows: std::ops::Range<usize>,
    row: &impl Fn(usize) -> Option<&'a [u8]>,
    [units, scales, supers]: [&mut [u8]; 3],
) {
    let (block_values, block_bytes) = format.dtype().block();
    let (loads, extra, scale_bytes, super_bytes) = format.layout();
    let unit_bytes = LANES * (16 * loads + 4 * extra);
    for (r, i) in rows.enumerate() {
        let Some(bytes) = row(i) else { continue };
        assert_eq!(bytes.len(), n_cols / block_values * block_bytes, "bytes of packed row {i}");
        let (g, half) = (r % 8, r / 8);
        for unit in 0..n_cols.div_ceil(UNIT_COLS) {
            let share = share_of(format, bytes, unit, n_cols);
            scatter(format, &share.numbers, g, half, &mut units[unit * unit_bytes..][..unit_bytes]);
            let at = (unit * 8 + g) * scale_bytes + half * scale_bytes / 2;
            scales[at..at + share.scales.len()].copy_from_slice(&share.scales);
            let at = (unit / 4 * 8 + g) * super_bytes + half * super_bytes / 2;
            supers[at..at + share.supers.len()].copy_from_slice(&share.supers);
        }
    }
}

/// Puts a row's 64 numbers where the lanes of its group look for them.
fn scatter(format: Format, numbers: &[u16], g: usize, half: usize, unit: &mut [u8]) {
    let (loads, extra, ..) = format.layout();
    let extra_at = LANES * 16 * loads;
    let mut or_word = |at: usize, bits: u32| {
        let word = u32::from_le_bytes([unit[at], unit[at + 1], unit[at + 2], unit[at + 3]]) | bits;
        unit[at..at + 4].copy_from_slice(&word.to_le_bytes());
    };
    for (col, &n) in numbers.iter().enumerate() {
        let (step, within) = (col / 16, col % 16);
        let (q, i, h) = (within / 4, half + within % 4 / 2 * 2, within % 2);
        let lane = g * 4 + q;
        let n = u32::from(n);
        debug_assert!(step < STEPS);
        match format {
            Format::BF16 | Format::F16 => or_word((step * LANES + lane) * 16 + i * 4, n << (16 * h)),
            Format::Q8_0 => {
                let at = (step / 2 * LANES + lane) * 16 + (step % 2 * 2 + i / 2) * 4;
                or_word(at, n << (8 * (i % 2 * 2 + h)));
            }
            _ => {
                or_word(lane * 16 + step * 4, (n & 15) << (4 * i + 16 * h));
                let more = extra_at + lane * 4 * extra;
                match format {
                    Format::Q5_0 => or_word(more, (n >> 4) << (step * 4 + i + 16 * h)),
                    Format::Q6_K => {
                        or_word(more + step / 2 * 4, (n >> 4) << (2 * (step % 2 * 4 + i) + 16 * h))
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A row's 64 numbers and scales of a unit; what lies past the row is zero.
fn share_of(format: Format, row: &[u8], unit: usize, n_cols: usize) -> Share {
    let (.., scale_bytes, super_bytes) = format.layout();
    let mut share = Share {
        numbers: vec![0; UNIT_COLS],
        scales: vec![0; scale_bytes / 2],
        supers: vec![0; super_bytes / 2],
    };
    let first = unit * UNIT_COLS;
    let live = UNIT_COLS.min(n_cols - first);
    match format {
        Format::BF16 | Format::F16 => {
            let words = row[first * 2..(first + live) * 2].chunks_exact(2);
            for (n, word) in share.numbers.iter_mut().zip(words) {
                *n = u16::from_le_bytes([word[0], word[1]]);
            }
        }
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q8_0 => {
            let block_bytes = format.dtype().block().1;
            let of_block = scale_bytes / 4;
            for (b, block) in row.chunks_exact(block_bytes).skip(unit * 2).take(2).enumerate() {
                share.scales[b * of_block..][..of_block].copy_from_slice(&block[..of_block]);
                let quants = &block[of_block..];
                for (j, n) in share.numbers[b * 32..][..32].iter_mut().enumerate() {
                    let nibble =
                        |bytes: &[u8]| u16::from(if j < 16 { bytes[j] & 15 } else { bytes[j - 16] >> 4 });
                    *n = match format {
                        Format::Q8_0 => u16::from(quants[j] ^ 0x80),
                        Format::Q5_0 => nibble(&quants[4..]) | u16::from(quants[j / 8] >> (j % 8) & 1) << 4,
                        _ => nibble(quants),
                    };
                }
            }
        }
        Format::Q4_K => {
            let block = &row[unit / 4 * 144..][..144];
            share.supers.copy_from_slice(&block[..4]);
            for b in 0..2 {
                let (scale, min) = entropix_model::quant::scale_and_min(&block[4..16], unit % 4 * 2 + b);
                (share.scales[b], share.scales[2 + b]) = (scale, min);
            }
            // A pair of sub-blocks is one unit: low nibbles, then high ones, of the same 32 bytes.
            let quants = &block[16 + unit % 4 * 32..][..32];
            for (j, n) in share.numbers.iter_mut().enumerate() {
                *n = u16::from(if j < 32 { quants[j] & 15 } else { quants[j - 32] >> 4 });
            }
        }
        Format::Q6_K => {
            let block = &row[unit / 4 * 210..][..210];
            share.supers.copy_from_slice(&block[208..]);
            share.scales.copy_from_slice(&block[192 + unit % 4 * 4..][..4]);
            for (j, n) in share.numbers.iter_mut().enumerate() {
                let at = unit % 4 * 64 + j;
                let (half, quarter, within) = (at / 128, at % 128 / 32, at % 32);
                let byte = block[half * 64 + quarter % 2 * 32 + within];
                let low = if quarter < 2 { byte & 15 } else { byte >> 4 };
                let high = block[128 + half * 32 + within] >> (2 * quarter) & 3;
                *n = u16::from(low | high << 4);
            }
        }
    }
    share
}

/// Rounds numbers to bf16 bytes, the form in which types without kernels are packed.
pub fn to_bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()
}

/// Rounds numbers to half bytes.
pub fn to_f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
}

/// The packed order of a gated product: every tile holds 8 rows of gate, then the same 8 of up. Packed row `i` is row
/// `.1` of gate (`.0` false) or up (true).
pub fn gated_row(i: usize) -> (bool, usize) {
    (i % TILE_ROWS >= 8, i / TILE_ROWS * 8 + i % 8)
}

/// Packed rows of a gated product of `n` gates: whole tiles.
pub fn gated_rows(n: usize) -> usize {
    n.div_ceil(8) * TILE_ROWS
}

#[cfg(test)]
mod tests {
    use super::*;
    use entropix_model::random::splitmix64;

    /// A matrix that all cores pack is its tiles one by one, the last of them not whole.
    #[test]
    fn large_matrices_are_packed_as_small_ones() {
        let (n_rows, n_cols) = (TILE_ROWS * 260 - 5, 512);
        for format in Format::ALL {
            let (block_values, block_bytes) = format.dtype().block();
            let row_bytes = n_cols / block_values * block_bytes;
            let mut state = 1;
            let stored: Vec<u8> = (0..n_rows * row_bytes).map(|_| splitmix64(&mut state) as u8).collect();
            let rows: Vec<&[u8]> = stored.chunks_exact(row_bytes).collect();
            let whole = pack(format, n_rows, n_cols, |i| Some(rows[i]));
            assert!(whole.len() >= LARGE_BYTES, "{format:?} is no case");
            let (loads, extra, scale_bytes, _) = format.layout();
            let n_units = n_cols / UNIT_COLS;
            let scales_at = n_units * LANES * (16 * loads + 4 * extra);
            let supers_at = scales_at + n_units * 8 * scale_bytes;
            let mut parts = [Vec::new(), Vec::new(), Vec::new()];
            for tile in rows.chunks(TILE_ROWS) {
                let packed = pack(format, tile.len(), n_cols, |i| Some(tile[i]));
                parts[0].extend_from_slice(&packed[..scales_at]);
                parts[1].extend_from_slice(&packed[scales_at..supers_at]);
                parts[2].extend_from_slice(&packed[supers_at..]);
            }
            assert!(parts.concat() == whole, "{format:?}");
        }
    }
}
