//! What the pool is made of: the standard library's threads and atomics, or with `--cfg loom` those that try every
//! order (`scripts/campaign/loom`).

#[cfg(loom)]
pub(super) use loom::{
    sync::{Arc, Mutex, atomic},
    thread,
};
use std::time::Duration;
#[cfg(not(loom))]
pub(super) use std::{
    sync::{Arc, Mutex, atomic},
    thread,
};

/// How long a spinning thread does so with PAUSE alone.
#[cfg(not(loom))]
const PAUSE_ALONE: Duration = Duration::from_micros(30);
/// PAUSEs between two looks at the clock.
#[cfg(not(loom))]
const PAUSES_A_LOOK: u32 = 32;

/// Whether `done` became true while waiting for about `time` without sleeping: first with PAUSE alone, then
/// giving the processor away in between, in case the thread that is waited for stands in line for this very one.
#[cfg(not(loom))]
pub(super) fn spin_until(time: Duration, done: impl Fn() -> bool) -> bool {
    let start = std::time::Instant::now();
    loop {
        for _ in 0..PAUSES_A_LOOK {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let waited = start.elapsed();
        if waited > time {
            return done();
        }
        if waited > PAUSE_ALONE {
            std::thread::yield_now();
        }
    }
}

/// The same where there is no time: one look, and another when others went on.
#[cfg(loom)]
pub(super) fn spin_until(_: Duration, done: impl Fn() -> bool) -> bool {
    done() || {
        thread::yield_now();
        done()
    }
}

#[cfg(loom)]
thread_local! {
    /// Set by the negative control of the orders.
    pub(super) static WITHOUT_FENCES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Says to loom what `SeqCst` on the operations before and after means; loom takes it for less on operations, not on
/// fences. The processor needs no telling.
#[inline]
pub(super) fn full_fence() {
    #[cfg(loom)]
    if !WITHOUT_FENCES.get() {
        atomic::fence(atomic::Ordering::SeqCst);
    }
}
