//! Products of every format against f64, the same bits from every kernel, in every batch.

use crate::device::{Device, Outcome, at, bytes_of, everywhere, near};
use crate::random::Random;
use entropix_cpu::reference::ops::swiglu;
use entropix_cuda::ops::{self, Product, Weights, Width};
use entropix_cuda::pack::{Format, gated_row, gated_rows, pack};
use entropix_model::quant::dequantise;
use half::bf16;

pub(crate) const WIDTHS: [Width; 3] = [Width::N8, Width::N32, Width::Wide];

/// A matrix as stored, as numbers, and activations.
pub(crate) struct Case {
    pub(crate) format: Format,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    pub(crate) n_tokens: usize,
    rows: Vec<Vec<u8>>,
    values: Vec<Vec<f32>>,
    pub(crate) x: Vec<bf16>,
}

impl Case {
    pub(crate) fn new(format: Format, n_rows: usize, n_cols: usize, n_tokens: usize) -> Self {
        let mut random = Random((n_rows * 31 + n_cols * 7 + n_tokens) as u64);
        let rows: Vec<Vec<u8>> = (0..n_rows).map(|_| random.weights(format, n_cols)).collect();
        let values = rows
            .iter()
            .map(|row| {
                let mut out = vec![0.0; n_cols];
                dequantise(format.dtype(), row, &mut out);
                out
            })
            .collect();
        let x = random.bf16s(n_tokens * n_cols);
        Self { format, n_rows, n_cols, n_tokens, rows, values, x }
    }

    /// The matrix as it lies on the device.
    pub(crate) fn packed(&self) -> Vec<u8> {
        pack(self.format, self.n_rows, self.n_cols, |i| Some(&self.rows[i]))
    }

    /// (w . x, sum |w x|) of a row and a token.
    fn dot(&self, row: usize, token: usize) -> (f64, f64) {
        let x = &self.x[token * self.n_cols..][..self.n_cols];
        let terms = self.values[row].iter().zip(x).map(|(&w, x)| f64::from(w) * f64::from(x.to_f32()));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }
}

/// One product; the launch may meet more tokens than there are.
pub(crate) fn store(
    device: &Device<'_>,
    case: &Case,
    width: Width,
    tokens: std::ops::Range<usize>,
) -> Result<Vec<f32>, String> {
    let weights = device.upload(&case.packed());
    let n = tokens.len();
    let x = device.upload(&case.x[tokens.start * case.n_cols..tokens.end * case.n_cols]);
    let (y, count) = (device.empty::<f32>(n * case.n_rows), device.count(n));
    let w = Weights {
        format: case.format,
        at: at(&weights),
        n_rows: case.n_rows as u32,
        n_cols: case.n_cols as u32,
    };
    device.run(&ops::matmul(
        w,
        at(&x),
        at(&y),
        w.n_rows,
        at(&count),
        n as u32 + 30,
        Product::Store,
        width,
    ))?;
    device.read(&y, 0, n * case.n_rows)
}

/// Every width against f64 and against one another, and some tokens alone.
pub(crate) fn check(device: &Device<'_>, case: &Case) -> Outcome {
    let mut all: Option<Vec<f32>> = None;
    for width in WIDTHS {
        let y = store(device, case, width, 0..case.n_tokens)?;
        for token in 0..case.n_tokens {
            for row in 0..case.n_rows {
                let (want, size) = case.dot(row, token);
                near(
                    format_args!("{width:?} row {row} token {token}"),
                    y[token * case.n_rows + row],
                    want,
                    2e-6 * size + 1e-9,
                )?;
            }
        }
        match &all {
            None => all = Some(y),
            Some(first) if bytes_of(first) != bytes_of(&y) => {
                return Err(format!("{width:?} gives other bits"));
            }
            Some(_) => {}
        }
    }
    let all = all.expect("three widths");
    for token in [0, case.n_tokens - 1] {
        for width in [Width::N8, Width::Wide] {
            let alone = store(device, case, width, token..token + 1)?;
            if bytes_of(&alone) != bytes_of(&all[token * case.n_rows..][..case.n_rows]) {
                return Err(format!("token {token} alone gives other bits in {width:?}"));
            }
        }
    }
    Ok(bytes_of(&all))
}

/// Sums land on the residual stream, which has wider rows here, and nothing beside them changes.
pub(crate) fn check_add(device: &Device<'_>, case: &Case) -> Outcome {
    let mut random = Random(5);
    let stride = case.n_rows + 4;
    let before = random.normals(case.n_tokens * stride);
    let plain = store(device, case, Width::N8, 0..case.n_tokens)?;
    let weights = device.upload(&case.packed());
    let (x, count) = (device.upload(&case.x), device.count(case.n_tokens));
    let w = Weights {
        format: case.format,
        at: at(&weights),
        n_rows: case.n_rows as u32,
        n_cols: case.n_cols as u32,
    };
    for width in WIDTHS {
        let y = device.upload(&before);
        device.run(&ops::matmul(
            w,
            at(&x),
            at(&y),
            stride as u32,
            at(&count),
            case.n_tokens as u32,
            Product::Add,
            width,
        ))?;
        let after: Vec<f32> = device.read(&y, 0, before.len())?;
        for (i, (&after, &before)) in after.iter().zip(&before).enumerate() {
            let (token, row) = (i / stride, i % stride);
            let want = if row < case.n_rows { before + plain[token * case.n_rows + row] } else { before };
            if after.to_bits() != want.to_bits() {
                return Err(format!("{width:?} token {token} row {row}: {after}, not {want}"));
            }
        }
    }
    Ok(Vec::new())
}

/// Gate and up interleaved give silu(gate) * up, the same bits in every width.
pub(crate) fn check_gated(
    device: &Device<'_>,
    format: Format,
    n_gates: usize,
    n_cols: usize,
    n_tokens: usize,
) -> Outcome {
    let (gate, up) =
        (Case::new(format, n_gates, n_cols, n_tokens), Case::new(format, n_gates, n_cols, n_tokens + 1));
    let n_rows = gated_rows(n_gates);
    let packed = pack(format, n_rows, n_cols, |i| {
        let (is_up, row) = gated_row(i);
        (row < n_gates).then(|| if is_up { up.rows[row].as_slice() } else { gate.rows[row].as_slice() })
    });
    let (weights, x, count) = (device.upload(&packed), device.upload(&gate.x), device.count(n_tokens));
    let w = Weights { format, at: at(&weights), n_rows: n_rows as u32, n_cols: n_cols as u32 };
    let stride = n_rows / 2;
    let mut all: Option<Vec<u8>> = None;
    for width in WIDTHS {
        let h = device.empty::<u16>(n_tokens * stride);
        device.run(&ops::matmul(
            w,
            at(&x),
            at(&h),
            stride as u32,
            at(&count),
            n_tokens as u32,
            Product::Gated,
            width,
        ))?;
        let bits: Vec<u16> = device.read(&h, 0, n_tokens * stride)?;
        for token in 0..n_tokens {
            for j in 0..n_gates {
                let (g, g_size) = gate.dot(j, token);
                let u: f64 = up.values[j]
                    .iter()
                    .zip(&gate.x[token * n_cols..])
                    .map(|(&w, x)| f64::from(w) * f64::from(x.to_f32()))
                    .sum();
                let want = f64::from(swiglu(&[g as f32], &[u as f32])[0]);
                let got = bf16::from_bits(bits[token * stride + j]).to_f32();
                near(
                    format_args!("{width:?} gate {j} token {token}"),
                    got,
                    want,
                    want.abs() / 200.0 + 1e-5 * g_size * u.abs() + 1e-6,
                )?;
            }
        }
        let bytes = bytes_of(&bits);
        if all.as_ref().is_some_and(|all| *all != bytes) {
            return Err(format!("{width:?} gives other bits"));
        }
        all = Some(bytes);
    }
    Ok(all.unwrap_or_default())
}

#[test]
fn products_of_every_format_agree_with_f64_in_every_width_and_batch() {
    for format in Format::ALL {
        // Columns that are no whole units where the format has such, fewer units than slices, and more.
        let columns: [usize; 3] = match format {
            Format::Q4_K | Format::Q6_K => [256, 512, 768],
            Format::BF16 | Format::F16 => [40, 576, 712],
            _ => [32, 576, 736],
        };
        for (n_cols, n_rows, n_tokens) in [(columns[0], 1, 1), (columns[1], 50, 9), (columns[2], 33, 67)] {
            let case = Case::new(format, n_rows, n_cols, n_tokens);
            everywhere(&format!("{format:?} {n_rows} x {n_cols}, {n_tokens} tokens"), |device| {
                check(device, &case)
            });
        }
    }
}

#[test]
fn products_are_added_to_the_residual_stream() {
    let case = Case::new(Format::Q4_1, 70, 96, 35);
    everywhere("add", |device| check_add(device, &case));
}

#[test]
fn gated_products_are_swiglu() {
    for (format, n_gates, n_cols) in [(Format::BF16, 20, 72), (Format::Q8_0, 129, 96)] {
        everywhere("gated", |device| check_gated(device, format, n_gates, n_cols, 11));
    }
}

/// What an infinite or NaN scale makes of a row stays in that row.
#[test]
fn bad_weights_poison_their_own_row_only() {
    let mut case = Case::new(Format::Q8_0, 20, 64, 3);
    case.rows[7][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    everywhere("a NaN scale", |device| {
        let y = store(device, &case, Width::N8, 0..3)?;
        for (i, v) in y.iter().enumerate() {
            if v.is_nan() != (i % 20 == 7) {
                return Err(format!("row {}: {v}", i % 20));
            }
        }
        Ok(bytes_of(&y))
    });
}
