//! Lines of a trace, or of bare signals.

use crate::jobs::json::{Flaw, Value};
use crate::jobs::limits::{ID_BYTES, TRACE_ELEMENTS};
use crate::text::of_text;
use entropix_engine::{DecisionKind, Parameters, Signal, TokenClass, TokenClasses};
use entropix_model::limits::VOCAB_SIZE;
use entropix_model::{AttentionSignals, Candidate, Signals, TokenId};
use std::collections::HashMap;

/// Positions of a sequence.
const LAST_POSITION: i64 = u32::MAX as i64;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bare,
    Trace,
    Request,
    Token,
    Decision,
    Inject,
    Retract,
    Fork,
    Join,
    Done,
    Failed,
    /// What an earlier version had no word for.
    Other,
}

const KINDS: [(Kind, &str); 11] = [
    (Kind::Trace, "trace"),
    (Kind::Request, "request"),
    (Kind::Token, "token"),
    (Kind::Decision, "decision"),
    (Kind::Inject, "inject"),
    (Kind::Retract, "retract"),
    (Kind::Fork, "fork"),
    (Kind::Join, "join"),
    (Kind::Done, "done"),
    (Kind::Failed, "failed"),
    (Kind::Other, "other"),
];

/// A line.
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) choice: u32,
    pub(super) branch: u32,
    pub(super) position: Option<usize>,
    pub(super) token: Option<TokenId>,
    pub(super) logprob: f32,
    pub(super) region: String,
    pub(super) decision: Option<DecisionKind>,
    pub(super) temperature: f32,
    pub(super) finish: String,
    pub(super) is_end: bool,
    pub(super) discarded: usize,
    /// NaN where there is none.
    pub(super) signals: Signals,
    pub(super) attention: AttentionSignals,
    /// Signals that are there.
    pub(super) n_signals: usize,
    pub(super) has_attention: bool,
    pub(super) candidates: Vec<Candidate>,
    /// Lines and the places they begin at.
    pub(super) children: Vec<(u32, usize)>,
    pub(super) prompt_end: Vec<TokenId>,
    pub(super) parameters: Parameters,
    pub(super) is_edited: bool,
    /// What the head of a trace says.
    pub(super) head: Head,
}

/// What a trace says of itself, as far as decisions depend on it.
#[derive(Default)]
pub(super) struct Head {
    pub(super) seed: Option<u64>,
    /// Name and hash.
    pub(super) model: Option<(String, String)>,
    pub(super) n_candidates: usize,
    pub(super) is_rationed: bool,
    pub(super) ends: Vec<TokenId>,
    /// Texts of its policy and their tokens.
    pub(super) texts: Vec<(String, Vec<TokenId>)>,
}

/// What is known of the tokens of a trace.
pub(super) struct Words {
    pub(super) classes: TokenClasses,
    bytes: HashMap<TokenId, Vec<u8>>,
}

impl Words {
    pub(super) fn new() -> Self {
        Self { classes: TokenClasses::new(VOCAB_SIZE as usize), bytes: HashMap::new() }
    }

    /// Whether no text of a token is known.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn learn(&mut self, token: TokenId, bytes: Vec<u8>) {
        if self.bytes.contains_key(&token) {
            return;
        }
        if bytes.is_empty() {
            self.classes.add(token, TokenClass::Special);
        }
        of_text(&bytes).for_each(|class| self.classes.add(token, class));
        self.bytes.insert(token, bytes);
    }

    /// The last of `tokens` that spell `text`, if they do.
    pub(super) fn spelled<'a>(&self, tokens: &'a [TokenId], text: &[u8]) -> Option<&'a [TokenId]> {
        let mut rest = text;
        for (place, token) in tokens.iter().enumerate().rev() {
            rest = rest.strip_suffix(&self.bytes.get(token)?[..])?;
            if rest.is_empty() {
                return Some(&tokens[place..]);
            }
        }
        None
    }
}

fn number(value: &Value<'_>, what: &str) -> Result<f64, Flaw> {
    value.number().ok_or_else(|| value.flaw(format!("{what} is {}, wants a number", value.describe())))
}

fn whole(value: &Value<'_>, what: &str) -> Result<u32, Flaw> {
    Ok(value.integer(what, 0, i64::from(u32::MAX))? as u32)
}

fn token_id(value: &Value<'_>, what: &str) -> Result<TokenId, Flaw> {
    Ok(value.integer(what, 0, VOCAB_SIZE as i64 - 1)? as TokenId)
}

fn place(value: &Value<'_>, what: &str) -> Result<usize, Flaw> {
    Ok(value.integer(what, 0, LAST_POSITION)? as usize)
}

fn decision(value: &Value<'_>, key: &str) -> Result<DecisionKind, Flaw> {
    let name = value.string(key)?;
    let known = DecisionKind::ALL.into_iter().find(|kind| kind.name() == name);
    known.ok_or_else(|| value.flaw(format!("{key} is {}, which is no decision", value.describe())))
}

/// The bytes of a token: its text, or those beside it where they are not whole characters.
#[derive(Default)]
struct Spelling {
    text: Option<String>,
    bytes: Option<Vec<u8>>,
}

impl Spelling {
    /// Whether the member belongs to it.
    fn take(&mut self, key: &str, value: &Value<'_>) -> Result<bool, Flaw> {
        match key {
            "text" => self.text = Some(value.string(key)?),
            "bytes" => {
                let byte = |value: &Value<'_>| Ok(value.integer("a byte", 0, 255)? as u8);
                self.bytes =
                    Some(value.elements(key, TRACE_ELEMENTS)?.iter().map(byte).collect::<Result<_, Flaw>>()?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn learn(self, token: TokenId, words: &mut Words) {
        if let Some(bytes) = self.bytes.or_else(|| self.text.map(String::into_bytes)) {
            words.learn(token, bytes);
        }
    }
}

impl Record {
    /// Reads a line; what it tells of tokens is learned.
    pub(super) fn read(line: &str, words: &mut Words) -> Result<Self, Flaw> {
        let mut record = Self {
            kind: Kind::Bare,
            id: String::new(),
            choice: 0,
            branch: 0,
            position: None,
            token: None,
            logprob: f32::NAN,
            region: String::new(),
            decision: None,
            temperature: 0.0,
            finish: String::new(),
            is_end: false,
            discarded: 0,
            signals: Signals::default(),
            attention: AttentionSignals::default(),
            n_signals: 0,
            has_attention: false,
            candidates: Vec::new(),
            children: Vec::new(),
            prompt_end: Vec::new(),
            parameters: Parameters::default(),
            is_edited: false,
            head: Head::default(),
        };
        let (signals, attention) = (&mut record.signals, &mut record.attention);
        Signal::ALL.iter().for_each(|(signal, _)| signal.put(f64::NAN, signals, attention));
        signals.best.iter_mut().for_each(|best| best.logprob = f32::NEG_INFINITY);
        let mut spelling = Spelling::default();
        let line = Value::parse(line)?;
        let members = line.members("the line")?;
        let is_event = members.iter().any(|member| member.key == "event");
        for member in &members {
            let (key, value) = (member.key.as_str(), &member.value);
            if let Some((signal, _)) = Signal::ALL.iter().find(|(_, name)| *name == key) {
                if !value.is_null() {
                    let (least, most) = signal.range();
                    let measured = number(value, key)?;
                    // What was measured may be off in its last bit.
                    if !is_event && !(least..=most).contains(&measured) {
                        return Err(value.flaw(format!("{key} is {measured}, which no distribution has")));
                    }
                    signal.put(measured, &mut record.signals, &mut record.attention);
                    record.n_signals += 1;
                    record.has_attention |= *signal >= Signal::AttnEntropy;
                }
                continue;
            }
            // What else stands beside bare signals is nobody's business.
            if !is_event || key != "event" && (value.is_null() || spelling.take(key, value)?) {
                continue;
            }
            record.member(key, value, words)?;
        }
        if let Some(token) = record.token {
            spelling.learn(token, words);
        }
        if record.kind == Kind::Fork && record.decision == Some(DecisionKind::Branch) {
            record.position = record.children.first().map(|child| child.1);
        }
        record.check(&line)?;
        Ok(record)
    }

    fn member(&mut self, key: &str, value: &Value<'_>, words: &mut Words) -> Result<(), Flaw> {
        match key {
            "event" => {
                let name = value.string(key)?;
                let known = KINDS.iter().find(|(_, known)| *known == name);
                let unknown = || value.flaw(format!("event is {}, which no trace has", value.describe()));
                self.kind = known.ok_or_else(unknown)?.0;
            }
            "id" => {
                self.id = value.string(key)?;
                if self.id.len() > ID_BYTES {
                    return Err(
                        value.flaw(format!("id has {} bytes, at most {ID_BYTES} are allowed", self.id.len()))
                    );
                }
            }
            "region" => self.region = value.string(key)?,
            "decision" => self.decision = Some(decision(value, key)?),
            "finish_reason" => self.finish = value.string(key)?,
            "choice" => self.choice = whole(value, key)?,
            "branch" => self.branch = whole(value, key)?,
            "position" => self.position = Some(place(value, key)?),
            "discarded_tokens" => self.discarded = place(value, key)?,
            "token" => self.token = Some(token_id(value, key)?),
            "logprob" => self.logprob = number(value, key)? as f32,
            "temperature" => self.temperature = number(value, key)? as f32,
            "end" => self.is_end = value.boolean(key)?,
            "candidates" => {
                for pair in value.elements(key, TRACE_ELEMENTS)? {
                    if let [token, logprob, ..] = &pair.elements(key, TRACE_ELEMENTS)?[..] {
                        let logprob =
                            if logprob.is_null() { f64::NEG_INFINITY } else { number(logprob, key)? };
                        self.candidates
                            .push(Candidate { token: token_id(token, key)?, logprob: logprob as f32 });
                    }
                }
                self.signals.best.iter_mut().zip(&self.candidates).for_each(|(best, &it)| *best = it);
            }
            "trace_candidates" => self.head.n_candidates = whole(value, key)? as usize,
            "children" => {
                for child in value.elements(key, TRACE_ELEMENTS)? {
                    let (mut branch, mut position) = (None, None);
                    for member in child.members("a child")? {
                        match member.key.as_str() {
                            "branch" => branch = Some(whole(&member.value, "branch")?),
                            "position" => position = Some(place(&member.value, "position")?),
                            _ => {}
                        }
                    }
                    let lacks = || child.flaw("a child lacks the member \"branch\" or \"position\"");
                    self.children.push(branch.zip(position).ok_or_else(lacks)?);
                }
            }
            "prompt_end" => {
                for token in value.elements(key, TRACE_ELEMENTS)? {
                    let (mut id, mut spelling) = (None, Spelling::default());
                    for member in token.members("a token")? {
                        match member.key.as_str() {
                            "token" => id = Some(token_id(&member.value, "token")?),
                            key => drop(spelling.take(key, &member.value)?),
                        }
                    }
                    let id = id.ok_or_else(|| token.flaw("a token lacks the member \"token\""))?;
                    spelling.learn(id, words);
                    self.prompt_end.push(id);
                }
            }
            "parameters" => self.asked(value)?,
            "seed" => self.head.seed = Some(value.unsigned(key)?),
            "extra_tokens" => self.head.is_rationed = true,
            "ends" => {
                let ends = value.elements(key, TRACE_ELEMENTS)?;
                self.head.ends = ends.iter().map(|end| token_id(end, key)).collect::<Result<_, Flaw>>()?;
            }
            "texts" => {
                for pair in value.elements(key, TRACE_ELEMENTS)? {
                    if let [text, tokens] = &pair.elements(key, 2)?[..] {
                        let tokens = tokens.elements(key, TRACE_ELEMENTS)?;
                        let tokens =
                            tokens.iter().map(|token| token_id(token, key)).collect::<Result<_, Flaw>>()?;
                        self.head.texts.push((text.string(key)?, tokens));
                    }
                }
            }
            "model" => {
                let (mut name, mut sha256) = (String::new(), None);
                for member in value.members(key)? {
                    match member.key.as_str() {
                        "name" => name = member.value.string("name")?,
                        "sha256" => sha256 = Some(member.value.string("sha256")?),
                        _ => {}
                    }
                }
                self.head.model = sha256.map(|sha256| (name, sha256));
            }
            _ => {}
        }
        Ok(())
    }

    /// The request's own parameters.
    fn asked(&mut self, value: &Value<'_>) -> Result<(), Flaw> {
        for member in value.members("parameters")? {
            let (key, value) = (member.key.as_str(), &member.value);
            let asked = &mut self.parameters;
            match key {
                "seed" => self.head.seed = Some(value.unsigned(key)?),
                "temperature" => asked.temperature = Some(number(value, key)? as f32),
                "top_k" => asked.top_k = Some(whole(value, key)?),
                "top_p" => asked.top_p = Some(number(value, key)? as f32),
                "min_p" => asked.min_p = Some(number(value, key)? as f32),
                "edited" => self.is_edited = value.boolean(key)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether everything is there that a line of its kind has.
    fn check(&self, line: &Value<'_>) -> Result<(), Flaw> {
        let lacks = |what: &str| Err(line.flaw(format!("the line lacks the member {what:?}")));
        let takes_place = matches!(self.kind, Kind::Token | Kind::Decision | Kind::Inject | Kind::Retract);
        if takes_place && self.position.is_none() {
            return lacks("position");
        }
        if self.kind == Kind::Token && self.token.is_none() {
            return lacks("token");
        }
        if matches!(self.kind, Kind::Token | Kind::Decision | Kind::Fork) && self.decision.is_none() {
            return lacks("decision");
        }
        if self.kind == Kind::Bare && self.n_signals == 0 {
            let known = Signal::ALL.map(|(_, name)| name).join(", ");
            return Err(
                line.flaw(format!("neither an event of a trace nor a signal; known signals: {known}"))
            );
        }
        Ok(())
    }
}
