//! The engine's own cost of a step: planning, deciding and bookkeeping, on a backend that computes nothing.
//! `cargo bench -p entropix-engine`. Fails when 64 rows cost more than 100 microseconds a step.
#![allow(unsafe_code)]

use entropix_engine::{
    Engine, EngineOptions, Generate, Parameters, PolicyFile, Request, RequestKey, TokenClasses, Work,
};
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidate, Candidates, Capacity, Draw, Drawn,
};
use entropix_model::{Result, Signals, Slot, StepId};
use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const VOCAB: usize = 128_256;
const ROWS: usize = 64;
const STEPS: usize = 1000;
/// What a step of 64 rows may cost.
const LIMIT: Duration = Duration::from_micros(100);

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Signals that wander over every region; draws that cost nothing.
struct Nothing {
    step: u64,
}

impl Backend for Nothing {
    fn capacity(&self) -> Capacity {
        Capacity {
            n_blocks: 16_384,
            block_size: 16,
            max_rows: ROWS,
            max_tokens: 512,
            max_kept: ROWS,
            max_candidates: 64,
            vocab_size: VOCAB,
            max_context: 4096,
        }
    }

    fn submit(&mut self, _: &Batch) -> Result<StepId> {
        self.step += 1;
        Ok(StepId(self.step))
    }

    fn signals(&mut self, _: StepId, out: &mut [Signals]) -> Result<()> {
        for (place, signals) in out.iter_mut().enumerate() {
            let wander = (self.step as usize * 7 + place * 13) % 97;
            signals.entropy = wander as f32 * 0.06;
            signals.varentropy = (wander * 5 % 97) as f32 * 0.1;
            let token = 10 + (wander * 1009) as u32;
            signals.best = [Candidate { token, logprob: -0.1 }, Candidate { token: 9, logprob: -3.0 }];
        }
        Ok(())
    }

    fn attention(&mut self, _: StepId, _: &[Slot], _: &mut [AttentionSignals]) -> Result<()> {
        Ok(())
    }

    fn candidates(&mut self, _: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()> {
        out.clear();
        asks.iter().for_each(|_| out.push([]));
        Ok(())
    }

    fn draw(&mut self, _: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()> {
        for (draw, out) in draws.iter().zip(out) {
            let token = Some(10 + (self.step as u32 * 31 + draw.slot * 1009) % 100_000);
            *out = Drawn { token, logprob: -1.0, temperature: 1.0 };
        }
        Ok(())
    }

    fn copy_blocks(&mut self, _: &[BlockCopy]) -> Result<()> {
        Ok(())
    }

    fn logits(&self, _: StepId, _: Slot) -> Result<Vec<f32>> {
        Ok(vec![0.0; VOCAB])
    }
}

/// Microseconds and allocations of a step of 64 decoding rows, the median and the mean.
fn measure(policy: &str, parameters: &Parameters) -> Result<(Duration, f64)> {
    let mut engine =
        Engine::new(Box::new(Nothing { step: 0 }), EngineOptions::new(TokenClasses::new(VOCAB)))?;
    let policy = PolicyFile::load(policy, &[])?.bind(&|_| Ok(vec![2564]))?;
    for i in 0..ROWS as u64 {
        let prompt = (0..500).map(|k| (k * 31 + i as u32 * 7) % 1000 + 10).collect();
        let parameters = parameters.clone();
        let generate = Generate { parameters, policy: policy.clone(), watcher: None };
        engine.submit(Request { key: RequestKey(i), prompt, work: Work::Generate(Box::new(generate)) })?;
    }
    let mut events = Vec::with_capacity(ROWS);
    while engine.stats().tokens_out < 100 * ROWS as u64 {
        events.clear();
        engine.step(&mut events)?;
    }
    let mut costs = Vec::with_capacity(STEPS);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..STEPS {
        events.clear();
        let report = engine.step(&mut events)?;
        assert_eq!(report.rows, ROWS);
        costs.push(report.planning + report.deciding);
    }
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / STEPS as f64;
    costs.sort_unstable();
    Ok((costs[STEPS / 2], allocations))
}

fn main() -> ExitCode {
    let plain = Parameters { max_tokens: Some(3000), ignore_eos: true, ..Parameters::default() };
    let penalties = Parameters { repetition_penalty: 1.1, frequency_penalty: 0.5, ..plain.clone() };
    let mut is_good = true;
    println!("| {ROWS} rows | median a step | allocations a step |\n|---|---|---|");
    for (name, policy, parameters) in [
        ("greedy", "greedy", &plain),
        ("sample", "sample", &plain),
        ("attic", "attic", &plain),
        ("attic, penalties", "attic", &penalties),
    ] {
        match measure(policy, parameters) {
            Ok((cost, allocations)) => {
                println!("| {name} | {:.1} us | {allocations:.2} |", cost.as_nanos() as f64 / 1000.0);
                is_good &= cost <= LIMIT;
            }
            Err(error) => {
                println!("{name}: {error}");
                is_good = false;
            }
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
