//! Returns: what is taken back, what is banned there, and which line goes on.

use super::*;

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
