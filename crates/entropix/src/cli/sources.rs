//! Where sampling parameters come from. A request's own win over the flags, flags over the policy, the policy
//! over ENTROPIX_* variables, these over the model's generation_config.json.

use anyhow::Result;
use entropix::jobs::json::Value;
use entropix::jobs::params::{NAMES, Params};
use entropix_model::{Class, Error};

/// A policy states these itself, so that only flags and requests can change them.
const OF_THE_POLICY: [&str; 4] = ["temperature", "top_k", "top_p", "min_p"];

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

    /// Every parameter that is set, its value as a request would have it, and who set it.
    pub(crate) fn entries(&self) -> Vec<(&'static str, serde_json::Value, &'static str)> {
        let of = |params: &Params| serde_json::to_value(params).expect("plain data serialises");
        let layers = self.layers.each_ref().map(|(source, params)| (*source, of(params)));
        let winner = |name: &'static str| {
            let (source, value) = layers.iter().map(|(s, v)| (*s, &v[name])).find(|(_, v)| !v.is_null())?;
            Some((name, value.clone(), source))
        };
        NAMES.into_iter().filter_map(winner).collect()
    }

    /// The same in words: `seed 7 (flag)`.
    pub(crate) fn tell(&self) -> Vec<String> {
        let tell = |(name, value, source)| format!("{name} {value} ({source})");
        self.entries().into_iter().map(tell).collect()
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
    }
}
