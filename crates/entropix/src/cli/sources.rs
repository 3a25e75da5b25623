//! Where sampling parameters come from. A request's own win over the flags, flags over the policy, the policy
//! over ENTROPIX_* variables, these over the model's generation_config.json.

use anyhow::Result;
use entropix::jobs::json::Value;
use entropix::jobs::params::{NAMES, Params};
use entropix_engine::Parameters;
use entropix_model::{Class, Error};

/// A policy states these itself, so that only flags and requests can change them.
const OF_THE_POLICY: [&str; 4] = ["temperature", "top_k", "top_p", "min_p"];

/// Who decides what nobody set.
const POLICY: &str = "policy";
const DEFAULT: &str = "default";

/// What the engine does where nobody says anything.
fn defaults() -> Params {
    let engine = Parameters::default();
    Params {
        min_tokens: Some(engine.min_tokens),
        repetition_penalty: Some(engine.repetition_penalty),
        frequency_penalty: Some(engine.frequency_penalty),
        presence_penalty: Some(engine.presence_penalty),
        seed: Some(engine.seed),
        ignore_eos: Some(engine.ignore_eos),
        n: Some(engine.n as usize),
        ..Params::default()
    }
}

/// The sources of defaults, the nearest first.
pub(crate) struct Sources {
    layers: [(&'static str, Params); 3],
    /// What was set in vain.
    pub(crate) warnings: Vec<String>,
}

impl Sources {
    /// From flags, the environment, and the model's generation_config.json.
    pub(crate) fn new(flags: Params, generation_config: Params) -> Result<Self> {
        let (environment, warnings) =
            from_environment(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into()))?;
        Ok(Self {
            warnings,
            layers: [
                ("flag", flags),
                ("environment", below_policy(environment)),
                ("generation_config.json", below_policy(generation_config)),
            ],
        })
    }

    /// What a request that says nothing gets.
    pub(crate) fn defaults(&self) -> Params {
        let [(_, flags), (_, environment), (_, generation_config)] = &self.layers;
        flags.or(environment).or(generation_config)
    }

    /// Every parameter, its value as a request would have it, and who set it: null where the policy decides, and for
    /// max_tokens where the context does.
    pub(crate) fn entries(&self) -> Vec<(&'static str, serde_json::Value, &'static str)> {
        // By way of the text, which has the fewest digits that say which number of 32 bits is meant.
        let of = |params: &Params| -> serde_json::Value {
            let text = serde_json::to_vec(params).expect("plain data serialises");
            serde_json::from_slice(&text).expect("it was just written")
        };
        let layers = self.layers.each_ref().map(|(source, params)| (*source, of(params)));
        let defaults = of(&defaults());
        let winner = |name: &'static str| {
            let set = layers.iter().map(|(s, v)| (*s, &v[name])).find(|(_, v)| !v.is_null());
            let unset = if OF_THE_POLICY.contains(&name) { POLICY } else { DEFAULT };
            let (source, value) = set.unwrap_or((unset, &defaults[name]));
            (name, value.clone(), source)
        };
        NAMES.map(winner).into()
    }

    /// Those that somebody set, in words: `seed 7 (flag)`.
    pub(crate) fn tell(&self) -> Vec<String> {
        let is_set = |(_, _, source): &(_, _, &str)| ![POLICY, DEFAULT].contains(source);
        let tell = |(name, value, source)| format!("{name} {value} ({source})");
        self.entries().into_iter().filter(is_set).map(tell).collect()
    }
}

/// Reads `ENTROPIX_<NAME>` for every parameter, with a warning for those of [`OF_THE_POLICY`].
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<(Params, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut params = Params::default();
    for name in NAMES {
        let variable_name = format!("ENTROPIX_{}", name.to_uppercase());
        let Some(text) = variable(&variable_name) else { continue };
        let usage = |message: String| {
            let message = format!("{variable_name} is {text:?}: {message}; correct or unset it");
            Error::new(Class::Usage, "Environment", message)
        };
        if OF_THE_POLICY.contains(&name) {
            let flag = name.replace('_', "-");
            warnings.push(format!("{variable_name} is not heard: the policy decides {name}; use --{flag}"));
        }
        let json = if name == "stop" && !text.starts_with('[') { Value::quote(&text) } else { text.clone() };
        let value = Value::parse(&json).map_err(|flaw| usage(flaw.message))?;
        params.set(name, &value).map_err(|flaw| usage(flaw.message))?;
    }
    Ok((params, warnings))
}

fn below_policy(params: Params) -> Params {
    Params { temperature: None, top_k: None, top_p: None, min_p: None, ..params }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_like_requests() {
        let of = |name: &'static str, text: &'static str| {
            from_environment(move |asked| (asked == name).then(|| text.to_owned()))
        };
        assert_eq!(of("ENTROPIX_SEED", "7").unwrap().0.seed, Some(7));
        assert_eq!(of("ENTROPIX_STOP", "END").unwrap().0.stop, Some(vec!["END".into()]));
        let error = of("ENTROPIX_SEED", "-1").unwrap_err().to_string();
        assert!(error.contains("ENTROPIX_SEED is \"-1\": seed is the number -1"), "{error}");
        let (_, warnings) = of("ENTROPIX_TOP_P", "0.5").unwrap();
        assert!(warnings[0].contains("--top-p"), "{warnings:?}");
    }

    #[test]
    fn the_nearest_source_is_named() {
        let flags = Params { seed: Some(7), ..Params::default() };
        let config = Params {
            seed: Some(1),
            repetition_penalty: Some(1.5),
            temperature: Some(0.1),
            ..Params::default()
        };
        let sources = Sources::new(flags, config).unwrap();
        assert_eq!(sources.tell(), ["repetition_penalty 1.5 (generation_config.json)", "seed 7 (flag)"]);
        assert_eq!((sources.defaults().seed, sources.defaults().temperature), (Some(7), None));
        let entry = |asked: &str| sources.entries().into_iter().find(|(name, ..)| *name == asked).unwrap();
        assert_eq!(entry("n"), ("n", 1.into(), "default"));
        assert_eq!(entry("temperature"), ("temperature", serde_json::Value::Null, "policy"));
    }
}
