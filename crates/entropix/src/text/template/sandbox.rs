//! Parsing and rendering in another process: what a template does to memory, stack and time, it does to that one. An
//! allocation that fails ends a Rust program and cannot be caught, nor can a stack that is full, so that no limit inside a
//! process is complete.
//!
//! The process is a program that calls [`serve`] after it has put limits on itself. It gets a template and says whether it
//! is one, then it gets one chat a line, and answers with one rendering a line. It lives as long as it renders well; when
//! it dies of a chat, that chat has failed, and the next one gets a new process. A template that it refuses or dies of
//! before any chat gets no second process.

use super::limits::{TEMPLATE_CPU_SECONDS, TEMPLATE_PROCESS_BYTES, TEMPLATE_STACK_BYTES};
use super::message::{ChatOptions, Message};
use super::rendered::Rendered;
use super::source::ChatTemplate;
use entropix_model::{Class, Error, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Renders a template in a process of its own.
pub struct Sandbox {
    command: Vec<OsString>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Process>,
    /// The hash of the last template that was no good, and why: it would be no better the next time.
    refused: Option<(String, Error)>,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The template it was given.
    source: String,
}

#[derive(Serialize, Deserialize)]
struct Template {
    source: String,
    origin: String,
}

#[derive(Serialize, Deserialize)]
struct Chat {
    messages: Vec<Message>,
    options: ChatOptions,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// The template is one.
    Checked,
    Rendered(Rendered),
    Failed {
        blame: Blame,
        code: String,
        message: String,
    },
    /// A whole line that is none of these, from a process that may well live on.
    #[serde(skip)]
    Nonsense,
}

/// Who or what a failure is to be blamed on.
#[derive(Serialize, Deserialize, Clone, Copy)]
enum Blame {
    /// The template or the chat.
    Data,
    /// A part of the chat that this program has no use for.
    Unsupported,
    /// The machine, for now.
    Machine,
}

impl Blame {
    fn of(class: Class) -> Self {
        match class {
            Class::Unsupported => Self::Unsupported,
            Class::Temp | Class::Io => Self::Machine,
            _ => Self::Data,
        }
    }

    fn class(self) -> Class {
        match self {
            Self::Data => Class::Data,
            Self::Unsupported => Class::Unsupported,
            Self::Machine => Class::Temp,
        }
    }
}

/// What a process that closed its end is given to end by itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// The codes that a rendering fails with.
const CODES: [&str; 5] = ["Template", "TemplateLimit", "Field", "Content", "Os"];

impl Sandbox {
    /// Renders with the program and arguments of `command`, which must do nothing but call [`serve`] under limits.
    pub fn new(command: Vec<OsString>) -> Self {
        Self { command, state: Mutex::default() }
    }

    /// The same as [`ChatTemplate::check`].
    ///
    /// # Errors
    /// Its errors; `Data`, code `TemplateLimit`, when the process dies of it; `Temp` when there can be none.
    pub fn check(&self, template: &ChatTemplate) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let process = self.process(&mut state, template)?;
        state.running = Some(process);
        Ok(())
    }

    /// The same as [`ChatTemplate::render`].
    ///
    /// # Errors
    /// Its errors; `Data`, code `TemplateLimit`, when the process dies of it; `Temp` when there can be none.
    pub fn render(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Rendered> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = self.process(&mut state, template)?;
        let chat = Chat { messages: messages.to_vec(), options: options.clone() };
        // Dropping a process kills what is left of it.
        let Some(answer) = process.ask(&chat) else {
            return Err(process.died(template, "rendering this chat"));
        };
        // One that answers something else is out of step: its next answer would not be to the next chat.
        if matches!(answer, Answer::Rendered(_) | Answer::Failed { .. }) {
            state.running = Some(process);
        }
        match answer {
            Answer::Rendered(rendered) => Ok(rendered),
            other => Err(other.into_error(template)),
        }
    }

    /// A process that took `template`: the one that runs, or a new one.
    fn process(&self, state: &mut State, template: &ChatTemplate) -> Result<Process> {
        if let Some(process) = state.running.take().and_then(|process| process.for_template(template)) {
            return Ok(process);
        }
        if let Some((sha256, error)) = &state.refused
            && sha256 == template.sha256()
        {
            return Err(error.clone());
        }
        let started = self.start(template);
        if let Err(error) = &started
            && error.class == Class::Data
        {
            state.refused = Some((template.sha256().to_owned(), error.clone()));
        }
        started
    }

    fn start(&self, template: &ChatTemplate) -> Result<Process> {
        let failed = |e: std::io::Error| {
            let message = format!("{}: no process for its chat template: {e}", template.origin());
            Error::new(Class::Temp, "Os", message)
        };
        let (program, arguments) = self.command.split_first().expect("a command names a program");
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            // An interrupt at the terminal is for us.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            unreachable!("both were asked for");
        };
        let source = template.source().to_owned();
        let mut process = Process { child, stdin, stdout: BufReader::new(stdout), source: source.clone() };
        let origin = template.origin().to_owned();
        process.send(&Template { source, origin }).map_err(failed)?;
        match process.answer() {
            Some(Answer::Checked) => Ok(process),
            Some(other) => Err(other.into_error(template)),
            None => Err(process.died(template, "reading the chat template")),
        }
    }
}

impl Answer {
    fn failed(error: &Error) -> Self {
        let Error { class, code, message } = error.clone();
        Self::Failed { blame: Blame::of(class), code: code.into(), message }
    }

    /// The error that it tells; another answer than the one that was due is an error too.
    fn into_error(self, template: &ChatTemplate) -> Error {
        match self {
            Self::Failed { blame, code, message } => {
                let code = CODES.into_iter().find(|known| *known == code).unwrap_or(CODES[0]);
                Error::new(blame.class(), code, message)
            }
            Self::Checked | Self::Rendered(_) | Self::Nonsense => {
                let message = format!(
                    "{}: the process for its chat template answers something else",
                    template.origin()
                );
                Error::new(Class::Internal, "Template", message)
            }
        }
    }
}

impl Process {
    /// Itself, when it lives and has this template.
    fn for_template(mut self, template: &ChatTemplate) -> Option<Self> {
        let lives = matches!(self.child.try_wait(), Ok(None));
        (lives && self.source == template.source()).then_some(self)
    }

    /// None when it dies of it.
    fn ask(&mut self, chat: &Chat) -> Option<Answer> {
        self.send(chat).ok()?;
        self.answer()
    }

    /// None when it is dead.
    fn answer(&mut self) -> Option<Answer> {
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).ok()?;
        let is_whole = line.ends_with(b"\n");
        serde_json::from_slice(&line).ok().or(is_whole.then_some(Answer::Nonsense))
    }

    /// What to say when it ended instead of answering.
    fn died(&mut self, template: &ChatTemplate, doing: &str) -> Error {
        let origin = template.origin();
        // Its limits end it by other signals: these are sent by somebody, or by a kernel that has no memory left.
        let sent = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].map(Signal::as_raw);
        let Some(status) = self.ended() else { return Answer::Nonsense.into_error(template) };
        let signal = status.signal();
        if let Some(signal) = signal.filter(|signal| sent.contains(signal)) {
            let message = format!(
                "{origin}: the process for its chat template was killed (signal {signal}) by somebody, or \
                                   for want of memory"
            );
            return Error::new(Class::Temp, "Os", message);
        }
        let message = format!(
            "{origin}: {doing} takes more than {} MiB of memory, {} MiB of stack or {TEMPLATE_CPU_SECONDS} s; another \
             template can be given with --chat-template",
            TEMPLATE_PROCESS_BYTES >> 20,
            TEMPLATE_STACK_BYTES >> 20,
        );
        Error::data("TemplateLimit", message)
    }

    /// How it ended; none when it only stopped talking, or cannot be asked.
    fn ended(&mut self) -> Option<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                other => return other.ok().flatten(),
            }
        }
    }

    fn send(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.stdin.write_all(&line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side: checks a template and renders chats until there are no more. `before_each` is called before each of
/// these, to give it its time.
///
/// # Errors
/// When the other side sends something else, or nothing can be written.
pub fn serve(
    input: impl BufRead,
    mut output: impl Write,
    before_each: &mut dyn FnMut() -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut lines = input.split(b'\n');
    let Some(first) = lines.next() else { return Ok(()) };
    let Template { source, origin } = serde_json::from_slice(&first?)?;
    let mut say = |answer: &Answer| {
        let mut bytes = serde_json::to_vec(answer)?;
        bytes.push(b'\n');
        output.write_all(&bytes)?;
        output.flush()
    };
    before_each()?;
    let template = match ChatTemplate::new(source, origin).and_then(|it| it.check().map(|()| it)) {
        Ok(template) => template,
        Err(error) => return say(&Answer::failed(&error)),
    };
    say(&Answer::Checked)?;
    for line in lines {
        let chat: Chat = serde_json::from_slice(&line?)?;
        before_each()?;
        say(&match template.render(&chat.messages, &chat.options) {
            Ok(rendered) => Answer::Rendered(rendered),
            Err(error) => Answer::failed(&error),
        })?;
    }
    Ok(())
}
