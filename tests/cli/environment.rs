//! Cases 85 to 87 of the bad-input catalogue: odd surroundings, small limits, signals.

use crate::program::{Place, finish, tiny, wait};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROMPT: &str = r#"{"prompt": "x", "max_tokens": 2}"#;

fn model() -> String {
    tiny("llama-tied.Q4_1.gguf").to_str().unwrap().to_owned()
}

#[test]
fn case_85_odd_surroundings() {
    let place = Place::new();
    place.put("in", PROMPT);
    let args = |output: &'static str| {
        ["batch".into(), "-i".into(), "in".into(), "-o".into(), output.into(), "-m".into(), model()]
    };
    let mut command = place.command::<String>(args("a"));
    command.env_remove("HOME").env_remove("XDG_CACHE_HOME").env("LANG", "C").env("LC_ALL", "C");
    finish(&mut command, b"").expect(0, "1 answered");
    let mut command = place.command::<String>(args("b"));
    finish(command.env("TMPDIR", "/no/such/folder"), b"").expect(0, "1 answered");
    // What cannot be read twice needs the temporary folder.
    let mut command = place.command(["batch", "-i", "-", "-o", "c", "-m", &model()]);
    finish(command.env("TMPDIR", "/no/such/folder"), PROMPT.as_bytes()).expect(74, "TMPDIR");
    // A working folder that is gone.
    let script = "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"";
    let mut command = Command::new("sh");
    let (input, output) = (place.path("in"), place.path("d"));
    command.current_dir(place.path("")).args([
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_entropix"),
        "batch",
        "-m",
    ]);
    command.arg(model()).arg("-i").arg(input).arg("-o").arg(output);
    finish(&mut command, b"").expect(0, "1 answered");
    place.rows("d");
}

/// A shell in which `small` is a file system of 256 KiB of its own; none where that is not permitted.
fn with_little_room(
    place: &Place,
    script: &str,
    args: &[&str],
    stdin: &[u8],
) -> Option<crate::program::Ended> {
    let script = format!("mount -t tmpfs -o size=256k tmpfs small && {{\n{script}\n}}");
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.current_dir(place.path("")).env("XDG_CACHE_HOME", place.path("cache"));
        command
    };
    std::fs::create_dir_all(place.path("small")).unwrap();
    let probe = shell("mount -t tmpfs -o size=256k tmpfs small").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: no file system of one's own (unshare, mount) is to be had here");
        return None;
    }
    Some(finish(shell(&script).arg(env!("CARGO_BIN_EXE_entropix")).args(args), stdin))
}

/// What cannot be read twice is copied to the temporary folder first, and that may be full.
#[test]
fn case_85_a_full_temporary_folder() {
    let place = Place::new();
    let model = model();
    let args = ["batch", "-i", "-", "-o", "out", "-m", &model];
    let input = format!("{{\"prompt\": \"x\", \"max_tokens\": 1}}{}\n", " ".repeat(300_000));
    let run =
        |folder: &str| with_little_room(&place, &format!("TMPDIR={folder} \"$@\""), &args, input.as_bytes());
    let Some(ended) = run("small") else { return };
    ended.expect(74, "TMPDIR").expect(74, "No space left");
    assert!(!place.path("out").exists(), "something was written");
    run(".").unwrap().expect(0, "1 answered");
}

/// A disk that is full keeps whole lines, and one that has room again gets the others.
#[test]
fn case_77_a_disk_that_is_full_for_a_while() {
    let place = Place::new();
    let line = |i: usize| {
        format!("{{\"id\": \"r{i}\", \"prompt\": \"x {i}\", \"max_tokens\": 200, \"ignore_eos\": true}}\n")
    };
    place.put("in", (0..300).map(line).collect::<String>());
    let model = model();
    let args = ["batch", "-i", "in", "-o", "small/out", "-b", "16", "-m", &model];
    let script = "\"$@\"; first=$?; cp small/out torn; mount -o remount,size=16m small; \"$@\"; second=$?; \
                  cp small/out whole; echo $first $second";
    let Some(ended) = with_little_room(&place, script, &args, b"") else { return };
    assert_eq!(ended.stdout.trim(), "74 0", "{}", ended.stderr);
    ended.expect(0, "No space left").expect(0, "the same command again to go on");
    let (torn, whole) = (place.rows("torn"), place.rows("whole"));
    assert!(!torn.is_empty() && torn.len() < 300 && whole.len() == 300, "{} rows", torn.len());
    assert_eq!(torn, whole[..torn.len()]);
}

/// A clock that goes back, and back again.
#[test]
fn case_87_a_clock_that_goes_back() {
    let place = Place::new();
    // Each time it is asked it is ten days earlier, on both kinds of clocks of the day.
    place.put(
        "clock.c",
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <time.h>\n#include <unistd.h>\n\
         int clock_gettime(clockid_t clock, struct timespec* now) {\n\
             int (*real)(clockid_t, struct timespec*) = dlsym(RTLD_NEXT, \"clock_gettime\");\n\
             static int n_asked;\n\
             int code = real(clock, now);\n\
             if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {\n\
                 now->tv_sec -= 864000L * ++n_asked;\n\
                 if (n_asked == 1) write(2, \"the clock goes back\\n\", 20);\n\
             }\n\
             return code;\n\
         }\n",
    );
    let mut built = Command::new("gcc");
    built.args(["-shared", "-fPIC", "-w", "-o", "clock.so", "clock.c", "-ldl"]);
    assert!(built.current_dir(place.path("")).status().unwrap().success());
    let line = |i: usize| {
        let chat = "\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]";
        format!("{{\"id\": \"r{i}\", {chat}, \"max_tokens\": 8, \"ignore_eos\": true}}\n")
    };
    // What is answered depends on the day; the job keeps the one on which it began.
    place.put("dated.jinja", "{{ strftime_now('%d %B %Y') }}{{ messages[0].content }}");
    let model = model();
    let command = |n: usize, output: &str, more: &[&str]| {
        place.put("in", (0..n).map(line).collect::<String>());
        let args = ["batch", "-i", "in", "--sync-every", "1s", "--progress", "plain", "-m", &model];
        place.command(args.iter().chain(&["--chat-template", "dated.jinja", "-o", output]).chain(more))
    };
    let run = |n: usize| finish(command(n, "out", &[]).env("LD_PRELOAD", place.path("clock.so")), b"");
    run(20).expect(0, "20 answered").expect(0, "the clock goes back");
    run(40).expect(0, "going on, 20 done");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("out.manifest.json")).unwrap()).unwrap();
    let date = manifest["prompt"]["date"].as_str().unwrap();
    finish(&mut command(40, "whole", &["--date", date]), b"").expect(0, "40 answered");
    assert_eq!(crate::resume::sorted(&place, "out"), crate::resume::sorted(&place, "whole"));
}

/// Runs the program under a limit of the shell's `ulimit`. What the test was started with would count against it, so the
/// files up to 9 that are none of the three standard ones are closed.
fn limited(place: &Place, limit: &str, args: &[&str]) -> crate::program::Ended {
    let mut command = Command::new("sh");
    let script = format!("exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit {limit} && exec \"$@\"");
    command
        .current_dir(place.path(""))
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_entropix")])
        .args(args);
    finish(&mut command, b"")
}

#[test]
fn case_86_small_limits() {
    let place = Place::new();
    place.put("in", PROMPT);
    let model = model();
    let args = ["batch", "-i", "in", "-o", "out", "--overwrite", "--threads", "2", "-m", &model];
    limited(&place, "-n 16", &args).expect(0, "1 answered");
    // With 3 not even the C library can be loaded. A little more: an I/O error, not a panic.
    for n in 4..10 {
        let code = limited(&place, &format!("-n {n}"), &args).code;
        assert!([0, 66, 74, 75].contains(&code), "{n} open files: exit code {code}");
    }
    // Below that the program cannot even be loaded.
    let loads = |kib: &usize| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -v {kib} && exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_entropix"), "--version"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    let about = (1..100).map(|n| n * 10_000).find(loads).unwrap();
    let least = (about - 10_000..=about).step_by(250).find(loads).unwrap();
    for kib in [0, 250, 500, 750, 1000, 10_000, 20_000, 40_000].map(|more| least + more) {
        let ended = limited(&place, &format!("-v {kib}"), &args);
        assert!([0, 74, 75].contains(&ended.code), "{kib} KiB: exit code {}: {}", ended.code, ended.stderr);
    }
    // A line that is legal, and more than there is room for: the row's own failure or the machine's, never a signal.
    place.put("in", format!("{{\"prompt\": \"{}\"}}\n", "x ".repeat(6_000_000)));
    for kib in [60_000, 80_000, 120_000] {
        let ended = limited(&place, &format!("-v {}", least + kib), &args);
        assert!([3, 74, 75].contains(&ended.code), "{kib} KiB: exit code {}: {}", ended.code, ended.stderr);
    }
}

/// What the machine refuses for now is no failure of a request: nothing is written about it, and the next run does it.
#[test]
fn case_86_no_process_for_a_template() {
    let place = Place::new();
    place.put(
        "in",
        "{\"id\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 2}\n",
    );
    place.put("foreign.jinja", "{% for m in messages %}{{ m.content }} {% endfor %}");
    let model = model();
    let args = [
        "batch",
        "-i",
        "in",
        "-o",
        "out",
        "--threads",
        "1",
        "--chat-template",
        "foreign.jinja",
        "-m",
        &model,
    ];
    let mut n_refused = 0;
    for n in 4..24 {
        let ended = limited(&place, &format!("-n {n}"), &args);
        assert!(
            [0, 66, 74, 75].contains(&ended.code),
            "{n} open files: exit code {}: {}",
            ended.code,
            ended.stderr
        );
        if ended.code == 0 {
            break;
        }
        n_refused += usize::from(ended.stderr.contains("no process for its chat template"));
    }
    assert!(n_refused > 0, "no limit let the job begin and its template fail");
    let rows = place.rows("out");
    assert_eq!((rows.len(), rows[0]["error"].is_null()), (1, true), "{rows:?}");
}

/// RLIMIT_FSIZE kills a careless program in the middle of a line; ours cuts the torn line off.
#[test]
fn case_86_a_file_size_limit() {
    let place = Place::new();
    let line = |i: usize| {
        format!("{{\"id\": \"r{i}\", \"prompt\": \"x {i}\", \"max_tokens\": 8, \"ignore_eos\": true}}\n")
    };
    place.put("in", (0..60).map(line).collect::<String>());
    let model = model();
    let args = ["batch", "-i", "in", "-o", "out", "-b", "4", "-m", &model];
    // In blocks of 512 bytes: the manifest and some lines fit, all do not.
    let ended = limited(&place, "-f 24", &args);
    ended.expect(74, "ends with a whole line").expect(74, "the same command again to go on");
    let n_rows = place.rows("out").len();
    assert!((1..60).contains(&n_rows), "{n_rows} rows");
    place.run(args).expect(0, &format!("going on, {n_rows} done"));
    assert_eq!(place.rows("out").len(), 60);
}

/// A job long enough to be interrupted.
fn start(place: &Place, n_rows: usize) -> std::process::Child {
    let line = |i: usize| format!("{{\"id\": \"r{i}\", \"prompt\": \"x {i}\", \"ignore_eos\": true}}\n");
    place.put("in", (0..n_rows).map(line).collect::<String>());
    let model = model();
    let mut command = place.command(["batch", "-i", "in", "-o", "out", "-b", "2", "-n", "200", "-m", &model]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    await_lines(place);
    child
}

/// Waits until something was answered.
fn await_lines(place: &Place) {
    let started = Instant::now();
    while std::fs::metadata(place.path("out")).map_or(0, |m| m.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "no line was written");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(child: &std::process::Child, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn case_87_one_signal_finishes_what_was_begun() {
    for signal in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let child = start(&place, 2000);
        send(&child, signal);
        let ended = wait(child, signal);
        ended.expect(75, "every line of the output is whole");
        let rows = place.rows("out");
        assert!(!rows.is_empty() && rows.iter().all(|row| row["tokens"].as_array().unwrap().len() == 200));
    }
}

#[test]
fn case_87_two_signals_stop_at_once() {
    let place = Place::new();
    // One short answer tells that the job began; one signal would wait for all the long ones.
    let line = |i: usize| {
        let n = if i == 0 { 1 } else { 500 };
        format!("{{\"id\": \"r{i}\", \"prompt\": [5], \"max_tokens\": {n}, \"ignore_eos\": true}}\n")
    };
    place.put("in", (0..256).map(line).collect::<String>());
    let args = ["batch", "-i", "in", "-o", "out", "-b", "256", "--threads", "1", "-m"];
    let mut command = place.command(args);
    command.arg(model()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    await_lines(&place);
    send(&child, "INT");
    std::thread::sleep(Duration::from_millis(20));
    send(&child, "INT");
    wait(child, "two signals").expect(75, "every line of the output is whole");
    assert_eq!(place.rows("out").len(), 1, "what was begun was dropped");
}

/// A signal before there is anything to end in order.
#[test]
fn case_87_a_signal_before_the_job() {
    let place = Place::new();
    let (silence, _writer) = std::io::pipe().unwrap();
    for signal in ["INT", "TERM"] {
        let model = model();
        let mut command = place.command(["batch", "-i", "-", "-o", "out", "-m", &model]);
        // Standard input says nothing and does not end.
        let stdin = silence.try_clone().unwrap();
        let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        // The second is the one that listens.
        while n_threads(child.id()) < 2 {
            assert!(started.elapsed() < Duration::from_secs(60), "{signal}: nobody listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        send(&child, signal);
        wait(child, signal).expect(75, "interrupted before anything was answered");
    }
    assert!(!place.path("out").exists(), "something was written");
}

fn n_threads(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

/// Nobody reads what is written: what was begun never ends, and the program does.
#[test]
fn case_87_two_signals_end_what_is_blocked() {
    let place = Place::new();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // As much as Linux lets a pipe hold.
    writer.write_all(&[b'\n'; 1 << 16]).unwrap();
    place.put("in", PROMPT);
    let model = model();
    let mut command = place.command(["batch", "-i", "in", "-o", "-", "--threads", "1", "-m", &model]);
    let mut child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    // Soon after its first line it listens.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    send(&child, "INT");
    std::thread::sleep(Duration::from_millis(20));
    send(&child, "INT");
    wait(child, "two signals").expect(130, "");
}

#[test]
fn case_87_readers_that_go_away() {
    let place = Place::new();
    for args in [&["policy", "list"][..], &["completions", "bash"], &["man"], &["--help"], &["doctor"]] {
        let mut command = place.command(args);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        wait(child, "closed pipe").expect(0, "");
    }
}

/// On a terminal one line says how far the job is.
#[test]
fn a_terminal_is_told_how_far_a_job_is() {
    let place = Place::new();
    let line = |i: usize| format!("{{\"id\": \"r{i}\", \"prompt\": \"x {i}\", \"ignore_eos\": true}}\n");
    place.put("in", (0..600).map(line).collect::<String>());
    let model = model();
    let (program, size) = (env!("CARGO_BIN_EXE_entropix"), "stty cols 200");
    let job = format!("{size}; {program} batch -i in -o out -b 2 -n 200 --threads 1 -m {model}");
    let mut command = Command::new("script");
    command.args(["-qec", &job, "typescript"]).current_dir(place.path("")).env("TERM", "xterm");
    if !Command::new("script").arg("--version").output().is_ok_and(|probe| probe.status.success()) {
        println!("skipped: there is no terminal to be had without the program `script`");
        return;
    }
    let ended = finish(command.env("XDG_CACHE_HOME", place.path("cache")), b"");
    ended.expect(0, "");
    let shown = String::from_utf8_lossy(&std::fs::read(place.path("typescript")).unwrap()).into_owned();
    for part in ["/600 ", " tok/s in, ", " out, ", " rows, KV ", " %", "argmax"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
}

/// The program as somebody who may do little, from a shell that runs `script` first; none where that cannot be.
fn as_nobody(place: &Place, script: &str, args: &[&str]) -> Option<Command> {
    let command = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]);
        command.args([&format!("{script} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_entropix")]);
        command.current_dir(place.path("")).env("HOME", "/nowhere").env_remove("XDG_CACHE_HOME");
        command
    };
    let opened = Command::new("chmod").arg("a+rwx").arg(place.path("")).status();
    assert!(opened.unwrap().success());
    if !command("true").arg("--version").output().is_ok_and(|probe| probe.status.success()) {
        println!("skipped: nobody may run the program here");
        return None;
    }
    let mut command = command(script);
    command.args(args);
    Some(command)
}

#[test]
fn case_86_no_threads() {
    let place = Place::new();
    place.put("in", PROMPT);
    let model = model();
    let args = ["batch", "-i", "in", "-o", "out", "--threads", "2", "-m", &model];
    let Some(mut command) = as_nobody(&place, "prlimit --pid $$ --nproc=1", &args) else { return };
    let ended = finish(&mut command, b"");
    assert!([74, 75].contains(&ended.code), "exit code {}: {}", ended.code, ended.stderr);
    finish(&mut as_nobody(&place, "true", &args).unwrap(), b"").expect(0, "1 answered");
}

#[test]
fn case_77_what_may_not_be_written() {
    let place = Place::new();
    place.put("in", PROMPT);
    place.put("out", "");
    std::fs::create_dir(place.path("closed")).unwrap();
    let model = model();
    for output in ["out", "closed/out"] {
        let Some(mut command) = as_nobody(&place, "true", &["batch", "-i", "in", "-o", output, "-m", &model])
        else {
            return;
        };
        finish(&mut command, b"").expect(74, "Permission denied");
    }
}

/// On local files nothing is asked of a network (G13).
#[test]
fn nothing_leaves_the_machine() {
    let place = Place::new();
    place.put("in", PROMPT);
    let model = model();
    let connections = |args: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "trace", "--trace=socket,connect", env!("CARGO_BIN_EXE_entropix")]);
        command.args(args).current_dir(place.path("")).env("XDG_CACHE_HOME", place.path("cache"));
        let code = command.env("HF_ENDPOINT", "http://127.0.0.1:9").output().ok()?.status.code()?;
        Some((code, std::fs::read_to_string(place.path("trace")).ok()?.matches("AF_INET").count()))
    };
    let Some(batch) = connections(&["batch", "-i", "in", "-o", "out", "-m", &model]) else {
        println!("skipped: strace is not installed or not permitted here");
        return;
    };
    assert_eq!(batch, (0, 0));
    assert_eq!(connections(&["run", "-p", "x", "-n", "2", "-m", &model]), Some((0, 0)));
    // The control: a model that is not there is asked for.
    let (code, n) = connections(&["run", "-p", "x", "-m", "nobody/nothing"]).unwrap();
    assert!(code != 0 && n > 0, "exit code {code}, {n} connections");
}

/// Standard error closed: `eprintln!` would panic.
#[test]
fn case_87_nobody_listens_to_standard_error() {
    let place = Place::new();
    place.put("in", PROMPT);
    let model = model();
    for args in [
        &["batch", "-i", "in", "-o", "out", "--progress", "plain", "-v", "-m", &model][..],
        &["run", "-p", "x", "-n", "2", "--signals", "token", "-m", &model],
        &["bench", "-p", "4", "-n", "2", "-b", "1", "-r", "1", "-m", &model],
    ] {
        let mut child = place
            .command(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stderr.take());
        wait(child, "closed standard error").expect(0, "");
    }
    place.rows("out");
}
