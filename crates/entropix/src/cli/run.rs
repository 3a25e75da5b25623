//! `run`: one answer streamed, or a chat.

use super::args::{OutputArgs, RunArgs, SignalsArg};
use super::explain::Explainer;
use super::interrupt::{self, INTERRUPTED};
use super::load::{self, Loaded, Lowers};
use crate::report::paint::{Mark, Paint};
use crate::report::progress::duration;
use crate::report::say::{say, sayln};
use crate::report::table::{Align, Table};
use crate::report::tally::{Tally, rate};
use anyhow::{Context, Result};
use entropix::Session;
use entropix::jobs::params::Params;
use entropix::jobs::{Choice, Form, JobRequest, Preparation, Prompt};
use entropix::text::limits::PROMPT_BYTES;
use entropix::text::{ChatTemplate, Message};
use entropix_engine::{DecisionKind, Event, Interrupts, Policy, Work};
use entropix_model::{Class, Error, TokenId};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const STDOUT: &str = "cannot write to standard output";

/// Answers.
pub(crate) fn run(args: &RunArgs, output: &OutputArgs) -> Result<ExitCode> {
    let flags = load::flags(&args.sampling)?;
    let policy_file = load::policy_file(&args.sampling)?;
    let prompt = prompt(args)?;
    let Loaded { session, sources } =
        load::session(&args.model, Some(&args.chat), 1, Lowers::RUN, flags, output)?;
    load::tell(&session, &policy_file, &sources, output);
    let policy = session.bind(&load::calibrated(&policy_file, &args.sampling, &session, output)?)?;
    let explain = args.explain.then(|| {
        let paint = Paint::choose(output.color(), &std::io::stdout());
        Explainer::new(paint, Arc::clone(&policy), Arc::clone(session.tokenizer()))
    });
    let mut talk = Talk {
        session,
        policy,
        explain,
        preparation: load::preparation(&args.chat),
        defaults: sources.defaults(),
        signals: args.signals,
        paint: match args.signals {
            SignalsArg::Off => Paint::Plain,
            _ => Paint::choose(output.color(), &std::io::stdout()),
        },
        say: Paint::choose(output.color(), &std::io::stderr()),
        quiet: output.quiet,
        interrupts: interrupt::listen()?,
        n_requests: 0,
    };
    match prompt {
        Some(text) => talk.answer_once(text, args.chat.no_chat_template),
        None => talk.chat(args.chat.no_chat_template),
    }
}

/// The prompt of the flags, of a file, or of standard input when that is no terminal; none asks for a chat.
fn prompt(args: &RunArgs) -> Result<Option<String>> {
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) if text != "-" => text.clone(),
        (None, Some(path)) if path != Path::new("-") => {
            let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", &e))?;
            read(file, path)?
        }
        (None, None) if std::io::stdin().is_terminal() => return Ok(None),
        _ => read(std::io::stdin().lock(), Path::new("<stdin>"))?,
    };
    if text.is_empty() && !args.chat.no_chat_template {
        let message = "the prompt is empty; give -p TEXT, or pipe a text in";
        return Err(Error::new(Class::Usage, "Prompt", message).into());
    }
    Ok(Some(text))
}

fn read(source: impl Read, path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    source.take(PROMPT_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, "read", &e))?;
    if bytes.len() as u64 > PROMPT_BYTES {
        let message = format!("{}: the prompt has more than {PROMPT_BYTES} bytes", path.display());
        return Err(Error::data("TooLong", message).into());
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::data("NotUtf8", format!("{}: byte {at} is not UTF-8; convert the file", path.display()))
    })?;
    // What an editor or echo puts at the end was hardly meant.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// A model that talks with a person.
struct Talk {
    session: Session,
    policy: Arc<dyn Policy>,
    preparation: Preparation,
    defaults: Params,
    /// With --explain.
    explain: Option<Explainer>,
    signals: SignalsArg,
    /// Of the answer.
    paint: Paint,
    /// Of everything else.
    say: Paint,
    quiet: bool,
    interrupts: Interrupts,
    n_requests: u64,
}

struct Answered {
    choice: Choice,
    interrupted: bool,
}

impl Talk {
    fn answer_once(&mut self, text: String, no_chat_template: bool) -> Result<ExitCode> {
        let chat = !no_chat_template && self.session.has_chat_template();
        if !chat && !no_chat_template && !self.quiet {
            sayln!(
                "note: the model has no chat template (--chat-template gives it one); it goes on from the prompt as it is"
            );
        }
        let prompt = match chat {
            true => Prompt::Messages(vec![Message::new("user", text)]),
            false => Prompt::Text(text),
        };
        let answered = self.answer(prompt)?;
        Ok(if answered.interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
    }

    fn chat(&mut self, no_chat_template: bool) -> Result<ExitCode> {
        if no_chat_template || !self.session.has_chat_template() {
            return Err(ChatTemplate::missing(&self.session.model().path).into());
        }
        if !self.quiet {
            let (name, policy) = (&self.session.model().name, self.policy.name());
            sayln!("{name}, policy {policy}. /reset forgets, /quit or Ctrl-D ends, Ctrl-C stops an answer.");
            if self.paint == Paint::Ansi {
                sayln!("{}", self.say.legend());
            }
        }
        let mut turns: Vec<Message> = Vec::new();
        loop {
            say!("{}", self.say.bold("> "));
            let mut line = String::new();
            let n = self.interrupts.while_idle(|| std::io::stdin().read_line(&mut line));
            if n.map_err(|e| Error::io(Path::new("<stdin>"), "read", &e))? == 0 {
                sayln!();
                return Ok(ExitCode::SUCCESS);
            }
            match line.trim() {
                "" => continue,
                "/quit" | "/exit" => return Ok(ExitCode::SUCCESS),
                "/reset" => {
                    turns.clear();
                    sayln!("{}", self.say.dim("forgotten"));
                    continue;
                }
                command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                    sayln!("{}", self.say.dim("known are /reset and /quit"));
                    continue;
                }
                text => turns.push(Message::new("user", text)),
            }
            match self.answer(Prompt::Messages(turns.clone())) {
                Ok(answered) => {
                    turns.push(Message::new("assistant", answered.choice.text));
                }
                Err(error) if error.downcast_ref::<Error>().is_some_and(|e| e.class == Class::Data) => {
                    sayln!("error: {error:#}");
                    turns.pop();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Streams one answer to standard output.
    fn answer(&mut self, prompt: Prompt) -> Result<Answered> {
        let request = JobRequest { id: None, form: Form::Short, prompt, params: Params::default() };
        // The key of the first request is the same in every run, so the same seed gives the same answer.
        let id = format!("run-{}", self.n_requests);
        self.n_requests += 1;
        let mut prepared =
            self.preparation.prepare(&self.session, &id, request, &self.defaults, &self.policy)?;
        if let (Work::Generate(generate), Some(_)) = (&mut prepared.request.work, &self.explain) {
            generate.parameters.raw_events = true;
        }
        let mut answers = prepared.answers;
        let started = Instant::now();
        let before = self.session.engine().stats();
        let request = self.session.engine().submit(prepared.request)?;
        let (mut first, mut interrupted, mut done) = (None, false, false);
        let mut events = Vec::new();
        let mut out = std::io::stdout().lock();
        if let Some(explain) = &mut self.explain {
            explain.begin();
            out.write_all(explain.legend().as_bytes()).context(STDOUT)?;
        }
        let mut is_begun = false;
        while !done {
            if let Err(error) = self.session.engine().step(&mut events) {
                return Err(broken_off(&mut out, is_begun, error));
            }
            // A policy that may take tokens back lets none be said before it is sure: what counts is the decision.
            if first.is_none() && self.session.engine().stats().decisions != before.decisions {
                first = Some(started.elapsed());
            }
            for event in events.drain(..) {
                match event {
                    Event::Token(token) => {
                        let (entropy, mark) = (token.signals.entropy, mark(token.decision));
                        let text = answers.push(token);
                        if self.explain.is_none() {
                            is_begun |= !text.is_empty();
                            out.write_all(self.paint.tint(&text, entropy, mark).as_bytes())
                                .context(STDOUT)?;
                        }
                    }
                    Event::Done(end) => {
                        let shown = match self.explain {
                            None => answers.choices[0].text.len(),
                            Some(_) => {
                                out.write_all(b"\n").context(STDOUT)?;
                                0
                            }
                        };
                        answers.finish(end);
                        out.write_all(&answers.choices[0].text.as_bytes()[shown..]).context(STDOUT)?;
                        done = true;
                    }
                    Event::Raw(raw) => {
                        if let Some(explain) = &mut self.explain {
                            out.write_all(explain.line(&raw).as_bytes()).context(STDOUT)?;
                        }
                    }
                    Event::Failed { error, .. } => return Err(broken_off(&mut out, is_begun, error)),
                    _ => {}
                }
            }
            out.flush().context(STDOUT)?;
            if self.interrupts.count() > 0 && !done {
                self.session.engine().cancel(request);
                (interrupted, done) = (true, true);
            }
        }
        let time = started.elapsed();
        let choice = answers.choices.swap_remove(0);
        if !choice.text.ends_with('\n') {
            out.write_all(b"\n").context(STDOUT)?;
        }
        out.flush().context(STDOUT)?;
        if self.signals == SignalsArg::Token {
            say!("{}", self.token_table(&choice));
        }
        if self.signals != SignalsArg::Off && !self.quiet {
            let mut footer = footer(&choice, first.unwrap_or(time), time, interrupted);
            if self.session.engine().stats().over_budget > before.over_budget {
                footer += " [budget spent: the policy went on without extra tokens]";
            }
            sayln!("{}", self.say.dim(&footer));
        }
        Ok(Answered { choice, interrupted })
    }

    fn token_table(&self, choice: &Choice) -> String {
        let mut columns = vec![
            ("token", Align::Left),
            ("H", Align::Right),
            ("V", Align::Right),
            ("ln p", Align::Right),
            ("region", Align::Left),
            ("decision", Align::Left),
        ];
        let with_top = choice.top.iter().any(|top| !top.is_empty());
        if with_top {
            columns.push(("likeliest", Align::Left));
        }
        let tokenizer = self.session.tokenizer();
        let text = |token: TokenId| format!("{:?}", tokenizer.decode(&[token]));
        let mut table = Table::new(&columns);
        for i in 0..choice.tokens.len() {
            let region = usize::from(choice.region[i].0);
            let mut row = vec![
                text(choice.tokens[i]),
                format!("{:.3}", choice.entropy[i]),
                format!("{:.3}", choice.varentropy[i]),
                format!("{:.3}", choice.logprob[i]),
                self.policy.regions().get(region).map_or(String::new(), |name| name.to_string()),
                choice.decision[i].name().to_owned(),
            ];
            if with_top {
                let top = choice.top[i].iter().map(|c| format!("{} {:.2}", text(c.token), c.logprob));
                row.push(top.collect::<Vec<_>>().join(", "));
            }
            table.push(row);
        }
        table.markdown()
    }
}

/// What ended an answer early, which is told on a line of its own.
fn broken_off(out: &mut impl Write, is_begun: bool, error: Error) -> anyhow::Error {
    if is_begun && let Err(unheard) = out.write_all(b"\n").and_then(|()| out.flush()) {
        return anyhow::Error::new(unheard).context(STDOUT);
    }
    error.into()
}

fn mark(decision: DecisionKind) -> Mark {
    match decision {
        DecisionKind::Argmax | DecisionKind::Draw | DecisionKind::BestOf => Mark::Ordinary,
        _ => Mark::Unusual,
    }
}

fn footer(choice: &Choice, first: Duration, time: Duration, interrupted: bool) -> String {
    let mut tally = Tally::default();
    tally.add(choice);
    let n = choice.tokens.len();
    let usage = &choice.usage;
    let mut parts = Vec::new();
    if !interrupted && n > 0 {
        let computed = usage.prompt_tokens - usage.shared_tokens;
        parts.push(format!("prompt {} tok, {} tok/s", usage.prompt_tokens, rate(computed, first)));
    }
    // The first token comes with the prompt.
    let later = rate(n.saturating_sub(1), time.saturating_sub(first));
    parts.push(format!("answer {n} tok in {}, {later} tok/s", duration(time)));
    if n > 0 {
        parts.push(format!(
            "mean H {:.2} nats, V {:.2} nats²",
            tally.mean_entropy(),
            tally.mean_varentropy()
        ));
        parts.push(tally.decisions());
    }
    if usage.discarded_tokens > 0 {
        parts.push(format!("{} tokens thrown away", usage.discarded_tokens));
    }
    parts.push(match (&choice.reason, choice.finish) {
        _ if interrupted => "interrupted".into(),
        (Some(reason), Some(finish)) => format!("{}: {reason}", finish.name()),
        (_, finish) => finish.map_or("error", |finish| finish.name()).into(),
    });
    format!("[{}]", parts.join(" · "))
}
