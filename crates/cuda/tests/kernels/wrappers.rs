//! The wrappers of dev.cuh, one by one, against what they are defined to do. On a real device this is where an instruction that is
//! not what the emulator takes it for is told by its own name.

use crate::device::{Device, Outcome, at, bytes_of, everywhere, near};
use crate::random::Random;
use entropix_cuda::launch::{Arguments, Launch};
use half::{bf16, f16};

const LANES: usize = 32;
const WORDS_IN: usize = 8;
const WORDS_OUT: usize = 36;

/// What rounding and conversion find hard, as f32.
const ODD: [f32; 16] = [
    0.0,
    -0.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    // Halfway between two bf16, and a hair more.
    1.0 + 1.0 / 256.0,
    1.0 + 3.0 / 256.0,
    1.0 + 1.0 / 256.0 + f32::EPSILON,
    // Halfway between two f16, the largest of them, and what rounds to infinity.
    1.0 + 1.0 / 2048.0,
    1.0 + 3.0 / 2048.0,
    65_504.0,
    65_520.0,
    // Smallest of f16, half of it, and what f32 and bf16 alone know.
    1.0 / (1 << 24) as f32,
    1.0 / (1 << 25) as f32,
    -1e-30,
    3.0e38,
];

/// Words of a lane: x, y, two pairs of bf16, four words of any bits.
fn lane(random: &mut Random, is_odd: bool) -> [u32; WORDS_IN] {
    let mut words = [0; WORDS_IN];
    let number = |random: &mut Random| match is_odd {
        true => ODD[(random.bits() % ODD.len() as u64) as usize],
        false => random.normal() * 4.0,
    };
    words[0] = number(random).to_bits();
    words[1] = number(random).to_bits();
    for word in &mut words[2..4] {
        let [low, high] = [0, 1].map(|_| u32::from(bf16::from_f32(random.normal() * 100.0).to_bits()));
        *word = low | high << 16;
    }
    words[4..].iter_mut().for_each(|word| *word = random.bits() as u32);
    words
}

fn float(word: u32) -> f32 {
    f32::from_bits(word)
}

/// Equal bits, or both no number.
fn same(
    what: impl std::fmt::Display,
    got: u32,
    want: u32,
    is_nan: impl Fn(u32) -> bool,
) -> Result<(), String> {
    if got == want || is_nan(got) && is_nan(want) {
        return Ok(());
    }
    Err(format!("{what}: {got:#x}, not {want:#x}"))
}

/// Both halves of a pair.
fn same_pair(
    what: impl std::fmt::Display,
    got: u32,
    want: [u16; 2],
    is_nan: fn(u16) -> bool,
) -> Result<(), String> {
    for (half, want) in [got as u16, (got >> 16) as u16].into_iter().zip(want) {
        same(&what, half.into(), want.into(), |half| is_nan(half as u16))?;
    }
    Ok(())
}

/// (32, 36) of a warp whose lanes hold `words`.
fn check_warp(words: &[[u32; WORDS_IN]], got: &[[u32; WORDS_OUT]], is_odd: bool) -> Result<(), String> {
    let is_nan = |word: u32| float(word).is_nan();
    let numbers = |i: usize| words.iter().map(move |w| float(w[i])).collect::<Vec<f32>>();
    let (x, y) = (numbers(0), numbers(1));
    for l in 0..LANES {
        let (w, out) = (words[l], got[l]);
        let what = |name: &str| format!("{name} of {} and {}, words {:x?}, lane {l}", x[l], y[l], &w[2..]);
        let power = f64::from(x[l]).exp2();
        if power.is_nan() || power > f64::from(f32::MAX) || power < f64::from(f32::MIN_POSITIVE) {
            let want = if power > 1.0 { f32::INFINITY } else { power as f32 };
            same(what("exp2_fast"), out[0], want.to_bits(), is_nan)?;
        } else {
            near(what("exp2_fast"), float(out[0]), power, power * 2.5e-7)?;
        }
        let brains = [x[l], y[l]].map(|x| bf16::from_f32(x).to_bits());
        same_pair(what("pack_bf16"), out[1], brains, |half| bf16::from_bits(half).is_nan())?;
        let pair = |word: u32| [word as u16, (word >> 16) as u16].map(|half| bf16::from_bits(half).to_f64());
        let (a, b) = (pair(w[2]), pair(w[3]));
        let sums = [0, 1].map(|i| bf16::from_f64(a[i] + b[i]).to_bits());
        same_pair(what("add_bf16x2"), out[2], sums, |half| bf16::from_bits(half).is_nan())?;
        same(what("half_to_float"), out[3], f16::from_bits(w[2] as u16).to_f32().to_bits(), is_nan)?;
        let halves = [x[l], y[l]].map(|x| f16::from_f32(x).to_bits());
        same_pair(what("pack_f16"), out[4], halves, |half| f16::from_bits(half).is_nan())?;
        let mut streamed = w[4..8].to_vec();
        streamed.extend([w[2], w[3], w[1]]);
        if out[5..12] != streamed {
            return Err(what("stream16, stream8 or stream4"));
        }
        let brought = std::array::from_fn(|i| if i < l % 5 { w[4 + i] } else { 0 });
        if out[12..16] != brought as [u32; 4] {
            return Err(what("cp_async16"));
        }
        for matrix in 0..4 {
            // Element (r, c) of a matrix: half c of lane 8 m + r.
            let element = |r: usize, c: usize| (words[8 * matrix + r][4 + c / 2] >> (c % 2 * 16)) as u16;
            let (g, q) = (l / 4, 2 * (l % 4));
            let straight = [element(g, q), element(g, q + 1)];
            same_pair(what("ldmatrix_x4"), out[16 + matrix], straight, |_| false)?;
            let turned = [element(q, g), element(q + 1, g)];
            same_pair(what("ldmatrix_x4_transposed"), out[20 + matrix], turned, |_| false)?;
        }
    }
    if is_odd {
        return Ok(());
    }
    check_products("mma_bf16", &x, &y, got, 24, |x| bf16::from_f32(x).to_f64())?;
    check_products("mma_f16", &x, &y, got, 28, |x| f16::from_f32(x).to_f64())?;
    let mut sums = x.clone();
    for apart in [16, 8, 4, 2, 1] {
        sums = (0..LANES).map(|l| sums[l] + sums[l ^ apart]).collect();
    }
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for l in 0..LANES {
        same(format_args!("warp_sum, lane {l}"), got[l][32], sums[l].to_bits(), is_nan)?;
        same(format_args!("warp_max, lane {l}"), got[l][33], most.to_bits(), is_nan)?;
    }
    Ok(())
}

/// The product whose operands the kernel makes of x and y, in f64 of what `rounded` leaves of them.
fn check_products(
    what: &str,
    x: &[f32],
    y: &[f32],
    got: &[[u32; WORDS_OUT]],
    first: usize,
    rounded: fn(f32) -> f64,
) -> Result<(), String> {
    // What a lane's registers hold, each a pair.
    let operands = |l: usize| [[x[l], y[l]], [y[l], x[l]], [x[l] - y[l], x[l]], [y[l], y[l] - x[l]]];
    let (mut a, mut b) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
    for l in 0..LANES {
        let (g, q) = (l / 4, 2 * (l % 4));
        let pairs = operands(l).map(|pair| pair.map(rounded));
        for (pair, (row, column)) in pairs.into_iter().zip([(g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8)]) {
            (a[row][column], a[row][column + 1]) = (pair[0], pair[1]);
        }
        for (pair, row) in [pairs[1], pairs[2]].into_iter().zip([q, q + 8]) {
            (b[row][g], b[row + 1][g]) = (pair[0], pair[1]);
        }
    }
    for l in 0..LANES {
        let (g, q) = (l / 4, 2 * (l % 4));
        let places = [(g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1)];
        for (i, ((row, column), start)) in places.into_iter().zip([x[l], y[l], -x[l], -y[l]]).enumerate() {
            let terms = (0..16).map(|k| a[row][k] * b[k][column]);
            let size = terms.clone().map(f64::abs).sum::<f64>() + f64::from(start.abs());
            let want = terms.sum::<f64>() + f64::from(start);
            near(format_args!("{what}, ({row}, {column})"), float(got[l][first + i]), want, 2e-6 * size)?;
        }
    }
    Ok(())
}

pub(crate) fn check(device: &Device<'_>) -> Outcome {
    let n_cases = 24;
    let mut random = Random(41);
    let words: Vec<[u32; WORDS_IN]> =
        (0..n_cases * LANES).map(|i| lane(&mut random, i / LANES % 2 == 1)).collect();
    let (input, output) = (device.upload(&words), device.empty::<u32>(words.len() * WORDS_OUT));
    device.run(&Launch {
        kernel: "wrappers".into(),
        part: "",
        grid: [n_cases as u32, 1, 1],
        block: LANES as u32,
        shared: 0,
        bytes: (words.len() * (WORDS_IN + WORDS_OUT) * size_of::<u32>()) as u64,
        arguments: Arguments::default().with(at(&input)).with(at(&output)),
    })?;
    let got = device.read::<u32>(&output, 0, words.len() * WORDS_OUT)?;
    let (lanes, _) = got.as_chunks::<WORDS_OUT>();
    for (case, (words, got)) in words.chunks(LANES).zip(lanes.chunks(LANES)).enumerate() {
        check_warp(words, got, case % 2 == 1)?;
    }
    Ok(bytes_of(&got))
}

#[test]
fn every_wrapper_does_what_it_is_defined_to_do() {
    everywhere("wrappers", check);
}
