//! The hub played by a small server in this process, and Python by a shell script.

mod packages;
mod repositories;
mod server;

use super::{Progress, Settings};
use std::path::Path;

/// Remembers what it is told.
#[derive(Default)]
struct Seen {
    started: Vec<String>,
    notes: Vec<String>,
    most: u64,
}

impl Progress for Seen {
    fn start(&mut self, what: &str, _: Option<u64>) {
        self.started.push(what.to_owned());
    }

    fn advance_to(&mut self, bytes: u64) {
        self.most = self.most.max(bytes);
    }

    fn finish(&mut self) {}

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

/// Settings that keep everything in a folder and know no hub.
fn settings(folder: &Path) -> Settings {
    Settings {
        cache: Some(folder.join("entropix")),
        hub_cache: Some(folder.join("hub")),
        endpoint: "http://127.0.0.1:1".into(),
        token: None,
        offline: false,
        refresh: false,
        python: "no-such-python".into(),
    }
}
