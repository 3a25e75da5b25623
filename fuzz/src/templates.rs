//! What the target `template` does with an input. Nothing inside a process bounds the memory a template takes, so what
//! could take much of it is left out: here everything else is rendered. The tests of entropix hold the seeds to it.

use entropix::text::{ChatOptions, Date, Message};

/// The chat that is rendered.
pub fn chat() -> (Vec<Message>, ChatOptions) {
    let messages = vec![
        Message::new("system", "Be brief."),
        Message::new("user", "<|im_end|> {{ x }}"),
        Message::new("assistant", "Yes."),
        Message::new("user", "é?"),
    ];
    let options = ChatOptions {
        add_generation_prompt: true,
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        controls: vec!["<|im_start|>".into(), "<|im_end|>".into()],
        date: Date::parse("2025-11-21").expect("a day"),
        variables: serde_json::Map::new(),
    };
    (messages, options)
}

/// What makes one value of two, or of one value many.
const JOINS: &[&str] = &["~", "+", "*", ",", "{", "format"];

/// Whether even to parse `source` may take much: constants are folded, and all kept.
pub fn folds_much(source: &str) -> bool {
    match source.matches('*').count() {
        0 => false,
        1 => has_large_number(source),
        _ => true,
    }
}

/// Whether rendering `source` may take much. A value doubles where two make one *and the result gets a name*, in tags
/// that stand one after the other, in a loop, or in a macro that calls itself; output that gets a name (macros, blocks of
/// `set`) is not bounded as output is. What has no name is as large as the source.
pub fn may_grow(source: &str) -> bool {
    folds_much(source)
        || has_large_number(source)
        || tags(source).is_none_or(|tags| tags.iter().any(Tag::may_grow))
}

/// A number of more than three digits, or one in another notation.
fn has_large_number(source: &str) -> bool {
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let is_large = |word: &str| word.len() > 3 || word.contains(|c: char| !c.is_ascii_digit());
    let words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| is_number(word)).any(is_large)
}

/// What stands between `{{` and `}}` or `{%` and `%}`.
struct Tag<'a> {
    is_block: bool,
    inside: &'a str,
}

/// None when tags may lie within tags or comments.
fn tags(source: &str) -> Option<Vec<Tag<'_>>> {
    let mut tags = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        let is_block = match rest.as_bytes().first() {
            Some(b'%') => true,
            Some(b'{') => false,
            Some(b'#') => return None,
            _ => continue,
        };
        rest = &rest[1..];
        let end = end_of_tag(rest, if is_block { "%}" } else { "}}" })?;
        let inside = &rest[..end];
        if ["{%", "{{", "{#"].iter().any(|open| inside.contains(open)) {
            return None;
        }
        tags.push(Tag { is_block, inside });
        rest = &rest[end + 2..];
    }
    Some(tags)
}

/// Where `close` stands outside strings.
fn end_of_tag(text: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if text[at..].starts_with(close) => return Some(at),
            None => {}
        }
    }
    None
}

/// A literal or what a loop counts.
fn is_small(value: &str) -> bool {
    let value = value.strip_prefix("loop.").unwrap_or(value);
    ["true", "false", "none", "index", "index0", "first", "last"].contains(&value)
        || (!value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()))
        || ['\'', '"'].iter().any(|quote| {
            value
                .strip_prefix(*quote)
                .and_then(|v| v.strip_suffix(*quote))
                .is_some_and(|v| !v.contains(*quote))
        })
}

impl Tag<'_> {
    fn may_grow(&self) -> bool {
        let inside = self.inside.trim_start_matches(['-', '+']).trim_start();
        let inside = inside.trim_end_matches(['-', '+']);
        if !self.is_block {
            return false;
        }
        let (word, rest) =
            inside.split_at(inside.find(|c: char| !c.is_alphanumeric()).unwrap_or(inside.len()));
        let joins = |value: &str| JOINS.iter().any(|join| value.contains(join));
        match word {
            "if" | "elif" | "else" | "endif" | "endfor" | "endwith" | "break" | "continue" | "generation"
            | "endgeneration" => false,
            "for" => {
                rest.split_once(" in ").is_none_or(|(_, value)| joins(value) || value.contains("recursive"))
            }
            "set" | "with" => rest.split_once('=').is_none_or(|(name, value)| {
                // What a namespace holds stays from one turn of a loop to the next, and it may hold itself.
                joins(value) || (name.contains('.') && !is_small(value.trim()))
            }),
            _ => true,
        }
    }
}
