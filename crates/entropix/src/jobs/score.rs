//! Teacher-forced scoring: texts in, the log-probability of each token and the signals of each position out.

use super::batch::{Ended, Flow};
use super::ids::short_hash;
use super::input::JobLine;
use super::json::{Flaw, Value};
use super::limits::HELD_BACK;
use super::request::{PlainText, check_id, unknown_field};
use super::{Item, Sink, row};
use crate::Session;
use crate::text::Special;
use entropix_engine::{Event, Request, RequestId, RequestKey, Stats, Work};
use entropix_model::{Error, Result, TokenId};
use std::collections::HashMap;

/// A text to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRequest {
    /// `id`.
    pub id: Option<String>,
    /// `text`.
    pub text: String,
}

impl JobLine for ScoreRequest {
    fn from_json(line: &str) -> Result<Self, Flaw> {
        let (mut id, mut text) = (None, None);
        for member in Value::parse(line)?.members("the request")? {
            match member.key.as_str() {
                "id" => id = Some(check_id("id", &member.value)?),
                "text" => text = Some(member.value.string("text")?),
                _ => return Err(unknown_field(&member, &["id", "text"])),
            }
        }
        let text = text.ok_or_else(|| Flaw::new("Field", 0, "the request has no \"text\""))?;
        Ok(Self { id, text })
    }

    fn from_plain(line: &str, _: PlainText) -> Self {
        Self { id: None, text: line.to_owned() }
    }

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn content_hash(&self) -> String {
        short_hash(self.text.as_bytes())
    }
}

/// How texts are scored.
pub struct ScoreJob {
    /// What special tokens spelled out in a text are.
    pub special: Special,
    /// Most texts in the engine at once.
    pub max_in_flight: usize,
    /// Whether the first text that fails ends the job.
    pub fail_fast: bool,
}

/// Somebody who watches.
pub trait ScoreObserver {
    /// A text was scored: ln p of each token given those before it, none for the
    /// first.
    fn finished(&mut self, id: &str, logprobs: &[Option<f32>]);
    /// A text failed.
    fn failed(&mut self, id: &str, error: &Error);
    /// A step was taken.
    fn stepped(&mut self, stats: &Stats) -> Flow;
}

/// Where the line of a text goes.
struct Place {
    ticket: u64,
    id: String,
    hash: String,
}

#[derive(Default)]
struct Scores {
    tokens: Vec<TokenId>,
    logprobs: Vec<Option<f32>>,
    entropy: Vec<f32>,
    varentropy: Vec<f32>,
}

impl ScoreJob {
    /// Scores all of `items`.
    ///
    /// # Errors
    /// As [`super::BatchJob::run`].
    pub fn run(
        &self,
        session: &mut Session,
        items: impl Iterator<Item = Result<Item<ScoreRequest>>>,
        sink: &mut Sink,
        observer: &mut dyn ScoreObserver,
    ) -> Result<Ended> {
        let mut items = items.fuse();
        let mut tickets = 0..;
        let mut in_flight: HashMap<RequestId, (Place, Scores)> = HashMap::new();
        let mut events = Vec::new();
        let mut ended = Ended { n_finished: 0, n_failed: 0, flow: Flow::Continue };
        loop {
            while ended.flow == Flow::Continue
                && in_flight.len() < self.max_in_flight
                && sink.n_waiting() < HELD_BACK
            {
                let (Some(item), Some(ticket)) = (items.next(), tickets.next()) else { break };
                let Item { id, hash, request } = item?;
                let place = Place { ticket, id, hash };
                match request.and_then(|request| self.submit(session, &place, &request.text)) {
                    Ok((request, scores)) => drop(in_flight.insert(request, (place, scores))),
                    Err(error) => self.fail(&place, &error, sink, &mut ended, observer)?,
                }
            }
            if in_flight.is_empty() || ended.flow.is_over(sink) {
                return Ok(ended);
            }
            session.engine().step(&mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Scored(scored) => {
                        let Some((_, scores)) = in_flight.get_mut(&scored.request) else { continue };
                        scores.entropy.push(scored.signals.entropy);
                        scores.varentropy.push(scored.signals.varentropy);
                        if scored.position + 1 < scores.tokens.len() {
                            scores.logprobs.push(Some(scored.signals.target_logprob));
                        }
                    }
                    Event::Done(done) => {
                        let Some((place, scores)) = in_flight.remove(&done.request) else { continue };
                        let Place { ticket, id, hash } = &place;
                        let Scores { tokens, logprobs, entropy, varentropy } = &scores;
                        sink.put(*ticket, row::scored(id, hash, tokens, logprobs, entropy, varentropy))?;
                        ended.n_finished += 1;
                        observer.finished(id, logprobs);
                    }
                    Event::Failed { request, error } => {
                        let Some((place, _)) = in_flight.remove(&request) else { continue };
                        self.fail(&place, &error, sink, &mut ended, observer)?;
                    }
                    _ => {}
                }
            }
            sink.keep_pace()?;
            ended.flow = ended.flow.max(observer.stepped(&session.engine().stats()));
        }
    }

    fn submit(&self, session: &mut Session, place: &Place, text: &str) -> Result<(RequestId, Scores)> {
        let tokens = session.prompt(text, self.special)?;
        let key = RequestKey::of_id(&place.id);
        let work = Work::Score { attention: false };
        let request = session.engine().submit(Request { key, prompt: tokens.clone(), work })?;
        Ok((request, Scores { tokens, logprobs: vec![None], ..Scores::default() }))
    }

    fn fail(
        &self,
        place: &Place,
        error: &Error,
        sink: &mut Sink,
        ended: &mut Ended,
        observer: &mut dyn ScoreObserver,
    ) -> Result<()> {
        let Place { ticket, id, hash } = place;
        sink.put(*ticket, row::failed(id, hash, &super::Form::Short, error))?;
        ended.n_failed += 1;
        observer.failed(id, error);
        if self.fail_fast {
            ended.flow = ended.flow.max(Flow::Fail);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read() {
        let request = ScoreRequest::from_json(r#"{"id": "a", "text": "x"}"#).unwrap();
        assert_eq!(request, ScoreRequest { id: Some("a".into()), text: "x".into() });
        for bad in
            [r#"{"id": "a"}"#, r#"{"text": 1}"#, r#"{"text": "x", "n": 1}"#, r#"{"text":"x","text":"y"}"#]
        {
            assert!(ScoreRequest::from_json(bad).is_err(), "{bad}");
        }
    }
}
