//! Keys and values as they lie in a cache, written and read by the definition alone.

use entropix_cuda::ops::{Heads, KvType};
use half::{bf16, f16};

/// A key or value vector of one position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) block: usize,
    pub(crate) offset: usize,
    pub(crate) kv_head: usize,
    pub(crate) is_value: bool,
}

impl Slot {
    /// The first byte of its components and, where there is one, of its scale.
    pub(crate) fn bytes(&self, heads: &Heads) -> (usize, Option<usize>) {
        let (size, hd) = (heads.block_size as usize, heads.head_dim as usize);
        let plane = (self.block * heads.n_kv_heads as usize + self.kv_head) * 2 + usize::from(self.is_value);
        match heads.kv {
            KvType::Bf16 | KvType::F16 => ((plane * size + self.offset) * hd * 2, None),
            KvType::Int8 => {
                let first = plane * size * (hd + 4);
                (first + self.offset * hd, Some(first + size * hd + self.offset * 4))
            }
        }
    }

    /// Rounds a vector into the cache.
    pub(crate) fn write(&self, heads: &Heads, cache: &mut [u8], vector: &[f32]) {
        let (at, scale_at) = self.bytes(heads);
        let Some(scale_at) = scale_at else {
            let bytes: Vec<u8> = halves(heads.kv, vector).into_iter().flat_map(u16::to_le_bytes).collect();
            return cache[at..at + bytes.len()].copy_from_slice(&bytes);
        };
        let (components, scale) = quantised(vector);
        cache[at..at + vector.len()].copy_from_slice(bytemuck::cast_slice(&components));
        cache[scale_at..scale_at + 4].copy_from_slice(&scale.to_le_bytes());
    }

    /// What the cache says the vector is.
    pub(crate) fn read(&self, heads: &Heads, cache: &[u8]) -> Vec<f32> {
        let (at, scale_at) = self.bytes(heads);
        let hd = heads.head_dim as usize;
        let Some(scale_at) = scale_at else {
            let pairs = cache[at..at + 2 * hd].as_chunks::<2>().0;
            return pairs.iter().map(|&pair| of_half(heads.kv, u16::from_le_bytes(pair))).collect();
        };
        let scale = f32::from_le_bytes(cache[scale_at..scale_at + 4].try_into().expect("four bytes"));
        cache[at..at + hd].iter().map(|&byte| f32::from(byte as i8) * scale).collect()
    }
}

/// Components in 8 bits, and the scale that they are multiplied with.
pub(crate) fn quantised(vector: &[f32]) -> (Vec<i8>, f32) {
    if vector.iter().any(|x| !x.is_finite()) {
        return (vec![0; vector.len()], f32::NAN);
    }
    let scale = vector.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
    let rounded = |x: &f32| (x / scale).round_ties_even().clamp(-127.0, 127.0);
    (vector.iter().map(|x| if scale > 0.0 { rounded(x) as i8 } else { 0 }).collect(), scale)
}

/// In the 16-bit type of queries beside such a cache.
pub(crate) fn halves(kv: KvType, values: &[f32]) -> Vec<u16> {
    let half = |&x: &f32| match kv {
        KvType::F16 => f16::from_f32(x).to_bits(),
        KvType::Bf16 | KvType::Int8 => bf16::from_f32(x).to_bits(),
    };
    values.iter().map(half).collect()
}

/// The number that [`halves`] made.
pub(crate) fn of_half(kv: KvType, bits: u16) -> f32 {
    match kv {
        KvType::F16 => f16::from_bits(bits).to_f32(),
        KvType::Bf16 | KvType::Int8 => bf16::from_bits(bits).to_f32(),
    }
}
