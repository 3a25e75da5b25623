//! Runs the requests of a job: keeps a bounded number of them in the engine, gathers their answers, and writes
//! one line for each as it ends. Memory is bounded by what is in flight, not by the length of the job.

use super::answers::Answers;
use super::params::Params;
use super::prepare::{Preparation, Prepared};
use super::request::{Form, JobRequest};
use super::row::{self, RowStyle};
use super::{Choice, LineWriter, SignalsLevel};
use crate::Session;
use entropix_engine::{Event, Policy, RequestId, Stats};
use entropix_model::{Class, Error, Result, TokenId};
use std::collections::HashMap;
use std::sync::Arc;

/// How a job is run.
pub struct BatchJob {
    /// Who decides each token.
    pub policy: Arc<dyn Policy>,
    /// How requests become prompts.
    pub preparation: Preparation,
    /// What a request leaves open.
    pub defaults: Params,
    /// How much of the signals to write.
    pub signals: SignalsLevel,
    /// Most requests in the engine at once; about twice the rows keeps the rows filled.
    pub max_in_flight: usize,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// Yes.
    Continue,
    /// Finish what was begun.
    Drain,
    /// Stop at once; what was begun is dropped.
    Stop,
}

/// Somebody who watches a job.
pub trait Observer {
    /// A request was answered, and its line is written.
    fn finished(&mut self, id: &str, choices: &[Choice]);
    /// A request failed, and its line is written.
    fn failed(&mut self, id: &str, error: &Error);
    /// A step was taken.
    fn stepped(&mut self, stats: &Stats) -> Flow;
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Requests answered.
    pub n_finished: usize,
    /// Requests that failed.
    pub n_failed: usize,
    /// How far the observer let it go: anything but `Continue` leaves requests undone.
    pub flow: Flow,
}

struct InFlight {
    id: String,
    form: Form,
    answers: Answers,
}

impl BatchJob {
    /// Runs all of `requests`.
    ///
    /// # Errors
    /// Failures of the input, the output and the backend, which end the job; what was written stays. A request
    /// that fails is a line of the output instead.
    pub fn run(
        &self,
        session: &mut Session,
        requests: impl Iterator<Item = Result<(String, JobRequest)>>,
        output: &mut LineWriter,
        observer: &mut dyn Observer,
    ) -> Result<Ended> {
        let model = session.model().name.clone();
        let tokenizer = session.tokenizer().clone();
        let token_bytes = |token: TokenId| tokenizer.token_bytes(token).to_vec();
        let style = RowStyle {
            signals: self.signals,
            regions: self.policy.regions(),
            model: &model,
            token_bytes: &token_bytes,
        };
        let mut requests = requests.fuse();
        let mut in_flight: HashMap<RequestId, InFlight> = HashMap::new();
        let mut events = Vec::new();
        let mut ended = Ended { n_finished: 0, n_failed: 0, flow: Flow::Continue };
        loop {
            while ended.flow == Flow::Continue && in_flight.len() < self.max_in_flight {
                let Some(request) = requests.next() else { break };
                let (id, request) = request?;
                let form = request.form.clone();
                match self.submit(session, &id, request) {
                    Ok((request, answers)) => drop(in_flight.insert(request, InFlight { id, form, answers })),
                    Err(error) => {
                        output.write_line(&row::failed(&id, &form, &error))?;
                        ended.n_failed += 1;
                        observer.failed(&id, &error);
                    }
                }
            }
            if in_flight.is_empty() || ended.flow == Flow::Stop {
                return Ok(ended);
            }
            session.engine().step(&mut events)?;
            for event in events.drain(..) {
                let (request, outcome) = match event {
                    Event::Token(token) => {
                        if let Some(flight) = in_flight.get_mut(&token.request) {
                            flight.answers.push(token);
                        }
                        continue;
                    }
                    Event::Done(done) => {
                        let request = done.request;
                        let Some(flight) = in_flight.get_mut(&request) else { continue };
                        if !flight.answers.finish(done) {
                            continue;
                        }
                        (request, Ok(()))
                    }
                    Event::Failed { request, error } => (request, Err(error)),
                    _ => continue,
                };
                let Some(InFlight { id, form, answers }) = in_flight.remove(&request) else { continue };
                match outcome {
                    Ok(()) => {
                        output.write_line(&style.finished(&id, &form, &answers.choices, answers.asked))?;
                        ended.n_finished += 1;
                        observer.finished(&id, &answers.choices);
                    }
                    Err(error) => {
                        output.write_line(&row::failed(&id, &form, &error))?;
                        ended.n_failed += 1;
                        observer.failed(&id, &error);
                    }
                }
            }
            ended.flow = ended.flow.max(observer.stepped(&session.engine().stats()));
        }
    }

    fn submit(&self, session: &mut Session, id: &str, request: JobRequest) -> Result<(RequestId, Answers)> {
        let Prepared { request, answers } =
            self.preparation.prepare(session, id, request, &self.defaults, &self.policy)?;
        let request = session.engine().submit(request).map_err(|error| match error.class {
            // Whatever is wrong with it, the request is to blame.
            Class::Data => error,
            _ => Error { class: Class::Data, ..error },
        })?;
        Ok((request, answers))
    }
}
