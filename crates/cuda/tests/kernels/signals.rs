//! Signals of torture rows against f64, ragged vocabularies, poisoned rows.

use crate::device::{Device, Outcome, at, at_length, bytes_of, everywhere, near};
use crate::random::Random;
use entropix_cuda::ops::{self, LogitBuffers};
use entropix_emulator::Buffer;
use entropix_model::sampling::signals_of;
use entropix_model::{Signals, Status};
use serde_json::Value;

/// Rows of logits on the device with their signals.
pub(crate) struct Scored<'a> {
    pub(crate) buffers: LogitBuffers,
    pub(crate) signals: Vec<Signals>,
    _memory: Vec<Buffer<'a>>,
}

/// Uploads rows of one vocabulary, with padding nobody may read, and runs both kernels.
pub(crate) fn score<'a>(
    device: &Device<'a>,
    rows: &[Vec<f32>],
    targets: &[Option<u32>],
) -> Result<Scored<'a>, String> {
    let vocab = rows[0].len();
    let stride = vocab.next_multiple_of(4) + 4;
    let logits = device.empty::<f32>(rows.len() * stride);
    for (i, row) in rows.iter().enumerate() {
        logits.write(i * stride * 4, bytemuck::cast_slice(row));
    }
    let targets: Vec<u32> = targets.iter().map(|t| t.unwrap_or(u32::MAX)).collect();
    let mut buffers = LogitBuffers {
        logits: at(&logits),
        vocab: vocab as u32,
        stride: stride as u32,
        ..Default::default()
    };
    let parts = device.empty::<f32>(rows.len() * buffers.n_tiles() as usize * 16);
    let maxima = device.empty::<f32>(rows.len() * buffers.n_chunks() as usize);
    let (signals, count, wanted) =
        (device.empty::<Signals>(rows.len()), device.count(rows.len()), device.upload(&targets));
    (buffers.parts, buffers.maxima, buffers.signals, buffers.n_asks) =
        (at(&parts), at(&maxima), at(&signals), at(&count));
    for launch in ops::signals(buffers, at(&wanted), rows.len() as u32 + 2) {
        device.run(&launch)?;
    }
    let read = device.read::<Signals>(&signals, 0, rows.len())?;
    Ok(Scored { buffers, signals: read, _memory: vec![logits, parts, maxima, signals, count, wanted] })
}

/// The rows of tests/data/samplers.json, by name.
pub(crate) fn torture_rows() -> Vec<(String, Vec<f32>)> {
    table()["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["name"].as_str().expect("name").to_owned(), logits_of(row)))
        .collect()
}

pub(crate) fn table() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/samplers.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect("a JSON table")
}

/// A row by its logits or by its formula, in f32 throughout (tests/data/samplers.md).
pub(crate) fn logits_of(row: &Value) -> Vec<f32> {
    if let Some(logits) = row["logits"].as_array() {
        return logits.iter().map(|z| z.as_f64().map_or(f32::NEG_INFINITY, |z| z as f32)).collect();
    }
    let formula = &row["formula"];
    let number = |key: &str| formula[key].as_f64();
    let (n, seed) = (formula["n"].as_u64().expect("n"), formula["seed"].as_u64().unwrap_or(0));
    let (scale, offset) = (number("scale").expect("scale") as f32, number("offset").unwrap_or(0.0) as f32);
    let mut z: Vec<f32> = (0..n)
        .map(|i| {
            let u = (i * 2_654_435_761 + seed) % (1 << 32);
            (u >> 8) as f32 * scale + offset
        })
        .collect();
    if let Some(every) = formula["banned_every"].as_u64() {
        z.iter_mut().step_by(every as usize).for_each(|z| *z = f32::NEG_INFINITY);
    }
    for peak in formula["peaks"].as_array().into_iter().flatten() {
        z[peak[0].as_u64().expect("place") as usize] = peak[1].as_f64().expect("value") as f32;
    }
    z
}

/// A record against the f64 definition: H within 1e-4, V within 1e-3, the others likewise.
pub(crate) fn compare(got: &Signals, want: &Signals) -> Result<(), String> {
    if got.status() != want.status() {
        return Err(format!("status {:?}, not {:?}", got.status(), want.status()));
    }
    if want.status() == Status::NotFinite {
        return if bytes_of(&[*got]) == bytes_of(&[*want]) {
            Ok(())
        } else {
            Err(format!("{got:?} of a poisoned row"))
        };
    }
    let relative = |w: f32, tolerance: f64| f64::from(w.abs()) * tolerance + tolerance;
    near("entropy", got.entropy, want.entropy.into(), 1e-4)?;
    near("varentropy", got.varentropy, want.varentropy.into(), 1e-3)?;
    near("collision", got.collision, want.collision.into(), f64::from(want.collision) * 1e-4)?;
    near("log_z", got.log_z, want.log_z.into(), relative(want.log_z, 1e-6) + 1e-5)?;
    near("logit_std", got.logit_std, want.logit_std.into(), relative(want.logit_std, 2e-6) + 1e-6)?;
    for (got, want) in got.best.iter().zip(&want.best) {
        if got.token != want.token {
            return Err(format!("best {}, not {}", got.token, want.token));
        }
        if want.logprob.is_finite() {
            near("its ln p", got.logprob, want.logprob.into(), relative(want.logprob, 2e-6) + 2e-5)?;
        } else if got.logprob != want.logprob {
            return Err(format!("ln p {}, not {}", got.logprob, want.logprob));
        }
    }
    if want.target_logprob.is_nan() != got.target_logprob.is_nan() {
        return Err(format!("target {}, not {}", got.target_logprob, want.target_logprob));
    }
    if want.target_logprob.is_finite() {
        // ln Z in f32 has lost digits where logits are large; the kernel counts from the maximum.
        near(
            "target",
            got.target_logprob,
            want.target_logprob.into(),
            relative(want.target_logprob, 2e-6) + 2e-5,
        )?;
    }
    Ok(())
}

/// Rows of one length, each against f64, together and alone with the same bits.
pub(crate) fn check(device: &Device<'_>, rows: &[Vec<f32>]) -> Outcome {
    let targets: Vec<Option<u32>> =
        (0..rows.len()).map(|i| (i % 3 != 2).then(|| (i * 7919 % rows[0].len()) as u32)).collect();
    let all = score(device, rows, &targets)?.signals;
    for (i, (row, got)) in rows.iter().zip(&all).enumerate() {
        compare(got, &signals_of(row, targets[i])).map_err(|e| format!("row {i}: {e}"))?;
    }
    let last = rows.len() - 1;
    let alone = score(device, &rows[last..], &targets[last..])?.signals;
    if bytes_of(&alone) != bytes_of(&all[last..]) {
        return Err("a row alone has other bits than in a batch".into());
    }
    Ok(bytes_of(&all))
}

/// Rows of a vocabulary that strain the reduction.
pub(crate) fn hard_rows(vocab: usize) -> Vec<Vec<f32>> {
    let mut random = Random(vocab as u64);
    let mut rows = vec![random.normals(vocab).iter().map(|z| z * 4.0 + 30.0).collect::<Vec<f32>>()];
    rows.push(vec![-10.0; vocab]);
    rows[1][vocab / 2] = 3.0;
    rows.push(random.normals(vocab).iter().map(|z| z + 1e4).collect());
    rows.push(random.normals(vocab));
    rows[3].iter_mut().step_by(3).for_each(|z| *z = f32::NEG_INFINITY);
    rows.push(vec![0.5; vocab]);
    rows.push(random.normals(vocab));
    rows[5][vocab - 1] = f32::NAN;
    rows.push(random.normals(vocab));
    rows[6][vocab / 3] = f32::INFINITY;
    rows.push(vec![f32::NEG_INFINITY; vocab]);
    rows.push(random.normals(vocab).iter().map(|z| z * 0.01).collect());
    rows[8][0] = 60.0;
    rows[8][vocab - 1] = 60.0;
    rows.push(random.normals(vocab));
    rows
}

#[test]
fn signals_of_hard_rows_are_near_f64() {
    for vocab in [1, 3, 127, 130, 4096, 4097, 12_289] {
        let rows = hard_rows(vocab);
        everywhere(&format!("vocabulary of {vocab}"), |device| check(device, &rows));
    }
}

#[test]
fn signals_of_torture_rows_are_near_f64() {
    for (name, row) in torture_rows() {
        let rows = [row];
        if rows[0].len() > 1000 {
            at_length(&name, |device| check(device, &rows));
        } else {
            everywhere(&name, |device| check(device, &rows));
        }
    }
}
