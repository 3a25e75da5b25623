//! Runs the requests of a job: keeps a bounded number of them in the engine, gathers their answers, and writes
//! one line for each as it ends. Memory is bounded by what is in flight, not by the length of the job.

use super::answers::Answers;
use super::limits::HELD_BACK;
use super::params::Params;
use super::prepare::{Preparation, Prepared};
use super::request::{Form, JobRequest};
use super::row::{self, RowStyle};
use super::{Asked, Choice, Item, SignalsLevel, Sink, Tracer};
use crate::Session;
use entropix_engine::{Event, Policy, RequestId, Stats, Work};
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
    /// Whether the first request that fails ends the job.
    pub fail_fast: bool,
    /// Where there will be a [`Tracer`], how many candidates it tells of every token, at least; 2 to
    /// [`entropix_model::Capacity::max_candidates`].
    pub trace_candidates: Option<u16>,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// Yes.
    Continue,
    /// Finish what was begun.
    Drain,
    /// Stop because a request failed: at once, or when its line has its turn; what was begun is dropped.
    Fail,
    /// Stop at once; what was begun is dropped.
    Stop,
}

impl Flow {
    /// What a job does that was asked to end so many times.
    pub fn asked(times: usize) -> Self {
        match times {
            0 => Self::Continue,
            1 => Self::Drain,
            _ => Self::Stop,
        }
    }

    /// Whether what runs is dropped now. A failure is not when its line waits for those before it: they would be computed
    /// and dropped again in every run.
    pub(super) fn is_over(self, sink: &Sink) -> bool {
        self == Self::Stop || self == Self::Fail && sink.n_waiting() == 0
    }
}

/// Somebody who watches a job.
pub trait Observer {
    /// A request was answered.
    fn finished(&mut self, id: &str, choices: &[Choice]);
    /// A request failed.
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
    ticket: u64,
    id: String,
    hash: String,
    form: Form,
    answers: Answers,
}

impl BatchJob {
    /// Runs all of `items`.
    ///
    /// # Errors
    /// Failures of the input, the output, the backend and the machine, which end the job; what was written stays. A
    /// request that fails is a line of the output instead.
    pub fn run(
        &self,
        session: &mut Session,
        items: impl Iterator<Item = Result<Item<JobRequest>>>,
        sink: &mut Sink,
        mut tracer: Option<&mut Tracer>,
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
        let mut items = items.fuse();
        let mut tickets = 0..;
        let mut in_flight: HashMap<RequestId, InFlight> = HashMap::new();
        let mut events = Vec::new();
        let mut ended = Ended { n_finished: 0, n_failed: 0, flow: Flow::Continue };
        let fail = |ended: &mut Ended, observer: &mut dyn Observer, id: &str, error: &Error| {
            ended.n_failed += 1;
            observer.failed(id, error);
            if self.fail_fast {
                ended.flow = ended.flow.max(Flow::Fail);
            }
        };
        loop {
            while ended.flow == Flow::Continue
                && in_flight.len() < self.max_in_flight
                && sink.n_waiting() < HELD_BACK
            {
                let (Some(item), Some(ticket)) = (items.next(), tickets.next()) else { break };
                let Item { id, hash, request } = item?;
                let form = request.as_ref().map_or(Form::Short, |request| request.form.clone());
                let prompt = request.as_ref().ok().filter(|_| tracer.is_some()).map(|r| r.prompt.clone());
                match request.and_then(|request| self.submit(session, &id, request)) {
                    Ok((request, answers, asked)) => {
                        if let (Some(tracer), Some(prompt), Some(asked)) = (&mut tracer, prompt, asked) {
                            tracer.request(&id, &prompt, answers.choices.len(), &asked)?;
                        }
                        in_flight.insert(request, InFlight { ticket, id, hash, form, answers });
                    }
                    // The machine is to blame, not the request: it is still to be done.
                    Err(error) if matches!(error.class, Class::Temp | Class::Io) => return Err(error),
                    Err(error) => {
                        if let Some(tracer) = &mut tracer {
                            tracer.failed(&id, &error)?;
                        }
                        sink.put(ticket, row::failed(&id, &hash, &form, &error))?;
                        fail(&mut ended, observer, &id, &error);
                    }
                }
            }
            if in_flight.is_empty() || ended.flow.is_over(sink) {
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
                    Event::Raw(raw) => {
                        let flight = in_flight.get(&raw.request());
                        if let (Some(tracer), Some(flight)) = (&mut tracer, flight) {
                            tracer.write(&flight.id, &raw)?;
                        }
                        continue;
                    }
                    Event::Done(done) => {
                        let request = done.request;
                        let Some(flight) = in_flight.get_mut(&request) else { continue };
                        if let Some(tracer) = &mut tracer {
                            tracer.done(&flight.id, &done)?;
                        }
                        if !flight.answers.finish(done) {
                            continue;
                        }
                        (request, Ok(()))
                    }
                    Event::Failed { request, error } => (request, Err(error)),
                    _ => continue,
                };
                let Some(flight) = in_flight.remove(&request) else { continue };
                let InFlight { ticket, id, hash, form, answers } = flight;
                if let Some(tracer) = &mut tracer {
                    tracer.forget(request);
                    if let Err(error) = &outcome {
                        tracer.failed(&id, error)?;
                    }
                }
                match outcome {
                    Ok(()) => {
                        let Answers { choices, asked, .. } = &answers;
                        sink.put(ticket, style.finished(&id, &hash, &form, choices, *asked))?;
                        ended.n_finished += 1;
                        observer.finished(&id, choices);
                    }
                    Err(error) => {
                        sink.put(ticket, row::failed(&id, &hash, &form, &error))?;
                        fail(&mut ended, observer, &id, &error);
                    }
                }
            }
            sink.keep_pace()?;
            ended.flow = ended.flow.max(observer.stepped(&session.engine().stats()));
        }
    }

    fn submit(
        &self,
        session: &mut Session,
        id: &str,
        request: JobRequest,
    ) -> Result<(RequestId, Answers, Option<Asked>)> {
        let Prepared { mut request, answers } =
            self.preparation.prepare(session, id, request, &self.defaults, &self.policy)?;
        let mut asked = None;
        if let Work::Generate(generate) = &mut request.work {
            let parameters = &mut generate.parameters;
            asked = self.trace_candidates.map(|_| Asked::new(parameters, &request.prompt));
            parameters.raw_events = self.trace_candidates.is_some();
            parameters.logprobs = parameters.logprobs.max(self.trace_candidates.unwrap_or(0));
        }
        let request = session.engine().submit(request).map_err(|error| match error.class {
            // Whatever is wrong with it, the request is to blame.
            Class::Data => error,
            _ => Error { class: Class::Data, ..error },
        })?;
        Ok((request, answers, asked))
    }
}
