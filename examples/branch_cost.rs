//! What a branch costs: the time of a step with sixteen requests, with one of them branching, and with four more
//! requests instead. `cargo run --release --example branch_cost [ROUNDS]`; `scripts/campaign/branching` keeps a log.
#![forbid(unsafe_code)]

use entropix::text::Message;
use entropix::{
    Event, Generate, Parameters, Policy, PolicyFile, Request, RequestKey, Result, Session, SessionOptions,
    Work, hub,
};
use std::sync::Arc;
use std::time::Instant;

const ROWS: usize = 16;
const WIDTH: usize = 4;
const HORIZON: usize = 16;
/// Tokens before the branch.
const BEFORE: usize = 21;

/// Times of the steps of the horizon, in seconds, and blocks copied in them.
struct Measured {
    times: Vec<f64>,
    n_copies: u64,
}

fn measure(session: &mut Session, policies: &[Arc<dyn Policy>]) -> Result<Measured> {
    for (i, policy) in policies.iter().enumerate() {
        let prompt = session.chat(&[Message::new("user", format!("Tell a story of {} words.", 100 + i))])?;
        let parameters =
            Parameters { max_tokens: Some(BEFORE + HORIZON + 8), ignore_eos: true, ..Parameters::default() };
        let generate = Generate { parameters, policy: Arc::clone(policy), watcher: None };
        let work = Work::Generate(Box::new(generate));
        session.engine().submit(Request { key: RequestKey(i as u64), prompt, work })?;
    }
    let (mut events, mut n_steps, mut measured) =
        (Vec::new(), 0, Measured { times: Vec::new(), n_copies: 0 });
    let mut n_before = 0;
    while !session.engine().is_idle() {
        let started = Instant::now();
        let report = session.engine().step(&mut events)?;
        let time = started.elapsed().as_secs_f64();
        if let Some(Event::Failed { error, .. }) =
            events.drain(..).find(|event| matches!(event, Event::Failed { .. }))
        {
            return Err(error);
        }
        // Prompts first; then a token a step.
        n_steps += usize::from(report.prefill_tokens == 0);
        let copies = session.engine().stats().copied_blocks;
        match n_steps {
            n if n < BEFORE + 1 => n_before = copies,
            n if n < BEFORE + 1 + HORIZON => {
                measured.times.push(time);
                measured.n_copies = copies - n_before;
            }
            _ => {}
        }
    }
    Ok(measured)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let n_rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(9);
    let options = SessionOptions { max_rows: 2 * ROWS, ..SessionOptions::default() };
    let mut session = Session::open(&hub::resolve("smollm2-135m", &mut ())?, &options)?;
    let greedy = session.policy("greedy", &[])?;
    let text = format!(
        "name = \"branch\"\n[budget]\nextra_tokens = 100\n[[region]]\nname = \"torn\"\n\
         when.output = {{ above = {}, below = {} }}\ndecision = \"branch\"\nwidth = {WIDTH}\nhorizon = {HORIZON}\n\
         score = \"mean_logp\"\n[default]\ndecision = \"argmax\"\n",
        BEFORE - 1,
        BEFORE + 1
    );
    let branching = session.bind(&PolicyFile::parse("branch", text.as_bytes(), &[])?)?;
    let plain = vec![Arc::clone(&greedy); ROWS];
    let more = vec![Arc::clone(&greedy); ROWS + WIDTH];
    let mut one_branches = plain.clone();
    one_branches[ROWS / 2] = branching;
    let (mut times, mut n_copies) = ([const { Vec::new() }; 3], 0);
    for _ in 0..n_rounds {
        for (case, policies) in [&plain, &one_branches, &more].into_iter().enumerate() {
            let measured = measure(&mut session, policies)?;
            times[case].push(median(measured.times));
            if case == 1 {
                n_copies = measured.n_copies;
            }
        }
    }
    let ratios =
        |case: usize| -> Vec<f64> { times[case].iter().zip(&times[0]).map(|(a, b)| a / b).collect() };
    println!("median step of {ROWS} requests: {:.3} ms, {n_rounds} rounds", 1e3 * median(times[0].clone()));
    println!("one of them in a branch of width {WIDTH} (19 rows): {:.3} x", median(ratios(1)));
    println!("{WIDTH} more requests (20 rows): {:.3} x", median(ratios(2)));
    println!("blocks copied while it branched: {n_copies}, {:.2} a child", n_copies as f64 / WIDTH as f64);
    Ok(())
}
