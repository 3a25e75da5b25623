//! Cases 18 to 23: an index and its shards.

use crate::safetensors::{file, good_config, good_tensors, header, write_config};
use crate::{Case, Expect, case, model, no_input};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub(crate) const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const TOTAL: usize = 440;

type Tensors = Vec<(String, Vec<u64>)>;

fn write_shard(folder: &Path, name: &str, tensors: &[(String, Vec<u64>)]) {
    let (map, data) = header(tensors, "BF16");
    std::fs::write(folder.join(name), file(&Value::Object(map).to_string(), data)).unwrap();
}

/// The first four tensors go to the first shard.
fn halves() -> [Tensors; 2] {
    let mut first = good_tensors();
    let second = first.split_off(4);
    [first, second]
}

fn weight_map() -> Map<String, Value> {
    let halves = halves();
    let of = |i: usize| halves[i].iter().map(move |(name, _)| (name.clone(), json!(SHARDS[i])));
    of(0).chain(of(1)).collect()
}

/// A good model in two shards.
pub(crate) fn good(folder: &Path) -> PathBuf {
    write_config(folder, &good_config());
    for (name, tensors) in SHARDS.iter().zip(halves()) {
        write_shard(folder, name, &tensors);
    }
    write_index(folder, &json!({"metadata": {"total_size": TOTAL}, "weight_map": weight_map()}));
    folder.to_owned()
}

fn write_index(folder: &Path, index: &Value) {
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
}

/// The good model after `change`.
fn changed(name: &'static str, change: fn(&Path), expect: Expect) -> Case {
    let make = move |folder: &Path| {
        good(folder);
        change(folder);
        folder.to_owned()
    };
    case(name, make, expect)
}

/// The good model with another weight map.
fn mapped(name: &'static str, change: fn(&mut Map<String, Value>), expect: Expect) -> Case {
    let make = move |folder: &Path| {
        good(folder);
        let mut map = weight_map();
        change(&mut map);
        write_index(folder, &json!({"weight_map": map}));
        folder.to_owned()
    };
    case(name, make, expect)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("18 good", good, Expect::Opens(&[])),
        changed(
            "18 one shard missing",
            |f| std::fs::remove_file(f.join(SHARDS[1])).unwrap(),
            no_input("Shard", &["1 of 2", SHARDS[1]]),
        ),
        changed("18 all shards missing", remove_all, no_input("Shard", &["2 of 2", SHARDS[0], SHARDS[1]])),
        mapped(
            "19 shard above the folder",
            |m| m["model.norm.weight"] = json!("../../etc/passwd"),
            model("PathEscape", &["../../etc/passwd"]),
        ),
        mapped(
            "19 absolute shard",
            |m| m["model.norm.weight"] = json!("/etc/passwd"),
            model("PathEscape", &["/etc/passwd"]),
        ),
        mapped("19 shard with a NUL", |m| m["model.norm.weight"] = json!("a\0b"), model("PathEscape", &[])),
        mapped(
            "19 shard in a folder below",
            |m| m["model.norm.weight"] = json!("sub/a.safetensors"),
            model("PathEscape", &[]),
        ),
        mapped(
            "20 mapped to a shard lacking it",
            |m| m.insert("lost.weight".into(), json!(SHARDS[0])).map_or((), drop),
            model("Index", &["lost.weight"]),
        ),
        mapped(
            "20 mapped to the wrong shard",
            |m| m["model.norm.weight"] = json!(SHARDS[0]),
            model("Index", &["model.norm.weight", SHARDS[0], SHARDS[1]]),
        ),
        changed("20 in two shards", in_two, model("Index", &["model.norm.weight", SHARDS[0], SHARDS[1]])),
        changed("20 named twice by the index", named_twice, model("Index", &["comes twice"])),
        changed(
            "21 total_size lies",
            |f| write_index(f, &json!({"metadata": {"total_size": 7}, "weight_map": weight_map()})),
            Expect::Opens(&["total_size is 7", "440"]),
        ),
        changed(
            "21 total_size is no size",
            |f| write_index(f, &json!({"metadata": {"total_size": "big"}, "weight_map": weight_map()})),
            Expect::Opens(&[]),
        ),
        changed(
            "22 weight_map a list",
            |f| write_index(f, &json!({"weight_map": []})),
            model("Index", &["weight_map"]),
        ),
        changed("22 weight_map missing", |f| write_index(f, &json!({})), model("Index", &["weight_map"])),
        changed(
            "22 weight_map empty",
            |f| write_index(f, &json!({"weight_map": {}})),
            model("Index", &["empty"]),
        ),
        changed(
            "22 100,000 deep",
            |f| std::fs::write(f.join(INDEX), "[".repeat(100_000)).unwrap(),
            model("Index", &[]),
        ),
        changed("22 a million entries", million, model("Index", &["lack", "999984 more"])),
        changed(
            "22 longer than the limit",
            |f| std::fs::File::create(f.join(INDEX)).unwrap().set_len((64 << 20) + 1).unwrap(),
            model("Index", &["67108865", "limit"]),
        ),
        changed(
            "23 shards of two models",
            two_models,
            model("ShapeMismatch", &["model.norm.weight", "[8]", "[4]"]),
        ),
    ]
}

fn remove_all(folder: &Path) {
    for shard in SHARDS {
        std::fs::remove_file(folder.join(shard)).unwrap();
    }
}

fn in_two(folder: &Path) {
    let [mut first, second] = halves();
    first.push(second.last().unwrap().clone());
    write_shard(folder, SHARDS[0], &first);
}

fn named_twice(folder: &Path) {
    let index = json!({"weight_map": weight_map()}).to_string();
    let again =
        index.replacen("{\"model.", &format!("{{\"model.norm.weight\":\"{}\",\"model.", SHARDS[0]), 1);
    assert_ne!(index, again);
    std::fs::write(folder.join(INDEX), again).unwrap();
}

fn million(folder: &Path) {
    let mut text = String::from("{\"weight_map\":{");
    for i in 0..1_000_000 {
        write!(text, "\"model.layers.{i}.weight\":\"{}\",", SHARDS[i % 2]).unwrap();
    }
    for (name, shard) in weight_map() {
        write!(text, "\"{name}\":{shard},").unwrap();
    }
    text.pop();
    text.push_str("}}");
    std::fs::write(folder.join(INDEX), text).unwrap();
}

fn two_models(folder: &Path) {
    let [_, mut second] = halves();
    for (_, shape) in &mut second {
        shape.iter_mut().for_each(|n| *n *= 2);
    }
    write_shard(folder, SHARDS[1], &second);
}
