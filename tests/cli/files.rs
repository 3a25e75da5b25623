//! The files of a command line: none is lost to another flag, none is replaced that is nobody's.

use crate::program::{Place, tiny};
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
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
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
