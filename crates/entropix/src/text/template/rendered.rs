//! The text of a chat and where its control tokens may stand.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A rendered chat. Where a message's own text could pass for a control token, a mark stands in it; a mark is
/// one character that occurs nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    text: String,
    mark: Option<char>,
}

impl Rendered {
    pub(super) fn new(text: String, mark: Option<char>) -> Self {
        Self { text, mark }
    }

    /// The text as a reader should see it.
    pub fn text(&self) -> Cow<'_, str> {
        self.unmark(&self.text)
    }

    /// Bytes without the marks.
    pub(crate) fn n_bytes(&self) -> usize {
        let marks = self.mark.map_or(0, |mark| self.text.matches(mark).count() * mark.len_utf8());
        self.text.len() - marks
    }

    /// The text with its marks, in which every control token is the template's.
    pub(in crate::text) fn marked(&self) -> &str {
        &self.text
    }

    /// `part` of the text without its marks.
    pub(in crate::text) fn unmark<'a>(&self, part: &'a str) -> Cow<'a, str> {
        match self.mark {
            Some(mark) if part.contains(mark) => part.replace(mark, "").into(),
            _ => part.into(),
        }
    }
}
