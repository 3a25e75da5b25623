//! What a request is called and known by.

use super::json::Flaw;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The first bytes of a SHA-256, which stand for a text of any length.
pub(super) type Key = [u8; 16];

/// Stands for `text`.
pub(super) fn key(text: &str) -> Key {
    Sha256::digest(text.as_bytes())[..16].try_into().expect("a digest has 32 bytes")
}

/// 16 hexadecimal digits of the SHA-256 of `bytes`.
pub(super) fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a request is known by beside its id: 16 hexadecimal digits over its id and all it asks for. A line
/// that was edited has another.
pub(super) fn identity(id: &str, content: &str) -> String {
    short_hash(format!("{id}\0{content}").as_bytes())
}

/// The ids seen so far, by hash: some 32 bytes a request whatever the ids are.
#[derive(Default)]
pub(super) struct Ids {
    /// Id -> its line.
    lines: HashMap<Key, u32>,
    /// Content -> how often it came without an id.
    occurrences: HashMap<Key, u32>,
}

impl Ids {
    /// The id a request on `line` was given, or else its content hash and occurrence number.
    pub(super) fn assign(&mut self, id: Option<&str>, content: &str, line: usize) -> Result<String, Flaw> {
        let Some(id) = id else { return Ok(self.name(content, line)) };
        match self.lines.insert(key(id), u32::try_from(line).unwrap_or(u32::MAX)) {
            None => Ok(id.to_owned()),
            Some(first) => {
                // What comes third is told of the first as well.
                self.lines.insert(key(id), first);
                let id: String = id.chars().take(80).collect();
                Err(Flaw::new("DuplicateId", 0, format!("the id {id:?} stands on line {first} already")))
            }
        }
    }

    /// A name for a line that has none: it depends on what the line says, not on where it stands.
    pub(super) fn name(&mut self, content: &str, line: usize) -> String {
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        let occurrence = self.occurrences.entry(key(content)).or_insert(0);
        loop {
            *occurrence += 1;
            let id = format!("{content}-{occurrence}");
            // Somebody may have taken such a name by hand.
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.lines.entry(key(&id)) {
                vacant.insert(line);
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_given_twice() {
        let mut ids = Ids::default();
        assert_eq!(ids.assign(Some("c-2"), "", 1).unwrap(), "c-2");
        assert_eq!(ids.assign(None, "c", 2).unwrap(), "c-1");
        assert_eq!(ids.assign(None, "c", 3).unwrap(), "c-3");
        for line in [4, 5] {
            let flaw = ids.assign(Some("c-2"), "", line).unwrap_err();
            assert_eq!(flaw.message, "the id \"c-2\" stands on line 1 already");
        }
    }

    #[test]
    fn identities_differ_by_id_and_content() {
        assert_ne!(identity("a", "b"), identity("a", "c"));
        assert_ne!(identity("a", "b"), identity("c", "b"));
        assert_ne!(identity("a", "bc"), identity("ab", "c"));
    }
}
