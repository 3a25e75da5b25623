use super::*;

/// Activations as the precision rounds them, by plain code of its own, in f64.
fn rounded(inputs: &[f32], n_cols: usize, dtype: DType, precision: Precision) -> Vec<f64> {
    let bf16 = |x: &f32| bf16::from_f32(*x).to_f64();
    match precision {
        Precision::Exact => inputs.iter().map(|x| *x as f64).collect(),
        Precision::Bf16 => inputs.iter().map(bf16).collect(),
        Precision::Int8 if !dtype.is_quantised() => inputs.iter().map(|x| *x as f64).collect(),
        Precision::Int8 => inputs
            .chunks(n_cols)
            .flat_map(|row| {
                row.chunks(32)
                    .flat_map(|block| int8(block).0.map(|q| q as f64).map(move |q| q * int8(block).1 as f64))
            })
            .collect(),
    }
}

/// (quants, scale) of a block of 32: the scale has four bits below its first.
fn int8(block: &[f32]) -> ([i32; 32], f32) {
    let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let least = f64::from(largest / 127.0);
    let unit = 2f64.powi(least.log2().floor() as i32 - 4);
    let scale = ((least / unit).ceil() * unit) as f32;
    (std::array::from_fn(|i| (block[i] * (1.0 / scale)).round_ties_even() as i32), scale)
}

// Catches any fault of packing, opening, offsets, minima, tails and tiles: the tolerance is the rounding of
// f32 sums, thousands of times below a misplaced weight.
#[test]
fn every_type_precision_and_family_agrees_with_f64_sums() {
    for dtype in DType::ALL {
        for (n_rows, n_cols, n_tokens) in shapes(dtype.block().0) {
            let tensor = tensor(dtype, n_rows, n_cols, 1);
            let weights = weights(&tensor);
            let inputs = inputs(n_tokens, n_cols, 2);
            let largest = weights.iter().fold(0f32, |largest, w| largest.max(w.abs())) as f64;
            for precision in PRECISIONS {
                let x = rounded(&inputs, n_cols, dtype, precision);
                let expected: Vec<Vec<f64>> = x
                    .chunks(n_cols)
                    .map(|x| {
                        let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| *w as f64 * x).sum();
                        weights.chunks(n_cols).map(dot).collect()
                    })
                    .collect();
                for path in KernelPath::available() {
                    let matrix = pack(&tensor, precision, path);
                    let out = multiply(&matrix, &activations(&matrix, &inputs, path), n_tokens);
                    for (token, expected) in expected.iter().enumerate() {
                        let mass: f64 = x[token * n_cols..][..n_cols].iter().map(|x| x.abs()).sum();
                        // A sum of n terms of size up to 3 max |w| |x| (number and minimum apart).
                        let bound = 3.0 * largest * mass * (n_cols as f64 + 8.0).sqrt() * 2f64.powi(-23);
                        for (row, expected) in expected.iter().enumerate() {
                            let got = out[token * matrix.n_rows() + row] as f64;
                            assert!(
                                (got - expected).abs() <= bound,
                                "{dtype} {precision:?} {path}, ({n_rows}, {n_cols}), token {token} of {n_tokens}, \
                                 row {row}: {got} is not {expected} within {bound}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// d, m and the numbers of each block of 32 (d of both halves), read off the stored row.
fn stored_blocks(dtype: DType, row: &[u8], weights: &[f32]) -> Vec<([f32; 2], f32, [i32; 32])> {
    let (values, bytes) = dtype.block();
    let half = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    weights
        .chunks(32)
        .enumerate()
        .map(|(i, w)| {
            let (block, sub_block) = (&row[i * 32 / values * bytes..][..bytes], i % (values / 32));
            let (d, m) = match dtype {
                DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => ([half(block, 0); 2], 0.0),
                DType::Q4_1 | DType::Q5_1 => ([half(block, 0); 2], half(block, 2)),
                DType::Q4_K | DType::Q5_K => {
                    let (scale, min) = entropix_model::quant::scale_and_min(&block[4..16], sub_block);
                    ([half(block, 0) * scale as f32; 2], -(half(block, 2) * min as f32))
                }
                _ => {
                    let scale = |at: usize| half(block, 208) * block[192 + 2 * sub_block + at] as i8 as f32;
                    ([scale(0), scale(1)], 0.0)
                }
            };
            let number = |i: usize| {
                let d = d[i / 16];
                if d == 0.0 { 0 } else { ((w[i] - m) as f64 / d as f64).round() as i32 }
            };
            (d, m, std::array::from_fn(number))
        })
        .collect()
}

// The 8-bit product is integers and a fold that is written down: nothing about it is approximate.
#[test]
fn int8_is_exactly_the_integer_model() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        let (n_rows, n_cols, n_tokens) = (20, 768, 14);
        let tensor = tensor(dtype, n_rows, n_cols, 3);
        let (bytes, weights) = (tensor.read().unwrap(), weights(&tensor));
        let inputs = inputs(n_tokens, n_cols, 4);
        let minima = matches!(dtype, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K);
        for path in KernelPath::available() {
            let fused =
                path != KernelPath::Portable || cfg!(any(target_arch = "aarch64", target_feature = "fma"));
            let fma = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
            let matrix = pack(&tensor, Precision::Int8, path);
            let out = multiply(&matrix, &activations(&matrix, &inputs, path), n_tokens);
            for (row, w) in weights.chunks(n_cols).enumerate() {
                let stored = &bytes[row * tensor.row_bytes()..][..tensor.row_bytes()];
                let blocks = stored_blocks(dtype, stored, w);
                for (token, x) in inputs.chunks(n_cols).enumerate() {
                    let mut sum = 0f32;
                    for ((d, m, q), x) in blocks.iter().zip(x.chunks(32)) {
                        let (x, dx) = int8(x);
                        if minima {
                            sum = fma(*m, dx * x.iter().sum::<i32>() as f32, sum);
                        }
                        let dot =
                            |range: std::ops::Range<usize>| range.map(|i| q[i] * x[i]).sum::<i32>() as f32;
                        if dtype == DType::Q6_K {
                            sum = fma(dot(0..16), d[0] * dx, sum);
                            sum = fma(dot(16..32), d[1] * dx, sum);
                        } else {
                            sum = fma(dot(0..32), d[0] * dx, sum);
                        }
                    }
                    let got = out[token * matrix.n_rows() + row];
                    assert_eq!(
                        got.to_bits(),
                        sum.to_bits(),
                        "{dtype} {path} token {token} row {row}: {got} {sum}"
                    );
                }
            }
        }
    }
}

// Nor about that of bf16 pairs but the order of the two in a pair, the second first.
#[test]
#[cfg(target_arch = "x86_64")]
fn pairs_are_exactly_the_model() {
    use crate::linear::activations::round_to_bf16;
    use crate::linear::avx512::sum_of_halves;
    let path = KernelPath::Avx512Bf16;
    if !path.is_available() {
        return;
    }
    for dtype in DType::ALL.into_iter().filter(|dtype| !matches!(dtype, DType::F32 | DType::F16)) {
        let (n_rows, n_cols, n_tokens) = (20, 768, 14);
        let tensor = tensor(dtype, n_rows, n_cols, 7);
        let (bytes, weights) = (tensor.read().unwrap(), weights(&tensor));
        let inputs = inputs(n_tokens, n_cols, 8);
        let minima = matches!(dtype, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K);
        let matrix = pack(&tensor, Precision::Bf16, path);
        let out = multiply(&matrix, &activations(&matrix, &inputs, path), n_tokens);
        let dot = |sum: f32, w: &[f32], x: &[f32]| {
            w.chunks(2).zip(x.chunks(2)).fold(sum, |sum, (w, x)| x[0].mul_add(w[0], x[1].mul_add(w[1], sum)))
        };
        for (row, w) in weights.chunks(n_cols).enumerate() {
            let stored = &bytes[row * tensor.row_bytes()..][..tensor.row_bytes()];
            for (token, x) in inputs.chunks(n_cols).enumerate() {
                let x: Vec<f32> = x.iter().map(|x| round_to_bf16(*x)).collect();
                let mut sum = 0f32;
                if dtype == DType::BF16 {
                    sum = dot(sum, w, &x);
                } else {
                    for ((d, m, q), x) in stored_blocks(dtype, stored, w).iter().zip(x.chunks(32)) {
                        if minima {
                            sum = m.mul_add(
                                sum_of_halves(std::array::from_fn(|i| x[2 * i] + x[2 * i + 1])),
                                sum,
                            );
                        }
                        let q = q.map(|q| q as f32);
                        if dtype == DType::Q6_K {
                            sum = dot(0.0, &q[..16], &x[..16]).mul_add(d[0], sum);
                            sum = dot(0.0, &q[16..], &x[16..]).mul_add(d[1], sum);
                        } else {
                            sum = dot(0.0, &q, x).mul_add(d[1], sum);
                        }
                    }
                }
                let got = out[token * matrix.n_rows() + row];
                assert_eq!(got.to_bits(), sum.to_bits(), "{dtype} token {token} row {row}: {got} {sum}");
            }
        }
    }
}

// What one family tests the others rely on: all x86 families fold alike, so they give the same bits. Token counts lie
// on both sides of the tiles' sizes.
#[test]
fn the_vector_families_agree_bit_for_bit() {
    let families = KernelPath::available();
    for dtype in DType::ALL {
        for precision in PRECISIONS {
            for n_tokens in [1, 7, 16, 37] {
                let (tensor, inputs) = (tensor(dtype, 48, 1024, 5), inputs(n_tokens, 1024, 6));
                let products = |path: KernelPath| {
                    let matrix = pack(&tensor, precision, path);
                    let products = multiply(&matrix, &activations(&matrix, &inputs, path), n_tokens);
                    products.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                };
                // Products of bf16 pairs are another order of additions.
                let is_in_pairs = precision == Precision::Bf16 && !matches!(dtype, DType::F32 | DType::F16);
                let apart = is_in_pairs.then_some(KernelPath::Avx512Bf16);
                let mut vector =
                    families.iter().filter(|path| **path != KernelPath::Portable && Some(**path) != apart);
                let Some(first) = vector.next() else { return };
                let expected = products(*first);
                for path in vector {
                    assert!(
                        products(*path) == expected,
                        "{path} of {n_tokens} tokens, {dtype} {precision:?}"
                    );
                }
            }
        }
    }
}
