//! Branches: which child wins, what it costs, and what may end one.

use super::*;

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
    let model = crate::tests::Model { nan_after: Some(second) };
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
