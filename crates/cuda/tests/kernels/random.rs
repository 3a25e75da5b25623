//! Numbers for tests: a fixed sequence a seed.

use entropix_cuda::pack::Format;
use half::{bf16, f16};

/// SplitMix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// About normal: the sum of four.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.unit()).sum::<f32>() * 0.866
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    pub(crate) fn bf16s(&mut self, n: usize) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.normal())).collect()
    }

    /// The stored bytes of a row of weights: any bits, scales of ordinary size.
    pub(crate) fn weights(&mut self, format: Format, n_cols: usize) -> Vec<u8> {
        let (values, bytes) = format.dtype().block();
        let mut row: Vec<u8> = (0..n_cols / values * bytes).map(|_| self.bits() as u8).collect();
        for block in row.chunks_exact_mut(bytes) {
            let mut half = |at: usize, size: f32| {
                let value = f16::from_f32(self.unit() * size);
                block[at..at + 2].copy_from_slice(&value.to_le_bytes());
            };
            match format {
                Format::BF16 => {
                    let value = bf16::from_f32(self.normal());
                    block.copy_from_slice(&value.to_le_bytes());
                }
                Format::F16 => half(0, 2.0),
                Format::Q4_1 => {
                    half(0, 0.2);
                    half(2, 1.0);
                }
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => half(0, 0.2),
                Format::Q4_K => {
                    half(0, 0.01);
                    half(2, 0.01);
                }
                Format::Q6_K => half(208, 0.001),
            }
        }
        row
    }
}
