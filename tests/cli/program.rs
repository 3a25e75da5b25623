//! Runs the binary and says how it ended.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No case may compute longer. Unoptimised builds get some more.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });
/// What takes a real model may compute that long.
const LONG_PATIENCE: Duration = Duration::from_secs(200);
/// No case may take longer; a busy machine must not look like a program that hangs.
const WALL_PATIENCE: Duration = Duration::from_secs(300);

/// The tiny llama: 6 heads, tied head, a chat template, no beginning-of-text token.
pub(crate) fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(name)
}

/// A folder for one test, with a cache of its own.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// The lines of a JSONL file; every one must be whole.
    pub(crate) fn rows(&self, name: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The program in this folder, with nothing of the caller's environment that could change it.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entropix"));
        command.args(args).current_dir(self.folder.path()).env("XDG_CACHE_HOME", self.path("cache"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("ENTROPIX_") || name.starts_with("HF_") || name == "NO_COLOR" {
                command.env_remove(name);
            }
        }
        command
    }

    /// As [`Place::run`], with time for real work.
    pub(crate) fn run_long<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ended {
        finish_within(LONG_PATIENCE, &mut self.command(args), b"")
    }

    /// Runs the program with nothing on standard input.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ended {
        finish(&mut self.command(args), b"")
    }

    /// `batch` on a tiny model, `in` to `out`, two threads, and what else is given.
    pub(crate) fn batch(&self, input: impl AsRef<[u8]>, more: &[&str]) -> Ended {
        self.put("in", input);
        let model = tiny("llama-tied.Q4_1.gguf");
        let mut args = vec!["batch", "-i", "in", "-o", "out", "-m", model.to_str().unwrap()];
        args.extend(more);
        if !more.contains(&"--threads") {
            args.extend(["--threads", "2"]);
        }
        self.run(args)
    }
}

/// Runs `command` to its end, which must not be a panic, a signal or a hang.
pub(crate) fn finish(command: &mut Command, stdin: &[u8]) -> Ended {
    finish_within(PATIENCE, command, stdin)
}

fn finish_within(patience: Duration, command: &mut Command, stdin: &[u8]) -> Ended {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    std::thread::spawn(move || {
        // A program that does not read its input is no failure.
        let _ = pipe.write_all(&stdin);
    });
    wait_within(patience, child, &format!("{command:?}"))
}

/// Waits for `child`, with the same demands.
pub(crate) fn wait(child: Child, told: &str) -> Ended {
    wait_within(PATIENCE, child, told)
}

fn wait_within(patience: Duration, mut child: Child, told: &str) -> Ended {
    fn gather(stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut stream = stream;
            stream.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let stdout = child.stdout.take().map(gather);
    let stderr = child.stderr.take().map(gather);
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() < WALL_PATIENCE && cpu_time(&child) < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            None => {
                let (wall, cpu) = (started.elapsed(), cpu_time(&child));
                child.kill().unwrap();
                panic!("still running after {wall:?}, {cpu:?} of them computing: {told}");
            }
        }
    };
    let text =
        |thread: Option<std::thread::JoinHandle<String>>| thread.map_or(String::new(), |t| t.join().unwrap());
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert_eq!(status.signal(), None, "killed by a signal: {told}\n{stderr}");
    let code = status.code().unwrap();
    assert!(code != 101 && !stderr.contains("panicked at"), "panicked: {told}\n{stderr}");
    Ended { code, stdout, stderr }
}

/// What `child` has computed so far, on all its threads; nothing where the system does not tell.
fn cpu_time(child: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // The second field is the name, which may hold blanks; the times are the 14th and 15th, in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

impl Ended {
    /// Asserts the exit code, and that standard error says `part`.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, part: &str) -> &Self {
        assert_eq!(self.code, code, "exit code; standard error:\n{}", self.stderr);
        assert!(self.stderr.contains(part), "standard error does not say {part:?}:\n{}", self.stderr);
        self
    }
}
