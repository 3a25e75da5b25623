//! Cases 47 and 48: the vocabulary of a GGUF file.

use crate::gguf::changed;
use crate::gguf_file::*;
use crate::{Case, Expect, model, unsupported};

pub(crate) fn cases() -> Vec<Case> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let ten = "0 1 2 3 4 5 6 7 8 9";
    let byte = |text: &'static str| {
        move |g: &mut Gguf| {
            let tokens =
                ["<unk>", "<s>", "</s>", text].into_iter().chain("a b c d e f g h i j k l".split(' '));
            g.set(TOKENS, ARRAY, strings(tokens));
        }
    };
    let id = |key: &'static str, id: u32| move |g: &mut Gguf| g.set(key, U32, number(id));
    vec![
        changed(
            "47 ten tokens for 16 rows, no eos key",
            move |g| {
                no_eos(g);
                g.set(TOKENS, ARRAY, strings(ten.split(' ')))
            },
            model("Vocab", &["10 tokens", "16 rows"]),
        ),
        changed(
            "47 two tokens, eos by default 2",
            two_tokens,
            model("Vocab", &["eos_token_id", "default", "is 2", "2 tokens"]),
        ),
        changed("47 eos by default", no_eos, Expect::Opens(&[])),
        changed(
            "47 eos outside",
            id("tokenizer.ggml.eos_token_id", 16),
            model("Vocab", &["eos_token_id", "is 16", "16 tokens"]),
        ),
        changed(
            "47 bos u32::MAX",
            id("tokenizer.ggml.bos_token_id", u32::MAX),
            model("Vocab", &["bos_token_id", "4294967295"]),
        ),
        changed(
            "47 eos negative",
            |g| g.set("tokenizer.ggml.eos_token_id", I32, (-1i32).to_le_bytes().to_vec()),
            model("Vocab", &["-1"]),
        ),
        changed(
            "47 no tokens at all",
            |g| g.pairs.retain(|(key, ..)| key != TOKENS.as_bytes()),
            model("Vocab", &["tokens is missing"]),
        ),
        changed(
            "47 tokens are numbers",
            |g| g.set(TOKENS, ARRAY, integers(&[1; 16])),
            model("Vocab", &["not strings"]),
        ),
        changed(
            "47 vocab_size at odds",
            id("llama.vocab_size", 17),
            model("Config", &["llama.vocab_size is 17", "16 tokens"]),
        ),
        changed("48 byte token <0x-1>", byte("<0x-1>"), model("Vocab", &["byte token 3", "<0x-1>"])),
        changed("48 byte token <0xZZ>", byte("<0xZZ>"), model("Vocab", &["<0xZZ>"])),
        changed(
            "48 scores of other length",
            |g| g.set("tokenizer.ggml.scores", ARRAY, array(F32, &vec![number(0); 15])),
            model("Vocab", &["scores", "15", "16"]),
        ),
        changed(
            "48 types of other length",
            |g| g.set("tokenizer.ggml.token_type", ARRAY, integers(&[1; 17])),
            model("Vocab", &["token_type", "17"]),
        ),
        changed(
            "48 types unknown",
            |g| g.set("tokenizer.ggml.token_type", ARRAY, integers(&[-7; 16])),
            model("Vocab", &["type -7"]),
        ),
        changed(
            "48 merge without a blank",
            |g| g.set("tokenizer.ggml.merges", ARRAY, strings(["ab"])),
            model("Vocab", &["merge 0", "ab"]),
        ),
        changed(
            "48 tokenizer unknown",
            |g| g.set("tokenizer.ggml.model", STRING, string(b"bert")),
            unsupported("Tokenizer", &["bert", "gpt2"]),
        ),
    ]
}

fn no_eos(gguf: &mut Gguf) {
    gguf.pairs.retain(|(key, ..)| key != b"tokenizer.ggml.eos_token_id");
}

fn two_tokens(gguf: &mut Gguf) {
    no_eos(gguf);
    gguf.pairs.retain(|(key, ..)| key != b"tokenizer.ggml.scores" && key != b"tokenizer.ggml.token_type");
    gguf.set("tokenizer.ggml.tokens", ARRAY, strings(["a", "b"]));
    gguf.tensor("token_embd").dims = vec![32, 2];
}
