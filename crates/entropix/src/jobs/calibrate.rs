//! What a model's signals usually are, over many requests answered with the likeliest tokens.

use super::labels::Labels;
use super::params::Params;
use super::{Item, JobRequest, Preparation};
use crate::Session;
use crate::text::{answer_reader, find_answer};
use entropix_engine::doubt::{self, Bin, Judged};
use entropix_engine::{
    AnswerRule, Calibration, Event, Part, PolicyFile, Raw, ReadAnswer, Request, RequestId, RequestKey,
    Signal, Span, Stat, Token, Work,
};
use entropix_model::{AttentionSignals, Class, Error, Result, Signals};
use std::collections::{BTreeMap, HashMap};

/// How a model is calibrated.
pub struct CalibrationJob {
    /// How requests become prompts.
    pub preparation: Preparation,
    /// What a request leaves open.
    pub defaults: Params,
    /// Most requests in the engine at once.
    pub max_in_flight: usize,
    /// Known answers; may be empty.
    pub labels: Labels,
    /// How answers are found, in what the model says and in labels.
    pub answer: AnswerRule,
}

/// The line that competes with an answer: from its most uncertain token on with the runner-up, as `entropix` makes
/// it. Both are run to their ends.
const OTHER_LINE: &str = r#"
name = "other-line"
[budget]
extra_tokens = 1e9
reforks = 1
[[region]]
name = "fork"
when.at = "end"
decision = "refork"
points = 1
peak = { signal = "entropy", min_gap = 6, choices = 1.5, runner_up = 0.05 }
then = "best"
score = "mean_logp"
[default]
decision = "argmax"
"#;

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

/// The spans whose doubt is held against the truth: early, and of the whole answer.
fn doubts() -> [Span; 2] {
    let early = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::First(64), window: 1 };
    [early, Span { stat: Stat::Max, part: Part::All, window: 32, ..early }]
}

impl CalibrationJob {
    /// Answers every request greedily, and reads its prompt; one whose answer is known is also answered from its
    /// most uncertain token on with the runner-up. `advanced` is told how many are done. `sha256` names the model.
    ///
    /// # Errors
    /// A request that is wrong, nothing to calibrate by, or labels of no request; failures of the backend.
    pub fn run(
        &self,
        session: &mut Session,
        sha256: String,
        requests: impl Iterator<Item = Result<Item<JobRequest>>>,
        advanced: &mut dyn FnMut(u64),
    ) -> Result<Calibration> {
        let greedy = session.policy("greedy", &[])?;
        let other_line = session.bind(&PolicyFile::parse("calibrate", OTHER_LINE.as_bytes(), &[])?)?;
        let read = answer_reader(&self.answer, session.tokenizer())?;
        let mut requests = requests.fuse();
        let mut running: HashMap<RequestId, Running> = HashMap::new();
        let mut scoring = 0usize;
        let mut seen = Seen::default();
        let mut events = Vec::new();
        loop {
            while running.len() < self.max_in_flight {
                let Some(request) = requests.next() else { break };
                let Item { id, request, .. } = request?;
                let label = self.labels.get(&id).map(|label| normal(label, &self.answer)).transpose()?;
                let policy = if label.is_some() { &other_line } else { &greedy };
                let named = |error: Error| Error { message: format!("{id:?}: {}", error.message), ..error };
                let prepared = self.preparation.prepare(session, &id, request?, &self.defaults, policy);
                let mut prepared = prepared.map_err(named)?;
                let prompt = prepared.request.prompt.clone();
                if let Work::Generate(generate) = &mut prepared.request.work {
                    // A request is measured once, however many answers it wants.
                    generate.parameters.n = 1;
                    generate.parameters.raw_events = true;
                    generate.parameters.attention = true;
                }
                let lines = BTreeMap::from([(0, Vec::new())]);
                let n_prompt = prompt.len();
                let answer = session.engine().submit(prepared.request).map_err(named)?;
                running.insert(answer, Running { n_prompt, label, lines });
                let score = Request { key: RequestKey(0), prompt, work: Work::Score { attention: true } };
                session.engine().submit(score).map_err(named)?;
                scoring += 1;
            }
            if running.is_empty() && scoring == 0 {
                break;
            }
            session.engine().step(&mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Raw(raw) => {
                        if let Some(answer) = running.get_mut(&raw.request()) {
                            answer.follow(raw);
                        }
                    }
                    Event::Scored(scored) => {
                        seen.n_prefill += 1;
                        keep(&mut seen.values, false, &scored.signals, scored.attention.as_ref());
                    }
                    Event::Done(done) => match running.remove(&done.request) {
                        Some(answer) => {
                            seen.add(answer, &*read);
                            advanced(seen.n_requests);
                        }
                        None => scoring -= 1,
                    },
                    Event::Failed { error, .. } => return Err(error),
                    _ => {}
                }
            }
        }
        if seen.n_tokens == 0 {
            let message = "no token was generated; calibrate with some hundred prompts";
            return Err(Error::new(Class::Data, "NothingToCalibrate", message.to_owned()));
        }
        if !self.labels.is_empty() && seen.judged[0].is_empty() {
            let n = self.labels.len();
            let message =
                format!("none of the {n} labels has the id of a request; ids must be the same in both files");
            return Err(Error::new(Class::Data, "Labels", message));
        }
        Ok(seen.calibration(session, sha256))
    }
}

/// What a request says in the end, known or given.
fn normal(label: &str, rule: &AnswerRule) -> Result<String> {
    find_answer(rule, label)?.ok_or_else(|| {
        Error::data("Labels", format!("the label {label:?} holds no answer ({}); see --answer", rule.name()))
    })
}

/// A request on its way.
struct Running {
    n_prompt: usize,
    /// Its answer, if it is known.
    label: Option<String>,
    /// The tokens of the answer (0) and of its other line.
    lines: BTreeMap<u32, Vec<Token>>,
}

impl Running {
    fn follow(&mut self, raw: Raw) {
        match raw {
            Raw::Token { branch, token } => self.lines.entry(branch).or_default().push(token),
            Raw::Fork { parent, children, .. } => {
                for (child, position) in children {
                    let length = position - self.n_prompt;
                    let shared = self.lines.get(&parent).map_or(&[][..], |line| &line[..length]).to_vec();
                    self.lines.insert(child, shared);
                }
            }
            _ => {}
        }
    }
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    n_requests: u64,
    n_tokens: u64,
    n_prefill: u64,
    /// By whether they were generated.
    values: BTreeMap<(bool, Signal), Vec<f64>>,
    /// In the order of [`spans`].
    by_span: Vec<Vec<f64>>,
    /// In the order of [`doubts`].
    judged: [Vec<Judged>; 2],
}

impl Seen {
    fn add(&mut self, answer: Running, read: &ReadAnswer) {
        let mut lines = answer.lines.into_values();
        let (Some(said), other) = (lines.next(), lines.next()) else { return };
        self.n_requests += 1;
        self.n_tokens += said.len() as u64;
        for token in &said {
            keep(&mut self.values, true, &token.signals, token.attention.as_ref());
        }
        let spans = spans();
        self.by_span.resize(spans.len(), Vec::new());
        for (span, values) in spans.iter().zip(&mut self.by_span) {
            values.extend(span.value(&said));
        }
        let Some(label) = answer.label else { return };
        let is_right = |line: &[Token]| {
            let tokens: Vec<_> = line.iter().map(|token| token.token).collect();
            read(&tokens).as_deref() == Some(label.as_str())
        };
        let (right, other_right) = (is_right(&said), other.as_deref().map(is_right));
        for (span, judged) in doubts().iter().zip(&mut self.judged) {
            judged.extend(span.value(&said).map(|doubt| Judged { doubt, right, other_right }));
        }
    }

    fn calibration(self, session: &Session, sha256: String) -> Calibration {
        let table = |generated: bool| {
            let of = |signal: Signal| {
                let values = self.values.get(&(generated, signal)).cloned().unwrap_or_default();
                Some((signal.name().to_owned(), Calibration::quantiles(values)?))
            };
            Signal::ALL.into_iter().filter_map(|(signal, _)| of(signal)).collect::<BTreeMap<_, _>>()
        };
        let named = |(span, values): (&Span, &Vec<f64>)| {
            Some((Calibration::span_name(span), Calibration::quantiles(values.clone())?))
        };
        let (spans, doubts) = (spans(), doubts());
        let accuracy: BTreeMap<String, Vec<Bin>> = doubts
            .iter()
            .zip(&self.judged)
            .filter(|(_, judged)| !judged.is_empty())
            .map(|(span, judged)| (Calibration::span_name(span), doubt::bins(judged)))
            .collect();
        // An end is replaced by the doubt of the whole answer, no other.
        let late = Calibration::span_name(&doubts[1]);
        let from = accuracy.get(&late).and_then(|bins| doubt::replace_from(bins));
        Calibration {
            model: session.model().name.clone(),
            sha256,
            precision: session.model().precision_name().to_owned(),
            requests: self.n_requests,
            tokens: self.n_tokens,
            prefill_tokens: self.n_prefill,
            generated: table(true),
            prefill: table(false),
            request: spans.iter().zip(&self.by_span).filter_map(named).collect(),
            replace: from.map(|from| (late, from)).into_iter().collect(),
            accuracy,
        }
    }
}

fn keep(
    values: &mut BTreeMap<(bool, Signal), Vec<f64>>,
    generated: bool,
    signals: &Signals,
    attention: Option<&AttentionSignals>,
) {
    for (signal, _) in Signal::ALL {
        if let Some(value) = signal.read(signals, attention) {
            values.entry((generated, signal)).or_default().push(value);
        }
    }
}
