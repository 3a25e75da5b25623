//! A job, a reader of its output, and somebody who interrupts it, in many orders: shuttle chooses who goes on at every
//! step, answer and line. `ENTROPIX_SCHEDULES=100000` makes a campaign of it; `scripts/campaign/races` does.
#![forbid(unsafe_code)]

use entropix::jobs::manifest::{EngineRecord, InputRecord, ModelRecord, PromptRecord};
use entropix::jobs::params::Params;
use entropix::jobs::{
    BadLine, BatchJob, Choice, Done, Flow, InputOptions, JobInput, JobRequest, Ledger, Manifest, Observer,
    PlainText, Preparation, Resume, RowHead, Shard, SignalsLevel, Sink, SyncEvery, pending,
};
use entropix::text::Special;
use entropix::{Error, Session, SessionOptions};
use entropix_engine::{Interrupts, Stats};
use shuttle::rand::Rng;
use shuttle::scheduler::{RandomScheduler, Scheduler};
use shuttle::thread::{self, yield_now};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const INPUT: &str = concat!(
    r#"{"id": "a", "prompt": "The sky", "max_tokens": 3, "ignore_eos": true}"#,
    "\n",
    r#"{"id": "b", "prompt": "", "max_tokens": 1}"#,
    "\n",
    r#"{"id": "c", "prompt": "Once upon", "max_tokens": 1, "ignore_eos": true}"#,
    "\n",
    r#"{"id": "d", "prompt": "I", "max_tokens": 2, "ignore_eos": true}"#,
    "\n",
);

/// What all schedules share: opening a model takes longer than answering with it.
struct Place {
    folder: tempfile::TempDir,
    session: Session,
    job: BatchJob,
}

thread_local!(static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) });

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        std::fs::write(folder.path().join("in"), INPUT).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/llama-tied.Q4_1.gguf");
        let options = SessionOptions {
            threads: Some(1),
            max_rows: 2,
            max_context: Some(32),
            ..SessionOptions::default()
        };
        let session = Session::open(&model, &options).unwrap();
        let job = BatchJob {
            policy: session.policy("sample", &[]).unwrap(),
            preparation: Preparation { special: Special::Text, system: None },
            defaults: Params::default(),
            signals: SignalsLevel::Off,
            max_in_flight: 3,
            fail_fast: false,
            trace_candidates: None,
        };
        Self { folder, session, job }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Runs the job, or goes on with it, as `entropix batch` does.
    fn run(&mut self, interrupts: &Interrupts, fault: Option<Fault>) -> Flow {
        let input =
            JobInput::open(&self.folder.path().join("in"), InputOptions::new(PlainText::Raw)).unwrap();
        let resume = Resume { overwrite: false, force: false, retry_errors: false };
        let ledger = Ledger::open(&self.output(), input.file(), resume, SyncEvery::Lines(2)).unwrap();
        yield_now();
        let (lines, done) = ledger.begin(&mut manifest(), None).unwrap();
        let done = if fault == Some(Fault::Forgetful) { Done::default() } else { done };
        let mut sink = Sink::new(lines);
        let items = pending(input.items::<JobRequest>(BadLine::Fail).unwrap(), Shard::WHOLE, &done);
        let items = items.inspect(|_| yield_now());
        let mut observer = Watch { interrupts };
        let ended = self.job.run(&mut self.session, items, &mut sink, None, &mut observer).unwrap();
        sink.finish().unwrap();
        // A program that stops at once ends here, and with it what its engine had begun.
        let mut events = Vec::new();
        while !self.session.engine().is_idle() {
            self.session.engine().step(&mut events).unwrap();
        }
        ended.flow
    }
}

/// A fault that the test must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// What an earlier run did is done again.
    Forgetful,
}

struct Watch<'a> {
    interrupts: &'a Interrupts,
}

impl Observer for Watch<'_> {
    fn finished(&mut self, _: &str, _: &[Choice]) {
        yield_now();
    }

    fn failed(&mut self, _: &str, _: &Error) {
        yield_now();
    }

    fn stepped(&mut self, _: &Stats) -> Flow {
        yield_now();
        Flow::asked(self.interrupts.count())
    }
}

fn manifest() -> Manifest {
    let text = |s: &str| s.to_owned();
    Manifest::new(
        "batch",
        EngineRecord { version: text("0"), commit: text("0") },
        InputRecord { path: text("in"), format: text("jsonl"), sha256: None, requests: None },
        ModelRecord {
            name: text("tiny"),
            path: text("tiny"),
            sha256: text("0"),
            precision: text("int8"),
            kernel_path: text("any"),
            kv_cache: None,
            fast: None,
            context: 32,
        },
        PromptRecord {
            plain: text("raw"),
            system: None,
            special: text("text"),
            template: None,
            template_file: None,
            date: Some(text("2025-11-21")),
        },
    )
}

/// The lines that stand in the output; every one is whole, whoever looks when.
fn lines(output: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(output).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
    for line in text.lines() {
        RowHead::read(line.as_bytes()).unwrap();
    }
    text.lines().map(str::to_owned).collect()
}

/// What the schedules were, so that a test which never meets anything is noticed.
#[derive(Debug, Default)]
struct Met {
    whole: AtomicUsize,
    drained: AtomicUsize,
    stopped: AtomicUsize,
    /// A reader saw some lines and not all.
    read_between: AtomicUsize,
}

/// One job, twice interrupted and once gone on with, and a reader.
fn schedule(fault: Option<Fault>, met: &Met) {
    PLACE.with_borrow_mut(|place| {
        let output = place.get_or_insert_with(Place::new).output();
        for path in [output.clone(), entropix::jobs::manifest_path(&output)] {
            let _ = std::fs::remove_file(path);
        }
    });
    let output = PLACE.with_borrow(|place| place.as_ref().unwrap().output());
    let interrupts = Interrupts::default();
    let asker = {
        let interrupts = interrupts.clone();
        thread::spawn(move || {
            for _ in 0..2 {
                // Asked twice at once, a job would never end the gentle way.
                (0..shuttle::rand::thread_rng().gen_range(1..16)).for_each(|_| yield_now());
                interrupts.ask();
            }
        })
    };
    let reader = {
        let output = output.clone();
        thread::spawn(move || {
            let mut before: Vec<String> = Vec::new();
            let mut between = false;
            for _ in 0..4 {
                yield_now();
                let now = lines(&output);
                assert!(now.starts_with(&before), "a line is gone: {before:?}, then {now:?}");
                between |= (1..4).contains(&now.len());
                before = now;
            }
            between
        })
    };
    let mut place = PLACE.with_borrow_mut(Option::take).unwrap();
    let flow = place.run(&interrupts, None);
    let first = lines(&output);
    asker.join().unwrap();
    met.read_between.fetch_add(usize::from(reader.join().unwrap()), Relaxed);
    let end = place.run(&Interrupts::default(), fault);
    PLACE.set(Some(place));
    assert_eq!(end, Flow::Continue);
    match flow {
        Flow::Continue => &met.whole,
        Flow::Drain => &met.drained,
        Flow::Stop | Flow::Fail => &met.stopped,
    }
    .fetch_add(1, Relaxed);
    let all = lines(&output);
    assert!(all.starts_with(&first), "what was written is gone: {first:?}, then {all:?}");
    assert_eq!(all.len(), 4, "lost or doubled: {all:?}");
    let all: BTreeSet<String> = all.into_iter().collect();
    thread_local!(static WHOLE: RefCell<Option<BTreeSet<String>>> = const { RefCell::new(None) });
    WHOLE.with_borrow_mut(|whole| assert_eq!(whole.get_or_insert_with(|| all.clone()), &all, "other bytes"));
}

fn run(scheduler: impl Scheduler + 'static, fault: Option<Fault>) -> std::sync::Arc<Met> {
    let mut config = shuttle::Config::new();
    // The engine runs on the stack of a schedule's thread.
    config.stack_size = 1 << 20;
    let met = std::sync::Arc::new(Met::default());
    let told = met.clone();
    shuttle::Runner::new(scheduler, config).run(move || schedule(fault, &told));
    met
}

#[test]
fn no_order_loses_or_doubles_a_line() {
    let n = std::env::var("ENTROPIX_SCHEDULES").map_or(500, |n| n.parse().unwrap());
    let met = run(RandomScheduler::new(n), None);
    println!("{n} schedules: 0 lines lost, 0 twice, 0 torn, bytes equal; {met:?}");
    for (what, n_met) in
        [("drained", &met.drained), ("stopped", &met.stopped), ("read between", &met.read_between)]
    {
        assert!(n_met.load(Relaxed) * 50 > n, "hardly any schedule {what}: {met:?}");
    }
}

/// Negative control.
#[test]
#[should_panic(expected = "lost or doubled")]
fn a_job_that_forgets_is_noticed() {
    run(RandomScheduler::new(100), Some(Fault::Forgetful));
}
