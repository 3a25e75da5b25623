//! A chat template. What it may do to memory is bounded by a process, so that what could take much is left out here.
#![forbid(unsafe_code)]
#![no_main]

use entropix::text::{ChatOptions, ChatTemplate, Message};
use entropix_fuzz::templates::{chat, folds_much, may_grow};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CHAT: LazyLock<(Vec<Message>, ChatOptions)> = LazyLock::new(chat);

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, "fuzz") else { return };
    if may_grow(source) {
        if !folds_much(source) {
            let _ = template.check();
        }
    } else {
        let _ = template.render(&CHAT.0, &CHAT.1);
    }
});
