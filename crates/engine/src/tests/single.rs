//! One request at a time: what most directed tests need.

use super::scripted::{self, VOCAB};
use super::{Model, Scripted};
use crate::{
    Done, Engine, EngineOptions, Event, Generate, Parameters, Policy, PolicyFile, Request, RequestKey, Token,
    Work,
};
use entropix_model::{Capacity, TokenId};
use std::sync::Arc;

pub(super) const CAPACITY: Capacity = Capacity {
    n_blocks: 16,
    block_size: 4,
    max_rows: 4,
    max_tokens: 16,
    max_kept: 4,
    max_candidates: 8,
    vocab_size: VOCAB,
    max_context: 40,
};

pub(super) const MODEL: Model = Model { nan_after: None };

pub(super) fn engine_with(
    capacity: Capacity,
    model: Model,
    change: impl FnOnce(&mut EngineOptions),
) -> Engine {
    let mut options = EngineOptions::new(scripted::classes());
    change(&mut options);
    Engine::new(Box::new(Scripted::new(capacity, model)), options).expect("an engine")
}

pub(super) fn engine() -> Engine {
    engine_with(CAPACITY, MODEL, |_| ())
}

pub(super) fn policy(text: &str) -> Arc<dyn Policy> {
    let file = PolicyFile::parse("test.toml", text.as_bytes(), &[]).unwrap_or_else(|error| panic!("{error}"));
    file.bind(&|text| Ok(text.bytes().map(|byte| TokenId::from(byte - b'a')).collect())).expect("a phrase")
}

pub(super) fn preset(name: &str) -> Arc<dyn Policy> {
    let file = PolicyFile::load(name, &[]).unwrap_or_else(|error| panic!("{error}"));
    file.bind(&|_| Ok(vec![9])).expect("a phrase")
}

pub(super) fn generate(prompt: &[TokenId], parameters: Parameters, policy: Arc<dyn Policy>) -> Request {
    let work = Work::Generate(Box::new(Generate { parameters, policy, watcher: None }));
    Request { key: RequestKey(1), prompt: prompt.to_vec(), work }
}

pub(super) fn at_most(max_tokens: usize) -> Parameters {
    Parameters { max_tokens: Some(max_tokens), ignore_eos: true, ..Parameters::default() }
}

pub(super) fn finish(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events).expect("a step");
    }
    events
}

pub(super) fn run(request: Request) -> (Vec<Token>, Vec<Done>) {
    let mut engine = engine();
    engine.submit(request).expect("a sound request");
    split(finish(&mut engine))
}

pub(super) fn split(events: Vec<Event>) -> (Vec<Token>, Vec<Done>) {
    let (mut tokens, mut done) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Token(token) => tokens.push(token),
            Event::Done(end) => done.push(end),
            other => panic!("{other:?}"),
        }
    }
    (tokens, done)
}

pub(super) fn ids(tokens: &[Token]) -> Vec<TokenId> {
    tokens.iter().map(|token| token.token).collect()
}
