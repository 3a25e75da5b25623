//! Branches, returns and further ends, end to end: a tiny model calibrated, answered with policies that go back, traced.

use crate::program::{Place, tiny};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn prompts() -> String {
    let line = |i: usize| {
        let text = ["Once upon", "The sky is", "1 2 3 4 5 6", "How many"][i % 4];
        format!("{}\n", json!({"id": format!("r{i}"), "prompt": format!("{text} {i}"), "max_tokens": 72}))
    };
    (0..12).map(line).collect()
}

/// A place with a calibration of the tiny model in `calib.toml`.
pub(crate) fn calibrated() -> Place {
    let place = Place::new();
    place.put("texts", prompts());
    let model = tiny("llama-tied.Q4_1.gguf");
    // Answers that nobody gives: what counts is that some are known.
    let label = |i: usize| format!("{}\n", json!({"id": format!("r{i}"), "answer": i}));
    place.put("labels", (0..12).map(label).collect::<String>());
    let (n, threads) = (["-n", "48"], ["--threads", "2"]);
    let args = ["calibrate", "-i", "texts", "-o", "calib.toml", "--labels", "labels"];
    let args = args.into_iter().chain(n).chain(threads).chain(["-m"]);
    let ended = place.run(args.into_iter().chain([model.to_str().unwrap()]));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    place
}

fn rows(place: &Place) -> BTreeMap<String, String> {
    let rows = place.rows("out");
    rows.into_iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row.to_string())).collect()
}

/// Splits a trace by request, its first record left out.
fn by_request(place: &Place) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in place.rows("trace").into_iter().skip(1) {
        all.entry(event["id"].as_str().unwrap().to_owned()).or_default().push(event);
    }
    all
}

/// The tokens of the line that is left when all events of a request are followed.
fn follow(events: &[Value]) -> Vec<u64> {
    let number = |event: &Value, key: &str| event[key].as_u64().unwrap_or_else(|| panic!("{key} in {event}"));
    let first =
        events.iter().find(|event| event["event"] == "token").map_or(0, |event| number(event, "position"));
    let mut lines: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for event in events {
        let branch = event["branch"].as_u64().unwrap_or(0);
        match event["event"].as_str().unwrap() {
            "token" => lines.entry(branch).or_default().push(number(event, "token")),
            "retract" => {
                let length = number(event, "position") - first;
                lines.entry(branch).or_default().truncate(length as usize);
            }
            "fork" => {
                let parent = lines.entry(branch).or_default().clone();
                for child in event["children"].as_array().unwrap() {
                    let length = number(child, "position") - first;
                    lines.insert(number(child, "branch"), parent[..length as usize].to_vec());
                }
            }
            "join" => {
                for line in event["scores"].as_array().unwrap() {
                    if number(line, "branch") != branch {
                        lines.remove(&number(line, "branch"));
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!(lines.len(), 1, "one line is left");
    lines.into_values().next().unwrap()
}

/// Both policies that go back: the same bytes in any batch and with few blocks, and a trace that leads to the
/// answers. Fails when a decision depends on the schedule, or a taken-back token is told.
#[test]
fn policies_that_go_back() {
    let place = calibrated();
    // Lost more often than it says, for a few short answers.
    let lost =
        ["--set", "region.hehv.when.entropy.above=q0.90", "--set", "region.hehv.when.varentropy.above=q0.90"];
    let policies = [("quadrants", &lost[..], ["branch", "rewind"]), ("entropix", &[], ["rewind", "refork"])];
    for (policy, changes, wanted) in policies {
        let args = ["--policy", policy, "--calibration", "calib.toml", "--signals", "token"];
        let args = [&args[..], &["--overwrite", "--ignore-eos"], changes].concat();
        let run = |more: &[&str]| {
            let all: Vec<&str> = args.iter().chain(more).copied().collect();
            place.batch(prompts(), &all).expect(0, "");
            rows(&place)
        };
        let alone = run(&["-b", "1"]);
        let together = run(&["-b", "16", "--trace", "trace"]);
        assert_eq!(alone, together, "{policy}: together");
        let events = by_request(&place);
        let mut seen: Vec<&str> = Vec::new();
        for (id, row) in &together {
            let row: Value = serde_json::from_str(row).unwrap();
            let tokens: Vec<u64> =
                row["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
            assert_eq!(follow(&events[id]), tokens, "{policy}: the trace of {id}");
            for name in wanted {
                if events[id].iter().any(|event| event["decision"] == name) {
                    seen.push(name);
                }
            }
        }
        assert!(wanted.iter().all(|name| seen.contains(name)), "{policy}: only {seen:?}");
        let discarded =
            |row: &String| serde_json::from_str::<Value>(row).unwrap()["usage"]["discarded_tokens"].clone();
        assert!(
            together.values().any(|row| discarded(row).as_u64() > Some(0)),
            "{policy}: nothing was taken back"
        );
        assert_eq!(alone, run(&["-b", "16", "--kv-blocks", "12", "-c", "128"]), "{policy}: few blocks");
        // Cut off in the fourth line, then the same command again.
        let text = std::fs::read_to_string(place.path("out")).unwrap();
        let third = text.match_indices('\n').nth(2).unwrap().0;
        place.put("out", &text[..third + 20]);
        let more = args.iter().filter(|arg| **arg != "--overwrite").copied();
        let resumed: Vec<&str> = more.chain(["-b", "16", "--kv-blocks", "12", "-c", "128"]).collect();
        place.batch(prompts(), &resumed).expect(0, "");
        assert_eq!(alone, rows(&place), "{policy}: resumed");
        let model = tiny("llama-tied.Q4_1.gguf");
        place.run(["verify", "out", "--sample", "100%", "-m", model.to_str().unwrap()]).expect(0, "");
    }
}

/// What a job may throw away is bounded for all its answers together; policies then go on without, and the job says so.
#[test]
fn a_job_has_a_budget() {
    let place = calibrated();
    let run = |more: &[&str]| {
        let args = [
            "--policy",
            "quadrants",
            "--calibration",
            "calib.toml",
            "--ignore-eos",
            "--overwrite",
            "-b",
            "4",
        ];
        let all: Vec<&str> = args.iter().chain(more).copied().collect();
        let ended = place.batch(prompts(), &all);
        ended.expect(0, "");
        let discarded = |row: &Value| row["usage"]["discarded_tokens"].as_u64().unwrap();
        (place.rows("out").iter().map(discarded).sum::<u64>(), ended.stderr)
    };
    let (free, _) = run(&["--trace", "trace"]);
    let goes_back = |event: &Value| ["branch", "rewind"].iter().any(|name| event["decision"] == *name);
    let wanted = by_request(&place).values().filter(|events| events.iter().any(goes_back)).count();
    let (bound, said) = run(&["--extra-tokens", "0.02"]);
    assert!(bound > 0 && bound * 2 < free, "{bound} of {free} thrown away");
    assert!(said.contains("the policy went on without what it wanted to begin"), "{said}");
    assert!(said.contains("for each answered (none begun above 0.02)"), "{said}");
    // A job that goes on counts what its earlier runs threw away.
    let costly = |line: &&str| {
        let row: Value = serde_json::from_str(line).unwrap();
        row["usage"]["discarded_tokens"].as_u64().unwrap() > 0
    };
    let lines = std::fs::read_to_string(place.path("out")).unwrap();
    place.put("out", lines.lines().filter(costly).map(|line| format!("{line}\n")).collect::<String>());
    let args = ["--policy", "quadrants", "--calibration", "calib.toml", "--ignore-eos", "-b", "4"];
    let all: Vec<&str> = args.iter().chain(&["--extra-tokens", "0.02"]).copied().collect();
    place.batch(prompts(), &all).expect(0, "going on");
    let after: u64 =
        place.rows("out").iter().map(|row| row["usage"]["discarded_tokens"].as_u64().unwrap()).sum();
    assert_eq!(after, bound, "all of it was spent");
    let (none, said) = run(&["--extra-tokens", "0"]);
    assert_eq!(none, 0, "nothing may be thrown away");
    assert!(wanted > 1 && said.contains(&format!("spent: in {wanted} answers the policy went on")), "{said}");
    place.batch(prompts(), &["--extra-tokens", "-1"]).expect(64, "at least 0");
}

/// A trace says what it is of, what was asked, the text and the origin of each token, and what each decision cost.
#[test]
fn traces_tell_what_is_needed_to_draw_them() {
    let place = calibrated();
    let args = [
        "--policy",
        "quadrants",
        "--calibration",
        "calib.toml",
        "--ignore-eos",
        "--trace",
        "trace",
        "--seed",
        "5",
    ];
    place.batch(prompts(), &args).expect(0, "");
    let head = place.rows("trace").swap_remove(0);
    assert_eq!((&head["event"], &head["format"], &head["seed"]), (&json!("trace"), &json!(2), &json!(5)));
    assert_eq!(head["model"]["name"], "llama-tied.Q4_1");
    let regions = head["policy"]["regions"].as_array().unwrap();
    let names: Vec<_> = regions.iter().map(|region| region["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lelv", "helv", "lehv", "hehv", "between"]);
    assert!(regions[0]["bounds"]["entropy"]["below"].as_f64() > Some(0.0), "{head}");
    assert!(regions[0]["bounds"]["entropy"].get("above").is_none(), "{head}");
    assert_eq!(regions[1]["conditions"], json!(["the token before is of the class sentence_end"]));
    let rows: BTreeMap<String, Value> =
        place.rows("out").into_iter().map(|row| (row["id"].as_str().unwrap().to_owned(), row)).collect();
    let mut n_forked = 0;
    for (id, events) in by_request(&place) {
        assert!(events[0]["event"] == "request" && events[0]["prompt"].is_string(), "{}", events[0]);
        let done = events.last().unwrap();
        assert_eq!((&done["event"], &done["usage"]), (&json!("done"), &rows[&id]["usage"]), "{id}");
        let charged: u64 = events.iter().filter_map(|event| event["discarded_tokens"].as_u64()).sum();
        assert_eq!(
            charged,
            rows[&id]["usage"]["discarded_tokens"].as_u64().unwrap(),
            "{id}: every charge is told"
        );
        let mut origins: BTreeMap<u64, (Value, Value)> = BTreeMap::new();
        let mut said: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        for event in &events {
            for child in event["children"].as_array().into_iter().flatten() {
                let origin = (event["branch"].clone(), child["position"].clone());
                origins.insert(child["branch"].as_u64().unwrap(), origin);
            }
            if event["event"] != "token" {
                continue;
            }
            let branch = event["branch"].as_u64().unwrap();
            let origin = origins.get(&branch).cloned().unwrap_or_default();
            n_forked += usize::from(!origin.0.is_null());
            assert_eq!((&event["parent"], &event["fork"]), (&origin.0, &origin.1), "{event}");
            let is_drawn = ["draw", "best_of"].iter().any(|kind| event["decision"] == *kind);
            assert!(is_drawn || event["decision"] == "rewind" || event["temperature"].is_null(), "{event}");
            let text = event["text"].as_str().unwrap();
            let bytes = match event["bytes"].as_array() {
                Some(bytes) => bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
                None => text.as_bytes().to_vec(),
            };
            assert_eq!(String::from_utf8_lossy(&bytes), text);
            let candidates = event["candidates"].as_array().unwrap();
            assert!(candidates.iter().all(|c| c[2].is_string()), "{event}");
            assert!(candidates.is_sorted_by(|a, b| a[1].as_f64() >= b[1].as_f64()), "{event}");
            assert_eq!(candidates.len(), 8, "{event}");
            said.insert((branch, event["position"].as_u64().unwrap()), bytes);
        }
        // Where nothing was forked or taken back, the bytes of the tokens are the text.
        if origins.is_empty() && !events.iter().any(|event| event["event"] == "retract") {
            let all: Vec<u8> = said.into_values().flatten().collect();
            assert_eq!(String::from_utf8_lossy(&all), rows[&id]["text"].as_str().unwrap(), "{id}");
        }
    }
    assert!(n_forked > 0, "no line was forked");
}

/// A trace changes no answer, and its candidates are its own: those a request asks for stay as many as it asked for.
#[test]
fn traces_change_no_answer() {
    let place = Place::new();
    let asks = |i: usize| json!({"id": format!("r{i}"), "prompt": "Once upon", "max_tokens": 9, "seed": i});
    let input: String = (0..8)
        .map(|i| {
            let mut line = asks(i);
            if i % 2 == 0 {
                line["logprobs"] = json!(i);
            }
            format!("{line}\n")
        })
        .collect();
    place.batch(&input, &["--policy", "attic"]).expect(0, "");
    let wanted = rows(&place);
    for k in ["2", "5", "20"] {
        let args = ["--policy", "attic", "--trace", "trace", "--trace-candidates", k, "--overwrite"];
        place.batch(&input, &args).expect(0, "");
        assert_eq!(rows(&place), wanted, "{k} candidates");
        for event in place.rows("trace").iter().filter(|event| event["event"] == "token") {
            let asked = event["id"].as_str().unwrap()[1..].parse::<usize>().unwrap();
            let asked = if asked % 2 == 0 { asked } else { 0 };
            assert_eq!(
                event["candidates"].as_array().unwrap().len(),
                asked.max(k.parse().unwrap()),
                "{event}"
            );
        }
    }
}

/// A calibration is of one model; a policy of quantiles needs one.
#[test]
fn calibrations_are_of_one_model() {
    let place = calibrated();
    let ended = place.batch(prompts(), &["--policy", "quadrants"]);
    assert_eq!(ended.code, 78, "{}", ended.stderr);
    assert!(ended.stderr.contains("there is no calibration for this model"), "{}", ended.stderr);
    let text = std::fs::read_to_string(place.path("calib.toml")).unwrap();
    let hash = text.lines().find(|line| line.starts_with("sha256")).unwrap();
    place.put("other.toml", text.replace(hash, &format!("sha256 = \"{}\"", "0".repeat(64))));
    let ended = place.batch(prompts(), &["--policy", "quadrants", "--calibration", "other.toml"]);
    assert_eq!(ended.code, 78, "{}", ended.stderr);
    assert!(ended.stderr.contains("the calibration is of"), "{}", ended.stderr);
    let ended = place.batch(prompts(), &["--policy", "quadrants", "--calibration", "nowhere.toml"]);
    assert_eq!(ended.code, 66, "{}", ended.stderr);
}

#[test]
fn explain_names_region_and_reason() {
    let place = calibrated();
    // Quantiles are not guessed.
    let unknown = ["policy", "explain", "quadrants", "--signal", "entropy=1"];
    place.run(unknown).expect(78, "--calibration");
    let known = ["policy", "explain", "quadrants", "--calibration", "smollm2-135m", "--signal", "entropy=1"];
    place.run(known).expect(0, "");
    let explain = |signals: [&str; 2], more: &[&str]| {
        let args = ["policy", "explain", "attic", "--signal", signals[0], "--signal", signals[1]];
        place.run(args.iter().chain(more))
    };
    let ended = explain(["entropy=0.01", "varentropy=0.01"], &[]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(
        ended.stdout,
        "lelv: decides\n  entropy 0.0100 is below 0.0693\n  varentropy 0.0100 is below 0.0480\n  decision: argmax\n"
    );
    let ended = explain(["entropy=1", "varentropy=1"], &[]);
    assert!(
        ended.stdout.contains("lelv: does not apply\n  entropy 1.0000 is not below 0.0693"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.ends_with("adaptive: decides\n  decision: best_of\n"), "{}", ended.stdout);
    assert_eq!(explain(["entropi=1", "varentropy=1"], &[]).code, 64);
    assert_eq!(explain(["entropy=nan", "varentropy=1"], &[]).code, 64);
    explain(["entropy=-1", "varentropy=1"], &[]).expect(64, "entropy is never below 0");
    explain(["entropy=1", "collision=1.5"], &[]).expect(64, "collision is 0 to 1");
}

/// A trace decided again: by its own policy nothing changes, by another one all that is drawn does; bare signals
/// get a line each.
#[test]
fn traces_are_decided_again() {
    let place = Place::new();
    let args = ["--policy", "attic", "--set", "region.helv-ask.cap=1", "--trace", "trace"];
    place.batch(prompts(), &args).expect(0, "");
    let n = place.rows("trace").iter().filter(|event| event["event"] == "token").count();
    let replay = |more: &[&str]| place.run(["replay", "trace", "--policy"].iter().chain(more));
    let ended = replay(&["greedy"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let drawn = place
        .rows("trace")
        .iter()
        .filter(|event| ["draw", "best_of"].iter().any(|name| event["decision"] == *name))
        .count();
    assert!(
        drawn > 0 && ended.stderr.contains(&format!("{drawn} of {n} decisions are others")),
        "{}",
        ended.stderr
    );
    // Traces of the first format had no record of what they are of, no texts and no ends.
    let old = place
        .rows("trace")
        .into_iter()
        .filter(|event| !["trace", "request", "done"].iter().any(|kind| event["event"] == *kind));
    let old: String = old
        .map(|mut event| {
            event["candidates"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .for_each(|c| c.as_array_mut().unwrap().truncate(2));
            ["text", "bytes", "name", "parent", "fork"]
                .iter()
                .for_each(|key| drop(event.as_object_mut().unwrap().remove(*key)));
            format!("{event}\n")
        })
        .collect();
    place.put("old", old);
    assert_eq!(place.run(["replay", "old", "--policy", "greedy"]).stderr, ended.stderr);
    place.put("bare", "{\"entropy\": 0.01, \"varentropy\": 0.01}\n{\"entropy\": 1.0, \"varentropy\": 1.0}\n");
    let ended = place.run(["replay", "bare", "--policy", "attic"]);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"region": "lelv", "decision": "argmax"}));
    assert_eq!((&lines[1]["region"], &lines[1]["temperature"]), (&json!("adaptive"), &Value::Null));
    place.put("bad", "{\"entropy\": \"x\"}\n");
    let ended = place.run(["replay", "bad", "--policy", "attic"]);
    assert_eq!(ended.code, 65, "{}", ended.stderr);
    assert!(ended.stderr.contains("bad:1"), "{}", ended.stderr);
}
