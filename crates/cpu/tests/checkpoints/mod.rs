//! The checkpoints of the tests.

use entropix_model::Checkpoint;
use std::path::{Path, PathBuf};

/// Where the repository is: as cargo says when it runs tests, which may be elsewhere than where they were built.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("../..")
}

/// Where the user's cache has downloaded models.
pub(crate) fn cached_models() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    cache
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"))
        .join("entropix")
}

/// A checkpoint by the name golden files use; none, with a word on stderr, when it was not fetched.
pub(crate) fn checkpoint(name: &str) -> Option<Checkpoint> {
    let places = [root().join("tests/data/tiny").join(name), cached_models().join(name)];
    let Some(path) = places.iter().find(|path| path.exists()) else {
        eprintln!(
            "{name} is not in {}: not tested (scripts/get_model fetches it)",
            cached_models().display()
        );
        return None;
    };
    Some(Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}")))
}
