//! Every order in which threads can meet: what stops an engine from another thread, and the block pool behind a lock
//! as a program shares one. Runs with `--cfg loom` only: `scripts/campaign/loom`.

use crate::blocks::{BlockPool, BlockTable};
use crate::faults::Fault;
use crate::interrupts::{Heard, Interrupts};
use entropix_model::TokenId;
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `model` in every order of its threads and says how many there were.
fn orders(name: &str, model: impl Fn() + Sync + Send + 'static) {
    let n = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = n.clone();
    loom::model(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{name}: {} orders", n.load(Ordering::Relaxed));
}

/// What [`Interrupts`] promises, so that something worse can be held against the same test.
trait Promise: Clone + Default + Send + 'static {
    fn ask(&self) -> Heard;
    fn count(&self) -> usize;
    fn pause(&self);
}

impl Promise for Interrupts {
    fn ask(&self) -> Heard {
        Interrupts::ask(self)
    }

    fn count(&self) -> usize {
        Interrupts::count(self)
    }

    fn pause(&self) {
        self.while_idle(thread::yield_now);
    }
}

/// Two ask while an answer is computed, which ends; after a pause there is another answer. Every request is heard by
/// the answer it came upon, or told that there was none.
fn everyone_is_heard<P: Promise>() {
    let interrupts = P::default();
    let ask = |interrupts: P| thread::spawn(move || interrupts.ask());
    let askers = [ask(interrupts.clone()), ask(interrupts.clone())];
    let seen = interrupts.count();
    interrupts.pause();
    let heard = askers.map(|asker| asker.join().unwrap());
    let later = interrupts.count();
    let mut numbers: Vec<usize> = heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Idle => None,
            Heard::Asked(n) => Some(*n),
        })
        .collect();
    numbers.sort_unstable();
    let before =
        numbers.len().checked_sub(later).expect("nobody asked the second answer to end, and it was told");
    assert!(seen <= before, "{seen} seen by the first answer, {before} asked it: {heard:?}");
    let mut counted: Vec<usize> = (1..=before).chain(1..=later).collect();
    counted.sort_unstable();
    assert_eq!(numbers, counted, "{heard:?}, {later} for the second answer");
}

#[test]
fn interrupts_are_heard_by_whom_they_meet() {
    orders("two interrupts, two answers", everyone_is_heard::<Interrupts>);
}

/// Negative control: with the pause in a word of its own, a request to end the first answer may reach the second.
#[test]
#[should_panic]
fn two_words_are_not_enough() {
    #[derive(Clone, Default)]
    struct TwoWords {
        count: Arc<loom::sync::atomic::AtomicUsize>,
        idle: Arc<loom::sync::atomic::AtomicBool>,
    }
    impl Promise for TwoWords {
        fn ask(&self) -> Heard {
            if self.idle.load(Ordering::SeqCst) {
                return Heard::Idle;
            }
            Heard::Asked(self.count.fetch_add(1, Ordering::SeqCst) + 1)
        }

        fn count(&self) -> usize {
            self.count.load(Ordering::SeqCst)
        }

        fn pause(&self) {
            self.idle.store(true, Ordering::SeqCst);
            thread::yield_now();
            self.idle.store(false, Ordering::SeqCst);
            self.count.store(0, Ordering::SeqCst);
        }
    }
    orders("two words", everyone_is_heard::<TwoWords>);
}

/// A pool that several threads hold blocks of, and how often each block is in a table of any of them.
type Shared = Mutex<(BlockPool, Vec<u32>)>;

/// Two requests with the same prefix and one with another, on three threads and four blocks of two positions: each
/// takes what it finds and covers its tokens, publishes, and gives all back, in any order of these three.
fn requests_meet(fault: Option<Fault>) {
    const PROMPTS: [&[TokenId]; 3] = [&[1, 2, 3], &[1, 2, 4], &[5, 6]];
    let mut pool = BlockPool::new(4, 2, true);
    pool.fault = fault;
    let shared = Arc::new(Mutex::new((pool, vec![0; 4])));
    let mut threads: Vec<_> = PROMPTS[1..]
        .iter()
        .map(|prompt| {
            let shared = shared.clone();
            thread::spawn(move || request(&shared, prompt))
        })
        .collect();
    request(&shared, PROMPTS[0]);
    threads.drain(..).for_each(|thread| thread.join().unwrap());
    let (pool, held) = &*shared.lock().unwrap();
    pool.check(held);
    assert_eq!((held.as_slice(), pool.available()), (&[0; 4][..], 4), "all is given back");
}

/// One request's way through the pool, the lock given back between any two operations.
fn request(shared: &Shared, prompt: &[TokenId]) {
    let mut table = BlockTable::default();
    let mut change = |act: fn(&mut BlockTable, &[TokenId], &mut BlockPool) -> bool| {
        let (pool, held) = &mut *shared.lock().unwrap();
        table.blocks().iter().for_each(|&block| held[block as usize] -= 1);
        let done = act(&mut table, prompt, pool);
        table.blocks().iter().for_each(|&block| held[block as usize] += 1);
        pool.check(held);
        done
    };
    // Who finds no block computes nothing and gives back what it found.
    let covered = change(|table, prompt, pool| {
        table.attach(prompt, prompt.len() - 1, pool);
        table.cover(prompt.len(), pool)
    });
    if covered {
        change(|table, prompt, pool| {
            table.publish(prompt, pool);
            true
        });
    }
    change(|table, _, pool| {
        table.release(pool);
        true
    });
}

#[test]
fn accounting_is_exact_in_every_order() {
    orders("three requests at one pool", || requests_meet(None));
}

/// Negative control: a holder that is not counted is noticed.
#[test]
#[should_panic]
fn an_uncounted_holder_is_noticed() {
    orders("a fault", || requests_meet(Some(Fault::UncountedHolder)));
}
