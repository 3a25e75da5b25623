//! Every built-in policy on the real default model, and what shows a policy at work.

use crate::program::{Place, tiny};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The default model; `scripts/get_model` fetches it.
fn smollm2() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::env::home_dir().expect("a home").join(".cache"));
    let path = cache.join("entropix/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is not there; scripts/get_model smollm2 fetches it", path.display());
    path
}

/// Answers of all presets, alone and together: the same bytes, and decisions that the policy knows. Policies of
/// quantiles find the calibration that comes with the program.
#[test]
fn every_preset_answers() {
    let (place, model) = (Place::new(), smollm2());
    let questions = ["Which is larger, 9.9 or 9.11?", "Tell me about the sea.", "What is 17 times 6?"];
    let line = |(i, question)| {
        let messages = json!([{"role": "user", "content": question}]);
        format!("{}\n", json!({"id": format!("q{i}"), "messages": messages, "max_tokens": 72}))
    };
    place.put("in", questions.into_iter().enumerate().map(line).collect::<String>());
    let listed = place.run(["policy", "list"]);
    let presets: Vec<&str> =
        listed.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(presets.len() >= 18, "{}", listed.stdout);
    for preset in presets {
        let run = |rows: &str| {
            let ended = place.run_long([
                "batch",
                "-i",
                "in",
                "-o",
                "out",
                "--overwrite",
                "--signals",
                "token",
                "--threads",
                "2",
                "-b",
                rows,
                "--policy",
                preset,
                "--date",
                "2026-01-01",
                "-m",
                model.to_str().unwrap(),
            ]);
            ended.expect(0, preset);
            let mut rows = place.rows("out");
            rows.sort_by_key(|row| row["id"].to_string());
            rows
        };
        let alone = run("1");
        assert_eq!(alone.len(), 3);
        assert_eq!(alone, run("3"), "{preset}");
        let shown = place.run(["policy", "show", preset]).stdout;
        for row in &alone {
            let n = row["tokens"].as_array().unwrap().len();
            assert!(n > 0 || row["finish_reason"] == "abstain", "{preset}: {row}");
            for region in row["signals"]["region"].as_array().unwrap() {
                let region = region.as_str().unwrap();
                assert!(
                    region == "default" || shown.contains(&format!("\"{region}\"")),
                    "{preset}: {region}"
                );
            }
        }
    }
}

/// Every token of an answer and of the lines beside it is on a line, and the answer follows.
#[test]
fn run_explains_every_token() {
    let place = Place::new();
    let model = tiny("llama-tied.Q4_1.gguf");
    place.put(
        "policy.toml",
        "name = \"p\"\n[budget]\nextra_tokens = 9\n[[region]]\nname = \"torn\"\nwhen.output = { above = 3, below = 5 }\n\
         decision = \"branch\"\nwidth = 3\nhorizon = 4\nscore = \"mean_logp\"\n[[region]]\nname = \"back\"\n\
         when.output = { above = 10, below = 12 }\ndecision = \"rewind\"\nback = 2\nattempts = 1\n[default]\n\
         name = \"sure\"\ndecision = \"argmax\"\n",
    );
    let run = |more: &[&str]| {
        let args = [
            "run",
            "-p",
            "Once upon a time",
            "--no-chat-template",
            "-n",
            "16",
            "--ignore-eos",
            "--policy",
            "policy.toml",
            "--threads",
            "2",
            "-q",
            "-m",
            model.to_str().unwrap(),
        ];
        let ended = place.run(args.iter().chain(more));
        ended.expect(0, "");
        ended.stdout
    };
    let (plain, explained) = (run(&[]), run(&["--explain"]));
    let (lines, answer) = explained.rsplit_once("\n\n").expect("an empty line before the answer");
    assert_eq!(answer, plain);
    let of_line = |number: &str, decision: &str| {
        let fields = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|fields| fields.first() == Some(&number) && fields.get(4) == Some(&decision)).count()
    };
    assert!(lines.contains("torn: branch into line 1 from position"), "{lines}");
    assert!(lines.contains("goes on; scores: line "), "{lines}");
    // The tokens of the line that are taken back, as they were said.
    let (before, back) = lines.split_once("< back: goes back to position").unwrap();
    let (before, number) = before.rsplit_once('\n').unwrap();
    let gone = back.lines().next().unwrap().split_once(", without ").unwrap().1;
    let said = |line: &str| line.split_once('"').unwrap().1.trim_end_matches('"').to_owned();
    let own = before.lines().filter(|line| line.starts_with(&number[..4]) && line.contains('"'));
    let own: Vec<String> = own.map(said).collect();
    assert_eq!(gone, format!("\"{}\"", own[own.len() - 2..].concat()), "{lines}");
    let tokens: usize = (0..4).map(|line| of_line(&line.to_string(), "argmax")).sum();
    // 4 before the branch, 3 of each child after its first, 3 to the return and the rest, less the first after it.
    assert!(tokens >= 4 + 3 * 3 + 3, "{tokens} in {lines}");
}

/// Labels give the accuracy by doubt; a label of nobody, or one without an answer, is refused.
#[test]
fn calibrations_know_the_truth() {
    let place = Place::new();
    let prompt = |i: usize| format!("{}\n", json!({"id": format!("r{i}"), "prompt": format!("1 2 3 {i}")}));
    place.put("texts", (0..12).map(prompt).collect::<String>());
    let model = tiny("llama-tied.Q4_1.gguf");
    let run = |labels: &str| {
        place.put("labels", labels);
        place.run([
            "calibrate",
            "-i",
            "texts",
            "-o",
            "calib.toml",
            "-n",
            "24",
            "--overwrite",
            "--labels",
            "labels",
            "--threads",
            "2",
            "-m",
            model.to_str().unwrap(),
        ])
    };
    run("{\"id\":\"r1\",\"answer\":\"no number\"}\n").expect(65, "holds no answer");
    // However many answers a request wants, it is measured once.
    place.put("texts", (0..12).map(prompt).collect::<String>().replace("}\n", ",\"n\":2}\n"));
    run("{\"id\":\"r1\",\"answer\":1}\n").expect(0, "made from     12 requests");
    run("{\"id\":\"nobody\",\"answer\":1}\n").expect(65, "none of the 1 labels has the id of a request");
    let label = |i: usize| format!("{}\n", json!({"id": format!("r{i}"), "answer": i}));
    run(&(0..10).map(label).collect::<String>()).expect(0, "");
    let text = std::fs::read_to_string(place.path("calib.toml")).unwrap();
    let bins: Vec<&str> = text.split("[[accuracy]]").skip(1).collect();
    assert_eq!(bins.len(), 10, "five bins of two spans:\n{text}");
    let requests = |bin: &&str| {
        let line = bin.lines().find_map(|line| line.strip_prefix("requests = ")).unwrap();
        line.parse::<usize>().unwrap()
    };
    assert_eq!(bins.iter().map(requests).sum::<usize>(), 20);
    // What was recorded is what `batch` reads.
    let args = ["--policy", "entropix", "--calibration", "calib.toml"];
    place.batch("{\"id\":\"a\",\"prompt\":\"1 2\",\"max_tokens\":8}\n", &args).expect(0, "");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(place.path("out.manifest.json")).unwrap()).unwrap();
    assert!(manifest["policy"]["calibration"].as_str().unwrap().contains("[[accuracy]]"));
}
