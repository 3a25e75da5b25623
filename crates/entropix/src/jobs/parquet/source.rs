//! The rows of a Parquet file as a stream of JSON lines. The library that decodes them can be made to take any amount
//! of memory by a damaged file, or to panic, so that a program gives it a process of its own, under limits.

use entropix_model::Result;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::thread::JoinHandle;

/// Bytes read ahead of a line.
const BUFFER_BYTES: usize = 1 << 16;
/// Bytes of what a process says when it fails.
const TOLD_BYTES: u64 = 4 << 10;

/// The rows of `file`, called `path` in messages, decoded by the program and arguments of `command`, which must do
/// nothing but call [`super::serve`] under limits; without one, by a thread.
pub(in crate::jobs) fn rows(
    file: &File,
    path: &Path,
    command: Option<&[OsString]>,
) -> Result<Box<dyn BufRead>> {
    let start = || -> std::io::Result<Rows> {
        let file = opened_anew(file)?;
        Ok(match command {
            Some(command) => Rows::Process(start_process(file, command)?),
            None => start_thread(file)?,
        })
    };
    let rows = start().map_err(|e| entropix_model::Error::io(path, "begin to read", &e))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, rows)))
}

/// The same file with a place of its own to read at, so that two readers do not disturb each other.
fn opened_anew(file: &File) -> std::io::Result<File> {
    use std::os::fd::AsRawFd;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::open(own).or_else(|_| file.try_clone())
}

enum Rows {
    Process(Process),
    Thread(PipeReader, Option<JoinHandle<std::io::Result<()>>>),
}

struct Process {
    child: Child,
    stdout: ChildStdout,
}

fn start_process(file: File, command: &[OsString]) -> std::io::Result<Process> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    let (program, arguments) = command.split_first().expect("a command names a program");
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        // An interrupt at the terminal is for us.
        .process_group(0)
        .stdin(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().expect("it was asked for");
    Ok(Process { child, stdout })
}

fn start_thread(file: File) -> std::io::Result<Rows> {
    let (from, to) = std::io::pipe()?;
    let decode = move || super::serve(file, to, &mut || Ok(()));
    Ok(Rows::Thread(from, Some(std::thread::Builder::new().name("parquet".into()).spawn(decode)?)))
}

impl Read for Rows {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = match self {
            Rows::Process(process) => process.stdout.read(out)?,
            Rows::Thread(pipe, _) => pipe.read(out)?,
        };
        if n == 0 && !out.is_empty() {
            // The end of the rows, or of who decoded them.
            self.end()?;
        }
        Ok(n)
    }
}

impl Rows {
    fn end(&mut self) -> std::io::Result<()> {
        // What the rows are made of is to blame, not the disk.
        let damaged = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
        let died = || damaged("it cannot be decoded, or not under the limits".into());
        match self {
            Rows::Process(process) => {
                let status = process.child.wait()?;
                if status.success() {
                    return Ok(());
                }
                let mut told = String::new();
                if let Some(stderr) = process.child.stderr.take() {
                    // What is no text is no message of ours.
                    let _ = stderr.take(TOLD_BYTES).read_to_string(&mut told);
                }
                let told = told.trim().strip_prefix("error: ").unwrap_or_default();
                if status.code().is_some() && !told.is_empty() {
                    return Err(damaged(told.to_owned()));
                }
                if status.signal() == Some(Signal::KILL.as_raw()) {
                    let why = "the process that decodes it was killed by somebody, or for want of memory";
                    return Err(std::io::Error::other(why));
                }
                Err(died())
            }
            Rows::Thread(_, thread) => match thread.take().map(JoinHandle::join) {
                None => Ok(()),
                Some(Ok(ended)) => ended.map_err(|error| damaged(error.to_string())),
                Some(Err(_)) => Err(died()),
            },
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
