//! What is refused, and how requests and engines fail.

use super::scripted::{self, Judge, VOCAB};
use super::single::*;
use super::{Model, Scripted};
use crate::{Engine, EngineOptions, Event, Parameters, Request, RequestId, RequestKey, Work};
use entropix_model::{Capacity, Class, TokenId};
use std::sync::Arc;

#[test]
fn what_can_never_run_is_refused() {
    let mut engine = engine();
    assert_eq!(engine.context_limit(), 40);
    let greedy = || preset("greedy");
    let long = vec![1; 40];
    let with = |change: fn(&mut Parameters)| {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        generate(&[1, 2], parameters, greedy())
    };
    let score =
        |prompt: Vec<TokenId>| Request { key: RequestKey(1), prompt, work: Work::Score { attention: false } };
    let mut empty_phrase = Judge::new(false, false);
    empty_phrase.phrases[0].tokens.clear();
    for (request, code, message) in [
        (generate(&[], Parameters::default(), greedy()), "EmptyPrompt", "the prompt has no tokens"),
        (
            generate(&[1, 24], Parameters::default(), greedy()),
            "TokenOutOfRange",
            "prompt: token 24 is not in the vocabulary of 24",
        ),
        (
            generate(&long, Parameters::default(), greedy()),
            "TooLong",
            "40 tokens do not fit into a context of 40",
        ),
        (
            generate(&long[..38], at_most(3), greedy()),
            "TooLong",
            "a prompt of 38 tokens and max_tokens 3 do not fit",
        ),
        (generate(&long[..38], at_most(usize::MAX), greedy()), "TooLong", "max_tokens 18446744073709551615"),
        (score(vec![1; 41]), "TooLong", "41 tokens do not fit"),
        (score(vec![]), "EmptyPrompt", "the prompt has no tokens"),
        (with(|p| p.logprobs = 9), "OutOfRange", "logprobs is 9; allowed is 0 to 8"),
        (with(|p| p.stop_tokens = vec![30]), "TokenOutOfRange", "stop_token_ids: token 30"),
        (with(|p| p.logit_bias = vec![(24, 1.0)]), "TokenOutOfRange", "logit_bias: token 24"),
        (with(|p| p.temperature = Some(f32::NAN)), "OutOfRange", "temperature is NaN"),
        (
            with(|p| (p.max_tokens, p.min_tokens) = (Some(3), 4)),
            "OutOfRange",
            "min_tokens is 4; allowed is at most max_tokens, 3",
        ),
        (generate(&[1], at_most(1), Arc::new(empty_phrase)), "EmptyPhrase", "policy judge: an empty phrase"),
    ] {
        let error = engine.submit(request).expect_err(message);
        assert_eq!((error.class, error.code), (Class::Data, code), "{error}");
        assert!(error.message.contains(message), "{error}");
    }
    assert!(engine.is_idle(), "nothing was let in");
    engine.submit(generate(&long[..39], Parameters::default(), greedy())).expect("room for one token");
    engine.submit(score(long)).expect("a text as long as the context");
    let (tokens, _) =
        split(finish(&mut engine).into_iter().filter(|e| !matches!(e, Event::Scored(_))).collect());
    assert_eq!(tokens.len(), 1);
}

#[test]
fn an_engine_needs_sound_options() {
    let fails = |change: fn(&mut EngineOptions), capacity: Capacity| {
        let mut options = EngineOptions::new(scripted::classes());
        change(&mut options);
        let backend = Box::new(Scripted::new(capacity, MODEL));
        Engine::new(backend, options).expect_err("unsound").message
    };
    assert!(
        fails(|o| o.classes = crate::TokenClasses::new(3), CAPACITY).contains("3 tokens for a model of 24")
    );
    assert!(fails(|o| o.max_rows = Some(0), CAPACITY).contains("max_rows is 0"));
    assert!(fails(|o| o.max_context = Some(0), CAPACITY).contains("max_context is 0"));
    assert!(fails(|_| (), Capacity { n_blocks: 0, ..CAPACITY }).contains("max_context 0"));
    assert!(fails(|_| (), Capacity { max_kept: 0, ..CAPACITY }).contains("max_rows 0"));
    let limit = |n_blocks, max_context| {
        engine_with(Capacity { n_blocks, ..CAPACITY }, MODEL, |o| o.max_context = max_context).context_limit()
    };
    assert_eq!([limit(16, None), limit(5, None), limit(16, Some(7)), limit(16, Some(99))], [40, 20, 7, 40]);
}

/// An engine whose backend failed says so for ever, and does nothing.
#[test]
fn a_lost_device_is_the_end() {
    let mut backend = Scripted::new(CAPACITY, MODEL);
    backend.fails_at = 3;
    let mut engine =
        Engine::new(Box::new(backend), EngineOptions::new(scripted::classes())).expect("an engine");
    engine.submit(generate(&[4], at_most(6), preset("sample"))).expect("sound");
    let mut events = Vec::new();
    assert!(engine.step(&mut events).is_ok() && engine.step(&mut events).is_ok());
    let error = engine.step(&mut events).expect_err("the device is gone");
    assert_eq!((error.class, error.code), (Class::Temp, "DeviceLost"));
    assert_eq!(engine.step(&mut events), Err(error));
    assert_eq!(events.len(), 2);
}

/// A scheduler that finds nothing to do for ever is a fault; it must not look like patience.
#[test]
fn a_standstill_is_an_error() {
    let mut engine = engine();
    engine.submit(generate(&[4], at_most(6), preset("sample"))).expect("sound");
    engine.scheduler.limits.max_rows = 0;
    let mut events = Vec::new();
    let error = (0..).find_map(|_| engine.step(&mut events).err()).expect("an error");
    assert_eq!((error.class, error.code), (Class::Internal, "Standstill"), "{error}");
    assert!(error.message.contains("0 running and 1 waiting"), "{error}");
}

#[test]
fn rows_that_are_no_numbers_name_request_and_position() {
    let mut engine = engine_with(CAPACITY, Model { nan_after: Some(11) }, |_| ());
    let ban = Parameters { logit_bias: vec![(11, f32::NEG_INFINITY)], ..at_most(6) };
    engine.submit(generate(&[4], ban.clone(), preset("sample"))).expect("sound");
    let bad = engine
        .submit(generate(&[4, 3, 11], Parameters { n: 3, ..at_most(6) }, preset("greedy")))
        .expect("sound");
    let score =
        Request { key: RequestKey(3), prompt: vec![4, 11, 3], work: Work::Score { attention: false } };
    let scored = engine.submit(score).expect("sound");
    let events = finish(&mut engine);
    let failures: Vec<(RequestId, &str)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Failed { request, error } => {
                assert_eq!((error.class, error.code), (Class::Model, "NumericalError"), "{error}");
                Some((*request, error.message.as_str()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(failures.len(), 2);
    for (request, place) in [(bad, "request 1, position 2"), (scored, "request 2, position 1")] {
        let (_, message) = failures.iter().find(|(id, _)| *id == request).expect("it failed");
        assert!(message.starts_with(place), "{message}");
    }
    let rest = events.into_iter().filter(|e| matches!(e, Event::Token(_) | Event::Done(_))).collect();
    let (tokens, done) = split(rest);
    assert_eq!((tokens.len(), done.len()), (6, 1), "the first request goes on");
    assert_eq!((engine.stats().failed, engine.stats().blocks_used), (2, 0));
}

#[test]
fn a_request_that_bans_everything_fails_by_itself() {
    let mut engine = engine();
    let ban = (0..VOCAB as TokenId).map(|token| (token, f32::NEG_INFINITY)).collect();
    engine
        .submit(generate(&[4], Parameters { logit_bias: ban, ..at_most(6) }, preset("sample")))
        .expect("sound");
    engine.submit(generate(&[4], at_most(6), preset("sample"))).expect("sound");
    let events = finish(&mut engine);
    let failed = events.iter().find_map(|event| match event {
        Event::Failed { error, .. } => Some(error.code),
        _ => None,
    });
    assert_eq!(failed, Some("NothingToDraw"));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Token(_))).count(), 6);
}
