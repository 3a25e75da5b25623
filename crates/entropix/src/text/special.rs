//! Finding added tokens in a text: leftmost first, of those the longest, as the tokenizers crate does.
#![deny(clippy::arithmetic_side_effects)]

use super::vocabulary::{TokenKind, Vocabulary};
use aho_corasick::{AhoCorasick, MatchKind};
use entropix_model::{Error, Result, TokenId};
use std::ops::Range;

/// Whether the names of control tokens in a text stand for those tokens.
///
/// User-defined tokens (added but not special, e.g. `<tool_call>` of Qwen2.5) are pieces of text and are found
/// either way, as in llama.cpp and the tokenizers package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// `<|im_end|>` becomes the token of that name.
    Parse,
    /// `<|im_end|>` is ten characters like any others.
    Text,
}

/// An added token and how it is matched.
#[derive(Debug, Clone, Default)]
pub(super) struct AddedToken {
    pub(super) id: TokenId,
    pub(super) content: String,
    /// A control token, found only with [`Special::Parse`].
    pub(super) control: bool,
    /// Swallows the blanks before it.
    pub(super) lstrip: bool,
    /// Swallows the blanks after it.
    pub(super) rstrip: bool,
    /// Not found inside a word.
    pub(super) single_word: bool,
}

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Bytes of the text.
    Text(Range<usize>),
    /// An added token.
    Token(TokenId),
}

/// All added tokens of a vocabulary.
#[derive(Debug, Clone, Default)]
pub(super) struct AddedTokens {
    all: Finder,
    user_defined: Finder,
    control: Finder,
    /// The contents of the control tokens.
    controls: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Finder {
    tokens: Vec<AddedToken>,
    automaton: Option<AhoCorasick>,
}

impl AddedTokens {
    /// The control, unknown and user-defined tokens of `vocabulary`.
    pub(super) fn of(vocabulary: &Vocabulary) -> Result<Self> {
        use TokenKind::{Control, Unknown, UserDefined};
        Self::new(
            vocabulary
                .tokens()
                .filter(|(_, name, kind)| matches!(kind, Control | Unknown | UserDefined) && !name.is_empty())
                .map(|(id, name, kind)| AddedToken {
                    id,
                    content: name.to_owned(),
                    control: kind != UserDefined,
                    ..AddedToken::default()
                })
                .collect(),
        )
    }

    pub(super) fn new(tokens: Vec<AddedToken>) -> Result<Self> {
        let (control, user_defined): (Vec<_>, Vec<_>) =
            tokens.iter().cloned().partition(|token| token.control);
        let controls = control.iter().map(|token| token.content.clone()).collect();
        Ok(Self {
            all: Finder::new(tokens)?,
            user_defined: Finder::new(user_defined)?,
            control: Finder::new(control)?,
            controls,
        })
    }

    /// The names of the control tokens.
    pub(super) fn controls(&self) -> &[String] {
        &self.controls
    }

    /// Cuts `text` into control tokens and what lies between them.
    pub(super) fn split_controls(&self, text: &str) -> Vec<Segment> {
        self.control.split(text)
    }

    /// Cuts `text` into added tokens and what lies between them.
    pub(super) fn split(&self, text: &str, special: Special) -> Vec<Segment> {
        match special {
            Special::Parse => self.all.split(text),
            Special::Text => self.user_defined.split(text),
        }
    }
}

impl Finder {
    fn new(tokens: Vec<AddedToken>) -> Result<Self> {
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|t| &t.content))
            .map_err(|e| {
                Error::model(
                    "Tokenizer",
                    format!("the {} added tokens are too many to search for: {e}", tokens.len()),
                )
            })?;
        Ok(Self { tokens, automaton: Some(automaton) })
    }

    fn split(&self, text: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut done = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if start < done || (token.single_word && !stands_alone(text, start, end)) {
                continue;
            }
            if token.lstrip {
                start = done.max(text[..start].trim_end().len());
            }
            if token.rstrip {
                end = text.len().saturating_sub(text[end..].trim_start().len());
            }
            if done < start {
                segments.push(Segment::Text(done..start));
            }
            segments.push(Segment::Token(token.id));
            done = end;
        }
        if done < text.len() {
            segments.push(Segment::Text(done..text.len()));
        }
        segments
    }
}

fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    !text[..start].chars().next_back().is_some_and(word) && !text[end..].chars().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: TokenId, content: &str, control: bool) -> AddedToken {
        AddedToken { id, content: content.into(), control, ..AddedToken::default() }
    }

    #[test]
    fn the_leftmost_longest_token_wins() {
        let added =
            AddedTokens::new(vec![token(1, "<a", true), token(2, "<ab>", true), token(3, "b>c", false)])
                .unwrap();
        let text = "x<ab>c<ab";
        assert_eq!(
            added.split(text, Special::Parse),
            [
                Segment::Text(0..1),
                Segment::Token(2),
                Segment::Text(5..6),
                Segment::Token(1),
                Segment::Text(8..9)
            ]
        );
        assert_eq!(
            added.split(text, Special::Text),
            [Segment::Text(0..3), Segment::Token(3), Segment::Text(6..9)]
        );
    }

    #[test]
    fn blanks_are_swallowed_and_words_left_whole_as_asked() {
        let mut mask = token(7, "<m>", true);
        (mask.lstrip, mask.rstrip) = (true, true);
        let mut word = token(8, "cat", false);
        word.single_word = true;
        let added = AddedTokens::new(vec![mask, word]).unwrap();
        assert_eq!(
            added.split("a  <m>\n b concat cat", Special::Parse),
            [Segment::Text(0..1), Segment::Token(7), Segment::Text(8..17), Segment::Token(8)]
        );
    }

    /// `done` may run past the next match when blanks are swallowed.
    #[test]
    fn tokens_made_of_blanks_after_a_swallowing_one() {
        let mut greedy = token(1, "<r>", true);
        greedy.rstrip = true;
        let added = AddedTokens::new(vec![greedy, token(2, "\n", false)]).unwrap();
        assert_eq!(
            added.split("<r>\n\nx\n", Special::Parse),
            [Segment::Token(1), Segment::Text(5..6), Segment::Token(2)]
        );
    }
}
