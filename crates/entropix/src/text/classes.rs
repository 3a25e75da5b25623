//! The engine's table of token classes, read off the tokens' texts.

use super::tokenizer::Tokenizer;
use super::vocabulary::TokenKind;
use entropix_engine::{TokenClass, TokenClasses};
use entropix_model::TokenId;

/// The classes of the tokens of a model of `rows` rows; `ends` are the tokens that end an answer
/// ([`Tokenizer::ends`]).
///
/// Each token is judged by itself: `.` ends a sentence even where it stands in `3.14`, and ` The` starts one
/// wherever a blank or line break comes with a capital. A script without capitals starts no sentences. Rows
/// beyond the vocabulary are special: they are no text.
pub fn token_classes(tokenizer: &Tokenizer, rows: usize, ends: &[TokenId]) -> TokenClasses {
    let mut classes = TokenClasses::new(rows);
    for token in 0..rows as TokenId {
        if !matches!(
            tokenizer.kind(token),
            Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte)
        ) {
            classes.add(token, TokenClass::Special);
        }
        of_text(tokenizer.token_bytes(token)).for_each(|class| classes.add(token, class));
    }
    for end in ends {
        classes.add(*end, TokenClass::End);
    }
    classes
}

/// The classes of a token that its text tells.
pub(crate) fn of_text(bytes: &[u8]) -> impl Iterator<Item = TokenClass> {
    // A piece of a character is of no class.
    let text = String::from_utf8_lossy(bytes);
    let tests = [
        (TokenClass::SentenceEnd, ends_sentence as fn(&str) -> bool),
        (TokenClass::SentenceStart, starts_sentence),
        (TokenClass::Newline, |text| text.contains(['\n', '\r', '\u{2028}', '\u{2029}'])),
        (TokenClass::Digit, |text| text.contains(|c: char| c.is_ascii_digit() || ('０'..='９').contains(&c))),
    ];
    tests.into_iter().filter(move |(_, holds)| holds(&text)).map(|(class, _)| class)
}

const QUOTES: &[char] = &[
    '"', '\'', '“', '”', '‘', '’', '«', '»', '(', ')', '[', ']', '「', '」', '『', '』', '（', '）', '【',
    '】', '*', '_',
];

/// Whether `text` ends with the end of a sentence, perhaps within quotes or brackets and before blanks.
fn ends_sentence(text: &str) -> bool {
    let marks = ['.', '!', '?', '…', '。', '！', '？', '｡', '؟', '۔', '।', '॥'];
    text.trim_end().trim_end_matches(QUOTES).ends_with(marks)
}

/// Whether a word of a capital starts `text`, after a blank or line break.
fn starts_sentence(text: &str) -> bool {
    let word = text.trim_start();
    word.len() < text.len() && word.trim_start_matches(QUOTES).starts_with(char::is_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_ends() {
        for end in [".", "!", "?\n", ".\"", "。", "！」", ").\n\n", ".)", "…", " end."] {
            assert!(ends_sentence(end), "{end:?}");
        }
        for other in ["", " ", "a", ",", ".a", "\"", "3.1", "\n", ":", "、"] {
            assert!(!ends_sentence(other), "{other:?}");
        }
    }

    #[test]
    fn sentence_starts() {
        for start in [" The", "\nÉtat", " \"No", "\n\n**Well"] {
            assert!(starts_sentence(start), "{start:?}");
        }
        for other in ["The", " the", " 9", "", " ", "\n", "日"] {
            assert!(!starts_sentence(other), "{other:?}");
        }
    }
}
