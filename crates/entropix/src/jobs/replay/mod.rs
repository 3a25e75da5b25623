//! A recorded trace decided again by another policy, without a model: what would have been decided otherwise, place by
//! place. Only the decisions change: the tokens stay those that were said, and what the policy begins beside the trace
//! counts as begun and comes to nothing.

mod bare;
mod change;
mod record;

pub use change::{Change, Replayed, Side};

use super::json::Flaw;
use super::limits::TRACE_OPEN_TOKENS;
use super::lines::Lines;
use crate::calibrations;
use entropix_engine::limits::PHRASE_TOKENS;
use entropix_engine::{
    Calibration, DecisionKind, Origin, Parameters, Policy, PolicyFile, Recorded, RegionId, RequestId,
    RequestKey, Retold, RetoldAnswer, Token,
};
use entropix_model::{Error, Result, TokenId};
use record::{Head, Kind, Record, Words};
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

/// What a replay says, line by line.
pub enum Said {
    /// What is decided at bare signals.
    Bare(serde_json::Value),
    /// A decision that is another one now.
    Changed(Change),
}

/// A policy at work on recorded signals.
pub struct Replay<'a> {
    file: PolicyFile,
    calibration: Option<(&'a Path, &'a Calibration)>,
    /// Once it is known what the trace is of.
    policy: Option<Arc<dyn Policy>>,
    words: Words,
    /// Texts the policy looks for and their tokens, where they are known.
    texts: BTreeMap<String, Option<Vec<TokenId>>>,
    head: Option<Head>,
    requests: BTreeMap<String, Asked>,
    answers: BTreeMap<(String, u32), RetoldAnswer>,
    replayed: Replayed,
}

/// What a trace says of a request.
struct Asked {
    parameters: Parameters,
    prompt_end: Vec<TokenId>,
    is_edited: bool,
}

impl<'a> Replay<'a> {
    /// A replay of `file`, whose quantiles are taken from the calibration read from a file, else from the one that comes
    /// with the program for the model of the trace.
    pub fn new(file: PolicyFile, calibration: Option<(&'a Path, &'a Calibration)>) -> Self {
        let texts = file.texts().map(|text| (text.to_owned(), None)).collect();
        Self {
            file,
            calibration,
            policy: None,
            words: Words::new(),
            texts,
            head: None,
            requests: BTreeMap::new(),
            answers: BTreeMap::new(),
            replayed: Replayed::default(),
        }
    }

    /// Decides every line again; `say` gets what is decided at bare signals, and what is decided otherwise.
    ///
    /// # Errors
    /// `Data`, naming the line, for what is no trace or contradicts itself; `Config` when the policy needs a calibration
    /// or has one of another model; what `say` returns.
    pub fn run<R: BufRead>(
        mut self,
        mut lines: Lines<R>,
        place: &str,
        say: &mut dyn FnMut(Said) -> Result<()>,
    ) -> Result<Replayed> {
        let mut torn: Option<Error> = None;
        while let Some(line) = lines.next_line()? {
            if let Some(error) = torn.take() {
                return Err(error);
            }
            let number = line.number;
            let fail = |message: String| Error::data("Trace", format!("{place}:{number}: {message}"));
            let is_torn = is_torn(line.bytes);
            let read = line.text.and_then(|text| Record::read(text, &mut self.words));
            let record = match read.map_err(|flaw: Flaw| fail(flaw.message)) {
                Ok(record) => record,
                // A job that is still writing leaves its last line torn.
                Err(error) if is_torn => {
                    torn = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.take(record, &fail, say)?;
        }
        if torn.is_some() {
            self.replayed.notes.push("the last line of the trace is torn and left out".into());
        }
        self.note_what_lacks();
        Ok(self.replayed)
    }

    fn take(
        &mut self,
        mut record: Record,
        fail: &dyn Fn(String) -> Error,
        say: &mut dyn FnMut(Said) -> Result<()>,
    ) -> Result<()> {
        if record.kind == Kind::Trace {
            return self.begin(std::mem::take(&mut record.head));
        }
        let policy = self.policy()?;
        let key = (record.id.clone(), record.choice);
        let retold = match record.kind {
            Kind::Bare => {
                self.replayed.n_bare += 1;
                return say(Said::Bare(bare::decide(&self.file, &*policy, &record)));
            }
            Kind::Request => {
                self.forget(&record.id);
                let head = self.head.as_ref().and_then(|head| head.seed);
                record.parameters.seed = record.head.seed.or(head).unwrap_or(record.parameters.seed);
                let Record { id, parameters, prompt_end, is_edited, .. } = record;
                self.learn(&prompt_end)?;
                self.requests.insert(id, Asked { parameters, prompt_end, is_edited });
                return Ok(());
            }
            Kind::Failed => {
                self.forget(&record.id);
                return Ok(());
            }
            Kind::Done => {
                let Some(answer) = self.answers.get_mut(&key) else { return Ok(()) };
                let retold = answer.done(record.finish == "abstain", &self.words.classes).map_err(fail)?;
                let end = answer.end_position();
                self.answers.remove(&key);
                record.position = Some(end);
                retold
            }
            Kind::Token | Kind::Decision => {
                let retold = self.decide(&record, &policy).map_err(fail)?;
                if record.kind == Kind::Token && self.texts.values().any(Option::is_none) {
                    let tokens = self.answers.get(&key).and_then(|answer| answer.tokens(record.branch));
                    let tokens = tokens.unwrap_or_default();
                    let tail = tokens[tokens.len().saturating_sub(PHRASE_TOKENS)..].to_vec();
                    self.learn(&tail)?;
                }
                retold
            }
            Kind::Inject | Kind::Retract | Kind::Fork | Kind::Join => {
                self.follow(&record, &policy).map_err(fail)?;
                return Ok(());
            }
            Kind::Trace | Kind::Other => return Ok(()),
        };
        if let Some(change) = self.replayed.count(&record, retold, policy.regions()) {
            say(Said::Changed(change))?;
        }
        Ok(())
    }

    /// The first record: what the trace is of. A job that went on wrote another one.
    fn begin(&mut self, head: Head) -> Result<()> {
        if let Some((name, sha256)) = &head.model {
            self.file = calibrations::resolve(&self.file, self.calibration, name, sha256)?;
        }
        for (text, tokens) in &head.texts {
            if let Some(known) = self.texts.get_mut(text) {
                *known = Some(tokens.clone());
            }
        }
        for &end in &head.ends {
            self.words.classes.add(end, entropix_engine::TokenClass::End);
        }
        self.head = Some(head);
        self.policy = None;
        self.policy().map(|_| ())
    }

    /// The policy, bound to what is known of the tokens.
    fn policy(&mut self) -> Result<Arc<dyn Policy>> {
        if let Some(policy) = &self.policy {
            return Ok(Arc::clone(policy));
        }
        if self.head.is_none()
            && let Some((_, calibration)) = self.calibration
        {
            self.file = self.file.calibrated(calibration)?;
        }
        let encode = |text: &str| {
            let known = self.texts.get(text).and_then(Option::as_ref);
            // A token that no trace holds.
            let place = self.texts.keys().position(|other| other == text).unwrap_or(0);
            Ok(known.cloned().unwrap_or_else(|| vec![TokenId::MAX - 1 - place as TokenId]))
        };
        let policy = self.file.bind(&encode)?;
        self.answers.values_mut().for_each(|answer| answer.rebind(&policy));
        self.policy = Some(Arc::clone(&policy));
        Ok(policy)
    }

    /// Learns the tokens of a text that the policy looks for, where it stands for the first time.
    fn learn(&mut self, tokens: &[TokenId]) -> Result<()> {
        let mut has_learned = false;
        for (text, known) in self.texts.iter_mut().filter(|(_, known)| known.is_none()) {
            *known = self.words.spelled(tokens, text.as_bytes()).map(<[TokenId]>::to_vec);
            has_learned |= known.is_some();
        }
        if has_learned {
            self.policy = None;
            self.policy()?;
        }
        Ok(())
    }

    /// An earlier attempt, if there was one, came to nothing; or nothing more comes.
    fn forget(&mut self, id: &str) {
        self.requests.remove(id);
        let over = (id.to_owned(), 0)..=(id.to_owned(), u32::MAX);
        let keys: Vec<_> = self.answers.range(over).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| drop(self.answers.remove(key)));
    }

    /// The answer a record is of, which may be new.
    fn answer(&mut self, record: &Record, policy: &Arc<dyn Policy>) -> Result<&mut RetoldAnswer, String> {
        let key = (record.id.clone(), record.choice);
        // The first format had no word for a request that began anew.
        let begins_anew = self.head.is_none()
            && record.kind == Kind::Token
            && record.branch == 0
            && self.answers.get(&key).is_some_and(|answer| Some(answer.first()) == record.position);
        if begins_anew {
            self.answers.remove(&key);
        }
        if !self.answers.contains_key(&key) {
            let Some(n_prompt) = record.position.filter(|_| record.branch == 0) else {
                return Err("something happens to an answer that was not begun".into());
            };
            check_held(self.answers.values().map(RetoldAnswer::n_held).sum())?;
            let asked = self.requests.get(&record.id);
            let mut parameters = asked.map(|asked| asked.parameters.clone()).unwrap_or_default();
            if asked.is_none() {
                parameters.seed = self.head.as_ref().and_then(|head| head.seed).unwrap_or(parameters.seed);
            }
            let origin = Origin {
                key: RequestKey::of_id(&record.id),
                parameters,
                choice: record.choice,
                prompt_end: asked.map(|asked| asked.prompt_end.clone()).unwrap_or_default(),
                n_prompt,
                is_edited: asked.is_some_and(|asked| asked.is_edited),
                is_rationed: self.head.as_ref().is_some_and(|head| head.is_rationed),
            };
            let answer = RetoldAnswer::new(origin, Arc::clone(policy), &self.words.classes);
            self.answers.insert(key.clone(), answer);
        }
        Ok(self.answers.get_mut(&key).expect("it was put there"))
    }

    fn decide(&mut self, record: &Record, policy: &Arc<dyn Policy>) -> Result<Retold, String> {
        // Nobody measures attention for a forced token.
        let is_given = record.is_end || record.decision == Some(DecisionKind::Inject);
        self.replayed.lacks_attention |= policy.needs().attention && !record.has_attention && !is_given;
        let n_candidates = match &self.head {
            Some(head) => head.n_candidates.max(record.candidates.len()),
            None => record.candidates.len(),
        };
        let position = record.position.unwrap_or(0);
        let kind = record.decision.unwrap_or(DecisionKind::Argmax);
        let recorded = Recorded {
            branch: record.branch,
            position,
            kind,
            signals: record.signals,
            attention: record.attention,
            candidates: &record.candidates,
            n_candidates,
        };
        self.answer(record, policy)?;
        let answer =
            self.answers.get_mut(&(record.id.clone(), record.choice)).expect("it was found just now");
        let classes = &self.words.classes;
        let Some(token) = record.token.filter(|_| record.kind == Kind::Token) else {
            return answer.decision(&recorded, record.is_end, classes);
        };
        let token = Token {
            request: RequestId(0),
            choice: record.choice,
            token,
            position,
            signals: record.signals,
            attention: Some(record.attention),
            logprob: record.logprob,
            temperature: record.temperature,
            top: Vec::new(),
            region: RegionId::default(),
            decision: kind,
            end: record.is_end,
        };
        answer.token(&recorded, token, classes)
    }

    /// Makes and cuts lines as the trace did.
    fn follow(&mut self, record: &Record, policy: &Arc<dyn Policy>) -> Result<(), String> {
        let region = policy.regions().iter().position(|name| **name == *record.region);
        let region = region.map(|place| RegionId(place as u16));
        let (position, discarded) = (record.position.unwrap_or(0), record.discarded);
        if record.kind == Kind::Inject {
            return self.answer(record, policy)?.inject(record.branch, position);
        }
        // An answer may begin with a branch, before it has a token.
        let answer = self.answer(record, policy)?;
        let is_known = match record.kind {
            Kind::Retract => answer.retract(record.branch, position, discarded, region)?,
            Kind::Fork => {
                check_held(answer.n_held() * (1 + record.children.len()))?;
                let kind = record.decision.unwrap_or(DecisionKind::Branch);
                answer.fork(record.branch, &record.children, kind, region)?
            }
            _ => answer.join(record.branch, discarded).map(|()| true)?,
        };
        self.replayed.n_unknown += usize::from(!is_known);
        Ok(())
    }

    fn note_what_lacks(&mut self) {
        let Replayed { n_unknown, lacks_attention, notes, n_decisions, .. } = &mut self.replayed;
        if *n_unknown > 0 {
            let mut note = format!(
                "{n_unknown} decisions are not made again and not among these: what they were made from is not in the \
                 trace"
            );
            match self.file.candidates() {
                0 => {}
                k => {
                    note += &format!(" (the policy picks among {k} candidates: batch --trace-candidates {k})")
                }
            }
            notes.push(note);
        }
        if *lacks_attention {
            notes.push(
                "the trace has no attention signals, which the policy asks for: conditions on them hold nowhere, and \
                 temperatures made of them are not compared"
                    .into(),
            );
        }
        if self.head.as_ref().is_some_and(|head| head.is_rationed) {
            notes.push(
                "the job had a budget of extra tokens for all its answers together: what the policy begins and the trace \
                 did not may have been forbidden, and counts as the same"
                    .into(),
            );
        }
        if *n_decisions > 0 && self.words.is_empty() && !self.texts.is_empty() {
            notes.push("the trace has no texts: conditions on texts and classes hold nowhere".into());
        }
    }
}

fn check_held(n_tokens: usize) -> Result<(), String> {
    if n_tokens <= TRACE_OPEN_TOKENS {
        return Ok(());
    }
    Err(format!(
        "the answers that are not over have more than {TRACE_OPEN_TOKENS} tokens; trace fewer requests at once"
    ))
}

/// Whether a line only stops too early.
fn is_torn(line: &[u8]) -> bool {
    match std::str::from_utf8(line) {
        Ok(text) => serde_json::from_str::<IgnoredAny>(text).is_err_and(|error| error.is_eof()),
        Err(error) => error.error_len().is_none(),
    }
}
