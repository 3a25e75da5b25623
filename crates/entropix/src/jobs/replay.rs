//! A recorded trace decided again by another policy, without a model: what would have been decided otherwise,
//! token by token. Only the decisions change: the tokens stay those that were said.

use super::json::{Flaw, Value};
use super::lines::Lines;
use entropix_engine::{
    Allowance, Decision, DecisionKind, History, Injections, Lots, Parameters, Policy, PolicyFile, RegionId,
    RequestId, RequestKey, Signal, Token, TokenClasses,
};
use entropix_model::{AttentionSignals, Candidate, Error, Filters, Result, Signals, Temperature};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Tokens decided again.
    pub n_tokens: usize,
    /// Of those, tokens whose decision is another one now.
    pub n_changed: usize,
    /// Decision before, decision now, and how often.
    pub changes: BTreeMap<(String, &'static str), usize>,
    /// The first changes: request, position, before, now.
    pub examples: Vec<(String, usize, String, &'static str)>,
}

/// Changes that are kept as examples.
const EXAMPLES: usize = 20;

/// A policy at work on recorded signals. Conditions on texts hold nowhere: there are no texts.
pub struct Replay {
    policy: Arc<dyn Policy>,
    classes: TokenClasses,
    lines: BTreeMap<(String, u64, u64), Vec<Token>>,
    /// Of the trace; the default where it says none.
    seed: u64,
}

impl Replay {
    /// A replay of `file`.
    ///
    /// # Errors
    /// `Config` when it needs a calibration.
    pub fn new(file: &PolicyFile) -> Result<Self> {
        // A token that no trace holds.
        let policy = file.bind(&|_| Ok(vec![u32::MAX]))?;
        Ok(Self {
            policy,
            classes: TokenClasses::new(0),
            lines: BTreeMap::new(),
            seed: Parameters::default().seed,
        })
    }

    /// Decides every line again; for lines that are bare signals, `say` gets what is decided.
    ///
    /// # Errors
    /// `Data`, naming the line, for what is no trace; what `say` returns.
    pub fn run<R: BufRead>(
        &mut self,
        mut lines: Lines<R>,
        place: &str,
        say: &mut dyn FnMut(serde_json::Value) -> Result<()>,
    ) -> Result<Replayed> {
        let mut replayed = Replayed::default();
        while let Some(line) = lines.next_line()? {
            let number = line.number;
            let fail = |flaw: Flaw| Error::data("Trace", format!("{place}:{number}: {}", flaw.message));
            let record = line.text.and_then(Record::read).map_err(fail)?;
            self.seed = record.seed.unwrap_or(self.seed);
            match record.token {
                None if record.event.is_none() => say(self.bare(&record))?,
                Some(token) => self.token(record, token, &mut replayed),
                None => self.follow(&record),
            }
        }
        Ok(replayed)
    }

    fn bare(&self, record: &Record) -> serde_json::Value {
        let (region, decision) = self.decide(&[], record);
        let number = super::trace::short;
        let mut value = json!({"region": self.policy.regions()[usize::from(region.0)].as_ref(),
            "decision": decision.kind().name()});
        let filters: Option<Filters> = match decision {
            Decision::Draw(filters) | Decision::BestOf { filters, .. } => Some(filters),
            _ => None,
        };
        if let Some(filters) = filters {
            let is_known = !matches!(filters.temperature, Temperature::Fixed(heat) if !heat.is_finite());
            value["temperature"] = match filters.temperature {
                Temperature::Fixed(heat) => number(heat),
                Temperature::Greedy => json!(0),
                Temperature::TargetEntropy(_) => json!(null),
            };
            value["top_p"] = number(filters.top_p);
            value["min_p"] = number(filters.min_p);
            // A number that could not be computed reads 0, which would mean all.
            value["top_k"] = if is_known || filters.top_k > 0 { json!(filters.top_k) } else { json!(null) };
        }
        value
    }

    fn token(&mut self, record: Record, token: u32, replayed: &mut Replayed) {
        let key = (record.id.clone(), record.choice, record.branch);
        let said = self.lines.remove(&key).unwrap_or_default();
        let (region, decision) = self.decide(&said, &record);
        let before = record.decision.clone().unwrap_or_default();
        let now = decision.kind().name();
        replayed.n_tokens += 1;
        // A forced token, or the first one after something was decided for a whole line, is no free decision.
        let is_free = !["inject", "branch", "rewind", "refork"].contains(&before.as_str());
        if now != before && (is_free || decision.kind() != DecisionKind::Argmax) {
            replayed.n_changed += 1;
            if replayed.examples.len() < EXAMPLES {
                replayed.examples.push((record.id.clone(), record.position, before.clone(), now));
            }
            *replayed.changes.entry((before, now)).or_insert(0) += 1;
        }
        let mut said = said;
        said.push(Token {
            request: RequestId(0),
            choice: record.choice as u32,
            token,
            position: record.position,
            signals: record.signals,
            attention: Some(record.attention),
            logprob: record.logprob,
            temperature: 0.0,
            top: Vec::new(),
            region,
            decision: decision.kind(),
            end: false,
        });
        self.lines.insert(key, said);
    }

    /// Makes and cuts lines as the trace did.
    fn follow(&mut self, record: &Record) {
        let choices = match record.event.as_deref() {
            // An earlier attempt, if there was one, came to nothing.
            Some("request" | "failed") => Some((0, u64::MAX)),
            Some("done") => Some((record.choice, record.choice)),
            _ => None,
        };
        if let Some((first, last)) = choices {
            let over = (record.id.clone(), first, 0)..=(record.id.clone(), last, u64::MAX);
            let keys: Vec<_> = self.lines.range(over).map(|(key, _)| key.clone()).collect();
            keys.iter().for_each(|key| drop(self.lines.remove(key)));
            return;
        }
        let key = (record.id.clone(), record.choice, record.branch);
        let before = |said: &[Token], position: usize| {
            said.iter().take_while(|token| token.position < position).cloned().collect::<Vec<_>>()
        };
        if record.event.as_deref() == Some("retract") {
            let said = self.lines.remove(&key).unwrap_or_default();
            self.lines.insert(key.clone(), before(&said, record.position));
        }
        let parent = self.lines.get(&key).cloned().unwrap_or_default();
        for &(child, position) in &record.children {
            self.lines.insert((record.id.clone(), record.choice, child), before(&parent, position));
        }
    }

    fn decide(&self, said: &[Token], record: &Record) -> (RegionId, Decision) {
        let tokens: Vec<u32> = std::iter::once(0).chain(said.iter().map(|token| token.token)).collect();
        let injections = Injections::default();
        let history = History::new(&tokens, 1, &injections, &self.classes)
            .with_trace(said, Allowance::ALL)
            .with_tried(&[], &[], said.len().saturating_sub(1))
            .with_lots(Lots::new(self.seed, RequestKey::of_id(&record.id), record.choice as u32));
        let mut state = self.policy.start();
        let verdict = self.policy.decide(&record.signals, Some(&record.attention), &history, &mut state);
        (verdict.region, verdict.decision)
    }
}

/// Elements of an array of a trace.
const MOST: usize = 4096;

fn number(value: &Value<'_>, what: &str) -> Result<f64, Flaw> {
    value.number().ok_or_else(|| value.flaw(format!("{what} is {}, wants a number", value.describe())))
}

/// A line of a trace, or of bare signals.
struct Record {
    event: Option<String>,
    id: String,
    seed: Option<u64>,
    choice: u64,
    branch: u64,
    position: usize,
    token: Option<u32>,
    logprob: f32,
    decision: Option<String>,
    /// NaN where there is none.
    signals: Signals,
    attention: AttentionSignals,
    /// Lines and the places they begin at.
    children: Vec<(u64, usize)>,
}

impl Record {
    fn read(line: &str) -> Result<Self, Flaw> {
        let mut record = Self {
            event: None,
            id: String::new(),
            seed: None,
            choice: 0,
            branch: 0,
            position: 0,
            token: None,
            logprob: f32::NAN,
            decision: None,
            signals: Signals::default(),
            attention: AttentionSignals::default(),
            children: Vec::new(),
        };
        let (signals, attention) = (&mut record.signals, &mut record.attention);
        Signal::ALL.iter().for_each(|(signal, _)| signal.put(f64::NAN, signals, attention));
        for member in Value::parse(line)?.members("the line")? {
            let (key, value) = (member.key.as_str(), &member.value);
            if let Some((signal, _)) = Signal::ALL.iter().find(|(_, name)| *name == key) {
                if !value.is_null() {
                    signal.put(number(value, key)?, &mut record.signals, &mut record.attention);
                }
                continue;
            }
            match key {
                "event" => record.event = Some(value.string(key)?),
                "id" => record.id = value.string(key)?,
                "decision" => record.decision = Some(value.string(key)?),
                "seed" => record.seed = value.unsigned(key).ok(),
                "choice" => record.choice = number(value, key)? as u64,
                "branch" => record.branch = number(value, key)? as u64,
                "position" => record.position = number(value, key)? as usize,
                "token" => record.token = Some(number(value, key)? as u32),
                "logprob" if !value.is_null() => record.logprob = number(value, key)? as f32,
                "candidates" => {
                    for (best, pair) in record.signals.best.iter_mut().zip(value.elements(key, MOST)?) {
                        if let [token, logprob, ..] = &pair.elements(key, MOST)?[..] {
                            let logprob = number(logprob, key)? as f32;
                            *best = Candidate { token: number(token, key)? as u32, logprob };
                        }
                    }
                }
                "children" => {
                    for child in value.elements(key, MOST)? {
                        let (mut branch, mut position) = (0, 0);
                        for member in child.members(key)? {
                            let number = number(&member.value, &member.key)?;
                            match member.key.as_str() {
                                "branch" => branch = number as u64,
                                "position" => position = number as usize,
                                _ => {}
                            }
                        }
                        record.children.push((branch, position));
                    }
                }
                _ => {}
            }
        }
        Ok(record)
    }
}
