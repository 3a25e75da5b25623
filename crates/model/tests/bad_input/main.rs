//! The catalogue of bad model files: every entry is a generator and the class and code it must give. No case
//! may panic, hang, take over 10 seconds, or allocate more than a small multiple of the metadata it holds.

mod config;
mod files;
mod gguf;
mod gguf_file;
mod gguf_vocabulary;
mod measure;
mod mutations;
mod safetensors;
mod shards;

use entropix_model::{Checkpoint, Class, Error};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What opening must give.
pub(crate) enum Expect {
    /// Class, code, and parts of the message.
    Fails(Class, &'static str, &'static [&'static str]),
    /// It opens; every part is in some warning.
    Opens(&'static [&'static str]),
}

type Make = Box<dyn Fn(&Path) -> Option<PathBuf>>;

/// One entry: the number in the catalogue, what is done to a good model in the folder, and the outcome.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Writes the model into an empty folder and gives the path to open; none skips the case.
    pub(crate) make: Make,
    pub(crate) expect: Expect,
    /// Done with what was opened, in the same thread.
    pub(crate) then: fn(Checkpoint) -> Result<Checkpoint, Error>,
}

pub(crate) fn case(name: &'static str, make: impl Fn(&Path) -> PathBuf + 'static, expect: Expect) -> Case {
    Case { name, make: Box::new(move |folder| Some(make(folder))), expect, then: Ok }
}

pub(crate) fn model(code: &'static str, parts: &'static [&'static str]) -> Expect {
    Expect::Fails(Class::Model, code, parts)
}

pub(crate) fn unsupported(code: &'static str, parts: &'static [&'static str]) -> Expect {
    Expect::Fails(Class::Unsupported, code, parts)
}

pub(crate) fn no_input(code: &'static str, parts: &'static [&'static str]) -> Expect {
    Expect::Fails(Class::NoInput, code, parts)
}

/// Of the processor: a busy machine is no fault of a case.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Of the clock: only waiting for what never comes takes longer.
const HANG_LIMIT: Duration = Duration::from_secs(120);
/// Allowed besides four times the metadata: buffers, messages, hash tables of small files.
const MEMORY_FLOOR: usize = 2 << 20;

/// Bytes of JSON and headers under a path: what a reader may look at before weights.
fn metadata_bytes(path: &Path) -> usize {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return entries.map(|path| metadata_bytes(&path)).sum();
    }
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    // Only sparse files of these cases are that long; they may cost nothing.
    if metadata.is_file() && metadata.len() < 1 << 30 { metadata.len() as usize } else { 0 }
}

/// What is wrong with a case, if anything is.
fn run(case: &Case) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = (case.make)(folder.path()) else { return Ok(()) };
    let limit = (4 * metadata_bytes(&path)).max(MEMORY_FLOOR);
    let then = case.then;
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let start = Instant::now();
        let measured = measure::peak(|| Checkpoint::open(&path).and_then(then));
        let spent = measure::processor_time().unwrap_or_else(|| start.elapsed());
        // Nobody listens after the time limit.
        let _ = send.send((measured, spent));
    });
    let ((result, peak), spent) = match receive.recv_timeout(HANG_LIMIT) {
        Ok(measured) => measured,
        Err(mpsc::RecvTimeoutError::Timeout) => return Err("never ends".into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let _ = thread.join();
            return Err("panics".into());
        }
    };
    if spent > TIME_LIMIT {
        return Err(format!("takes {spent:?}"));
    }
    if peak > limit {
        return Err(format!("allocates {peak} bytes at the peak; the limit is {limit}"));
    }
    let found = match &result {
        Ok(checkpoint) => format!("opens with warnings {:?}", checkpoint.warnings),
        Err(error) => format!("{:?}::{} {}", error.class, error.code, cut(&error.message)),
    };
    let (fits, wanted) = match (&case.expect, &result) {
        (Expect::Opens(parts), Ok(checkpoint)) => {
            let all = checkpoint.warnings.join("\n");
            (parts.iter().all(|part| all.contains(part)), format!("to open with {parts:?}"))
        }
        (Expect::Opens(parts), Err(_)) => (false, format!("to open with {parts:?}")),
        (Expect::Fails(class, code, parts), result) => {
            let fits = result.as_ref().is_err_and(|error| {
                error.class == *class
                    && error.code == *code
                    && parts.iter().all(|part| error.message.contains(part))
            });
            (fits, format!("{class:?}::{code} with {parts:?}"))
        }
    };
    if fits { Ok(()) } else { Err(format!("wants {wanted}, {found}")) }
}

fn cut(text: &str) -> String {
    text.chars().take(600).collect()
}

fn check(cases: Vec<Case>) {
    let n = cases.len();
    let faults: Vec<String> = cases
        .iter()
        .filter_map(|case| run(case).err().map(|fault| format!("{}: {fault}", case.name)))
        .collect();
    assert!(faults.is_empty(), "{} of {n} cases:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn safetensors_cases_1_to_16() {
    check(safetensors::cases());
}

#[test]
fn file_cases_17() {
    check(files::cases());
}

#[test]
fn index_cases_18_to_23() {
    check(shards::cases());
}

#[test]
fn config_cases_24_to_32() {
    check(config::cases());
}

#[test]
fn gguf_cases_33_to_49() {
    check(gguf::cases());
}

/// The checker can fail: a good model is no `Truncated` one, a wrong code is seen, and so is too much memory.
#[test]
fn the_checker_sees_faults() {
    let good = |folder: &Path| safetensors::good(folder);
    assert!(run(&case("good", good, Expect::Opens(&[]))).is_ok());
    assert!(run(&case("good", good, model("Truncated", &[]))).unwrap_err().contains("opens"));
    assert!(run(&case("good", good, Expect::Opens(&["no such warning"]))).is_err());
    let missing = |folder: &Path| folder.join("missing");
    assert!(run(&case("missing", missing, no_input("Split", &[]))).unwrap_err().contains("NoInput::Os"));
    let mut hungry = case("hungry", good, Expect::Opens(&[]));
    hungry.then = |checkpoint| {
        drop(std::hint::black_box(vec![1u8; MEMORY_FLOOR + 1]));
        Ok(checkpoint)
    };
    assert!(run(&hungry).unwrap_err().contains("allocates"));
    hungry.then = |_| panic!("a panic is a fault");
    assert_eq!(run(&hungry).unwrap_err(), "panics");
}
