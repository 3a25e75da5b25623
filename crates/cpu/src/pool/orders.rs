//! Regions in every order of their threads. Runs with `--cfg loom` only: `scripts/campaign/loom`.

use super::sync::WITHOUT_FENCES;
use super::*;
use std::sync::atomic::{AtomicUsize as Counter, Ordering::Relaxed};

/// Runs regions of `n_tasks` on a pool of `n_threads` in every order with at most so many preemptions, and ends the
/// pool.
fn regions(name: &str, n_threads: usize, n_tasks: &'static [usize], preemptions: Option<usize>) {
    let n = std::sync::Arc::new(Counter::new(0));
    let counted = n.clone();
    let mut builder = loom::model::Builder::new();
    let more = usize::from(std::env::var_os("ENTROPIX_PREEMPTIONS").is_some());
    let bound = preemptions.map(|most| most + more);
    builder.preemption_bound = bound;
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        let pool = Pool::new(n_threads).unwrap();
        for &n_tasks in n_tasks {
            let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(n_tasks, &|task, thread| {
                assert!(thread < n_threads);
                counts[task].fetch_add(1, Relaxed);
            });
            // Relaxed: that the caller sees what the workers wrote is the pool's to see to.
            assert!(counts.iter().all(|count| count.load(Relaxed) == 1), "a task was left out or ran twice");
        }
    });
    println!("{name}, preemptions at most {bound:?}: {} orders", n.load(Relaxed));
}

#[test]
fn two_threads_one_region() {
    regions("two threads, one region", 2, &[2], None);
}

#[test]
fn two_threads_two_regions() {
    regions("two threads, two regions", 2, &[2, 3], Some(3));
}

#[test]
fn three_threads_one_region() {
    regions("three threads, one region", 3, &[3], Some(1));
}

/// Negative control: without the order that `SeqCst` gives, somebody parks who is never woken. In a process of its own,
/// since loom cannot be asked for anything after a deadlock, not even to drop a lock.
#[test]
fn a_lost_wake_up_is_noticed() {
    const ALONE: &str = "ENTROPIX_WITHOUT_FENCES";
    if std::env::var_os(ALONE).is_some() {
        WITHOUT_FENCES.set(true);
        return regions("without fences", 2, &[2, 2], Some(3));
    }
    let name = "pool::orders::a_lost_wake_up_is_noticed";
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = alone.args([name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && told.contains("deadlock"), "{told}");
}
