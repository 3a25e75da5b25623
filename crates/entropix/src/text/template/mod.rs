//! Chat templates: from messages to the text a model was trained on.
//!
//! Templates are programs that come with a model. They run in minijinja, set up as transformers sets up Jinja
//! (blocks trimmed, Python's methods of strings and maps, `tojson`, `raise_exception`, `strftime_now` with a date
//! given from outside, `{% generation %}` ignored), without files, environment or clock.
//!
//! **What a template cannot do.** Open anything; run more than [`limits::TEMPLATE_FUEL`] instructions; put out
//! more than [`limits::TEMPLATE_OUTPUT_BYTES`]; make a string or list larger than
//! [`limits::TEMPLATE_VALUE_SIZE`] by a filter or method, or go through more than [`limits::TEMPLATE_WORK`] by
//! them all; overrun the stack by macros or by nested lists. Each of these is an error of class `Data` and code
//! `TemplateLimit` that names the template's line.
//!
//! **What cannot be bounded here**, because minijinja has no place to check it and an allocation that fails cannot be
//! caught: strings doubled with `~` or `+` or in `{% set %}` blocks until memory is full, lists doubled with `+` and
//! then printed, a namespace put into itself and then printed. Nor is the parser bounded: it recurses along chains of
//! operators, takes time quadratic in them, and keeps every constant it folds. So templates that are not
//! [known](ChatTemplate::is_known) are checked and rendered in a [`Sandbox`]: a process with limits on memory and time. A
//! caller that has no such program does it in its own process, and a hostile template can end it.
//!
//! **User text.** What a message says is never a control token, whatever it spells and whatever the template
//! does to it; `guard` says how. [`Rendered`] carries the marks to [`Tokenizer::encode_rendered`].
//!
//! [`Tokenizer::encode_rendered`]: super::Tokenizer::encode_rendered

mod date;
mod guard;
mod known;
mod message;
mod render;
mod rendered;
mod sandbox;
mod source;
mod tojson;
mod work;

use super::limits;

pub use date::Date;
pub use message::{ChatOptions, Content, Message, Part};
pub use render::VARIABLES;
pub use rendered::Rendered;
pub use sandbox::{Sandbox, serve};
pub use source::ChatTemplate;
