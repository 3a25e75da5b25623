//! The same request gives the same bits alone, in any batch, in any order, in any chunks of its prompt, with any
//! number of threads, wherever its blocks lie.

#[path = "../tests/checkpoints/mod.rs"]
mod checkpoints;

use crate::{CpuBackend, CpuOptions, KernelPath, Precision};
use checkpoints::checkpoint;
use entropix_model::{Ask, AttentionSignals, Backend, Batch, BlockId, Signals, Slot, TokenId};

/// A small generator of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// One sequence and what is asked about it.
#[derive(Clone)]
struct Sequence {
    tokens: Vec<TokenId>,
    /// Every how many positions attention signals are wanted.
    attention_every: usize,
}

/// What the positions of a sequence gave, to the bit.
#[derive(Debug, PartialEq, Clone)]
struct Bits {
    signals: Vec<Vec<u8>>,
    logits: Vec<Vec<u32>>,
    attention: Vec<Vec<u8>>,
}

fn sequences(lengths: &[usize], vocab_size: usize) -> Vec<Sequence> {
    let mut choices = Choices(7);
    lengths
        .iter()
        .map(|&n| Sequence {
            tokens: (0..n).map(|_| choices.below(vocab_size) as TokenId).collect(),
            attention_every: 5 + choices.below(7),
        })
        .collect()
}

/// How sequences are brought through the backend.
struct Schedule {
    /// Rows a step.
    rows: usize,
    /// Tokens of a row a step; 0 draws it anew each time.
    chunk: usize,
    /// Whether rows and blocks are in random order, and asks without kept logits among the others.
    shuffled: bool,
}

fn run(backend: &mut CpuBackend, sequences: &[Sequence], schedule: &Schedule) -> Vec<Bits> {
    let capacity = backend.capacity();
    let mut choices = Choices(99 + schedule.rows as u64);
    let mut free: Vec<BlockId> = (0..capacity.n_blocks as u32).collect();
    if schedule.shuffled {
        choices.shuffle(&mut free);
    }
    let blocks: Vec<Vec<BlockId>> = sequences
        .iter()
        .map(|s| free.split_off(free.len() - s.tokens.len().div_ceil(capacity.block_size)))
        .collect();
    let n = |s: &Sequence| s.tokens.len();
    let empty = |s: &Sequence| Bits {
        signals: vec![Vec::new(); n(s)],
        logits: vec![Vec::new(); n(s)],
        attention: vec![Vec::new(); n(s)],
    };
    let mut all: Vec<Bits> = sequences.iter().map(empty).collect();
    let mut done = vec![0; sequences.len()];
    let mut batch = Batch::default();
    loop {
        let mut active: Vec<usize> = (0..sequences.len()).filter(|&s| done[s] < n(&sequences[s])).collect();
        if active.is_empty() {
            return all;
        }
        if schedule.shuffled {
            choices.shuffle(&mut active);
        }
        active.truncate(schedule.rows);
        batch.clear();
        let mut asked = Vec::new();
        let mut room = capacity.max_tokens;
        for s in active {
            let left = n(&sequences[s]) - done[s];
            let chunk = if schedule.chunk == 0 { 1 + choices.below(40) } else { schedule.chunk };
            let chunk = chunk.min(left).min(room);
            if chunk == 0 {
                continue;
            }
            room -= chunk;
            let range = done[s]..done[s] + chunk;
            let ask = |index: usize, kept: bool| Ask {
                index,
                target: Some(sequences[s].tokens[range.start + index]),
                attention: (range.start + index).is_multiple_of(sequences[s].attention_every),
                keep_logits: kept,
            };
            let asks: Vec<Ask> =
                (0..chunk).map(|i| ask(i, !schedule.shuffled || choices.below(4) > 0)).collect();
            asked.extend(asks.iter().map(|ask| (s, range.start + ask.index, ask.clone())));
            batch.push(&sequences[s].tokens[range.clone()], range.start, &blocks[s], &asks);
            done[s] = range.end;
        }
        let step = backend.submit(&batch).unwrap();
        let mut signals = vec![Signals::default(); asked.len()];
        backend.signals(step, &mut signals).unwrap();
        for (slot, ((s, position, ask), signals)) in asked.into_iter().zip(signals).enumerate() {
            let slot = slot as Slot;
            all[s].signals[position] = bytemuck::bytes_of(&signals).to_vec();
            if ask.keep_logits {
                let row = backend.logits(step, slot).unwrap();
                all[s].logits[position] = row.into_iter().map(f32::to_bits).collect();
            }
            if ask.attention {
                let mut attention = [AttentionSignals::default()];
                backend.attention(step, &[slot], &mut attention).unwrap();
                all[s].attention[position] = bytemuck::bytes_of(&attention[0]).to_vec();
            }
        }
    }
}

/// The first difference, if there is one; rows of logits that one side did not keep are not compared.
fn difference(got: &[Bits], want: &[Bits]) -> Option<String> {
    for (s, (got, want)) in got.iter().zip(want).enumerate() {
        for position in 0..want.signals.len() {
            let is_kept = !got.logits[position].is_empty();
            let what = if got.signals[position] != want.signals[position] {
                "signals"
            } else if is_kept && got.logits[position] != want.logits[position] {
                "logits"
            } else if got.attention[position] != want.attention[position] {
                "attention signals"
            } else {
                continue;
            };
            return Some(format!("{what} of sequence {s} at position {position}"));
        }
    }
    None
}

fn open(name: &str, precision: Precision, path: KernelPath, threads: usize) -> CpuBackend {
    let options = CpuOptions {
        threads,
        precision,
        kernel_path: Some(path),
        n_blocks: 200,
        max_tokens: 320,
        max_kept: 320,
        ..CpuOptions::default()
    };
    CpuBackend::open(&checkpoint(name).unwrap(), &options).unwrap()
}

const LENGTHS: [usize; 7] = [1, 40, 17, 300, 64, 33, 90];

const SCHEDULES: [Schedule; 9] = [
    Schedule { rows: 1, chunk: 1, shuffled: false },
    Schedule { rows: 1, chunk: 3, shuffled: false },
    Schedule { rows: 1, chunk: 16, shuffled: true },
    Schedule { rows: 1, chunk: 17, shuffled: false },
    Schedule { rows: 1, chunk: 64, shuffled: true },
    Schedule { rows: 2, chunk: 0, shuffled: true },
    Schedule { rows: 5, chunk: 1, shuffled: true },
    Schedule { rows: 7, chunk: 0, shuffled: true },
    Schedule { rows: 7, chunk: 300, shuffled: true },
];

const ALONE: Schedule = Schedule { rows: 1, chunk: 320, shuffled: false };

fn check(name: &str, precision: Precision, path: KernelPath) {
    let mut alone = open(name, precision, path, 1);
    let sequences = sequences(&LENGTHS, alone.capacity().vocab_size);
    let want = run(&mut alone, &sequences, &ALONE);
    let is_best = path == KernelPath::detect();
    for (threads, schedules) in [(2, &SCHEDULES[..]), (1, &SCHEDULES[5..8]), (4, &SCHEDULES[4..8])] {
        if threads != 2 && !is_best {
            continue;
        }
        let mut backend = open(name, precision, path, threads);
        // Schedules follow one another on one cache, so each meets what others left there.
        for schedule in schedules {
            let got = run(&mut backend, &sequences, schedule);
            if let Some(difference) = difference(&got, &want) {
                let Schedule { rows, chunk, shuffled } = schedule;
                panic!(
                    "{name} {precision:?} {path}, {threads} threads, {rows} rows, chunks of {chunk}, shuffled \
                     {shuffled}: {difference} changed"
                );
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_company() {
    for path in KernelPath::available() {
        for (name, precision) in [
            ("llama-tied.Q4_1.gguf", Precision::Int8),
            ("llama-tied.Q4_1.gguf", Precision::Exact),
            ("llama-wide.Q4_K.gguf", Precision::Bf16),
            ("llama-wide.Q6_K.gguf", Precision::Int8),
            ("llama3", Precision::Int8),
            ("qwen2.Q8_0.gguf", Precision::Int8),
            ("qwen3", Precision::Exact),
            ("mistral.Q4_0.gguf", Precision::Int8),
        ] {
            check(name, precision, path);
        }
    }
}

/// Thirty-two rows at once, each alone before.
#[test]
fn a_full_batch_changes_nothing() {
    let path = KernelPath::detect();
    let mut backend = open("qwen2.Q8_0.gguf", Precision::Int8, path, 2);
    let lengths: Vec<usize> = (0..32).map(|i| 20 + i).collect();
    let sequences = sequences(&lengths, backend.capacity().vocab_size);
    let want = run(&mut backend, &sequences, &ALONE);
    for chunk in [1, 10] {
        let got = run(&mut backend, &sequences, &Schedule { rows: 32, chunk, shuffled: true });
        assert_eq!(difference(&got, &want), None);
    }
}

/// The negative control: a norm that adds in another order when it has company must be found out.
#[test]
fn an_order_that_depends_on_the_batch_is_found_out() {
    let mut backend = open("llama-tied.Q4_1.gguf", Precision::Exact, KernelPath::detect(), 1);
    let sequences = sequences(&[40, 17], backend.capacity().vocab_size);
    let want = run(&mut backend, &sequences, &ALONE);
    let decoded = Schedule { rows: 1, chunk: 1, shuffled: false };
    assert_eq!(difference(&run(&mut backend, &sequences, &decoded), &want), None);
    backend.make_batch_dependent();
    let want = run(&mut backend, &sequences, &ALONE);
    assert!(difference(&run(&mut backend, &sequences, &decoded), &want).is_some());
}
