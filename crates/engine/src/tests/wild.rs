//! Storms of requests whose policies branch, go back and finish again at every turn, by the hash of what they
//! see: whatever the signals are, the blocks are exact after every step, every answer ends within its bound,
//! and says what it says alone.

use super::requests::{Asked, Job, job};
use super::single::CAPACITY;
use super::storm::n_storms;
use super::{Model, Scripted, scripted};
use crate::faults::Fault;
use crate::{
    Branch, Budget, Decision, Done, Engine, EngineOptions, Event, FinishReason, Generate, History, Judge,
    Needs, Part, Phrase, Policy, PolicyState, Raw, Refork, RegionId, Request, RequestId, RequestKey, Resume,
    Rewind, Score, Signal, Span, Stat, Stats, Token, Verdict, Watcher, Work,
};
use entropix_model::{AttentionSignals, Capacity, Filters, Signals, Temperature, TokenId};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens that may be taken back.
const REACH: usize = 6;

/// Decides anything, by a hash of the signals and of what was said.
#[derive(Debug, Clone)]
struct Wild {
    seed: u64,
    budget: Budget,
    phrases: Vec<Phrase>,
    regions: Vec<Arc<str>>,
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 31)
}

impl Wild {
    fn new(seed: u64) -> Self {
        let budget = Budget {
            extra_tokens: [0.0, 0.5, 3.0, 1e9][seed as usize % 4],
            rewinds: (seed / 4 % 5) as u32,
            reforks: (seed / 20 % 3) as u32,
        };
        let phrases = vec![Phrase { tokens: vec![5, 6], cap: 2, cooldown: 2 }];
        Self { seed, budget, phrases, regions: vec!["wild".into()] }
    }

    fn judge(dice: u64) -> Judge {
        let span = Span {
            signal: Signal::Entropy,
            stat: Stat::Max,
            part: Part::Last(4),
            window: (dice % 3) as usize,
        };
        let score = [Score::MeanLogp, Score::TailEntropy, Score::WindowConfidence, Score::Span(span)]
            [(dice / 3 % 4) as usize];
        let filters = Filters { temperature: Temperature::Fixed(1.5), ..Filters::default() };
        match dice / 12 % 5 {
            0 | 1 => Judge::Best(score),
            2 => Judge::Majority { parent_weight: 1.0, tie_break: dice.is_multiple_of(2).then_some(filters) },
            3 => Judge::Weighted { score, parent_weight: 0.5 },
            _ => Judge::Replace(score),
        }
    }

    fn resume(dice: u64) -> Resume {
        let filters = Filters { temperature: Temperature::Fixed(0.9), top_k: 5, ..Filters::default() };
        Resume { draw: dice.is_multiple_of(2).then_some(filters), throughout: dice.is_multiple_of(3) }
    }

    fn rewind(history: &History<'_>, dice: u64) -> Decision {
        let n = history.output().len();
        let span = Span { signal: Signal::Varentropy, stat: Stat::Mean, part: Part::First(5), window: 1 };
        Decision::Rewind(Rewind {
            // Now and then into the prompt, or where it was told: to be refused.
            to: n.wrapping_sub(1 + (dice % 9) as usize),
            resume: Self::resume(dice / 9),
            keep: (dice / 18).is_multiple_of(2).then_some(Score::Span(span)),
        })
    }
}

impl Policy for Wild {
    fn name(&self) -> &str {
        "wild"
    }

    fn regions(&self) -> &[Arc<str>] {
        &self.regions
    }

    fn needs(&self) -> Needs {
        Needs { attention: false, logits: true, trace: true }
    }

    fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    fn start(&self) -> PolicyState {
        PolicyState { numbers: vec![0.0] }
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn settled(&self, history: &History<'_>) -> usize {
        history.output().len().saturating_sub(REACH)
    }

    fn answer(&self, output: &[TokenId]) -> Option<Arc<str>> {
        let last = output.last()? % 4;
        (last < 3).then(|| last.to_string().into())
    }

    fn decide(
        &self,
        signals: &Signals,
        _: Option<&AttentionSignals>,
        history: &History<'_>,
        state: &mut PolicyState,
    ) -> Verdict {
        assert_eq!(history.trace().len(), history.output().len(), "the trace is the output");
        assert!(
            history.trace().iter().zip(history.output()).all(|(token, id)| token.token == *id),
            "the trace is of other tokens"
        );
        state.numbers[0] += 1.0;
        let seen = [
            u64::from(signals.entropy.to_bits()),
            state.numbers[0].to_bits(),
            history.tried().count() as u64,
            u64::from(history.last_injected()),
            u64::from(history.reaches(4)),
        ];
        let dice = seen.into_iter().fold(self.seed, mix);
        let (kind, dice) = (dice % 16, dice >> 8);
        let filters = Filters { temperature: Temperature::Fixed(0.8), top_p: 0.9, ..Filters::default() };
        let decision = match kind {
            0..4 => Decision::Argmax,
            4..6 => Decision::Draw(filters),
            6 => Decision::BestOf { n: 2, filters },
            7 => Decision::Inject { phrase: 0 },
            8..12 => Decision::Branch(Branch {
                width: (dice % 5) as u8,
                horizon: (dice / 5 % 4 > 0).then_some((dice / 20 % 5) as u32),
                to_sentence_end: (dice / 100).is_multiple_of(2),
                judge: Self::judge(dice / 200),
            }),
            12..15 => Self::rewind(history, dice),
            _ if dice.is_multiple_of(4) => Decision::Stop { reason: "doubt".into() },
            _ => Decision::Refork(Refork { points: vec![0], resume: Self::resume(1), judge: Self::judge(0) }),
        };
        Verdict { region: RegionId(0), decision }
    }

    fn observe(&self, token: TokenId, _: f32, state: &mut PolicyState) {
        state.numbers[0] += f64::from(token) * 0.5;
    }

    fn conclude(
        &self,
        finish: FinishReason,
        history: &History<'_>,
        state: &mut PolicyState,
    ) -> Option<Verdict> {
        let dice = mix(self.seed ^ finish as u64, state.numbers[0].to_bits());
        let (kind, dice) = (dice % 8, dice >> 8);
        let n = history.output().len();
        let decision = match kind {
            0 | 1 => return None,
            2..4 => Self::rewind(history, dice),
            4 if dice.is_multiple_of(5) => Decision::Stop { reason: "no".into() },
            _ => Decision::Refork(Refork {
                points: (0..dice % 4).map(|i| n.wrapping_sub(1 + (dice >> (3 * i)) as usize % 8)).collect(),
                resume: Self::resume(dice / 7),
                judge: Self::judge(dice / 30),
            }),
        };
        Some(Verdict { region: RegionId(0), decision })
    }
}

/// What is heard of one choice.
#[derive(Debug, Default, Clone, PartialEq)]
struct Heard {
    told: Vec<(TokenId, usize, [u32; 3], u16, crate::DecisionKind, bool)>,
    done: Option<(FinishReason, usize, usize)>,
    /// The lines by the raw events, and the one that is left.
    lines: BTreeMap<u32, Vec<TokenId>>,
    n_raw: usize,
    /// Lines that were made or taken back, each of which runs one token again.
    n_again: usize,
    /// Tokens that the events charge for.
    discarded: usize,
}

impl Heard {
    fn raw(&mut self, raw: Raw, n_prompt: usize) {
        match raw {
            Raw::Token { branch, token } => {
                self.n_raw += 1;
                let line = self.lines.entry(branch).or_default();
                assert_eq!(line.len() + n_prompt, token.position, "tokens in order");
                line.push(token.token);
            }
            Raw::Retract { branch, position, discarded, .. } => {
                self.n_again += 1;
                self.discarded += discarded;
                self.lines.entry(branch).or_default().truncate(position - n_prompt);
            }
            Raw::Fork { parent, children, decision, .. } => {
                let line = self.lines.entry(parent).or_default().clone();
                for (child, base) in children {
                    self.n_again +=
                        usize::from(decision != crate::DecisionKind::Branch || base - n_prompt < line.len());
                    let own = line[..base - n_prompt].to_vec();
                    assert!(self.lines.insert(child, own).is_none(), "line {child} is made twice");
                }
            }
            Raw::Join { winner, scores, discarded, .. } => {
                self.n_again += 1;
                self.discarded += discarded;
                for (line, _) in scores {
                    if line != winner {
                        self.lines.remove(&line);
                    }
                }
            }
            Raw::Inject { .. } | Raw::Decision { .. } => {}
        }
    }
}

fn said(token: &Token) -> (TokenId, usize, [u32; 3], u16, crate::DecisionKind, bool) {
    let bits = [token.signals.entropy, token.logprob, token.temperature].map(f32::to_bits);
    (token.token, token.position, bits, token.region.0, token.decision, token.end)
}

fn request(asked: &Asked, i: usize, seed: u64) -> Request {
    let generate = Generate {
        parameters: crate::Parameters { raw_events: true, ..asked.parameters.clone() },
        policy: Arc::new(wild(i, seed)),
        watcher: asked.watcher().map(|watcher| Box::new(watcher) as Box<dyn Watcher>),
    };
    Request {
        key: RequestKey(i as u64),
        prompt: asked.prompt.clone(),
        work: Work::Generate(Box::new(generate)),
    }
}

/// The policy of a request.
fn wild(i: usize, seed: u64) -> Wild {
    Wild::new(mix(seed, i as u64) >> 20)
}

/// The most tokens that may be computed for one choice.
fn most_tokens(asked: &Asked, i: usize, seed: u64) -> usize {
    wild(i, seed).budget.most_tokens(asked.parameters.max_tokens.unwrap_or(0), 4, 3)
}

type All = BTreeMap<(usize, u32), Heard>;

/// Runs the requests whose numbers are given.
fn run(
    job: &Job,
    numbers: &[usize],
    capacity: Capacity,
    seed: u64,
    fault: Option<Fault>,
) -> Result<(All, Stats), String> {
    let options = EngineOptions {
        prefill_chunk: Some(job.prefill_chunk),
        watermark: job.watermark,
        prefix_sharing: job.prefix_sharing,
        ..EngineOptions::new(scripted::classes())
    };
    let backend = Scripted::new(capacity, Model { nan_after: None });
    let mut engine = Engine::new(Box::new(backend), options).map_err(|error| error.to_string())?;
    engine.scheduler.pool.set_hash_bits(job.hash_bits);
    engine.scheduler.pool.fault = fault;
    let mut ids: BTreeMap<RequestId, usize> = BTreeMap::new();
    let mut heard = All::new();
    let mut events = Vec::new();
    let last = numbers.iter().map(|&i| job.requests[i].arrives).max().unwrap_or(0);
    let of = |i: usize| {
        let asked = &job.requests[i];
        most_tokens(asked, i, seed) * asked.parameters.n as usize + asked.prompt.len()
    };
    // Steps that compute nothing new are those of other requests, or run again what was preempted: at worst all that is
    // in front of each token, where there is room for one line at a time.
    let most: usize = job.capacity.max_context * numbers.iter().map(|&i| of(i)).sum::<usize>();
    for step in 0.. {
        for &i in numbers.iter().filter(|&&i| job.requests[i].arrives == step) {
            ids.insert(engine.submit(request(&job.requests[i], i, seed)).map_err(|e| e.to_string())?, i);
        }
        if numbers.len() > 1 {
            for &i in numbers.iter().filter(|&&i| job.requests[i].cancelled == Some(step)) {
                if let Some((&id, _)) = ids.iter().find(|(_, number)| **number == i) {
                    engine.cancel(id);
                    heard.retain(|key, _| key.0 != i);
                }
            }
        }
        if engine.is_idle() && step > last {
            break;
        }
        if step > most + last {
            return Err(format!("no end after {step} steps: {:?}", engine.stats()));
        }
        engine.step(&mut events).map_err(|error| error.to_string())?;
        engine.scheduler.check();
        for event in events.drain(..) {
            match event {
                Event::Token(token) => {
                    let heard = heard.entry((ids[&token.request], token.choice)).or_default();
                    assert!(heard.done.is_none(), "speaks after its end");
                    heard.told.push(said(&token));
                }
                Event::Raw(raw) => {
                    let i = ids[&raw.request()];
                    let choice = match &raw {
                        Raw::Token { token, .. } => token.choice,
                        Raw::Inject { choice, .. }
                        | Raw::Decision { choice, .. }
                        | Raw::Retract { choice, .. }
                        | Raw::Fork { choice, .. }
                        | Raw::Join { choice, .. } => *choice,
                    };
                    heard.entry((i, choice)).or_default().raw(raw, job.requests[i].prompt.len());
                }
                Event::Done(Done { request, choice, finish, usage, .. }) => {
                    let heard = heard.entry((ids[&request], choice)).or_default();
                    assert_eq!(heard.discarded, usage.discarded_tokens, "every charge has its event");
                    let most = most_tokens(&job.requests[ids[&request]], ids[&request], seed);
                    assert!(
                        heard.n_raw <= most,
                        "{} tokens computed, at most {most} are allowed",
                        heard.n_raw
                    );
                    let end = (finish, usage.completion_tokens, usage.discarded_tokens);
                    assert!(heard.done.replace(end).is_none(), "ends twice");
                }
                Event::Failed { error, .. } => return Err(error.to_string()),
                Event::Scored(_) => return Err("nothing is scored".into()),
            }
        }
    }
    let stats = engine.stats();
    let published = if job.prefix_sharing { engine.scheduler.pool.n_published() } else { 0 };
    if (stats.running, stats.waiting, stats.blocks_used, stats.blocks_cached) != (0, 0, 0, published) {
        return Err(format!("not all is given back: {stats:?}, {published} published"));
    }
    Ok((heard, stats))
}

fn check(job: &Job, seed: u64, fault: Option<Fault>) -> Result<Stats, String> {
    let mut job = job.clone();
    for asked in &mut job.requests {
        (asked.scores, asked.parameters.logit_bias) = (false, Vec::new());
    }
    let all: Vec<usize> = (0..job.requests.len()).collect();
    let (heard, stats) = run(&job, &all, job.capacity, seed, fault)?;
    let ample =
        Capacity { n_blocks: 400, max_rows: 40, max_kept: 40, max_tokens: 80, block_size: 4, ..CAPACITY };
    for i in all {
        let (alone, _) = run(&job, &[i], ample, seed, None)?;
        for (key, alone) in alone {
            let n_told = alone.told.len();
            let Some((_, n_output, n_discarded)) = alone.done else {
                return Err(format!("{key:?} does not end"));
            };
            let left: Vec<_> = alone.lines.values().collect();
            let told: Vec<TokenId> = alone.told.iter().map(|said| said.0).collect();
            if n_output != n_told || left.iter().any(|line| ***line != told) || left.len() > 1 {
                return Err(format!("{key:?}: told {told:?}, lines {left:?}, {n_output} tokens"));
            }
            let lost = alone.n_raw - n_told;
            if n_discarded < lost || n_discarded > lost + alone.n_again {
                return Err(format!(
                    "{key:?}: {n_discarded} discarded, {lost} lost, {} again",
                    alone.n_again
                ));
            }
            match heard.get(&key) {
                None if job.requests[i].cancelled.is_some() => {}
                Some(heard) if heard.done.is_none() && job.requests[i].cancelled.is_some() => {}
                // How far a line had come that need not be run to its end is chance.
                Some(heard)
                    if (&heard.told, &heard.done, &heard.lines)
                        == (&alone.told, &alone.done, &alone.lines) => {}
                heard => return Err(format!("{key:?}\n got {heard:?}\nwant {alone:?}")),
            }
        }
    }
    Ok(stats)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: n_storms(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is decided: exact blocks, an end, the same in any company.
    #[test]
    fn wild_storms_change_nothing(job in job(), seed in any::<u64>()) {
        if let Err(fault) = check(&job, seed, None) {
            prop_assert!(false, "{fault}");
        }
    }
}

/// Four lines of one request, room for one of them, and nothing that one could have of another: each computes its prompt.
#[test]
fn lines_take_turns_where_there_is_room_for_one() {
    let capacity = Capacity {
        n_blocks: 18,
        block_size: 1,
        max_rows: 1,
        max_tokens: 1,
        max_kept: 1,
        max_candidates: 8,
        vocab_size: 24,
        max_context: 18,
    };
    let asked = Asked {
        prompt: (0..15).map(|i| (1 + 7 * i) % 24).chain([0]).collect(),
        scores: false,
        parameters: crate::Parameters { max_tokens: Some(2), ..Default::default() },
        attention: false,
        stops: false,
        watch_sum: None,
        arrives: 0,
        cancelled: None,
    };
    let job = Job {
        capacity,
        prefill_chunk: 1,
        watermark: 0,
        prefix_sharing: false,
        hash_bits: u64::MAX,
        requests: vec![asked],
    };
    let stats = check(&job, 7989112075348560227, None).expect("sound");
    assert!(stats.recomputed_tokens > 42, "{stats:?}");
}

fn storms() -> impl Iterator<Item = (Job, u64)> {
    let mut runner = TestRunner::deterministic();
    (0..400).map(move |seed| (job().new_tree(&mut runner).expect("a job").current(), mix(7, seed)))
}

#[test]
fn wild_storms_reach_every_corner() {
    let mut all = Stats::default();
    for (job, seed) in storms() {
        let stats = check(&job, seed, None).expect("sound");
        all.preemptions += stats.preemptions;
        all.discarded_tokens += stats.discarded_tokens;
        all.over_budget += stats.over_budget;
        all.decisions.iter_mut().zip(stats.decisions).for_each(|(all, n)| *all += n);
    }
    assert!(all.decisions.iter().all(|&n| n > 30), "{all:?}");
    assert!(all.preemptions > 200 && all.discarded_tokens > 1000 && all.over_budget > 100, "{all:?}");
}

/// Negative controls.
#[test]
fn wild_storms_notice_planted_faults() {
    for fault in [Fault::UncountedHolder, Fault::MissingCopy, Fault::WrittenPublished, Fault::SharedCoins] {
        let noticed = storms().position(|(job, seed)| {
            let run = std::panic::AssertUnwindSafe(|| check(&job, seed, Some(fault)).is_err());
            std::panic::catch_unwind(run).unwrap_or(true)
        });
        println!("{fault:?} noticed in storm {noticed:?}");
        assert!(noticed.is_some(), "{fault:?} goes unnoticed");
    }
}
