//! The engine in somebody else's program: `cargo run --release --example embed`.
#![forbid(unsafe_code)]

use entropix::text::{Message, Stops, Stream};
use entropix::{
    Event, Generate, Parameters, Request, RequestKey, Result, Session, SessionOptions, Work, hub,
};

fn main() -> Result<()> {
    let path = hub::resolve("smollm2-135m", &mut ())?;
    let mut session = Session::open(&path, &SessionOptions::default())?;
    let prompt = session.chat(&[Message::new("user", "Which is larger, 9.9 or 9.11?")])?;
    let policy = session.policy("attic", &[])?;
    let parameters = Parameters { max_tokens: Some(32), seed: 7, ..Parameters::default() };
    let generate = Generate { parameters, policy, watcher: None };
    let work = Work::Generate(Box::new(generate));
    session.engine().submit(Request { key: RequestKey::of_id("first"), prompt, work })?;

    let mut text = Stream::new(session.tokenizer().clone(), Stops::new::<&str>(&[])?, 0);
    let mut events = Vec::new();
    while !session.engine().is_idle() {
        session.engine().step(&mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Token(token) if !token.end => {
                    let (entropy, varentropy) = (token.signals.entropy, token.signals.varentropy);
                    println!("{:<16?} H {entropy:.3} V {varentropy:.3}", text.push(token.token));
                }
                Event::Failed { error, .. } => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
