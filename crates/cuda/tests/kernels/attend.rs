//! Attention against the reference: ragged contexts, every head size and type of cache, decode and prefill with the same bits.

use crate::device::{self, Device, Outcome, at, bytes_of, everywhere, near};
use crate::kv::{Slot, halves, of_half};
use crate::random::Random;
use entropix_cpu::reference::{HeadAttention, attend, attention_signals};
use entropix_cuda::launch::Pointer;
use entropix_cuda::ops::{self, AttendBuffers, AttentionSignalBuffers, Heads, KvType, SPLIT, Tile};
use entropix_emulator::Order;
use half::bf16;

/// One sequence: new tokens after `start` cached ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence {
    pub(crate) start: usize,
    pub(crate) n_tokens: usize,
}

/// What every other component of the values is, with a sign that alternates from chunk to chunk.
pub(crate) const LARGE: f32 = 64.0;

/// A batch of sequences with filled caches.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) heads: Heads,
    pub(crate) sequences: Vec<Sequence>,
    /// (n_tokens, n_heads, head_dim) in the 16 bits of queries.
    q: Vec<u16>,
    /// One layer; what no sequence owns is NaN.
    cache: Vec<u8>,
    /// What was rounded into the cache: vectors of a sequence in the order of positions, KV heads, k and v.
    unrounded: Vec<Vec<f32>>,
    tables: Vec<u32>,
    table_of: Vec<u32>,
}

impl Case {
    /// Every other component of the values is about as large as `large`, which is 0 or [`LARGE`].
    pub(crate) fn new(heads: Heads, sequences: &[Sequence], large: f32) -> Self {
        let mut random = Random(u64::from(heads.head_dim * 100 + heads.n_heads));
        let block_size = heads.block_size as usize;
        let (mut tables, mut table_of) = (Vec::new(), Vec::new());
        let blocks_of = |s: &Sequence| (s.start + s.n_tokens).div_ceil(block_size);
        let n_blocks: usize = sequences.iter().map(blocks_of).sum();
        // Block 7 k mod n: no sequence's blocks lie side by side.
        let stride =
            (1..).map(|i| 7 * i + 1).find(|s| gcd(*s, n_blocks) == 1).expect("some stride is coprime");
        for s in sequences {
            table_of.push(tables.len() as u32);
            for _ in 0..blocks_of(s) {
                tables.push((tables.len() * stride % n_blocks) as u32);
            }
        }
        let mut cache = vec![0xff; heads.cache_bytes(n_blocks)];
        let mut unrounded = Vec::new();
        for (s, &table) in sequences.iter().zip(&table_of) {
            let mut vectors = Vec::new();
            for position in 0..s.start + s.n_tokens {
                // Scales of neighbours are far apart, so that none can stand for another.
                let size = if heads.kv == KvType::Int8 { [1.0, 0.5, 2.0, 0.25][position % 4] } else { 1.0 };
                for kv_head in 0..heads.n_kv_heads as usize {
                    for is_value in [false, true] {
                        let mut vector = random.normals(heads.head_dim as usize);
                        vector.iter_mut().for_each(|x| *x *= size);
                        if is_value && large > 0.0 {
                            // Large chunks that nearly cancel carry the last bits of f32 sums into a bf16 result.
                            let sign = [1.0, -1.0][position / 64 % 2];
                            vector.iter_mut().step_by(2).for_each(|v| *v = large * size * sign + 0.5 * *v);
                        }
                        slot(&heads, &tables[table as usize..], position, kv_head, is_value)
                            .write(&heads, &mut cache, &vector);
                        vectors.extend(vector);
                    }
                }
            }
            unrounded.push(vectors);
        }
        let n_tokens: usize = sequences.iter().map(|s| s.n_tokens).sum();
        let mut q = random.normals(n_tokens * (heads.n_heads * heads.head_dim) as usize);
        // Some heads look sharply, others at all keys nearly alike, so that the large values cancel.
        for (i, x) in q.iter_mut().enumerate() {
            let head = i / heads.head_dim as usize % heads.n_heads as usize;
            *x *= [1.0, 3.0, 0.02][head % 3];
        }
        let q = halves(heads.kv, &q);
        Self { heads, sequences: sequences.to_vec(), q, cache, unrounded, tables, table_of }
    }

    fn n_tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.n_tokens).sum()
    }

    fn query(&self, sequence: usize, token: usize, head: usize) -> Vec<f32> {
        let hd = self.heads.head_dim as usize;
        let first: usize = self.sequences[..sequence].iter().map(|s| s.n_tokens).sum();
        let at = ((first + token) * self.heads.n_heads as usize + head) * hd;
        self.q[at..at + hd].iter().map(|&bits| of_half(self.heads.kv, bits)).collect()
    }

    /// Keys or values that a token of a sequence sees, as they lie in the cache.
    fn seen(&self, sequence: usize, token: usize, kv_head: usize, is_value: bool) -> Vec<Vec<f32>> {
        let table = &self.tables[self.table_of[sequence] as usize..];
        (0..=self.sequences[sequence].start + token)
            .map(|p| slot(&self.heads, table, p, kv_head, is_value).read(&self.heads, &self.cache))
            .collect()
    }

    /// The same before they were rounded.
    fn unrounded(&self, sequence: usize, token: usize, kv_head: usize, is_value: bool) -> Vec<Vec<f32>> {
        let (hd, n_kv_heads) = (self.heads.head_dim as usize, self.heads.n_kv_heads as usize);
        let at = |position: usize| ((position * n_kv_heads + kv_head) * 2 + usize::from(is_value)) * hd;
        (0..=self.sequences[sequence].start + token)
            .map(|p| self.unrounded[sequence][at(p)..at(p) + hd].to_vec())
            .collect()
    }

    /// Output and attention row of a head of a token of a sequence over what lies in the cache, and how far each component
    /// may be from that: each weight is rounded to 16 bits, the result to bf16. Roundings add up at worst, and as random
    /// ones do where they are many.
    fn want(&self, sequence: usize, token: usize, head: usize) -> (Vec<f32>, Vec<f64>, HeadAttention) {
        let q = self.query(sequence, token, head);
        let kv_head = head / (self.heads.n_heads / self.heads.n_kv_heads) as usize;
        let keys = self.seen(sequence, token, kv_head, false);
        let values = self.seen(sequence, token, kv_head, true);
        let (out, row) = attend(&q, keys.iter().map(Vec::as_slice), values.iter().map(Vec::as_slice));
        let rounding = if self.heads.kv == KvType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
        let tolerance = |i: usize| {
            let terms = row.weights.iter().zip(&values).map(|(a, v)| a * f64::from(v[i].abs()));
            let (sum, squares) = terms.fold((0.0, 0.0), |(sum, squares), t| (sum + t, squares + t * t));
            let weights = rounding * f64::min(sum, 4.0 * squares.sqrt());
            weights + 2f64.powi(-8) * f64::from(out[i].abs()) + 1e-4 * sum + 2e-4
        };
        let tolerances = (0..out.len()).map(tolerance).collect();
        (out, tolerances, row)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn slot(heads: &Heads, table: &[u32], position: usize, kv_head: usize, is_value: bool) -> Slot {
    let size = heads.block_size as usize;
    Slot { block: table[position / size] as usize, offset: position % size, kv_head, is_value }
}

/// (n_tokens, n_heads, head_dim) bf16 bits, (n_tokens, n_heads, 4), and six attention signals a sequence.
type Attended = (Vec<u16>, Vec<f32>, Vec<[f32; 6]>);

/// (out, stats) of the batch through one of the two paths, and what attention signals they give for the last token of each
/// sequence.
fn run(device: &Device<'_>, case: &Case, prefill: bool) -> Result<Attended, String> {
    run_for(device, case, prefill, true)
}

/// As [`run`]; with nobody asking how spread attention is, the output alone.
fn run_for(device: &Device<'_>, case: &Case, prefill: bool, asked: bool) -> Result<Attended, String> {
    let heads = case.heads;
    let mut tiles = Vec::new();
    let (mut first, mut part) = (0, 0);
    for (s, &table) in case.sequences.iter().zip(&case.table_of) {
        let group = (heads.n_heads / heads.n_kv_heads) as usize;
        part = Tile::push_all(&mut tiles, group, first, s.n_tokens as u32, s.start as u32, table, part);
        first += s.n_tokens as u32;
    }
    let n_tokens = case.n_tokens();
    let words: Vec<u32> = tiles.iter().flat_map(|t| t.to_words()).collect();
    let (q, cache, tables) =
        (device.upload(&case.q), device.upload(&case.cache), device.upload(&case.tables));
    let (tile_list, count) = (device.upload(&words), device.count(tiles.len()));
    let per_part = (heads.n_kv_heads * 16 * (heads.head_dim + 8)) as usize;
    let parts = device.empty::<f32>(if prefill { 4 } else { part as usize * per_part });
    let n_out = n_tokens * (heads.n_heads * heads.head_dim) as usize;
    let (out, stats) =
        (device.empty::<u16>(n_out), device.empty::<f32>(n_tokens * heads.n_heads as usize * 4));
    let buffers = AttendBuffers {
        q: at(&q),
        cache: at(&cache),
        tables: at(&tables),
        tiles: at(&tile_list),
        n_tiles: at(&count),
        parts: at(&parts),
        out: at(&out),
        stats: if asked { at(&stats) } else { Pointer(0) },
    };
    let most_tiles = tiles.len() as u32 + 3;
    let longest = case.sequences.iter().map(|s| s.start + s.n_tokens).max().expect("a sequence");
    if prefill {
        device.run(&ops::attend_prefill(buffers, most_tiles, heads))?;
    } else {
        for launch in ops::attend_decode(buffers, most_tiles, longest.div_ceil(SPLIT) as u32 + 1, heads) {
            device.run(&launch)?;
        }
    }
    if !asked {
        return Ok((device.read(&out, 0, n_out)?, Vec::new(), Vec::new()));
    }

    let mut asks = Vec::new();
    let mut end = 0;
    for (s, &table) in case.sequences.iter().zip(&case.table_of) {
        end += s.n_tokens as u32;
        asks.extend([end - 1, (s.start + s.n_tokens) as u32, table]);
    }
    let n_asks = case.sequences.len();
    let most_parts = longest.div_ceil(64) as u32;
    let (ask_list, ask_count) = (device.upload(&asks), device.count(n_asks));
    let (apart, relative, records) = (
        device.empty::<f32>(n_asks * most_parts as usize),
        device.empty::<f32>(n_asks),
        device.empty::<f32>(n_asks * 6),
    );
    let gather = AttentionSignalBuffers {
        asks: at(&ask_list),
        n_asks: at(&ask_count),
        parts: at(&apart),
        relative: at(&relative),
        records: at(&records),
        most_parts,
    };
    // Two layers that happen to be equal: the relative entropy is then that of one.
    let none = at(&stats);
    device.run(&ops::attention_signals(none, gather, n_asks as u32 + 1, heads.n_heads, 0, 2))?;
    device.run(&ops::attention_disagreement(buffers, gather, n_asks as u32 + 1, heads))?;
    device.run(&ops::attention_signals(none, gather, n_asks as u32 + 1, heads.n_heads, 1, 2))?;
    let records: Vec<f32> = device.read(&records, 0, n_asks * 6)?;
    let records = records.as_chunks::<6>().0.to_vec();
    Ok((
        device.read(&out, 0, n_out)?,
        device.read(&stats, 0, n_tokens * heads.n_heads as usize * 4)?,
        records,
    ))
}

/// Both paths against the reference and against one another, bit for bit.
pub(crate) fn check(device: &Device<'_>, case: &Case) -> Outcome {
    let (out, stats, records) = run(device, case, false)?;
    let (prefilled, prefilled_stats, _) = run(device, case, true)?;
    if out != prefilled || bytes_of(&stats) != bytes_of(&prefilled_stats) {
        return Err("decoded and prefilled differ in bits".into());
    }
    let hd = case.heads.head_dim as usize;
    let mut row = 0;
    for (s, sequence) in case.sequences.iter().enumerate() {
        let mut last = Vec::new();
        for token in 0..sequence.n_tokens {
            for head in 0..case.heads.n_heads as usize {
                // The reference is slow; every head of the first and last token and a sample of the others.
                let asked = token + 1 == sequence.n_tokens;
                if !asked && token > 0 && (token * 31 + head) % 7 != 0 {
                    row += 1;
                    continue;
                }
                let (want, tolerances, weights) = case.want(s, token, head);
                for (i, (&want, tolerance)) in want.iter().zip(tolerances).enumerate() {
                    let got = bf16::from_bits(out[row * hd + i]).to_f32();
                    near(
                        format_args!("sequence {s} token {token} head {head} component {i}"),
                        got,
                        want.into(),
                        tolerance,
                    )?;
                }
                check_stats(&stats[row * 4..row * 4 + 4], &weights)
                    .map_err(|e| format!("sequence {s} token {token} head {head}: {e}"))?;
                if asked {
                    last.push(weights);
                }
                row += 1;
            }
        }
        let want = attention_signals(&[last.clone(), last]);
        let fields = [
            want.entropy,
            want.entropy_rel,
            want.varentropy,
            want.head_spread,
            want.head_disagreement,
            want.interaction,
        ];
        for (i, (&got, want)) in records[s].iter().zip(fields).enumerate() {
            near(
                format_args!("sequence {s} attention signal {i}"),
                got,
                want.into(),
                1e-3 * f64::from(want.abs()) + 2e-4,
            )?;
        }
    }
    Ok([bytes_of(&out), bytes_of(&stats), bytes_of(records.as_flattened())].concat())
}

fn check_stats(stats: &[f32], want: &HeadAttention) -> Result<(), String> {
    let ln = |a: f64| if a > 0.0 { a.ln() } else { 0.0 };
    let h = -want.weights.iter().map(|&a| a * ln(a)).sum::<f64>();
    let v = want.weights.iter().map(|&a| a * (ln(a) + h).powi(2)).sum::<f64>();
    let size = want.scores.iter().map(|s| s.abs()).sum::<f64>() / want.scores.len() as f64;
    let most = want.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = most + want.scores.iter().map(|s| (s - most).exp()).sum::<f64>().ln();
    near("entropy", stats[0], h, 1e-4)?;
    near("varentropy", stats[1], v, 1e-3)?;
    near("mean |score|", stats[2], size, 1e-5 * size + 1e-6)?;
    near("log sum", stats[3], log_sum, 1e-5 * log_sum.abs() + 1e-5)
}

/// Many components of heads that look at all keys nearly alike: one f32 rounding more or less in one of the paths shows.
pub(crate) fn check_bits(device: &Device<'_>, kv: KvType) -> Outcome {
    let heads = Heads { n_heads: 12, n_kv_heads: 4, head_dim: 64, block_size: 64, kv };
    let mut case = Case::new(heads, &[Sequence { start: 448, n_tokens: 64 }], LARGE);
    let flat: Vec<f32> = case.q.iter().map(|&q| 0.02 * of_half(kv, q)).collect();
    case.q = halves(kv, &flat);
    let (out, stats, _) = run(device, &case, false)?;
    let (prefilled, prefilled_stats, _) = run(device, &case, true)?;
    let apart = out.iter().zip(&prefilled).filter(|(a, b)| a != b).count();
    if apart > 0 || bytes_of(&stats) != bytes_of(&prefilled_stats) {
        return Err(format!("decoded and prefilled differ in bits of {apart} of {} components", out.len()));
    }
    Ok(bytes_of(&out))
}

/// The output has the same bits when nobody asks how spread attention is.
pub(crate) fn check_unasked(device: &Device<'_>, case: &Case) -> Outcome {
    let (out, ..) = run(device, case, true)?;
    for prefill in [false, true] {
        let (unasked, ..) = run_for(device, case, prefill, false)?;
        if unasked != out {
            return Err(format!("other bits for nobody who asks, prefilled: {prefill}"));
        }
    }
    Ok(bytes_of(&out))
}

/// The first sequence alone gives the bits it has in the batch.
pub(crate) fn check_alone(device: &Device<'_>, case: &Case) -> Outcome {
    let (out, stats, _) = run(device, case, true)?;
    let n = case.sequences[0].n_tokens;
    // Its last token as a decode step of its own, everything before in the cache.
    let mut alone = Case {
        sequences: vec![Sequence { start: case.sequences[0].start + n - 1, n_tokens: 1 }],
        ..case.clone()
    };
    let row = (case.heads.n_heads * case.heads.head_dim) as usize;
    alone.q = case.q[(n - 1) * row..n * row].to_vec();
    let (one, one_stats, _) = run(device, &alone, false)?;
    let heads = case.heads.n_heads as usize * 4;
    if one != out[(n - 1) * row..n * row]
        || bytes_of(&one_stats) != bytes_of(&stats[(n - 1) * heads..n * heads])
    {
        return Err("a token decoded alone has other bits than in its prefilled chunk".into());
    }
    Ok(bytes_of(&one))
}

/// How far, as a share of its own size, the output is from attention over keys and values that nobody rounded.
fn loss(device: &Device<'_>, case: &Case) -> Result<f64, String> {
    let (out, _, _) = run(device, case, false)?;
    let Heads { n_heads, n_kv_heads, head_dim, .. } = case.heads;
    let (mut apart, mut size, mut row) = (0.0, 0.0, 0);
    for (s, sequence) in case.sequences.iter().enumerate() {
        for token in 0..sequence.n_tokens {
            for head in 0..n_heads as usize {
                let kv_head = head / (n_heads / n_kv_heads) as usize;
                let [keys, values] =
                    [false, true].map(|is_value| case.unrounded(s, token, kv_head, is_value));
                let q = case.query(s, token, head);
                let (want, _) = attend(&q, keys.iter().map(Vec::as_slice), values.iter().map(Vec::as_slice));
                for (got, want) in out[row * head_dim as usize..].iter().zip(want) {
                    apart += f64::from(bf16::from_bits(*got).to_f32() - want).powi(2);
                    size += f64::from(want).powi(2);
                }
                row += 1;
            }
        }
    }
    Ok((apart / size).sqrt())
}

/// A vector that is not finite, in one sequence, makes its every row NaN and changes no bit of the other's.
pub(crate) fn check_poison(device: &Device<'_>, heads: Heads, poison: f32) -> Outcome {
    let case = Case::new(heads, &ragged(&[(30, 3), (300, 1)]), 0.0);
    let mut vector = vec![0.5; heads.head_dim as usize];
    vector[3] = poison;
    for (is_value, prefill) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut spoilt = case.clone();
        let table = &case.tables[case.table_of[0] as usize..];
        slot(&heads, table, 7, 0, is_value).write(&heads, &mut spoilt.cache, &vector);
        let (fine, _, _) = run(device, &case, prefill)?;
        let (out, _, _) = run(device, &spoilt, prefill)?;
        let first = 3 * (heads.n_heads * heads.head_dim) as usize;
        if out[first..] != fine[first..] {
            return Err("a row of another sequence changed".into());
        }
        let poisoned = |i: usize| bf16::from_bits(out[i]).to_f32().is_nan();
        // A component of a value in 16 bits stands for itself alone, and infinity times a weight is that or no number.
        let alone = is_value && heads.kv != KvType::Int8;
        let (from, step) = if alone { (3, heads.head_dim as usize) } else { (0, 1) };
        let spoils = |i: usize| poisoned(i) || alone && bf16::from_bits(out[i]).to_f32().is_infinite();
        if let Some(i) = (from..first).step_by(step).find(|&i| !spoils(i)) {
            let what = if is_value { "value" } else { "key" };
            return Err(format!("component {i} of a row with a bad {what} is {}", bf16::from_bits(out[i])));
        }
    }
    Ok(Vec::new())
}

/// In 8 bits, what is wrong with the value of a prompt's later token is no matter to the tokens before it, which share its tile.
pub(crate) fn check_later_value(device: &Device<'_>) -> Outcome {
    let heads = heads(KvType::Int8, 4, 1, 64, 16);
    let (case, row) = (Case::new(heads, &ragged(&[(30, 3)]), 0.0), 4 * 64);
    let mut spoilt = case.clone();
    slot(&heads, &case.tables, 31, 0, true).write(&heads, &mut spoilt.cache, &[f32::NAN; 64]);
    let (fine, _, _) = run(device, &case, true)?;
    let (out, _, _) = run(device, &spoilt, true)?;
    if out[..row] != fine[..row] {
        return Err("a later value changed a row that does not see it".into());
    }
    match out[row..].iter().find(|&&bits| !bf16::from_bits(bits).is_nan()) {
        Some(bits) => Err(format!("a row with a bad value has {}", bf16::from_bits(*bits))),
        None => Ok(Vec::new()),
    }
}

/// A key with an infinite component among queries of both signs.
pub(crate) fn check_infinite_key(device: &Device<'_>) -> Outcome {
    check_poison(device, heads(KvType::F16, 4, 1, 32, 16), f32::INFINITY)
}

fn heads(kv: KvType, group: u32, n_kv_heads: u32, head_dim: u32, block_size: u32) -> Heads {
    Heads { n_heads: group * n_kv_heads, n_kv_heads, head_dim, block_size, kv }
}

fn ragged(pairs: &[(usize, usize)]) -> Vec<Sequence> {
    pairs.iter().map(|&(start, n_tokens)| Sequence { start, n_tokens }).collect()
}

#[test]
fn attention_agrees_with_the_reference_in_both_paths() {
    // Head size, group, block size, (start, new tokens): every size with every group and with contexts of 1 and of 1000, each group
    // with both contexts; blocks and numbers of heads in turn.
    for (head_dim, group, n_kv_heads, block_size, sequences) in [
        (64, 3, 1, 16, ragged(&[(0, 1), (999, 1), (0, 7)])),
        (80, 1, 2, 32, ragged(&[(255, 1), (250, 12)])),
        (96, 4, 1, 64, ragged(&[(0, 5), (256, 1), (511, 2)])),
        (128, 7, 1, 16, ragged(&[(63, 3), (0, 1)])),
        (128, 8, 2, 32, ragged(&[(64, 1), (300, 1)])),
        (16, 3, 2, 16, ragged(&[(0, 40)])),
        (32, 2, 1, 64, ragged(&[(31, 1), (500, 20)])),
        (64, 1, 1, 32, ragged(&[(999, 1), (0, 2)])),
        (64, 4, 1, 64, ragged(&[(0, 1), (999, 1)])),
        (64, 7, 1, 16, ragged(&[(999, 1)])),
        (64, 8, 1, 32, ragged(&[(0, 1), (999, 1)])),
        (80, 3, 1, 16, ragged(&[(999, 1), (0, 1)])),
        (80, 4, 1, 64, ragged(&[(0, 3)])),
        (80, 7, 1, 32, ragged(&[(1, 2)])),
        (80, 8, 1, 16, ragged(&[(0, 1)])),
        (96, 1, 2, 32, ragged(&[(0, 1)])),
        (96, 3, 1, 64, ragged(&[(999, 1)])),
        (96, 7, 1, 16, ragged(&[(0, 1), (40, 1)])),
        (96, 8, 1, 32, ragged(&[(0, 2)])),
        (128, 1, 1, 64, ragged(&[(999, 1), (0, 1)])),
        (128, 3, 1, 16, ragged(&[(0, 1)])),
        (128, 4, 1, 32, ragged(&[(20, 3)])),
    ] {
        for kv in KvType::ALL {
            let heads = heads(kv, group, n_kv_heads, head_dim, block_size);
            let case = Case::new(heads, &sequences, LARGE);
            everywhere(&format!("{kv:?} heads of {head_dim}, group {group}, {sequences:?}"), |device| {
                check(device, &case)
            });
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_in_a_chunk() {
    for (head_dim, group, kv) in [
        (64, 4, KvType::Bf16),
        (80, 3, KvType::Bf16),
        (128, 1, KvType::Bf16),
        (96, 7, KvType::F16),
        (80, 4, KvType::Int8),
        (128, 8, KvType::Int8),
    ] {
        let case = Case::new(heads(kv, group, 1, head_dim, 16), &ragged(&[(500, 20), (3, 2)]), LARGE);
        everywhere(&format!("{kv:?} heads of {head_dim} alone"), |device| check_alone(device, &case));
    }
}

/// Against keys and values in f32: 8 bits cost a hundredth, and that they cost more than 16 shows that it is measured.
#[test]
fn a_cache_in_few_bits_loses_little() {
    let device = device::plain(Order::Rising);
    for head_dim in [64, 128] {
        let [bf16, f16, int8] = KvType::ALL.map(|kv| {
            let case = Case::new(heads(kv, 3, 1, head_dim, 16), &ragged(&[(40, 1), (600, 1), (0, 5)]), 0.0);
            loss(&device, &case).unwrap()
        });
        assert!(f16 < 0.003 && bf16 < 0.006 && int8 < 0.02, "{head_dim}: {bf16} {f16} {int8}");
        assert!(f16 < bf16 && 1.5 * bf16 < int8, "{head_dim}: {bf16} {f16} {int8}");
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    for (kv, head_dim, poison) in [
        (KvType::Bf16, 64, f32::NAN),
        (KvType::Bf16, 32, f32::NEG_INFINITY),
        (KvType::F16, 96, f32::NAN),
        (KvType::F16, 64, f32::INFINITY),
        (KvType::F16, 64, f32::NEG_INFINITY),
        (KvType::Int8, 64, f32::NAN),
        (KvType::Int8, 80, f32::INFINITY),
    ] {
        let heads = heads(kv, 4, 1, head_dim, 16);
        everywhere(&format!("{kv:?} with {poison}"), |device| check_poison(device, heads, poison));
    }
    everywhere("a later value", check_later_value);
}

/// The gathering of made-up statistics over three layers.
pub(crate) fn check_signals_alone(device: &Device<'_>) -> Outcome {
    let (n_heads, n_keys, most_parts) = (37usize, 130u32, 4u32);
    let mut random = Random(3);
    let stats = random.normals(2 * n_heads * 4);
    // Of token 1; the second ask sees one key only.
    let asks = [1u32, n_keys, 0, 0, 1, 0];
    let parts = random.normals(2 * most_parts as usize);
    let (stats_at, ask_list, count, apart) =
        (device.upload(&stats), device.upload(&asks), device.count(2), device.upload(&parts));
    let (relative, records) = (device.empty::<f32>(2), device.empty::<f32>(12));
    let gather = AttentionSignalBuffers {
        asks: at(&ask_list),
        n_asks: at(&count),
        parts: at(&apart),
        relative: at(&relative),
        records: at(&records),
        most_parts,
    };
    for layer in 0..3 {
        device.run(&ops::attention_signals(at(&stats_at), gather, 4, n_heads as u32, layer, 3))?;
    }
    let got: Vec<f32> = device.read(&records, 0, 12)?;
    for (ask, (token, keys)) in [(1, n_keys), (0, 1)].into_iter().enumerate() {
        let field = |i: usize| -> Vec<f64> {
            stats[token * n_heads * 4..][..n_heads * 4].iter().skip(i).step_by(4).map(|&v| v.into()).collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let h = mean(&field(0));
        let spread = mean(&field(0).iter().map(|x| (x - h).powi(2)).collect::<Vec<_>>());
        let apart: f64 = parts[ask * most_parts as usize..][..keys.div_ceil(64) as usize]
            .iter()
            .map(|&p| f64::from(p))
            .sum();
        let relative = if keys > 1 { h / f64::from(keys).ln() } else { 0.0 };
        let want = [
            h,
            relative,
            mean(&field(1)),
            spread,
            apart / (n_heads as f64 * f64::from(keys)),
            mean(&field(2)),
        ];
        for (i, want) in want.into_iter().enumerate() {
            near(
                format_args!("ask {ask} attention signal {i}"),
                got[ask * 6 + i],
                want,
                1e-5 * want.abs() + 1e-6,
            )?;
        }
    }
    Ok(bytes_of(&got))
}

#[test]
fn decoding_and_prefilling_round_alike() {
    for kv in KvType::ALL {
        everywhere(&format!("{kv:?} heads that look everywhere"), |device| check_bits(device, kv));
    }
}

#[test]
fn nobody_who_asks_changes_no_bit() {
    for (i, head_dim) in Heads::SIZES.into_iter().enumerate() {
        let kv = KvType::ALL[i % 3];
        let case = Case::new(heads(kv, 3, 2, head_dim, 16), &ragged(&[(300, 3), (0, 2)]), LARGE);
        everywhere(&format!("{kv:?} heads of {head_dim}"), |device| check_unasked(device, &case));
    }
}

#[test]
fn attention_signals_are_means_over_heads_and_layers() {
    everywhere("made-up statistics", check_signals_alone);
}
