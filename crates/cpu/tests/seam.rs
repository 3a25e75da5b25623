//! What the seam promises besides numbers: draws, candidates, copies, broken rows, refusals.
#![forbid(unsafe_code)]

mod checkpoints;

use checkpoints::checkpoint;
use entropix_cpu::reference::ReferenceBackend;
use entropix_cpu::{CpuBackend, CpuOptions, KernelPath, Precision, plan};
use entropix_model::sampling::{self, DrawScratch};
use entropix_model::{
    Ask, Backend, Batch, BlockCopy, Candidates, Class, Coin, Draw, Drawn, Edit, Filters, Signals, Slot,
    Status, StepId, Temperature, Tensor, TokenMask,
};

fn options() -> CpuOptions {
    CpuOptions { threads: 2, n_blocks: 32, max_tokens: 128, max_kept: 64, ..CpuOptions::default() }
}

fn open(name: &str) -> CpuBackend {
    CpuBackend::open(&checkpoint(name).unwrap(), &options()).unwrap()
}

fn kept(index: usize) -> Ask {
    Ask { index, target: None, attention: false, keep_logits: true }
}

fn signals(backend: &mut dyn Backend, step: StepId, n: usize) -> Vec<Signals> {
    let mut signals = vec![Signals::default(); n];
    backend.signals(step, &mut signals).unwrap();
    signals
}

/// To the bit, NaN included.
fn same(a: &[Signals], b: &[Signals]) -> bool {
    bytemuck::cast_slice::<_, u8>(a) == bytemuck::cast_slice::<_, u8>(b)
}

/// One row from position 0 in consecutive blocks; asks about every token.
fn prompt(backend: &mut dyn Backend, tokens: &[u32], first_block: u32) -> (StepId, Vec<Signals>) {
    let size = backend.capacity().block_size;
    let blocks: Vec<u32> = (first_block..).take(tokens.len().div_ceil(size)).collect();
    let asks: Vec<Ask> = (0..tokens.len()).map(kept).collect();
    let mut batch = Batch::default();
    batch.push(tokens, 0, &blocks, &asks);
    let step = backend.submit(&batch).unwrap();
    let signals = signals(backend, step, tokens.len());
    (step, signals)
}

#[test]
fn draws_and_candidates_are_those_of_the_definition() {
    let mut backend = open("llama-tied.Q4_1.gguf");
    let tokens: Vec<u32> = (0..40).map(|i| i * 31 % 384).collect();
    let (step, signals) = prompt(&mut backend, &tokens, 0);
    let mut scratch = DrawScratch::default();

    let asked: Vec<(Slot, u16)> =
        (0..40).map(|slot| (39 - slot, [1, 2, 64, 256, 300][slot as usize % 5])).collect();
    let (mut got, mut want) = (Candidates::default(), Candidates::default());
    backend.candidates(step, &asked, &mut got).unwrap();
    for &(slot, k) in &asked {
        let logits = backend.logits(step, slot).unwrap();
        let k = usize::from(k).min(backend.capacity().max_candidates);
        sampling::candidates(&logits, &signals[slot as usize], k, &mut scratch, &mut want);
    }
    assert_eq!(got, want);

    let mut mask = TokenMask::none(384);
    (0..384).filter(|t| t % 3 > 0).for_each(|t| mask.allow(t));
    let edits = [
        Edit { token: 7, penalty: 1.3, bias: 0.5 },
        Edit { token: 9, penalty: 1.0, bias: f32::NEG_INFINITY },
    ];
    let coins: Vec<Coin> = (1..200).map(|i| Coin(i * 0x9E37_79B9_7F4A_7C15)).collect();
    let filters =
        |temperature, top_k, top_p, min_p| Filters { temperature, top_k, top_p, min_p, ..Filters::default() };
    let draws: Vec<Draw<'_>> = (0..120)
        .map(|i: usize| Draw {
            slot: (i % 40) as Slot,
            filters: match i % 4 {
                0 => Filters::default(),
                1 => filters(Temperature::Fixed(0.7), 27, 0.9, 0.03),
                2 => filters(Temperature::TargetEntropy(1.5), 0, 0.95, 0.0),
                _ => filters(Temperature::Greedy, 0, 1.0, 0.0),
            },
            edits: if i.is_multiple_of(3) { &edits } else { &[] },
            mask: i.is_multiple_of(5).then_some(&mask),
            coins: &coins[i..i + 1 + i % 3],
        })
        .collect();
    let mut drawn = vec![Drawn { token: None, logprob: 0.0, temperature: 0.0 }; draws.len()];
    backend.draw(step, &draws, &mut drawn).unwrap();
    for (draw, drawn) in draws.iter().zip(&drawn) {
        let logits = backend.logits(step, draw.slot).unwrap();
        let want = sampling::draw(&logits, &signals[draw.slot as usize], draw, &mut scratch);
        assert_eq!(*drawn, want, "{draw:?}");
    }
    let different: std::collections::BTreeSet<_> = drawn.iter().map(|d| d.token).collect();
    assert!(different.len() > 10, "only {} tokens were ever drawn", different.len());
}

/// Both backends tell one story: greedy continuations agree token by token in exact arithmetic.
#[test]
fn the_reference_and_the_fast_backend_go_on_alike() {
    for name in ["qwen3", "llama3.F16.gguf"] {
        let checkpoint = checkpoint(name).unwrap();
        let exact = CpuOptions { precision: Precision::Exact, ..options() };
        let mut fast = CpuBackend::open(&checkpoint, &exact).unwrap();
        let mut plain = ReferenceBackend::open(&checkpoint, 32, 16).unwrap();
        let go_on = |backend: &mut dyn Backend| -> Vec<u32> {
            let mut tokens = vec![5, 17, 200, 3];
            let (_, first) = prompt(backend, &tokens, 4);
            let mut best = first[3].best[0].token;
            while tokens.len() < 60 {
                let mut batch = Batch::default();
                batch.push(&[best], tokens.len(), &[4, 5, 6, 7], &[kept(0)]);
                let step = backend.submit(&batch).unwrap();
                tokens.push(best);
                best = signals(backend, step, 1)[0].best[0].token;
            }
            tokens
        };
        assert_eq!(go_on(&mut fast), go_on(&mut plain), "{name}");
    }
}

// Catches: a layer, a head or a panel left out; and reading slots that nobody wrote.
#[test]
fn a_copied_block_goes_on_like_its_source() {
    for (name, block_size) in [("llama-tied.Q4_1.gguf", 16), ("qwen3", 32)] {
        let checkpoint = checkpoint(name).unwrap();
        let options = CpuOptions { block_size, ..options() };
        let mut backend = CpuBackend::open(&checkpoint, &options).unwrap();
        let tokens: Vec<u32> = (0..27).map(|i| i * 17 % 384).collect();
        let n_blocks = 27usize.div_ceil(block_size) as u32;
        prompt(&mut backend, &tokens, 0);
        // Blocks 8.. held another sequence before.
        prompt(&mut backend, &tokens.iter().rev().copied().collect::<Vec<_>>(), 8);
        let copies: Vec<BlockCopy> = (0..n_blocks)
            .map(|i| BlockCopy { from: i, to: 8 + i, tokens: block_size.min(27 - i as usize * block_size) })
            .collect();
        backend.copy_blocks(&copies).unwrap();
        let mut batch = Batch::default();
        for first in [0, 8] {
            let blocks: Vec<u32> = (first..first + n_blocks).collect();
            batch.push(&[9, 10], 27, &blocks, &[kept(0), kept(1)]);
        }
        let step = backend.submit(&batch).unwrap();
        for slot in 0..2 {
            assert_eq!(
                backend.logits(step, slot).unwrap(),
                backend.logits(step, slot + 2).unwrap(),
                "{name}"
            );
        }
    }
}

/// A row that is no number is told as such, and nobody else notices.
#[test]
fn a_broken_row_breaks_no_other() {
    for precision in [Precision::Int8, Precision::Bf16, Precision::Exact] {
        for path in KernelPath::available() {
            let mut checkpoint = checkpoint("llama3").unwrap();
            let options = CpuOptions { precision, kernel_path: Some(path), ..options() };
            let tokens: Vec<u32> = (10..30).collect();
            let (_, healthy) = prompt(&mut CpuBackend::open(&checkpoint, &options).unwrap(), &tokens, 0);

            let embedding = &checkpoint.weights.embedding;
            let (width, mut bytes) = (embedding.row_bytes(), embedding.read().unwrap());
            // One component of token 5 is NaN; BF16 as the others.
            bytes[5 * width + 6..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
            checkpoint.weights.embedding =
                Tensor::from_bytes("embedding", embedding.dtype, embedding.n_rows, embedding.n_cols, bytes);
            let mut backend = CpuBackend::open(&checkpoint, &options).unwrap();
            let mut batch = Batch::default();
            let asks: Vec<Ask> = (0..20).map(kept).collect();
            let mut broken = tokens.clone();
            broken[7] = 5;
            batch.push(&tokens, 0, &[0, 1], &asks);
            batch.push(&broken, 0, &[2, 3], &asks);
            batch.push(&tokens, 0, &[4, 5], &asks[..19]);
            let step = backend.submit(&batch).unwrap();
            let got = signals(&mut backend, step, 59);
            assert!(same(&got[..20], &healthy), "{precision:?} {path}");
            assert!(same(&got[20..27], &healthy[..7]), "{precision:?} {path}: positions before the break");
            assert!(got[27..40].iter().all(|s| s.status() == Status::NotFinite), "{precision:?} {path}");
            assert!(same(&got[40..], &healthy[..19]), "{precision:?} {path}");
            let draw =
                Draw { slot: 30, filters: Filters::default(), edits: &[], mask: None, coins: &[Coin(1)] };
            let mut drawn = [Drawn { token: Some(1), logprob: 0.0, temperature: 0.0 }];
            backend.draw(step, &[draw], &mut drawn).unwrap();
            assert_eq!(drawn[0].token, None);
            // What it left in the cache harms nobody who comes after.
            let (_, after) = prompt(&mut backend, &tokens, 2);
            assert!(same(&after, &healthy), "{precision:?} {path}: in the blocks of the broken row");
        }
    }
}

#[test]
fn scoring_needs_no_room_for_logits() {
    let checkpoint = checkpoint("llama-tied.Q8_0.gguf").unwrap();
    let tokens: Vec<u32> = (0..100).map(|i| i * 13 % 384).collect();
    let (_, want) = prompt(
        &mut CpuBackend::open(&checkpoint, &CpuOptions { max_kept: 128, ..options() }).unwrap(),
        &tokens,
        0,
    );
    let mut backend = CpuBackend::open(&checkpoint, &CpuOptions { max_kept: 0, ..options() }).unwrap();
    let asks: Vec<Ask> = (0..100).map(|index| Ask { keep_logits: false, ..kept(index) }).collect();
    let mut batch = Batch::default();
    batch.push(&tokens, 0, &[0, 1, 2, 3, 4, 5, 6], &asks);
    let step = backend.submit(&batch).unwrap();
    assert!(same(&signals(&mut backend, step, 100), &want));
    // A piece of a prompt that nobody asks about.
    batch.clear();
    batch.push(&tokens[..50], 0, &[0, 1, 2, 3], &[]);
    let step = backend.submit(&batch).unwrap();
    assert!(signals(&mut backend, step, 0).is_empty());
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let checkpoint = checkpoint("llama-tied.Q8_0.gguf").unwrap();
    for (options, name) in [
        (CpuOptions { n_blocks: 0, ..options() }, "n_blocks"),
        (CpuOptions { block_size: 24, ..options() }, "block_size"),
        (CpuOptions { max_tokens: 0, ..options() }, "max_tokens"),
        (CpuOptions { max_rows: usize::MAX, ..options() }, "max_rows"),
        (CpuOptions { threads: 1 << 20, ..options() }, "threads"),
    ] {
        let error = CpuBackend::open(&checkpoint, &options).unwrap_err();
        assert!(error.class == Class::Usage && error.message.contains(name), "{error:?}");
    }
}

/// A cache that no machine has room for is an error with the plan, before a weight is read.
#[test]
fn too_large_a_cache_is_an_error_with_the_table() {
    let checkpoint = checkpoint("llama-tied.Q8_0.gguf").unwrap();
    let options = CpuOptions { n_blocks: 1 << 28, block_size: 4096, ..options() };
    let error = CpuBackend::open(&checkpoint, &options).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Temp, "OutOfMemory"));
    assert!(error.message.contains("cache") && error.message.contains("total"), "{}", error.message);
    let plan = plan(&checkpoint.config, &checkpoint.weights, &options);
    assert_eq!(plan.cache, plan.cache_per_position << 40);
}
