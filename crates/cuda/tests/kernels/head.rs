//! The LM head: the logits of the product to the bit, signals of every row near f64, the same bits in every width and batch.

use crate::device::{Device, Outcome, at, at_length, bytes_of, everywhere};
use crate::matmul::{self, Case, WIDTHS};
use crate::signals::{HEAD_WIDTHS, Scored, compare, compare_greedy, run};
use entropix_cuda::ops::{self, HeadWidth, LogitBuffers, PART_BYTES, Weights};
use entropix_cuda::pack::Format;
use entropix_model::Status;
use entropix_model::sampling::signals_of;
use half::bf16;
use std::ops::Range;

/// Weights and activations whose logits are some nats apart.
pub(crate) fn case(format: Format, n_rows: usize, n_cols: usize, n_tokens: usize) -> Case {
    let mut case = Case::new(format, n_rows, n_cols, n_tokens);
    case.x.iter_mut().for_each(|x| *x = bf16::from_f32(x.to_f32() / 16.0));
    case
}

/// The targets of tokens of a case: every third has none.
fn targets(case: &Case, tokens: Range<usize>) -> Vec<Option<u32>> {
    tokens.map(|i| (i % 3 != 2).then(|| (i * 7919 % case.n_rows) as u32)).collect()
}

fn head<'a>(
    device: &Device<'a>,
    case: &Case,
    width: HeadWidth,
    tokens: Range<usize>,
) -> Result<Scored<'a>, String> {
    head_for(device, case, width, tokens, true)
}

fn head_for<'a>(
    device: &Device<'a>,
    case: &Case,
    width: HeadWidth,
    tokens: Range<usize>,
    measures: bool,
) -> Result<Scored<'a>, String> {
    let weights = device.upload(&case.packed());
    let w = Weights {
        format: case.format,
        at: at(&weights),
        n_rows: case.n_rows as u32,
        n_cols: case.n_cols as u32,
    };
    let x = &case.x[tokens.start * case.n_cols..tokens.end * case.n_cols];
    run(device, w, x, &targets(case, tokens), width, measures)
}

/// Every width against the products, against f64 and against one another, and some tokens alone.
pub(crate) fn check(device: &Device<'_>, case: &Case) -> Outcome {
    let all = head(device, case, HeadWidth::N8, 0..case.n_tokens)?;
    for width in WIDTHS {
        let product = matmul::store(device, case, width, 0..case.n_tokens)?;
        if bytes_of(&product) != bytes_of(&all.logits) {
            return Err(format!("{width:?} of the product gives other bits"));
        }
    }
    let targets = targets(case, 0..case.n_tokens);
    for (token, row) in all.logits.chunks_exact(case.n_rows).enumerate() {
        let want = signals_of(row, targets[token]);
        compare(&all.signals[token], &want).map_err(|e| format!("token {token}: {e}"))?;
    }
    for width in [HeadWidth::N32, HeadWidth::N64] {
        if head(device, case, width, 0..case.n_tokens)?.bits != all.bits {
            return Err(format!("{width:?} gives other bits"));
        }
    }
    let last = case.n_tokens - 1;
    for width in HEAD_WIDTHS {
        let greedy = head_for(device, case, width, 0..case.n_tokens, false)?;
        compare_greedy(&greedy, &all).map_err(|e| format!("{width:?}: {e}"))?;
        let alone = head(device, case, width, last..last + 1)?;
        if bytes_of(&alone.signals) != bytes_of(&all.signals[last..])
            || bytes_of(&alone.logits) != bytes_of(&all.logits[last * case.n_rows..])
        {
            return Err(format!("a token alone gives other bits in {width:?}"));
        }
    }
    Ok(all.bits)
}

/// A NaN among the activations of one ask makes its record say so, and leaves every other bit as it was.
pub(crate) fn check_poison(device: &Device<'_>) -> Outcome {
    let mut case = case(Format::BF16, 200, 72, 11);
    let fine: Vec<Scored<'_>> =
        HEAD_WIDTHS.iter().map(|&w| head(device, &case, w, 0..11)).collect::<Result<_, _>>()?;
    case.x[3 * 72 + 70] = bf16::NAN;
    for (width, fine) in HEAD_WIDTHS.into_iter().zip(fine) {
        let poisoned = head(device, &case, width, 0..11)?;
        for (token, (a, b)) in poisoned.signals.iter().zip(&fine.signals).enumerate() {
            if token == 3 && a.status() != Status::NotFinite {
                return Err(format!("status {:?} of a poisoned row", a.status()));
            }
            let logits = |scored: &Scored<'_>| bytes_of(&scored.logits[token * 200..(token + 1) * 200]);
            if token != 3 && (bytes_of(&[*a]) != bytes_of(&[*b]) || logits(&poisoned) != logits(&fine)) {
                return Err(format!("{width:?}: token {token} has other bits beside a poisoned one"));
            }
        }
    }
    Ok(Vec::new())
}

/// Weights are read once a block of asks, logits and parts written once and never read, and a launch says so.
pub(crate) fn check_traffic(device: &Device<'_>) -> Outcome {
    let (vocab, n_cols, n) = (512u64, 136u64, 41u64);
    let case = case(Format::BF16, vocab as usize, n_cols as usize, n as usize);
    let packed = case.packed();
    let (weights, x, count) = (device.upload(&packed), device.upload(&case.x), device.count(n as usize));
    let w = Weights { format: case.format, at: at(&weights), n_rows: vocab as u32, n_cols: n_cols as u32 };
    let (logits, parts, maxima) = (
        device.empty::<f32>((n * vocab) as usize),
        device.empty::<u8>((n * vocab) as usize / 128 * PART_BYTES),
        device.empty::<f32>((n * vocab) as usize / 128),
    );
    let written = n * (4 * vocab + 36 * vocab / 128);
    // (blocks of asks, blocks of rows) of each width
    for (width, (blocks, of_rows)) in HEAD_WIDTHS.into_iter().zip([(6, 4), (2, 2), (1, 2)]) {
        let buffers = LogitBuffers {
            logits: at(&logits),
            parts: at(&parts),
            maxima: at(&maxima),
            n_asks: at(&count),
            vocab: vocab as u32,
            stride: vocab as u32,
            ..Default::default()
        };
        let launch = ops::head(w, at(&x), buffers, n as u32, width);
        let traffic = device.traffic(&launch)?;
        let stored = packed.len() as u64;
        if launch.bytes != stored + 2 * n * n_cols + written {
            return Err(format!("{width:?}: the launch counts {} bytes", launch.bytes));
        }
        // Each thread looks at the count.
        let read = blocks * stored + of_rows * (2 * n * n_cols + blocks * 256 * 4);
        if device.is_checked() && (traffic.read, traffic.written) != (read, written) {
            return Err(format!("{width:?}: {traffic:?}, not {read} and {written}"));
        }
    }
    Ok(Vec::new())
}

#[test]
fn the_head_of_every_format_is_the_product_and_its_signals() {
    for format in Format::ALL {
        // Columns that are no whole units where the format has such, fewer units than slices, and more.
        let columns: [usize; 3] = match format {
            Format::Q4_K | Format::Q6_K => [256, 512, 768],
            Format::BF16 | Format::F16 => [40, 576, 712],
            _ => [32, 576, 736],
        };
        for (n_cols, n_rows, n_tokens) in [(columns[0], 1, 1), (columns[1], 130, 9), (columns[2], 141, 34)] {
            let case = case(format, n_rows, n_cols, n_tokens);
            everywhere(&format!("{format:?} {n_rows} x {n_cols}, {n_tokens} asks"), |device| {
                check(device, &case)
            });
        }
    }
}

#[test]
fn any_number_of_asks_fits_into_blocks() {
    for n_tokens in [1, 7, 8, 9, 33, 64, 65] {
        let case = case(Format::BF16, 141, 40, n_tokens);
        everywhere(&format!("{n_tokens} asks"), |device| check(device, &case));
    }
    for (format, n_rows, n_cols) in [(Format::BF16, 301, 200), (Format::Q8_0, 1000, 1056)] {
        let case = case(format, n_rows, n_cols, 70);
        at_length("70 asks", |device| check(device, &case));
    }
}

#[test]
fn a_poisoned_ask_is_alone() {
    everywhere("a NaN among activations", check_poison);
}

#[test]
fn weights_are_read_and_logits_written_once() {
    everywhere("traffic", check_traffic);
}
