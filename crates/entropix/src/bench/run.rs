//! The tests of `bench`, run through the engine with the greedy policy and the signals that every token gets:
//! what is measured is what a job would see.

use super::limit::{Limits, Needs};
use super::result::{self, Samples};
use anyhow::Result;
use entropix::Session;
use entropix_cpu::StepTimes;
use entropix_engine::{Event, Generate, Parameters, Policy, Request, RequestId, RequestKey, Work};
use entropix_model::TokenId;
use entropix_model::random::splitmix64;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Positions a test may need beyond its own tokens: rows that start a step or two before the others.
pub(crate) const SLACK: usize = 64;

/// Runs tests on a session.
pub(crate) struct Bench<'a> {
    session: &'a mut Session,
    policy: Arc<dyn Policy>,
    random: u64,
    events: Vec<Event>,
}

/// One repetition.
struct Measured {
    tokens: usize,
    needs: Needs,
    time: Duration,
    phases: StepTimes,
}

/// One test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    /// A prompt of `n` tokens behind `depth` cached ones, at once.
    Prompt { n: usize, depth: usize },
    /// `n` tokens for each of `rows` sequences, one a step, behind `depth` cached ones each.
    Generation { n: usize, rows: usize, depth: usize },
}

impl Test {
    /// Positions that all sequences of the test hold together, and the most that one does.
    pub(crate) fn positions(self) -> (usize, usize) {
        match self {
            Test::Prompt { n, depth } => (depth + n + SLACK, depth + n + SLACK),
            Test::Generation { n, rows, depth } => (rows * (depth + n + SLACK), depth + n + SLACK),
        }
    }

    /// As llama-bench names it.
    pub(crate) fn name(self) -> String {
        match self {
            Test::Prompt { n, depth } => result::name(n, 0, depth),
            Test::Generation { n, depth, .. } => result::name(0, n, depth),
        }
    }

    /// Sequences at once.
    pub(crate) fn rows(self) -> usize {
        match self {
            Test::Prompt { .. } => 1,
            Test::Generation { rows, .. } => rows,
        }
    }
}

impl<'a> Bench<'a> {
    /// On `session`, whose context and cache must hold every test.
    pub(crate) fn new(session: &'a mut Session) -> Result<Self> {
        let policy = session.policy("greedy", &[])?;
        Ok(Self { session, policy, random: 1, events: Vec::new() })
    }

    /// Runs a test once to warm up, then `repetitions` times, each between two calls of `given`, which tells what the machine
    /// gives at the moment.
    pub(crate) fn run(
        &mut self,
        test: Test,
        repetitions: usize,
        mut given: impl FnMut() -> Result<Limits>,
    ) -> Result<Samples> {
        let (n_prompt, n_gen, n_depth) = match test {
            Test::Prompt { n, depth } => (n, 0, depth),
            Test::Generation { n, depth, .. } => (0, n, depth),
        };
        let mut all = Vec::with_capacity(repetitions);
        let mut limits = Vec::with_capacity(repetitions + 1);
        for repetition in 0..=repetitions {
            let measured = match test {
                Test::Prompt { n, depth } => self.prompt(n, depth)?,
                Test::Generation { n, rows, depth } => self.generation(n, rows, depth)?,
            };
            if repetition > 0 {
                all.push(measured);
            }
            limits.push(given()?);
        }
        let tokens: usize = all.iter().map(|m| m.tokens).sum();
        let mut phases = StepTimes::default();
        all.iter().for_each(|m| phases += m.phases);
        Ok(Samples {
            rows: test.rows(),
            n_prompt,
            n_gen,
            n_depth,
            tokens: tokens / all.len(),
            needs: all.iter().map(|m| m.needs).collect(),
            given: limits.windows(2).map(|around| around[0].between(around[1])).collect(),
            seconds: all.iter().map(|m| m.time.as_secs_f64()).collect(),
            phases,
        })
    }

    fn prompt(&mut self, n: usize, depth: usize) -> Result<Measured> {
        let mut prompt = self.tokens(depth);
        if depth > 0 {
            self.fill_cache(&[prompt.clone()])?;
        }
        prompt.extend(self.tokens(n));
        self.submit(prompt, Some(1))?;
        let before = self.session.step_times();
        let start = Instant::now();
        let (mut n_steps, mut shared, mut ended) = (0, 0, false);
        while !ended {
            self.session.engine().step(&mut self.events)?;
            n_steps += 1;
            for event in self.events.drain(..) {
                match event {
                    Event::Done(done) => {
                        shared = done.usage.shared_tokens;
                        ended = true;
                    }
                    Event::Failed { error, .. } => return Err(error.into()),
                    _ => {}
                }
            }
        }
        let time = start.elapsed();
        let phases = self.session.step_times() - before;
        // The last, unfilled block of the depth is computed again.
        let tokens = depth + n - shared;
        let seen = (shared + 1..=depth + n).sum();
        let needs = Needs::of(self.session.model(), n_steps, tokens, 1, depth + n, seen);
        Ok(Measured { tokens, needs, time, phases })
    }

    fn generation(&mut self, n: usize, rows: usize, depth: usize) -> Result<Measured> {
        let prompts: Vec<Vec<TokenId>> = (0..rows).map(|_| self.tokens(depth.max(1))).collect();
        if depth > 0 {
            self.fill_cache(&prompts)?;
        }
        let requests = prompts.into_iter().map(|prompt| self.submit(prompt, None));
        let requests: Vec<RequestId> = requests.collect::<Result<_>>()?;
        // Every row must be generating before the clock starts.
        let mut started = vec![false; rows];
        while !started.iter().all(|&started| started) {
            self.step(&requests, |row| started[row] = true)?;
        }
        let before = self.session.step_times();
        let start = Instant::now();
        let mut tokens = 0;
        for _ in 0..n {
            self.step(&requests, |_| tokens += 1)?;
        }
        let time = start.elapsed();
        let phases = self.session.step_times() - before;
        for request in requests {
            self.session.engine().cancel(request);
        }
        let seen = (1..=n).map(|i| rows * (depth.max(1) + i)).sum();
        let needs = Needs::of(self.session.model(), n, rows * n, rows * n, seen, seen);
        Ok(Measured { tokens, needs, time, phases })
    }

    /// One step; calls `token` with the row of every token that came out of it.
    fn step(&mut self, requests: &[RequestId], mut token: impl FnMut(usize)) -> Result<()> {
        self.session.engine().step(&mut self.events)?;
        for event in self.events.drain(..) {
            match event {
                Event::Token(t) => {
                    if let Some(row) = requests.iter().position(|&request| request == t.request) {
                        token(row);
                    }
                }
                Event::Failed { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Leaves the keys and values of `prompts` in the cache, where requests that start like them find them.
    fn fill_cache(&mut self, prompts: &[Vec<TokenId>]) -> Result<()> {
        for prompt in prompts {
            self.submit(prompt.clone(), Some(1))?;
        }
        while !self.session.engine().is_idle() {
            self.step(&[], |_| {})?;
        }
        Ok(())
    }

    fn submit(&mut self, prompt: Vec<TokenId>, max_tokens: Option<usize>) -> Result<RequestId> {
        let parameters = Parameters { max_tokens, ignore_eos: true, ..Parameters::default() };
        let generate = Generate { parameters, policy: self.policy.clone(), watcher: None };
        let work = Work::Generate(Box::new(generate));
        Ok(self.session.engine().submit(Request { key: RequestKey(0), prompt, work })?)
    }

    /// `n` random tokens, as llama-bench takes them; never the same twice, so that no prompt is found in the
    /// cache by accident.
    fn tokens(&mut self, n: usize) -> Vec<TokenId> {
        let n_vocab = self.session.engine().capacity().vocab_size as u64;
        (0..n).map(|_| (splitmix64(&mut self.random) % n_vocab) as TokenId).collect()
    }
}
