//! An answer ready to be shown: columns of short names, which `page/answer.js` reads.

use super::{Detail, Report};
use entropix_engine::DecisionKind;
use serde_json::{Map, Value, json};

/// The attention signals, in the order of their columns.
pub(super) const ATTENTION: [&str; 6] = [
    "attn_entropy",
    "attn_entropy_rel",
    "attn_varentropy",
    "head_spread",
    "head_disagreement",
    "interaction",
];

/// Cells of the strip of entropy beside a name.
const STRIP: usize = 48;
/// Characters of an answer that are shown beside its name.
const SNIPPET: usize = 110;

/// A token that was computed. NaN is what the file does not tell.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) token: u32,
    pub(super) position: u64,
    pub(super) text: Option<String>,
    /// Where they are not whole characters.
    pub(super) bytes: Option<Vec<u8>>,
    /// Of a token that is no text.
    pub(super) name: Option<String>,
    /// Nats.
    pub(super) entropy: f32,
    /// Nats squared.
    pub(super) varentropy: f32,
    /// Nats.
    pub(super) logprob: f32,
    pub(super) collision: f32,
    pub(super) temperature: f32,
    pub(super) region: Option<usize>,
    /// An index of [`DecisionKind::ALL`].
    pub(super) decision: Option<usize>,
    /// Token, ln p and text.
    pub(super) candidates: Vec<(u32, f32, String)>,
    /// In the order of [`ATTENTION`].
    pub(super) attention: Option<[f32; 6]>,
}

/// An answer, whole or as far as it came.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// All that was computed for it.
    pub(super) tokens: Vec<Token>,
    /// Which of them the answer is made of; none is all.
    pub(super) way: Option<Vec<u32>>,
    /// Whether positions are known.
    pub(super) has_positions: bool,
    /// The text where tokens have none of their own.
    pub(super) text: Option<String>,
    pub(super) finish: String,
    pub(super) reason: Option<String>,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    pub(super) discarded_tokens: Option<u64>,
    pub(super) summary: Map<String, Value>,
    /// Forks and returns, as `page/trees.js` reads them.
    pub(super) events: Vec<Value>,
    /// How often each kind of decision was taken, where that is told.
    pub(super) times: [Option<u64>; DecisionKind::ALL.len()],
    /// What each cost, likewise.
    pub(super) discarded: [Option<u64>; DecisionKind::ALL.len()],
}

/// A request on the page.
#[derive(Debug)]
pub(super) struct Shown {
    /// What the list shows.
    pub(super) entry: Value,
    /// What is shown when it is opened: JSON.
    pub(super) data: String,
}

impl Shown {
    /// What it takes on the page, roughly.
    pub(super) fn n_bytes(&self) -> usize {
        self.data.len() + 512
    }
}

/// The index of a kind of decision by its name.
pub(super) fn kind(name: &str) -> Option<usize> {
    DecisionKind::ALL.iter().position(|kind| kind.name() == name)
}

/// Puts a request with its answers into the report. `prompt` is who said what; `error` its code and message.
pub(super) fn show(
    id: &str,
    prompt: &[(String, String)],
    answers: &[Answer],
    error: Option<(&str, &str)>,
    report: &mut Report,
) {
    let (mut h, mut v, mut n, mut n_signals) = (0.0, 0.0, 0usize, 0u64);
    let mut most: Option<f32> = None;
    let mut kinds = [0; DecisionKind::ALL.len()];
    let mut n_discarded = 0;
    let mut heights = Vec::new();
    for answer in answers {
        for token in answer.said() {
            n += 1;
            if let Some(decision) = token.decision {
                kinds[decision] += 1;
                report.costs[decision].tokens += 1;
            }
            if token.entropy.is_finite() && token.varentropy.is_finite() {
                h += f64::from(token.entropy);
                v += f64::from(token.varentropy);
                n_signals += 1;
                most = Some(most.unwrap_or(0.0).max(token.entropy));
                report.most = [report.most[0].max(token.entropy), report.most[1].max(token.varentropy)];
            }
            heights.push(token.entropy);
        }
        let costs = report.costs.iter_mut().zip(answer.times.iter().zip(&answer.discarded));
        for ((cost, (times, discarded)), count) in costs.zip(&mut kinds) {
            if let Some(times) = times {
                *cost.times.get_or_insert(0) += times;
                *count = (*count).max(*times);
            }
            if let Some(discarded) = discarded {
                *cost.discarded.get_or_insert(0) += discarded;
            }
        }
        if answer.tokens.is_empty() {
            n += answer.completion_tokens.unwrap_or(0) as usize;
        }
        n_discarded += answer.discarded_tokens.unwrap_or(0);
    }
    report.n_tokens += n as u64;
    report.n_discarded += n_discarded;
    report.n_signals += n_signals;
    report.entropy_sum += h;
    report.varentropy_sum += v;
    let mut entry = json!({"id": id, "n": n, "x": n_discarded, "s": snippet(answers)});
    if n_signals > 0 {
        entry["h"] = json!(round(h / n_signals as f64, 4));
        entry["v"] = json!(round(v / n_signals as f64, 4));
        entry["m"] = number(most.unwrap_or(0.0), 3);
        entry["k"] = strip(&heights);
        report.detail = report.detail.max(Detail::Tokens);
    } else if let Some(answer) = answers.iter().find(|answer| !answer.summary.is_empty()) {
        summarise(&answer.summary, &mut entry, &mut kinds, report);
    }
    let named = DecisionKind::ALL.iter().zip(kinds).filter(|(_, count)| *count > 0);
    entry["d"] =
        named.map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect::<Map<_, _>>().into();
    let mut data = json!({"c": answers.iter().map(Answer::value).collect::<Vec<_>>()});
    if !prompt.is_empty() {
        data["q"] = json!(prompt);
    }
    if let Some((code, message)) = error {
        entry["e"] = json!(code);
        data["err"] = json!([code, message]);
    }
    report.add(id, Shown { entry, data: data.to_string() });
}

/// What the list and the totals take from the numbers of an answer.
fn summarise(summary: &Map<String, Value>, entry: &mut Value, kinds: &mut [u64], report: &mut Report) {
    report.detail = report.detail.max(Detail::Summary);
    let of = |key: &str| summary.get(key).and_then(Value::as_f64);
    if let (Some(h), Some(v)) = (of("mean_H"), of("mean_V")) {
        entry["h"] = json!(round(h, 4));
        entry["v"] = json!(round(v, 4));
        entry["m"] = json!(of("max_H").map(|most| round(most, 3)));
        report.most = [report.most[0].max(h as f32), report.most[1].max(v as f32)];
        let n = entry["n"].as_u64().unwrap_or(0);
        report.n_signals += n;
        report.entropy_sum += h * n as f64;
        report.varentropy_sum += v * n as f64;
    }
    for ((kind, count), cost) in DecisionKind::ALL.iter().zip(kinds).zip(&mut report.costs) {
        *count = summary.get(&format!("n_{}", kind.name())).and_then(Value::as_u64).unwrap_or(0);
        cost.tokens += *count;
    }
}

impl Answer {
    /// The tokens it is made of.
    fn said(&self) -> impl Iterator<Item = &Token> {
        let all = self.way.is_none().then_some(&self.tokens).into_iter().flatten();
        all.chain(self.way.iter().flatten().map(|&place| &self.tokens[place as usize]))
    }

    fn value(&self) -> Value {
        let mut value = Map::new();
        value.insert("f".into(), json!(self.finish));
        if let Some(reason) = &self.reason {
            value.insert("r".into(), json!(reason));
        }
        value.insert("u".into(), json!([self.prompt_tokens, self.completion_tokens, self.discarded_tokens]));
        if let Some(text) = &self.text {
            value.insert("x".into(), json!(text));
        }
        if !self.summary.is_empty() {
            value.insert("S".into(), json!(self.summary));
        }
        if let Some(way) =
            self.way.as_ref().filter(|way| !way.iter().copied().eq(0..self.tokens.len() as u32))
        {
            value.insert("w".into(), json!(way));
        }
        if !self.events.is_empty() {
            value.insert("e".into(), json!(self.events));
        }
        let mut column = |key: &str, of: &dyn Fn(&Token) -> Value| {
            let all: Vec<Value> = self.tokens.iter().map(of).collect();
            if all.iter().any(|one| !one.is_null()) {
                value.insert(key.into(), all.into());
            }
        };
        column("o", &|token| json!(token.token));
        column("t", &|token| json!(token.text));
        column("h", &|token| number(token.entropy, 3));
        column("v", &|token| number(token.varentropy, 3));
        column("p", &|token| number(token.logprob, 4));
        column("l", &|token| number(token.collision, 4));
        column("T", &|token| number(token.temperature, 3));
        column("g", &|token| json!(token.region));
        column("d", &|token| json!(token.decision));
        column("a", &|token| {
            let one = |(token, logprob, text): &(u32, f32, String)| json!([token, number(*logprob, 4), text]);
            match token.candidates.is_empty() {
                true => Value::Null,
                false => token.candidates.iter().map(one).collect(),
            }
        });
        column("A", &|token| match token.attention {
            Some(all) => all.iter().map(|&one| number(one, 4)).collect(),
            None => Value::Null,
        });
        if self.has_positions {
            column("s", &|token| json!(token.position));
        }
        let mut sparse = |key: &str, of: &dyn Fn(&Token) -> Value| {
            let all = self.tokens.iter().enumerate().map(|(place, token)| (place.to_string(), of(token)));
            let all: Map<String, Value> = all.filter(|(_, one)| !one.is_null()).collect();
            if !all.is_empty() {
                value.insert(key.into(), all.into());
            }
        };
        sparse("b", &|token| json!(token.bytes));
        sparse("n", &|token| json!(token.name));
        value.into()
    }
}

/// The first words of the first answer.
fn snippet(answers: &[Answer]) -> String {
    let Some(answer) = answers.first() else { return String::new() };
    let mut text = String::new();
    match &answer.text {
        Some(whole) => text.extend(whole.chars().take(4 * SNIPPET)),
        None => {
            let parts = answer.said().filter_map(|token| token.text.as_deref());
            parts.take(2 * SNIPPET).for_each(|part| text += part);
        }
    }
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(SNIPPET).collect()
}

/// The highest entropy of each of a few stretches, in nats.
fn strip(heights: &[f32]) -> Value {
    let cells = STRIP.min(heights.len());
    let cell = |i: usize| {
        let part = &heights[i * heights.len() / cells..(i + 1) * heights.len() / cells];
        number(part.iter().copied().fold(0.0, f32::max), 1)
    };
    (0..cells).map(cell).collect()
}

/// A number of few digits; null for what is none.
pub(super) fn number(value: f32, digits: i32) -> Value {
    if value.is_finite() { json!(round(f64::from(value), digits)) } else { Value::Null }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
