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
//! **What is not bounded yet**, because minijinja has no place to check it and an allocation that fails cannot be
//! caught: strings doubled with `~` or `+` or in `{% set %}` blocks until memory is full, lists doubled with `+`
//! and then printed, and a namespace put into itself and then printed (the stack overflows). A hostile template can
//! end the process this way; it can do nothing else. Rendering unknown templates in a child process with a limit
//! on memory is what will close this: `render` takes and gives plain data so that it can be moved there.
//!
//! **User text.** What a message says is never a control token, whatever it spells and whatever the template
//! does to it; `guard` says how. [`Rendered`] carries the marks to [`Tokenizer::encode_rendered`].
//!
//! [`Tokenizer::encode_rendered`]: super::Tokenizer::encode_rendered

mod date;
mod guard;
mod message;
mod render;
mod rendered;
mod source;
mod tojson;
mod work;

use super::limits;

pub use date::Date;
pub use message::{ChatOptions, Content, Message, Part};
pub use render::VARIABLES;
pub use rendered::Rendered;
pub use source::ChatTemplate;
