//! Policies as files.

use super::Policy;
use entropix_model::{Result, TokenId};
use std::{path::Path, sync::Arc};

/// A built-in policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// The TOML text.
    pub source: &'static str,
}

/// Turns a phrase into tokens, plainly: no special tokens, nothing put before.
pub type Encode<'a> = dyn Fn(&str) -> Result<Vec<TokenId>> + 'a;

/// A policy that was read and checked, but knows no model yet.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    name: Arc<str>,
}

impl PolicyFile {
    /// The built-in policies, in the order to show them.
    pub fn presets() -> &'static [Preset] {
        &[]
    }

    /// A preset by name, else the file at that path, with `key=value` overrides: a dotted path into the file
    /// and a TOML value (`parameters.temperature=0.7`; a path whose first part is no key of the file is looked
    /// for under `parameters`, so `temperature=0.7` is the same).
    ///
    /// # Errors
    /// `NoInput` when there is neither; `Config`, with line and column, for everything wrong in it.
    pub fn load(_name_or_path: &str, _overrides: &[String]) -> Result<Self> {
        unreachable!("written together with the reader")
    }

    /// Checks `text`; `place` is named in errors.
    ///
    /// # Errors
    /// `Config`, with line and column.
    pub fn parse(_place: &Path, _text: &str, _overrides: &[String]) -> Result<Self> {
        unreachable!("written together with the reader")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One sentence about it; may be empty.
    pub fn description(&self) -> &str {
        unreachable!("written together with the reader")
    }

    /// The text as written, without overrides.
    pub fn source(&self) -> &str {
        unreachable!("written together with the reader")
    }

    /// The names of its regions, the default last.
    pub fn regions(&self) -> &[Arc<str>] {
        unreachable!("written together with the reader")
    }

    /// SHA-256 of what it says, overrides included, comments and layout left out; 64 hex digits.
    pub fn hash(&self) -> &str {
        unreachable!("written together with the reader")
    }

    /// Makes it ready for a model: encodes its phrases.
    ///
    /// # Errors
    /// What `encode` says; `Config` when a phrase has no tokens or too many.
    pub fn bind(&self, _encode: &Encode<'_>) -> Result<Arc<dyn Policy>> {
        unreachable!("written together with the reader")
    }
}
