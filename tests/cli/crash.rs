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
fn strace(place: &Place, inject: &[String], args: &[&str]) -> Option<Command> {
    let probe = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: strace is not installed or not permitted here");
        return None;
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "trace"]);
    command.args(inject).arg(env!("CARGO_BIN_EXE_entropix")).args(args).current_dir(place.path(""));
    command.env("XDG_CACHE_HOME", place.path("cache"));
    Some(command)
}

/// A small job whose every touch of the disk can be disturbed in turn.
struct Disturbed {
    place: Place,
    model: String,
    whole: String,
}

impl Disturbed {
    fn new() -> Self {
        let place = Place::new();
        let lines: Vec<String> = input().lines().take(6).map(|line| format!("{line}\n")).collect();
        place.put("in", lines.concat());
        let model = tiny("llama-tied.Q4_1.gguf").to_str().unwrap().to_owned();
        let mut args = args("whole", &model);
        args.extend(["--retry-errors"]);
        finish(&mut place.command(args), b"").expect(0, "");
        let whole = sorted(&place, "whole");
        Self { place, model, whole }
    }

    /// Runs the job with `what` done to the n-th call of `call`, n = 1, 2, ..., each time from `before`, and lets it
    /// go on undisturbed, until a run has fewer such calls. Says how many there were.
    fn every_call(&self, call: &str, what: &str, before: &str, more: &[&str]) -> Option<usize> {
        let place = &self.place;
        for n in 1.. {
            for name in ["out", "out.manifest.json"] {
                let _ = std::fs::remove_file(place.path(name));
            }
            if !before.is_empty() {
                place.put("out", before);
                std::fs::copy(place.path("whole.manifest.json"), place.path("out.manifest.json")).unwrap();
            }
            let mut args = args("out", &self.model);
            args.extend(more);
            let inject = [format!("--trace={call}"), format!("--inject={call}:{what}:when={n}")];
            let mut command = strace(place, &inject, &args)?;
            let output = command.output().unwrap();
            let told = format!("{call} {n} {what}: {}", String::from_utf8_lossy(&output.stderr));
            let lines: BTreeSet<&str> = self.whole.lines().collect();
            if what.starts_with("error") {
                assert!(!told.contains("panicked"), "{told}");
                let code = output.status.code().unwrap_or_else(|| panic!("ended by a signal: {told}"));
                assert!([0, 3, 66, 74, 75].contains(&code), "exit code {code}: {told}");
            }
            let disturbed = std::fs::read_to_string(place.path("trace")).unwrap().contains("INJECTED")
                || output.status.code().is_none();
            if more.is_empty() {
                check_lines(place, &lines, &told);
            }
            let mut args = self::args("out", &self.model);
            args.extend(more);
            let ended = finish(&mut place.command(args), b"");
            assert!([0, 3].contains(&ended.code), "{told}\nthen: {}", ended.stderr);
            assert_eq!(sorted(place, "out"), self.whole, "{told}");
            if !disturbed {
                return Some(n - 1);
            }
        }
        unreachable!("the loop ends when a run has fewer calls");
    }
}

#[test]
fn kill_9_at_every_write_fsync_and_rename() {
    let job = Disturbed::new();
    for call in ["write", "fsync", "fdatasync", "rename", "ftruncate"] {
        let Some(n) = job.every_call(call, "signal=KILL", "", &[]) else { return };
        println!("killed at each of {n} calls of {call}: 0 lines lost, 0 twice, bytes equal");
    }
    // A torn output of which a line is to be tried again: the file is replaced by one without it.
    let first = job.whole.lines().next().unwrap();
    let id = first.split('"').nth(3).unwrap();
    let (hash, _) = first.split_once("\"request\":\"").unwrap().1.split_once('"').unwrap();
    let error = format!("{{\"id\":{id:?},\"request\":{hash:?},\"error\":{{\"code\":\"x\"}}}}\n{{\"id\":\"r");
    for call in ["write", "fsync", "fdatasync", "rename", "ftruncate"] {
        let n = job.every_call(call, "signal=KILL", &error, &["--retry-errors"]).unwrap();
        println!("replacing, killed at each of {n} calls of {call}: 0 lines lost, 0 twice, bytes equal");
    }
}

#[test]
fn every_io_error_leaves_an_output_to_go_on_with() {
    let job = Disturbed::new();
    for (call, error) in [
        ("write", "ENOSPC"),
        ("write", "EIO"),
        ("write", "EDQUOT"),
        ("write", "EINTR"),
        ("fdatasync", "EIO"),
        ("fsync", "EIO"),
        ("rename", "EIO"),
        ("ftruncate", "EIO"),
    ] {
        let Some(n) = job.every_call(call, &format!("error={error}"), "", &[]) else { return };
        println!("{error} at each of {n} calls of {call}: a typed end, and the next run goes on");
    }
}
