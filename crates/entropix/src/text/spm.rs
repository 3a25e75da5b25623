//! Sentencepiece BPE, merged by score: of all neighbouring pairs whose joint text is a token, the one of the
//! highest score is joined first, ties to the left; what is no token in the end becomes its bytes.
//!
//! Written by hand because the tokenizers crate ranks pairs and this algorithm ranks results, so equal scores
//! would come out otherwise. The order of work is that of llama.cpp's `llm_tokenizer_spm_session`, and of
//! sentencepiece's `bpe::Model::SampleEncode` without sampling.

use super::vocabulary::{TokenKind, Vocabulary, byte_token};
use entropix_model::{Error, Result, TokenId};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// The pieces of a sentencepiece vocabulary and their scores.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    /// Piece -> (token, score). Control, unknown, unused and byte tokens are not in it: no text becomes one.
    pieces: HashMap<Box<str>, (TokenId, f32)>,
    /// Length of the longest piece in bytes.
    longest: usize,
    /// (256) the token of each byte.
    bytes: Vec<TokenId>,
}

/// A run of characters that are one symbol by now; a list linked through the array.
struct Symbol {
    start: usize,
    /// 0 once joined to its left neighbour.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A pair that may be joined.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both, to tell a pair that is out of date.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Pieces {
    /// From a vocabulary and its scores, (n_tokens).
    pub(super) fn new(vocabulary: &Vocabulary, scores: &[f32]) -> Result<Self> {
        if scores.len() != vocabulary.len() {
            return Err(Error::model(
                "Tokenizer",
                format!(
                    "{} scores for {} tokens; a sentencepiece vocabulary needs one each",
                    scores.len(),
                    vocabulary.len()
                ),
            ));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(Error::model("Tokenizer", format!("the score of token {id} is not a number")));
        }
        let mut pieces: HashMap<Box<str>, _> = HashMap::new();
        let mut bytes = [None; 256];
        let mut unknown = None;
        for (id, name, kind) in vocabulary.tokens() {
            match kind {
                TokenKind::Normal | TokenKind::UserDefined if !name.is_empty() => {
                    // -0.0 and 0.0 tie in llama.cpp.
                    pieces.insert(name.into(), (id, scores[id as usize] + 0.0));
                }
                TokenKind::Byte => {
                    bytes[byte_token(name).expect("checked by the vocabulary") as usize] = Some(id)
                }
                TokenKind::Unknown => unknown = Some(id),
                _ => {}
            }
        }
        let bytes = bytes
            .into_iter()
            .enumerate()
            .map(|(byte, id)| {
                id.or(unknown).ok_or_else(|| {
                    Error::model(
                        "Tokenizer",
                        format!(
                            "the vocabulary has neither a token for byte 0x{byte:02X} nor an unknown token"
                        ),
                    )
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let longest = pieces.keys().map(|piece| piece.len()).max().unwrap_or(0);
        Ok(Self { pieces, longest, bytes })
    }

    /// Appends the tokens of `text`, whose blanks are U+2581 already.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<TokenId>) {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol { start, len: c.len_utf8(), prev: i.wrapping_sub(1), next: i + 1 })
            .collect();
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.offer(text, &symbols, right - 1, right, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let (left_len, right_len) = (symbols[pair.left].len, symbols[pair.right].len);
            if left_len == 0 || right_len == 0 || left_len + right_len != pair.len {
                continue;
            }
            let next = symbols[pair.right].next;
            symbols[pair.right].len = 0;
            symbols[pair.left].len = pair.len;
            symbols[pair.left].next = next;
            if next != NONE {
                symbols[next].prev = pair.left;
                self.offer(text, &symbols, pair.left, next, &mut queue);
            }
            let prev = symbols[pair.left].prev;
            if prev != NONE {
                self.offer(text, &symbols, prev, pair.left, &mut queue);
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            match self.pieces.get(piece) {
                Some((id, _)) => out.push(*id),
                None => out.extend(piece.bytes().map(|byte| self.bytes[byte as usize])),
            }
        }
    }

    fn offer(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, queue: &mut BinaryHeap<Pair>) {
        let start = symbols[left].start;
        let len = symbols[left].len + symbols[right].len;
        // Without this bound a text without any piece would still be hashed once a character and length.
        if len > self.longest {
            return;
        }
        if let Some((_, score)) = self.pieces.get(&text[start..start + len]) {
            queue.push(Pair { score: *score, left, right, len });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Spelling;
    use super::*;

    fn pieces(tokens: &[(&str, f32)]) -> Pieces {
        let mut names: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
        let mut kinds = vec![TokenKind::Byte; 256];
        let mut scores = vec![0.0; 256];
        for (name, score) in tokens {
            names.push((*name).to_owned());
            kinds.push(TokenKind::Normal);
            scores.push(*score);
        }
        let vocabulary = Vocabulary::new(names, kinds, Spelling::Sentencepiece).unwrap();
        Pieces::new(&vocabulary, &scores).unwrap()
    }

    fn encode(pieces: &Pieces, text: &str) -> Vec<TokenId> {
        let mut out = Vec::new();
        pieces.encode(text, &mut out);
        out
    }

    #[test]
    fn the_best_score_is_joined_first_and_ties_go_left() {
        let tied = pieces(&[("a", 0.0), ("aa", -1.0)]);
        assert_eq!(encode(&tied, "aaa"), [257, 256]);
        let scored = pieces(&[("a", 0.0), ("b", 0.0), ("c", 0.0), ("ab", -2.0), ("bc", -1.0)]);
        assert_eq!(encode(&scored, "abc"), [256, 260]);
        let other = pieces(&[("a", 0.0), ("b", 0.0), ("c", 0.0), ("ab", -1.0), ("bc", -2.0)]);
        assert_eq!(encode(&other, "abc"), [259, 258]);
    }

    #[test]
    fn what_is_no_piece_becomes_bytes() {
        let p = pieces(&[("a", 0.0)]);
        assert_eq!(encode(&p, "aé"), [256, 0xC3, 0xA9]);
        assert_eq!(encode(&p, ""), [] as [TokenId; 0]);
    }

    /// The text `<0x41>` must not turn into the byte token of that name.
    #[test]
    fn byte_tokens_have_no_spelling() {
        let p = pieces(&[("<0", 0.0), ("<0x", 0.0), ("<0x4", 0.0), ("<0x41", 0.0)]);
        assert_eq!(encode(&p, "<0x41>"), [259, b'>'.into()]);
    }
}
