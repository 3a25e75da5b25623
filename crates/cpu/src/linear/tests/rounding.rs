#![allow(unsafe_code)]
use super::*;
use crate::linear::activations::{Form, Int8Block, round_to_bf16};

fn block(x: [f32; 32]) -> Int8Block {
    Int8Block::new(&x)
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    let mut random = Numbers(30);
    let edges =
        [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let any = (0..20_000).map(|_| f32::from_bits(random.next() as u32));
    // Halfway between two bf16, above and below.
    let ties = (0..2000u32)
        .flat_map(|i| [0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits(((i * 0x1_f000) & !0xffff) | low)));
    for x in edges.into_iter().chain(any).chain(ties) {
        let (got, expected) = (round_to_bf16(x), bf16::from_f32(x).to_f32());
        assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{x:e}: {got:e}");
    }
}

#[test]
fn eight_bits_reach_from_edge_to_edge() {
    let mut x = [0.0; 32];
    // The scale of 2.54 / 127 itself would be 0.02.
    let scale = 21.0 / 1024.0;
    (x[0], x[1], x[20], x[31]) = (2.54, -2.54, 1.6 * scale, 1.4 * scale);
    let got = block(x);
    assert_eq!((got.quants[0], got.quants[1], got.quants[20], got.quants[31]), (124, -124, 2, 1));
    assert_eq!(got.sums, [0, 3]);
    assert_eq!(got.scale, scale);
    // Ties go to even.
    let ties = block(std::array::from_fn(|i| if i == 0 { 127.0 } else { i as f32 - 16.5 }));
    assert_eq!(ties.quants[1..5], [-16, -14, -14, -12]);
}

#[test]
fn one_huge_number_leaves_the_others_zero() {
    for huge in [9.99e29, 1e20, 1e10] {
        let mut x = [1.0; 32];
        x[7] = -huge;
        let got = block(x);
        assert!((-127..=-120).contains(&got.quants[7]), "{huge:e}: {}", got.quants[7]);
        assert!(got.scale.is_finite() && got.quants.iter().enumerate().all(|(i, q)| i == 7 || *q == 0));
    }
}

#[test]
fn zeros_and_denormals_are_zeros() {
    for x in [0.0, -0.0, 1e-45, -1e-40, f32::MIN_POSITIVE, 1e-25] {
        let got = block([x; 32]);
        assert_eq!((got.quants, got.scale, got.sums), ([0; 32], 0.0, [0; 2]), "{x:e}");
    }
    assert!(block([1e-23; 32]).quants[0] > 119);
}

// The least scale that reaches the largest number and has four bits below its first, so no more than a sixteenth too large.
#[test]
fn scales_have_few_bits_and_reach() {
    let mut random = Numbers(38);
    for _ in 0..100_000 {
        let size = 2f32.powi(random.below(170) as i32 - 75);
        let x: [f32; 32] = std::array::from_fn(|_| random.unit() * size);
        let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let got = block(x);
        assert_eq!(got.scale.to_bits() & ((1 << 19) - 1), 0, "{:e}", got.scale);
        let exact = f64::from(largest) / 127.0;
        let over = f64::from(got.scale) / exact;
        assert!((1.0 - 1e-6..1.0 + 1.0 / 16.0 + 1e-6).contains(&over), "{:e} for {exact:e}", got.scale);
        for (x, q) in x.iter().zip(got.quants) {
            let error = f64::from(*x) - f64::from(q) * f64::from(got.scale);
            assert!(error.abs() <= 0.50001 * f64::from(got.scale), "{x:e} became {q} of {:e}", got.scale);
        }
    }
}

#[test]
fn what_is_not_finite_has_no_scale() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, f32::MIN] {
        for at in [0, 13, 31] {
            let mut x = [0.5; 32];
            x[at] = bad;
            assert!(block(x).scale.is_nan(), "{bad} at {at}");
        }
    }
}

// The vector families round by code of their own; nothing may differ.
#[test]
fn every_family_rounds_alike() {
    let mut random = Numbers(34);
    let n_cols = 32 * 400;
    let matrix = pack(&tensor(DType::Q4_1, 1, n_cols, 35), Precision::Int8, KernelPath::Portable);
    // Blocks of all sizes, some with a number that is not finite, some with ties.
    let row: Vec<f32> = (0..n_cols)
        .map(|i| match (i / 32 % 8, random.below(40)) {
            (0, 0) => f32::NAN,
            (1, 0) => f32::NEG_INFINITY,
            (2, _) => (random.below(255) as f32 - 127.0) / 2.0,
            (3, _) => 0.0,
            (4, _) => f32::from_bits(random.next() as u32 & 0x80ff_ffff),
            _ => random.unit() * 2f32.powi(random.below(4) as i32 * 20 - 40),
        })
        .collect();
    let written = |path| {
        let all = activations(&matrix, &row, path);
        let (panel, stride) = all.panel(Form::Int8, 0).unwrap();
        // SAFETY: one panel was allocated and nobody writes it now.
        unsafe { std::slice::from_raw_parts(panel, stride) }.to_vec()
    };
    for path in KernelPath::available() {
        assert!(written(path) == written(KernelPath::Portable), "{path}");
    }
}

// By an instruction, which also takes subnormal numbers for 0.
#[test]
fn pairs_are_rounded_as_bf16_is() {
    let path = KernelPath::Avx512Bf16;
    if !path.is_available() {
        return;
    }
    let mut random = Numbers(36);
    let n_cols = 32 * 300;
    let matrix = pack(&tensor(DType::Q4_1, 1, n_cols, 37), Precision::Bf16, path);
    let row: Vec<f32> = (0..n_cols)
        .map(|i| match i / 32 % 4 {
            // Ties, of even and of odd numbers.
            0 => f32::from_bits((random.next() as u32 & 0xbfff_0000) | 0x8000),
            1 => [f32::MAX, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 2.0, -0.0][random.below(5)],
            _ => f32::from_bits(random.next() as u32 & 0xbfff_ffff),
        })
        .collect();
    let all = activations(&matrix, &row, path);
    let (panel, stride) = all.panel(Form::Pairs, 0).unwrap();
    // SAFETY: one panel was allocated and nobody writes it now.
    let panel = unsafe { std::slice::from_raw_parts(panel, stride) };
    for (block, values) in row.chunks(32).enumerate() {
        let token = &panel[block * Form::Pairs.panel() * Form::Pairs.token_bytes()..];
        for (i, &x) in values.iter().enumerate() {
            let got = f32::from_bits(u32::from(u16::from_le_bytes([token[2 * i], token[2 * i + 1]])) << 16);
            let want = if x.is_subnormal() { 0.0 * x } else { round_to_bf16(x) };
            let is_right = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(is_right, "{x:e} became {got:e}, not {want:e}");
        }
    }
}

// A NaN that became a zero would make the row look like a good one.
#[test]
fn no_output_of_a_broken_token_is_finite() {
    for dtype in DType::ALL {
        for precision in PRECISIONS {
            for path in KernelPath::available() {
                let n_cols = 512;
                let matrix = pack(&tensor(dtype, 40, n_cols, 31), precision, path);
                let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
                for (bad, n_tokens) in bad.into_iter().flat_map(|bad| [(bad, 6), (bad, 32), (bad, 64)]) {
                    let mut inputs = inputs(n_tokens, n_cols, 32);
                    // Not among the first, which open the weights.
                    let broken = n_tokens / 2;
                    inputs[broken * n_cols + 300] = bad;
                    let out = multiply(&matrix, &activations(&matrix, &inputs, path), n_tokens);
                    for (token, out) in out.chunks(matrix.n_rows()).enumerate() {
                        let finite = out[..40].iter().filter(|x| x.is_finite()).count();
                        let expected = if token == broken { 0 } else { 40 };
                        assert_eq!(
                            finite, expected,
                            "{dtype} {precision:?} {path} {bad} token {token}: {out:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_give_zeros() {
    for dtype in DType::ALL {
        for precision in PRECISIONS {
            for path in KernelPath::available() {
                let matrix = pack(&tensor(dtype, 16, 256, 33), precision, path);
                let out = multiply(&matrix, &activations(&matrix, &[0.0; 256], path), 1);
                assert!(out.iter().all(|x| *x == 0.0), "{dtype} {precision:?} {path}: {out:?}");
            }
        }
    }
}
