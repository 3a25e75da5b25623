//! A job that is killed at any moment loses no line and writes none twice. `ENTROPIX_KILLS=200` makes a campaign of
//! it; `scripts/campaign/crash` does.

use crate::program::{Place, finish, tiny};
use crate::resume::sorted;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const N_REQUESTS: usize = 120;

fn input() -> String {
    let line = |i: usize| {
        let (n, long) = (4 + i % 13, i.is_multiple_of(7));
        let prompt = if long { "Once upon a time ".repeat(4) } else { format!("The sky {i}") };
        // One in twenty fails.
        let prompt = if i % 20 == 19 { String::new() } else { prompt };
        format!("{{\"id\": \"r{i}\", \"prompt\": {prompt:?}, \"max_tokens\": {n}, \"ignore_eos\": true}}\n")
    };
    (0..N_REQUESTS).map(line).collect()
}

fn args<'a>(output: &'a str, model: &'a str) -> Vec<&'a str> {
    let mut args = vec!["batch", "-i", "in", "-o", output, "-m", model, "-b", "4", "--threads", "1"];
    args.extend(["--policy", "sample", "--sync-every", "3", "-q"]);
    args
}

/// Numbers that look random (an affine congruence modulo 2^64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// What an undisturbed run writes, and how long it takes.
fn undisturbed(place: &Place, model: &str) -> (String, Duration) {
    let started = Instant::now();
    let ended = finish(&mut place.command(args("whole", model)), b"");
    ended.expect(3, "");
    let time = started.elapsed();
    let whole = sorted(place, "whole");
    assert_eq!(whole.lines().count(), N_REQUESTS);
    (whole, time)
}

/// Every whole line in `out` is one of the undisturbed run's, and none stands there twice.
fn check_lines(place: &Place, whole: &BTreeSet<&str>, told: &str) -> usize {
    let text = std::fs::read(place.path("out")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    let lines: BTreeSet<&str> = text[..end].lines().collect();
    assert_eq!(lines.len(), text[..end].lines().count(), "{told}: a line stands there twice");
    assert!(lines.is_subset(whole), "{told}: a line is not what an undisturbed run writes");
    lines.len()
}

#[test]
fn kill_9_at_random_moments() {
    let n_kills = std::env::var("ENTROPIX_KILLS").map_or(20, |n| n.parse().unwrap());
    let place = Place::new();
    place.put("in", input());
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let (whole, time) = undisturbed(&place, model);
    let lines: BTreeSet<&str> = whole.lines().collect();
    let mut dice = Dice(n_kills);
    let (mut n_killed, mut n_runs, mut n_done_before) = (0, 0, 0);
    while n_killed < n_kills {
        n_runs += 1;
        let mut child = place
            .command(args("out", model))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(dice.below(time.as_micros() as u64)));
        child.kill().unwrap();
        let killed = child.wait().unwrap().code().is_none();
        n_killed += u64::from(killed);
        let n_done = check_lines(&place, &lines, &format!("run {n_runs}"));
        assert!(n_done >= n_done_before, "run {n_runs}: lines were lost");
        n_done_before = n_done;
        if n_done == N_REQUESTS {
            assert_eq!(sorted(&place, "out"), whole);
            std::fs::remove_file(place.path("out")).unwrap();
            n_done_before = 0;
        }
    }
    finish(&mut place.command(args("out", model)), b"");
    assert_eq!(sorted(&place, "out"), whole);
    println!("{n_killed} kills in {n_runs} runs: 0 lines lost, 0 twice, bytes equal");
}

/// strace with what it is to do to the program; none where strace may not be used.
fn strace(place: &Place, call: &str, what: &str, n: usize, args: &[&str]) -> Option<Command> {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: strace is not installed or not permitted here");
        return None;
    }
    let mut command = Command::new("strace");
    // With the path of every descriptor.
    command.args(["-f", "-qq", "-y", "-o", "trace", &format!("--trace={call}")]);
    command.arg(format!("--inject={call}:{what}:when={n}"));
    command.arg(env!("CARGO_BIN_EXE_entropix")).args(args).current_dir(place.path(""));
    command.env("XDG_CACHE_HOME", place.path("cache"));
    Some(command)
}

/// How a run that was disturbed ended.
struct Disturbance {
    /// Whether it was.
    happened: bool,
    /// The call that failed, as strace shows it.
    call: String,
    /// None for one that was killed.
    code: Option<i32>,
    stderr: String,
}

impl Disturbance {
    fn of(place: &Place, mut command: Command) -> Self {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains("panicked"), "{stderr}");
        let trace = std::fs::read_to_string(place.path("trace")).unwrap();
        let call = trace.lines().find(|line| line.contains("INJECTED")).unwrap_or_default().to_owned();
        let code = output.status.code();
        Self { happened: !call.is_empty() || code.is_none(), call, code, stderr }
    }

    /// What a failed call makes of the job: one that was only interrupted nothing, one that touched what the job writes
    /// an end that says how to go on, another (a file of the processor's, say) an end in order.
    fn check(&self, place: &Place, error: &str, told: &str) {
        let code = self.code.unwrap_or_else(|| panic!("{told}: ended by a signal"));
        let touches = |name: &str| self.call.contains(place.path(name).to_str().unwrap());
        // Its name is on the disk when the folder is.
        let is_folder =
            self.call.contains(&format!("<{}>", place.path("").to_str().unwrap().trim_end_matches('/')));
        if !self.happened || error == "EINTR" {
            assert!([0, 3].contains(&code), "{told}: exit code {code}: {}", self.stderr);
        } else if touches("out") || is_folder {
            assert_eq!(code, 74, "{told}: {}: {}", self.call, self.stderr);
            assert!(self.stderr.contains("give the same command again"), "{told}: {}", self.stderr);
        } else {
            assert!([0, 3, 66, 74, 75].contains(&code), "{told}: exit code {code}: {}", self.stderr);
        }
    }
}

/// A small job whose every touch of the disk can be disturbed in turn.
struct Disturbed {
    place: Place,
    model: String,
    whole: String,
    /// Of an undisturbed run with one, but for the lines that name the job.
    trace: Vec<String>,
}

/// What an output of a job holds before it is given again.
struct Before<'a> {
    lines: &'a str,
    more: &'a [&'a str],
}

impl Disturbed {
    fn new() -> Self {
        let place = Place::new();
        let lines: Vec<String> = input().lines().take(6).map(|line| format!("{line}\n")).collect();
        place.put("in", lines.concat());
        let model = tiny("llama-tied.Q4_1.gguf").to_str().unwrap().to_owned();
        let mut args = args("whole", &model);
        args.extend(["--retry-errors", "--trace", "traced"]);
        finish(&mut place.command(args), b"").expect(0, "");
        let (whole, trace) = (sorted(&place, "whole"), events(&place, "traced"));
        Self { place, model, whole, trace }
    }

    /// A torn output of which a line is to be tried again: the file is replaced by one without it.
    fn torn_with_an_error(&self) -> String {
        let first = self.whole.lines().next().unwrap();
        let id = first.split('"').nth(3).unwrap();
        let (hash, _) = first.split_once("\"request\":\"").unwrap().1.split_once('"').unwrap();
        format!("{{\"id\":{id:?},\"request\":{hash:?},\"error\":{{\"code\":\"x\"}}}}\n{{\"id\":\"r")
    }

    /// Runs the job with `what` done to the n-th call of `call`, n = 1, 2, ..., each time from `before`, and lets it
    /// go on undisturbed, until a run has fewer such calls. Says how many there were.
    fn every_call(&self, call: &str, what: &str, before: &Before) -> Option<usize> {
        let place = &self.place;
        let lines: BTreeSet<&str> = self.whole.lines().collect();
        let is_traced = before.more.contains(&"--trace");
        for n in 1.. {
            for name in ["out", "out.manifest.json", "tr"] {
                let _ = std::fs::remove_file(place.path(name));
            }
            if !before.lines.is_empty() {
                place.put("out", before.lines);
                std::fs::copy(place.path("whole.manifest.json"), place.path("out.manifest.json")).unwrap();
            }
            let mut args = args("out", &self.model);
            args.extend(before.more);
            let told = format!("{call} {n} {what} {:?}", before.more);
            let disturbance = Disturbance::of(place, strace(place, call, what, n, &args)?);
            if let Some(error) = what.strip_prefix("error=") {
                disturbance.check(place, error, &told);
            }
            if before.lines.is_empty() {
                check_lines(place, &lines, &told);
            }
            let ended = finish(&mut place.command(args), b"");
            assert!([0, 3].contains(&ended.code), "{told}\nthen: {}", ended.stderr);
            assert_eq!(sorted(place, "out"), self.whole, "{told}");
            assert!(!is_traced || events(place, "tr") == self.trace, "{told}: the trace is another");
            assert!(!place.path("out.partial").exists(), "{told}");
            if !disturbance.happened {
                return Some(n - 1);
            }
        }
        unreachable!("the loop ends when a run has fewer calls");
    }
}

/// The lines of a trace in order, but for those that name the job, of which each run writes one.
fn events(place: &Place, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(place.path(name)).unwrap();
    let mut lines: Vec<String> =
        text.lines().filter(|line| !line.contains("\"trace\"")).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

const ANEW: Before = Before { lines: "", more: &[] };

#[test]
fn kill_9_at_every_write_fsync_and_rename() {
    let job = Disturbed::new();
    for call in ["write", "fsync", "fdatasync", "rename"] {
        let Some(n) = job.every_call(call, "signal=KILL", &ANEW) else { return };
        println!("killed at each of {n} calls of {call}: 0 lines lost, 0 twice, bytes equal");
        assert!(n > 0, "there is no {call}");
    }
    let torn = job.torn_with_an_error();
    for call in ["write", "fsync", "fdatasync", "rename", "ftruncate"] {
        let n =
            job.every_call(call, "signal=KILL", &Before { lines: &torn, more: &["--retry-errors"] }).unwrap();
        println!("replacing, killed at each of {n} calls of {call}: 0 lines lost, 0 twice, bytes equal");
        assert!(n > 0, "there is no {call}");
    }
    for call in ["write", "ftruncate"] {
        let n = job.every_call(call, "signal=KILL", &Before { lines: "", more: &["--trace", "tr"] }).unwrap();
        println!("tracing, killed at each of {n} calls of {call}: every event stands in the trace once");
    }
}

#[test]
fn every_io_error_leaves_an_output_to_go_on_with() {
    let job = Disturbed::new();
    let torn = job.torn_with_an_error();
    for before in [ANEW, Before { lines: &torn, more: &["--retry-errors"] }] {
        for (call, error) in [
            ("write", "ENOSPC"),
            ("write", "EIO"),
            ("write", "EDQUOT"),
            ("write", "EINTR"),
            ("fdatasync", "EIO"),
            ("fdatasync", "ENOSPC"),
            ("fsync", "EIO"),
            ("rename", "EIO"),
            ("ftruncate", "EIO"),
        ] {
            let Some(n) = job.every_call(call, &format!("error={error}"), &before) else { return };
            let when = if before.lines.is_empty() { "" } else { "replacing, " };
            println!("{when}{error} at each of {n} calls of {call}: a typed end, and the next run goes on");
            assert!(n > 0 || call == "ftruncate" && before.lines.is_empty(), "there is no {call}");
        }
    }
}

/// An input that fails under the job ends it as a full disk does.
#[test]
fn an_input_that_cannot_be_read_is_gone_on_with() {
    let job = Disturbed::new();
    let place = &job.place;
    let input = place.path("in").canonicalize().unwrap();
    let mut n_told = 0;
    for n in 1..100 {
        for name in ["out", "out.manifest.json"] {
            let _ = std::fs::remove_file(place.path(name));
        }
        let arguments = args("out", &job.model);
        let Some(mut command) = strace(place, "read", "error=EIO", n, &arguments) else { return };
        let rest: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut of_input = Command::new("strace");
        of_input.arg("-P").arg(&input).args(rest).current_dir(place.path(""));
        of_input.env("XDG_CACHE_HOME", place.path("cache"));
        command = of_input;
        let disturbance = Disturbance::of(place, command);
        if !disturbance.happened {
            assert!(n > 2 && n_told > 0, "the job was never disturbed");
            return;
        }
        assert_eq!(disturbance.code, Some(74), "read {n}: {}", disturbance.stderr);
        if place.path("out").exists() {
            assert!(disturbance.stderr.contains("give the same command again"), "{}", disturbance.stderr);
            n_told += 1;
        }
        assert!([0, 3].contains(&finish(&mut place.command(&arguments), b"").code));
        assert_eq!(sorted(place, "out"), job.whole, "read {n}");
    }
}

/// What is merged stands there whole under its own manifest, or is what stood there before under that.
#[test]
fn kill_9_at_every_touch_of_a_merge() {
    let place = Place::new();
    place.put("in", input());
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let merge = |seed: &str| {
        let parts = [format!("{seed}-0"), format!("{seed}-1")];
        ["merge", "-o", "out", &parts[0], &parts[1], "--overwrite"].map(str::to_owned)
    };
    let files = || {
        let read = |name: &str| std::fs::read(place.path(name)).ok();
        (read("out"), read("out.manifest.json"))
    };
    let [old, new] = ["1", "2"].map(|seed| {
        for (i, shard) in ["0/2", "1/2"].iter().enumerate() {
            let output = format!("{seed}-{i}");
            let more = ["--seed", seed, "--shard", shard];
            finish(&mut place.command(args(&output, model).iter().chain(&more)), b"").expect(3, "");
        }
        place.run(merge(seed)).expect(0, "");
        files()
    });
    assert!(old.0 != new.0 && old.1 != new.1);
    for call in ["write", "fsync", "rename", "unlink"] {
        for n in 1.. {
            place.run(merge("1")).expect(0, "");
            let again = merge("2");
            let again = again.each_ref().map(String::as_str);
            let Some(command) = strace(&place, call, "signal=KILL", n, &again) else { return };
            let disturbance = Disturbance::of(&place, command);
            let (lines, manifest) = files();
            let is_whole = [&old, &new].contains(&&(lines.clone(), manifest.clone()));
            let is_nobodys = manifest.is_none() && [&old.0, &new.0].contains(&&lines);
            assert!(is_whole || is_nobodys, "{call} {n}: lines of one job under the manifest of another");
            place.run(merge("2")).expect(0, "");
            assert_eq!(files(), new, "{call} {n}");
            if !disturbance.happened {
                println!(
                    "merging, killed at each of {} calls of {call}: nothing under another's manifest",
                    n - 1
                );
                assert!(n > 1, "there is no {call}");
                break;
            }
        }
    }
}
