//! Everything a step touches on the device, claimed once.

use crate::driver::{Driver, Memory, Pinned};
use crate::ops::PART_BYTES;
use crate::options::{MAX_CANDIDATES, Sizes};
use crate::step::Sections;
use entropix_model::{AttentionSignals, Result, Signals};

/// Bytes of a draw's order, and of its result: `DrawOrder` and `DrawnRecord` of kernels/draw.cu.
pub(crate) const ORDER_BYTES: usize = 64;
pub(crate) const DRAWN_BYTES: usize = 12;

/// Device memory of a backend besides the weights.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// `Sections`.
    pub(crate) inputs: Memory,
    /// Block tables of all rows.
    pub(crate) tables: Memory,
    /// (n_layers, n_blocks, n_kv_heads, k|v) planes of block_size vectors, then their scales: kernels/kv.cuh.
    pub(crate) cache: Memory,
    /// (T, hidden) f32, the residual stream.
    pub(crate) x: Memory,
    /// (T, hidden) bf16.
    pub(crate) normed: Memory,
    /// (T, q + k + v) f32.
    pub(crate) qkv: Memory,
    /// (T, q) bf16 or f16.
    pub(crate) q: Memory,
    /// (T, q) bf16.
    pub(crate) attended: Memory,
    /// (T, n_heads, 4) f32.
    pub(crate) stats: Memory,
    /// (T, intermediate) bf16.
    pub(crate) gated: Memory,
    /// Parts of decoding attention.
    pub(crate) parts: Memory,
    /// (rows, stride) f32: kept rows, then passing ones.
    pub(crate) logits: Memory,
    /// (rows, chunks of the vocabulary, 8) f32.
    pub(crate) moments: Memory,
    /// (rows, chunks of the vocabulary) f32.
    pub(crate) maxima: Memory,
    /// (T) `Signals`, by place.
    pub(crate) signals: Memory,
    /// (most, key parts) f32, (T) f32, (T) `AttentionSignals`.
    pub(crate) key_parts: Memory,
    pub(crate) relative: Memory,
    pub(crate) attention: Memory,
    /// {count}, then (max_kept) {place, k}.
    pub(crate) wanted: Memory,
    /// (max_kept, 256) candidates, (max_kept) how many of them.
    pub(crate) lists: Memory,
    pub(crate) list_counts: Memory,
    /// {count}, then the orders from word 16 on.
    pub(crate) orders: Memory,
    pub(crate) edits: Memory,
    pub(crate) masks: Memory,
    pub(crate) coins: Memory,
    pub(crate) drawn: Memory,
    /// {count}, then (n) {from, to, tokens} from word 4 on.
    pub(crate) copies: Memory,
    /// Where all answers arrive.
    pub(crate) answers: Pinned,
    /// Of products by cuBLASLt, where there are any.
    pub(crate) fast: Option<FastRooms>,
}

/// What products by cuBLASLt need besides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FastRooms {
    /// (rows, columns) bf16 of the matrix at hand.
    pub(crate) weights: Memory,
    /// What cuBLASLt works in.
    pub(crate) workspace: Memory,
    /// (T, 2 intermediate) f32, gate and up interleaved.
    pub(crate) gate_up: Memory,
}

/// Copies of blocks a launch takes.
pub(crate) const MOST_COPIES: usize = 256;
/// Bytes for the parts of attention signals.
pub(crate) const KEY_PARTS_BYTES: usize = 16 << 20;

impl Rooms {
    pub(crate) fn allocate(driver: &mut Driver, sizes: &Sizes) -> Result<Self> {
        let s = sizes;
        let answers = (s.max_tokens * (size_of::<Signals>() + size_of::<AttentionSignals>()))
            .max(drawn_at(s) + s.draws * DRAWN_BYTES);
        let answers = driver.allocate_pinned(answers)?;
        Self::lay_out(sizes, answers, &mut |bytes| driver.allocate(bytes))
    }

    /// Bytes of each piece of device memory.
    pub(crate) fn pieces(sizes: &Sizes) -> Result<Vec<usize>> {
        let mut pieces = Vec::new();
        Self::lay_out(sizes, Pinned::planned(), &mut |bytes| {
            pieces.push(bytes);
            Ok(Memory::planned(bytes))
        })?;
        Ok(pieces)
    }

    fn lay_out(sizes: &Sizes, answers: Pinned, of: &mut dyn FnMut(usize) -> Result<Memory>) -> Result<Self> {
        let s = sizes;
        let t = s.max_tokens;
        let rows = s.logit_rows();
        let kept = s.max_kept.max(1);
        let fast = match s.fast {
            Some(_) => {
                let [weights, workspace, gate_up] = s.fast_bytes();
                Some(FastRooms { weights: of(weights)?, workspace: of(workspace)?, gate_up: of(gate_up)? })
            }
            None => None,
        };
        Ok(Self {
            fast,
            inputs: of(4 * Sections::of(s).total)?,
            tables: of(4 * s.tables)?,
            cache: of(s.cache_bytes())?,
            x: of(4 * t * s.hidden)?,
            normed: of(2 * t * s.hidden)?,
            qkv: of(4 * t * s.qkv)?,
            q: of(2 * t * s.q)?,
            attended: of(2 * t * s.q)?,
            stats: of(16 * t * s.heads.n_heads as usize)?,
            gated: of(2 * t * s.intermediate)?,
            parts: of(s.part_bytes())?,
            logits: of(4 * rows * s.stride)?,
            moments: of(PART_BYTES * rows * s.n_chunks())?,
            maxima: of(4 * rows * s.n_chunks())?,
            signals: of(size_of::<Signals>() * t)?,
            key_parts: of(key_parts_bytes(s))?,
            relative: of(4 * t)?,
            attention: of(size_of::<AttentionSignals>() * t)?,
            wanted: of(16 + 8 * kept)?,
            lists: of(8 * MAX_CANDIDATES * kept)?,
            list_counts: of(4 * kept)?,
            orders: of(ORDER_BYTES * (1 + s.draws))?,
            edits: of(12 * s.edits)?,
            masks: of(4 * s.mask_words() * s.draws)?,
            coins: of(8 * s.coins)?,
            drawn: of(DRAWN_BYTES * s.draws)?,
            copies: of(16 + 12 * MOST_COPIES)?,
            answers,
        })
    }
}

/// Where draws arrive among the answers: behind the lists of candidates, since both are waited for together.
pub(crate) fn drawn_at(sizes: &Sizes) -> usize {
    sizes.max_kept.max(1) * (MAX_CANDIDATES * 8 + 4)
}

/// Room for every ask of a step at the longest context, or what is affordable if that is less; one ask always fits.
pub(crate) fn key_parts_bytes(sizes: &Sizes) -> usize {
    (4 * sizes.max_tokens * sizes.key_parts).min(KEY_PARTS_BYTES).max(4 * sizes.key_parts)
}

/// Bytes of all rooms but the cache, the activations and the logits.
pub(crate) fn scratch_bytes(sizes: &Sizes) -> usize {
    let s = sizes;
    let kept = s.max_kept.max(1);
    let inputs = 4 * (Sections::of(s).total + s.tables) + 16 + 12 * MOST_COPIES;
    let vocabulary = s.logit_rows() * (PART_BYTES + 4) * s.n_chunks();
    let answers =
        s.max_tokens * (size_of::<Signals>() + size_of::<AttentionSignals>() + 4) + key_parts_bytes(s);
    let lists = 16 + kept * (8 + 8 * MAX_CANDIDATES + 4);
    let draws =
        ORDER_BYTES + s.draws * (ORDER_BYTES + 4 * s.mask_words() + DRAWN_BYTES) + 12 * s.edits + 8 * s.coins;
    let fast = s.fast.map_or(0, |_| s.fast_bytes().iter().sum());
    inputs + vocabulary + answers + lists + draws + s.part_bytes() + fast
}
