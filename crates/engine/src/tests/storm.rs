//! Storms: random requests arrive, are shared, preempted, forked and cancelled; after every step the
//! blocks are counted, at the end every answer is compared with the plain loop's, bit by bit.
//! `ENTROPIX_STORMS=1000000` makes a campaign of it; `scripts/campaign/storm` does.

use super::oracle::{Ending, Said, answer};
use super::requests::{Asked, Job, job};
use super::{Model, Scripted, scripted};
use crate::faults::Fault;
use crate::{Engine, EngineOptions, Event, FinishReason, RequestId, Stats};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;

/// What came of a request.
#[derive(Debug, Default)]
struct Heard {
    /// By choice.
    said: BTreeMap<u32, Vec<Said>>,
    endings: BTreeMap<u32, Ending>,
    /// Entropy and target's ln p, in bits.
    scores: Vec<[u32; 2]>,
    failed: Option<&'static str>,
}

/// Runs a job to its end and says what was wrong, if anything.
fn run(job: &Job, model: Model, fault: Option<Fault>) -> Result<Stats, String> {
    let options = EngineOptions {
        prefill_chunk: Some(job.prefill_chunk),
        watermark: job.watermark,
        prefix_sharing: job.prefix_sharing,
        ..EngineOptions::new(scripted::classes())
    };
    let backend = Scripted::new(job.capacity, model);
    let mut engine = Engine::new(Box::new(backend), options).map_err(|error| error.to_string())?;
    engine.scheduler.pool.set_hash_bits(job.hash_bits);
    engine.scheduler.pool.fault = fault;
    let mut heard: Vec<Heard> = job.requests.iter().map(|_| Heard::default()).collect();
    let mut numbers: BTreeMap<RequestId, usize> = BTreeMap::new();
    let mut cancelled = vec![false; job.requests.len()];
    let last_arrival = job.requests.iter().map(|asked| asked.arrives).max().unwrap_or(0);
    // Every step runs at least one position of the oldest running sequence, which is never preempted.
    let length = |asked: &Asked| {
        (asked.prompt.len() + asked.parameters.max_tokens.unwrap_or(0)) * asked.parameters.n as usize
    };
    let most_steps = last_arrival + 2 + job.requests.iter().map(length).sum::<usize>();
    let mut events = Vec::new();
    for step in 0.. {
        for (i, asked) in job.requests.iter().enumerate().filter(|(_, asked)| asked.arrives == step) {
            numbers.insert(engine.submit(asked.request(i)).map_err(|error| error.to_string())?, i);
        }
        for (i, asked) in job.requests.iter().enumerate() {
            if asked.cancelled == Some(step)
                && let Some((&id, _)) = numbers.iter().find(|&(_, &number)| number == i)
            {
                cancelled[i] = engine.cancel(id);
            }
        }
        if engine.is_idle() && step > last_arrival {
            break;
        }
        if step > most_steps {
            return Err(format!("no end after {step} steps: {:?}", engine.stats()));
        }
        engine.step(&mut events).map_err(|error| error.to_string())?;
        engine.scheduler.check();
        for event in events.drain(..) {
            listen(&mut heard, &numbers, &cancelled, event)?;
        }
    }
    let stats = engine.stats();
    let published = if job.prefix_sharing { engine.scheduler.pool.n_published() } else { 0 };
    if (stats.running, stats.waiting, stats.blocks_used, stats.blocks_cached) != (0, 0, 0, published) {
        return Err(format!("not all is given back: {stats:?}, {published} published"));
    }
    for (i, asked) in job.requests.iter().enumerate() {
        compare(model, asked, i, &heard[i], cancelled[i])?;
    }
    Ok(stats)
}

fn listen(
    heard: &mut [Heard],
    numbers: &BTreeMap<RequestId, usize>,
    cancelled: &[bool],
    event: Event,
) -> Result<(), String> {
    let request = match &event {
        Event::Token(token) => token.request,
        Event::Scored(scored) => scored.request,
        Event::Raw(raw) => raw.request(),
        Event::Done(done) => done.request,
        Event::Failed { request, .. } => *request,
    };
    let number = numbers[&request];
    let heard = &mut heard[number];
    if cancelled[number] || heard.failed.is_some() {
        return Err(format!("request {number} speaks after its end: {event:?}"));
    }
    match event {
        Event::Token(token) => {
            if heard.endings.contains_key(&token.choice) {
                return Err(format!("choice {} of request {number} speaks after its end", token.choice));
            }
            heard.said.entry(token.choice).or_default().push(Said {
                token: token.token,
                position: token.position,
                bits: [token.signals.entropy, token.logprob, token.temperature].map(f32::to_bits),
                top: token.top.iter().map(|c| (c.token, c.logprob.to_bits())).collect(),
                region: token.region.0,
                decision: token.decision,
                attention: token.attention.map(|a| a.entropy.to_bits()),
                end: token.end,
            });
        }
        Event::Scored(scored) => {
            if scored.position != heard.scores.len() {
                return Err(format!("request {number}: position {} comes out of order", scored.position));
            }
            heard.scores.push([scored.signals.entropy, scored.signals.target_logprob].map(f32::to_bits));
        }
        Event::Done(done) => {
            if heard.endings.insert(done.choice, Ending::Done(done.finish)).is_some() {
                return Err(format!("choice {} of request {number} ends twice", done.choice));
            }
            let n_said = heard.said.get(&done.choice).map_or(0, Vec::len);
            if done.usage.completion_tokens != n_said {
                return Err(format!("request {number}: usage {:?} for {n_said} tokens", done.usage));
            }
        }
        Event::Raw(raw) => return Err(format!("nobody asked for {raw:?}")),
        Event::Failed { error, .. } => heard.failed = Some(error.code),
    }
    Ok(())
}

fn compare(model: Model, asked: &Asked, i: usize, heard: &Heard, is_cancelled: bool) -> Result<(), String> {
    if asked.scores {
        let score = |position: usize| {
            let target = asked.prompt.get(position + 1).copied();
            let signals = model.signals(&asked.prompt[..=position], target);
            [signals.entropy, signals.target_logprob].map(f32::to_bits)
        };
        let wanted: Vec<[u32; 2]> = (0..asked.prompt.len()).map(score).collect();
        let is_whole =
            heard.scores == wanted && heard.endings.get(&0) == Some(&Ending::Done(FinishReason::Stop));
        let is_begun = is_cancelled && wanted.starts_with(&heard.scores);
        return if is_whole || is_begun { Ok(()) } else { Err(format!("scores of request {i}: {heard:?}")) };
    }
    let answers: Vec<_> = (0..asked.parameters.n).map(|choice| answer(model, asked, i, choice)).collect();
    let failures: Vec<&str> = answers
        .iter()
        .filter_map(|(_, ending)| match ending {
            Ending::Failed(code) => Some(*code),
            Ending::Done(_) => None,
        })
        .collect();
    match heard.failed {
        Some(code) if !failures.contains(&code) => return Err(format!("request {i} failed with {code}")),
        None if !is_cancelled && !failures.is_empty() => return Err(format!("request {i} did not fail")),
        _ => {}
    }
    for ((said, ending), choice) in answers.iter().zip(0..) {
        let got = heard.said.get(&choice).map_or(&[][..], Vec::as_slice);
        let is_cut = is_cancelled || heard.failed.is_some();
        let is_right = match heard.endings.get(&choice) {
            Some(heard_ending) => got == said && heard_ending == ending,
            None => is_cut && said.starts_with(got),
        };
        if !is_right {
            let place = got.iter().zip(said).position(|(a, b)| a != b);
            return Err(format!(
                "request {i} choice {choice}, first difference {place:?}:\n got {got:?}\n and {:?}\nwant {said:?}\n and \
                 {ending:?}",
                heard.endings.get(&choice)
            ));
        }
    }
    Ok(())
}

const SOUND: Model = Model { nan_after: None };

/// How many jobs with a sound model, here and in the wild.
pub(super) fn n_storms() -> u32 {
    std::env::var("ENTROPIX_STORMS").map_or(10_000, |n| n.parse().expect("ENTROPIX_STORMS is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: n_storms(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Accounting is exact after every step, every request ends once and in bounded time, and says what it
    /// would say alone.
    #[test]
    fn storms_change_nothing(job in job()) {
        if let Err(fault) = run(&job, SOUND, None) {
            prop_assert!(false, "{fault}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows that are not numbers end their own requests and no other.
    #[test]
    fn storms_with_broken_rows(job in job(), token in 0..scripted::VOCAB as u32) {
        let mut job = job;
        job.requests.iter_mut().for_each(|asked| asked.scores = false);
        if let Err(fault) = run(&job, Model { nan_after: Some(token) }, None) {
            prop_assert!(false, "{fault}");
        }
    }
}

/// The storms are worth something only if they reach every corner.
#[test]
fn storms_reach_every_corner() {
    let mut runner = TestRunner::deterministic();
    let mut all = Stats::default();
    for _ in 0..300 {
        let job = job().new_tree(&mut runner).expect("a job").current();
        let stats = run(&job, SOUND, None).expect("sound");
        all.preemptions += stats.preemptions;
        all.shared_tokens += stats.shared_tokens;
        all.recomputed_tokens += stats.recomputed_tokens;
        all.failed += stats.failed;
        all.decisions.iter_mut().zip(stats.decisions).for_each(|(all, n)| *all += n);
    }
    assert!(all.preemptions > 200 && all.recomputed_tokens > 1000 && all.shared_tokens > 300, "{all:?}");
    // What comes after these is for storms of another kind.
    assert!(all.decisions[..5].iter().all(|&n| n > 30), "{all:?}");
}

/// Negative controls: each planted fault is noticed, or the storms prove nothing.
#[test]
fn planted_faults_are_noticed() {
    for fault in [Fault::UncountedHolder, Fault::EarlyPublication, Fault::SharedCoins, Fault::MissingCopy] {
        let mut runner = TestRunner::deterministic();
        let noticed = (0..300).find(|_| {
            let job = job().new_tree(&mut runner).expect("a job").current();
            let run = std::panic::AssertUnwindSafe(|| run(&job, SOUND, Some(fault)).is_err());
            std::panic::catch_unwind(run).unwrap_or(true)
        });
        println!("{fault:?} noticed in storm {noticed:?}");
        assert!(noticed.is_some(), "{fault:?} goes unnoticed");
    }
}
