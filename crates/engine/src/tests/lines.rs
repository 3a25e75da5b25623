//! Directed tests of branches, returns and further ends, against plain loops over the model itself.

use super::Scripted;
use super::scripted::{self, END, VOCAB};
use super::single::*;
use crate::{
    Branch, Budget, Decision, DecisionKind, Done, Engine, EngineOptions, Event, FinishReason, History, Judge,
    Needs, Parameters, Part, Phrase, Policy, PolicyState, Raw, Refork, RegionId, Resume, Rewind, Score,
    Signal, Span, Stat, Token, TokenClass, Verdict,
};
use entropix_model::{AttentionSignals, Capacity, Filters, Signals, Temperature, TokenId};
use std::sync::Arc;

type Decide = dyn Fn(&History<'_>) -> Decision + Send + Sync;
type Conclude = dyn Fn(&History<'_>, FinishReason) -> Option<Decision> + Send + Sync;

/// Decides by functions of the history.
struct Plan {
    decide: Box<Decide>,
    conclude: Box<Conclude>,
    budget: Budget,
    holds_back: usize,
    regions: Vec<Arc<str>>,
    phrases: Vec<Phrase>,
}

impl Plan {
    fn new(decide: impl Fn(&History<'_>) -> Decision + Send + Sync + 'static) -> Self {
        Self {
            decide: Box::new(decide),
            conclude: Box::new(|_, _| None),
            budget: Budget { extra_tokens: 100.0, rewinds: 2, reforks: 1 },
            holds_back: usize::MAX,
            regions: vec!["plan".into()],
            phrases: vec![Phrase { tokens: vec![5, 6, 7], cap: 1, cooldown: 1 }],
        }
    }

    /// Argmax, and this when the answer is over.
    fn concluding(
        conclude: impl Fn(&History<'_>, FinishReason) -> Option<Decision> + Send + Sync + 'static,
    ) -> Self {
        Self { conclude: Box::new(conclude), ..Self::new(|_| Decision::Argmax) }
    }
}

impl Policy for Plan {
    fn name(&self) -> &str {
        "plan"
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

    fn budget(&self) -> Budget {
        self.budget
    }

    fn settled(&self, history: &History<'_>) -> usize {
        history.output().len().saturating_sub(self.holds_back)
    }

    /// The last digit of the last token.
    fn answer(&self, output: &[TokenId]) -> Option<Arc<str>> {
        output.last().map(|token| (token % 3).to_string().into())
    }

    fn decide(
        &self,
        _: &Signals,
        _: Option<&AttentionSignals>,
        history: &History<'_>,
        _: &mut PolicyState,
    ) -> Verdict {
        Verdict { region: RegionId(0), decision: (self.decide)(history) }
    }

    fn conclude(&self, finish: FinishReason, history: &History<'_>, _: &mut PolicyState) -> Option<Verdict> {
        let decision = (self.conclude)(history, finish)?;
        Some(Verdict { region: RegionId(0), decision })
    }
}

/// Tokens by falling ln p after `tokens`.
fn ranked(tokens: &[TokenId]) -> Vec<(TokenId, f64)> {
    let logits = MODEL.logits(super::Model::context(tokens), tokens[tokens.len() - 1]);
    let log_z = logits.iter().map(|&z| f64::from(z).exp()).sum::<f64>().ln();
    let mut all: Vec<(TokenId, f64)> = (0..).zip(logits.iter().map(|&z| f64::from(z) - log_z)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

/// `n` tokens of greedy decoding, and the ln p of each.
fn greedy(mut tokens: Vec<TokenId>, n: usize) -> (Vec<TokenId>, Vec<f64>) {
    let mut logprobs = Vec::new();
    for _ in 0..n {
        let (token, logprob) = ranked(&tokens)[0];
        tokens.push(token);
        logprobs.push(logprob);
    }
    (tokens, logprobs)
}

const PROMPT: [TokenId; 3] = [4, 8, 15];

/// Greedy from the prompt for `n` tokens.
fn plain(n: usize) -> Vec<TokenId> {
    greedy(PROMPT.to_vec(), n).0[3..].to_vec()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn ask(n: usize, plan: Plan) -> crate::Request {
    generate(&PROMPT, Parameters { raw_events: true, ..at_most(n) }, Arc::new(plan))
}

struct Told {
    ids: Vec<TokenId>,
    tokens: Vec<Token>,
    raw: Vec<Raw>,
    done: Done,
    stats: crate::Stats,
}

fn hear(mut engine: Engine, request: crate::Request) -> Told {
    engine.submit(request).expect("sound");
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events).expect("a step");
        engine.scheduler.check();
    }
    let mut raw = Vec::new();
    events.retain(|event| match event {
        Event::Raw(it) => {
            raw.push(it.clone());
            false
        }
        _ => true,
    });
    let (tokens, mut done) = split(events);
    assert_eq!(engine.stats().blocks_used, 0);
    Told { ids: ids(&tokens), tokens, raw, done: done.remove(0), stats: engine.stats() }
}

fn branch(width: u8, horizon: Option<u32>, score: Score) -> Decision {
    Decision::Branch(Branch { width, horizon, to_sentence_end: false, judge: Judge::Best(score) })
}

fn at(n: usize, decision: Decision) -> Plan {
    Plan::new(move |history| {
        if history.output().len() == n && history.tried().next().is_none() {
            decision.clone()
        } else {
            Decision::Argmax
        }
    })
}

/// The children are the likeliest tokens, each followed greedily, and the one of highest mean ln p wins: for
/// every place to branch at, by a plain loop.
#[test]
fn a_branch_keeps_the_likeliest_continuation() {
    let mut winners = [0; 3];
    for place in 0..8 {
        let (start, _) = greedy(PROMPT.to_vec(), place);
        let children: Vec<(Vec<TokenId>, Vec<f64>)> = ranked(&start)[..3]
            .iter()
            .map(|&(token, logprob)| {
                let (tokens, rest) = greedy([start.as_slice(), &[token]].concat(), 3);
                (tokens, [&[logprob][..], &rest].concat())
            })
            .collect();
        let best =
            (0..3).max_by(|&a, &b| mean(&children[a].1).total_cmp(&mean(&children[b].1)).then(b.cmp(&a)));
        let best = best.expect("three children");
        winners[best] += 1;
        let (want, _) = greedy(children[best].0.clone(), 8 - place);
        let told = hear(engine(), ask(12, at(place, branch(3, Some(4), Score::MeanLogp))));
        assert_eq!(told.ids, want[3..], "branch at {place}, winner {best}");
        let (n_discarded, n_output) = (told.done.usage.discarded_tokens, told.done.usage.completion_tokens);
        assert_eq!((n_discarded, n_output), (8, 12), "two children of four tokens");
        assert_eq!(told.tokens[place].decision, DecisionKind::Branch);
        assert_eq!((told.stats.decisions[5], told.done.usage.branches), (1, 1));
        let joins = told.raw.iter().filter_map(|raw| match raw {
            Raw::Join { winner, scores, .. } => Some((*winner as usize, scores.clone())),
            _ => None,
        });
        for (winner, scores) in joins {
            assert_eq!(winner, best);
            for (child, (line, score)) in scores.into_iter().enumerate() {
                assert_eq!(line as usize, child);
                assert!((score - mean(&children[child].1)).abs() < 1e-4, "{score}");
            }
        }
    }
    assert!(winners.iter().filter(|&&n| n > 0).count() > 1, "{winners:?}: always the same child");
}

/// Children cost rows, not blocks: they share all but a half-full block, which is copied once a child but for
/// the last.
#[test]
fn children_share_their_blocks() {
    for (n_before, copies) in [(5, 0), (4, 2)] {
        // n_before + 3 positions are in the cache when the branching is decided; blocks hold 4.
        let mut engine = engine();
        engine.submit(ask(12, at(n_before, branch(3, Some(3), Score::MeanLogp)))).expect("sound");
        let mut events = Vec::new();
        let mut used = Vec::new();
        while !engine.is_idle() {
            let rows = engine.step(&mut events).expect("a step").rows;
            used.push((rows, engine.stats().blocks_used));
        }
        let n = n_before + 3;
        let alone = n.div_ceil(4);
        assert_eq!(used[n_before], (1, alone), "the step that decides");
        let tail = usize::from(!n.is_multiple_of(4));
        assert_eq!(used[n_before + 1], (3, alone - tail + 3), "one block of its own each");
        assert_eq!(used[n_before + 3].0, 1, "freed in the step of the last token: {used:?}");
        assert_eq!(engine.stats().copied_blocks, copies);
    }
}

#[test]
fn a_branch_at_the_last_token() {
    let told = hear(engine(), ask(5, at(4, branch(3, Some(4), Score::MeanLogp))));
    assert_eq!(told.ids, plain(5), "one token each: the likeliest wins");
    assert_eq!((told.done.finish, told.done.usage.discarded_tokens), (FinishReason::Length, 2));
}

/// A child that ends within the horizon waits for the others, and may win.
#[test]
fn a_child_may_end() {
    let bias = vec![(END, 100.0)];
    let parameters =
        Parameters { logit_bias: bias, max_tokens: Some(9), raw_events: true, ..Parameters::default() };
    let plan = at(0, branch(2, Some(4), Score::MeanLogp));
    let told = hear(engine(), generate(&PROMPT, parameters, Arc::new(plan)));
    // The first token cannot be the end, so each child has a token and then the end.
    assert_eq!(
        ranked(&PROMPT).iter().find(|ranked| ranked.0 == END).map(|ranked| ranked.1),
        Some(f64::NEG_INFINITY)
    );
    assert_eq!(told.done.finish, FinishReason::Stop);
    assert_eq!(told.ids.last(), Some(&END));
    assert!(told.tokens.last().is_some_and(|token| token.end));
    assert_eq!(told.done.usage.discarded_tokens + told.ids.len(), 4);
}

/// Few blocks: the children take turns, and nothing else changes.
#[test]
fn a_fork_when_blocks_are_short() {
    let request = || ask(12, at(2, branch(4, Some(6), Score::TailEntropy)));
    let tight = Capacity { n_blocks: 15usize.div_ceil(4), ..CAPACITY };
    let (ample, tight) = (hear(engine(), request()), hear(engine_with(tight, MODEL, |_| ()), request()));
    assert_eq!(ample.ids, tight.ids);
    assert_eq!(ample.done, tight.done);
    assert!(tight.stats.preemptions > 0 && ample.stats.preemptions == 0);
}

#[test]
fn a_child_whose_logits_are_no_numbers_ends_the_request() {
    let second = ranked(&PROMPT)[1].0;
    let model = super::Model { nan_after: Some(second) };
    let mut engine = engine_with(CAPACITY, model, |_| ());
    engine.submit(ask(9, at(0, branch(2, Some(4), Score::MeanLogp)))).expect("sound");
    engine.submit(generate(&[9, 9], at_most(3), preset("greedy"))).expect("sound");
    let events = finish(&mut engine);
    let failed = events
        .iter()
        .filter(|event| matches!(event, Event::Failed { error, .. } if error.code == "NumericalError"));
    assert_eq!(failed.count(), 1);
    assert_eq!((engine.stats().failed, engine.stats().blocks_used), (1, 0));
    engine.scheduler.check();
}

#[test]
fn cancelled_in_mid_branch() {
    for n_steps in 1..9 {
        let mut engine = engine();
        let id = engine.submit(ask(12, at(2, branch(4, Some(4), Score::MeanLogp)))).expect("sound");
        let mut events = Vec::new();
        for _ in 0..n_steps {
            engine.step(&mut events).expect("a step");
        }
        assert!(engine.cancel(id) && engine.is_idle());
        assert_eq!(engine.stats().blocks_used, 0);
        engine.scheduler.check();
    }
}

/// Children only take tokens: what else they are told becomes `Argmax`.
#[test]
fn children_take_tokens_only() {
    let wild = |history: &History<'_>| match history.output().len() {
        1 => branch(2, Some(6), Score::MeanLogp),
        2 => Decision::Inject { phrase: 0 },
        3 => branch(2, Some(6), Score::MeanLogp),
        4 => Decision::Rewind(Rewind { to: 1, resume: Resume::default(), keep: None }),
        5 => Decision::Stop { reason: "no".into() },
        _ => Decision::Argmax,
    };
    let told = hear(engine(), ask(9, Plan::new(wild)));
    let calm = hear(engine(), ask(9, at(1, branch(2, Some(6), Score::MeanLogp))));
    assert_eq!(told.ids, calm.ids);
    assert_eq!(told.stats.decisions[5], 1);
}

fn back(n: usize, to: usize, keep: Option<Score>) -> Plan {
    at(n, Decision::Rewind(Rewind { to, resume: Resume::default(), keep }))
}

/// What was taken back is banned there, and nobody but the raw listener sees it.
#[test]
fn a_return_takes_the_runner_up() {
    let (start, _) = greedy(PROMPT.to_vec(), 3);
    let runner_up = ranked(&start)[1].0;
    let (want, _) = greedy([start.as_slice(), &[runner_up]].concat(), 5);
    let told = hear(engine(), ask(9, back(6, 3, None)));
    assert_eq!(told.ids, want[3..], "from token 3 on with the runner-up");
    assert_eq!(told.done.usage.discarded_tokens, 3 + 1, "three tokens, and the one before them run again");
    assert_eq!(told.tokens[3].decision, DecisionKind::Rewind);
    let retracted: Vec<_> =
        told.raw.iter().filter(|raw| matches!(raw, Raw::Retract { position: 6, branch: 0, .. })).collect();
    assert_eq!(retracted.len(), 1, "position 6 is token 3 after a prompt of 3");
    let n_raw = told.raw.iter().filter(|raw| matches!(raw, Raw::Token { .. })).count();
    assert_eq!(n_raw, 9 + 3);
}

/// Into the prompt, beyond the end, behind what was told, more often than allowed: all refused.
#[test]
fn returns_that_are_refused() {
    let to = |to: usize| hear(engine(), ask(9, back(6, to, None)));
    for beyond in [6, 7, usize::MAX] {
        assert_eq!(to(beyond).ids, plain(9), "to {beyond}");
    }
    let told = hear(engine(), ask(9, Plan { holds_back: 2, ..back(6, 3, None) }));
    assert_eq!(told.ids, plain(9), "three tokens were told");
    let told = hear(engine(), ask(9, Plan { holds_back: 3, ..back(6, 3, None) }));
    assert_ne!(told.ids, plain(9));
    let always = |history: &History<'_>| match history.output().len() {
        4.. => Decision::Rewind(Rewind { to: 3, resume: Resume::default(), keep: None }),
        _ => Decision::Argmax,
    };
    let told = hear(engine(), ask(9, Plan::new(always)));
    assert_eq!(told.stats.decisions[6], 2, "two rewinds, then no more");
    // Of which only the last left a token.
    assert_eq!((told.done.usage.branches, told.done.usage.rewinds, told.done.usage.reforks), (0, 2, 0));
    let (start, _) = greedy(PROMPT.to_vec(), 3);
    assert_eq!(told.ids[3], ranked(&start)[2].0, "the third choice");
    let broke = Plan { budget: Budget { extra_tokens: 0.0, ..Budget::default() }, ..Plan::new(always) };
    assert_eq!(hear(engine(), ask(9, broke)).ids, plain(9));
}

/// A trial against a plain loop: the new line goes on only when its score is higher at the same length.
#[test]
fn a_kept_parent_comes_back_unless_beaten() {
    let span = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::First(6), window: 1 };
    let doubt = |tokens: &[TokenId]| {
        let entropy = |n: usize| f64::from(MODEL.signals(&tokens[..3 + n], None).entropy);
        mean(&(0..6).map(entropy).collect::<Vec<_>>())
    };
    let mut n_beaten = 0;
    for place in 0..6 {
        let (start, _) = greedy(PROMPT.to_vec(), place);
        let (child, _) = greedy([start.as_slice(), &[ranked(&start)[1].0]].concat(), 11 - place);
        let (parent, _) = greedy(PROMPT.to_vec(), 12);
        let is_beaten = doubt(&child) < doubt(&parent);
        n_beaten += usize::from(is_beaten);
        let told = hear(engine(), ask(12, back(6, place, Some(Score::Span(span)))));
        assert_eq!(told.ids, if is_beaten { &child } else { &parent }[3..], "from {place}");
        let again = if is_beaten { 1 } else { 2 };
        assert_eq!(told.done.usage.discarded_tokens, 6 - place + again, "a line and the tokens run again");
    }
    assert!(n_beaten > 0 && n_beaten < 6, "{n_beaten} of 6: both must happen");
}

/// An answer that ended before the tokens its score looks at: the other line is judged when it has them.
#[test]
fn a_line_that_ended_early_is_beaten_at_full_length() {
    let span = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::First(8), window: 1 };
    let (parent, _) = greedy(PROMPT.to_vec(), 4);
    let stop = parent[6];
    assert!(!parent[3..6].contains(&stop));
    let mut n_seen = 0;
    for place in 0..3 {
        let (start, _) = greedy(PROMPT.to_vec(), place);
        let (child, _) = greedy([start.as_slice(), &[ranked(&start)[1].0]].concat(), 11 - place);
        if child[3..11].contains(&stop) {
            continue;
        }
        n_seen += 1;
        let plan = Plan::concluding(move |history, _| {
            let rewind = Rewind { to: place, resume: Resume::default(), keep: Some(Score::Span(span)) };
            (history.output().len() == 4).then_some(Decision::Rewind(rewind))
        });
        let plan = Plan { budget: Budget { extra_tokens: 100.0, rewinds: 1, reforks: 0 }, ..plan };
        let parameters = Parameters { raw_events: true, stop_tokens: vec![stop], ..at_most(12) };
        let told = hear(engine(), generate(&PROMPT, parameters, Arc::new(plan)));
        // Of the child all tokens up to the eighth of the output were computed, whoever won.
        let computed = told.raw.iter().filter(|raw| matches!(raw, Raw::Token { branch: 1, .. })).count();
        assert!(computed >= 8 - place, "from {place}: {computed}");
        let is_parent = told.raw.iter().any(|raw| matches!(raw, Raw::Join { winner: 0, .. }));
        let lost = if is_parent { 8 - place + 1 } else { 4 - place + 1 };
        assert_eq!(told.done.usage.discarded_tokens, lost, "from {place}");
    }
    assert!(n_seen > 0);
}

/// A reader of the stream never sees a token that goes: what it was told only ever grows.
#[test]
fn told_tokens_stay() {
    let plan = Plan { holds_back: 4, ..back(6, 3, None) };
    let mut engine = engine();
    engine.submit(ask(9, plan)).expect("sound");
    let mut events = Vec::new();
    let mut n_told = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events).expect("a step");
        n_told.push(events.iter().filter(|event| matches!(event, Event::Token(_))).count());
    }
    assert_eq!(n_told, [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 4, 9], "held back by four, and by the return");
    let (tokens, _) = split(events.into_iter().filter(|event| !matches!(event, Event::Raw(_))).collect());
    assert_eq!(tokens.iter().map(|token| token.position).collect::<Vec<_>>(), (3..12).collect::<Vec<_>>());
}

fn ends(judge: Judge, points: Vec<usize>) -> Plan {
    Plan::concluding(move |history, finish| {
        assert_eq!((finish, history.output().len()), (FinishReason::Length, 8));
        Some(Decision::Refork(Refork {
            points: points.clone(),
            resume: Resume::default(),
            judge: judge.clone(),
        }))
    })
}

/// Further ends by a plain loop, and every judge of them.
#[test]
fn ends_are_tallied() {
    let (parent, _) = greedy(PROMPT.to_vec(), 8);
    let child = |place: usize| {
        let (start, _) = greedy(PROMPT.to_vec(), place);
        greedy([start.as_slice(), &[ranked(&start)[1].0]].concat(), 7 - place).0
    };
    let points = [1, 3, 6, 7];
    let lines: Vec<Vec<TokenId>> = [parent].into_iter().chain(points.map(child)).collect();
    let answer = |line: &[TokenId]| line[line.len() - 1] % 3;
    let score = |line: &[TokenId], base: usize| {
        mean(
            &(base..8)
                .map(|n| ranked(&line[..3 + n]).iter().find(|r| r.0 == line[3 + n]).expect("it").1)
                .collect::<Vec<_>>(),
        )
    };
    let run = |judge| hear(engine(), ask(8, ends(judge, points.to_vec())));
    let first_of = |wanted: TokenId| lines.iter().find(|line| answer(line) == wanted).expect("a line");
    let count = |wanted: TokenId| lines.iter().filter(|line| answer(line) == wanted).count();
    let most = (0..3).map(count).max().expect("three");
    let leaders: Vec<TokenId> = (0..3).filter(|&a| count(a) == most).collect();
    let told = run(Judge::Majority { parent_weight: 1.0, tie_break: None });
    assert!(leaders.iter().any(|&a| told.ids == first_of(a)[3..]), "{:?}", told.ids);
    let told = run(Judge::Majority { parent_weight: 9.0, tie_break: None });
    assert_eq!(told.ids, lines[0][3..]);
    let others: Vec<(usize, f64)> = (1..5)
        .filter(|&i| answer(&lines[i]) != answer(&lines[0]))
        .map(|i| (i, score(&lines[i], points[i - 1])))
        .collect();
    let best = others.iter().fold((0, f64::NEG_INFINITY), |best, &it| if it.1 > best.1 { it } else { best });
    let told = run(Judge::Replace(Score::MeanLogp));
    assert_eq!(told.ids, lines[best.0][3..], "line {} of {others:?}", best.0);
    assert_eq!((told.stats.decisions[7], told.done.usage.reforks), (1, 1));
    assert_eq!(told.done.finish, FinishReason::Length);
    let lost: usize = [7, 5, 2, 1].iter().sum::<usize>();
    let winner_own = if best.0 == 0 { 0 } else { 8 - points[best.0 - 1] };
    assert_eq!(
        told.done.usage.discarded_tokens,
        4 + lost,
        "four tokens run again; {winner_own} of the parent's instead of the winner's"
    );
}

/// Two ends that differ: a third line, drawn from the start, breaks the tie.
#[test]
fn a_tie_is_broken_by_a_draw() {
    let filters = Filters { temperature: Temperature::Fixed(1.0), ..Filters::default() };
    let mut n_broken = 0;
    for point in 0..8 {
        let judge = Judge::Majority { parent_weight: 1.0, tie_break: Some(filters) };
        let told = hear(engine(), ask(8, ends(judge, vec![point])));
        let n_forks = told.raw.iter().filter(|raw| matches!(raw, Raw::Fork { .. })).count();
        n_broken += usize::from(n_forks == 2);
        let drawn = told.raw.iter().filter(|raw| match raw {
            Raw::Token { branch: 2, token } => token.temperature == 1.0,
            _ => false,
        });
        assert_eq!(drawn.count(), if n_forks == 2 { 8 } else { 0 }, "a whole line is drawn or none");
        assert_eq!(told.done.usage.completion_tokens, 8);
    }
    assert!(n_broken > 0 && n_broken < 8, "{n_broken}");
}

/// Where the lead cannot be lost the others are not run to their ends.
#[test]
fn a_decided_vote_ends_early() {
    let late = ends(Judge::Majority { parent_weight: 3.5, tie_break: None }, vec![0, 1, 2]);
    let told = hear(engine(), ask(8, late));
    assert_eq!((told.ids, told.done.usage.discarded_tokens), (plain(8), 0), "decided before it begins");
}

/// An answer that was stopped by its policy is not finished again; one that the policy doubts at its end is.
#[test]
fn stopping_at_the_end() {
    let plan = Plan::concluding(|_, _| Some(Decision::Stop { reason: "doubt".into() }));
    let told = hear(engine(), ask(4, plan));
    assert_eq!(
        (told.ids.len(), told.done.finish, told.done.reason.as_deref()),
        (4, FinishReason::Abstain, Some("doubt"))
    );
}

/// A phrase that is cut off by max_tokens, and one at the last token.
#[test]
fn a_phrase_at_the_end() {
    let told = hear(engine(), ask(5, at(4, Decision::Inject { phrase: 0 })));
    assert_eq!(told.ids[4], 5);
    assert_eq!(told.done.finish, FinishReason::Length);
    assert!(told.raw.iter().any(|raw| matches!(raw, Raw::Inject { phrase: 0, position: 7, .. })));
}

/// A mask of the vocabulary (a grammar's, say) binds branches too.
#[test]
fn masks_bind_branches() {
    let banned = ranked(&PROMPT)[1].0;
    let mut mask = entropix_model::TokenMask::none(VOCAB);
    (0..VOCAB as TokenId).filter(|&token| token != banned).for_each(|token| mask.allow(token));
    let engine = engine_with(CAPACITY, MODEL, |options| options.choosable = Some(mask));
    let told = hear(engine, ask(6, Plan::new(|_| branch(3, Some(2), Score::MeanLogp))));
    let first: Vec<TokenId> = told
        .raw
        .iter()
        .filter_map(|raw| match raw {
            Raw::Token { token, .. } if token.position == 3 => Some(token.token),
            _ => None,
        })
        .collect();
    let want: Vec<TokenId> = [0, 2, 3].map(|place| ranked(&PROMPT)[place].0).to_vec();
    assert_eq!((first, told.ids.len()), (want, 6));
}

/// The children of a sentence rest where it ends.
#[test]
fn to_the_end_of_the_sentence() {
    let mut classes = scripted::classes();
    (0..VOCAB as TokenId)
        .filter(|token| token % 4 == 1)
        .for_each(|token| classes.add(token, TokenClass::SentenceEnd));
    let options = EngineOptions::new(classes);
    let engine = Engine::new(Box::new(Scripted::new(CAPACITY, MODEL)), options).expect("an engine");
    let judge = Judge::Best(Score::WindowConfidence);
    let decision = Decision::Branch(Branch { width: 3, horizon: Some(9), to_sentence_end: true, judge });
    let told = hear(engine, ask(16, at(0, decision)));
    let mut by_line = [0; 3];
    let joined = told.raw.iter().position(|raw| matches!(raw, Raw::Join { .. })).expect("a join");
    let mut is_over = [false; 3];
    for raw in &told.raw[..joined] {
        if let Raw::Token { branch, token } = raw {
            let line = *branch as usize;
            assert!(!is_over[line], "line {line} goes on after its sentence");
            by_line[line] += 1;
            is_over[line] = token.token % 4 == 1 || by_line[line] == 9;
        }
    }
    assert_eq!(is_over, [true; 3]);
}
