//! Chat templates against Jinja as transformers sets it up, and user text against control tokens.

use entropix::text::{ChatOptions, ChatTemplate, Content, Date, Message, Special, Tokenizer};
use entropix_model::{Class, Error};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The control tokens of the recorded families.
const CONTROLS: &[&str] = &[
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|user|>",
    "<|system|>",
    "<|assistant|>",
    "<|end|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
];

fn options() -> ChatOptions {
    ChatOptions {
        add_generation_prompt: true,
        bos_token: None,
        eos_token: None,
        controls: CONTROLS.iter().map(|name| (*name).to_owned()).collect(),
        date: Date::parse("2025-11-21").unwrap(),
        variables: Map::new(),
    }
}

fn render(source: &str, messages: &[Message]) -> Result<String, Error> {
    Ok(ChatTemplate::new(source, "test")?.render(messages, &options())?.text().into_owned())
}

/// Where minijinja is known to say something else than Jinja: (template, case).
const DIFFERENT: &[(&str, &str)] = &[];

#[test]
fn renderings_are_those_of_transformers() {
    let mut n_cases = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(data().join("templates")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let record: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = record["name"].as_str().unwrap();
        let template = ChatTemplate::new(record["template"].as_str().unwrap(), name).unwrap();
        for case in record["cases"].as_array().unwrap() {
            n_cases += 1;
            let case_name = case["name"].as_str().unwrap();
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let options = ChatOptions {
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                bos_token: record["bos_token"].as_str().map(str::to_owned),
                eos_token: record["eos_token"].as_str().map(str::to_owned),
                date: Date::parse(record["date"].as_str().unwrap()).unwrap(),
                variables: case["variables"].as_object().unwrap().clone(),
                ..options()
            };
            let got = template.render(&messages, &options);
            let same = match (&got, case["expected"].as_str()) {
                (Ok(rendered), Some(expected)) => rendered.text() == expected,
                (Err(error), None) => {
                    let raised = case["error"] == "raised";
                    error.code == "Template"
                        && (!raised || error.message.contains(case["message"].as_str().unwrap()))
                }
                _ => false,
            };
            if same == DIFFERENT.contains(&(name, case_name)) {
                wrong.push(format!(
                    "{name}, {case_name}:\n got {got:?}\nwant {:?} {:?}",
                    case["expected"], case["message"]
                ));
            }
        }
    }
    assert!(n_cases > 200, "{n_cases} cases");
    assert!(wrong.is_empty(), "{} of {n_cases} differ\n{}", wrong.len(), wrong.join("\n"));
}
