//! The sampling parameters a request may name, their limits, and which of several sources wins.

use super::json::{Flaw, Value};
use super::limits::{LOGIT_BIAS_ENTRIES, LOGPROBS, N, STOP_TOKENS};
use crate::text::limits::{STOP_BYTES, STOP_STRINGS};
use serde::{Serialize, Serializer};
use std::fmt;

/// The numbers a parameter may take; always finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The name, as in a request line.
    pub name: &'static str,
    least: f64,
    least_is_out: bool,
    most: f64,
}

impl Bounds {
    const fn closed(name: &'static str, least: f64, most: f64) -> Self {
        Self { name, least, least_is_out: false, most }
    }

    const fn above(name: &'static str, least: f64, most: f64) -> Self {
        Self { name, least, least_is_out: true, most }
    }

    /// Whether `x` may be used; NaN may not.
    pub fn hold(&self, x: f64) -> bool {
        x <= self.most && if self.least_is_out { x > self.least } else { x >= self.least }
    }

    /// `x` as it is computed with, where that may be used.
    pub fn narrow(&self, x: f64) -> Option<f32> {
        // What is above nothing may be nothing in 32 bits.
        let narrow = x as f32;
        (self.hold(x) && self.hold(f64::from(narrow))).then_some(narrow)
    }

    fn read(&self, value: &Value) -> Result<f32, Flaw> {
        let wants = |what: String| value.flaw(format!("{} is {what}, wants a number {self}", self.name));
        match value.number() {
            Some(x) => self.narrow(x).ok_or_else(|| wants(x.to_string())),
            None => Err(wants(value.describe())),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { least, most, .. } = self;
        if self.least_is_out {
            write!(f, "above {least} and at most {most}")
        } else {
            write!(f, "from {least} to {most}")
        }
    }
}

/// 0 takes the most probable token.
pub const TEMPERATURE: Bounds = Bounds::closed("temperature", 0.0, 100.0);
/// 1 keeps all tokens.
pub const TOP_P: Bounds = Bounds::above("top_p", 0.0, 1.0);
/// 0 keeps all tokens.
pub const MIN_P: Bounds = Bounds::closed("min_p", 0.0, 1.0);
/// 1 changes nothing.
pub const REPETITION_PENALTY: Bounds = Bounds::closed("repetition_penalty", 0.01, 100.0);
/// 0 changes nothing.
pub const FREQUENCY_PENALTY: Bounds = Bounds::closed("frequency_penalty", -2.0, 2.0);
/// 0 changes nothing.
pub const PRESENCE_PENALTY: Bounds = Bounds::closed("presence_penalty", -2.0, 2.0);
/// In nats, added to a logit.
pub const LOGIT_BIAS: Bounds = Bounds::closed("a logit_bias", -100.0, 100.0);
/// All of these.
pub const BOUNDS: [Bounds; 7] =
    [TEMPERATURE, TOP_P, MIN_P, REPETITION_PENALTY, FREQUENCY_PENALTY, PRESENCE_PENALTY, LOGIT_BIAS];

/// Sampling parameters as one source (a request line, the flags, the environment, a model's
/// generation_config.json) names them; `None` leaves the choice to the next source.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Params {
    /// Most tokens of the answer; 0 answers nothing.
    pub max_tokens: Option<usize>,
    /// No end before that many tokens.
    pub min_tokens: Option<usize>,
    /// 0 takes the most probable token.
    pub temperature: Option<f32>,
    /// Only the k most probable; 0 keeps all.
    pub top_k: Option<u32>,
    /// Only the smallest set that has this mass; 1 keeps all.
    pub top_p: Option<f32>,
    /// Only tokens at least this x the most probable; 0 keeps all.
    pub min_p: Option<f32>,
    /// Of CTRL, over prompt and answer; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Nats a time the token stands in the answer.
    pub frequency_penalty: Option<f32>,
    /// Nats once the token stands in the answer.
    pub presence_penalty: Option<f32>,
    /// (token, nats), rising by token, no token twice.
    #[serde(serialize_with = "serialize_bias")]
    pub logit_bias: Option<Vec<(u32, f32)>>,
    /// Key of the random numbers.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Option<Vec<String>>,
    /// Tokens that end the answer.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Whether the model's own end tokens are passed over.
    pub ignore_eos: Option<bool>,
    /// How many alternatives to report a token; 0 reports the chosen one alone.
    pub logprobs: Option<usize>,
    /// How many answers.
    pub n: Option<usize>,
}

/// Every name [`Params::set`] knows.
pub const NAMES: [&str; 16] = [
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "logprobs",
    "n",
];

impl Params {
    /// Takes one member of a request line; false when the name is none of [`NAMES`].
    pub fn set(&mut self, name: &str, value: &Value) -> Result<bool, Flaw> {
        let count = |most: i64| value.integer(name, 0, most).map(|n| n as usize);
        match name {
            "max_tokens" => self.max_tokens = Some(count(i64::from(u32::MAX))?),
            "min_tokens" => self.min_tokens = Some(count(i64::from(u32::MAX))?),
            "temperature" => self.temperature = Some(TEMPERATURE.read(value)?),
            // -1 is vLLM's way to say all.
            "top_k" => {
                self.top_k = Some(value.integer(name, -1, i64::from(i32::MAX)).map(|k| k.max(0) as u32)?)
            }
            "top_p" => self.top_p = Some(TOP_P.read(value)?),
            "min_p" => self.min_p = Some(MIN_P.read(value)?),
            "repetition_penalty" => self.repetition_penalty = Some(REPETITION_PENALTY.read(value)?),
            "frequency_penalty" => self.frequency_penalty = Some(FREQUENCY_PENALTY.read(value)?),
            "presence_penalty" => self.presence_penalty = Some(PRESENCE_PENALTY.read(value)?),
            "logit_bias" => self.logit_bias = Some(logit_bias(value)?),
            "seed" => self.seed = Some(value.unsigned(name)?),
            "stop" => self.stop = Some(stop(value)?),
            "stop_token_ids" => {
                let ids = value.elements(name, STOP_TOKENS)?;
                let ids = ids.iter().map(|v| v.integer("a stop_token_ids entry", 0, i64::from(u32::MAX)));
                self.stop_token_ids = Some(ids.map(|id| id.map(|id| id as u32)).collect::<Result<_, _>>()?);
            }
            "ignore_eos" => self.ignore_eos = Some(value.boolean(name)?),
            "logprobs" => self.logprobs = Some(count(LOGPROBS)?),
            "n" => self.n = Some(value.integer(name, 1, N)? as usize),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What this source leaves open is taken from `other`.
    pub fn or(&self, other: &Params) -> Params {
        Params {
            max_tokens: self.max_tokens.or(other.max_tokens),
            min_tokens: self.min_tokens.or(other.min_tokens),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            frequency_penalty: self.frequency_penalty.or(other.frequency_penalty),
            presence_penalty: self.presence_penalty.or(other.presence_penalty),
            logit_bias: self.logit_bias.clone().or_else(|| other.logit_bias.clone()),
            seed: self.seed.or(other.seed),
            stop: self.stop.clone().or_else(|| other.stop.clone()),
            stop_token_ids: self.stop_token_ids.clone().or_else(|| other.stop_token_ids.clone()),
            ignore_eos: self.ignore_eos.or(other.ignore_eos),
            logprobs: self.logprobs.or(other.logprobs),
            n: self.n.or(other.n),
        }
    }
}

/// As a request line has it: `{"42": -1.5}`.
fn serialize_bias<S: Serializer>(bias: &Option<Vec<(u32, f32)>>, serializer: S) -> Result<S::Ok, S::Error> {
    match bias {
        Some(bias) => serializer.collect_map(bias.iter().map(|(token, nats)| (token.to_string(), nats))),
        None => serializer.serialize_none(),
    }
}

fn stop(value: &Value) -> Result<Vec<String>, Flaw> {
    let one = |value: &Value| {
        let text = value.string("stop")?;
        check_stop(&text).map_err(|message| value.flaw(message))?;
        Ok(text)
    };
    if value.is_null() {
        Ok(Vec::new())
    } else if value.is_array() {
        value.elements("stop", STOP_STRINGS)?.iter().map(one).collect()
    } else {
        Ok(vec![one(value)?])
    }
}

/// Says what is wrong with a stop string.
pub fn check_stop(text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err("a stop string is empty, which would stop at once; leave it out".into()),
        n if n > STOP_BYTES => Err(format!("a stop string has {n} bytes, at most {STOP_BYTES} are allowed")),
        _ => Ok(()),
    }
}

fn logit_bias(value: &Value) -> Result<Vec<(u32, f32)>, Flaw> {
    let members = value.members("logit_bias")?;
    if members.len() > LOGIT_BIAS_ENTRIES {
        let message =
            format!("logit_bias has {} entries, at most {LOGIT_BIAS_ENTRIES} are allowed", members.len());
        return Err(value.flaw(message));
    }
    let mut biases = Vec::with_capacity(members.len());
    for member in &members {
        let token: u32 = member.key.parse().map_err(|_| {
            let message = format!("logit_bias names {:?}, wants a token id such as \"42\"", member.key);
            Flaw::new("Field", member.offset, message)
        })?;
        biases.push((token, LOGIT_BIAS.read(&member.value)?));
    }
    biases.sort_by_key(|&(token, _)| token);
    if let Some(pair) = biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(value.flaw(format!("logit_bias names token {} twice", pair[0].0)));
    }
    Ok(biases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, text: &str) -> Result<Params, Flaw> {
        let mut params = Params::default();
        let value = Value::parse(text)?;
        assert!(params.set(name, &value)?, "{name} is unknown");
        Ok(params)
    }

    /// Cases 68, 69 and 73 of the bad-input catalogue.
    #[test]
    fn values_out_of_range_are_flaws() {
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        let many = format!("[{}]", vec!["\"x\""; 10_000].join(","));
        for (name, values) in [
            ("max_tokens", &["-1", "1.5", "1e300", "\"5\"", "9223372036854775808", "null"][..]),
            ("min_tokens", &["-1", "0.5"]),
            ("temperature", &["NaN", "-1", "1e9", "\"1\"", "null"]),
            ("top_p", &["0", "2", "-1", "1e-46"]),
            ("min_p", &["-0.1", "1.1"]),
            ("top_k", &["-2", "1.5"]),
            ("repetition_penalty", &["0", "-1", "1e9", "1e-46"]),
            ("frequency_penalty", &["-2.1", "2.1"]),
            ("presence_penalty", &["-2.1", "2.1"]),
            ("seed", &["-1", "1.0", "18446744073709551616"]),
            ("stop", &["\"\"", "[\"\"]", "5", &long, &many]),
            ("stop_token_ids", &["[-1]", "5", "[1.5]", "[4294967296]"]),
            ("logit_bias", &["[]", "{\"x\": 1}", "{\"1\": 101}", "{\"1\": 1, \"01\": 2}", "{\"-1\": 0}"]),
            ("ignore_eos", &["1", "\"true\""]),
            ("logprobs", &["-1", "257", "true"]),
            ("n", &["0", "-1", "129"]),
        ] {
            for value in values {
                assert!(set(name, value).is_err(), "{name} = {value:.40}");
            }
        }
    }

    #[test]
    fn values_at_the_limit_are_taken() {
        for (name, value) in [
            ("max_tokens", "0"),
            ("temperature", "0"),
            ("temperature", "100"),
            ("top_p", "1"),
            ("top_k", "-1"),
            ("min_p", "0"),
            ("min_p", "1"),
            ("repetition_penalty", "100"),
            ("seed", "18446744073709551615"),
            ("stop", "null"),
            ("stop", "[]"),
            ("logprobs", "256"),
            ("n", "128"),
        ] {
            assert!(set(name, value).is_ok(), "{name} = {value}");
        }
        assert_eq!(set("top_k", "-1").unwrap().top_k, Some(0));
        let bias = set("logit_bias", "{\"7\": 1, \"3\": -100}").unwrap().logit_bias;
        assert_eq!(bias, Some(vec![(3, -100.0), (7, 1.0)]));
    }

    #[test]
    fn every_name_is_settable() {
        for name in NAMES {
            let value = Value::parse("1").unwrap();
            assert!(Params::default().set(name, &value) != Ok(false), "{name}");
        }
        assert_eq!(Params::default().set("max_token", &Value::parse("1").unwrap()), Ok(false));
    }

    #[test]
    fn the_nearer_source_wins() {
        let near = Params { top_k: Some(0), ..Params::default() };
        let far = Params { top_k: Some(40), seed: Some(7), ..Params::default() };
        let both = near.or(&far);
        assert_eq!((both.top_k, both.seed, both.top_p), (Some(0), Some(7), None));
    }
}
