//! Traces decided again without a model: a policy on its own trace changes nothing, whatever it did there.

use crate::program::{Ended, Place};
use crate::techniques::{calibrated, prompts};
use entropix_engine::PolicyFile;
use serde_json::{Value, json};

/// Answers the prompts by a policy and replays its trace by it. Returns what was said.
fn own_trace(place: &Place, input: &str, policy: &[&str], batch: &[&str]) -> Ended {
    let traced = ["--trace", "trace", "--overwrite"];
    let args: Vec<&str> = policy.iter().chain(batch).chain(&traced).copied().collect();
    place.batch(input, &args).expect(0, "");
    replay(place, policy)
}

fn replay(place: &Place, args: &[&str]) -> Ended {
    let ended = place.run(["replay", "trace"].iter().chain(args));
    ended.expect(0, "");
    ended
}

/// Decisions made again, and those of another kind, of another region, at another temperature.
fn counts(said: &str) -> [usize; 4] {
    let (_, rest) = said.split_once(": ").unwrap_or_else(|| panic!("{said}"));
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let changed = numbers.next().unwrap();
    let decisions = numbers.next().unwrap();
    let (_, rest) = said.split_once("of the same: ").unwrap_or_else(|| panic!("{said}"));
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    [decisions, changed, numbers.next().unwrap(), numbers.next().unwrap()]
}

#[track_caller]
fn assert_same(ended: &Ended, place: &Place) {
    let [decisions, rest @ ..] = counts(&ended.stderr);
    assert!(decisions > 100, "{}", ended.stderr);
    assert_eq!(rest, [0; 3], "{}", ended.stderr);
    assert!(!ended.stderr.contains("not made again"), "{}", ended.stderr);
    // Most tokens are decisions: others were forced, begin a line, or are of one that breaks a tie.
    let free = ["argmax", "draw", "best_of"];
    let is_free =
        |event: &&Value| event["event"] == "token" && free.iter().any(|kind| event["decision"] == *kind);
    let n_free = place.rows("trace").iter().filter(is_free).count();
    assert!(decisions * 5 >= n_free * 4, "{decisions} of {n_free}: {}", ended.stderr);
}

/// Fails when budgets, attempts, states of policies, ends of answers or lines that compete are not those of the engine.
#[test]
fn a_policy_changes_nothing_in_its_own_trace() {
    let place = calibrated();
    for preset in PolicyFile::presets() {
        let policy = ["--policy", preset.name, "--calibration", "calib.toml"];
        let ended = own_trace(&place, &prompts(), &policy, &["--ignore-eos", "-b", "5"]);
        println!("{}: {}", preset.name, ended.stderr.lines().next().unwrap_or_default());
        assert_same(&ended, &place);
        let other = if preset.name == "greedy" { "sample" } else { "greedy" };
        let ended = replay(&place, &["--policy", other]);
        let [_, rest @ ..] = counts(&ended.stderr);
        assert!(rest.iter().sum::<usize>() > 100, "{} by {other}: {}", preset.name, ended.stderr);
    }
}

/// The other steps of the control, switched on.
#[test]
fn lots_are_drawn_again() {
    let place = calibrated();
    let sets = [
        "region.place-early.enabled=false",
        "region.answer-early.enabled=true",
        "region.place-late.enabled=false",
        "region.answer-late.enabled=true",
    ];
    let mut policy = vec!["--policy", "random-gate", "--calibration", "calib.toml"];
    sets.iter().for_each(|set| policy.extend(["--set", set]));
    let ended = own_trace(&place, &prompts(), &policy, &["--ignore-eos", "--seed", "9"]);
    assert_same(&ended, &place);
    let mut trace = place.rows("trace");
    trace
        .iter_mut()
        .filter(|event| event["event"] == "request")
        .for_each(|it| it["parameters"]["seed"] = json!(1));
    let trace: String = trace.iter().map(|event| format!("{event}\n")).collect();
    place.put("trace", trace);
    let [_, rest @ ..] = counts(&replay(&place, &policy).stderr);
    assert!(rest.iter().sum::<usize>() > 0, "another seed has other lots");
}

/// Caps and cooldowns, forced tokens, texts, classes, several answers, a request's own temperature and seed.
#[test]
fn injections_texts_and_own_parameters_are_followed() {
    let place = Place::new();
    place.put(
        "pauses.toml",
        "name = 'pauses'
         [[region]]
         name = 'pause'
         when.entropy = { above = 0.05 }
         when.last = { class_is_not = 'digit', injected = false }
         decision = 'inject'
         phrase = ' the sky.'
         cap = 2
         cooldown = 5
         [default]
         decision = 'draw'
         temperature = { base = 0.8, entropy = 0.1 }",
    );
    let asks = |i: usize| {
        let mut line =
            json!({"id": format!("r{i}"), "prompt": format!("Once upon {i}"), "max_tokens": 30, "n": 2});
        if i % 3 == 1 {
            line["temperature"] = json!(1.7);
        }
        if i % 3 == 2 {
            (line["temperature"], line["seed"]) = (json!(0), json!(i));
        }
        format!("{line}\n")
    };
    let input: String = (0..6).map(asks).collect();
    let policy = ["--policy", "pauses.toml"];
    let ended = own_trace(&place, &input, &policy, &["--ignore-eos"]);
    assert_same(&ended, &place);
    let trace = place.rows("trace");
    assert_eq!(trace.iter().filter(|event| event["event"] == "inject").count(), 24, "two an answer");
    let [_, changed, ..] =
        counts(&replay(&place, &["--policy", "pauses.toml", "--set", "region.pause.cap=1"]).stderr);
    assert_eq!(changed, 12, "one of two an answer is not injected");
    let [_, changed, region, heat] =
        counts(&replay(&place, &["--policy", "pauses.toml", "--set", "default.temperature=5"]).stderr);
    assert_eq!((changed, region), (0, 0));
    assert!(heat > 50, "{heat}");
    // A text that stands somewhere in the trace.
    let text = trace.iter().filter(|event| event["decision"] == "draw").find_map(|event| {
        let text = event["text"].as_str()?;
        (event.get("bytes").is_none() && text.trim().len() > 1).then(|| text.to_owned())
    });
    let text = serde_json::to_string(&text.expect("a text")).unwrap();
    place.put(
        "after.toml",
        format!(
            "name = 'after'
             [[region]]
             name = 'after'
             when.last = {{ is = {text} }}
             decision = 'draw'
             temperature = 1.5
             [[region]]
             name = 'line'
             when.last = {{ class = 'newline' }}
             decision = 'argmax'
             [default]
             decision = 'draw'"
        ),
    );
    // By a policy that the trace does not know: its text is found where it stands.
    let ended = replay(&place, &["--policy", "after.toml", "-o", "changes"]);
    let changes = place.rows("changes");
    assert!(changes.iter().any(|change| change["now"]["region"] == "after"), "{}", ended.stderr);
    let ended = own_trace(&place, &input, &["--policy", "after.toml"], &["--ignore-eos"]);
    assert_same(&ended, &place);
    let events = place.rows("trace");
    assert!(
        events.iter().any(|event| event["region"] == "after" || event["region"] == "line"),
        "a text decides"
    );
}

/// What a prompt ends with decides the first token.
#[test]
fn prompts_end_with_what_policies_look_for() {
    let place = Place::new();
    place.put(
        "ends.toml",
        "name = 'ends'
         [[region]]
         name = 'first'
         when.last = { is = ' sky' }
         decision = 'argmax'
         [[region]]
         name = 'second'
         when.last = { class = 'digit' }
         decision = 'argmax'
         [default]
         decision = 'draw'",
    );
    let line = |prompt: &str| json!({"prompt": prompt, "max_tokens": 15});
    let input: String = (0..9).map(|i| format!("{}\n", line(["The sky", "1 2", "Once"][i % 3]))).collect();
    let ended = own_trace(&place, &input, &["--policy", "ends.toml"], &["--ignore-eos"]);
    assert_same(&ended, &place);
    let regions: Vec<Value> = place.rows("trace").into_iter().map(|event| event["region"].clone()).collect();
    assert!(
        regions.iter().any(|region| region == "first") && regions.iter().any(|region| region == "second")
    );
}

/// What the budget of a job forbade is no change, and is said.
#[test]
fn a_budget_of_the_job_is_no_change() {
    let place = calibrated();
    let policy = ["--policy", "quadrants", "--calibration", "calib.toml"];
    let ended =
        own_trace(&place, &prompts(), &policy, &["--ignore-eos", "-b", "4", "--extra-tokens", "0.02"]);
    assert_eq!(counts(&ended.stderr)[1..], [0; 3], "{}", ended.stderr);
    assert!(ended.stderr.contains("the job had a budget of extra tokens"), "{}", ended.stderr);
}

#[test]
fn candidates_that_are_missing_are_said() {
    let place = Place::new();
    place.batch(prompts(), &["--policy", "sample", "--trace", "trace"]).expect(0, "");
    let ended = replay(&place, &["--policy", "dslider"]);
    assert!(ended.stderr.contains("decisions are not made again"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--trace-candidates 64"), "{}", ended.stderr);
}

/// A bare line is decided by its own signals: what would be taken back is told though there is nothing there.
#[test]
fn bare_signals_stand_alone() {
    let place = calibrated();
    let replay = |lines: &str| {
        place.put("bare", lines);
        place.run(["replay", "bare", "--policy", "quadrants", "--calibration", "calib.toml"])
    };
    let ended = replay(
        "{\"entropy\":90,\"varentropy\":90}\n{\"entropy\":0,\"varentropy\":90}\n{\"entropy\":0,\"varentropy\":0}\n",
    );
    ended.expect(0, "");
    let told: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let side = |i: usize| (told[i]["region"].as_str().unwrap(), told[i]["decision"].as_str().unwrap());
    assert_eq!([side(0), side(1), side(2)], [("hehv", "rewind"), ("lehv", "branch"), ("lelv", "argmax")]);
    replay("{\"entropy\":-1,\"varentropy\":1}\n")
        .expect(65, "bare:1: entropy is -1, which no distribution has");
    replay("").expect(0, "nothing was decided in this trace");
}

/// The trace says of which model it is: another one's calibration is refused, its own is found.
#[test]
fn calibrations_are_of_the_model_of_the_trace() {
    let place = calibrated();
    let args = ["--policy", "quadrants", "--calibration", "calib.toml", "--trace", "trace"];
    place.batch(prompts(), &args).expect(0, "");
    let text = std::fs::read_to_string(place.path("calib.toml")).unwrap();
    let hash = text.lines().find(|line| line.starts_with("sha256")).unwrap();
    place.put("other.toml", text.replace(hash, &format!("sha256 = \"{}\"", "0".repeat(64))));
    for input in ["trace", "out"] {
        let report = ["report", input, "--calibration", "other.toml", "-o", "page.html"];
        place.run(report).expect(78, "the calibration is of");
        assert!(!place.path("page.html").exists());
        place.run(["report", input, "--calibration", "calib.toml", "-o", "page.html"]).expect(0, "");
        std::fs::remove_file(place.path("page.html")).unwrap();
    }
    let other = ["replay", "trace", "--policy", "quadrants", "--calibration", "other.toml"];
    place.run(other).expect(78, "the calibration is of");
    place
        .run(["replay", "trace", "--policy", "quadrants"])
        .expect(78, "there is no calibration for this model");
    let known = include_str!("../../crates/entropix/calibrations/smollm2-135m.toml");
    let known =
        known.lines().find_map(|line| line.strip_prefix("sha256 = \"")).unwrap().trim_end_matches('"');
    let mut trace = place.rows("trace");
    trace[0]["model"]["sha256"] = json!(known);
    place.put("trace", trace.iter().map(|event| format!("{event}\n")).collect::<String>());
    place.run(["replay", "trace", "--policy", "quadrants"]).expect(0, "decisions are others");
}

/// Parameters that need no signal are told, those that need a missing one are null.
#[test]
fn bare_signals_are_told_what_they_decide() {
    let place = Place::new();
    let bare = |lines: &str, policy: &str, more: &[&str]| {
        place.put("bare", lines);
        place.run(["replay", "bare", "--policy", policy].iter().chain(more))
    };
    let rows = |ended: &Ended| -> Vec<Value> {
        ended.expect(0, "");
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = "{\"entropy\": 0.01, \"varentropy\": 0.01}\n{\"varentropy\": 4, \"entropy\": 1}\n{\"entropy\": 0.01}\n";
    let attic = rows(&bare(lines, "attic", &[]));
    assert_eq!(attic[0], json!({"region": "lelv", "decision": "argmax"}));
    let lehv = json!({"region": "lehv", "decision": "draw", "temperature": null, "top_k": null, "top_p": 0.9, "min_p": 0.03});
    assert_eq!(attic[1], lehv, "its temperature and top_k need signals of attention");
    assert_eq!(attic[2]["region"], "adaptive", "lelv needs the varentropy too");
    let sigma = rows(&bare(lines, "top-n-sigma", &[]));
    assert_eq!(
        (&sigma[0]["top_n_sigma"], &sigma[0]["temperature"], &sigma[0]["top_k"]),
        (&json!(1.0), &json!(1.0), &json!(0))
    );
    assert_eq!(rows(&bare(lines, "p-less", &[]))[0]["p_less"], true);
    assert_eq!(rows(&bare(lines, "sample", &["--set", "temperature=0"]))[0]["decision"], "argmax");
    for line in
        ["{\"prompt\": \"Once\"}", "{\"Entropy\": 1}", "{\"id\": 3, \"text\": \"x\", \"tokens\": [1]}"]
    {
        let ended = bare(&format!("{{\"entropy\": 1}}\n{line}\n"), "attic", &[]);
        ended.expect(65, "bare:2: ").expect(65, "known signals: entropy, varentropy");
    }
    bare("{\"entropy\": \"x\"}\n", "attic", &[]).expect(65, "bare:1");
}

/// Changes go to the output, a line each; what it holds is not lost.
#[test]
fn changes_are_written() {
    let place = calibrated();
    let args = ["--policy", "quadrants", "--calibration", "calib.toml", "--ignore-eos", "--trace", "trace"];
    place.batch(prompts(), &args).expect(0, "");
    let greedy = ["replay", "trace", "--policy", "greedy", "-o", "changes"];
    let ended = place.run(greedy);
    ended.expect(0, ", branch ");
    let [_, changed, region, heat] = counts(&ended.stderr);
    let rows = place.rows("changes");
    let n = |what: &str| rows.iter().filter(|row| row["change"] == what).count();
    assert_eq!([n("decision"), n("region"), n("temperature")], [changed, region, heat]);
    assert_eq!(rows.len(), changed + region + heat);
    assert!(rows.iter().any(|row| row["branch"].as_u64() > Some(0)), "on a branch too");
    let trace = place.rows("trace");
    for row in rows.iter().filter(|row| row["before"]["decision"] == "draw") {
        let keys = ["id", "choice", "branch", "position"];
        let is_it =
            |event: &&Value| event["event"] == "token" && keys.iter().all(|key| event[*key] == row[*key]);
        let told = trace.iter().filter(is_it).any(|token| {
            ["region", "decision", "temperature"].iter().all(|key| token[*key] == row["before"][*key])
        });
        assert!(told && row["now"]["decision"] == "argmax", "{row}");
    }
    place.run(greedy).expect(64, "--overwrite");
    place.run(greedy.iter().chain(&["--overwrite"])).expect(0, "");
    assert_eq!(place.rows("changes"), rows);
    assert!(place.run(["replay", "trace", "--policy", "greedy"]).stdout.is_empty());
}

/// A torn end is passed over; what no trace can say is an error with its line.
#[test]
fn broken_traces_are_refused_by_line() {
    let place = Place::new();
    let input = json!({"id": "r0", "prompt": "Once upon", "max_tokens": 40}).to_string();
    place.batch(input, &["--policy", "sample", "--trace", "trace", "--ignore-eos"]).expect(0, "");
    let text = std::fs::read_to_string(place.path("trace")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let replay = |text: &str| {
        place.put("broken", text);
        place.run(["replay", "broken", "--policy", "sample"])
    };
    replay(&text[..text.len() - 40]).expect(0, "torn").expect(0, ": 0 of ");
    replay(&(text[..text.len() - 40].to_owned() + "\n" + lines[2]))
        .expect(65, &format!("broken:{}", lines.len()));
    let with = |place: usize, change: &dyn Fn(&mut Value)| {
        let mut row: Value = serde_json::from_str(lines[place]).unwrap();
        change(&mut row);
        let mut all: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        all[place] = row.to_string();
        replay(&(all.join("\n") + "\n"))
    };
    // 0 is the head, 1 a request, 2 and 3 its first tokens.
    with(3, &|row| row["position"] = json!(9_000_000_000_000_u64)).expect(65, "broken:4: position");
    with(3, &|row| row["position"] = json!(3)).expect(65, "broken:4: position 3");
    with(3, &|row| row["token"] = json!(4_294_967_296_u64)).expect(65, "broken:4: token");
    with(3, &|row| row["event"] = json!("tokens")).expect(65, "broken:4: event");
    with(3, &|row| row["branch"] = json!(7)).expect(65, "broken:4: line 7");
    with(3, &|row| drop(row.as_object_mut().unwrap().remove("position"))).expect(65, "broken:4: ");
    let event = |more: Value| {
        let mut row = json!({"id": "r0", "choice": 0, "branch": 0});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let row = row.to_string();
        let all = [&lines[..4], &[&row[..]]].concat();
        replay(&(all.join("\n") + "\n")).expect(65, "broken:5: ");
    };
    event(json!({"event": "retract", "position": 100, "discarded_tokens": 1}));
    event(json!({"event": "retract", "position": 0, "discarded_tokens": 1}));
    event(json!({"event": "join", "scores": []}));
    event(json!({"event": "fork", "decision": "branch", "children": [{"branch": 0, "position": 3}]}));
    event(json!({"event": "fork", "decision": "rewind", "children": [{"branch": 1, "position": 0}]}));
    let many: Vec<Value> = (1..40).map(|i| json!({"branch": i, "position": 3})).collect();
    event(json!({"event": "fork", "decision": "refork", "children": many}));
}
