use super::server::{COMMIT, Server};
use super::{Seen, settings};
use crate::hub::{Settings, resolve_with};
use entropix_model::{Checkpoint, Class, Error};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// A tiny llama in two shards, and things that nobody needs.
fn sharded() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/llama3");
    let mut files: BTreeMap<String, Vec<u8>> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    for name in [".gitattributes", "README.md", "pytorch_model.bin", "onnx/model.onnx", "model.gguf"] {
        files.insert(name.into(), b"nobody wants this".into());
    }
    files
}

/// A hub, an empty cache, and settings that know both.
fn hub(files: BTreeMap<String, Vec<u8>>) -> (Server, TempDir, Settings) {
    let (server, folder) = (Server::start(files), tempfile::tempdir().unwrap());
    let settings = Settings { endpoint: server.endpoint.clone(), ..settings(folder.path()) };
    (server, folder, settings)
}

fn pull(settings: &Settings, name: &str) -> Result<PathBuf, Error> {
    resolve_with(settings, name, &mut ())
}

fn fails(settings: &Settings, name: &str, class: Class, code: &str) -> String {
    let error = pull(settings, name).unwrap_err();
    assert_eq!((error.class, error.code), (class, code), "{error}");
    error.message
}

fn model_folder(folder: &TempDir) -> PathBuf {
    folder.path().join("hub/models--org--tiny")
}

/// Every file of a cache, links not followed.
fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(listing(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

#[test]
fn a_model_is_pulled_whole_and_found_again() {
    let (server, folder, settings) = hub(sharded());
    let mut seen = Seen::default();
    let path = resolve_with(&settings, "org/tiny", &mut seen).unwrap();
    assert_eq!(path, model_folder(&folder).join("snapshots").join(COMMIT));
    assert!(Checkpoint::open(&path).unwrap().config.n_layers == 3);
    for (name, bytes) in sharded() {
        let unwanted = name.contains("nobody") || fs::read(path.join(&name)).is_err();
        assert_eq!(unwanted, bytes == b"nobody wants this", "{name}");
        assert!(unwanted || fs::read(path.join(&name)).unwrap() == bytes, "{name}");
    }
    // The layout of the Python library: links into blobs, and a ref.
    let link = fs::read_link(path.join(SHARDS[0])).unwrap();
    assert!(link.starts_with("../../blobs"), "{}", link.display());
    assert_eq!(fs::read_to_string(model_folder(&folder).join("refs/main")).unwrap(), COMMIT);
    assert!(SHARDS.iter().all(|shard| seen.started.iter().any(|what| what == shard)), "{:?}", seen.started);
    assert!(seen.most as usize >= sharded()[SHARDS[1]].len());

    // A second run asks nobody.
    let asked = server.log().len();
    assert_eq!(pull(&settings, "org/tiny").unwrap(), path);
    assert_eq!(server.log().len(), asked);
    assert_eq!(pull(&settings, &format!("org/tiny@{COMMIT}")).unwrap(), path);
    drop(server);
    assert_eq!(pull(&settings, "org/tiny").unwrap(), path);

    // One that wants the newest says that it could not ask.
    let mut seen = Seen::default();
    let refresh = Settings { refresh: true, ..settings.clone() };
    assert_eq!(resolve_with(&refresh, "org/tiny", &mut seen).unwrap(), path);
    assert!(seen.notes[0].contains("using what is in the cache"), "{:?}", seen.notes);
    fails(&refresh, "org/tiny@v1", Class::Temp, "Network");
}

#[test]
fn refreshing_fetches_nothing_that_is_there() {
    let (server, _folder, settings) = hub(sharded());
    pull(&settings, "org/tiny").unwrap();
    let asked = server.log().len();
    pull(&Settings { refresh: true, ..settings.clone() }, "org/tiny").unwrap();
    let again = &server.log()[asked..];
    assert!(again.iter().all(|line| line.starts_with("/api/") || line.ends_with("bytes=0-0")), "{again:?}");
    // A tag of the same commit costs no download either.
    pull(&settings, "org/tiny@v1").unwrap();
}

#[test]
fn offline_asks_nobody() {
    let (server, _folder, settings) = hub(sharded());
    let offline = Settings { offline: true, ..settings.clone() };
    assert!(fails(&offline, "org/tiny", Class::NoInput, "Offline").contains("HF_HUB_OFFLINE"));
    assert!(server.log().is_empty());
    let path = pull(&settings, "org/tiny").unwrap();
    let asked = server.log().len();
    assert_eq!(pull(&offline, "org/tiny").unwrap(), path);
    assert_eq!(server.log().len(), asked);
}

#[test]
fn an_interrupted_download_is_no_model_and_goes_on_where_it_stopped() {
    let (server, folder, settings) = hub(sharded());
    server.state.lock().unwrap().cut = Some((SHARDS[1].into(), 10_000));
    let message = fails(&settings, "org/tiny", Class::Temp, "Network");
    assert!(message.contains(SHARDS[1]) && message.contains("goes on where it stopped"), "{message}");

    let offline = Settings { offline: true, ..settings.clone() };
    fails(&offline, "org/tiny", Class::NoInput, "Offline");
    assert!(!model_folder(&folder).join("refs/main").exists());
    let snapshot = model_folder(&folder).join("snapshots").join(COMMIT);
    assert!(!snapshot.join(SHARDS[1]).exists());
    let parts = listing(&model_folder(&folder))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "part"));
    assert_eq!(parts.map(|path| fs::metadata(path).unwrap().len()).collect::<Vec<_>>(), [10_000]);

    let path = pull(&settings, "org/tiny").unwrap();
    assert!(server.log().contains(&format!("/cdn/{} bytes=10000-", SHARDS[1])), "{:?}", server.log());
    assert_eq!(fs::read(path.join(SHARDS[1])).unwrap(), sharded()[SHARDS[1]]);
}

/// A process killed after the last byte and before the rename leaves a part of full length; one that met another
/// version leaves a longer one.
#[test]
fn parts_of_full_length_and_longer_are_mended() {
    for more in [0, 1] {
        let (server, folder, settings) = hub(sharded());
        server.state.lock().unwrap().cut = Some((SHARDS[1].into(), 1000));
        fails(&settings, "org/tiny", Class::Temp, "Network");
        let mut left = listing(&model_folder(&folder));
        left.retain(|path| path.extension().is_some_and(|e| e == "part"));
        let mut bytes = sharded()[SHARDS[1]].clone();
        bytes.resize(bytes.len() + more, 0);
        fs::write(&left[0], bytes).unwrap();
        let path = pull(&settings, "org/tiny").unwrap();
        assert_eq!(fs::read(path.join(SHARDS[1])).unwrap(), sharded()[SHARDS[1]], "{more} more");
    }
}

#[test]
fn what_came_damaged_is_removed() {
    // A server that answers a resume with the whole file, so that the parts do not fit.
    let (server, folder, settings) = hub(sharded());
    server.state.lock().unwrap().cut = Some((SHARDS[1].into(), 1000));
    fails(&settings, "org/tiny", Class::Temp, "Network");
    server.state.lock().unwrap().ignore_ranges = true;
    assert!(fails(&settings, "org/tiny", Class::Temp, "Damaged").contains("run again"));
    assert!(!model_folder(&folder).join("refs/main").exists());
    fails(&Settings { offline: true, ..settings.clone() }, "org/tiny", Class::NoInput, "Offline");
    server.state.lock().unwrap().ignore_ranges = false;
    pull(&settings, "org/tiny").unwrap();

    // Bytes that are not those of the hash.
    let (server, folder, settings) = hub(sharded());
    server.state.lock().unwrap().tag = Some("a".repeat(64));
    let message = fails(&settings, "org/tiny", Class::Temp, "Damaged");
    assert!(message.contains("SHA-256"), "{message}");
    let left = listing(&model_folder(&folder));
    assert!(
        left.iter().all(|path| path.extension().is_some_and(|e| e == "lock") || path.ends_with(COMMIT)),
        "{left:?}"
    );
}

/// A blob of the right length that nobody points to was perhaps never checked.
#[test]
fn blobs_without_a_pointer_are_checked_before_use() {
    for damage in [false, true] {
        let (server, folder, settings) = hub(sharded());
        let path = pull(&settings, "org/tiny").unwrap();
        let blob = fs::canonicalize(path.join(SHARDS[1])).unwrap();
        fs::remove_dir_all(model_folder(&folder).join("snapshots")).unwrap();
        if damage {
            let mut bytes = fs::read(&blob).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&blob, bytes).unwrap();
            fails(&settings, "org/tiny", Class::Temp, "Damaged");
            fails(&Settings { offline: true, ..settings.clone() }, "org/tiny", Class::NoInput, "Offline");
        }
        let asked = server.log().len();
        assert_eq!(pull(&settings, "org/tiny").unwrap(), path);
        assert_eq!(fs::read(path.join(SHARDS[1])).unwrap(), sharded()[SHARDS[1]]);
        let fetched = server.log()[asked..].contains(&format!("/cdn/{} bytes=0-", SHARDS[1]));
        assert_eq!(fetched, damage, "a whole blob is linked, a damaged one fetched");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let (server, _folder, settings) = hub(sharded());
    assert!(fails(&settings, "org/other", Class::NoInput, "NotFound").contains("spelling"));
    fails(&settings, "org/tiny@nope", Class::NoInput, "NotFound");
    server.state.lock().unwrap().token = Some("secret".into());
    assert!(fails(&settings, "org/tiny", Class::NoInput, "Gated").contains("set HF_TOKEN"));
    let wrong = Settings { token: Some("wrong".into()), ..settings.clone() };
    let message = fails(&wrong, "org/tiny", Class::NoInput, "Gated");
    assert!(message.contains("accept the model's terms") && !message.contains("wrong"), "{message}");
    pull(&Settings { token: Some("secret".into()), ..settings.clone() }, "org/tiny").unwrap();

    let gone = Settings { endpoint: "http://127.0.0.1:1".into(), ..settings.clone() };
    assert!(fails(&gone, "org/tiny@v1", Class::Temp, "Network").contains("check the network"));
    let homeless = Settings { hub_cache: None, ..settings };
    assert!(fails(&homeless, "org/tiny", Class::Config, "NoCache").contains("HF_HOME"));
}

fn ggufs(names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/llama-tied.Q4_0.gguf");
    let bytes = fs::read(path).unwrap();
    let other = [("README.md".to_owned(), b"nobody wants this".to_vec())];
    names.iter().map(|name| ((*name).to_owned(), bytes.clone())).chain(other).collect()
}

#[test]
fn gguf_repositories() {
    let (_server, _folder, settings) = hub(ggufs(&["tiny.Q4_0.gguf"]));
    let path = pull(&settings, "org/tiny").unwrap();
    assert!(path.ends_with("tiny.Q4_0.gguf"));
    Checkpoint::open(&path).unwrap();
    assert_eq!(pull(&Settings { offline: true, ..settings }, "org/tiny").unwrap(), path);

    let (server, _folder, settings) = hub(ggufs(&["a.gguf", "sub/b.gguf"]));
    let message = fails(&settings, "org/tiny", Class::NoInput, "NoFile");
    assert!(message.contains("org/tiny:FILE: a.gguf, sub/b.gguf"), "{message}");
    let path = pull(&settings, "org/tiny:sub/b.gguf").unwrap();
    assert!(path.ends_with("sub/b.gguf"));
    Checkpoint::open(&path).unwrap();
    assert!(!server.log().iter().any(|line| line.contains("a.gguf")));
    assert!(fails(&settings, "org/tiny:c.gguf", Class::NoInput, "NoFile").contains("a.gguf"));

    let (_server, _folder, settings) = hub(ggufs(&[]));
    fails(&settings, "org/tiny", Class::Unsupported, "NoWeights");
}

/// Nothing a hub says may become a path outside the cache.
#[test]
fn a_hostile_hub_stays_in_the_cache() {
    let evil = br#"{"weight_map":{"a":"../../../../evil.safetensors"}}"#;
    let mut files = sharded();
    files.insert("model.safetensors.index.json".into(), evil.to_vec());
    files.insert("../../../../evil.safetensors".into(), b"evil".to_vec());
    files.insert("tokenizer/../../../../../evil.json".into(), b"evil".to_vec());
    let (_server, folder, settings) = hub(files);
    let error = pull(&settings, "org/tiny").unwrap_err();
    assert!(["Hub", "Index"].contains(&error.code), "{error}");
    let (server, other, settings) = hub(sharded());
    server.state.lock().unwrap().tag = Some("../../../../evil".into());
    fails(&settings, "org/tiny", Class::Io, "Hub");
    for folder in [folder, other] {
        let outside: Vec<PathBuf> = listing(folder.path())
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("evil"))
            .collect();
        assert!(outside.is_empty(), "{outside:?}");
    }
}

#[test]
fn two_at_once_fetch_once() {
    let (server, _folder, settings) = hub(sharded());
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| pull(&settings, "org/tiny").unwrap()));
        threads.map(|thread| thread.join().unwrap()).into()
    });
    assert_eq!(paths[0], paths[1]);
    Checkpoint::open(&paths[0]).unwrap();
    let whole = server.log().iter().filter(|line| **line == format!("/cdn/{} bytes=0-", SHARDS[1])).count();
    assert_eq!(whole, 1, "{:?}", server.log());
}
