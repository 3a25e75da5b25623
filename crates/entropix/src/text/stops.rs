//! Finding stop strings in a text that arrives in pieces.

use super::limits;
use entropix_model::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The stop strings of a request, compiled: the automaton of Aho and Corasick (1975). Its state is the longest
/// end of the text so far that begins a stop string, which is what a stream must hold back.
#[derive(Debug, Clone)]
pub struct Stops {
    nodes: Arc<[Node]>,
}

#[derive(Debug, Default, Clone)]
struct Node {
    /// Byte -> node.
    children: BTreeMap<u8, u32>,
    /// The node of the longest proper end of this one that begins a stop string.
    fallback: u32,
    /// Bytes of what this node stands for.
    depth: usize,
    /// Bytes of the longest stop string that ends here; 0 for none.
    ends: usize,
}

/// Where a search stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State(u32);

impl Stops {
    /// Compiles stop strings; none at all is fine.
    ///
    /// # Errors
    /// `Data`, code `Field`, for an empty string, one of more than 4096 bytes, or more than 64 of them.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self> {
        let wrong = |message| Err(Error::data("Field", message));
        if stops.len() > limits::STOP_STRINGS {
            return wrong(format!("stop: {} strings; at most {}", stops.len(), limits::STOP_STRINGS));
        }
        let mut nodes = vec![Node::default()];
        for (i, stop) in stops.iter().map(AsRef::as_ref).enumerate() {
            if stop.is_empty() {
                return wrong(format!("stop[{i}] is empty; it would end every answer before it begins"));
            }
            if stop.len() > limits::STOP_BYTES {
                return wrong(format!("stop[{i}] has {} bytes; at most {}", stop.len(), limits::STOP_BYTES));
            }
            let mut at = 0;
            for byte in stop.bytes() {
                let new = nodes.len() as u32;
                at = *nodes[at as usize].children.entry(byte).or_insert(new);
                if at == new {
                    let depth = nodes.len();
                    nodes.push(Node { depth, ..Node::default() });
                }
            }
            nodes[at as usize].ends = stop.len();
        }
        link(&mut nodes);
        Ok(Self { nodes: nodes.into() })
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The next byte. Gives the length in bytes of the longest stop string that ends with it.
    pub(super) fn step(&self, state: &mut State, byte: u8) -> Option<usize> {
        let mut at = state.0;
        let next = loop {
            match self.nodes[at as usize].children.get(&byte) {
                Some(child) => break *child,
                None if at == 0 => break 0,
                None => at = self.nodes[at as usize].fallback,
            }
        };
        *state = State(next);
        let ends = self.nodes[next as usize].ends;
        (ends > 0).then_some(ends)
    }

    /// How many of the last bytes may begin a stop string.
    pub(super) fn held(&self, state: State) -> usize {
        self.nodes[state.0 as usize].depth
    }
}

/// Sets depths, fallbacks and inherited ends, nodes nearer the root first.
fn link(nodes: &mut [Node]) {
    nodes[0].depth = 0;
    let mut queue: std::collections::VecDeque<u32> = [0].into();
    while let Some(parent) = queue.pop_front() {
        let children: Vec<(u8, u32)> =
            nodes[parent as usize].children.iter().map(|(b, n)| (*b, *n)).collect();
        for (byte, child) in children {
            let mut at = nodes[parent as usize].fallback;
            let fallback = loop {
                match nodes[at as usize].children.get(&byte) {
                    Some(node) if parent != 0 => break *node,
                    _ if at == 0 => break 0,
                    _ => at = nodes[at as usize].fallback,
                }
            };
            let depth = nodes[parent as usize].depth + 1;
            let inherited = nodes[fallback as usize].ends;
            let node = &mut nodes[child as usize];
            (node.fallback, node.depth, node.ends) = (fallback, depth, node.ends.max(inherited));
            queue.push_back(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (end, length) of the first stop string to be complete, by comparing everywhere.
    fn first_by_hand(text: &[u8], stops: &[&str]) -> Option<(usize, usize)> {
        (1..=text.len()).find_map(|end| {
            let longest =
                stops.iter().filter(|s| text[..end].ends_with(s.as_bytes())).map(|s| s.len()).max()?;
            Some((end, longest))
        })
    }

    fn first(text: &[u8], stops: &[&str]) -> Option<(usize, usize)> {
        let stops = Stops::new(stops).unwrap();
        let mut state = State::default();
        text.iter().enumerate().find_map(|(i, byte)| stops.step(&mut state, *byte).map(|len| (i + 1, len)))
    }

    proptest::proptest! {
        /// Catches a wrong fallback link: over two letters almost every state is left by one.
        #[test]
        fn finds_what_a_comparison_at_every_place_finds(
            text in "[ab]{0,40}",
            stops in proptest::collection::vec("[ab]{1,6}", 0..5),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            proptest::prop_assert_eq!(first(text.as_bytes(), &stops), first_by_hand(text.as_bytes(), &stops));
        }

        #[test]
        fn holds_the_longest_end_that_begins_a_stop(
            text in "[ab]{0,40}",
            stops in proptest::collection::vec("[ab]{1,6}", 0..5),
        ) {
            let compiled = Stops::new(&stops).unwrap();
            let mut state = State::default();
            for (i, byte) in text.bytes().enumerate() {
                compiled.step(&mut state, byte);
                let seen = &text[..=i];
                let by_hand = (0..=seen.len())
                    .map(|from| &seen[from..])
                    .find(|end| stops.iter().any(|stop| stop.starts_with(end)))
                    .map_or(0, str::len);
                proptest::prop_assert_eq!(compiled.held(state), by_hand);
            }
        }
    }

    #[test]
    fn limits_are_checked() {
        let long = "x".repeat(limits::STOP_BYTES);
        assert!(Stops::new(&[&long]).is_ok());
        let many = vec!["x"; limits::STOP_STRINGS];
        assert!(Stops::new(&many).is_ok());
        for bad in [vec![""], vec![&*format!("{long}x")], vec!["x"; limits::STOP_STRINGS + 1]] {
            let error = Stops::new(&bad).unwrap_err();
            assert_eq!((error.class, error.code), (entropix_model::Class::Data, "Field"));
        }
    }
}
