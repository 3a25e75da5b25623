//! The files of a command line: none is lost to another flag, none is replaced that is nobody's.

use crate::program::{Place, finish, tiny};
use serde_json::json;

const LINE: &str = "{\"id\": \"a\", \"prompt\": \"Once\", \"max_tokens\": 2}\n";

/// What stands in the files of a place that a test looks at.
fn contents(place: &Place, names: &[&str]) -> Vec<Option<Vec<u8>>> {
    names.iter().map(|name| std::fs::read(place.path(name)).ok()).collect()
}

#[test]
fn one_file_has_one_role() {
    let place = Place::new();
    place.put("policy", "name = \"p\"\n[default]\ndecision = \"argmax\"\n");
    place.put("labels", "{\"id\": \"a\", \"answer\": 1}\n");
    std::os::unix::fs::symlink("in", place.path("link")).unwrap();
    let names = ["in", "policy", "labels", "out"];
    for more in [
        &["--summary", "in"][..],
        &["--summary", "out"],
        &["--summary", "./out.manifest.json"],
        &["--trace", "out"],
        &["--trace", "out.manifest.json"],
        &["--trace", "link"],
        &["--trace", "policy", "--policy", "policy", "--overwrite"],
        &["--trace", "t", "--summary", "t"],
    ] {
        place.batch(LINE, &[]).expect(0, "");
        let before = contents(&place, &names);
        place.batch(LINE, more).expect(64, "are the same file");
        assert_eq!(contents(&place, &names), before, "{more:?}");
        std::fs::remove_file(place.path("out")).unwrap();
        std::fs::remove_file(place.path("out.manifest.json")).unwrap();
    }
    // What replaces a file has a name of its own until it is whole.
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    for (input, more) in [
        ("out.partial", &[][..]),
        ("out.manifest.json.partial", &[]),
        ("s.partial", &["--summary", "s"]),
        ("t.partial", &["--trace", "t"]),
    ] {
        place.put(input, LINE);
        let args = ["batch", "-i", input, "-o", "out", "-m", model];
        place.run(args.iter().chain(more)).expect(64, "are the same file");
        assert_eq!(std::fs::read_to_string(place.path(input)).unwrap(), LINE);
        std::fs::remove_file(place.path(input)).unwrap();
    }
    let calibrate =
        ["calibrate", "-m", model, "-i", "in", "-o", "labels", "--labels", "labels", "--overwrite"];
    place.run(calibrate).expect(64, "--labels and --output are the same file");
    assert!(contents(&place, &names)[2].as_ref().is_some_and(|labels| !labels.is_empty()));
    // Devices and what differs are fine.
    place.batch(LINE, &["--trace", "/dev/null", "--summary", "/dev/null"]).expect(0, "");
}

#[test]
fn summaries_replace_summaries_only() {
    let place = Place::new();
    place.put("notes", "{\"mine\": 1}\n");
    place.batch(LINE, &["--summary", "notes"]).expect(64, "no summary of a job");
    assert!(!place.path("out").exists(), "refused before any work");
    assert_eq!(contents(&place, &["notes"])[0].as_deref(), Some(&b"{\"mine\": 1}\n"[..]));
    place.batch(LINE, &["--summary", "notes", "--overwrite"]).expect(0, "");
    place.batch(LINE, &["--summary", "notes"]).expect(0, "");
    let said = place.batch(LINE, &["--summary", "-"]).stdout;
    assert!(said.contains("\"answered\": 0"), "{said}");
}

#[test]
fn a_job_goes_on_with_its_own_trace_only() {
    let place = Place::new();
    place.batch(LINE, &[]).expect(0, "");
    place.put("notes", "mine\nand this is torn");
    let more = format!("{LINE}{}\n", json!({"id": "b", "prompt": "B", "max_tokens": 2}));
    place.batch(&more, &["--trace", "notes"]).expect(64, "holds 21 bytes already");
    assert_eq!(contents(&place, &["notes"])[0].as_deref(), Some(&b"mine\nand this is torn"[..]));
    place.batch(&more, &["--trace", "trace"]).expect(0, "");
    let n = place.rows("trace").len();
    let most = format!("{more}{}\n", json!({"id": "c", "prompt": "C", "max_tokens": 2}));
    place.batch(&most, &["--trace", "trace"]).expect(0, "");
    assert!(place.rows("trace").len() > n, "gone on with");
}

/// What was traced of a request that was not finished then is not there twice.
#[test]
fn a_trace_holds_one_attempt_of_each_request() {
    let place = Place::new();
    let requests = |ids: &[&str]| {
        let line = |id: &&str| format!("{}\n", json!({"id": id, "prompt": *id, "max_tokens": 3}));
        ids.iter().map(line).collect::<String>()
    };
    place.batch(requests(&["a", "b", "c"]), &["--trace", "trace", "--ignore-eos"]).expect(0, "");
    let whole = place.rows("trace");
    // As if it had been killed after the first line: what came behind is not known to be done.
    let lines = std::fs::read_to_string(place.path("out")).unwrap();
    place.put("out", &lines[..=lines.find('\n').unwrap()]);
    let said = place.batch(requests(&["a", "b", "c"]), &["--trace", "trace", "--ignore-eos"]);
    said.expect(0, "going on, 1 done, 2 to do");
    let mut again = place.rows("trace");
    let n_heads = again.iter().filter(|event| event["event"] == "trace").count();
    assert_eq!(n_heads, 2, "one a run");
    again.retain(|event| event["event"] != "trace");
    let key = |event: &serde_json::Value| format!("{} {}", event["id"], event);
    let mut once: Vec<String> = whole.iter().filter(|event| event["event"] != "trace").map(key).collect();
    let mut now: Vec<String> = again.iter().map(key).collect();
    once.sort();
    now.sort();
    assert_eq!(now, once);
    // A new trace of a job that is done says why it is empty.
    let said = place.batch(requests(&["a", "b", "c"]), &["--trace", "other", "--ignore-eos"]);
    said.expect(0, "nothing of the 3 requests that earlier runs did");
}

#[test]
fn links_and_devices_stay_what_they_are() {
    let place = Place::new();
    place.batch(LINE, &["--trace", "trace"]).expect(0, "");
    std::os::unix::fs::symlink("page", place.path("link")).unwrap();
    place.run(["report", "trace", "-o", "link"]).expect(0, "");
    assert!(place.path("link").is_symlink() && place.path("page").is_file());
    // Through a link, so that only the link were lost.
    std::os::unix::fs::symlink("/dev/null", place.path("null")).unwrap();
    place.run(["report", "trace", "-o", "null"]).expect(0, "");
    assert!(place.path("null").is_symlink());
    std::os::unix::fs::symlink("/dev/full", place.path("full")).unwrap();
    place.run(["report", "trace", "-o", "full"]).expect(74, "No space left");
    assert!(place.path("full").is_symlink());
}

#[test]
fn a_calibration_that_fails_leaves_nothing() {
    let place = Place::new();
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    place.put("in", format!("{LINE}{}\n", json!({"id": "long", "prompt": "x y ".repeat(5000)})));
    let args = ["calibrate", "-m", model, "-i", "in", "-o", "calib", "-n", "8", "--threads", "2"];
    place.run(args).expect(65, "\"long\": ");
    assert!(!place.path("calib").exists());
    place.put("in", LINE);
    place.run(args).expect(0, "");
    let calibration = std::fs::read_to_string(place.path("calib")).unwrap();
    for wanted in ["prefill_tokens = ", "\"attn_entropy\" = [", "\"interaction\" = [", "\"collision\" = ["] {
        assert!(calibration.contains(wanted), "{wanted} is missing");
    }
    place.run(args).expect(64, "--overwrite");
}

/// A folder of a model is as safe as a file.
#[test]
fn a_model_is_not_written_over() {
    let place = Place::new();
    let model = place.path("model");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(tiny("llama-tied")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let config = std::fs::read(model.join("config.json")).unwrap();
    place.put("in", LINE);
    for flag in ["--output", "--summary", "--trace"] {
        let mut args = vec!["batch", "-i", "in", "-m", "model", "--overwrite", flag, "model/config.json"];
        if flag != "--output" {
            args.extend(["-o", "out"]);
        }
        place.run(args).expect(64, "config.json");
        assert_eq!(std::fs::read(model.join("config.json")).unwrap(), config, "{flag}");
    }
}

/// What a job that never began leaves is nothing, a link to nothing included.
#[test]
fn a_link_to_nothing_stays_one() {
    let place = Place::new();
    std::os::unix::fs::symlink("target", place.path("out")).unwrap();
    place.batch("{\"prompt\": }\n", &[]).expect(65, "not valid JSON");
    assert!(place.path("out").is_symlink() && !place.path("target").exists());
    place.batch(LINE, &[]).expect(0, "1 answered");
    assert!(place.path("out").is_symlink() && place.rows("target").len() == 1);
}

/// A file that is open under a number is named by whoever opened it: nothing is put beside the number.
#[test]
fn descriptors_have_no_manifests() {
    let place = Place::new();
    place.put("in", LINE);
    let model = tiny("llama-tied.Q4_1.gguf");
    let program = env!("CARGO_BIN_EXE_entropix");
    let shell = |script: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, program, model.to_str().unwrap()]).current_dir(place.path(""));
        finish(&mut command, b"")
    };
    for output in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        shell(&format!("\"$0\" batch -i in -m \"$1\" -o {output} > redirected")).expect(0, "1 answered");
        assert_eq!(place.rows("redirected").len(), 1, "{output}");
        assert!(!std::path::Path::new(&format!("{output}.manifest.json")).exists());
    }
    place.batch(LINE, &[]).expect(0, "1 answered");
    for output in ["/dev/stdout", "/dev/null"] {
        shell(&format!("\"$0\" merge -o {output} out > merged")).expect(0, "1 lines");
        assert!(!std::path::Path::new(&format!("{output}.manifest.json")).exists());
    }
    shell("\"$0\" merge -o /dev/stdout out > merged").expect(0, "1 lines");
    assert_eq!(place.rows("merged"), place.rows("out"));
    place.run(["merge", "-o", "-", "out"]).expect(64, "merge writes a file");
    // Standard streams that are closed are no streams.
    shell("\"$0\" batch -i in -m \"$1\" -o - >&-").expect(74, "<stdout>: cannot write: it is closed");
    shell("\"$0\" batch -i - -m \"$1\" -o nothing <&-").expect(66, "standard input: it is closed");
    assert!(!place.path("nothing").exists());
    shell("\"$0\" batch -i - -m \"$1\" -o - < in > /dev/null").expect(0, "1 answered");
}

/// A summary that nobody reads, or that cannot be written, does not hide what became of the job.
#[test]
fn a_summary_hides_nothing() {
    let place = Place::new();
    place.put("in", format!("{LINE}{}\n", json!({"id": "bad", "prompt": ""})));
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let run = |output: &str, stdout: std::process::Stdio| {
        let mut command = place.command(["batch", "-i", "in", "-o", output, "-m", model, "--summary", "-"]);
        let ended = command.stdout(stdout).stderr(std::process::Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert!(stderr.contains("1 request failed"), "{stderr}");
        (ended.status.code(), stderr)
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run("piped", writer.into()).0, Some(3));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, stderr) = run("full", full.into());
    assert!(code == Some(74) && stderr.contains("<stdout>: cannot write the summary"), "{stderr}");
}

/// What refuses a job leaves no trace of it, and a summary that nothing could write is told before any work.
#[test]
fn a_refused_job_leaves_nothing() {
    let place = Place::new();
    place.batch(LINE, &[]).expect(0, "1 answered");
    place.batch(LINE, &["--seed", "5", "--trace", "trace"]).expect(78, "seed was 0, is 5");
    assert!(!place.path("trace").exists());
    std::fs::remove_file(place.path("out")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let ended = place.batch(LINE, &[&["--summary", "nowhere/summary"], more].concat());
        ended.expect(74, "nowhere is no folder");
        assert!(!place.path("out").exists(), "{}", ended.stderr);
    }
}
