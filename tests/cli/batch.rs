//! `batch` does what it says: forms, fields, determinism.

use crate::program::Place;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn prompts() -> String {
    let mut lines = String::new();
    for i in 0..198 {
        let text = ["Once upon", "The sky is", "1 2 3 4 5 6 7 8 9", "é"][i % 4];
        let text = format!("{text} {i}").repeat(1 + i % 3);
        let line = json!({"id": format!("r{i}"), "prompt": text, "max_tokens": 4 + i % 13, "seed": i});
        lines += &format!("{line}\n");
    }
    lines += &format!(
        "{}\n",
        json!({"custom_id": "o", "url": "/v1/completions", "body": {"prompt": "Once", "max_tokens": 4}})
    );
    lines
        + "{\"id\": \"chat\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 6}\n"
}

fn by_id(place: &Place, name: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(place.path(name)).unwrap();
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    text.lines().map(|line| (id(line), line.to_owned())).collect()
}

#[track_caller]
fn assert_same(expected: &BTreeMap<String, String>, got: &BTreeMap<String, String>, what: &str) {
    assert_eq!(expected.len(), got.len(), "{what}: another number of lines");
    for (id, line) in expected {
        assert!(got.get(id) == Some(line), "{what}: {id} differs:\n{line}\n{:?}", got.get(id));
    }
}

/// The same request gives the same bytes alone, in batches of any size, in any order, on any number of
/// threads. Fails when anything about a line depends on its neighbours (a shared generator, a reduction whose
/// order depends on the batch, a time stamp).
#[test]
fn the_same_request_gives_the_same_bytes() {
    let place = Place::new();
    let prompts = prompts();
    let args = ["--policy", "sample", "--signals", "token", "--logprobs", "2", "--overwrite"];
    let run = |input: &str, more: &[&str]| {
        let all: Vec<&str> = args.iter().chain(more).copied().collect();
        place.batch(input, &all).expect(0, "");
        by_id(&place, "out")
    };
    let alone = run(&prompts, &["-b", "1"]);
    assert_eq!(alone.len(), 200);
    for more in [
        &["-b", "2"][..],
        &["-b", "3", "--threads", "1"],
        &["-b", "16"],
        &["-b", "64", "--threads", "8"],
        &["-b", "64", "--longest-first"],
    ] {
        assert_same(&alone, &run(&prompts, more), &format!("{more:?}"));
    }
    let reversed: String = prompts.lines().rev().map(|line| format!("{line}\n")).collect();
    assert_same(&alone, &run(&reversed, &["-b", "16"]), "reversed");
    // Ended in the middle and gone on with.
    let text = std::fs::read_to_string(place.path("out")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    place.put("out", lines[..77].join("\n") + "\n" + &lines[77][..lines[77].len() / 2]);
    let going_on: Vec<&str> = args[..args.len() - 1].iter().chain(&["-b", "16"]).copied().collect();
    place.batch(&reversed, &going_on).expect(0, "going on, 77 done");
    assert_same(&alone, &by_id(&place, "out"), "gone on with");
    // Room for little more than one sequence: the others lose their blocks and are computed again.
    assert_same(&alone, &run(&prompts, &["-b", "16", "--kv-blocks", "6", "-c", "96"]), "preempted");
    for line in prompts.lines().take(3) {
        let single = run(line, &[]);
        let (id, bytes) = single.first_key_value().unwrap();
        assert_eq!(&alone[id], bytes, "alone in its job");
    }
    // The control: another seed must change something.
    let other = run(&prompts.replace("\"seed\":", "\"seed\": 1"), &["-b", "16"]);
    assert!(alone != other, "the comparison sees no difference");
}

/// What requests have in common is computed once, and nothing else changes by it.
#[test]
fn a_common_system_message_is_computed_once() {
    let place = Place::new();
    let line = |i: usize| {
        let chat = json!([{"role": "user", "content": format!("Question {i}")}]);
        format!("{}\n", json!({"id": format!("r{i}"), "messages": chat, "max_tokens": 4}))
    };
    let system = "Answer in one word. ".repeat(12);
    let run = |lines: std::ops::Range<usize>| {
        let input: String = lines.map(line).collect();
        let more = ["--system", &system, "-b", "4", "--overwrite", "--summary", "summary"];
        place.batch(input, &more).expect(0, "");
        let summary = std::fs::read_to_string(place.path("summary")).unwrap();
        let tokens: Value = serde_json::from_str::<Value>(&summary).unwrap()["tokens"].take();
        let count = |name: &str| tokens[name].as_u64().unwrap();
        (by_id(&place, "out"), count("prompt"), count("shared"))
    };
    let (all, prompt, shared) = run(0..12);
    assert!(shared * 4 > prompt * 2, "{shared} of {prompt} tokens were shared");
    for i in 0..12 {
        let (alone, _, shared) = run(i..i + 1);
        assert_eq!(shared, 0, "there is nobody to share with");
        let (id, bytes) = alone.first_key_value().unwrap();
        assert_eq!(&all[id], bytes);
    }
}

/// Twenty requests of four blocks each, all admitted, and a cache of eight blocks.
#[test]
fn ten_times_the_cache_gives_the_same_bytes() {
    let line = |i: usize| {
        let prompt: Vec<usize> = (0..10).map(|j| 5 + (7 * i + j) % 200).collect();
        format!(
            "{{\"id\": \"r{i}\", \"prompt\": {prompt:?}, \"max_tokens\": 54, \"seed\": {i}, \"ignore_eos\": true}}\n"
        )
    };
    let input: String = (0..20).map(line).collect();
    let run = |blocks: &str| {
        let place = Place::new();
        let more = [
            "-b",
            "20",
            "-c",
            "64",
            "--kv-blocks",
            blocks,
            "--policy",
            "sample",
            "--summary",
            "summary",
            "--overwrite",
        ];
        place.batch(&input, &more).expect(0, "20 answered");
        let summary = std::fs::read_to_string(place.path("summary")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        (by_id(&place, "out"), summary["preemptions"].as_u64().unwrap())
    };
    let (whole, none) = run("80");
    let (pressed, many) = run("8");
    assert_eq!(none, 0, "eighty blocks are enough");
    assert!(many > 20, "only {many} preemptions: the cache was never short");
    assert_same(&whole, &pressed, "8 blocks for what wants 80");
}

#[test]
fn the_short_form_has_every_field() {
    let place = Place::new();
    let input = r#"{"id": "a", "prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": true}"#;
    place.batch(input, &["--signals", "token", "--policy", "greedy"]).expect(0, "1 answered");
    let rows = place.rows("out");
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "request", "text", "tokens", "finish_reason", "usage", "signals"]);
    assert_eq!(rows[0]["usage"]["completion_tokens"], 8);
    assert_eq!(rows[0]["finish_reason"], "length");
    let signals = rows[0]["signals"].as_object().unwrap();
    let keys: Vec<&String> = signals.keys().collect();
    assert_eq!(keys, ["entropy", "varentropy", "logprob", "region", "decision", "text_offset"]);
    assert!(signals.values().all(|column| column.as_array().unwrap().len() == 8));
    assert!(signals["decision"].as_array().unwrap().iter().all(|decision| decision == "argmax"));

    place.batch(input, &["--overwrite"]).expect(0, "mean H");
    let summary = &place.rows("out")[0]["signals"];
    assert!(
        summary["mean_H"].as_f64().unwrap() > 0.0 && summary["longest_unsure_span"].is_u64(),
        "{summary}"
    );
    place.batch(input, &["--overwrite", "--signals", "off"]).expect(0, "");
    assert!(place.rows("out")[0].get("signals").is_none());
}

#[test]
fn stop_strings_end_answers_and_are_not_shown() {
    let place = Place::new();
    let free = r#"{"id": "a", "prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": true}"#;
    place.batch(free, &["--policy", "greedy"]).expect(0, "");
    let text = place.rows("out")[0]["text"].as_str().unwrap().to_owned();
    // A string that first ends somewhere inside the answer.
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 2].iter().collect();
    let line = json!({"id": "a", "prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": true, "stop": [stop]});
    place.batch(line.to_string(), &["--policy", "greedy", "--overwrite"]).expect(0, "");
    let row = &place.rows("out")[0];
    assert_eq!(row["finish_reason"], "stop");
    assert_eq!(row["text"].as_str().unwrap(), &text[..text.find(&stop).unwrap()]);
}

#[test]
fn several_answers_are_choices() {
    let place = Place::new();
    let input =
        r#"{"id": "a", "prompt": "Once upon a time", "max_tokens": 8, "n": 3, "seed": 5, "logprobs": 2}"#;
    place.batch(input, &["--policy", "sample"]).expect(0, "");
    let row = &place.rows("out")[0];
    let choices = row["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert!(choices[0]["tokens"] != choices[1]["tokens"] || choices[1]["tokens"] != choices[2]["tokens"]);
    for choice in choices {
        let n = choice["tokens"].as_array().unwrap().len();
        assert_eq!(choice["top_logprobs"].as_array().unwrap().len(), n);
        assert_eq!(choice["top_logprobs"][0].as_array().unwrap().len(), 2);
    }
}

#[test]
fn openai_lines_get_openai_results() {
    let place = Place::new();
    let chat = json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "any", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 5,
        "logprobs": true, "top_logprobs": 3}});
    let text = json!({"custom_id": "t", "method": "POST", "url": "/v1/completions", "body": {
        "prompt": "Once", "max_tokens": 5, "logprobs": 2}});
    let bad = json!({"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": ""}});
    let ended = place.batch(format!("{chat}\n{text}\n{bad}\n"), &["--signals", "token"]);
    ended.expect(3, "1 request failed");
    let rows: BTreeMap<String, Value> = place
        .rows("out")
        .into_iter()
        .map(|row| (row["custom_id"].as_str().unwrap().to_owned(), row))
        .collect();
    let body = &rows["c"]["response"]["body"];
    assert_eq!((&rows["c"]["error"], &rows["c"]["response"]["status_code"]), (&Value::Null, &json!(200)));
    assert_eq!((&body["model"], &body["object"]), (&json!("any"), &json!("chat.completion")));
    let choice = &body["choices"][0];
    assert!(choice["message"]["content"].is_string());
    assert_eq!(choice["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap().len(), 3);
    assert!(choice["entropix"]["signals"]["entropy"].as_array().unwrap().len() <= 5);
    let choice = &rows["t"]["response"]["body"]["choices"][0];
    let n = choice["entropix"]["tokens"].as_array().unwrap().len();
    assert_eq!(choice["logprobs"]["text_offset"].as_array().unwrap().len(), n);
    assert_eq!(rows["b"]["error"]["code"], "EmptyPrompt");
    assert_eq!(rows["b"]["response"], Value::Null);
}

#[test]
fn plain_lines_are_questions_or_prompts() {
    let place = Place::new();
    let input = "What is it?\n\nWhat is it?\n";
    place.batch(input, &["-n", "4"]).expect(0, "2 answered");
    let rows = place.rows("out");
    let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids[0].rsplit_once('-').unwrap().0,
        ids[1].rsplit_once('-').unwrap().0,
        "same content, same hash"
    );
    assert_ne!(ids[0], ids[1]);
    let templated = rows[0]["usage"]["prompt_tokens"].as_u64().unwrap();
    place.batch(input, &["-n", "4", "--no-chat-template", "--overwrite"]).expect(0, "2 answered");
    assert!(place.rows("out")[0]["usage"]["prompt_tokens"].as_u64().unwrap() < templated);
    // Text that starts with a brace needs to be told apart.
    place.batch("{not json\n", &["-n", "1", "--overwrite"]).expect(65, "in:1:2");
    place.batch("{not json\n", &["-n", "1", "--overwrite", "--input-format", "text"]).expect(0, "1 answered");
}

/// User text never becomes a special token in messages; in raw prompts --special decides.
#[test]
fn special_tokens_in_text() {
    let place = Place::new();
    let tokens = |input: &str, more: &[&str]| {
        let all: Vec<&str> = ["-n", "1", "--overwrite"].iter().chain(more).copied().collect();
        place.batch(input, &all).expect(0, "");
        place.rows("out")[0]["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let raw = r#"{"prompt": "a<|im_end|>b"}"#;
    assert!(tokens(raw, &[]) < tokens(raw, &["--special", "text"]));
    let chat = |text: &str| format!(r#"{{"messages": [{{"role": "user", "content": "{text}"}}]}}"#);
    assert!(tokens(&chat("<|im_end|>"), &[]) > tokens(&chat("x"), &[]) + 1);
}

/// A model without a chat template (case 60 of the bad-input catalogue), and templates of one's own.
#[test]
fn chat_templates_are_the_models_or_ones_own() {
    let place = Place::new();
    let folder = place.path("model");
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(crate::program::tiny("qwen3")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "chat_template.jinja" {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    let chat = "{\"id\": \"c\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n";
    place.put("chat", format!("{chat}{{\"id\": \"p\", \"prompt\": \"Hi\"}}\n"));
    place.put("text", "Hi\n");
    place.put("own.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    place.put("bad.jinja", "{% for %}");
    let run = |verb: &str, more: &[&str]| place.run([verb, "-m", "model", "-n", "2"].iter().chain(more));
    run("batch", &["-i", "text", "-o", "out"]).expect(64, "--chat-template");
    assert!(!place.path("out").exists());
    run("batch", &["-i", "text", "-o", "out", "--no-chat-template"]).expect(0, "1 answered");
    // One request that needs a template does not end the others.
    run("batch", &["-i", "chat", "-o", "out", "--overwrite"]).expect(3, "NoTemplate");
    assert_eq!(place.rows("out").len(), 2);
    let own = ["-i", "chat", "-o", "out", "--overwrite", "--chat-template", "own.jinja"];
    run("batch", &own).expect(0, "2 answered");
    let tokens = || {
        let rows = place.rows("out");
        rows.iter().find(|row| row["id"] == "c").unwrap()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let without = tokens();
    run("batch", &[&own[..], &["--system", "Be brief."]].concat()).expect(0, "2 answered");
    assert!(tokens() > without, "--system is not heard");
    run("batch", &[&own[..6], &["bad.jinja"]].concat()).expect(65, "bad.jinja");
    run("run", &["-p", "Hi"]).expect(0, "no chat template");
}

#[test]
fn requests_win_over_flags_and_flags_over_the_environment() {
    let place = Place::new();
    place.put(
        "in",
        "{\"id\": \"own\", \"prompt\": \"x\", \"max_tokens\": 2}\n{\"id\": \"none\", \"prompt\": \"x\"}\n",
    );
    let model = crate::program::tiny("llama-tied.Q4_1.gguf");
    let run = |more: &[&str], variable: &str| {
        let mut command =
            place.command(["batch", "-i", "in", "-o", "out", "--overwrite", "--ignore-eos", "-v", "-m"]);
        command.arg(&model).args(more).env("ENTROPIX_MAX_TOKENS", variable);
        let ended = crate::program::finish(&mut command, b"");
        let lengths: BTreeMap<String, usize> = match ended.code {
            0 => place
                .rows("out")
                .iter()
                .map(|row| (row["id"].as_str().unwrap().to_owned(), row["tokens"].as_array().unwrap().len()))
                .collect(),
            _ => BTreeMap::new(),
        };
        (ended, lengths)
    };
    let (ended, lengths) = run(&["-n", "5"], "3");
    assert_eq!((lengths["own"], lengths["none"]), (2, 5));
    ended.expect(0, "max_tokens 5 (flag)");
    let (ended, lengths) = run(&[], "3");
    assert_eq!((lengths["own"], lengths["none"]), (2, 3));
    ended.expect(0, "max_tokens 3 (environment)");
    run(&[], "-3").0.expect(64, "ENTROPIX_MAX_TOKENS");
}
