//! Signals of torture rows, fed through the LM head, against f64; ragged vocabularies, poisoned rows.

use crate::device::{Buffer, Device, Outcome, at, at_length, bytes_of, everywhere, near};
use crate::random::Random;
use entropix_cuda::launch::Pointer;
use entropix_cuda::ops::{self, HeadWidth, LogitBuffers, PART_BYTES, Weights};
use entropix_cuda::pack::{Format, pack};
use entropix_model::sampling::signals_of;
use entropix_model::{Candidate, Signals, Status};
use half::bf16;
use serde_json::Value;

pub(crate) const HEAD_WIDTHS: [HeadWidth; 3] = [HeadWidth::N8, HeadWidth::N32, HeadWidth::N64];

/// Columns that a row of logits takes.
const COLUMNS: usize = 16;
/// Its square is beyond f32.
const HUGE: f32 = f32::from_bits((127 + 100) << 23);

/// A head and activations whose products are given rows of logits to the bit. An f32 is the sum of three bf16 numbers, so row
/// i has the weights of columns 16 i to 16 i + 2 and an x of ones there, of zeros elsewhere. Infinities overflow in the next
/// column, a NaN is one less another: no weight and no x is infinite, so that other rows meet zeros times numbers.
fn fed(rows: &[Vec<f32>]) -> (Vec<u8>, Vec<bf16>) {
    let (vocab, n_cols) = (rows[0].len(), rows.len() * COLUMNS);
    let mut x = vec![bf16::ZERO; rows.len() * n_cols];
    for i in 0..rows.len() {
        let own = &mut x[i * n_cols + i * COLUMNS..][..5];
        own.copy_from_slice(&[1.0, 1.0, 1.0, HUGE, HUGE].map(bf16::from_f32));
    }
    let stored: Vec<Vec<u8>> = (0..vocab)
        .map(|token| rows.iter().flat_map(|row| summands(row[token])).flat_map(bf16::to_le_bytes).collect())
        .collect();
    (pack(Format::BF16, vocab, n_cols, |token| Some(&stored[token])), x)
}

fn summands(z: f32) -> [bf16; COLUMNS] {
    let mut parts = [bf16::ZERO; COLUMNS];
    if z.is_finite() {
        let mut rest = z;
        for part in &mut parts[..3] {
            *part = bf16::from_bits((rest.to_bits() >> 16) as u16);
            rest -= part.to_f32();
        }
        let exact = rest == 0.0 && (z == 0.0 || z.abs() > 1e-30);
        assert!(exact, "{z:e} is no sum of three bf16 numbers of ordinary size");
    }
    let huge = bf16::from_f32(HUGE);
    if z == f32::INFINITY || z.is_nan() {
        parts[3] = huge;
    }
    if z == f32::NEG_INFINITY || z.is_nan() {
        parts[4] = -huge;
    }
    parts
}

/// Rows of logits on the device with their signals.
pub(crate) struct Scored<'a> {
    pub(crate) buffers: LogitBuffers,
    pub(crate) signals: Vec<Signals>,
    /// Logits without what is beside them, signals, parts and maxima.
    pub(crate) bits: Vec<u8>,
    /// (rows, vocab)
    pub(crate) logits: Vec<f32>,
    /// (rows, chunks)
    pub(crate) maxima: Vec<f32>,
    _memory: Vec<Buffer<'a>>,
}

/// Runs a head over (n_asks, n_cols) activations in a room with padding nobody may touch, and the merge; if nothing is measured,
/// for the best tokens alone.
pub(crate) fn run<'a>(
    device: &Device<'a>,
    w: Weights,
    x: &[bf16],
    targets: &[Option<u32>],
    width: HeadWidth,
    measures: bool,
) -> Result<Scored<'a>, String> {
    let (n, vocab) = (targets.len(), w.n_rows as usize);
    let stride = vocab.next_multiple_of(4) + 4;
    let targets: Vec<u32> = targets.iter().map(|t| t.unwrap_or(u32::MAX)).collect();
    let mut buffers = LogitBuffers { vocab: w.n_rows, stride: stride as u32, ..Default::default() };
    let n_chunks = buffers.n_chunks() as usize;
    let (x, logits) = (device.upload(x), device.empty::<f32>(n * stride));
    let part_bytes = if measures { n * n_chunks * PART_BYTES } else { 0 };
    let (parts, maxima) = (device.empty::<u8>(part_bytes.max(4)), device.empty::<f32>(n * n_chunks));
    let (signals, count, wanted) = (device.empty::<Signals>(n), device.count(n), device.upload(&targets));
    buffers.logits = at(&logits);
    (buffers.parts, buffers.maxima, buffers.signals, buffers.n_asks) =
        (if measures { at(&parts) } else { Pointer(0) }, at(&maxima), at(&signals), at(&count));
    // The launches may meet more asks than there are.
    device.run(&ops::head(w, at(&x), buffers, n as u32 + 30, width))?;
    device.run(&ops::signals(buffers, at(&wanted), n as u32 + 2))?;
    let records = device.read::<Signals>(&signals, 0, n)?;
    let mut rows = Vec::with_capacity(n * vocab);
    for i in 0..n {
        rows.extend(device.read::<f32>(&logits, i * stride, vocab)?);
        let is_written = |column: usize| device.read::<f32>(&logits, i * stride + column, 1).is_ok();
        if device.is_checked() && (vocab..stride).any(is_written) {
            return Err(format!("what is beside row {i} was written"));
        }
    }
    let chunk_maxima = device.read::<f32>(&maxima, 0, n * n_chunks)?;
    let bits = [
        bytes_of(&rows),
        bytes_of(&records),
        device.read::<u8>(&parts, 0, part_bytes)?,
        bytes_of(&chunk_maxima),
    ];
    Ok(Scored {
        buffers,
        signals: records,
        bits: bits.concat(),
        logits: rows,
        maxima: chunk_maxima,
        _memory: vec![x, logits, parts, maxima, signals, count, wanted],
    })
}

/// Puts rows of one vocabulary on the device through the head.
pub(crate) fn score_in<'a>(
    device: &Device<'a>,
    rows: &[Vec<f32>],
    targets: &[Option<u32>],
    width: HeadWidth,
) -> Result<Scored<'a>, String> {
    score_for(device, rows, targets, width, true)
}

fn score_for<'a>(
    device: &Device<'a>,
    rows: &[Vec<f32>],
    targets: &[Option<u32>],
    width: HeadWidth,
    measures: bool,
) -> Result<Scored<'a>, String> {
    let (packed, x) = fed(rows);
    let weights = device.upload(&packed);
    let w = Weights {
        format: Format::BF16,
        at: at(&weights),
        n_rows: rows[0].len() as u32,
        n_cols: (rows.len() * COLUMNS) as u32,
    };
    let scored = run(device, w, &x, targets, width, measures)?;
    for (i, (got, want)) in scored.logits.iter().zip(rows.iter().flatten()).enumerate() {
        if !(got == want || got.is_nan() && want.is_nan()) {
            return Err(format!("logit {i}: {got}, not {want}"));
        }
    }
    Ok(scored)
}

/// As [`score_in`], as a few rows are scored.
pub(crate) fn score<'a>(
    device: &Device<'a>,
    rows: &[Vec<f32>],
    targets: &[Option<u32>],
) -> Result<Scored<'a>, String> {
    score_in(device, rows, targets, HeadWidth::N8)
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
    // Packed tests are told at run time where they lie.
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    let path = format!("{here}/../../tests/data/samplers.json");
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect("a JSON table")
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

/// Rows of one length, each against f64, together in every width and alone with the same bits.
pub(crate) fn check(device: &Device<'_>, rows: &[Vec<f32>]) -> Outcome {
    let targets: Vec<Option<u32>> =
        (0..rows.len()).map(|i| (i % 3 != 2).then(|| (i * 7919 % rows[0].len()) as u32)).collect();
    let all = score(device, rows, &targets)?;
    for (i, (row, got)) in rows.iter().zip(&all.signals).enumerate() {
        compare(got, &signals_of(row, targets[i])).map_err(|e| format!("row {i}: {e}"))?;
    }
    for width in [HeadWidth::N32, HeadWidth::N64] {
        if score_in(device, rows, &targets, width)?.bits != all.bits {
            return Err(format!("{width:?} gives other bits"));
        }
    }
    let last = rows.len() - 1;
    let alone = score(device, &rows[last..], &targets[last..])?.signals;
    if bytes_of(&alone) != bytes_of(&all.signals[last..]) {
        return Err("a row alone has other bits than in a batch".into());
    }
    Ok(all.bits)
}

/// What is found without measuring: the same logits and maxima, the best tokens of rows without a NaN, and nothing else.
pub(crate) fn compare_greedy(got: &Scored<'_>, full: &Scored<'_>) -> Result<(), String> {
    if bytes_of(&got.logits) != bytes_of(&full.logits) || bytes_of(&got.maxima) != bytes_of(&full.maxima) {
        return Err("other logits or maxima without measures".into());
    }
    let vocab = full.logits.len() / full.signals.len();
    for (i, (row, got)) in full.logits.chunks_exact(vocab).zip(&got.signals).enumerate() {
        if row.iter().any(|z| z.is_nan()) {
            continue;
        }
        let token = (0..vocab).fold(0, |best, token| if row[token] > row[best] { token } else { best });
        let want = if row[token].is_finite() {
            let mut want = Signals::default();
            want.best[0] = Candidate { token: token as u32, logprob: 0.0 };
            want
        } else {
            Signals::not_finite()
        };
        if bytes_of(&[*got]) != bytes_of(&[want]) {
            return Err(format!("row {i} without measures: {got:?}, not {want:?}"));
        }
    }
    Ok(())
}

/// Hard rows without measures, in every width.
pub(crate) fn check_greedy(device: &Device<'_>, rows: &[Vec<f32>]) -> Outcome {
    let targets = vec![Some(0); rows.len()];
    let full = score(device, rows, &targets)?;
    for width in HEAD_WIDTHS {
        let greedy = score_for(device, rows, &targets, width, false)?;
        compare_greedy(&greedy, &full).map_err(|e| format!("{width:?}: {e}"))?;
    }
    Ok(Vec::new())
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
    // The merge has 256 threads: more chunks than that once.
    for vocab in [1, 3, 127, 128, 130, 4097, 33_001] {
        let rows = hard_rows(vocab);
        if vocab > 5000 {
            at_length(&format!("vocabulary of {vocab}"), |device| check(device, &rows));
        } else {
            everywhere(&format!("vocabulary of {vocab}"), |device| check(device, &rows));
        }
    }
}

#[test]
fn greedy_tokens_need_no_measures() {
    for vocab in [1, 128, 130, 4097] {
        let rows = hard_rows(vocab);
        everywhere(&format!("vocabulary of {vocab}"), |device| check_greedy(device, &rows));
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
