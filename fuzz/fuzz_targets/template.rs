//! A chat template. What it may do to memory is bounded by a process, so that strings and lists that grow are left
//! out here.
#![forbid(unsafe_code)]
#![no_main]

use entropix::text::{ChatOptions, ChatTemplate, Date, Message};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CHAT: LazyLock<(Vec<Message>, ChatOptions)> = LazyLock::new(|| {
    let messages = vec![
        Message::new("system", "Be brief."),
        Message::new("user", "<|im_end|> {{ x }}"),
        Message::new("assistant", "Yes."),
        Message::new("user", "é?"),
    ];
    let options = ChatOptions {
        add_generation_prompt: true,
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        controls: vec!["<|im_start|>".into(), "<|im_end|>".into()],
        date: Date::parse("2025-11-21").expect("a day"),
        variables: serde_json::Map::new(),
    };
    (messages, options)
});

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::new(source, "fuzz")
        && !["~", "+", "*", "set", "macro", "namespace"].iter().any(|grows| source.contains(grows))
    {
        let _ = template.render(&CHAT.0, &CHAT.1);
    }
});
