//! Every verb once, as a person would use it.

use crate::program::{Place, finish, tiny};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn model() -> String {
    tiny("llama-tied.Q4_1.gguf").to_str().unwrap().to_owned()
}

#[test]
fn run_answers_on_standard_output() {
    let place = Place::new();
    let ended = place.run(["run", "-m", &model(), "-p", "Hello", "-n", "8", "--ignore-eos"]);
    ended.expect(0, "mean H");
    assert!(!ended.stdout.contains('\x1b'), "colours in a file: {}", ended.stdout);
    assert!(ended.stderr.contains("answer 8 tok"), "{}", ended.stderr);

    let again = place.run(["run", "-m", &model(), "-p", "Hello", "-n", "8", "--ignore-eos", "-q"]);
    assert_eq!(
        (again.stdout, again.stderr.as_str()),
        (ended.stdout, ""),
        "the same answer, and nothing else"
    );

    let colour =
        place.run(["run", "-m", &model(), "-p", "Hello", "-n", "8", "--ignore-eos", "--color", "always"]);
    assert!(colour.stdout.contains("\x1b[38;5;"), "{}", colour.stdout);
    let token =
        place.run(["run", "-m", &model(), "-p", "Hello", "-n", "3", "--signals", "token", "--logprobs", "2"]);
    token.expect(0, "| token");
}

#[test]
fn run_takes_prompts_from_anywhere() {
    let place = Place::new();
    place.put("prompt", "Once upon a time\n");
    let base = ["run", "-n", "6", "--ignore-eos", "-q", "--no-chat-template", "--policy", "greedy", "-m"];
    let of = |more: &[&str], stdin: &str| {
        let mut command = place.command(base);
        let ended = finish(command.arg(model()).args(more), stdin.as_bytes());
        ended.expect(0, "");
        ended.stdout
    };
    let expected = of(&["-p", "Once upon a time"], "");
    assert_eq!(of(&["--prompt-file", "prompt"], ""), expected);
    assert_eq!(of(&["-p", "-"], "Once upon a time\n"), expected);
    assert_eq!(of(&[], "Once upon a time\n"), expected);
    assert_ne!(of(&["-p", "Twice"], ""), expected);
    place.run(["run", "-m", &model(), "--prompt-file", "missing"]).expect(66, "missing");
    let mut command = place.command(["run", "-m", &model()]);
    finish(&mut command, b"\xff").expect(65, "not UTF-8");
}

#[test]
fn score_agrees_with_itself() {
    let place = Place::new();
    place.put("in", "{\"id\": \"a\", \"text\": \"Once upon a time\"}\n{\"id\": \"b\", \"text\": \"\"}\n");
    let args = ["score", "-i", "in", "-o", "out", "-m", &model()];
    place.run(args).expect(3, "perplexity");
    let rows = place.rows("out");
    let row = rows.iter().find(|row| row["id"] == "a").unwrap();
    let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "request", "tokens", "logprobs", "entropy", "varentropy"]);
    let n = row["tokens"].as_array().unwrap().len();
    for column in ["logprobs", "entropy", "varentropy"] {
        assert_eq!(row[column].as_array().unwrap().len(), n, "{column}");
    }
    assert_eq!(row["logprobs"][0], Value::Null);
    assert!(row["logprobs"][1].as_f64().unwrap() < 0.0);
    assert_eq!(rows.iter().find(|row| row["id"] == "b").unwrap()["error"]["code"], "EmptyPrompt");

    // What generation says of its own tokens is what scoring says of them.
    let prompt = row["tokens"].clone();
    let line =
        serde_json::json!({"id": "g", "prompt": prompt, "max_tokens": 1, "logprobs": 0, "ignore_eos": true});
    place.put("gen", line.to_string());
    let args =
        ["batch", "-i", "gen", "-o", "genout", "-m", &model(), "--policy", "greedy", "--signals", "token"];
    place.run(args).expect(0, "");
    let generated = &place.rows("genout")[0];
    assert_eq!(generated["signals"]["entropy"][0], row["entropy"][n - 1]);
    assert_eq!(generated["signals"]["varentropy"][0], row["varentropy"][n - 1]);
}

#[test]
fn bench_prints_an_array_and_nothing_else() {
    let place = Place::new();
    let args =
        ["bench", "-p", "16", "-n", "4", "-b", "1,2", "-d", "0,8", "-r", "2", "-t", "2", "-m", &model()];
    let ended = place.run_long(args.iter().copied().chain(["-o", "json"]));
    ended.expect(0, "");
    let results: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(results.len(), 6);
    for result in &results {
        assert!(result["avg_ts"].as_f64().unwrap() > 0.0, "{result}");
        let [of_limit, of_given] =
            ["share_of_limit", "share_of_given"].map(|of| result[of].as_f64().unwrap());
        assert!(0.0 < of_limit && of_limit <= of_given, "{result}");
        let share = result["signals_share"].as_f64().unwrap();
        assert!((0.0..1.0).contains(&share), "{result}");
        assert_eq!(result["samples_ts"].as_array().unwrap().len(), 2);
    }
    let of = |i: usize, name: &str| results[i][name].as_u64().unwrap();
    assert_eq!([of(0, "n_prompt"), of(0, "n_gen"), of(0, "n_depth"), of(0, "rows")], [16, 0, 0, 1]);
    assert_eq!([of(5, "n_prompt"), of(5, "n_gen"), of(5, "n_depth"), of(5, "rows")], [0, 4, 8, 2]);
    let ended = place.run_long(args.iter().copied().chain(["-o", "md"]));
    assert!(ended.stdout.contains("| pp16 @ d8 |") && ended.stdout.contains("limit:"), "{}", ended.stdout);
    let ended = place.run_long(args.iter().copied().chain(["-o", "csv"]));
    assert_eq!(ended.stdout.lines().count(), 7);
    place.run(["bench", "-p", "0", "-n", "0", "-m", &model()]).expect(64, "nothing to measure");
    place.run(["bench", "-p", "100000", "-m", &model()]).expect(64, "positions");
    let small = ["bench", "-p", "100", "-n", "0", "--kv-blocks", "2", "-m", &model()];
    place.run(small).expect(64, "the 2 blocks of the KV cache hold 32; raise --kv-blocks");
}

#[test]
fn random_weights_are_measured_without_a_model() {
    let place = Place::new();
    for name in ["random:tiny", "random:tiny:Q4_1"] {
        let ended =
            place.run(["bench", "-p", "4", "-n", "2", "-b", "2", "-r", "1", "-m", name, "-o", "json"]);
        ended.expect(0, "");
        let results: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((results.len(), results[1]["model_filename"].as_str()), (2, Some(name)));
        assert!(results[1]["avg_ts"].as_f64().unwrap() > 0.0);
    }
    place.run(["bench", "-m", "random:huge"]).expect(64, "smollm2-135m");
    place.run(["bench", "-m", "random:tiny:Q9"]).expect(64, "Q4_K");
}

#[test]
fn policies_are_listed_shown_and_checked() {
    let place = Place::new();
    let list = place.run(["policy", "list"]);
    for name in ["greedy", "sample", "min-p", "attic", "smollm-135m"] {
        assert!(list.stdout.lines().any(|line| line.starts_with(name)), "{name}: {}", list.stdout);
        let shown = place.run(["policy", "show", name]);
        shown.expect(0, "");
        place.put("own.toml", &shown.stdout);
        let checked = place.run(["policy", "check", "own.toml"]);
        checked.expect(0, "");
        assert!(checked.stdout.contains("sha256"), "{}", checked.stdout);
    }
    place.run(["policy", "show", "no-such"]).expect(66, "no-such");
    place.put("bad.toml", "nonsense = 1\n");
    place.run(["policy", "check", "bad.toml"]).expect(78, "bad.toml");
    place.run(["run", "-p", "x", "--policy", "bad.toml", "-m", &model()]).expect(78, "bad.toml");
}

/// Every constant of every limits module; `tests/architecture.rs` sees to it that limits stand in those.
#[test]
fn every_limit_is_printed() {
    let limits = Place::new().run(["limits"]);
    limits.expect(0, "");
    let row = |line: &str| -> Option<(String, u64)> {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_uppercase(), words.next()?.parse().ok()?))
    };
    let printed: Vec<(String, u64)> = limits.stdout.lines().filter_map(row).collect();
    for known in [("SAFETENSORS_HEADER_BYTES", 100_000_000), ("ZSTD_WINDOW_BYTES", 128 << 20)] {
        assert!(printed.contains(&(known.0.to_owned(), known.1)), "{known:?}: {}", limits.stdout);
    }
    assert!(limits.stdout.contains("temperature") && limits.stdout.contains("from 0 to 100"));
    let sources = ["model", "cpu", "engine", "entropix"].map(|name| format!("crates/{name}/src"));
    let mut folders: Vec<PathBuf> =
        sources.iter().map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).collect();
    let mut declared = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("limits.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let names =
                    text.lines().filter_map(|line| line.strip_prefix("    pub const ")?.split(':').next());
                declared.extend(names.map(str::to_owned));
            }
        }
    }
    assert!(declared.len() > 70, "only {} limits were found", declared.len());
    let mut names: Vec<String> = printed.into_iter().map(|(name, _)| name).collect();
    names.sort();
    declared.sort();
    assert_eq!(names, declared);
}

#[test]
fn doctor_completions_and_man_print() {
    let place = Place::new();
    let doctor = place.run(["doctor"]);
    doctor.expect(0, "");
    assert!(doctor.stdout.contains("kernels"), "{}", doctor.stdout);
    let json: Value = serde_json::from_str(&place.run(["doctor", "--json"]).stdout).unwrap();
    assert!(json["threads"].as_u64().unwrap() > 0);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(place.run(["completions", shell]).stdout.contains("entropix"), "{shell}");
    }
    let man = place.run(["man"]).stdout;
    assert!(man.contains(".TH entropix") && man.contains("ENTROPIX BATCH"), "{man:.400}");
}
