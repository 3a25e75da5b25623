//! Embedding, norm, rotation with cache store, block copies.

use crate::device::{Device, NULL, Outcome, at, bytes_of, everywhere, near};
use crate::kv::{Slot, of_half, quantised};
use crate::random::Random;
use entropix_cpu::reference::ops::{rms_norm, rope};
use entropix_cuda::ops::{self, Heads, KvType, RopeInputs, Weights};
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
    let Heads { n_heads, n_kv_heads, head_dim, block_size, kv } = case.heads;
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
    let cache: Vec<u8> = device.read(&cache, 0, case.heads.cache_bytes(n_blocks))?;

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
            let size = want.iter().fold(0f32, |m, w| m.max(w.abs()));
            // The rounding of the type, and the f32 angle of a rotation within 1e-6.
            let mut tolerance: Box<dyn Fn(f32) -> f64> = match kv {
                KvType::F16 => Box::new(|want| f64::from(want.abs()) / 2000.0 + f64::from(size) * 3e-6),
                KvType::Bf16 | KvType::Int8 => {
                    Box::new(|want| f64::from(want.abs()) / 250.0 + f64::from(size) * 3e-6)
                }
            };
            let got: Vec<f32> = if is_q {
                let bits = &q[(token * n_heads as usize + head) * hd..][..hd];
                bits.iter().map(|&bits| of_half(kv, bits)).collect()
            } else {
                let (block, offset) =
                    ((slots[token] / block_size) as usize, (slots[token] % block_size) as usize);
                let kv_head = (head - n_heads as usize) % n_kv_heads as usize;
                let slot = Slot { block, offset, kv_head, is_value: is_v };
                let (first, scale_at) = slot.bytes(&case.heads);
                left[first..first + kv.vector_bytes(head_dim) as usize].fill(0xff);
                if let Some(scale_at) = scale_at {
                    left[scale_at..scale_at + 4].fill(0xff);
                    let scale = f32::from_le_bytes(cache[scale_at..scale_at + 4].try_into().expect("four"));
                    near(
                        format_args!("the scale of token {token} head {head}"),
                        scale,
                        f64::from(size) / 127.0,
                        f64::from(size) * 1e-7,
                    )?;
                    tolerance = Box::new(move |_| f64::from(scale) * 0.5001 + f64::from(size) * 3e-6);
                }
                slot.read(&case.heads, &cache)
            };
            for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                near(
                    format_args!("token {token} head {head} component {i}"),
                    got,
                    want.into(),
                    tolerance(want),
                )?;
            }
        }
    }
    if left.iter().any(|&byte| byte != 0xff) {
        return Err("a cache slot of nobody was written".into());
    }
    Ok([bytes_of(&q), bytes_of(&cache)].concat())
}

/// Vectors in 8 bits whose roundings are known: ties, zeros, numbers below the normal ones, and what is not finite.
pub(crate) fn check_rounding(device: &Device<'_>) -> Outcome {
    let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 16, block_size: 16, kv: KvType::Int8 };
    let hd = heads.head_dim as usize;
    let least = f32::from_bits(1);
    let firsts: [&[f32]; 7] = [
        &[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5],
        &[-254.0, 1.0, 3.0, -1.0, 253.0, -0.0],
        &[],
        &[150.0 * least, -149.0 * least, least],
        &[1.0, f32::NAN, -2.0],
        &[3.0, f32::NEG_INFINITY],
        &[f32::MAX, -f32::MAX, 1.0],
    ];
    let vectors: Vec<Vec<f32>> = firsts
        .iter()
        .map(|first| first.iter().copied().chain(std::iter::repeat(0.0)).take(hd).collect())
        .collect();
    // Position 0 does not rotate; the vector is key and value.
    let qkv: Vec<f32> = vectors.iter().flat_map(|v| [vec![1.0; hd], v.clone(), v.clone()].concat()).collect();
    let n = vectors.len();
    let slots: Vec<u32> = (0..n as u32).collect();
    let (qkv, turns) = (device.upload(&qkv), device.upload(&vec![0.25f64; hd / 2]));
    let (positions, slots, count) = (device.upload(&vec![0u32; n]), device.upload(&slots), device.count(n));
    let (q, cache) = (device.empty::<u16>(n * hd), device.poisoned::<u8>(heads.cache_bytes(1)));
    let from = RopeInputs {
        qkv: at(&qkv),
        half_turns: at(&turns),
        positions: at(&positions),
        slots: at(&slots),
        ..RopeInputs::default()
    };
    device.run(&ops::rope_store(from, at(&q), at(&cache), at(&count), n as u32, heads))?;
    let cache: Vec<u8> = device.read(&cache, 0, heads.cache_bytes(1))?;
    for (offset, vector) in vectors.iter().enumerate() {
        let (want, want_scale) = quantised(vector);
        // A rotation by nothing loses numbers that are not finite to their pair, as NaN.
        for is_value in [false, true] {
            let (first, scale_at) = Slot { block: 0, offset, kv_head: 0, is_value }.bytes(&heads);
            let got: &[i8] = bytemuck::cast_slice(&cache[first..first + hd]);
            let scale_at = scale_at.expect("8 bits have scales");
            let scale = f32::from_le_bytes(cache[scale_at..scale_at + 4].try_into().expect("four bytes"));
            let same_scale = scale == want_scale || scale.is_nan() && want_scale.is_nan();
            if got != want || !same_scale {
                return Err(format!("{vector:?}: {got:?} times {scale}, not {want:?} times {want_scale}"));
            }
        }
    }
    Ok(cache)
}

pub(crate) fn check_copy(device: &Device<'_>, kv: KvType) -> Outcome {
    let heads = Heads { n_heads: 6, n_kv_heads: 3, head_dim: 48, block_size: 16, kv };
    let (n_layers, n_blocks) = (2, 5);
    let layer = heads.cache_bytes(n_blocks);
    let before: Vec<u8> = (0..n_layers * layer).map(|i| (i % 251) as u8).collect();
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
    let after: Vec<u8> = device.read(&cache, 0, before.len())?;
    let mut want = before.clone();
    for [from, to, tokens] in &copies[..2] {
        for l in 0..n_layers {
            for (kv_head, is_value) in (0..3).flat_map(|head| [(head, false), (head, true)]) {
                for offset in 0..*tokens as usize {
                    let slot = |block: u32| Slot { block: block as usize, offset, kv_head, is_value };
                    let (read, read_scale) = slot(*from).bytes(&heads);
                    let (write, write_scale) = slot(*to).bytes(&heads);
                    let mut copy = |from: usize, to: usize, bytes: u32| {
                        let bytes = bytes as usize;
                        want[l * layer + to..][..bytes].copy_from_slice(&before[l * layer + from..][..bytes]);
                    };
                    copy(read, write, kv.vector_bytes(48));
                    if let (Some(read), Some(write)) = (read_scale, write_scale) {
                        copy(read, write, 4);
                    }
                }
            }
        }
    }
    match after.iter().zip(&want).position(|(a, w)| a != w) {
        None => Ok(after),
        Some(i) => Err(format!("byte {i}: {}, not {}", after[i], want[i])),
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
    use KvType::{Bf16, F16, Int8};
    let heads = |n_heads, n_kv_heads, head_dim, block_size, kv| Heads {
        n_heads,
        n_kv_heads,
        head_dim,
        block_size,
        kv,
    };
    let (halves, adjacent) = (RopeLayout::Halves, RopeLayout::Adjacent);
    for (heads, layout, bias, norms) in [
        (heads(9, 3, 64, 16, Bf16), halves, false, false),
        (heads(4, 4, 80, 32, Bf16), adjacent, true, false),
        (heads(7, 1, 96, 64, Bf16), halves, false, true),
        (heads(8, 1, 128, 16, Bf16), adjacent, true, true),
        (heads(2, 1, 16, 16, Bf16), halves, true, true),
        (heads(4, 1, 64, 32, F16), adjacent, false, true),
        (heads(3, 3, 96, 16, F16), halves, true, false),
        (heads(9, 3, 64, 16, Int8), halves, true, false),
        (heads(7, 1, 80, 32, Int8), adjacent, false, true),
        (heads(8, 2, 128, 64, Int8), halves, false, false),
        (heads(2, 1, 16, 16, Int8), adjacent, true, true),
    ] {
        let case = RopeCase { heads, layout, bias, norms };
        everywhere(&format!("{case:?}"), |device| check_rope(device, case));
    }
}

#[test]
fn components_in_8_bits_are_rounded_as_defined() {
    everywhere("rope_store_int8", check_rounding);
}

#[test]
fn only_written_positions_of_named_blocks_are_copied() {
    for kv in KvType::ALL {
        everywhere(&format!("copy_blocks of {kv:?}"), |device| check_copy(device, kv));
    }
}
