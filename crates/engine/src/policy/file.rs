//! Policies as files: found by name or path, checked, bound to a model.

use super::document::Sources;
use super::parse::{PhraseText, Spec, parse};
use super::rule::{Region, Rule};
use super::table::TablePolicy;
use super::{AnswerRule, Calibration, Needs, Phrase, Policy, ReadAnswer};
use crate::limits::{PHRASE_TOKENS, PICK, POLICY_BYTES};
use entropix_model::{Class, Error, Result, TokenId};
use sha2::{Digest, Sha256};
use std::{fs::File, io::Read, path::Path, sync::Arc};

/// A built-in policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// The TOML text.
    pub source: &'static str,
}

/// A preset by the name of its file.
macro_rules! preset {
    ($name:literal) => {
        Preset { name: $name, source: include_str!(concat!("../../presets/", $name, ".toml")) }
    };
}

const PRESETS: [Preset; 18] = [
    preset!("greedy"),
    preset!("sample"),
    preset!("min-p"),
    preset!("top-n-sigma"),
    preset!("p-less"),
    preset!("edt"),
    preset!("attic"),
    preset!("frog"),
    preset!("local-1b"),
    preset!("smollm-135m"),
    preset!("smollm-360m"),
    preset!("smollm-1.7b"),
    preset!("mlx"),
    preset!("server"),
    preset!("dslider"),
    preset!("quadrants"),
    preset!("entropix"),
    preset!("random-gate"),
];

/// Turns a phrase into tokens, plainly: no special tokens, nothing put before.
pub type Encode<'a> = dyn Fn(&str) -> Result<Vec<TokenId>> + 'a;

/// A policy that was read and checked, but knows no model yet.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    place: Arc<str>,
    source: Arc<str>,
    overrides: Arc<[String]>,
    hash: Arc<str>,
    names: Arc<[Arc<str>]>,
    spec: Arc<Spec>,
    /// Where quantiles were taken from.
    calibration: Option<Arc<Calibration>>,
}

impl PolicyFile {
    /// The built-in policies, in the order to show them.
    pub fn presets() -> &'static [Preset] {
        &PRESETS
    }

    /// A preset by name, else the file at that path, with `key=value` overrides: a dotted path into the file
    /// and a TOML value (`parameters.temperature=0.7`, `region.lelv.when.entropy.below=0.2`; a path whose
    /// first part is no key of the file is looked for under `parameters`, so `temperature=0.7` is the same).
    ///
    /// # Errors
    /// `NoInput` when there is neither; `Config`, with line and column, for everything wrong in it.
    pub fn load(name_or_path: &str, overrides: &[String]) -> Result<Self> {
        if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name_or_path) {
            return Self::parse(preset.name, preset.source.as_bytes(), overrides);
        }
        let path = Path::new(name_or_path);
        let metadata = std::fs::metadata(path).map_err(|error| {
            let known = PRESETS.map(|preset| preset.name).join(", ");
            let mut error = Error::io(path, "read the policy", &error);
            error.message += &format!("; it is no built-in policy either ({known})");
            error
        })?;
        if !metadata.is_file() {
            return Err(Error::new(
                Class::NoInput,
                "NotAFile",
                format!("{name_or_path}: not a file, a policy is one"),
            ));
        }
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(POLICY_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| Error::io(path, "read the policy", &error))?;
        Self::parse(name_or_path, &bytes, overrides)
    }

    /// Checks a text; `place` is what errors call it.
    ///
    /// # Errors
    /// `Config`, with line and column.
    pub fn parse(place: &str, bytes: &[u8], overrides: &[String]) -> Result<Self> {
        Self::read(place, bytes, overrides, None)
    }

    /// The same policy with its quantiles taken from a calibration.
    ///
    /// # Errors
    /// `Config` when the calibration lacks one.
    pub fn calibrated(&self, calibration: &Calibration) -> Result<Self> {
        Self::read(&self.place, self.source.as_bytes(), &self.overrides, Some(calibration))
    }

    fn read(
        place: &str,
        bytes: &[u8],
        overrides: &[String],
        calibration: Option<&Calibration>,
    ) -> Result<Self> {
        let fail = |code, message: String| Err(Error::new(Class::Config, code, message));
        if bytes.len() > POLICY_BYTES {
            return fail("TooLarge", format!("{place}: a policy has at most {POLICY_BYTES} bytes"));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                return fail("NotUtf8", format!("{place}: not UTF-8 at byte {}", error.valid_up_to()));
            }
        };
        let sources = Sources { place, text, overrides };
        let root = sources.read()?;
        let canonical = root.canonical();
        let uncalibrated = parse(&sources, root.clone(), None)?;
        refuse_idle_overrides(&sources, &canonical, &uncalibrated)?;
        let is_calibrated = calibration.is_some() && !uncalibrated.unresolved.is_empty();
        let spec = if is_calibrated { parse(&sources, root, calibration)? } else { uncalibrated };
        let mut digest = Sha256::new();
        digest.update(canonical);
        if is_calibrated && let Some(calibration) = calibration {
            digest.update(calibration.to_toml());
        }
        let hash = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let names = spec.regions.iter().map(|region| Arc::clone(&region.name)).collect();
        Ok(Self {
            place: place.into(),
            source: text.into(),
            overrides: overrides.into(),
            hash: hash.into(),
            names,
            spec: Arc::new(spec),
            calibration: calibration.filter(|_| is_calibrated).map(|used| Arc::new(used.clone())),
        })
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it says about itself; may be empty.
    pub fn description(&self) -> &str {
        &self.spec.description
    }

    /// The text as written, without overrides.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names of its regions, the default last.
    pub fn regions(&self) -> &[Arc<str>] {
        &self.names
    }

    /// The quantiles it needs a calibration for; none once it is calibrated.
    pub fn unresolved(&self) -> &[String] {
        &self.spec.unresolved
    }

    /// The calibration its quantiles were taken from, if it has any.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_deref()
    }

    /// The texts it turns into tokens: what it injects and what its conditions look for.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let phrases = self.spec.phrases.iter().map(|phrase| phrase.text.as_str());
        phrases.chain(self.spec.texts.iter().map(String::as_str))
    }

    /// The most candidates it picks among by a rule of its own ([`super::Decision::Pick`]); 0 when it does not.
    pub fn candidates(&self) -> u16 {
        let candidates = |region: &Region| match &region.rule {
            Rule::Dslider(dslider) => dslider.candidates.clamp(1, PICK),
            _ => 0,
        };
        self.spec.regions.iter().map(candidates).max().unwrap_or(0)
    }

    /// How to find the answers it counts.
    pub fn answer_rule(&self) -> Option<&AnswerRule> {
        self.spec.answer.as_ref()
    }

    /// SHA-256 of what it says, overrides and calibration included, comments and layout left out; 64 hex
    /// digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Makes it ready for a model: encodes its phrases.
    ///
    /// # Errors
    /// What `encode` says; `Config` when a phrase has no tokens or too many, or when it needs a calibration.
    pub fn bind(&self, encode: &Encode<'_>) -> Result<Arc<dyn Policy>> {
        self.bind_reading(encode, None)
    }

    /// As [`PolicyFile::bind`], with somebody who reads answers by [`PolicyFile::answer_rule`].
    ///
    /// # Errors
    /// As [`PolicyFile::bind`].
    pub fn bind_reading(
        &self,
        encode: &Encode<'_>,
        read_answer: Option<Arc<ReadAnswer>>,
    ) -> Result<Arc<dyn Policy>> {
        if let Some(quantile) = self.spec.unresolved.first() {
            return Err(Error::new(
                Class::Config,
                "NotCalibrated",
                format!(
                    "policy {} has thresholds in quantiles ({quantile:?}), and there is no calibration for this model; \
                     make one with `entropix calibrate` and give it with --calibration",
                    self.name()
                ),
            ));
        }
        let tokens = |text: &str| {
            let tokens = encode(text)?;
            if (1..=PHRASE_TOKENS).contains(&tokens.len()) {
                return Ok(tokens);
            }
            let n = tokens.len();
            Err(Error::new(
                Class::Config,
                "Phrase",
                format!(
                    "policy {}: {text:?} is {n} tokens for this model; 1 to {PHRASE_TOKENS} are allowed",
                    self.name()
                ),
            ))
        };
        let phrase = |phrase: &PhraseText| {
            Ok(Phrase { tokens: tokens(&phrase.text)?, cap: phrase.cap, cooldown: phrase.cooldown })
        };
        Ok(Arc::new(TablePolicy {
            name: Arc::clone(&self.spec.name),
            names: Arc::clone(&self.names),
            regions: Arc::clone(&self.spec.regions),
            needs: Needs {
                attention: self.spec.regions.iter().any(Region::needs_attention),
                logits: self.spec.regions.iter().any(|region| region.rule.needs_logits()),
                trace: self.spec.regions.iter().any(Region::needs_trace),
            },
            budget: self.spec.budget,
            read_answer,
            phrases: self.spec.phrases.iter().map(phrase).collect::<Result<_>>()?,
            texts: self.spec.texts.iter().map(|text| tokens(text)).collect::<Result<_>>()?,
        }))
    }
}

/// Refuses an override without which the policy would say something else and do the same: a parameter that every region
/// has a value of its own for, or one of a region that is switched off.
fn refuse_idle_overrides(sources: &Sources<'_>, canonical: &str, spec: &Spec) -> Result<()> {
    for i in 0..sources.overrides.len() {
        let mut others = sources.overrides.to_vec();
        let order = others.remove(i);
        let without = Sources { overrides: &others, ..sources.clone() };
        let Ok(root) = without.read() else { continue };
        let says_otherwise = root.canonical() != canonical;
        let Ok(other) = parse(&without, root, None) else { continue };
        // As they are printed: a quantile without a calibration is NaN, which is not even equal to itself.
        if says_otherwise && format!("{other:?}") == format!("{spec:?}") {
            let message = format!(
                "--set {order}: changes nothing that policy {} does; `entropix policy show` tells which regions have \
                 values of their own, set with region.NAME.KEY=VALUE",
                spec.name
            );
            return Err(Error::new(Class::Config, "NoEffect", message));
        }
    }
    Ok(())
}
