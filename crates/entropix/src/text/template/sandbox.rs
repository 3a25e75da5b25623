//! Rendering in another process: what a template does to memory and time, it does to that one. An allocation that fails
//! ends a Rust program and cannot be caught, so that no limit inside a process is complete.
//!
//! The process is a program that calls [`serve`] after it has put limits on itself. It gets a template, then one chat a
//! line, and answers with one rendering a line. It lives as long as it renders well; when it dies of a chat, that chat
//! has failed, and the next one gets a new process.

use super::limits::{TEMPLATE_CPU_SECONDS, TEMPLATE_PROCESS_BYTES};
use super::message::{ChatOptions, Message};
use super::rendered::Rendered;
use super::source::ChatTemplate;
use entropix_model::{Class, Error, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Renders a template in a process of its own.
pub struct Sandbox {
    command: Vec<OsString>,
    running: Mutex<Option<Process>>,
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
    Rendered(Rendered),
    Failed { blame: Blame, code: String, message: String },
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

/// The codes that a rendering fails with.
const CODES: [&str; 5] = ["Template", "TemplateLimit", "Field", "Content", "Os"];

impl Sandbox {
    /// Renders with the program and arguments of `command`, which must do nothing but call [`serve`] under limits.
    pub fn new(command: Vec<OsString>) -> Self {
        Self { command, running: Mutex::default() }
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
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match running.take().and_then(|process| process.for_template(template)) {
            Some(process) => process,
            None => self.start(template)?,
        };
        let chat = Chat { messages: messages.to_vec(), options: options.clone() };
        let Some(answer) = process.ask(&chat) else {
            // Dropping it kills what is left of it.
            let message = format!(
                "{}: rendering this chat takes more than {} MiB of memory or {TEMPLATE_CPU_SECONDS} s; another template \
                 can be given with --chat-template",
                template.origin(),
                TEMPLATE_PROCESS_BYTES >> 20
            );
            return Err(Error::data("TemplateLimit", message));
        };
        *running = Some(process);
        match answer {
            Answer::Rendered(rendered) => Ok(rendered),
            Answer::Failed { blame, code, message } => {
                let code = CODES.into_iter().find(|known| *known == code).unwrap_or(CODES[0]);
                Err(Error::new(blame.class(), code, message))
            }
        }
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
        Ok(process)
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
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).ok()?;
        serde_json::from_slice(&line).ok()
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

/// The other side: renders chats until there are no more. `before_each` is called before every one of them, to give it
/// its time.
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
    let template = ChatTemplate::new(source, origin);
    for line in lines {
        let chat: Chat = serde_json::from_slice(&line?)?;
        before_each()?;
        let rendered = template.as_ref().map_err(Clone::clone);
        let answer = match rendered.and_then(|template| template.render(&chat.messages, &chat.options)) {
            Ok(rendered) => Answer::Rendered(rendered),
            Err(Error { class, code, message }) => {
                Answer::Failed { blame: Blame::of(class), code: code.into(), message }
            }
        };
        let mut bytes = serde_json::to_vec(&answer)?;
        bytes.push(b'\n');
        output.write_all(&bytes)?;
        output.flush()?;
    }
    Ok(())
}
