//! How answers end, and what happens on the way.

use super::Scripted;
use super::scripted::{self, END, VOCAB};
use super::single::*;
use crate::{
    DecisionKind, Engine, EngineOptions, Event, FinishReason, Parameters, Request, RequestId, RequestKey,
    Token, Watch, Watcher, Work,
};
use entropix_model::{Capacity, TokenId};

#[test]
fn no_tokens_wanted_is_done_at_once() {
    let parameters = Parameters { n: 2, ..at_most(0) };
    let (tokens, done) = run(generate(&[1, 2, 3], parameters.clone(), preset("greedy")));
    assert!(tokens.is_empty());
    let ends: Vec<_> = done.iter().map(|d| (d.choice, d.finish, d.usage.prompt_tokens)).collect();
    assert_eq!(ends, [(0, FinishReason::Length, 3), (1, FinishReason::Length, 3)]);
    let mut engine = engine();
    let id = engine.submit(generate(&[1, 2, 3], parameters, preset("greedy"))).expect("sound");
    assert!(!engine.is_idle() && engine.cancel(id) && engine.is_idle());
}

#[test]
fn end_tokens_stop_tokens_and_watchers() {
    let free = ids(&run(generate(&[4], at_most(12), preset("sample"))).0);
    assert_eq!(free.len(), 12);
    let stop = free[5];
    let first = free.iter().position(|&token| token == stop).expect("it is there");
    let parameters = Parameters { stop_tokens: vec![stop], ..at_most(12) };
    let (tokens, done) = run(generate(&[4], parameters.clone(), preset("sample")));
    assert_eq!(ids(&tokens), free[..=first]);
    assert_eq!(
        tokens.iter().map(|t| t.end).collect::<Vec<_>>(),
        (0..=first).map(|i| i == first).collect::<Vec<_>>()
    );
    assert_eq!((done[0].finish, done[0].usage.completion_tokens), (FinishReason::Stop, first + 1));

    let later = Parameters { min_tokens: first + 3, ..parameters };
    let (tokens, _) = run(generate(&[4], later, preset("sample")));
    assert!(tokens.len() > first + 3 || tokens.len() == 12);
    assert!(tokens[..first + 3].iter().all(|t| t.token != stop), "banned until then");

    let biased = Parameters { logit_bias: vec![(END, 100.0)], max_tokens: Some(6), ..Parameters::default() };
    let (tokens, done) = run(generate(&[4], biased.clone(), preset("greedy")));
    assert_eq!((ids(&tokens), tokens[0].end, done[0].finish), (vec![END], true, FinishReason::Stop));
    let (tokens, done) = run(generate(&[4], Parameters { ignore_eos: true, ..biased }, preset("greedy")));
    assert_eq!((ids(&tokens), done[0].finish), (vec![END; 6], FinishReason::Length));
    assert!(tokens.iter().all(|token| !token.end));

    let mut request = generate(&[4], at_most(12), preset("sample"));
    let Work::Generate(generate) = &mut request.work else { panic!() };
    generate.watcher = Some(Box::new(After(3)));
    let (tokens, done) = run(request);
    assert_eq!((ids(&tokens), done[0].finish), (free[..3].to_vec(), FinishReason::Stop));
    assert!(!tokens[2].end, "a stop string is text");
}

/// Stops after so many tokens.
#[derive(Clone)]
struct After(usize);

impl Watcher for After {
    fn watch(&mut self, _: TokenId) -> Watch {
        self.0 -= 1;
        if self.0 == 0 { Watch::Stop } else { Watch::Continue }
    }

    fn clone_box(&self) -> Box<dyn Watcher> {
        Box::new(self.clone())
    }
}

#[test]
fn a_policy_may_abstain() {
    let text = "name = \"m\"\n[[region]]\nname = \"doubt\"\nwhen.entropy = { above = 0 }\ndecision = \"stop\"\nreason = \"too \
        doubtful\"\n[default]\ndecision = \"argmax\"\n";
    let (tokens, done) = run(generate(&[4], at_most(12), policy(text)));
    assert!(tokens.is_empty());
    assert_eq!((done[0].finish, done[0].reason.as_deref()), (FinishReason::Abstain, Some("too doubtful")));
}

/// A phrase goes through the model, is marked, counts, and obeys its cap and its cooldown.
#[test]
fn injections_are_bounded() {
    let text = |cap, cooldown| {
        format!(
            "name = \"m\"\n[[region]]\nname = \"ask\"\nwhen.entropy = {{ above = 0 }}\ndecision = \"inject\"\nphrase = \"fgh\"\ncap \
             = {cap}\ncooldown = {cooldown}\n[default]\ndecision = \"argmax\"\n"
        )
    };
    let kinds = |cap, cooldown, n| {
        let (tokens, _) = run(generate(&[4], at_most(n), policy(&text(cap, cooldown))));
        let forced = |t: &&Token| t.decision == DecisionKind::Inject;
        assert!(tokens.iter().filter(forced).zip([5, 6, 7].iter().cycle()).all(|(t, id)| t.token == *id));
        assert!(tokens.iter().filter(forced).all(|t| t.region.0 == 0 && t.logprob <= 0.0));
        tokens.iter().map(|t| if t.decision == DecisionKind::Inject { 'i' } else { 'a' }).collect::<String>()
    };
    assert_eq!(kinds(1, 1, 8), "iiiaaaaa");
    assert_eq!(kinds(9, 1, 9), "iiiaiiiai", "never twice in a row, cut by max_tokens");
    assert_eq!(kinds(2, 3, 12), "iiiaaaiiiaaa");
}

#[test]
fn a_request_wins_over_its_policy() {
    let kinds = |parameters: Parameters| {
        let (tokens, _) =
            run(generate(&[4], Parameters { ignore_eos: true, ..parameters }, preset("sample")));
        tokens.iter().map(|t| (t.decision, t.temperature)).collect::<Vec<_>>()
    };
    let max_tokens = Some(6);
    assert_eq!(kinds(Parameters { max_tokens, ..Parameters::default() }), [(DecisionKind::Draw, 1.0); 6]);
    let hot = Parameters { max_tokens, temperature: Some(2.5), ..Parameters::default() };
    assert_eq!(kinds(hot), [(DecisionKind::Draw, 2.5); 6]);
    let cold = Parameters { max_tokens, temperature: Some(0.0), ..Parameters::default() };
    assert_eq!(kinds(cold.clone()), [(DecisionKind::Argmax, 0.0); 6]);
    let same = |a, b| assert_eq!(ids(&run(a).0), ids(&run(b).0));
    same(generate(&[4], cold.clone(), preset("sample")), generate(&[4], cold.clone(), preset("greedy")));
    let one = Parameters { top_k: Some(1), ..Parameters { temperature: None, ..cold.clone() } };
    same(generate(&[4], one, preset("sample")), generate(&[4], cold, preset("greedy")));
}

/// The likeliest token comes with the signals: no logits are kept, nothing is drawn.
#[test]
fn argmax_is_free() {
    let mut backend = Scripted::new(CAPACITY, MODEL);
    backend.may_draw = false;
    let mut engine =
        Engine::new(Box::new(backend), EngineOptions::new(scripted::classes())).expect("an engine");
    engine.submit(generate(&[4], Parameters { logprobs: 2, ..at_most(9) }, preset("greedy"))).expect("sound");
    let (tokens, _) = split(finish(&mut engine));
    assert!(tokens.iter().all(|t| t.top[..] == t.signals.best && t.token == t.top[0].token), "{tokens:?}");
}

#[test]
fn choices_share_the_prompt_and_differ() {
    let prompt = [4, 8, 15, 16, 23, 7, 1, 2, 3];
    let alone = ids(&run(generate(&prompt, at_most(8), preset("sample"))).0);
    let mut engine = engine();
    engine.submit(generate(&prompt, Parameters { n: 4, ..at_most(8) }, preset("sample"))).expect("sound");
    let mut events = Vec::new();
    engine.step(&mut events).expect("the prompt and four first tokens");
    assert_eq!((engine.stats().running, engine.stats().blocks_used), (4, 3), "three blocks for all four");
    engine.step(&mut events).expect("a second token");
    assert_eq!(engine.stats().blocks_used, 2 + 4, "two whole blocks, and a half-full one each");
    events.extend(finish(&mut engine));
    let (tokens, done) = split(events);
    let choice = |n| ids(&tokens.iter().filter(|t| t.choice == n).cloned().collect::<Vec<_>>());
    let choices: Vec<_> = (0..4).map(choice).collect();
    assert_eq!(choices[0], alone, "the first choice is the only choice");
    assert!((1..4).all(|i| choices[i] != choices[0] && choices[i].len() == 8), "{choices:?}");
    assert_eq!(done.len(), 4);
    assert_eq!(engine.stats().tokens_in, 9, "read once");
}

#[test]
fn prompts_that_begin_alike_are_computed_once() {
    let prompt: Vec<TokenId> = (1..18).collect();
    let twice = |prefix_sharing| {
        let mut engine = engine_with(CAPACITY, MODEL, |options| options.prefix_sharing = prefix_sharing);
        let mut answers = Vec::new();
        for _ in 0..2 {
            engine.submit(generate(&prompt, at_most(5), preset("sample"))).expect("sound");
            answers.push(split(finish(&mut engine)));
        }
        assert_eq!(ids(&answers[0].0), ids(&answers[1].0));
        assert_eq!(engine.stats().shared_tokens as usize, answers[1].1[0].usage.shared_tokens);
        engine.stats().shared_tokens
    };
    assert_eq!(twice(true), 16, "four blocks; the last token is computed for its logits");
    assert_eq!(twice(false), 0);
}

/// Every position of a scored text is asked about, so none of them can come from another's blocks; its own
/// may be used by others.
#[test]
fn scores_are_computed_and_may_be_shared() {
    let text: Vec<TokenId> = (1..18).collect();
    let score =
        || Request { key: RequestKey(2), prompt: text.clone(), work: Work::Score { attention: true } };
    let mut engine = engine();
    engine.submit(generate(&text, at_most(1), preset("greedy"))).expect("sound");
    finish(&mut engine);
    engine.submit(score()).expect("sound");
    let events = finish(&mut engine);
    let scored = events.iter().filter_map(|event| match event {
        Event::Scored(scored) => Some(scored),
        _ => None,
    });
    for (scored, position) in scored.clone().zip(0..) {
        let want = MODEL.signals(&text[..=position], text.get(position + 1).copied());
        assert_eq!(scored.position, position);
        assert_eq!(scored.signals.entropy.to_bits(), want.entropy.to_bits());
        assert_eq!(scored.signals.target_logprob.to_bits(), want.target_logprob.to_bits());
        assert!(scored.attention.is_some());
    }
    assert_eq!((scored.count(), engine.stats().shared_tokens), (text.len(), 0));
    engine.submit(generate(&text, at_most(1), preset("greedy"))).expect("sound");
    finish(&mut engine);
    assert_eq!(engine.stats().shared_tokens, 16);
}

#[test]
fn cancelling_frees_at_once() {
    let mut engine = engine();
    let ids: Vec<RequestId> = (0..6)
        .map(|_| {
            engine
                .submit(generate(&[4, 5, 6], Parameters { n: 2, ..at_most(30) }, preset("sample")))
                .expect("sound")
        })
        .collect();
    let mut events = Vec::new();
    for _ in 0..3 {
        engine.step(&mut events).expect("a step");
    }
    assert!(engine.stats().blocks_used > 0 && engine.stats().waiting > 0);
    for id in ids {
        assert!(engine.cancel(id));
        assert!(!engine.cancel(id), "it is gone");
    }
    assert!(engine.is_idle());
    assert_eq!((engine.stats().blocks_used, engine.stats().running), (0, 0));
    engine.scheduler.check();
}

/// Ten times more work than the smallest legal pool holds: all of it finishes, and says what it would say
/// with room to spare.
#[test]
fn ten_times_oversubscribed() {
    let run = |n_blocks| {
        let mut engine =
            engine_with(Capacity { n_blocks, max_rows: 16, max_kept: 16, ..CAPACITY }, MODEL, |_| ());
        for i in 0..10 {
            let prompt: Vec<TokenId> = (0..12).map(|k| (k * (i + 2) + 1) % VOCAB as TokenId).collect();
            engine.submit(generate(&prompt, at_most(28), preset("sample"))).expect("sound");
        }
        let (mut tokens, done) = split(finish(&mut engine));
        assert_eq!(done.len(), 10);
        tokens.sort_by_key(|token| (token.request, token.position));
        (ids(&tokens), engine.stats().preemptions)
    };
    let (tight, preemptions) = run(10);
    let (ample, none) = run(100);
    assert!(preemptions > 0 && none == 0, "{preemptions} and {none} preemptions");
    assert_eq!(tight, ample);
}
