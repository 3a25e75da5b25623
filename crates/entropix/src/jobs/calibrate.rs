//! What a model's signals usually are, over many requests answered with the likeliest tokens.

use super::params::Params;
use super::{Item, JobRequest, Preparation};
use crate::Session;
use entropix_engine::{
    Calibration, Event, Part, Request, RequestId, RequestKey, Signal, Span, Stat, Token, Work,
};
use entropix_model::{Class, Error, Result, Signals};
use std::collections::{BTreeMap, HashMap};

/// How a model is calibrated.
pub struct CalibrationJob {
    /// How requests become prompts.
    pub preparation: Preparation,
    /// What a request leaves open.
    pub defaults: Params,
    /// Most requests in the engine at once.
    pub max_in_flight: usize,
}

/// Signals of the logits: those that need no further work.
const SIGNALS: [Signal; 5] =
    [Signal::Entropy, Signal::Varentropy, Signal::Collision, Signal::LogZ, Signal::LogitStd];

/// The spans of a request of which quantiles are kept.
fn spans() -> Vec<Span> {
    let mut spans = Vec::new();
    for signal in [Signal::Entropy, Signal::Varentropy] {
        let parts = [Part::First(32), Part::First(64), Part::First(96), Part::All];
        spans.extend(parts.map(|part| Span { signal, stat: Stat::Mean, part, window: 1 }));
        spans.push(Span { signal, stat: Stat::Max, part: Part::All, window: 32 });
        spans.push(Span { signal, stat: Stat::Mean, part: Part::Last(32), window: 1 });
    }
    spans
}

impl CalibrationJob {
    /// Answers every request greedily, and reads its prompt; `advanced` is told how many are done. `sha256`
    /// names the model.
    ///
    /// # Errors
    /// A request that is wrong, or nothing to calibrate by; failures of the backend.
    pub fn run(
        &self,
        session: &mut Session,
        sha256: String,
        requests: impl Iterator<Item = Result<Item<JobRequest>>>,
        advanced: &mut dyn FnMut(u64),
    ) -> Result<Calibration> {
        let policy = session.policy("greedy", &[])?;
        let mut requests = requests.fuse();
        let mut running: HashMap<RequestId, Vec<Token>> = HashMap::new();
        let mut scoring = 0usize;
        let mut values: BTreeMap<(bool, Signal), Vec<f64>> = BTreeMap::new();
        let spans = spans();
        let mut by_span: Vec<Vec<f64>> = vec![Vec::new(); spans.len()];
        let (mut n_requests, mut n_tokens) = (0u64, 0u64);
        let mut events = Vec::new();
        loop {
            while running.len() < self.max_in_flight {
                let Some(request) = requests.next() else { break };
                let Item { id, request, .. } = request?;
                let request = request?;
                let prepared = self.preparation.prepare(session, &id, request, &self.defaults, &policy)?;
                let prompt = prepared.request.prompt.clone();
                running.insert(session.engine().submit(prepared.request)?, Vec::new());
                let score = Request { key: RequestKey(0), prompt, work: Work::Score { attention: false } };
                session.engine().submit(score)?;
                scoring += 1;
            }
            if running.is_empty() && scoring == 0 {
                break;
            }
            session.engine().step(&mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Token(token) => {
                        keep(&mut values, true, &token.signals);
                        n_tokens += 1;
                        if let Some(said) = running.get_mut(&token.request) {
                            said.push(token);
                        }
                    }
                    Event::Scored(scored) => keep(&mut values, false, &scored.signals),
                    Event::Done(done) => match running.remove(&done.request) {
                        Some(said) => {
                            for (span, values) in spans.iter().zip(&mut by_span) {
                                values.extend(span.value(&said));
                            }
                            n_requests += 1;
                            advanced(n_requests);
                        }
                        None => scoring -= 1,
                    },
                    Event::Failed { error, .. } => return Err(error),
                    _ => {}
                }
            }
        }
        if n_tokens == 0 {
            let message = "no token was generated; calibrate with some hundred prompts";
            return Err(Error::new(Class::Data, "NothingToCalibrate", message.to_owned()));
        }
        let table = |generated: bool| {
            let of = |signal: Signal| {
                let values = values.get(&(generated, signal)).cloned().unwrap_or_default();
                Some((signal.name().to_owned(), Calibration::quantiles(values)?))
            };
            SIGNALS.into_iter().filter_map(of).collect::<BTreeMap<_, _>>()
        };
        let request = spans.iter().zip(by_span);
        let request =
            request.filter_map(|(span, v)| Some((Calibration::span_name(span), Calibration::quantiles(v)?)));
        Ok(Calibration {
            model: session.model().name.clone(),
            sha256,
            precision: session.model().precision_name().to_owned(),
            requests: n_requests,
            tokens: n_tokens,
            generated: table(true),
            prefill: table(false),
            request: request.collect(),
            replace: BTreeMap::new(),
        })
    }
}

fn keep(values: &mut BTreeMap<(bool, Signal), Vec<f64>>, generated: bool, signals: &Signals) {
    for signal in SIGNALS {
        values.entry((generated, signal)).or_default().push(signal.of(signals));
    }
}
