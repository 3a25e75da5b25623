//! Running a template.

use super::guard::Guard;
use super::message::{ChatOptions, Message};
use super::rendered::Rendered;
use super::{limits, tojson::tojson, work};
use entropix_model::{Class, Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value as Template};
use regex::Regex;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::LazyLock;

/// The function that says which day it is.
pub(super) const DATE: &str = "strftime_now";

/// The variables a caller may set; those of the published templates. Nothing else gets through, so that no
/// request can pass for messages or tokens.
pub const VARIABLES: &[&str] = &[
    "builtin_tools",
    "custom_tools",
    "date_string",
    "documents",
    "enable_thinking",
    "keep_past_thinking",
    "model_identity",
    "preserve_thinking",
    "python_tools",
    "reasoning_effort",
    "system_message",
    "thinking",
    "thinking_budget",
    "tools",
    "tools_in_user_message",
    "xml_tools",
];

/// What `raise_exception` was called with.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Renders a chat. A pure function of its arguments; `origin` is what errors name.
pub(super) fn render(
    source: &str,
    origin: &str,
    messages: &[Message],
    options: &ChatOptions,
) -> Result<Rendered> {
    if let Some(name) = options.variables.keys().find(|name| !VARIABLES.contains(&name.as_str())) {
        return Err(Error::data(
            "Field",
            format!("chat_template_kwargs: {name:?} is not known; known are {}", VARIABLES.join(", ")),
        ));
    }
    let messages =
        messages.iter().enumerate().map(|(i, message)| message.to_value(i)).collect::<Result<Vec<_>>>()?;
    let told = Value::Object(options.variables.clone());
    let mut texts = Vec::new();
    messages.iter().chain([&told]).for_each(|value| collect_texts(value, &mut texts));
    let mut guard = Guard::new(source, &options.controls, texts.iter().copied())?;
    let mut context: Vec<(&str, Template)> = options
        .variables
        .iter()
        .map(|(name, value)| (name.as_str(), to_template(value, &mut guard)))
        .collect();
    let messages: Template =
        messages.iter().map(|message| to_template(message, &mut guard)).collect::<Vec<_>>().into();
    context.push(("messages", messages));
    context.push(("add_generation_prompt", options.add_generation_prompt.into()));
    for (key, token) in [("bos_token", &options.bos_token), ("eos_token", &options.eos_token)] {
        if let Some(token) = token {
            context.push((key, token.clone().into()));
        }
    }
    let context = Template::from_pairs(context);
    let environment = environment(options);
    let environment = &environment;
    let text = on_large_stack(origin, move || run(environment, source, origin, context))?;
    Ok(Rendered::new(text, guard.mark()))
}

/// Does `work` where there is room for recursion: expressions as long as a source allows are parsed, folded and dropped
/// by it, values nested as deep as the fuel allows printed and dropped.
fn on_large_stack<T: Send>(origin: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat-template".into())
            .stack_size(limits::TEMPLATE_STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Error::new(Class::Temp, "Os", format!("no thread for a chat template: {e}")))?
            .join()
            .unwrap_or_else(|_| {
                Err(Error::new(
                    Class::Internal,
                    "Template",
                    format!("{origin}: the template engine panicked"),
                ))
            })
    })
}

fn run(environment: &Environment<'_>, source: &str, origin: &str, context: Template) -> Result<String> {
    let source = without_generation_tags(source);
    let mut output = Capped::default();
    let result = environment
        .template_from_named_str("chat", &source)
        .and_then(|template| template.render_captured_to(context, &mut output).map(drop));
    if output.overflowed {
        return Err(Error::data(
            "TemplateLimit",
            format!("{origin}: the chat template puts out more than {} bytes", limits::TEMPLATE_OUTPUT_BYTES),
        ));
    }
    result.map_err(|error| failure(origin, &error))?;
    String::from_utf8(output.bytes)
        .map_err(|_| Error::new(Class::Internal, "Template", format!("{origin}: the output is no UTF-8")))
}

/// Checks that `source` is a template, by compiling it.
pub(super) fn check(source: &str, origin: &str) -> Result<()> {
    on_large_stack(origin, || {
        let mut environment = Environment::new();
        configure(&mut environment);
        environment
            .template_from_named_str("chat", &without_generation_tags(source))
            .map(drop)
            .map_err(|error| failure(origin, &error))
    })
}

fn configure(environment: &mut Environment<'_>) {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(limits::TEMPLATE_DEPTH);
    environment.set_fuel(Some(limits::TEMPLATE_FUEL));
    environment.set_debug(false);
    environment.remove_global("debug");
}

fn environment(options: &ChatOptions) -> Environment<'static> {
    let mut environment = Environment::new();
    configure(&mut environment);
    work::install(&mut environment);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: &str| -> Result<Template, minijinja::Error> {
        let message: String = message.chars().take(500).collect();
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
            .with_source(Raised(message)))
    });
    let date = options.date;
    environment.add_function(DATE, move |format: &str| {
        date.format(format).ok_or_else(|| {
            minijinja::Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now: {format:?} is not supported"),
            )
        })
    });
    environment
}

/// `{% generation %}` marks what a model said, for training; minijinja does not know it. An `if` that holds has
/// the same effect on blanks and text.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a good pattern"));
    TAG.replace_all(source, |found: &regex::Captures| {
        let body = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {body} {}%}}", &found[1], &found[3])
    })
}

/// An error of the engine as one of ours, with the line of the template.
fn failure(origin: &str, error: &minijinja::Error) -> Error {
    let place = match error.line() {
        Some(line) => format!("{origin}, line {line} of the chat template"),
        None => format!("{origin}, chat template"),
    };
    let raised = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
    if let Some(Raised(message)) = raised {
        return Error::data("Template", format!("{place}: it refuses this chat: {message}"));
    }
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("more than {} instructions", limits::TEMPLATE_FUEL),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    let code = if work::is_limit(error) { "TemplateLimit" } else { "Template" };
    Error::data(code, format!("{place}: {what}; another template can be given with --chat-template"))
}

fn collect_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(list) => list.iter().for_each(|item| collect_texts(item, texts)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            texts.push(key);
            collect_texts(item, texts);
        }),
        _ => {}
    }
}

/// `value` as a template takes it, its texts marked.
fn to_template(value: &Value, guard: &mut Guard) -> Template {
    match value {
        Value::Null => Template::from(()),
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into(),
            (_, Some(n)) => n.into(),
            _ => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => guard.protect(text).into(),
        Value::Array(list) => list.iter().map(|item| to_template(item, guard)).collect::<Vec<_>>().into(),
        Value::Object(map) => Template::from_pairs(
            map.iter().map(|(key, item)| (guard.protect(key), to_template(item, guard))).collect::<Vec<_>>(),
        ),
    }
}

/// Takes bytes up to a limit.
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > limits::TEMPLATE_OUTPUT_BYTES {
            self.overflowed = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
