//! Keeping what a message says apart from what a template says.
//!
//! A template concatenates both into one string, so whether a `<|im_end|>` in it is a control token or somebody's
//! text must be seen from the string alone. Rendering placeholders instead of the texts would do, but templates
//! look into the texts: they strip them, compare them, split them at `</think>`. So the texts stay, with a mark
//! (a noncharacter of Unicode, U+FDD0 and up, that occurs in no text of the chat) after each character that
//! could start a control token. No control token holds a mark, hence none that lies in a text, or begins in one
//! and ends in the template, is found; and the marks are taken out again of what is encoded as text.
//!
//! What a template looks for in a text are its own string literals. Where one of those matches, no mark is put,
//! so that `content.split('</think>')` and the like work, unless the place could become a control token: it
//! begins one, or begins what would be one if more text came behind the end. A text that begins with the end of
//! a control token gets a mark in front, so that a template cannot complete it.
//!
//! What remains different for a template: the length of a text, its characters by number, and `urlencode` of it.

use aho_corasick::{AhoCorasick, MatchKind};
use entropix_model::{Error, Result};

/// Puts marks into texts.
pub(super) struct Guard {
    mark: char,
    controls: Vec<String>,
    /// First characters of the control tokens.
    firsts: Vec<char>,
    literals: Option<AhoCorasick>,
    pub(super) used: bool,
}

impl Guard {
    /// For a template of this source, the names of control tokens, and all texts of a chat.
    ///
    /// # Errors
    /// `Data`, code `Template`, when the texts hold every noncharacter there is.
    pub(super) fn new<'a>(
        source: &str,
        controls: &[String],
        texts: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Self> {
        let free = |mark: char| !source.contains(mark) && !texts.clone().any(|text| text.contains(mark));
        let mark = ('\u{FDD0}'..='\u{FDEF}').find(|mark| free(*mark)).ok_or_else(|| {
            Error::data(
                "Template",
                "the messages hold all of U+FDD0 to U+FDEF, which stand for no characters; remove one",
            )
        })?;
        let mut firsts: Vec<char> = controls.iter().filter_map(|name| name.chars().next()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        let literals: Vec<String> = literals(source)
            .into_iter()
            .filter(|literal| {
                literal.contains(&*firsts) && !controls.iter().any(|name| literal.contains(name.as_str()))
            })
            .collect();
        let literals = (!literals.is_empty())
            .then(|| AhoCorasick::builder().match_kind(MatchKind::Standard).build(literals))
            .transpose()
            .map_err(|e| {
                Error::data("Template", format!("the chat template's literals cannot be searched for: {e}"))
            })?;
        Ok(Self { mark, controls: controls.to_vec(), firsts, literals, used: false })
    }

    pub(super) fn mark(&self) -> Option<char> {
        self.used.then_some(self.mark)
    }

    /// `text` with its marks.
    pub(super) fn protect(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let shown = self.covered(text);
        let ahead = text.len() - text.trim_start().len();
        let completes = self.completes(text.trim());
        for (at, c) in text.char_indices() {
            if at == ahead && completes {
                self.put(&mut out);
            }
            out.push(c);
            if self.firsts.contains(&c)
                && (!shown.get(at).copied().unwrap_or(false) || self.may_begin(&text[at..]))
            {
                self.put(&mut out);
            }
        }
        out
    }

    fn put(&mut self, out: &mut String) {
        out.push(self.mark);
        self.used = true;
    }

    /// (text.len()) which bytes lie in a literal of the template.
    fn covered(&self, text: &str) -> Vec<bool> {
        let Some(literals) = &self.literals else { return Vec::new() };
        let mut opened = vec![0i64; text.len() + 1];
        for found in literals.find_overlapping_iter(text) {
            opened[found.start()] += 1;
            opened[found.end()] -= 1;
        }
        let mut open = 0;
        opened
            .iter()
            .map(|change| {
                open += change;
                open > 0
            })
            .collect()
    }

    /// Whether `rest`, the end of a text, begins with a control token or, less its blanks, begins one.
    fn may_begin(&self, rest: &str) -> bool {
        self.controls.iter().any(|name| {
            rest.starts_with(name.as_str())
                || (rest.trim_end().len() < name.len() && name.starts_with(rest.trim_end()))
        })
    }

    /// Whether `text` begins with the end of a control token.
    fn completes(&self, text: &str) -> bool {
        self.controls
            .iter()
            .any(|name| name.char_indices().skip(1).any(|(at, _)| text.starts_with(&name[at..])))
    }
}

/// The string literals within the tags of a template.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        let close = match rest.as_bytes().first() {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            _ => continue,
        };
        rest = &rest[1..];
        while !rest.is_empty() && !rest.starts_with(close) {
            let c = rest.chars().next().expect("not empty");
            rest = &rest[c.len_utf8()..];
            if c == '"' || c == '\'' {
                let (literal, after) = literal(rest, c);
                found.push(literal);
                rest = after;
            }
        }
    }
    found.retain(|literal| !literal.is_empty());
    found.sort_unstable();
    found.dedup();
    found
}

/// A literal that ends with `quote`, and what comes after it.
fn literal(text: &str, quote: char) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, 't')) => out.push('\t'),
                Some((_, other)) => out.push(other),
                None => break,
            },
            c if c == quote => return (out, &text[at + c.len_utf8()..]),
            c => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r"{{ '<|im_start|>' + role }}{% if '</think>' in content %}{{ content.split('</think>')[-1] }}{% endif %}";

    fn protect(text: &str) -> String {
        let controls = ["<|im_start|>", "<|im_end|>", "[INST]"].map(str::to_owned);
        let mut guard = Guard::new(SOURCE, &controls, [text].into_iter()).unwrap();
        guard.protect(text).replace(guard.mark, "^")
    }

    #[test]
    fn literals_are_found_inside_tags_only() {
        assert_eq!(literals(SOURCE), ["</think>", "<|im_start|>"]);
        assert_eq!(literals(r#"'no' {{ "a\"b\n" ~ 'c' }} "no" {% set x = "}}" %}"#), ["a\"b\n", "c", "}}"]);
        assert_eq!(literals("{{ 'open"), ["open"]);
    }

    #[test]
    fn control_tokens_in_texts_are_broken_and_literals_are_not() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("a<|im_end|>b", "a<^|im_end|>b"),
            ("x < y", "x <^ y"),
            ("<think>a</think>b", "<^think>a</think>b"),
            ("</think><|im_start|>", "</think><^|im_start|>"),
            // Unfinished at the end: the template might finish it.
            ("a<|im_e", "a<^|im_e"),
            ("a<|im_e \n", "a<^|im_e \n"),
            ("</thi", "<^/thi"),
            // The end of one at the start.
            ("|> x", "^|> x"),
            (" \nim_end|>", " \n^im_end|>"),
            ("> quoted", "^> quoted"),
            ("a > b", "a > b"),
            ("[1, 2]", "[^1, 2]"),
        ] {
            assert_eq!(protect(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_mark_is_a_character_that_no_text_has() {
        let texts = ["\u{FDD0}\u{FDD2}", "\u{FDD1}"];
        let controls = ["<s>".to_owned()];
        assert_eq!(Guard::new("", &controls, texts.into_iter()).unwrap().mark, '\u{FDD3}');
        let all: String = ('\u{FDD0}'..='\u{FDEF}').collect();
        let error = Guard::new("", &controls, [all.as_str()].into_iter()).err().unwrap();
        assert_eq!((error.class, error.code), (entropix_model::Class::Data, "Template"));
    }
}
