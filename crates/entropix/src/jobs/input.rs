//! A job's input: opened once and read one request at a time, as often as need be, so that memory does not grow
//! with the file but for some bytes a request.

use super::compressed::Packing;
use super::ids::{self, Ids};
use super::json::{Flaw, Value};
use super::limits::LINE_BYTES;
use super::lines::{Line, Lines};
use super::request::{JobRequest, PlainText};
use super::whole::was_closed;
use entropix_model::{Class, Error, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Read, Seek, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// What a job's input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// A JSON object a line.
    Jsonl,
    /// A prompt a line.
    Text,
}

/// What becomes of a line that is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLine {
    /// The job ends with an error.
    Fail,
    /// The line gets a line in the output that says what is wrong with it.
    Record,
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
    /// The largest token it names by its number.
    fn largest_token(&self) -> Option<u32> {
        None
    }
    /// Refuses a JSON line that names a token which is not below `n_tokens`.
    fn check_tokens(_line: &str, _n_tokens: u32) -> Result<(), Flaw> {
        Ok(())
    }
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

    fn largest_token(&self) -> Option<u32> {
        JobRequest::largest_token(self)
    }

    fn check_tokens(line: &str, n_tokens: u32) -> Result<(), Flaw> {
        JobRequest::check_tokens(line, n_tokens)
    }
}

/// How the place of a fault begins, in front of the numbers of its line and column.
const LINE: &str = "line ";

/// A line of an input, with what it is known by.
#[derive(Debug, Clone)]
pub struct Item<L> {
    /// Its id, or one made of its content.
    pub id: String,
    /// 16 hexadecimal digits over its id and all it asks for.
    pub hash: String,
    /// What it asks for, or what is wrong with it and where.
    pub request: Result<L>,
}

/// How an input is to be read.
#[derive(Debug, Clone)]
pub struct InputOptions {
    /// What its lines are; without it the first byte that is not blank decides: `{` is JSONL.
    pub format: Option<InputFormat>,
    /// What plain lines are.
    pub plain: PlainText,
    /// The program, and its arguments, that decodes Parquet for it and does nothing but call [`super::parquet::serve`]
    /// under limits; without it the calling process decodes, as right for files of its own.
    pub parquet_command: Option<Vec<OsString>>,
}

impl InputOptions {
    /// The format by the look of the file, Parquet decoded by this process.
    pub fn new(plain: PlainText) -> Self {
        Self { format: None, plain, parquet_command: None }
    }
}

/// An open input.
pub struct JobInput {
    file: File,
    path: PathBuf,
    packing: Packing,
    format: InputFormat,
    plain: PlainText,
    parquet_command: Option<Vec<OsString>>,
}

impl JobInput {
    /// Opens `path`, or standard input for `-`. What cannot be read twice (pipes, terminals) is copied to a
    /// temporary file first; `.gz` and `.zst` are unpacked while they are read, the rows of `.parquet` are JSONL.
    ///
    /// # Errors
    /// `NoInput` for what is not there or no file, `Data` and `Io` for what cannot be read, `Usage` for Parquet that is
    /// to be text, `Unsupported` for Parquet in a program built without.
    pub fn open(path: &Path, options: InputOptions) -> Result<Self> {
        let InputOptions { format, plain, parquet_command } = options;
        let packing = Packing::of(path);
        let (file, path) = if path == Path::new("-") {
            let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
            if stdin.is_ok_and(|fd| was_closed(&File::from(fd))) {
                let message = "standard input: it is closed; give it something to read, or name a file";
                return Err(Error::new(Class::NoInput, "Closed", message));
            }
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
        let mut input = Self { file, path, packing, format: InputFormat::Jsonl, plain, parquet_command };
        input.format = match format {
            Some(InputFormat::Text) if packing == Packing::Parquet => {
                let message = format!(
                    "{}: rows of Parquet are no plain text; leave --input-format out, and name the column prompt",
                    input.path.display()
                );
                return Err(Error::new(Class::Usage, "Parquet", message));
            }
            Some(format) => format,
            None => input.guess_format()?,
        };
        Ok(input)
    }

    /// What the lines are.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// What plain lines are.
    pub fn plain(&self) -> PlainText {
        self.plain
    }

    /// The open file, to compare it with an output.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its path, `<stdin>` for standard input.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with a line of it, with the file it is in.
    pub(super) fn named(&self, error: &Error) -> String {
        let path = self.path.display();
        match error.message.strip_prefix(LINE) {
            Some(place) => format!("{path}:{place}"),
            None => format!("{path}: {}", error.message),
        }
    }

    /// Its items, from the first line on.
    ///
    /// # Errors
    /// When the file cannot be read from its beginning.
    pub fn items<L: JobLine>(&self, bad_line: BadLine) -> Result<Items<'_, L>> {
        Ok(Items { reader: self.reader(self.text()?), bad_line })
    }

    /// What it holds, unpacked.
    pub(super) fn text(&self) -> Result<Box<dyn BufRead>> {
        if self.packing == Packing::Parquet {
            return super::parquet::rows(&self.file, &self.path, self.parquet_command.as_deref());
        }
        let rewound = self.file.try_clone().and_then(|mut file| file.rewind().map(|()| file));
        Ok(self.packing.reader(rewound.map_err(|e| Error::io(&self.path, "read", &e))?))
    }

    /// Reads the items out of `text`.
    pub(super) fn reader<R: BufRead, L: JobLine>(&self, text: R) -> ItemReader<'_, R, L> {
        let lines = Lines::new(text, &self.path);
        ItemReader { input: self, lines, ids: Ids::default(), n_tokens: None, of: PhantomData }
    }

    fn guess_format(&self) -> Result<InputFormat> {
        let mut lines = Lines::new(self.text()?, &self.path);
        Ok(match lines.next_line()? {
            Some(line) if !line.bytes.trim_ascii_start().starts_with(b"{") => InputFormat::Text,
            _ => InputFormat::Jsonl,
        })
    }

    fn read<L: JobLine>(&self, text: &str) -> Result<L, Flaw> {
        match self.format {
            InputFormat::Jsonl => L::from_json(text),
            InputFormat::Text => Ok(L::from_plain(text, self.plain)),
        }
    }
}

/// Reads items, good and bad.
pub(super) struct ItemReader<'a, R, L> {
    input: &'a JobInput,
    lines: Lines<R>,
    ids: Ids,
    n_tokens: Option<u32>,
    of: PhantomData<L>,
}

impl<R: BufRead, L: JobLine> ItemReader<'_, R, L> {
    /// The same, of a vocabulary of so many tokens; none for one that is not known.
    pub(super) fn within(self, n_tokens: Option<u32>) -> Self {
        Self { n_tokens, ..self }
    }

    /// The next line, whatever is wrong with it.
    pub(super) fn next_item(&mut self) -> Result<Option<Item<L>>> {
        let Some(Line { number, bytes, text }) = self.lines.next_line()? else { return Ok(None) };
        let (input, ids, n_tokens) = (self.input, &mut self.ids, self.n_tokens);
        let read = text.and_then(|text| {
            let request: L = input.read(text)?;
            if let Some(n_tokens) = n_tokens
                && input.format == InputFormat::Jsonl
            {
                L::check_tokens(text, n_tokens)?;
            }
            let content = request.content_hash();
            let id = ids.assign(request.id(), &content, number).map_err(|flaw| flaw.at(id_offset(text)))?;
            Ok((id, content, request))
        });
        Ok(Some(match read {
            Ok((id, content, request)) => {
                Item { hash: ids::identity(&id, &content), id, request: Ok(request) }
            }
            Err(flaw) => {
                let content = ids::short_hash(bytes);
                let id = ids.name(&format!("bad-{content}"), number);
                let place = match input.packing {
                    Packing::Parquet => format!("row {number}"),
                    _ => format!("{LINE}{number}:{}", flaw.column(bytes)),
                };
                // Its row is the same wherever the input is, and whatever it is called.
                let error = Error::data(flaw.code, format!("{place}: {}", flaw.message));
                Item { hash: ids::identity(&id, &content), id, request: Err(error) }
            }
        }))
    }

    /// What the lines were read from.
    pub(super) fn into_text(self) -> R {
        self.lines.into_reader()
    }
}

/// The items of an input. With [`BadLine::Fail`] every one of them has a request.
pub struct Items<'a, L> {
    reader: ItemReader<'a, Box<dyn BufRead>, L>,
    bad_line: BadLine,
}

impl<L: JobLine> Iterator for Items<'_, L> {
    type Item = Result<Item<L>>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.reader.next_item().transpose()?;
        Some(item.and_then(|item| match (self.bad_line, &item.request) {
            (BadLine::Fail, Err(error)) => {
                Err(Error { message: self.reader.input.named(error), ..error.clone() })
            }
            _ => Ok(item),
        }))
    }
}

/// Where the id of a line stands that has one.
fn id_offset(line: &str) -> usize {
    let members = Value::parse(line).and_then(|value| value.members("the request")).unwrap_or_default();
    let id = members.iter().find(|member| ["id", "custom_id"].contains(&member.key.as_str()));
    id.map_or(0, |member| member.offset)
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

/// An input that holds `text`.
#[cfg(test)]
pub(super) fn of_text(text: &str) -> JobInput {
    let path = PathBuf::from("in.jsonl");
    let file = stage(&mut text.as_bytes(), &path).unwrap();
    let (packing, format, plain) = (Packing::Plain, InputFormat::Jsonl, PlainText::Question);
    let mut input = JobInput { file, path, packing, format, plain, parquet_command: None };
    input.format = input.guess_format().unwrap();
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str, bad_line: BadLine) -> Vec<Result<Item<JobRequest>>> {
        of_text(text).items(bad_line).unwrap().collect()
    }

    fn ids(text: &str) -> Vec<String> {
        items(text, BadLine::Record).into_iter().map(|item| item.unwrap().id).collect()
    }

    #[test]
    fn ids_do_not_depend_on_the_place() {
        let (a, b) = (r#"{"prompt": "a"}"#, r#"{"prompt":  "b"}"#);
        let [first, second, third] = &ids(&format!("{a}\n{b}\n{a}\n"))[..] else { panic!("not three") };
        assert!(first.ends_with("-1") && third.ends_with("-2") && first[..16] == third[..16]);
        assert_eq!(ids(&format!("\n{b}\n{a}")), [second.clone(), first.clone()]);
        let bad = "{\"prompt\": }";
        let [first, second, third] = &ids(&format!("{bad}\n{a}\n{bad}\n"))[..] else { panic!("not three") };
        assert!(first.starts_with("bad-") && first.ends_with("-1") && third.ends_with("-2"));
        assert_eq!(ids(&format!("{a}\n{bad}\n")), [second.clone(), first.clone()]);
    }

    #[test]
    fn an_edited_request_has_another_hash() {
        let hash = |text: &str| items(text, BadLine::Fail)[0].clone().unwrap().hash;
        let first = hash(r#"{"id": "x", "prompt": "a"}"#);
        assert_eq!(first, hash(r#"{ "prompt":"a",  "id":"x" }"#), "only blanks and order differ");
        for edited in [
            r#"{"id": "x", "prompt": "b"}"#,
            r#"{"id": "y", "prompt": "a"}"#,
            r#"{"id": "x", "prompt": "a", "seed": 1}"#,
            r#"{"id": "x", "messages": [{"role": "user", "content": "a"}]}"#,
            r#"{"custom_id": "x", "url": "/v1/completions", "body": {"prompt": "a"}}"#,
        ] {
            assert_ne!(first, hash(edited), "{edited}");
        }
    }

    #[test]
    fn bad_lines_end_a_job_or_are_items() {
        let text = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"top_p\": 2}\n{\"prompt\": \"c\"}\n";
        let failing = items(text, BadLine::Fail);
        let error = failing[1].as_ref().unwrap_err();
        assert!(error.message.starts_with("in.jsonl:2:26: top_p is 2"), "{}", error.message);
        let recorded: Vec<_> = items(text, BadLine::Record).into_iter().map(Result::unwrap).collect();
        assert_eq!(recorded.len(), 3);
        assert_eq!(recorded[1].request.as_ref().unwrap_err().code, "Field");
        assert!(recorded[0].request.is_ok() && recorded[2].request.is_ok());
    }

    #[test]
    fn the_first_byte_decides_the_format() {
        assert_eq!(of_text("\n  {\"prompt\": \"a\"}").format, InputFormat::Jsonl);
        assert_eq!(of_text("\nWhat is 2+2?\n{").format, InputFormat::Text);
        assert_eq!(of_text("").format, InputFormat::Jsonl);
    }

    #[test]
    fn an_endless_line_does_not_fill_the_disk() {
        let error = stage(&mut std::io::repeat(b'x'), Path::new("endless")).unwrap_err();
        assert_eq!(error.code, "LineTooLong");
    }
}
