//! What products by another library need: matrices unpacked to bf16, and SwiGLU by itself.

use crate::device::{Device, Outcome, at, bytes_of, everywhere, near};
use crate::random::Random;
use entropix_cpu::reference::ops::swiglu;
use entropix_cuda::ops::{self, Weights};
use entropix_cuda::pack::{Format, gated_row, pack};
use entropix_model::quant::dequantise;
use half::bf16;

pub(crate) fn check_unpack(device: &Device<'_>, format: Format, n_rows: usize, n_cols: usize) -> Outcome {
    let mut random = Random((n_rows * 31 + n_cols) as u64);
    let rows: Vec<Vec<u8>> = (0..n_rows).map(|_| random.weights(format, n_cols)).collect();
    let weights = device.upload(&pack(format, n_rows, n_cols, |i| Some(&rows[i])));
    let out = device.empty::<u16>(n_rows * n_cols);
    let w = Weights { format, at: at(&weights), n_rows: n_rows as u32, n_cols: n_cols as u32 };
    device.run(&ops::unpack(w, at(&out)))?;
    let got: Vec<u16> = device.read(&out, 0, n_rows * n_cols)?;
    for (row, stored) in rows.iter().enumerate() {
        let mut want = vec![0.0; n_cols];
        dequantise(format.dtype(), stored, &mut want);
        for (col, &want) in want.iter().enumerate() {
            let got = bf16::from_bits(got[row * n_cols + col]).to_f32();
            // Half a unit of the last of bf16's 8 digits, and before it a rounding of f32 where a minimum is added.
            let size = f64::from(want.abs());
            let half_unit = if size == 0.0 { 0.0 } else { size.log2().floor().exp2() / 256.0 };
            let tolerance = if format == Format::BF16 { 0.0 } else { half_unit + size * 1e-6 + 1e-7 };
            near(format_args!("row {row} column {col}"), got, want.into(), tolerance)?;
        }
    }
    Ok(bytes_of(&got))
}

pub(crate) fn check_swiglu(device: &Device<'_>, n: usize) -> Outcome {
    let n_tokens = 5;
    let y = Random(n as u64).normals(n_tokens * 2 * n);
    let (y_at, count, h) = (device.upload(&y), device.count(n_tokens), device.empty::<u16>(n_tokens * n));
    device.run(&ops::swiglu(at(&y_at), at(&h), at(&count), n_tokens as u32 + 2, n as u32))?;
    let got: Vec<u16> = device.read(&h, 0, n_tokens * n)?;
    for (token, y) in y.chunks_exact(2 * n).enumerate() {
        let (mut gate, mut up) = (vec![0.0; n], vec![0.0; n]);
        for (i, &value) in y.iter().enumerate() {
            let (is_up, row) = gated_row(i);
            if is_up { up[row] = value } else { gate[row] = value }
        }
        for (j, want) in swiglu(&gate, &up).into_iter().enumerate() {
            let got = bf16::from_bits(got[token * n + j]).to_f32();
            near(
                format_args!("gate {j} token {token}"),
                got,
                want.into(),
                f64::from(want.abs()) / 250.0 + 1e-7,
            )?;
        }
    }
    Ok(bytes_of(&got))
}

#[test]
fn matrices_of_every_format_are_unpacked() {
    for format in Format::ALL {
        // Columns that are no whole units where the format has such, and more units than a block has warps.
        let columns = match format {
            Format::Q4_K | Format::Q6_K => [256, 768],
            Format::BF16 | Format::F16 => [40, 712],
            _ => [32, 736],
        };
        for (n_rows, n_cols) in [(1, columns[0]), (37, columns[1])] {
            everywhere(&format!("{format:?} {n_rows} x {n_cols}"), |device| {
                check_unpack(device, format, n_rows, n_cols)
            });
        }
    }
}

#[test]
fn gates_and_ups_side_by_side_become_swiglu() {
    for n in [8, 1032] {
        everywhere("swiglu", |device| check_swiglu(device, n));
    }
}
