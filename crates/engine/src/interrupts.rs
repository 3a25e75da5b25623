//! How another thread (one that waits for signals, say) asks whoever steps an engine to end.

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Set while nothing is computed. The rest of the word counts, so that one operation tells whether there is
/// something to end and, if so, asks for it.
const IDLE: usize = 1 << (usize::BITS - 1);

/// Counts the requests to end what is being computed. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Interrupts {
    word: Arc<AtomicUsize>,
}

/// What a request to end came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing is computed, nobody will look at the count.
    Idle,
    /// So many requests, this one included, since the last [`Interrupts::while_idle`].
    Asked(usize),
}

impl Interrupts {
    /// Asks to end, from any thread.
    pub fn ask(&self) -> Heard {
        let before = self.word.fetch_add(1, Ordering::AcqRel);
        if before & IDLE != 0 { Heard::Idle } else { Heard::Asked(before + 1) }
    }

    /// How often somebody asked since the last [`Interrupts::while_idle`].
    pub fn count(&self) -> usize {
        self.word.load(Ordering::Acquire) & !IDLE
    }

    /// Runs `wait`, during which there is nothing to end: what was asked before it concerned what was computed
    /// before it, and what is asked meanwhile is answered with [`Heard::Idle`]. The count begins anew with its end.
    pub fn while_idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.rest();
        let result = wait();
        self.wake();
        result
    }

    /// From now on there is nothing to end.
    pub fn rest(&self) {
        self.word.swap(IDLE, Ordering::AcqRel);
    }

    /// From now on there is something to end, and nobody has asked for it.
    pub fn wake(&self) {
        self.word.swap(0, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn requests_count_until_the_next_pause() {
        let interrupts = Interrupts::default();
        let other = interrupts.clone();
        assert_eq!((other.ask(), other.ask(), interrupts.count()), (Heard::Asked(1), Heard::Asked(2), 2));
        assert_eq!(interrupts.while_idle(|| (other.ask(), interrupts.count() > 1)), (Heard::Idle, false));
        assert_eq!((interrupts.count(), other.ask()), (0, Heard::Asked(1)));
    }
}
