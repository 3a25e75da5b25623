//! Embedding, norm, rotation with cache store, block copies.

use crate::device::{Device, NULL, Outcome, at, bytes_of, everywhere, near};
use crate::random::Random;
use entropix_cpu::reference::ops::{rms_norm, rope};
use entropix_cuda::ops::{self, Heads, RopeInputs, Weights};
use entropix_cuda::pack::{Format, pack};
use entropix_model::quant::dequantise;
use entropix_model::{Rope, RopeLayout};
use half::bf16;

pub(crate) fn check_embed(device: &Device<'_>, format: Format, hidden: usize) -> Outcome {
    let vocab = 37;
    let mut random = Random(hidden as u64);
    let rows: Vec<Vec<u8>> = (0..vocab).map(|_| random.weights(format, hidden)).collect();
    let tokens = [36u32, 0, 15, 16, 8, 8];
    let weights = device.upload(&pack(format, vocab, hidden, |i| Some(&rows[i])));
    let (ids, count, x) =
        (device.upload(&tokens), device.count(tokens.len()), device.empty::<f32>(tokens.len() * hidden));
    let w = Weights { format, at: at(&weights), n_rows: vocab as u32, n_cols: hidden as u32 };
    device.run(&ops::embed(w, at(&ids), at(&x), at(&count), 9))?;
    let got: Vec<f32> = device.read(&x, 0, tokens.len() * hidden)?;
    for (i, &token) in tokens.iter().enumerate() {
        let mut want = vec![0.0; hidden];
        dequantise(format.dtype(), &rows[token as usize], &mut want);
        for (col, &want) in want.iter().enumerate() {
            // One rounding apart where a minimum is added.
            near(
                format_args!("token {token} column {col}"),
                got[i * hidden + col],
                want.into(),
                f64::from(want.abs()) * 1e-6 + 1e-7,
            )?;
        }
    }
    Ok(bytes_of(&got))
}

pub(crate) fn check_norm(device: &Device<'_>, hidden: usize, gather: bool) -> Outcome {
    let (n, eps) = (5, 1e-5);
    let mut random = Random(hidden as u64);
    let (x, weight) = (random.normals(n * hidden), random.normals(hidden));
    let rows: Vec<u32> = if gather { vec![4, 0, 2] } else { (0..n as u32).collect() };
    let (x_at, w_at, rows_at) = (device.upload(&x), device.upload(&weight), device.upload(&rows));
    let (count, out) = (device.count(rows.len()), device.empty::<u16>(rows.len() * hidden));
    let list = if gather { at(&rows_at) } else { NULL };
    device.run(&ops::rms_norm(at(&x_at), at(&w_at), list, at(&out), at(&count), 7, hidden as u32, eps))?;
    let got: Vec<u16> = device.read(&out, 0, rows.len() * hidden)?;
    for (i, &row) in rows.iter().enumerate() {
        let want = rms_norm(&x[row as usize * hidden..][..hidden], &weight, eps);
        for (col, &want) in want.iter().enumerate() {
            let got = bf16::from_bits(got[i * hidden + col]).to_f32();
            near(
                format_args!("row {row} column {col}"),
                got,
                want.into(),
                f64::from(want.abs()) / 250.0 + 1e-30,
            )?;
        }
    }
    Ok(bytes_of(&got))
}

/// What [`check_rope`] varies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeCase {
    pub(crate) heads: Heads,
    pub(crate) layout: RopeLayout,
    pub(crate) bias: bool,
    pub(crate) norms: bool,
}

pub(crate) fn check_rope(device: &Device<'_>, case: RopeCase) -> Outcome {
    let Heads { n_heads, n_kv_heads, head_dim, block_size } = case.heads;
    let (hd, eps) = (head_dim as usize, 1e-6);
    let mut random = Random(u64::from(head_dim + n_heads));
    let width = (n_heads + 2 * n_kv_heads) as usize * hd;
    let positions = [0u32, 1, 77, 131_071];
    let slots: Vec<u32> = [0, 3 * block_size + 5, 2 * block_size - 1, 3 * block_size].to_vec();
    let n_blocks = 4;
    let qkv = random.normals(positions.len() * width);
    let (bias, q_norm, k_norm) = (random.normals(width), random.normals(hd), random.normals(hd));
    let inv_freq: Vec<f64> = (0..hd / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / hd as f64)).collect();
    let half_turns: Vec<f64> = inv_freq.iter().map(|f| f / std::f64::consts::PI).collect();
    let rope_of = Rope { layout: case.layout, inv_freq };

    let buffers = [device.upload(&qkv), device.upload(&bias), device.upload(&q_norm), device.upload(&k_norm)];
    let (turns, places, where_to) =
        (device.upload(&half_turns), device.upload(&positions), device.upload(&slots));
    let (count, q) =
        (device.count(positions.len()), device.empty::<u16>(positions.len() * n_heads as usize * hd));
    let cache = device.poisoned::<u8>(case.heads.cache_bytes(n_blocks));
    let some = |wanted: bool, i: usize| if wanted { at(&buffers[i]) } else { NULL };
    let from = RopeInputs {
        qkv: at(&buffers[0]),
        bias: some(case.bias, 1),
        q_norm: some(case.norms, 2),
        k_norm: some(case.norms, 3),
        half_turns: at(&turns),
        positions: at(&places),
        slots: at(&where_to),
        adjacent: case.layout == RopeLayout::Adjacent,
        eps,
    };
    device.run(&ops::rope_store(from, at(&q), at(&cache), at(&count), 6, case.heads))?;
    let q: Vec<u16> = device.read(&q, 0, positions.len() * n_heads as usize * hd)?;
    let cache: Vec<u16> = device.read(&cache, 0, case.heads.cache_bytes(n_blocks) / 2)?;

    let mut left = cache.clone();
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..(n_heads + 2 * n_kv_heads) as usize {
            let mut want: Vec<f32> = qkv[token * width + head * hd..][..hd].to_vec();
            if case.bias {
                want.iter_mut().zip(&bias[head * hd..]).for_each(|(w, b)| *w += b);
            }
            let is_q = head < n_heads as usize;
            let is_v = head >= (n_heads + n_kv_heads) as usize;
            if !is_v {
                if case.norms {
                    want = rms_norm(&want, if is_q { &q_norm } else { &k_norm }, eps);
                }
                rope(&mut want, position as usize, &rope_of);
            }
            let got = if is_q {
                &q[(token * n_heads as usize + head) * hd..][..hd]
            } else {
                let (block, offset) = (slots[token] / block_size, slots[token] % block_size);
                let kv_head = (head as u32 - n_heads) % n_kv_heads;
                let first = (((block * n_kv_heads + kv_head) * 2 + u32::from(is_v)) * block_size + offset)
                    as usize
                    * hd;
                left[first..first + hd].fill(0xffff);
                &cache[first..first + hd]
            };
            // bf16, and the f32 angle of a rotation within 1e-6.
            let size = want.iter().fold(0f32, |m, w| m.max(w.abs()));
            for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                let tolerance = f64::from(want.abs()) / 250.0 + f64::from(size) * 3e-6;
                near(
                    format_args!("token {token} head {head} component {i}"),
                    bf16::from_bits(got).to_f32(),
                    want.into(),
                    tolerance,
                )?;
            }
        }
    }
    if left.iter().any(|&bits| bits != 0xffff) {
        return Err("a cache slot of nobody was written".into());
    }
    Ok([bytes_of(&q), bytes_of(&cache)].concat())
}

pub(crate) fn check_copy(device: &Device<'_>) -> Outcome {
    let heads = Heads { n_heads: 6, n_kv_heads: 3, head_dim: 40, block_size: 16 };
    let (n_layers, n_blocks) = (2, 5);
    let layer = heads.cache_bytes(n_blocks) / 2;
    let before: Vec<u16> = (0..n_layers * layer).map(|i| (i % 65_521) as u16).collect();
    // Block 1 goes to 4 whole, block 0 to 2 in part; a third copy is beyond the count.
    let copies = [[1u32, 4, 16], [0, 2, 7], [0, 3, 16]];
    let (cache, list, count) = (device.upload(&before), device.upload(&copies.concat()), device.count(2));
    device.run(&ops::copy_blocks(
        at(&cache),
        at(&list),
        at(&count),
        3,
        n_layers as u32,
        n_blocks as u32,
        heads,
    ))?;
    let after: Vec<u16> = device.read(&cache, 0, before.len())?;
    let mut want = before.clone();
    let piece = 16 * 40;
    for [from, to, tokens] in &copies[..2] {
        for l in 0..n_layers {
            for plane in 0..6 {
                let first = |block: u32| l * layer + (block as usize * 6 + plane) * piece;
                want[first(*to)..][..*tokens as usize * 40]
                    .copy_from_slice(&before[first(*from)..][..*tokens as usize * 40]);
            }
        }
    }
    match after.iter().zip(&want).position(|(a, w)| a != w) {
        None => Ok(bytes_of(&after)),
        Some(i) => Err(format!("value {i}: {}, not {}", after[i], want[i])),
    }
}

#[test]
fn embeddings_of_every_format_are_the_dequantised_rows() {
    for format in Format::ALL {
        let hidden = match format {
            Format::Q4_K | Format::Q6_K => 512,
            Format::BF16 | Format::F16 => 72,
            _ => 96,
        };
        everywhere(&format!("embed {format:?}"), |device| check_embed(device, format, hidden));
    }
}

#[test]
fn norms_agree_with_the_reference() {
    for (hidden, gather) in [(4, false), (576, true), (1028, false), (2048, true)] {
        everywhere(&format!("norm of {hidden}"), |device| check_norm(device, hidden, gather));
    }
}

#[test]
fn rotated_heads_agree_with_the_reference() {
    let heads =
        |n_heads, n_kv_heads, head_dim, block_size| Heads { n_heads, n_kv_heads, head_dim, block_size };
    for case in [
        RopeCase { heads: heads(9, 3, 64, 16), layout: RopeLayout::Halves, bias: false, norms: false },
        RopeCase { heads: heads(4, 4, 80, 32), layout: RopeLayout::Adjacent, bias: true, norms: false },
        RopeCase { heads: heads(7, 1, 96, 64), layout: RopeLayout::Halves, bias: false, norms: true },
        RopeCase { heads: heads(8, 1, 128, 16), layout: RopeLayout::Adjacent, bias: true, norms: true },
        RopeCase { heads: heads(2, 1, 16, 16), layout: RopeLayout::Halves, bias: true, norms: true },
    ] {
        everywhere(&format!("{case:?}"), |device| check_rope(device, case));
    }
}

#[test]
fn only_written_positions_of_named_blocks_are_copied() {
    everywhere("copy_blocks", check_copy);
}
