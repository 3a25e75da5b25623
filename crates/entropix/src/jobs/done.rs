//! What an output holds already: read line by line, with a few bytes of memory a line.

use super::ids::{Key, key};
use super::limits::{ROW_BYTES, TOLD_FLAWS};
use entropix_model::Result;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufRead, Read};

/// A result line as far as a job must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowHead {
    /// The request's id.
    pub id: String,
    /// What the request was known by beside its id; see [`super::Item::hash`].
    pub hash: String,
    /// Whether it tells of a failure.
    pub failed: bool,
    /// What its answers cost.
    pub cost: Cost,
}

/// Tokens of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Cost {
    /// Answered.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Thrown away by decisions.
    #[serde(default)]
    pub discarded_tokens: u64,
}

impl RowHead {
    /// Reads the head of a result line of either form, or says why it is none.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
            #[serde(borrow)]
            custom_id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            request: Option<Cow<'a, str>>,
            error: Option<IgnoredAny>,
            usage: Option<Cost>,
            response: Option<Response>,
        }
        #[derive(Deserialize)]
        struct Response {
            body: Option<Body>,
        }
        #[derive(Deserialize)]
        struct Body {
            usage: Option<Cost>,
            #[serde(default)]
            choices: Vec<BodyChoice>,
        }
        /// OpenAI's usage has no word for what was thrown away; it stands with each answer.
        #[derive(Deserialize)]
        struct BodyChoice {
            entropix: Option<Cost>,
        }
        impl Body {
            fn cost(self) -> Cost {
                let discarded = self.choices.iter().filter_map(|choice| choice.entropix);
                let discarded_tokens =
                    discarded.map(|cost| cost.discarded_tokens).fold(0, u64::saturating_add);
                Cost { discarded_tokens, ..self.usage.unwrap_or_default() }
            }
        }
        let head: Head = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let (id, hash) = match (head.custom_id, head.request) {
            (Some(id), _) => {
                let hash =
                    head.id.strip_prefix("batch_req_").ok_or("its id does not start with batch_req_")?;
                (id.into_owned(), hash.to_owned())
            }
            (None, Some(hash)) => (head.id.into_owned(), hash.into_owned()),
            (None, None) => return Err("it has neither \"request\" nor \"custom_id\"".into()),
        };
        if hash.len() != 16 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("its request hash is not 16 hexadecimal digits".into());
        }
        let of_body = || head.response.and_then(|response| response.body).map(Body::cost);
        let cost = head.usage.or_else(of_body).unwrap_or_default();
        Ok(Self { id, hash, failed: head.error.is_some(), cost })
    }
}

struct DoneRow {
    hash: u64,
    /// How many lines are before it.
    place: u32,
    failed: bool,
    /// Whether the input was seen to ask for it.
    seen: bool,
}

/// What became of a request in an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing yet.
    Pending,
    /// It was answered.
    Answered,
    /// It failed.
    Failed,
    /// There is a line with its id, but the request was another.
    Edited,
}

/// The requests that an output has lines of.
#[derive(Default)]
pub struct Done {
    rows: HashMap<Key, DoneRow>,
    n_failed: usize,
    cost: Cost,
}

impl Done {
    /// What became of the request.
    pub fn look(&self, id: &str, hash: &str) -> Earlier {
        match self.rows.get(&key(id)) {
            None => Earlier::Pending,
            Some(row) if row.hash != number(hash) => Earlier::Edited,
            Some(row) if row.failed => Earlier::Failed,
            Some(_) => Earlier::Answered,
        }
    }

    /// Whether there is a line of the request.
    pub(super) fn has(&self, id: &str) -> bool {
        self.rows.contains_key(&key(id))
    }

    /// As [`Done::look`], and remembers that the input asks for it.
    pub(super) fn see(&mut self, id: &str, hash: &str) -> Earlier {
        if let Some(row) = self.rows.get_mut(&key(id)) {
            row.seen = row.hash == number(hash);
        }
        self.look(id, hash)
    }

    /// How many lines are before that of `id`.
    pub(super) fn place(&self, id: &str) -> Option<u32> {
        self.rows.get(&key(id)).map(|row| row.place)
    }

    /// Whether the input was seen to ask for what stands in the line of `id`.
    pub(super) fn was_seen(&self, id: &str) -> bool {
        self.rows.get(&key(id)).is_some_and(|row| row.seen)
    }

    /// Lines that nothing in the input was seen to ask for, those of edited requests among them.
    pub fn n_unseen(&self) -> usize {
        self.rows.values().filter(|row| !row.seen).count()
    }

    /// Lines.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines that tell of a failure.
    pub fn n_failed(&self) -> usize {
        self.n_failed
    }

    /// What all of them cost.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Takes a line in; why not, when its id stands there already.
    pub(super) fn add(&mut self, head: &RowHead) -> Result<(), String> {
        let place = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        match self.rows.entry(key(&head.id)) {
            Entry::Occupied(_) => Err(format!("the id {:?} stands there twice", head.id)),
            Entry::Vacant(vacant) => {
                vacant.insert(DoneRow { hash: number(&head.hash), place, failed: head.failed, seen: false });
                self.n_failed += usize::from(head.failed);
                self.cost.completion_tokens =
                    self.cost.completion_tokens.saturating_add(head.cost.completion_tokens);
                self.cost.discarded_tokens =
                    self.cost.discarded_tokens.saturating_add(head.cost.discarded_tokens);
                Ok(())
            }
        }
    }
}

fn number(hash: &str) -> u64 {
    u64::from_str_radix(hash, 16).expect("hashes have 16 hexadecimal digits")
}

/// What is found in an output that holds something.
#[derive(Default)]
pub(super) struct Found {
    /// Its good lines.
    pub(super) done: Done,
    /// Bytes up to the end of the last whole line.
    pub(super) whole: u64,
    /// Bytes behind it: a line that was torn.
    pub(super) torn: u64,
    /// The first whole lines that are no results, and why.
    pub(super) broken: Vec<String>,
    /// How many.
    pub(super) n_broken: usize,
}

impl Found {
    /// Reads an output to its end.
    pub(super) fn read(reader: impl BufRead) -> std::io::Result<Self> {
        let mut found = Self::default();
        let mut number = 0;
        found.torn = for_each_line(reader, &mut |line| {
            number += 1;
            found.whole += line.len() as u64;
            let added = RowHead::read(line).and_then(|head| found.done.add(&head));
            if let Err(why) = added {
                found.n_broken += 1;
                if found.broken.len() < TOLD_FLAWS {
                    found.broken.push(format!("line {number}: {why}"));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Hands every whole line to `take`, its end included, and says how many bytes are behind the last.
pub(super) fn for_each_line(
    mut reader: impl BufRead,
    take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = reader.by_ref().take(ROW_BYTES).read_until(b'\n', &mut line)? as u64;
        if n == ROW_BYTES {
            return Err(std::io::Error::other(format!("a line has {ROW_BYTES} bytes or more")));
        }
        if !line.ends_with(b"\n") {
            return Ok(n);
        }
        take(&line)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_heads() {
        let head = |line: &str| RowHead::read(line.as_bytes());
        let short = r#"{"id":"a","request":"00000000000000ff","text":"x",
            "usage":{"completion_tokens":3,"discarded_tokens":2},"error":null}"#;
        let cost = Cost { completion_tokens: 3, discarded_tokens: 2 };
        assert_eq!(
            head(short).unwrap(),
            RowHead { id: "a".into(), hash: "00000000000000ff".into(), failed: false, cost }
        );
        let openai =
            r#"{"id":"batch_req_00000000000000ff","custom_id":"b","response":null,"error":{"code":"x"}}"#;
        assert_eq!(
            head(openai).unwrap(),
            RowHead { id: "b".into(), hash: "00000000000000ff".into(), failed: true, cost: Cost::default() }
        );
        let told = r#"{"id":"batch_req_00000000000000ff","custom_id":"b","response":{"status_code":200,"body":
            {"choices":[{"index":0,"entropix":{"discarded_tokens":4}}],"usage":{"completion_tokens":3}}},"error":null}"#;
        assert_eq!(head(told).unwrap().cost, Cost { completion_tokens: 3, discarded_tokens: 4 });
        for bad in ["", "{}", "[]", r#"{"id":"a"}"#, r#"{"id":"a","request":"+0000000000000ff"}"#, "\0\0\0"] {
            assert!(head(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn outputs_are_taken_apart() {
        let line = |id: &str| format!("{{\"id\":{id:?},\"request\":\"00000000000000ff\"}}\n");
        let text = [line("a"), "garbage\n".into(), line("b"), line("a"), "{\"id\":\"c".into()].concat();
        let mut found = Found::read(text.as_bytes()).unwrap();
        assert_eq!((found.done.len(), found.n_broken, found.torn), (2, 2, 8));
        assert_eq!(found.whole as usize + 8, text.len());
        assert!(found.broken[0].starts_with("line 2: ") && found.broken[1].contains("twice"));
        assert_eq!(found.done.look("a", "00000000000000ff"), Earlier::Answered);
        assert_eq!(found.done.look("a", "00000000000000fe"), Earlier::Edited);
        assert_eq!(found.done.see("b", "00000000000000ff"), Earlier::Answered);
        assert_eq!((found.done.look("c", ""), found.done.n_unseen()), (Earlier::Pending, 1));
    }
}
