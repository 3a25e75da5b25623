//! A job's input: opened once, checked whole before anything is written, then read again one request at a
//! time, so that memory does not grow with the file.

use super::json::Flaw;
use super::limits::{LINE_BYTES, TOLD_FLAWS};
use super::lines::Lines;
use super::request::{JobRequest, PlainText};
use entropix_model::{Class, Error, Result};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// What a job's input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// A JSON object a line.
    Jsonl,
    /// A prompt a line.
    Text,
}

/// Something a job does with one line.
pub trait JobLine: Sized {
    /// Reads and checks a JSON line.
    fn from_json(line: &str) -> Result<Self, Flaw>;
    /// Takes a line of plain text.
    fn from_plain(line: &str, plain: PlainText) -> Self;
    /// The id it was given.
    fn id(&self) -> Option<&str>;
    /// What stands in for an id; the same for the same content.
    fn content_hash(&self) -> String;
}

impl JobLine for JobRequest {
    fn from_json(line: &str) -> Result<Self, Flaw> {
        JobRequest::from_json(line)
    }

    fn from_plain(line: &str, plain: PlainText) -> Self {
        JobRequest::from_plain(line, plain)
    }

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn content_hash(&self) -> String {
        JobRequest::content_hash(self)
    }
}

/// An open input.
pub struct JobInput {
    file: File,
    path: PathBuf,
    format: InputFormat,
    plain: PlainText,
}

impl JobInput {
    /// Opens `path`, or standard input for `-`. What cannot be read twice (pipes, terminals) is copied to a
    /// temporary file first. Without `format` the first byte that is not blank decides: `{` is JSONL.
    pub fn open(path: &Path, format: Option<InputFormat>, plain: PlainText) -> Result<Self> {
        let (file, path) = if path == Path::new("-") {
            (stage(&mut std::io::stdin().lock(), Path::new("standard input"))?, PathBuf::from("<stdin>"))
        } else {
            let mut file = File::open(path).map_err(|e| Error::io(path, "open", &e))?;
            let metadata = file.metadata().map_err(|e| Error::io(path, "look at", &e))?;
            if metadata.is_dir() {
                return Err(Error::new(
                    Class::NoInput,
                    "Directory",
                    format!("{}: this is a directory; name a file", path.display()),
                ));
            }
            if !metadata.is_file() {
                file = stage(&mut file, path)?;
            }
            (file, path.to_owned())
        };
        let mut input = Self { file, path, format: InputFormat::Jsonl, plain };
        input.format = match format {
            Some(format) => format,
            None => input.guess_format()?,
        };
        Ok(input)
    }

    /// What the lines are.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// The open file, to compare it with an output.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Checks every line and every id, and says how many requests there are. One error names the first bad
    /// lines, each with line and column.
    pub fn check<L: JobLine>(&self) -> Result<usize> {
        let mut lines = self.lines()?;
        let mut ids = Ids::default();
        let mut flaws = Vec::new();
        let (mut n_requests, mut n_flaws) = (0, 0);
        while let Some(line) = lines.next_line()? {
            n_requests += 1;
            let checked = self.read::<L>(line.text).and_then(|request| ids.assign(&request, line.number));
            if let Err(flaw) = checked {
                n_flaws += 1;
                if flaws.len() < TOLD_FLAWS {
                    flaws.push(self.tell(line.number, line.text, &flaw));
                }
            }
        }
        match n_flaws {
            0 => Ok(n_requests),
            1 => Err(Error::data("Line", format!("{}; nothing was written", flaws[0]))),
            _ => {
                let more = if n_flaws > flaws.len() { "\n  …" } else { "" };
                let message = format!(
                    "{}: {n_flaws} of {n_requests} lines are bad; nothing was written\n  {}{more}",
                    self.path.display(),
                    flaws.join("\n  ")
                );
                Err(Error::data("Line", message))
            }
        }
    }

    /// Reads the requests; for an input that was checked.
    pub fn requests<L: JobLine>(&self) -> Result<Requests<'_, L>> {
        Ok(Requests { input: self, lines: self.lines()?, ids: Ids::default(), of: std::marker::PhantomData })
    }

    fn lines(&self) -> Result<Lines<BufReader<File>>> {
        let mut file = self.file.try_clone().map_err(|e| Error::io(&self.path, "read", &e))?;
        file.rewind().map_err(|e| Error::io(&self.path, "read", &e))?;
        Ok(Lines::new(BufReader::with_capacity(1 << 16, file), &self.path))
    }

    fn guess_format(&self) -> Result<InputFormat> {
        let lines = self.lines()?.next_line()?.map(|line| line.text.trim_ascii_start().starts_with('{'));
        Ok(if lines == Some(false) { InputFormat::Text } else { InputFormat::Jsonl })
    }

    fn read<L: JobLine>(&self, text: &str) -> Result<L, Flaw> {
        match self.format {
            InputFormat::Jsonl => L::from_json(text),
            InputFormat::Text => Ok(L::from_plain(text, self.plain)),
        }
    }

    fn tell(&self, number: usize, text: &str, flaw: &Flaw) -> String {
        format!("{}:{number}:{}: {}", self.path.display(), flaw.column(text), flaw.message)
    }
}

/// The requests of an input, with their ids.
pub struct Requests<'a, L> {
    input: &'a JobInput,
    lines: Lines<BufReader<File>>,
    ids: Ids,
    of: std::marker::PhantomData<L>,
}

impl<L: JobLine> Iterator for Requests<'_, L> {
    type Item = Result<(String, L)>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.lines.next_line() {
            Ok(line) => line?,
            Err(error) => return Some(Err(error)),
        };
        let request = self.input.read::<L>(line.text).and_then(|request| {
            let id = self.ids.assign(&request, line.number)?;
            Ok((id, request))
        });
        Some(request.map_err(|flaw| {
            let place = self.input.tell(line.number, line.text, &flaw);
            Error::data("SourceChanged", format!("{place}; the file was changed while it was read"))
        }))
    }
}

/// The ids seen so far, by hash: 32 bytes a request whatever the ids are.
#[derive(Default)]
struct Ids {
    /// Hash of an id -> its line.
    lines: HashMap<[u8; 16], u32>,
    /// Hash of a content -> how often it came without an id.
    occurrences: HashMap<[u8; 16], u32>,
}

impl Ids {
    /// The request's own id, or its content hash and occurrence number.
    fn assign<L: JobLine>(&mut self, request: &L, line: usize) -> Result<String, Flaw> {
        let id = match request.id() {
            Some(id) => id.to_owned(),
            None => {
                let hash = request.content_hash();
                let occurrence = self.occurrences.entry(key(&hash)).or_insert(0);
                *occurrence += 1;
                format!("{hash}-{occurrence}")
            }
        };
        match self.lines.insert(key(&id), u32::try_from(line).unwrap_or(u32::MAX)) {
            None => Ok(id),
            Some(first) => {
                let id: String = id.chars().take(80).collect();
                Err(Flaw::new("DuplicateId", 0, format!("the id {id:?} stands on line {first} already")))
            }
        }
    }
}

fn key(text: &str) -> [u8; 16] {
    Sha256::digest(text.as_bytes())[..16].try_into().expect("a digest has 32 bytes")
}

/// Copies `source` to a nameless temporary file; stops at a line that no job would take, so that an endless
/// source without line ends cannot fill the disk.
fn stage(source: &mut dyn Read, path: &Path) -> Result<File> {
    let failed = |doing: &str, e: std::io::Error| {
        Error::new(Class::Io, "Os", format!("{}: cannot {doing}: {e}", path.display()))
    };
    let copying = "copy to a temporary file (TMPDIR sets where)";
    let mut file = tempfile::tempfile().map_err(|e| failed(copying, e))?;
    let mut buffer = vec![0; 1 << 16];
    let mut line_bytes = 0;
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("read", error)),
        };
        line_bytes = match buffer[..n].iter().rposition(|&b| b == b'\n') {
            Some(end) => n - end,
            None => line_bytes + n,
        };
        if line_bytes > LINE_BYTES {
            let message = format!("{}: a line has more than {LINE_BYTES} bytes", path.display());
            return Err(Error::data("LineTooLong", message));
        }
        file.write_all(&buffer[..n]).map_err(|e| failed(copying, e))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> JobInput {
        let path = PathBuf::from("in.jsonl");
        let file = stage(&mut text.as_bytes(), &path).unwrap();
        let mut input = JobInput { file, path, format: InputFormat::Jsonl, plain: PlainText::Question };
        input.format = input.guess_format().unwrap();
        input
    }

    fn ids(text: &str) -> Vec<String> {
        input(text).requests::<JobRequest>().unwrap().map(|r| r.unwrap().0).collect()
    }

    #[test]
    fn ids_do_not_depend_on_the_place() {
        let (a, b) = (r#"{"prompt": "a"}"#, r#"{"prompt":  "b"}"#);
        let [first, second, third] = &ids(&format!("{a}\n{b}\n{a}\n"))[..] else { panic!("not three") };
        assert!(first.ends_with("-1") && third.ends_with("-2") && first[..16] == third[..16]);
        assert_eq!(ids(&format!("\n{b}\n{a}")), [second.clone(), first.clone()]);
    }

    #[test]
    fn every_bad_line_is_told() {
        let text = "{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\", \"top_p\": 2}\n{\"prompt\": }\n";
        let error = input(text).check::<JobRequest>().unwrap_err();
        assert_eq!(error.class, Class::Data);
        for part in
            ["2 of 3 lines", "nothing was written", "in.jsonl:3:26: top_p is 2", "in.jsonl:4:12: not valid"]
        {
            assert!(error.message.contains(part), "{part}: {}", error.message);
        }
    }

    #[test]
    fn an_id_that_comes_twice_names_both_lines() {
        let text = "{\"id\": \"x\", \"prompt\": \"a\"}\n{\"id\": \"x\", \"prompt\": \"b\"}\n";
        let error = input(text).check::<JobRequest>().unwrap_err();
        assert!(
            error.message.starts_with("in.jsonl:2:1: the id \"x\" stands on line 1"),
            "{}",
            error.message
        );
    }

    #[test]
    fn the_first_byte_decides_the_format() {
        assert_eq!(input("\n  {\"prompt\": \"a\"}").format, InputFormat::Jsonl);
        assert_eq!(input("\nWhat is 2+2?\n{").format, InputFormat::Text);
        assert_eq!(input("").check::<JobRequest>(), Ok(0));
    }

    #[test]
    fn an_endless_line_does_not_fill_the_disk() {
        let error = stage(&mut std::io::repeat(b'x'), Path::new("endless")).unwrap_err();
        assert_eq!(error.code, "LineTooLong");
    }
}
