//! Text: tokenizers, streaming, stop strings and chat templates. The only part of entropix that knows what
//! tokens stand for; the engine gets numbers, a table from [`token_classes`] and a [`StopWatcher`].

mod answer;
mod bpe;
mod classes;
mod components;
mod config;
mod gguf;
mod json;
pub mod limits;
mod patterns;
mod special;
mod spm;
mod stops;
mod stream;
mod template;
mod tokenizer;
mod vocabulary;

pub use answer::{answer_reader, find_answer};
pub(crate) use classes::of_text;
pub use classes::token_classes;
pub use special::Special;
pub use stops::Stops;
pub use stream::{StopWatcher, Stream};
pub use template::{
    ChatOptions, ChatTemplate, Content, Date, Message, Part, Rendered, Sandbox, VARIABLES,
    serve as serve_templates,
};
pub use tokenizer::Tokenizer;
pub use vocabulary::TokenKind;
