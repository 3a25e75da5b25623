//! What the seam promises besides numbers: draws, candidates, copies, poisoned rows, and how little crosses to the host.

use crate::drive::{device, fake, kept, open, options, row, same, signals};
use entropix_cuda::{CudaBackend, CudaOptions, KvType};
use entropix_emulator::FakeDriver;
use entropix_model::sampling::{self, DrawScratch};
use entropix_model::{
    Ask, Backend, Batch, BlockCopy, Candidates, Coin, Draw, Drawn, Edit, Filters, Slot, Status, Temperature,
    TokenMask,
};

#[test]
fn draws_and_candidates_are_those_of_the_definition() {
    let _device = device();
    let mut backend = open("llama-tied.Q4_1.gguf", &options());
    let tokens: Vec<u32> = (0..40).map(|i| i * 31 % 384).collect();
    // Places are not slots: every third ask passes.
    let asks: Vec<Ask> = (0..40).map(|i| Ask { keep_logits: i % 3 > 0, ..kept(i) }).collect();
    let step = row(&mut backend, &tokens, 0, 5, &asks);
    let signals = signals(&mut backend, step, 40);
    let slots: Vec<Slot> = (0..40).filter(|i| i % 3 > 0).collect();
    let logits = |backend: &dyn Backend, slot| backend.logits(step, slot).unwrap();
    let mut scratch = DrawScratch::default();

    let asked: Vec<(Slot, u16)> =
        slots.iter().rev().map(|&slot| (slot, [1, 2, 64, 256, 300][slot as usize % 5])).collect();
    let (mut got, mut want) = (Candidates::default(), Candidates::default());
    backend.candidates(step, &asked, &mut got).unwrap();
    for &(slot, k) in &asked {
        let k = usize::from(k).min(backend.capacity().max_candidates);
        sampling::candidates(&logits(&backend, slot), &signals[slot as usize], k, &mut scratch, &mut want);
    }
    assert_eq!(got.n_lists(), want.n_lists());
    for i in 0..got.n_lists() {
        assert_eq!(got.list(i).len(), want.list(i).len());
        for (a, b) in got.list(i).iter().zip(want.list(i)) {
            assert!(a.token == b.token && (a.logprob - b.logprob).abs() < 1e-5, "list {i}: {a:?} {b:?}");
        }
    }

    let mut mask = TokenMask::none(384);
    (0..384).filter(|t| t % 3 > 0).for_each(|t| mask.allow(t));
    let edits = [
        Edit { token: 7, penalty: 1.3, bias: 0.5 },
        Edit { token: 9, penalty: 1.0, bias: f32::NEG_INFINITY },
    ];
    let coins: Vec<Coin> = (1..200).map(|i: u64| Coin(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let filters =
        |temperature, top_k, top_p, min_p| Filters { temperature, top_k, top_p, min_p, ..Filters::default() };
    // More than there is room for at once.
    let draws: Vec<Draw<'_>> = (0..120)
        .map(|i: usize| Draw {
            slot: slots[i % slots.len()],
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
        let want =
            sampling::draw(&logits(&backend, draw.slot), &signals[draw.slot as usize], draw, &mut scratch);
        assert_eq!(drawn.token, want.token, "{draw:?}");
        assert!((drawn.logprob - want.logprob).abs() < 1e-5, "{drawn:?} {want:?}");
        assert!((drawn.temperature - want.temperature).abs() < 1e-4, "{drawn:?} {want:?}");
    }
    // Together, each is what it is alone.
    let (mut again, mut lists) =
        (vec![Drawn { token: None, logprob: 0.0, temperature: 0.0 }; draws.len()], got.clone());
    lists.clear();
    backend.choose(step, &draws, &mut again, &asked, &mut lists).unwrap();
    assert_eq!(again, drawn);
    assert_eq!(lists.n_lists(), got.n_lists());
    for i in 0..got.n_lists() {
        assert_eq!(lists.list(i), got.list(i), "list {i}");
    }
    let different: std::collections::BTreeSet<_> = drawn.iter().map(|d| d.token).collect();
    assert!(different.len() > 10, "only {} tokens were ever drawn", different.len());
}

/// At most 64 bytes an ask, 32 more with attention signals, and one wait a step.
#[test]
fn little_crosses_to_the_host() {
    let Some(driver) = fake() else { return };
    let mut backend = open("qwen3", &options());
    for (n, attention) in [(1usize, false), (1, true), (30, false), (30, true)] {
        let asks: Vec<Ask> = (0..n).map(|i| Ask { attention, keep_logits: i % 2 == 0, ..kept(i) }).collect();
        let before = (driver.counts().bytes_out, waits(&driver));
        let step = row(&mut backend, &vec![9; n], 0, 0, &asks);
        signals(&mut backend, step, n);
        if attention {
            let slots: Vec<Slot> = (0..n as u32).collect();
            backend.attention(step, &slots, &mut vec![Default::default(); n]).unwrap();
        }
        let crossed = driver.counts().bytes_out - before.0;
        let most = n as u64 * if attention { 96 } else { 64 };
        assert!(crossed > 0 && crossed <= most, "{crossed} bytes for {n} asks");
        assert_eq!(waits(&driver) - before.1, 1, "one wait a step");
    }
    let step = row(&mut backend, &[9], 0, 0, &[kept(0)]);
    signals(&mut backend, step, 1);
    let before = (driver.counts().bytes_out, waits(&driver));
    backend.candidates(step, &[(0, 16)], &mut Candidates::default()).unwrap();
    assert_eq!(driver.counts().bytes_out - before.0, 16 * 8 + 4);
    assert_eq!(waits(&driver) - before.1, 1);
    // Draws and candidates share a wait, so a step takes two at most.
    let before = waits(&driver);
    let draw = Draw { slot: 0, filters: Filters::default(), edits: &[], mask: None, coins: &[Coin(1)] };
    let mut drawn = [Drawn { token: None, logprob: 0.0, temperature: 0.0 }];
    backend.choose(step, &[draw], &mut drawn, &[(0, 16)], &mut Candidates::default()).unwrap();
    assert!(drawn[0].token.is_some());
    assert_eq!(waits(&driver) - before, 1);
}

fn waits(driver: &FakeDriver) -> u64 {
    driver.calls().into_iter().find(|(name, _)| name == "cuEventRecord").map_or(0, |(_, n)| n)
}

/// A copied block reads as the block it was copied from, chains of copies included.
#[test]
fn copies_of_blocks_are_in_order() {
    let _device = device();
    for kv_type in KvType::ALL {
        copies_are_in_order(&mut open("mistral.Q8_0.gguf", &CudaOptions { kv_type, ..options() }));
    }
}

fn copies_are_in_order(backend: &mut CudaBackend) {
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 384).collect();
    row(backend, &tokens, 0, 0, &[]);
    let go_on = |backend: &mut dyn Backend, blocks: &[u32]| {
        let mut batch = Batch::default();
        batch.push(&[5], 20, blocks, &[kept(0)]);
        let step = backend.submit(&batch).unwrap();
        signals(backend, step, 1)[0]
    };
    let copy = |from, to, tokens| BlockCopy { from, to, tokens };
    // 0 and 1 move on by three; the last copy overwrites what an earlier one read.
    backend
        .copy_blocks(&[
            copy(1, 9, 4),
            copy(0, 8, 16),
            copy(9, 7, 4),
            copy(8, 8, 3),
            copy(8, 6, 16),
            copy(7, 0, 4),
        ])
        .unwrap();
    let want = go_on(backend, &[8, 9]);
    assert!(same(&[want], &[go_on(backend, &[6, 7])]));
    assert!(!same(&[want], &[go_on(backend, &[0, 9])]), "what was overwritten reads otherwise");
}

/// A row whose cache holds NaN says so, and no other row does.
#[test]
fn a_poisoned_row_is_alone() {
    let Some(driver) = fake() else { return };
    for kv_type in KvType::ALL {
        check_poison(&driver, &mut open("llama3", &CudaOptions { kv_type, ..options() }));
    }
}

fn check_poison(driver: &FakeDriver, backend: &mut CudaBackend) {
    let fine: Vec<u32> = (0..17).collect();
    let mut batch = Batch::default();
    batch.push(&fine, 0, &[0, 1], &[kept(16)]);
    let step = backend.submit(&batch).unwrap();
    let alone = signals(backend, step, 1)[0];
    // Blocks 30 and 31 were never written: every byte of them is 0xff, a NaN.
    driver.fill_unwritten();
    batch.clear();
    batch.push(&fine, 0, &[0, 1], &[kept(16)]);
    batch.push(&[3], 20, &[30, 31], &[kept(0)]);
    batch.push(&fine, 0, &[4, 5], &[kept(16)]);
    let step = backend.submit(&batch).unwrap();
    let got = signals(backend, step, 3);
    assert_eq!(got[1].status(), Status::NotFinite);
    assert!(same(&[alone, alone], &[got[0], got[2]]));
}

#[test]
fn the_limit_is_measured_and_leaves_nothing_behind() {
    let Some(driver) = fake() else { return };
    driver.set("memory", 8 << 20);
    let bytes_per_second = entropix_cuda::copy_bandwidth(0).unwrap();
    assert!(bytes_per_second.is_finite() && bytes_per_second > 1e6, "{bytes_per_second}");
    assert_eq!(driver.counts().allocations, 0);
}
