//! Teacher-forced scoring: texts in, the log-probability of each token and the signals of each position out.

use super::batch::{Ended, Flow};
use super::input::JobLine;
use super::json::{Flaw, Value};
use super::request::{PlainText, check_id, unknown_field};
use super::{LineWriter, row};
use crate::Session;
use crate::text::Special;
use entropix_engine::{Event, Request, RequestId, RequestKey, Stats, Work};
use entropix_model::{Error, Result, TokenId};
use sha2::{Digest, Sha256};
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
        Sha256::digest(self.text.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How texts are scored.
pub struct ScoreJob {
    /// What special tokens spelled out in a text are.
    pub special: Special,
    /// Most texts in the engine at once.
    pub max_in_flight: usize,
}

/// Somebody who watches.
pub trait ScoreObserver {
    /// A text was scored, and its line is written: ln p of each token given those before it, none for the
    /// first.
    fn finished(&mut self, id: &str, logprobs: &[Option<f32>]);
    /// A text failed, and its line is written.
    fn failed(&mut self, id: &str, error: &Error);
    /// A step was taken.
    fn stepped(&mut self, stats: &Stats) -> Flow;
}

#[derive(Default)]
struct Scores {
    id: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<Option<f32>>,
    entropy: Vec<f32>,
    varentropy: Vec<f32>,
}

impl ScoreJob {
    /// Scores all of `requests`.
    ///
    /// # Errors
    /// As [`super::BatchJob::run`].
    pub fn run(
        &self,
        session: &mut Session,
        requests: impl Iterator<Item = Result<(String, ScoreRequest)>>,
        output: &mut LineWriter,
        observer: &mut dyn ScoreObserver,
    ) -> Result<Ended> {
        let mut requests = requests.fuse();
        let mut in_flight: HashMap<RequestId, Scores> = HashMap::new();
        let mut events = Vec::new();
        let mut ended = Ended { n_finished: 0, n_failed: 0, flow: Flow::Continue };
        loop {
            while ended.flow == Flow::Continue && in_flight.len() < self.max_in_flight {
                let Some(request) = requests.next() else { break };
                let (id, request) = request?;
                match self.submit(session, &id, &request.text) {
                    Ok((request, scores)) => drop(in_flight.insert(request, scores)),
                    Err(error) => fail(&id, &error, output, &mut ended, observer)?,
                }
            }
            if in_flight.is_empty() || ended.flow == Flow::Stop {
                return Ok(ended);
            }
            session.engine().step(&mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Scored(scored) => {
                        let Some(scores) = in_flight.get_mut(&scored.request) else { continue };
                        scores.entropy.push(scored.signals.entropy);
                        scores.varentropy.push(scored.signals.varentropy);
                        if scored.position + 1 < scores.tokens.len() {
                            scores.logprobs.push(Some(scored.signals.target_logprob));
                        }
                    }
                    Event::Done(done) => {
                        let Some(scores) = in_flight.remove(&done.request) else { continue };
                        let Scores { id, tokens, logprobs, entropy, varentropy } = &scores;
                        output.write_line(&row::scored(id, tokens, logprobs, entropy, varentropy))?;
                        ended.n_finished += 1;
                        observer.finished(id, logprobs);
                    }
                    Event::Failed { request, error } => {
                        let Some(scores) = in_flight.remove(&request) else { continue };
                        fail(&scores.id, &error, output, &mut ended, observer)?;
                    }
                    _ => {}
                }
            }
            ended.flow = ended.flow.max(observer.stepped(&session.engine().stats()));
        }
    }

    fn submit(&self, session: &mut Session, id: &str, text: &str) -> Result<(RequestId, Scores)> {
        let tokens = session.prompt(text, self.special)?;
        let key = RequestKey::of_id(id);
        let work = Work::Score { attention: false };
        let request = session.engine().submit(Request { key, prompt: tokens.clone(), work })?;
        Ok((request, Scores { id: id.to_owned(), tokens, logprobs: vec![None], ..Scores::default() }))
    }
}

fn fail(
    id: &str,
    error: &Error,
    output: &mut LineWriter,
    ended: &mut Ended,
    observer: &mut dyn ScoreObserver,
) -> Result<()> {
    output.write_line(&row::failed(id, &super::Form::Short, error))?;
    ended.n_failed += 1;
    observer.failed(id, error);
    Ok(())
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
