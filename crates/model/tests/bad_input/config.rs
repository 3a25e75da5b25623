//! Cases 24 to 32: config.json and generation_config.json beside good weights.

use crate::safetensors::{good, good_config, write_config};
use crate::{Case, Expect, case, model, unsupported};
use entropix_model::limits;
use serde_json::{Value, json};
use std::path::Path;

/// A good folder whose config.json holds this text.
fn text(name: &'static str, config: impl Into<Vec<u8>>, expect: Expect) -> Case {
    let config = config.into();
    let make = move |folder: &Path| {
        good(folder);
        std::fs::write(folder.join("config.json"), &config).unwrap();
        folder.to_owned()
    };
    case(name, make, expect)
}

/// A good folder with fields of config.json replaced; null takes a field away.
fn with(name: &'static str, fields: Value, expect: Expect) -> Case {
    let make = move |folder: &Path| {
        good(folder);
        let mut config = good_config();
        for (field, value) in fields.as_object().unwrap() {
            match value {
                Value::Null => drop(config.as_object_mut().unwrap().remove(field)),
                value => config[field] = value.clone(),
            }
        }
        write_config(folder, &config);
        folder.to_owned()
    };
    case(name, make, expect)
}

fn generation(name: &'static str, config: Value, expect: Expect) -> Case {
    let make = move |folder: &Path| {
        good(folder);
        std::fs::write(folder.join("generation_config.json"), config.to_string()).unwrap();
        folder.to_owned()
    };
    case(name, make, expect)
}

const HEADS: &str = "num_attention_heads";

pub(crate) fn cases() -> Vec<Case> {
    let good_text = good_config().to_string();

    let mut cases = vec![
        text("24 empty", "", model("Config", &["line 1"])),
        text("24 {}", "{}", model("Config", &["architectures"])),
        text("24 BOM", format!("\u{feff}{good_text}"), model("Config", &["byte-order mark"])),
        text(
            "24 trailing comma",
            good_text.replace('}', ",}"),
            model("Config", &["trailing comma", "line 1"]),
        ),
        text("24 not UTF-8", b"{\"a\":\"\xff\"}", model("Config", &["UTF-8 at byte 6"])),
        text("24 100,000 deep", "[".repeat(100_000), model("Config", &["recursion limit"])),
        text(
            "24 longer than the limit",
            " ".repeat((limits::CONFIG_BYTES + 1) as usize),
            model("Config", &["1048577", "limit"]),
        ),
        text("24 a list", "[]", model("Config", &["no JSON object"])),
        text(
            "24 only the architecture",
            r#"{"architectures":["LlamaForCausalLM"]}"#,
            model(
                "Config",
                &["hidden_size is missing", HEADS, "vocab_size", "num_hidden_layers", "intermediate_size"],
            ),
        ),
        text(
            "25 1e30",
            good_text.replace("\"num_attention_heads\":2", "\"num_attention_heads\":1e30"),
            model("Config", &[HEADS, "1e+30"]),
        ),
        with("25 0", json!({HEADS: 0}), model("Config", &[HEADS, "is 0", "from 1"])),
        with("25 -1", json!({HEADS: -1}), model("Config", &[HEADS, "is -1"])),
        with("25 as text", json!({HEADS: "32"}), model("Config", &[HEADS, "is \"32\""])),
        with("25 fraction", json!({HEADS: 2.5}), model("Config", &[HEADS, "is 2.5"])),
        with("25 2^63", json!({HEADS: 1u64 << 63}), model("Config", &[HEADS])),
        with(
            "26 heads and kv heads",
            json!({HEADS: 4, "num_key_value_heads": 3}),
            model("Config", &[HEADS, "num_key_value_heads 3"]),
        ),
        with(
            "26 hidden and heads",
            json!({HEADS: 3, "num_key_value_heads": 3}),
            model("Config", &["hidden_size 4", "head_dim"]),
        ),
        with("26 odd head_dim", json!({"head_dim": 3}), model("Config", &["head_dim is 3", "even"])),
        with(
            "27 vocab_size",
            json!({"vocab_size": 17}),
            model("ShapeMismatch", &["model.embed_tokens.weight", "[16, 4]", "[17, 4]"]),
        ),
        with(
            "28 layers",
            json!({"num_hidden_layers": 1_000_000_000}),
            model("Config", &["num_hidden_layers", "1024"]),
        ),
        with(
            "29 context",
            json!({"max_position_embeddings": 1_000_000_000_000u64}),
            Expect::Opens(&["max_position_embeddings is 1000000000000"]),
        ),
        with(
            "29 context of u64::MAX",
            json!({"max_position_embeddings": u64::MAX}),
            Expect::Opens(&["cut to 16777216"]),
        ),
        with("30 rope_theta 0", json!({"rope_theta": 0}), model("Config", &["rope_theta is 0"])),
        text("30 rope_theta NaN", good_text.replace("10000.0", "NaN"), model("Config", &[])),
        with(
            "30 rope_theta as text",
            json!({"rope_theta": "NaN"}),
            model("Config", &["rope_theta is \"NaN\""]),
        ),
        with(
            "30 rope_scaling unknown",
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            unsupported("RopeScaling", &["yarn", "llama3"]),
        ),
        with("30 rope_scaling a number", json!({"rope_scaling": 4}), model("Config", &["rope_scaling is 4"])),
        with(
            "30 rope_scaling factor 0",
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            model("Config", &["rope_scaling.factor is 0"]),
        ),
        with(
            "30 llama3 without its factors",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8}}),
            model("Config", &["low_freq_factor is missing", "high_freq_factor"]),
        ),
        with(
            "30 llama3 factors reversed",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1, "original_max_position_embeddings": 32}}),
            model("Config", &["low_freq_factor 4 is not below"]),
        ),
        with(
            "30 eps negative",
            json!({"rms_norm_eps": -1e-5}),
            model("Config", &["rms_norm_eps is -0.00001"]),
        ),
        with("30 eps 0", json!({"rms_norm_eps": 0}), model("Config", &["rms_norm_eps is 0"])),
        with("30 activation", json!({"hidden_act": "gelu"}), unsupported("Activation", &["gelu"])),
        with(
            "30 part of a head rotated",
            json!({"partial_rotary_factor": 0.5}),
            unsupported("HeadDim", &["0.5"]),
        ),
        with(
            "30 quantised",
            json!({"quantization_config": {"quant_method": "gptq"}}),
            unsupported("Quant", &["gptq", "GGUF"]),
        ),
        with(
            "30 sliding window",
            json!({"architectures": ["MistralForCausalLM"], "sliding_window": 32}),
            Expect::Opens(&["limited to the 32 of sliding_window"]),
        ),
        with("30 sliding window switched off", json!({"sliding_window": 128}), Expect::Opens(&[])),
        with("32 eos list", json!({"eos_token_id": [2, 3]}), Expect::Opens(&[])),
        with(
            "32 eos outside",
            json!({"eos_token_id": 16}),
            model("Config", &["eos_token_id is 16", "to 15"]),
        ),
        with("32 eos negative", json!({"eos_token_id": -1}), model("Config", &["eos_token_id is -1"])),
        with("32 bos outside", json!({"bos_token_id": 99}), model("Config", &["bos_token_id is 99"])),
        with(
            "32 eos missing",
            json!({"eos_token_id": null}),
            Expect::Opens(&["no end-of-text token", "token limit"]),
        ),
        generation(
            "32 eos of generation outside",
            json!({"eos_token_id": [2, 1000]}),
            model("Config", &["eos_token_id is 1000"]),
        ),
        generation("32 eos of generation", json!({"eos_token_id": [3, 4]}), Expect::Opens(&[])),
        generation("32 generation config a list", json!([]), model("Config", &["generation_config.json"])),
    ];
    let known = &["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];
    for (name, architectures) in [
        ("31 unknown", json!(["GPTBigCodeForCausalLM"])),
        ("31 empty", json!([])),
        ("31 a number", json!(7)),
        ("31 a list of numbers", json!([7])),
    ] {
        cases.push(with(name, json!({"architectures": architectures}), unsupported("Architecture", known)));
    }
    cases
}
