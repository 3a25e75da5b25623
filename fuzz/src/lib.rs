//! What the fuzz targets share: a small good model in memory, one file of which is the input.
#![forbid(unsafe_code)]

pub mod templates;

use entropix::text::Tokenizer;
use entropix_model::{Checkpoint, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A folder with a good model, kept in memory where the system has a file system for that, and a handle on the one
/// file that changes: opening files is most of what a run costs.
pub struct Model {
    folder: tempfile::TempDir,
    path: PathBuf,
    varied: File,
}

impl Model {
    /// A model of which the file `name` is to change.
    pub fn varying(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder for the model");
        let weights = if name == INDEX { "part.safetensors" } else { WEIGHTS };
        for (name, seed) in [
            ("config.json", "config/good"),
            (weights, "safetensors/good"),
            ("tokenizer.json", "tokenizer/good"),
            (name, &format!("{}/good", seeds_of(name))),
        ] {
            std::fs::copy(Path::new(SEEDS).join(seed), folder.path().join(name)).expect("a seed");
        }
        let varied = folder.path().join(name);
        let path = if name.ends_with(".gguf") { varied.clone() } else { folder.path().to_owned() };
        Checkpoint::open(&path).expect("the model is good before it is changed");
        let varied = File::options().write(true).open(varied).expect("it was just made");
        Self { folder, path, varied }
    }

    /// Where its folder is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the file that changes.
    pub fn put(&self, bytes: &[u8]) {
        self.varied
            .set_len(bytes.len() as u64)
            .and_then(|()| self.varied.write_all_at(bytes, 0))
            .expect("room in memory");
    }

    /// Opens it with the file replaced.
    pub fn open(&self, bytes: &[u8]) -> Result<Checkpoint> {
        self.put(bytes);
        Checkpoint::open(&self.path)
    }
}

/// Where a good file called `name` is found.
fn seeds_of(name: &str) -> &'static str {
    match name {
        "config.json" => "config",
        "model.gguf" => "gguf",
        "tokenizer.json" => "tokenizer",
        INDEX => "index",
        _ => "safetensors",
    }
}

/// A byte-level vocabulary.
pub fn tokenizer() -> &'static Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/data/tiny/llama-tied"].iter().collect();
        Arc::new(Tokenizer::from_folder(&folder).expect("a good tokenizer"))
    });
    &TOKENIZER
}
