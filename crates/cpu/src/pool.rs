//! A pool of threads for very short parallel regions.
//!
//! A decode step runs over a hundred regions of tens of microseconds each, so waking a thread through the
//! kernel for every one of them would cost more than the work. Workers therefore spin on one word (PAUSE,
//! for a bounded time), and only then park. An idle engine burns no processor time.
//!
//! Tasks are dealt out in contiguous ranges, so a task of one region meets the cache its neighbour of the
//! last region left warm; a thread that is through with its own range takes from the end of another's, so one
//! core that the system took away does not stall the rest. Which thread runs a task never changes a result:
//! a task computes its outputs alone and in one order.
#![allow(unsafe_code)]

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::time::Duration;
use sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use sync::thread::{self, JoinHandle, Thread};
use sync::{Arc, Mutex, full_fence, spin_until};

mod sync;

/// How long a thread spins before it parks: longer than the pause between two steps of a busy engine.
const SPIN: Duration = Duration::from_micros(1500);
/// The same when there are more threads than processors, where spinning takes time from a thread with work.
const SPIN_CROWDED: Duration = Duration::from_micros(20);
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Keeps what one thread writes often away from what another reads.
#[repr(align(128))]
struct Padded<T>(T);

/// One thread's share of the tasks of a region: the first and the end, packed so that the owner (who takes
/// the first) and the others (who take the last) can both take one with a single exchange.
struct Share(Padded<AtomicU64>);

/// The tasks of a region that are dealt to a thread, which runs them in their order unless others take some from the end.
pub(crate) fn share(n_tasks: usize, thread: usize, n_threads: usize) -> Range<usize> {
    let first = |thread: usize| (n_tasks * thread).div_ceil(n_threads);
    first(thread)..first(thread + 1)
}

impl Share {
    fn set(&self, Range { start: first, end }: Range<usize>) {
        self.0.0.store((first as u64) << 32 | end as u64, Ordering::Relaxed);
    }

    fn take(&self, from_the_end: bool) -> Option<usize> {
        let mut now = self.0.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = (now >> 32, now & u64::from(u32::MAX));
            if first >= end {
                return None;
            }
            let (task, next) = if from_the_end { (end - 1, now - 1) } else { (first, now + (1 << 32)) };
            match self.0.0.compare_exchange_weak(now, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(task as usize),
                Err(other) => now = other,
            }
        }
    }
}

struct Shared {
    /// Counts regions; a worker that sees it change runs the region in `task`.
    epoch: Padded<AtomicU32>,
    /// Workers still busy with the region.
    busy: Padded<AtomicUsize>,
    /// The region's closure with its lifetime erased; valid while `busy` > 0. Two words of a fat pointer.
    task: [AtomicUsize; 2],
    shares: Vec<Share>,
    /// (n_threads - 1) whether worker i is parked or about to be.
    parked: Vec<Padded<AtomicBool>>,
    /// Whether the caller is parked or about to be, and its handle.
    caller_parked: AtomicBool,
    caller: Mutex<Option<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    spin: Duration,
}

/// A fixed set of threads that run regions together with the thread that asks for them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a region: regions do not overlap and do not nest.
    region: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("n_threads", &self.n_threads()).finish()
    }
}

impl Pool {
    /// A pool of `n_threads` threads, the caller of [`Pool::run`] being one of them; 0 counts as 1.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(n_threads: usize) -> std::io::Result<Self> {
        let n_threads = n_threads.max(1);
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            epoch: Padded(AtomicU32::new(0)),
            busy: Padded(AtomicUsize::new(0)),
            task: [AtomicUsize::new(0), AtomicUsize::new(0)],
            shares: (0..n_threads).map(|_| Share(Padded(AtomicU64::new(0)))).collect(),
            parked: (1..n_threads).map(|_| Padded(AtomicBool::new(false))).collect(),
            caller_parked: AtomicBool::new(false),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spin: if n_threads > processors { SPIN_CROWDED } else { SPIN },
        });
        let mut pool = Self { shared, workers: Vec::new(), region: Mutex::new(()) };
        for thread in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("entropix-cpu-{thread}"))
                .spawn(move || work(&shared, thread))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that take part in a region.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(task, thread)` for every task in 0..n_tasks and returns when all are done; `thread` is in
    /// 0..n_threads and no two tasks with the same `thread` overlap, so it may index scratch memory.
    ///
    /// # Panics
    /// When a task panics (after all others are done or given up), with that panic; when called from a task.
    pub fn run(&self, n_tasks: usize, f: &Task<'_>) {
        if self.workers.is_empty() || n_tasks <= 1 {
            for task in 0..n_tasks {
                f(task, 0);
            }
            return;
        }
        assert!(n_tasks <= u32::MAX as usize, "{n_tasks} tasks in one region; at most {}", u32::MAX);
        let guard = match self.region.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => panic!("a parallel region inside or beside another"),
        };
        let shared = &*self.shared;
        let n_threads = self.n_threads();
        for (thread, of_thread) in shared.shares.iter().enumerate() {
            of_thread.set(share(n_tasks, thread, n_threads));
        }
        // SAFETY: a fat pointer is two words; `restore` turns the same words back.
        let words: [usize; 2] = unsafe { std::mem::transmute(std::ptr::from_ref(f)) };
        shared.task[0].store(words[0], Ordering::Relaxed);
        shared.task[1].store(words[1], Ordering::Relaxed);
        shared.busy.0.store(self.workers.len(), Ordering::Relaxed);
        // SeqCst orders this store before the loads of `parked`; a worker stores `parked` before it looks at
        // `epoch` a last time, so one of the two sees the other.
        shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        full_fence();
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| drain(shared, 0, f)));
        if own.is_err() {
            give_up(shared);
        }
        shared.wait_for_workers();
        drop(guard);
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(payload) = own {
            resume_unwind(payload);
        }
        if let Some(payload) = theirs {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks, so joining cannot fail for a reason worth telling. In loom a join
            // must not be unparked, which a worker that was the last of a region may do late.
            #[cfg(not(loom))]
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn wait_for_workers(&self) {
        let done = || self.busy.0.load(Ordering::Acquire) == 0;
        if spin_until(self.spin, done) {
            return;
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_parked.store(true, Ordering::SeqCst);
        full_fence();
        while self.busy.0.load(Ordering::SeqCst) != 0 {
            thread::park();
        }
        self.caller_parked.store(false, Ordering::Relaxed);
    }
}

/// Runs tasks until none is left: the thread's own first, then others' from their ends.
fn drain(shared: &Shared, thread: usize, f: &Task<'_>) {
    while let Some(task) = shared.shares[thread].take(false) {
        f(task, thread);
    }
    let n_threads = shared.shares.len();
    for other in (1..n_threads).map(|i| (thread + i) % n_threads) {
        while let Some(task) = shared.shares[other].take(true) {
            f(task, thread);
        }
    }
}

/// Leaves the tasks that nobody began undone, after a panic.
fn give_up(shared: &Shared) {
    for share in &shared.shares {
        while share.take(true).is_some() {}
    }
}

fn work(shared: &Shared, thread: usize) {
    let parked = &shared.parked[thread - 1].0;
    let mut seen = 0;
    loop {
        let new = || shared.epoch.0.load(Ordering::Acquire) != seen;
        if !spin_until(shared.spin, new) {
            parked.store(true, Ordering::SeqCst);
            full_fence();
            while shared.epoch.0.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            parked.store(false, Ordering::Relaxed);
        }
        // One region at a time: the epoch cannot run ahead while this worker has not reported the last.
        seen = seen.wrapping_add(1);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let words = [shared.task[0].load(Ordering::Relaxed), shared.task[1].load(Ordering::Relaxed)];
        // SAFETY: `run` stored these words from a fat pointer of this type before it raised the epoch, and it
        // keeps the closure alive until this worker lowers `busy` below.
        let f: &Task<'_> = unsafe { &*std::mem::transmute::<[usize; 2], *const Task<'_>>(words) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drain(shared, thread, f))) {
            give_up(shared);
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        let was_last = shared.busy.0.fetch_sub(1, Ordering::SeqCst) == 1;
        full_fence();
        if was_last
            && shared.caller_parked.load(Ordering::SeqCst)
            && let Some(caller) = &*shared.caller.lock().unwrap_or_else(PoisonError::into_inner)
        {
            caller.unpark();
        }
    }
}

#[cfg(all(test, loom))]
mod orders;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn counts(pool: &Pool, n_tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(n_tasks, &|task, thread| {
            assert!(thread < pool.n_threads());
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for n_threads in [0, 1, 2, 3, 4, 9] {
            let pool = Pool::new(n_threads).unwrap();
            for n_tasks in [0, 1, 2, 3, 7, 64, 1000] {
                assert_eq!(counts(&pool, n_tasks), vec![1; n_tasks], "{n_threads} threads, {n_tasks} tasks");
            }
        }
    }

    #[test]
    fn shares_are_all_tasks_in_order_and_one_task_is_the_callers() {
        for n_threads in 1..9 {
            for n_tasks in 0..50 {
                let shares: Vec<_> = (0..n_threads).map(|thread| share(n_tasks, thread, n_threads)).collect();
                assert!(
                    shares.iter().cloned().flatten().eq(0..n_tasks),
                    "{n_tasks} for {n_threads}: {shares:?}"
                );
                assert!(
                    shares.iter().all(|share| share.len().abs_diff(n_tasks / n_threads) <= 1),
                    "{shares:?}"
                );
            }
            assert_eq!(share(1, 0, n_threads), 0..1);
        }
    }

    // Catches a lost wake-up (hangs) and a region that returns before its last task (a count of 0).
    #[test]
    fn regions_after_long_and_short_pauses_are_complete() {
        for n_threads in [2, 5] {
            let pool = Pool::new(n_threads).unwrap();
            for round in 0..3000 {
                assert_eq!(counts(&pool, 8), vec![1; 8]);
                if round % 300 == 0 {
                    std::thread::sleep(SPIN * 3);
                }
            }
        }
    }

    #[test]
    fn results_written_by_workers_are_seen_by_the_caller() {
        let pool = Pool::new(4).unwrap();
        let mut data = vec![0u64; 64];
        for round in 1..200u64 {
            let cells: Vec<Mutex<&mut u64>> = data.iter_mut().map(Mutex::new).collect();
            pool.run(64, &|task, _| **cells[task].lock().unwrap() += round);
        }
        assert_eq!(data, vec![199 * 200 / 2; 64]);
    }

    // Scratch memory indexed by `thread` is only sound if this holds.
    #[test]
    fn tasks_of_one_thread_never_overlap() {
        let pool = Pool::new(4).unwrap();
        let inside: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..500 {
            pool.run(32, &|_, thread| {
                assert!(!inside[thread].swap(true, Ordering::SeqCst), "thread {thread} runs two tasks");
                std::hint::spin_loop();
                inside[thread].store(false, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn a_panic_of_any_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for bad in [0, 5, 9] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(10, &|task, _| assert!(task != bad, "task {task} broke"));
            }));
            let payload = result.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("task {bad} broke"));
            assert_eq!(counts(&pool, 10), vec![1; 10]);
        }
    }

    #[test]
    fn a_nested_region_is_refused() {
        let pool = Pool::new(2).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(2, &|_, _| pool.run(2, &|_, _| ()))));
        assert!(result.is_err());
    }

    #[test]
    fn an_idle_pool_sleeps() {
        let pool = Pool::new(8).unwrap();
        counts(&pool, 8);
        let parked = || pool.shared.parked.iter().all(|parked| parked.0.load(Ordering::SeqCst));
        assert!(spin_until(Duration::from_secs(10), parked), "a worker never parked");
    }
}
