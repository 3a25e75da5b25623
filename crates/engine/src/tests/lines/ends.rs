//! Ends: further ones, their judges, stops and phrases at the last token.

use super::*;

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
