//! The same request gives the same bits alone, in any batch, in any chunks of its prompt, wherever its blocks lie, recorded or
//! not.

use crate::checkpoints::checkpoint;
use crate::drive::{Device, device, open, options};
use entropix_cuda::{CudaBackend, CudaOptions, KvType};
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

/// What every position of a sequence gave.
type Bits = Vec<Vec<u8>>;

/// Brings sequences through the backend, at most `rows` a step and `chunk` tokens of each (0: drawn anew each time). Every
/// position is asked; some keep their logits, some want attention signals, by position alone.
fn run(backend: &mut CudaBackend, sequences: &[Vec<TokenId>], rows: usize, chunk: usize) -> Vec<Bits> {
    let capacity = backend.capacity();
    let mut choices = Choices(99 + rows as u64);
    let mut free: Vec<BlockId> = (0..capacity.n_blocks as u32).collect();
    choices.shuffle(&mut free);
    let blocks: Vec<Vec<BlockId>> = sequences
        .iter()
        .map(|s| free.split_off(free.len() - s.len().div_ceil(capacity.block_size)))
        .collect();
    let mut bits: Vec<Bits> = sequences.iter().map(|s| vec![Vec::new(); s.len()]).collect();
    let mut done = vec![0; sequences.len()];
    loop {
        let mut open: Vec<usize> = (0..sequences.len()).filter(|&s| done[s] < sequences[s].len()).collect();
        if open.is_empty() {
            return bits;
        }
        choices.shuffle(&mut open);
        let mut batch = Batch::default();
        let mut asked: Vec<(usize, usize)> = Vec::new();
        for &s in open.iter().take(rows) {
            let n = if chunk == 0 { 1 + choices.below(12) } else { chunk };
            let end = sequences[s].len().min(done[s] + n);
            let asks: Vec<Ask> = (done[s]..end)
                .map(|p| Ask {
                    index: p - done[s],
                    target: Some((p % 7) as u32),
                    attention: p % 5 == 2,
                    keep_logits: p % 4 == 1,
                })
                .collect();
            asked.extend((done[s]..end).map(|p| (s, p)));
            let n_blocks = end.div_ceil(capacity.block_size);
            batch.push(&sequences[s][done[s]..end], done[s], &blocks[s][..n_blocks], &asks);
            done[s] = end;
        }
        let step = backend.submit(&batch).unwrap();
        let mut signals = vec![Signals::default(); asked.len()];
        backend.signals(step, &mut signals).unwrap();
        for (slot, &(s, p)) in asked.iter().enumerate() {
            let to = &mut bits[s][p];
            to.extend_from_slice(bytemuck::bytes_of(&signals[slot]));
            let slot = slot as Slot;
            if p % 5 == 2 {
                let mut attention = [AttentionSignals::default()];
                backend.attention(step, &[slot], &mut attention).unwrap();
                to.extend_from_slice(bytemuck::bytes_of(&attention[0]));
            }
            if p % 4 == 1 {
                to.extend(backend.logits(step, slot).unwrap().iter().flat_map(|z| z.to_le_bytes()));
            }
        }
    }
}

#[test]
fn a_request_has_the_same_bits_in_any_company() {
    let device = device();
    let mut choices = Choices(7);
    // One context crosses a split of 256 keys.
    let sequences: Vec<Vec<TokenId>> =
        [37, 3, 270, 18].iter().map(|&n| (0..n).map(|_| choices.below(384) as u32).collect()).collect();
    let cases = [
        ("llama-tied", KvType::Bf16),
        ("qwen3", KvType::Bf16),
        ("llama-tied", KvType::F16),
        ("qwen3", KvType::Int8),
    ];
    for (name, kv_type) in cases {
        let open = |graphs: bool, max_kept: usize| {
            open(name, &CudaOptions { graphs, max_kept, kv_type, ..options() })
        };
        let want: Vec<Bits> = sequences
            .iter()
            .map(|s| run(&mut open(false, 40), std::slice::from_ref(s), 1, 40).remove(0))
            .collect();
        for (graphs, rows, chunk) in [(false, 4, 0), (true, 3, 1), (true, 6, 0)] {
            assert!(
                run(&mut open(graphs, 30), &sequences, rows, chunk) == want,
                "{name}, {kv_type}: other bits in steps of {rows} rows, chunks of {chunk}, recorded: {graphs}"
            );
        }
        assert!(device.graph_launches().is_none_or(|n| n > 20));
        // The threads of a GPU run in any order.
        if let Device::Fake(driver) = &device
            && kv_type != KvType::F16
        {
            for order in [1, 4321] {
                driver.set("order", order);
                assert!(
                    run(&mut open(true, 40), &sequences, 5, 0) == want,
                    "{name}, {kv_type}: order {order}"
                );
            }
            driver.set("order", 0);
        }
    }
}

/// The negative control: products of a library, in steps of several tokens, depend on how a prompt is cut, and the same
/// comparison tells.
#[test]
fn bits_that_depend_on_the_batch_are_noticed() {
    let _device = device();
    let sequence: [Vec<TokenId>; 1] = [(0..40).map(|i| (i * 37 % 384) as u32).collect()];
    let fast = CudaOptions { fast: Some(8), ..options() };
    let mut backend = match CudaBackend::open(&checkpoint("llama-tied").unwrap(), &fast) {
        // Of the machine's own that may be missing.
        Err(error) if error.code == "NoCublasLt" => return eprintln!("{error}"),
        opened => opened.unwrap(),
    };
    let [whole, cut] = [40, 5].map(|chunk| run(&mut backend, &sequence, 1, chunk).remove(0));
    assert!(whole != cut, "no bit depends on the batch");
    let mut exact = open("llama-tied", &options());
    let [whole, cut] = [40, 5].map(|chunk| run(&mut exact, &sequence, 1, chunk).remove(0));
    assert!(whole == cut, "ours do not");
}

/// As many rows as a step may have in large jobs, of one token each and of several.
#[test]
fn a_row_among_512_has_the_bits_that_it_has_alone() {
    let _device = device();
    let sequences: Vec<Vec<TokenId>> =
        (0..8).map(|s| (0..1 + s % 6).map(|i| (s * 41 + i * 7) as u32).collect()).collect();
    let want: Vec<Bits> = sequences
        .iter()
        .map(|s| run(&mut open("llama-tied", &options()), std::slice::from_ref(s), 1, 1).remove(0))
        .collect();
    let rows = 512;
    let all: Vec<Vec<TokenId>> = (0..rows).map(|i| sequences[i % 8].clone()).collect();
    let large = CudaOptions { n_blocks: rows, max_rows: rows, max_tokens: 2048, max_kept: rows, ..options() };
    for chunk in [1, 0] {
        let got = run(&mut open("llama-tied", &large), &all, rows, chunk);
        let other = (0..rows).find(|&i| got[i] != want[i % 8]);
        assert_eq!(other, None, "a row that differs, in chunks of {chunk}");
    }
}

/// The comparison above can fail: a token more in front gives other bits everywhere.
#[test]
fn other_requests_have_other_bits() {
    let _device = device();
    let tokens: Vec<TokenId> = (0..20).collect();
    let longer: Vec<TokenId> = std::iter::once(99).chain(0..20).collect();
    let mut backend = open("qwen3", &options());
    let a = run(&mut backend, &[tokens], 1, 20).remove(0);
    let b = run(&mut backend, &[longer], 1, 20).remove(0);
    assert!(a.iter().zip(&b[1..]).all(|(a, b)| a != b));
}
