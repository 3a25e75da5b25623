//! What the fuzz targets share: a small good model in memory, one file of which is the input.

use entropix::text::Tokenizer;
use entropix_model::Checkpoint;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");

/// A folder with a good model, kept in memory where the system has a file system for that.
pub struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    /// Hands the model of this thread to `use_it`.
    pub fn with(use_it: impl FnOnce(&Model)) {
        thread_local!(static MODEL: RefCell<Option<Model>> = const { RefCell::new(None) });
        MODEL.with_borrow_mut(|model| use_it(model.get_or_insert_with(Model::new)));
    }

    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let model = Self { folder: folder.expect("a folder for the model") };
        for (name, seed) in [
            ("config.json", "config/good"),
            ("model.safetensors", "safetensors/good"),
            ("tokenizer.json", "tokenizer/llama-tied"),
        ] {
            model.put(name, &std::fs::read(Path::new(SEEDS).join(seed)).expect("a seed"));
        }
        Checkpoint::open(model.path()).expect("the model is good before it is changed");
        model
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces one of its files.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).expect("room in memory");
    }

    /// Opens it with one file replaced, and puts that back.
    pub fn open_with(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join(name);
        let good = std::fs::read(&path).ok();
        self.put(name, bytes);
        let _ = Checkpoint::open(self.path());
        match good {
            Some(good) => self.put(name, &good),
            None => std::fs::remove_file(path).expect("it was just written"),
        }
    }

    /// Calls `use_it` while one of its files is gone.
    pub fn without(&self, name: &str, use_it: impl FnOnce(&Model)) {
        let (path, aside) = (self.path().join(name), self.path().join("part.safetensors"));
        std::fs::rename(&path, &aside).expect("it is there");
        use_it(self);
        std::fs::rename(&aside, &path).expect("it was just there");
    }

    /// Opens a GGUF file and its vocabulary.
    pub fn open_gguf(&self, bytes: &[u8]) {
        self.put("model.gguf", bytes);
        let path = self.path().join("model.gguf");
        if let Ok(checkpoint) = Checkpoint::open(&path)
            && let Ok(tokenizer) = Tokenizer::open(&path, &checkpoint.vocabulary)
        {
            let _ = tokenizer.decode(&[0, 1, u32::MAX]);
        }
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
