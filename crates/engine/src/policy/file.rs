//! Policies as files: found by name or path, checked, bound to a model.

use super::document::Sources;
use super::parse::{PhraseText, Spec, parse};
use super::rule::Region;
use super::table::TablePolicy;
use super::{Needs, Phrase, Policy};
use crate::limits::{PHRASE_TOKENS, POLICY_BYTES};
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

const PRESETS: [Preset; 5] = [
    Preset { name: "greedy", source: include_str!("../../presets/greedy.toml") },
    Preset { name: "sample", source: include_str!("../../presets/sample.toml") },
    Preset { name: "min-p", source: include_str!("../../presets/min-p.toml") },
    Preset { name: "attic", source: include_str!("../../presets/attic.toml") },
    Preset { name: "smollm-135m", source: include_str!("../../presets/smollm-135m.toml") },
];

/// Turns a phrase into tokens, plainly: no special tokens, nothing put before.
pub type Encode<'a> = dyn Fn(&str) -> Result<Vec<TokenId>> + 'a;

/// A policy that was read and checked, but knows no model yet.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    source: Arc<str>,
    hash: Arc<str>,
    names: Arc<[Arc<str>]>,
    spec: Arc<Spec>,
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
        let hash =
            Sha256::digest(root.canonical()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let spec = parse(&sources, root)?;
        let names = spec.regions.iter().map(|region| Arc::clone(&region.name)).collect();
        Ok(Self { source: text.into(), hash: hash.into(), names, spec: Arc::new(spec) })
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

    /// SHA-256 of what it says, overrides included, comments and layout left out; 64 hex digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Makes it ready for a model: encodes its phrases.
    ///
    /// # Errors
    /// What `encode` says; `Config` when a phrase has no tokens or too many.
    pub fn bind(&self, encode: &Encode<'_>) -> Result<Arc<dyn Policy>> {
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
                trace: false,
            },
            phrases: self.spec.phrases.iter().map(phrase).collect::<Result<_>>()?,
            texts: self.spec.texts.iter().map(|text| tokens(text)).collect::<Result<_>>()?,
        }))
    }
}
