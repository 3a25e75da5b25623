//! A job goes on where it ended, and only when its lines would be the same.

use crate::program::{Ended, Place, finish, tiny};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const FAILED_ROWS: i32 = 3;
const USAGE: i32 = 64;
const DATA: i32 = 65;
const TEMP: i32 = 75;
const CONFIG: i32 = 78;

pub(crate) fn line(id: &str, prompt: &str) -> String {
    format!("{}\n", json!({"id": id, "prompt": prompt, "max_tokens": 6}))
}

/// `n` good requests.
pub(crate) fn requests(n: usize) -> String {
    (0..n).map(|i| line(&format!("r{i}"), &format!("Once upon a time {i}"))).collect()
}

/// The bytes of `out`, sorted by line.
pub(crate) fn sorted(place: &Place, name: &str) -> String {
    let text = std::fs::read_to_string(place.path(name)).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{name}: the last line is torn");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Cuts `out` to its first `n` lines and part of the next.
pub(crate) fn tear(place: &Place, n: usize) {
    let text = std::fs::read_to_string(place.path("out")).unwrap();
    let whole: usize = text.split_inclusive('\n').take(n).map(str::len).sum();
    std::fs::write(place.path("out"), &text[..whole + 7]).unwrap();
}

fn manifest(place: &Place) -> Value {
    serde_json::from_slice(&std::fs::read(place.path("out.manifest.json")).unwrap()).unwrap()
}

#[test]
fn a_torn_output_is_repaired_and_gone_on_with() {
    let place = Place::new();
    let input = requests(8);
    place.batch(&input, &[]).expect(0, "8 answered");
    let whole = sorted(&place, "out");
    for n in [0, 3, 7] {
        tear(&place, n);
        let ended = place.batch(&input, &["-b", "3"]);
        ended.expect(0, &format!("going on, {n} done, {} to do", 8 - n));
        ended.expect(0, &format!("{} answered, 0 failed", 8 - n));
        assert_eq!(sorted(&place, "out"), whole);
    }
    place.batch(&input, &[]).expect(0, "0 answered, 0 failed, 8 by earlier runs");
    assert_eq!(sorted(&place, "out"), whole);
    // A line of text that is torn before its first line end.
    std::fs::write(place.path("out"), "{\"id\":\"r").unwrap();
    place.batch(&input, &[]).expect(0, "8 answered");
    assert_eq!(sorted(&place, "out"), whole);
    let manifest = manifest(&place);
    assert_eq!(manifest["parameters"]["seed"], json!({"value": 0, "source": "default"}));
    assert_eq!(manifest["input"]["requests"], 8);
    assert_eq!(manifest["model"]["sha256"].as_str().unwrap().len(), 64);
    assert!(manifest["model"]["kernel_path"].is_string() && manifest["policy"]["source"].is_string());
}

/// What stands in the output is known by id and content, not by its place.
#[test]
fn reordered_and_longer_inputs_are_gone_on_with() {
    let place = Place::new();
    place.batch(requests(5), &[]).expect(0, "5 answered");
    let text = requests(9);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.reverse();
    place.batch(lines.concat(), &[]).expect(0, "going on, 5 done, 4 to do");
    let resumed = sorted(&place, "out");
    place.batch(requests(9), &["--overwrite"]).expect(0, "9 answered");
    assert_eq!(sorted(&place, "out"), resumed);
}

#[test]
fn edited_inputs_are_noticed() {
    let place = Place::new();
    place.batch(requests(4), &[]).expect(0, "4 answered");
    let before = std::fs::read(place.path("out")).unwrap();
    let edited = requests(4).replace("time 2", "dawn 2");
    place.batch(&edited, &[]).expect(CONFIG, "1 were edited (r2)");
    let shorter = edited.replace(&line("r1", "Once upon a time 1"), "");
    place.batch(&shorter, &[]).expect(CONFIG, "1 were edited (r2), 1 were taken out");
    place.batch(&edited, &["--no-validate"]).expect(CONFIG, "\"r2\" was edited");
    assert_eq!(std::fs::read(place.path("out")).unwrap(), before, "nothing was changed");
    place.batch(&shorter, &["--force"]).expect(0, "going on, 2 done, 1 to do");
    let forced = sorted(&place, "out");
    place.batch(&shorter, &["--overwrite"]).expect(0, "3 answered");
    assert_eq!(sorted(&place, "out"), forced);
}

#[test]
fn other_settings_are_refused() {
    let place = Place::new();
    let input = requests(4);
    place.batch(&input, &[]).expect(0, "4 answered");
    let before = std::fs::read(place.path("out")).unwrap();
    let own = place.put("own.toml", place.run(["policy", "show", "greedy"]).stdout);
    for (more, told) in [
        (&["--seed", "7"][..], "seed was 0, is 7"),
        (&["-n", "3"], "max_tokens was not set, is 3"),
        (&["--policy", "greedy"], "the policy was attic"),
        (&["--policy", own.to_str().unwrap()], "the policy was attic"),
        (&["--set", "temperature=0.5"], "the policy was attic"),
        (&["--precision", "exact"], "the precision was int8, is exact"),
        (&["--kernel-path", "portable"], "the kernel path was"),
        (&["-c", "40"], "the context was"),
        (&["--signals", "off"], "the signals was summary, is off"),
        (&["--system", "Be brief."], "the system message was not set"),
        (&["--shard", "0/2"], "is part 0/1 of a job, this is part 0/2"),
    ] {
        place.batch(&input, more).expect(CONFIG, told);
        assert_eq!(std::fs::read(place.path("out")).unwrap(), before, "{more:?}");
    }
    // Another model of the same name.
    std::fs::copy(tiny("llama-linear.Q8_0.gguf"), place.path("llama-tied.Q4_1.gguf")).unwrap();
    let args = ["batch", "-i", "in", "-o", "out", "-m", "llama-tied.Q4_1.gguf"];
    place.run(args).expect(CONFIG, "the model was");
    // What does not change a line does not matter.
    let more = ["-b", "1", "--threads", "1", "--sync-every", "1", "--date", "2001-01-01"];
    place.batch(&input, &more).expect(0, "4 by earlier runs");
    place.batch(requests(5), &["--seed", "7", "--force"]).expect(0, "going on, 4 done, 1 to do");
    assert_eq!(manifest(&place)["mixed"], json!(["seed was 0, is 7"]));
}

#[test]
fn only_a_jobs_own_output_is_gone_on_with() {
    let place = Place::new();
    let input = requests(3);
    place.put("out", "precious\n");
    place.batch(&input, &[]).expect(USAGE, "that no manifest speaks of");
    place.batch(&input, &["--overwrite"]).expect(0, "3 answered");
    let whole = sorted(&place, "out");
    let text = std::fs::read_to_string(place.path("out")).unwrap();
    let first = text.lines().next().unwrap();
    for (garbage, told) in [("garbage\n".to_owned(), "line 4"), (format!("{first}\n"), "twice")] {
        place.put("out", format!("{text}{garbage}"));
        place.batch(&input, &[]).expect(DATA, told);
        assert_eq!(std::fs::read_to_string(place.path("out")).unwrap(), format!("{text}{garbage}"));
    }
    place.put("out", format!("garbage\n{}", text.replace(&format!("{first}\n"), "\0\0\0\n")));
    place.batch(&input, &["--force"]).expect(0, "going on, 2 done, 1 to do");
    assert_eq!(sorted(&place, "out"), whole);
    std::fs::write(place.path("out.manifest.json"), "{}").unwrap();
    place.batch(&input, &[]).expect(CONFIG, "is no manifest of a job");
}

#[test]
fn errors_are_tried_again_when_asked() {
    let place = Place::new();
    // A context too small for one of them.
    let long = line("long", &"word ".repeat(40));
    let input = requests(3) + &long;
    place.batch(&input, &["-c", "24"]).expect(FAILED_ROWS, "1 request failed");
    let again = place.batch(&input, &["-c", "24"]);
    again.expect(FAILED_ROWS, "0 answered, 0 failed, 4 by earlier runs (1 of them failed)");
    again.expect(FAILED_ROWS, "1 request failed in earlier runs; --retry-errors");
    place.batch(&input, &["-c", "24", "--retry-errors"]).expect(FAILED_ROWS, "going on, 3 done, 1 to do");
    assert_eq!(place.rows("out").len(), 4);
    place.batch(&input, &["--retry-errors", "--force"]).expect(0, "going on, 3 done, 1 to do");
    assert!(place.rows("out").iter().all(|row| row.get("error").is_none()));
}

#[test]
fn bad_lines_become_rows_when_asked() {
    let place = Place::new();
    let bad = "{\"id\": \"x\", \"prompt\": 5}\n";
    let input = format!("{}{bad}{bad}{}not json\n", line("a", "x"), line("a", "y"));
    place.batch(&input, &[]).expect(DATA, "4 of 5 lines are bad");
    assert!(!place.path("out").exists() && !place.path("out.manifest.json").exists());
    place.batch(&input, &["--on-bad-line", "record"]).expect(FAILED_ROWS, "4 requests failed");
    let rows = place.rows("out");
    assert_eq!(rows.len(), 5);
    let told =
        |part: &str| rows.iter().filter(|row| row["error"]["message"].to_string().contains(part)).count();
    assert_eq!((told("line 2:23: prompt is the number 5"), told("line 3:23: prompt is")), (1, 1));
    assert_eq!(
        (told("line 4:2: the id \\\"a\\\" stands on line 1"), told("line 5:2: not valid JSON")),
        (1, 1)
    );
    let again = place.batch(&input, &["--on-bad-line", "record"]);
    again.expect(FAILED_ROWS, "0 answered, 0 failed, 5 by earlier runs (4 of them failed)");
    // Without the look ahead a bad line ends the job where it stands.
    let ended = place.batch(&input, &["--no-validate", "--overwrite", "-b", "1"]);
    ended
        .expect(DATA, "correct it and give the same command without --overwrite to go on")
        .expect(DATA, "in:2:23: prompt is the number 5");
    let mended = input.replace(bad, "").replace("not json\n", "").replace(&line("a", "y"), "");
    place.batch(mended, &["--no-validate"]).expect(0, "");
    assert_eq!(place.rows("out").len(), 1);
}

#[test]
fn the_first_failure_can_end_a_job() {
    let place = Place::new();
    let input = line("bad", "") + &requests(50);
    let ended = place.batch(&input, &["--fail-fast", "-b", "1"]);
    ended
        .expect(FAILED_ROWS, "stopped at the first failure with 5")
        .expect(FAILED_ROWS, "give the same command again to go on");
    assert!(place.rows("out").len() < 5);
    place.batch(&input, &[]).expect(FAILED_ROWS, "by earlier runs (1 of them failed)");
    assert_eq!(place.rows("out").len(), 51);
    // One that fails when all others are answered leaves nothing to do.
    let last = requests(5) + &line("bad", "");
    let more = ["--overwrite", "--ordered", "--fail-fast", "-b", "1", "--summary", "summary.json"];
    let ended = place.batch(&last, &more);
    ended.expect(FAILED_ROWS, "1 request failed");
    assert!(!ended.stderr.contains("to go on"), "{}", ended.stderr);
    let summary: Value = serde_json::from_slice(&std::fs::read(place.path("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["complete"], &summary["requests"]["left"]), (&json!(true), &json!(0)));
    #[cfg(feature = "parquet")]
    {
        let model = tiny("llama-tied.Q4_1.gguf");
        let args = ["batch", "-i", "in", "-o", "out.parquet", "-m", model.to_str().unwrap()];
        place
            .run(args.iter().chain(&["--ordered", "--fail-fast", "-b", "1"]))
            .expect(FAILED_ROWS, "1 request failed");
        assert!(std::fs::read(place.path("out.parquet")).unwrap().starts_with(b"PAR1"));
    }
}

#[test]
fn results_are_verified() {
    let place = Place::new();
    let input = requests(12)
        + &line("bad", "")
        + "{\"id\": \"chat\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 6}\n";
    let own = place.put("own.toml", place.run(["policy", "show", "sample"]).stdout);
    let more = [
        "--policy",
        own.to_str().unwrap(),
        "--set",
        "temperature=0.9",
        "--seed",
        "5",
        "--system",
        "Be brief.",
    ];
    place.batch(&input, &more).expect(FAILED_ROWS, "13 answered");
    std::fs::remove_file(own).unwrap();
    let verify = |more: &[&str]| place.run(["verify", "out"].iter().chain(more));
    verify(&["--sample", "100%", "-b", "3"]).expect(0, "14 lines, all the same bytes");
    verify(&[]).expect(0, "1 of 14 lines are computed again");
    std::fs::rename(place.path("in"), place.path("moved")).unwrap();
    verify(&[]).expect(66, "in: cannot open");
    verify(&["-i", "moved"]).expect(0, "all the same bytes");
    let other = tiny("llama-linear.Q8_0.gguf");
    verify(&["-i", "moved", "-m", other.to_str().unwrap()]).expect(CONFIG, "is another model");
    // One digit of one number.
    let text = std::fs::read_to_string(place.path("out")).unwrap();
    let at = text.find("\"mean_H\":").unwrap() + 9 + 5;
    let digit = if &text[at..=at] == "7" { "3" } else { "7" };
    place.put("out", format!("{}{digit}{}", &text[..at], &text[at + 1..]));
    verify(&["-i", "moved", "--sample", "100%"]).expect(DATA, "1 of 14 lines differ");
    place.put("out", &text);
    // What was wrong with a line is the same whatever the file is called.
    let elsewhere = Place::new();
    let bad = requests(2) + "{bad\n";
    elsewhere.batch(&bad, &["--on-bad-line", "record"]).expect(FAILED_ROWS, "line 3:2: not valid");
    elsewhere.run(["verify", "out", "--sample", "100%"]).expect(0, "3 lines, all the same bytes");
    place.put("moved", input.replace(&line("r3", "Once upon a time 3"), ""));
    verify(&["-i", "moved", "--sample", "100%"]).expect(DATA, "no longer has 1 of the requests");
}

#[test]
fn compressed_inputs_are_unpacked() {
    let place = Place::new();
    let input = requests(6);
    place.batch(&input, &[]).expect(0, "6 answered");
    let whole = sorted(&place, "out");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, input.as_bytes()).unwrap();
    place.put("in.jsonl.gz", gzip.finish().unwrap());
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    place.put("in.jsonl.zst", ruzstd::encoding::compress_to_vec(input.as_bytes(), level));
    let model = tiny("llama-tied.Q4_1.gguf");
    let run = |input: &str, output: &str| -> Ended {
        place.run(["batch", "-i", input, "-o", output, "-m", model.to_str().unwrap()])
    };
    for packed in ["in.jsonl.gz", "in.jsonl.zst"] {
        run(packed, "unpacked").expect(0, "");
        assert_eq!(sorted(&place, "unpacked"), whole, "{packed}");
    }
    // Cut short: told before anything is written.
    let bytes = std::fs::read(place.path("in.jsonl.gz")).unwrap();
    place.put("cut.gz", &bytes[..bytes.len() / 2]);
    run("cut.gz", "nothing").expect(DATA, "cut.gz: behind line");
    for (name, bytes) in [("none.gz", input.as_bytes()), ("none.zst", input.as_bytes())] {
        place.put(name, bytes);
        run(name, "nothing").expect(DATA, "make it anew");
    }
    assert!(!place.path("nothing").exists());
    run("in", "out.gz").expect(USAGE, "results are plain lines");
}

#[test]
fn two_jobs_never_write_one_output() {
    let place = Place::new();
    place.put("in", requests(3));
    std::fs::write(place.path("out"), "").unwrap();
    let held = std::fs::File::open(place.path("out")).unwrap();
    held.lock().unwrap();
    let told = format!("another job (process {}) is writing it", std::process::id());
    place.batch(requests(3), &[]).expect(TEMP, &told);
    held.unlock().unwrap();
    place.batch(requests(3), &[]).expect(0, "3 answered");
}

#[test]
fn summaries_are_written() {
    let place = Place::new();
    let input = requests(3) + &line("bad", "");
    place.batch(&input, &["--summary", "summary.json"]).expect(FAILED_ROWS, "");
    let summary: Value = serde_json::from_slice(&std::fs::read(place.path("summary.json")).unwrap()).unwrap();
    assert_eq!(
        summary["requests"],
        json!({"answered": 3, "failed": 1, "earlier": 0, "failed_earlier": 0, "left": 0})
    );
    assert_eq!(summary["tokens"]["answer"], 18);
    assert!(summary["signals"]["mean_entropy_nats"].as_f64().unwrap() > 0.0);
    let decisions = summary["decisions"].as_object().unwrap();
    assert_eq!(decisions.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 18);
    assert!(Path::new(&place.path("out")).exists());
}

#[test]
fn scores_are_gone_on_with_too() {
    let place = Place::new();
    let text = |n: usize| -> String {
        (0..n).map(|i| format!("{{\"id\": \"s{i}\", \"text\": \"Once upon {i}\"}}\n")).collect()
    };
    let model = tiny("llama-tied.Q4_1.gguf");
    let args = ["score", "-i", "in", "-o", "out", "-m", model.to_str().unwrap()];
    place.put("in", text(6));
    place.run(args).expect(0, "6 scored");
    let whole = sorted(&place, "out");
    tear(&place, 2);
    place.run(args).expect(0, "going on, 2 done, 4 to do");
    assert_eq!(sorted(&place, "out"), whole);
    place.batch(requests(1), &[]).expect(CONFIG, "was written by score, this is batch");
}

/// Nobody looks at the input before the job; what it was is known when it is done.
#[test]
fn what_was_not_validated_is_known_at_the_end() {
    let place = Place::new();
    let input = requests(5);
    place.batch(&input, &[]).expect(0, "5 answered");
    let validated = manifest(&place)["input"].clone();
    place.batch(&input, &["--overwrite", "--no-validate"]).expect(0, "5 answered");
    assert_eq!(manifest(&place)["input"], validated);
    // Requests that were taken out.
    let fewer = requests(3);
    let ended = place.batch(&fewer, &["--no-validate"]);
    ended.expect(CONFIG, "out: 2 of its lines are of requests that are not in the input");
    place.batch(&fewer, &["--force"]).expect(0, "");
    assert_eq!(place.rows("out").len(), 3);
}

/// A line that nothing in the input asks for is a request that was taken out, as far as anybody can tell (case 76).
#[test]
fn lines_of_strangers_are_noticed() {
    let place = Place::new();
    place.batch(requests(3), &[]).expect(0, "");
    let text = std::fs::read_to_string(place.path("out")).unwrap();
    let stranger = text.lines().next().unwrap().replace("\"r0\"", "\"stranger\"");
    place.put("out", format!("{text}{stranger}\n"));
    place.batch(requests(3), &[]).expect(CONFIG, "1 were taken out");
    place.batch(requests(3), &["--force"]).expect(0, "3 by earlier runs");
    assert_eq!(std::fs::read_to_string(place.path("out")).unwrap(), text);
}

/// What a run that overwrote says of going on does not overwrite again.
#[test]
fn what_is_told_of_going_on_loses_nothing() {
    let place = Place::new();
    let input = requests(9) + &line("bad", "");
    place.batch(requests(2), &[]).expect(0, "");
    for (more, told) in [
        (&["--overwrite"][..], "give the same command without --overwrite to go on"),
        (&["--seed", "3"], "--overwrite"),
    ] {
        let args = [&["--fail-fast", "-b", "1", "--longest-first"], more].concat();
        let ended = place.batch(&input, &args);
        assert!(ended.code != 0 && ended.stderr.contains(told), "{}", ended.stderr);
    }
}

/// A pipe in the manifest's place would be waited for.
#[test]
fn manifests_are_files() {
    let place = Place::new();
    place.batch(requests(1), &[]).expect(0, "");
    let path = place.path("out.manifest.json");
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    place.batch(requests(1), &[]).expect(74, "out.manifest.json");
    // Of an output that holds nothing yet, and in the place of what is to replace it.
    std::fs::remove_file(place.path("out")).unwrap();
    place.batch(requests(1), &[]).expect(74, "out.manifest.json");
    assert!(!place.path("out").exists());
    std::fs::rename(&path, place.path("out.manifest.json.partial")).unwrap();
    place.batch(requests(1), &[]).expect(74, "out.manifest.json.partial: cannot open: it is no regular file");
}

/// What stands in the manifest's place and is none is somebody's.
#[test]
fn manifests_replace_manifests_only() {
    let place = Place::new();
    place.put("out.manifest.json", "precious");
    place.batch(requests(1), &[]).expect(CONFIG, "is no manifest of a job");
    assert!(!place.path("out").exists());
    assert_eq!(std::fs::read_to_string(place.path("out.manifest.json")).unwrap(), "precious");
    place.batch(requests(1), &["--overwrite"]).expect(0, "1 answered");
    place.batch(requests(1), &[]).expect(0, "1 by earlier runs");
}

/// A job that is done writes nothing, wherever it is.
#[test]
fn a_job_that_is_done_is_left_as_it_is() {
    let place = Place::new();
    place.batch(requests(2), &[]).expect(0, "2 answered");
    let inode = || std::fs::metadata(place.path("out.manifest.json")).unwrap().ino();
    let before = inode();
    place.batch(requests(2), &[]).expect(0, "2 by earlier runs");
    assert_eq!(inode(), before);
    place.batch(requests(3), &[]).expect(0, "1 answered");
    assert_ne!(inode(), before);
}

#[test]
fn the_manifest_says_where_parameters_come_from() {
    let place = Place::new();
    let more = ["--temperature", "0.7", "--policy", "sample"];
    place.put("in", requests(1));
    let model = tiny("llama-tied.Q4_1.gguf");
    let args = ["batch", "-i", "in", "-o", "out", "-m", model.to_str().unwrap()];
    let mut command = place.command(args.iter().chain(&more));
    finish(command.env("ENTROPIX_FREQUENCY_PENALTY", "0.3"), b"").expect(0, "");
    let parameters = manifest(&place)["parameters"].clone();
    assert_eq!(parameters.as_object().unwrap().len(), entropix::jobs::params::NAMES.len());
    for (name, value, source) in [
        ("temperature", json!(0.7), "flag"),
        ("top_p", Value::Null, "policy"),
        ("frequency_penalty", json!(0.3), "environment"),
        ("seed", json!(0), "default"),
        ("max_tokens", Value::Null, "default"),
    ] {
        assert_eq!(parameters[name], json!({"value": value, "source": source}), "{name}");
    }
}
