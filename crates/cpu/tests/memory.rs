//! Memory: planned, claimed once, and never more than promised. One test in its own process, so that nobody
//! else's allocations are counted.
#![allow(unsafe_code)]

mod checkpoints;

use checkpoints::{cached_models, checkpoint};
use entropix_cpu::{CpuBackend, CpuOptions, plan};
use entropix_model::{
    Ask, AttentionSignals, Backend, Batch, BlockCopy, Candidates, Coin, Draw, Drawn, Filters, Signals, Slot,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what every thread asks of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, first: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(first, layout, new_size) }
    }

    unsafe fn dealloc(&self, first: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(first, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Prefill and decode in one batch, then everything that can be asked of it.
struct Round {
    batch: Batch,
    signals: Vec<Signals>,
    attention: Vec<AttentionSignals>,
    candidates: Candidates,
    drawn: Vec<Drawn>,
}

impl Round {
    fn run(&mut self, backend: &mut CpuBackend, start: usize) {
        let ask = |index| Ask { index, target: Some(3), attention: true, keep_logits: true };
        self.batch.clear();
        self.batch.push(&[7; 40], 0, &[0, 1, 2], &[ask(0), ask(39)]);
        for row in 0..5 {
            let first = 3 + 4 * row;
            self.batch.push(&[row + 1], start, &[first, first + 1, first + 2, first + 3], &[ask(0)]);
        }
        let step = backend.submit(&self.batch).unwrap();
        backend.signals(step, &mut self.signals).unwrap();
        backend.attention(step, &[0, 3, 6], &mut self.attention).unwrap();
        backend.candidates(step, &[(0, 64), (4, 2)], &mut self.candidates).unwrap();
        let coins = [Coin(1 << 60), Coin(3 << 62)];
        let filters = Filters { top_k: 20, top_p: 0.9, min_p: 0.01, ..Filters::default() };
        let draw = |slot: Slot, filters| Draw { slot, filters, edits: &[], mask: None, coins: &coins };
        backend.draw(step, &[draw(1, filters), draw(5, Filters::default())], &mut self.drawn).unwrap();
        backend.copy_blocks(&[BlockCopy { from: 0, to: 30, tokens: 16 }]).unwrap();
    }
}

fn steps_allocate_nothing() {
    let options =
        CpuOptions { threads: 2, n_blocks: 32, max_tokens: 64, max_kept: 8, ..CpuOptions::default() };
    let mut backend = CpuBackend::open(&checkpoint("llama-tied.Q4_1.gguf").unwrap(), &options).unwrap();
    let mut round = Round {
        batch: Batch::default(),
        signals: vec![Signals::default(); 7],
        attention: vec![AttentionSignals::default(); 3],
        candidates: Candidates::default(),
        drawn: vec![Drawn { token: None, logprob: 0.0, temperature: 0.0 }; 2],
    };
    (0..4).for_each(|start| round.run(&mut backend, start));
    let mut before = 0;
    let mut measure = || {
        before = ALLOCATIONS.load(Ordering::Relaxed);
        (4..40).for_each(|start| round.run(&mut backend, start));
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    // The thread that waits for this test allocates when it begins to wait, which may be late on a busy machine.
    let made = (0..3).map(|_| measure()).min().unwrap_or(0);
    // The counter counts.
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before + made);
    assert_eq!(made, 0, "allocations in 36 steps after warm-up");
}

/// The most memory this process ever had, in bytes; none where the system does not tell.
fn most_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// At most 1.35 times the weights' file, the cache, and 64 MiB.
fn opening_stays_within_the_promise(name: &str) {
    let Some(checkpoint) = checkpoint(name) else { return };
    let Some(before) = most_memory() else {
        eprintln!("this system does not tell the most memory a process had: not tested");
        return;
    };
    let options = CpuOptions { threads: 2, n_blocks: 64, ..CpuOptions::default() };
    let backend = CpuBackend::open(&checkpoint, &options).unwrap();
    let file = std::fs::metadata(cached_models().join(name)).unwrap().len();
    let plan = plan(&checkpoint.config, &checkpoint.weights, &options);
    let most = most_memory().unwrap();
    let limit = file * 135 / 100 + plan.cache + (64 << 20);
    println!("{name}: {} MiB of {} MiB ({} before)", most >> 20, limit >> 20, before >> 20);
    assert!(most <= limit, "{name}: {most} bytes at most, more than {limit}");
    assert!(backend.weight_bytes() as u64 <= file * 11 / 10, "{} bytes of weights", backend.weight_bytes());
}

#[test]
fn memory_is_what_was_promised() {
    steps_allocate_nothing();
    opening_stays_within_the_promise("SmolLM2-135M-Instruct.Q4_1.gguf");
    opening_stays_within_the_promise("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf");
}
