#![allow(unsafe_code)]
use super::*;
use std::ops::Range;

/// Computes tokens x rows into a buffer with the stride.
type Product<'a> = dyn Fn(Range<usize>, Range<usize>, &mut [f32], usize) + 'a;

/// Where a product depends on how it was cut: every token alone, all prefixes of the tokens, and random
/// rectangles against the whole. `n_rows` is a multiple of 16.
fn first_difference(product: &Product<'_>, n_tokens: usize, n_rows: usize, seed: u64) -> Option<String> {
    let mut whole = vec![0.0; n_tokens * n_rows];
    product(0..n_tokens, 0..n_rows, &mut whole, n_rows);
    let mut random = Numbers(seed);
    let mut cuts: Vec<(Range<usize>, Range<usize>)> = (0..n_tokens).map(|t| (t..t + 1, 0..n_rows)).collect();
    cuts.extend((1..n_tokens).map(|n| (0..n, 0..16)));
    cuts.extend((0..40).map(|_| {
        let (a, b) = (random.below(n_tokens), random.below(n_tokens));
        let (c, d) = (random.below(n_rows / 16), random.below(n_rows / 16));
        (a.min(b)..a.max(b) + 1, c.min(d) * 16..(c.max(d) + 1) * 16)
    }));
    for (tokens, rows) in cuts {
        let stride = rows.len() + random.below(20);
        let mut part = vec![0.0; tokens.len() * stride];
        product(tokens.clone(), rows.clone(), &mut part, stride);
        for (t, token) in tokens.clone().enumerate() {
            for (r, row) in rows.clone().enumerate() {
                let (got, expected) = (part[t * stride + r], whole[token * n_rows + row]);
                if got.to_bits() != expected.to_bits() {
                    return Some(format!("tokens {tokens:?} rows {rows:?}: {got} instead of {expected}"));
                }
            }
        }
    }
    None
}

#[test]
fn a_product_does_not_depend_on_batch_or_tiles() {
    for dtype in DType::ALL {
        for precision in PRECISIONS {
            for path in KernelPath::available() {
                // Columns of several runs of opened weights, tokens enough for multiples of their scales.
                let (n_tokens, n_cols) = (70, 1024);
                for matrix in pack_for_all(&tensor(dtype, 70, n_cols, 7), precision, path) {
                    let inputs = activations(&matrix, &inputs(n_tokens, n_cols, 8), path);
                    let product =
                        |tokens: Range<usize>, rows: Range<usize>, out: &mut [f32], stride: usize| {
                            matrix.multiply(&inputs, tokens, rows, out, stride, Upcoming::NOTHING);
                        };
                    let difference = first_difference(&product, n_tokens, matrix.n_rows(), 9);
                    assert_eq!(difference, None, "{dtype} {precision:?} {path}");
                }
            }
        }
    }
}

// Which of the two a machine runs depends on its first-level cache; its answers do not.
#[cfg(target_arch = "x86_64")]
#[test]
fn pairs_of_groups_give_the_bits_of_single_ones() {
    if !KernelPath::Avx512.is_available() {
        return;
    }
    // An even and an odd number of groups, and one.
    let (n_tokens, n_cols) = (100, 1024);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        for n_rows in [16, 64, 80] {
            let tensor = tensor(dtype, n_rows, n_cols, 25);
            let matrices = pack_for_all(&tensor, Precision::Int8, KernelPath::Avx512);
            let inputs = activations(&matrices[0], &inputs(n_tokens, n_cols, 26), KernelPath::Avx512);
            let [pairs, singles] = [0, 1].map(|i| {
                multiply(&matrices[i], &inputs, n_tokens).into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert_eq!(pairs, singles, "{dtype}, {n_rows} rows");
        }
    }
}

// The same token in other company: its slot in the panel and its neighbours' numbers must not matter.
#[test]
fn a_token_does_not_feel_its_neighbours() {
    for dtype in DType::ALL {
        for precision in PRECISIONS {
            for path in KernelPath::available() {
                // Wide enough that opened weights are taken in several runs.
                let n_cols = 1024;
                for matrix in pack_for_all(&tensor(dtype, 32, n_cols, 10), precision, path) {
                    let token = inputs(1, n_cols, 11);
                    let alone = multiply(&matrix, &activations(&matrix, &token, path), 1);
                    for (n_tokens, slot) in [(2, 1), (4, 3), (13, 12), (33, 17), (64, 40)] {
                        let mut company = inputs(n_tokens, n_cols, 12 + slot as u64);
                        company[..n_cols].fill(f32::NAN);
                        company[slot * n_cols..(slot + 1) * n_cols].copy_from_slice(&token);
                        let out = multiply(&matrix, &activations(&matrix, &company, path), n_tokens);
                        let got = &out[slot * matrix.n_rows()..(slot + 1) * matrix.n_rows()];
                        assert_eq!(got, alone, "{dtype} {precision:?} {path}, slot {slot} of {n_tokens}");
                    }
                }
            }
        }
    }
}

// Scales of weights that are zero, tiny, huge or no numbers at all, and activations of all sizes: the short cuts of many
// tokens give the bits that a token has alone.
#[test]
fn odd_scales_do_not_depend_on_the_batch() {
    let (n_tokens, n_rows, n_cols) = (64, 32, 1024);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        let (values, block_bytes) = dtype.block();
        let ordinary = tensor(dtype, n_rows, n_cols, 18).read().unwrap();
        for (i, odd) in [0u16, 0x8000, 0x0001, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x7c01].into_iter().enumerate()
        {
            let mut bytes = ordinary.clone();
            // One block of one row, of the first run of blocks or of the last.
            let block = (3 * n_cols + i % 2 * (n_cols - values)) / values;
            let d = block * block_bytes + if dtype == DType::Q6_K { 208 } else { 0 };
            bytes[d..d + 2].copy_from_slice(&odd.to_le_bytes());
            let tensor = Tensor::from_bytes("odd", dtype, n_rows, n_cols, bytes);
            let mut random = Numbers(19);
            let sizes = [1e-24f32, 1e-20, 1e-3, 1.0, 100.0, 1e12, 9e29];
            let inputs: Vec<f32> = inputs(n_tokens, n_cols, 20)
                .chunks(32)
                .flat_map(|block| {
                    let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                    let by = sizes[random.below(sizes.len())] / largest;
                    block.iter().map(move |x| x * by).collect::<Vec<_>>()
                })
                .collect();
            for path in KernelPath::available() {
                for matrix in pack_for_all(&tensor, Precision::Int8, path) {
                    let together = multiply(&matrix, &activations(&matrix, &inputs, path), n_tokens);
                    for (token, (input, got)) in
                        inputs.chunks(n_cols).zip(together.chunks(matrix.n_rows())).enumerate()
                    {
                        let alone = multiply(&matrix, &activations(&matrix, input, path), 1);
                        for (row, (got, alone)) in got.iter().zip(&alone).enumerate() {
                            assert!(
                                got.to_bits() == alone.to_bits() || got.is_nan() && alone.is_nan(),
                                "{dtype} {path}, scale {odd:#x}, token {token}, row {row}: {got:e}, alone {alone:e}"
                            );
                        }
                    }
                }
            }
        }
    }
}

// The negative control: a product that adds from the other end when there are several tokens (as a library
// does that picks another kernel for one row) must be noticed by the same judge.
#[test]
fn an_order_that_depends_on_the_batch_is_noticed() {
    let (n_tokens, n_cols, n_rows) = (5, 96, 32);
    let (w, x) = (inputs(n_rows, n_cols, 13), inputs(n_tokens, n_cols, 14));
    let product = |tokens: Range<usize>, rows: Range<usize>, out: &mut [f32], stride: usize| {
        let n = tokens.len();
        for (t, token) in tokens.enumerate() {
            for (r, row) in rows.clone().enumerate() {
                let terms = (0..n_cols).map(|i| w[row * n_cols + i] * x[token * n_cols + i]);
                out[t * stride + r] = if n == 1 { terms.sum() } else { terms.rev().sum() };
            }
        }
    };
    assert!(first_difference(&product, n_tokens, n_rows, 15).is_some());
}

// Many threads writing rectangles of one buffer, as a forward does.
#[test]
fn threads_do_not_change_a_product() {
    let (n_tokens, n_cols) = (9, 256);
    let path = KernelPath::detect();
    let matrix = pack(&tensor(DType::Q4_1, 320, n_cols, 16), Precision::Int8, path);
    let n_rows = matrix.n_rows();
    let inputs = activations(&matrix, &inputs(n_tokens, n_cols, 17), path);
    let expected = multiply(&matrix, &inputs, n_tokens);
    for n_threads in [1, 2, 4] {
        let pool = crate::pool::Pool::new(n_threads).unwrap();
        for n_tasks in [1, 2, 5, 20] {
            let mut out = vec![0.0f32; n_tokens * n_rows];
            let first = out.as_mut_ptr() as usize;
            pool.run(n_tasks, &|task, _| {
                let groups = n_rows / 16;
                let rows = groups * task / n_tasks * 16..groups * (task + 1) / n_tasks * 16;
                let out = (first as *mut f32).wrapping_add(rows.start);
                // SAFETY: the tasks' rows do not meet and lie within the buffer.
                unsafe { matrix.multiply_to(&inputs, 0..n_tokens, rows, out, n_rows, Upcoming::NOTHING) }
            });
            assert_eq!(out, expected, "{n_threads} threads, {n_tasks} tasks");
        }
    }
}
