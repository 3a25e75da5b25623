//! Policies that look back: spans, checkpoints, peaks, and what they make of them.

use super::*;
use crate::{
    Allowance, Branch, FinishReason, Injections, Judge, Refork, RegionId, RequestKey, Resume, Rewind, Score,
    Token,
};
use entropix_model::Candidate;
use std::collections::BTreeSet;

/// A token of this entropy at which another choice was real, unless its entropy is below 0.1.
fn token(position: usize, entropy: f32) -> Token {
    let mut signals = signals(entropy, entropy / 2.0);
    let runner_up = if entropy < 0.1 { 0.001f32 } else { 0.2 };
    signals.collision = if entropy < 0.1 { 0.99 } else { 0.4 };
    signals.best = [Candidate { token: 1, logprob: -0.5 }, Candidate { token: 2, logprob: runner_up.ln() }];
    Token {
        request: crate::RequestId(0),
        choice: 0,
        token: position as TokenId % 200,
        position,
        signals,
        attention: None,
        logprob: -entropy,
        temperature: 0.0,
        top: Vec::new(),
        region: RegionId(0),
        decision: DecisionKind::Argmax,
        end: false,
    }
}

fn trace(entropies: &[f32]) -> Vec<Token> {
    entropies.iter().enumerate().map(|(i, &entropy)| token(1 + i, entropy)).collect()
}

struct Seen {
    trace: Vec<Token>,
    tokens: Vec<TokenId>,
    tried: Vec<(usize, TokenId)>,
    begun: Vec<RegionId>,
    allowance: Allowance,
    n_decided: usize,
}

fn seen(entropies: &[f32]) -> Seen {
    let trace = trace(entropies);
    let tokens = [7].into_iter().chain(trace.iter().map(|token| token.token)).collect();
    let n_decided = entropies.len().saturating_sub(1);
    Seen { trace, tokens, tried: Vec::new(), begun: Vec::new(), allowance: Allowance::ALL, n_decided }
}

impl Seen {
    fn ask<T>(&self, ask: impl FnOnce(&History<'_>) -> T) -> T {
        let (injections, classes) = (Injections::default(), TokenClasses::new(256));
        let history = History::new(&self.tokens, 1, &injections, &classes)
            .with_trace(&self.trace, self.allowance)
            .with_tried(&self.tried, &self.begun, self.n_decided);
        ask(&history)
    }

    fn decide(&self, policy: &dyn Policy, entropy: f32, varentropy: f32) -> (String, Decision) {
        self.ask(|history| {
            let verdict = policy.decide(&signals(entropy, varentropy), None, history, &mut policy.start());
            (policy.regions()[usize::from(verdict.region.0)].to_string(), verdict.decision)
        })
    }

    fn conclude(&self, policy: &dyn Policy) -> Option<(String, Decision)> {
        self.ask(|history| {
            let verdict = policy.conclude(FinishReason::Stop, history, &mut policy.start())?;
            Some((policy.regions()[usize::from(verdict.region.0)].to_string(), verdict.decision))
        })
    }
}

fn calibrated(name: &str) -> Arc<dyn Policy> {
    bound(&PolicyFile::load(name, &[]).and_then(|file| file.calibrated(&calibration())).expect(name))
}

#[test]
fn spans_by_their_definitions() {
    let trace = trace(&[1.0, 3.0, 2.0, 0.0, 4.0]);
    let value = |stat, part, window| {
        Span { signal: Signal::Entropy, stat, part, window }.value(&trace).expect("a token")
    };
    assert_eq!(value(Stat::Mean, Part::All, 1), 2.0);
    assert_eq!(value(Stat::Mean, Part::First(2), 1), 2.0);
    assert_eq!(value(Stat::Max, Part::Last(3), 1), 4.0);
    assert_eq!(value(Stat::Max, Part::All, 2), 2.5, "means of two: 2, 2.5, 1, 2");
    assert_eq!(value(Stat::Min, Part::All, 2), 1.0);
    assert_eq!(value(Stat::Max, Part::First(2), 9), 2.0, "one mean, of all there is");
    assert_eq!(value(Stat::ShareAbove(1.5), Part::All, 1), 0.6);
    let none = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::All, window: 1 };
    assert_eq!(none.value(&[]), None);
}

#[test]
fn peaks_are_real_choices_apart() {
    let trace = trace(&[1.0, 3.0, 2.9, 0.05, 2.0, 9.0, 2.0]);
    let peak = Peak {
        before: 0,
        by: PeakBy::Signal(Signal::Entropy),
        part: Part::First(5),
        min_gap: 2,
        choices: 1.5,
        runner_up: 0.05,
    };
    let find = |peak: Peak, tried: &[usize], n| peak.find(&trace, tried.iter().copied(), Lots::default(), n);
    assert_eq!(find(peak, &[], 9), [1, 4], "2 is too near to 1, 3 no choice, 0 too near");
    assert_eq!(find(peak, &[1], 9), [4]);
    assert_eq!(find(Peak { part: Part::Last(3), ..peak }, &[], 1), [5]);
    assert_eq!(find(Peak { part: Part::Last(3), before: 3, ..peak }, &[], 1), [1], "of 1 to 3");
    assert_eq!(find(Peak { part: Part::All, before: 7, ..peak }, &[], 1), [0; 0]);
    assert_eq!(find(Peak { part: Part::All, min_gap: 1, ..peak }, &[5], 2), [1, 2]);
    assert_eq!(find(Peak { runner_up: 0.3, ..peak }, &[], 1), [0; 0]);
    assert_eq!(find(Peak { choices: 3.0, ..peak }, &[], 1), [0; 0]);
    // Chance finds every place of the same ones, and no others, whatever the entropy.
    let by_lot = Peak { by: PeakBy::Lot, part: Part::All, min_gap: 1, ..peak };
    let found: BTreeSet<usize> = (0..64)
        .map(|seed| by_lot.find(&trace, [].into_iter(), Lots::new(seed, RequestKey(1), 0), 1)[0])
        .collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
}

/// The picture, corner by corner; thresholds are quantiles of 0 to 4 and 0 to 8.
#[test]
fn quadrants_decide_as_the_picture_says() {
    let policy = calibrated("quadrants");
    let calm = seen(&[0.2, 1.0, 0.3]);
    assert_eq!(calm.decide(&*policy, 1.0, 1.0), ("lelv".into(), Decision::Argmax));
    let branch =
        Branch { width: 3, horizon: Some(16), to_sentence_end: false, judge: Judge::Best(Score::MeanLogp) };
    assert_eq!(calm.decide(&*policy, 1.0, 7.5), ("lehv".into(), Decision::Branch(branch)));
    let (region, decision) = calm.decide(&*policy, 3.9, 7.9);
    let Decision::Rewind(Rewind { to: 1, keep: None, resume }) = decision else { panic!("{decision:?}") };
    assert_eq!((region.as_str(), resume.draw.map(|draw| draw.min_p)), ("hehv", Some(0.1)));
    let (region, decision) = calm.decide(&*policy, 3.2, 1.0);
    assert_eq!((region.as_str(), decision.kind()), ("between", DecisionKind::Draw));
    let spent =
        Seen { allowance: Allowance { branch: false, rewind: false, ..Allowance::ALL }, ..seen(&[1.0]) };
    assert_eq!(spent.decide(&*policy, 1.0, 7.5).0, "between", "no budget: the default");
    assert_eq!(spent.decide(&*policy, 3.9, 7.9).0, "between");
}

/// Step by step as the pilot behind it prescribes.
#[test]
fn entropix_goes_back_once_at_token_64() {
    let policy = calibrated("entropix");
    let doubtful = |n: usize| {
        let entropies: Vec<f32> = (0..n)
            .map(|i| {
                if i == 40 {
                    3.5
                } else if i == 20 {
                    3.4
                } else {
                    1.2
                }
            })
            .collect();
        seen(&entropies)
    };
    let sure = ("sure".to_owned(), Decision::Argmax);
    assert_eq!(doubtful(63).decide(&*policy, 3.9, 7.9), sure, "not before the checkpoint");
    assert_eq!(doubtful(65).decide(&*policy, 3.9, 7.9), sure, "nor after it");
    assert_eq!(seen(&[0.5; 64]).decide(&*policy, 3.9, 7.9), sure, "below the middle request: 1 nat");
    let (region, decision) = doubtful(64).decide(&*policy, 0.0, 0.0);
    let first = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::First(64), window: 1 };
    let back =
        |to| Decision::Rewind(Rewind { to, resume: Resume::default(), keep: Some(Score::Span(first)) });
    assert_eq!((region.as_str(), decision), ("doubtful", back(40)));
    let doubtful_id =
        RegionId(policy.regions().iter().position(|name| &**name == "doubtful").expect("it") as u16);
    let once = Seen { tried: vec![(41, 9)], begun: vec![doubtful_id], ..doubtful(64) };
    assert_eq!(once.decide(&*policy, 0.0, 0.0), ("doubtful".into(), back(20)), "the next untried peak");
    let twice = Seen { begun: vec![doubtful_id; 2], ..doubtful(64) };
    assert_eq!(twice.decide(&*policy, 0.0, 0.0), sure, "two attempts");
    // A shorter answer has its checkpoint at its end.
    assert_eq!(doubtful(50).conclude(&*policy), Some(("doubtful".into(), back(40))));
    // Its end: above 1 nat over 32 tokens another end votes, above 1.5 it replaces.
    let ended = |entropy: f32| {
        let entropies: Vec<f32> = (0..100).map(|i| if i == 70 { 3.0 } else { entropy }).collect();
        Seen { n_decided: 99, ..seen(&entropies) }
    };
    assert_eq!(ended(0.5).conclude(&*policy), None);
    let (region, decision) = ended(1.2).conclude(&*policy).expect("doubt");
    let Decision::Refork(Refork { points, judge, .. }) = decision else { panic!("{decision:?}") };
    assert_eq!((region.as_str(), points), ("vote", vec![70]));
    assert!(matches!(judge, Judge::Majority { tie_break: Some(draw), .. } if draw.min_p == 0.3));
    let (region, decision) = ended(1.9).conclude(&*policy).expect("doubt");
    let tail = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::Last(32), window: 1 };
    let Decision::Refork(Refork { judge, .. }) = decision else { panic!("{decision:?}") };
    assert_eq!((region.as_str(), judge), ("replace", Judge::Replace(Score::Span(tail))));
    let spent = Seen { allowance: Allowance { refork: false, ..Allowance::ALL }, ..ended(1.9) };
    assert_eq!(spent.conclude(&*policy), None);
}

#[test]
fn entropix_notices_when_it_is_lost() {
    let policy = calibrated("entropix");
    let mut looping = seen(&[0.5; 70]);
    for (i, token) in looping.tokens.iter_mut().enumerate().skip(20) {
        *token = (i % 16) as TokenId;
    }
    let (region, decision) = looping.decide(&*policy, 0.0, 0.0);
    let Decision::Rewind(Rewind { to, .. }) = decision else { panic!("{decision:?}") };
    assert_eq!((region.as_str(), to < 22), ("loop", true), "to {to}: before the 48 tokens of the loop");
    let id = |name: &str| RegionId(policy.regions().iter().position(|it| &**it == name).expect("it") as u16);
    let again = Seen { begun: vec![id("loop")], ..looping };
    let (region, decision) = again.decide(&*policy, 0.0, 0.0);
    assert_eq!((region.as_str(), decision.kind()), ("loop-again", DecisionKind::Stop));
    assert_eq!(seen(&[3.99; 94]).decide(&*policy, 0.0, 0.0).0, "sure", "not for long enough");
    assert_eq!(seen(&[3.99; 95]).decide(&*policy, 0.0, 0.0).0, "adrift-still", "nothing was before it");
    let mut adrift = [3.99; 100];
    adrift[..5].copy_from_slice(&[1.0, 2.0, 1.0, 1.0, 1.0]);
    let (region, decision) = seen(&adrift).decide(&*policy, 0.0, 0.0);
    let Decision::Rewind(Rewind { to, .. }) = decision else { panic!("{decision:?}") };
    assert_eq!((region.as_str(), to), ("adrift", 1));
    let mut calm = [3.99; 95];
    calm[50..82].fill(3.9);
    assert_eq!(seen(&calm).decide(&*policy, 0.0, 0.0).0, "sure", "one calm stretch");
}

/// What may still go is held back, and nothing else.
#[test]
fn readers_wait_only_for_what_may_go() {
    let settled = |policy: &dyn Policy, seen: Seen| seen.ask(|history| policy.settled(history));
    assert_eq!(settled(&*calibrated("greedy"), seen(&[1.0; 9])), 9);
    assert_eq!(settled(&*calibrated("quadrants"), seen(&[1.0; 20])), 4, "it goes back 16 at most");
    let used_up = Allowance { rewinds_left: 0, reforks_left: 0, ..Allowance::ALL };
    assert_eq!(settled(&*calibrated("quadrants"), Seen { allowance: used_up, ..seen(&[1.0; 20]) }), 20);
    assert_eq!(settled(&*calibrated("entropix"), seen(&[1.0; 99])), 0, "it may end otherwise");
    let text = "name = \"m\"\n[budget]\nreforks = 0\n[[region]]\nname = \"a\"\nwhen.at = 8\ndecision = \"rewind\"\n\
        peak = { first = 8 }\n[default]\ndecision = \"argmax\"\n";
    let policy = bound(&parse(text).expect("sound"));
    assert_eq!(settled(&*policy, seen(&[1.0; 7])), 0, "before the checkpoint");
    assert_eq!(settled(&*policy, Seen { n_decided: 8, ..seen(&[1.0; 9]) }), 9, "after it");
}

#[test]
fn quantiles_come_from_the_calibration() {
    let text = |threshold: &str| {
        format!(
            "name = \"m\"\n[[region]]\nname = \"a\"\nwhen.entropy = {{ above = {threshold} }}\ndecision = \"draw\"\n\
             [default]\ndecision = \"argmax\"\n"
        )
    };
    let file = parse(&text("\"q0.50\"")).expect("sound");
    assert_eq!(file.unresolved(), ["q0.50"]);
    let calibrated = file.calibrated(&calibration()).expect("sound");
    assert_ne!(calibrated.hash(), file.hash(), "another model, another policy");
    let policy = bound(&calibrated);
    assert_eq!(seen(&[]).decide(&*policy, 1.9, 0.0).1, Decision::Argmax);
    assert_eq!(seen(&[]).decide(&*policy, 2.1, 0.0).0, "a");
    for wrong in ["\"rq0.50\"", "\"q1.5\"", "\"0.5\"", "\"replace\""] {
        assert_eq!(parse(&text(wrong)).expect_err(wrong).code, "OutOfRange", "{wrong}");
    }
    let other = parse(&text("\"q0.50\"").replace("entropy", "collision")).expect("sound");
    let error = other.calibrated(&calibration()).expect_err("no quantiles of collision");
    assert_eq!(error.code, "Calibration");
}

/// A region that is switched off is not there.
#[test]
fn steps_can_be_switched_off() {
    let all = PolicyFile::load("entropix", &[]).expect("sound").regions().len();
    for region in ["loop", "doubtful", "replace", "vote"] {
        let off = [format!("region.{region}.enabled=false")];
        let file = PolicyFile::load("entropix", &off).expect(region);
        assert_eq!(file.regions().len(), all - 1);
        assert!(file.regions().iter().all(|name| **name != *region));
    }
}

/// Without known answers, a third is doubtful and ends stay as they are.
#[test]
fn regions_may_want_known_answers() {
    let regions = |calibration: &Calibration| {
        let file = PolicyFile::load("entropix", &[]).and_then(|file| file.calibrated(calibration));
        let file = file.expect("sound");
        ["doubtful", "doubtful-third", "replace", "vote", "loop"]
            .map(|name| file.regions().contains(&name.into()))
    };
    assert_eq!(regions(&calibration()), [true, false, true, true, true]);
    let unlabelled = Calibration { replace: Default::default(), ..calibration() };
    assert_eq!(regions(&unlabelled), [false, true, false, false, true]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let region = |text: &str| {
        format!("name = \"m\"\n[[region]]\nname = \"a\"\n{text}\n[default]\ndecision = \"argmax\"\n")
    };
    for (text, code, message) in [
        ("when.at = \"end\"\ndecision = \"draw\"", "OutOfRange", "only rewind, refork and stop"),
        ("when.at = \"start\"\ndecision = \"draw\"", "OutOfRange", "a number or \"end\""),
        ("when.at = 0\ndecision = \"draw\"", "OutOfRange", "when.at is 0"),
        (
            "when = { at = \"end\", entropy = { above = 1 } }\ndecision = \"stop\"\nreason = \"x\"",
            "OutOfRange",
            "no next token",
        ),
        ("when.at = 3\ndecision = \"refork\"\npeak = {}", "OutOfRange", "only at = \"end\""),
        ("when.at = 3\ndecision = \"rewind\"", "MissingKey", "peak or back"),
        ("when.at = 3\ndecision = \"rewind\"\nback = 2\npeak = {}", "MissingKey", "peak or back"),
        (
            "when.at = 3\ndecision = \"branch\"\nwidth = 17\nhorizon = 4\nscore = \"mean_logp\"",
            "OutOfRange",
            "allowed is 2 to 16",
        ),
        (
            "when.at = 3\ndecision = \"branch\"\nwidth = 2\nhorizon = \"ever\"\nscore = \"mean_logp\"",
            "OutOfRange",
            "horizon",
        ),
        ("when.at = 3\ndecision = \"branch\"\nwidth = 2\nhorizon = 4", "MissingKey", "score is missing"),
        (
            "when.at = 3\ndecision = \"branch\"\nwidth = 2\nhorizon = 4\nscore = \"best\"",
            "OutOfRange",
            "known are mean_logp",
        ),
        (
            "when.at = \"end\"\ndecision = \"refork\"\npeak = {}\nthen = \"guess\"",
            "OutOfRange",
            "known are best",
        ),
        (
            "when.at = \"end\"\ndecision = \"refork\"\npeak = {}\nthen = \"majority\"",
            "MissingKey",
            "does not say how to find them",
        ),
        ("when.spans = [{ mean = \"entropy\" }]\ndecision = \"argmax\"", "MissingKey", "above or below"),
        (
            "when.spans = [{ mean = \"x\", above = 1 }]\ndecision = \"argmax\"",
            "OutOfRange",
            "known are entropy",
        ),
        ("when.spans = [{ above = 1 }]\ndecision = \"argmax\"", "MissingKey", "mean, max, min"),
        (
            "when.spans = [{ mean = \"entropy\", first = 2, last = 2, above = 1 }]\ndecision = \"argmax\"",
            "OutOfRange",
            "exclude",
        ),
    ] {
        let error = parse(&region(text)).expect_err(text);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    let refork =
        "name = \"m\"\n[default]\ndecision = \"branch\"\nwidth = 2\nhorizon = 4\nscore = \"mean_logp\"";
    assert!(parse(refork).expect_err("a default").message.contains("the default cannot"));
    assert!(parse("name = \"m\"\nanswer = \"maybe\"\n[default]\ndecision = \"argmax\"").is_err());
    assert!(parse("name = \"m\"\n[budget]\nrewinds = 65\n[default]\ndecision = \"argmax\"").is_err());
}
