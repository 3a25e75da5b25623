//! Every stored type, precision and kernel family against plain f64 sums over
//! [`entropix_model::quant::dequantise`].

mod accuracy;
mod bitwise;
mod packing;
mod rounding;

use super::{Activations, Forms, Matrix, Part, Precision, Upcoming};
use crate::features::KernelPath;
use entropix_model::quant::dequantise;
use entropix_model::{DType, Tensor};
use half::{bf16, f16};

const PRECISIONS: [Precision; 3] = [Precision::Exact, Precision::Bf16, Precision::Int8];

/// SplitMix64 (Steele, Lea, Flood 2014), so that a failure can be run again.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A tensor of any numbers its type can hold, with scales of ordinary size.
fn tensor(dtype: DType, n_rows: usize, n_cols: usize, seed: u64) -> Tensor {
    let mut random = Numbers(seed ^ (n_rows * 10_000 + n_cols) as u64);
    let (values, block_bytes) = dtype.block();
    let mut bytes = Vec::new();
    for _ in 0..n_rows * n_cols / values {
        let first = bytes.len();
        bytes.extend((0..block_bytes).map(|_| random.next() as u8));
        let block = &mut bytes[first..];
        let mut put = |at: usize, x: f32| block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
        let (d, m) = (random.unit() * 0.01, random.unit() * 0.05);
        match dtype {
            DType::F32 => block.copy_from_slice(&random.unit().to_le_bytes()),
            DType::F16 => put(0, random.unit()),
            DType::BF16 => block.copy_from_slice(&bf16::from_f32(random.unit()).to_le_bytes()),
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => put(0, d),
            DType::Q4_1 | DType::Q5_1 => {
                put(0, d);
                put(2, m);
            }
            DType::Q4_K | DType::Q5_K => {
                put(0, d / 32.0);
                put(2, m / 32.0);
            }
            DType::Q6_K => put(208, d / 64.0),
        }
    }
    Tensor::from_bytes(format!("{dtype}.test"), dtype, n_rows, n_cols, bytes)
}

/// (n_tokens, n_cols) activations with outliers, as networks have them.
fn inputs(n_tokens: usize, n_cols: usize, seed: u64) -> Vec<f32> {
    let mut random = Numbers(seed.wrapping_mul(77) ^ n_cols as u64);
    (0..n_tokens * n_cols)
        .map(|_| {
            let x = random.unit();
            if random.below(50) == 0 { x * 30.0 } else { x }
        })
        .collect()
}

fn weights(tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.n_rows * tensor.n_cols];
    dequantise(tensor.dtype, &tensor.read().unwrap(), &mut out);
    out
}

fn activations(matrix: &Matrix, inputs: &[f32], path: KernelPath) -> Activations {
    let n_cols = matrix.n_cols();
    let mut all = Activations::new(inputs.len() / n_cols, n_cols, Forms::of([matrix]), path);
    for (token, row) in inputs.chunks_exact(n_cols).enumerate() {
        all.write_row(token, row);
    }
    all
}

fn pack(tensor: &Tensor, precision: Precision, path: KernelPath) -> Matrix {
    Matrix::pack(&[Part::new(tensor)], precision, path).unwrap()
}

/// The matrix by every kernel that a machine with the path may run: which one it is can depend on its caches.
fn pack_for_all(tensor: &Tensor, precision: Precision, path: KernelPath) -> Vec<Matrix> {
    #[cfg(target_arch = "x86_64")]
    if (precision, path, tensor.dtype.is_quantised()) == (Precision::Int8, KernelPath::Avx512, true) {
        use super::avx512::select_int8;
        let matrix = || pack(tensor, precision, path);
        return vec![matrix().with_kernels(select_int8::<true>), matrix().with_kernels(select_int8::<false>)];
    }
    vec![pack(tensor, precision, path)]
}

/// The whole product, (n_tokens, padded rows).
fn multiply(matrix: &Matrix, activations: &Activations, n_tokens: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n_tokens * matrix.n_rows()];
    matrix.multiply(
        activations,
        0..n_tokens,
        0..matrix.n_rows(),
        &mut out,
        matrix.n_rows(),
        Upcoming::NOTHING,
    );
    out
}

/// Shapes that touch every edge: (rows, columns, tokens), columns for a type with blocks of `block`.
fn shapes(block: usize) -> Vec<(usize, usize, usize)> {
    let cols: Vec<usize> = match block {
        1 => vec![1, 2, 31, 33, 50, 64, 256, 576],
        32 => vec![32, 64, 96, 256, 576, 1536],
        _ => vec![256, 512, 1536],
    };
    let mut shapes = Vec::new();
    shapes.extend(cols.iter().map(|&cols| (17, cols, 5)));
    shapes.extend([1, 15, 16, 17, 48, 100].map(|rows| (rows, cols[cols.len() / 2], 3)));
    shapes.extend([1, 2, 3, 5, 8, 13, 32, 33].map(|tokens| (80, 256, tokens)));
    shapes.extend([33, 70].map(|tokens| (48, *cols.last().unwrap(), tokens)));
    shapes
}
