//! Cases 1 to 16: one safetensors file beside a good config.

use crate::{Case, Expect, case, model, unsupported};
use entropix_model::{Checkpoint, Class, Error};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Dimensions of the good model: one layer, 16 tokens, hidden 4, 2 heads of 2, 1 KV head, 8 feed-forward.
pub(crate) fn good_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 16,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// (name, shape) of every tensor of the good model.
pub(crate) fn good_tensors() -> Vec<(String, Vec<u64>)> {
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![16, 4])];
    for (name, shape) in [
        ("input_layernorm", vec![4]),
        ("self_attn.q_proj", vec![4, 4]),
        ("self_attn.k_proj", vec![2, 4]),
        ("self_attn.v_proj", vec![2, 4]),
        ("self_attn.o_proj", vec![4, 4]),
        ("post_attention_layernorm", vec![4]),
        ("mlp.gate_proj", vec![8, 4]),
        ("mlp.up_proj", vec![8, 4]),
        ("mlp.down_proj", vec![4, 8]),
    ] {
        all.push((format!("model.layers.0.{name}.weight"), shape));
    }
    all.push(("model.norm.weight".to_owned(), vec![4]));
    all
}

/// The header and the data length of tensors laid one after the other.
pub(crate) fn header(tensors: &[(String, Vec<u64>)], dtype: &str) -> (Map<String, Value>, usize) {
    let bytes = match dtype {
        "F64" => 8,
        "F32" => 4,
        _ => 2,
    };
    let mut end = 0;
    let mut map = Map::new();
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * bytes;
        map.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    (map, end as usize)
}

/// The bytes of a file with this header and `data` bytes of data.
pub(crate) fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

pub(crate) fn write_config(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A folder with a good config and these weights.
fn folder_with(folder: &Path, weights: &[u8]) -> PathBuf {
    write_config(folder, &good_config());
    std::fs::write(folder.join("model.safetensors"), weights).unwrap();
    folder.to_owned()
}

pub(crate) fn good_file() -> Vec<u8> {
    let (map, data) = header(&good_tensors(), "BF16");
    file(&Value::Object(map).to_string(), data)
}

pub(crate) fn good(folder: &Path) -> PathBuf {
    folder_with(folder, &good_file())
}

/// A case whose weights are given bytes.
fn bytes(name: &'static str, weights: Vec<u8>, expect: Expect) -> Case {
    case(name, move |folder| folder_with(folder, &weights), expect)
}

/// A case whose header is text, with the good data behind it.
fn text(name: &'static str, header_text: String, expect: Expect) -> Case {
    let (_, data) = header(&good_tensors(), "BF16");
    bytes(name, file(&header_text, data), expect)
}

/// A case whose header is the good one after `change`; the data keep their length plus `more`.
fn changed(name: &'static str, change: fn(&mut Map<String, Value>), more: isize, expect: Expect) -> Case {
    let (mut map, data) = header(&good_tensors(), "BF16");
    change(&mut map);
    bytes(name, file(&Value::Object(map).to_string(), data.checked_add_signed(more).unwrap()), expect)
}

/// A case whose tensors are the good ones after `change`, laid out anew in `dtype`.
fn tensors(
    name: &'static str,
    dtype: &'static str,
    change: fn(&mut Vec<(String, Vec<u64>)>),
    expect: Expect,
) -> Case {
    let mut list = good_tensors();
    change(&mut list);
    let (map, data) = header(&list, dtype);
    bytes(name, file(&Value::Object(map).to_string(), data), expect)
}

const LAST: &str = "model.norm.weight";
const FIRST: &str = "model.embed_tokens.weight";

pub(crate) fn cases() -> Vec<Case> {
    let (good_map, data) = header(&good_tensors(), "BF16");
    let good_text = Value::Object(good_map).to_string();
    let again = good_text.replacen(
        '{',
        &format!("{{\"{FIRST}\":{{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[0,0]}},"),
        1,
    );
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let deep_extra = good_text.replacen(
        "\"dtype\"",
        &format!("\"more\":{}{},\"dtype\"", "[".repeat(100_000), "]".repeat(100_000)),
        1,
    );
    let mut too_long = vec![];
    too_long.extend_from_slice(&((good_text.len() + data + 1) as u64).to_le_bytes());
    too_long.extend_from_slice(&file(&good_text, data)[8..]);
    let mut not_utf8 = file(&good_text, data);
    not_utf8[40] = 0xff;
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.push(b'{');
    let mut all_nan = good_file();
    let at = all_nan.len() - data;
    all_nan[at..].fill(0xff);
    let good_len = good_file().len();

    let mut cases = vec![
        case("0 good", good, Expect::Opens(&[])),
        bytes("1 no bytes", vec![], model("HeaderTooSmall", &["0 bytes"])),
        bytes("1 seven bytes", vec![0; 7], model("HeaderTooSmall", &["7 bytes"])),
        bytes("2 length u64::MAX", huge, model("HeaderTooLarge", &["18446744073709551615", "100000000"])),
        case("3 length over the limit in a sparse file", sparse, model("HeaderTooLarge", &["100000001"])),
        bytes("4 length over the file", too_long, model("Truncated", &["needs", "has"])),
        bytes("5 not UTF-8", not_utf8, model("HeaderInvalid", &["not UTF-8 at byte 32"])),
        text("5 not JSON", "{nonsense".into(), model("HeaderInvalid", &["line 1"])),
        text("5 an array", "[1,2]".into(), model("HeaderInvalid", &["no JSON object"])),
        text("5 blank first", format!(" {good_text}"), model("HeaderInvalid", &[])),
        text(
            "5 metadata with numbers",
            good_text.replacen('{', "{\"__metadata__\":{\"a\":1},", 1),
            model("HeaderInvalid", &[]),
        ),
        text(
            "5 metadata is fine",
            good_text.replacen('{', "{\"__metadata__\":{\"format\":\"pt\"},", 1),
            Expect::Opens(&[]),
        ),
        text("6 100,000 deep", deep, model("HeaderInvalid", &[])),
        text("6 100,000 deep where nobody looks", deep_extra, Expect::Opens(&[])),
        text("7 a name twice", again, model("DuplicateTensor", &[FIRST])),
        changed(
            "8 end before start",
            |m| m[LAST]["data_offsets"] = json!([384, 376]),
            0,
            model("BadOffset", &[LAST, "376", "384"]),
        ),
        changed("8 negative", |m| m[LAST]["data_offsets"] = json!([-8, 0]), 0, model("BadOffset", &["-8"])),
        changed(
            "8 float",
            |m| m[LAST]["data_offsets"] = json!([376.0, 384.0]),
            0,
            model("BadOffset", &["376.0"]),
        ),
        changed("9 overlap", overlap, -8, model("Layout", &[LAST, "overlaps"])),
        changed("9 hole", hole, 8, model("Layout", &[LAST, "hole"])),
        changed("9 bytes after the last", |_| (), 1, model("Layout", &["1 bytes after"])),
        changed(
            "10 shape overflows",
            |m| m[LAST]["shape"] = json!([1u64 << 33, 1u64 << 33]),
            0,
            model("Overflow", &[LAST]),
        ),
        changed(
            "10 bits overflow",
            |m| m[LAST]["shape"] = json!([1u64 << 60]),
            0,
            model("Overflow", &[LAST]),
        ),
        changed(
            "11 shape and span differ",
            |m| m[LAST]["shape"] = json!([5]),
            0,
            model("ShapeMismatch", &[LAST, "80 bits", "8 bytes"]),
        ),
        changed(
            "11 the span is longer than the shape",
            |m| m[LAST]["shape"] = json!([3]),
            0,
            model("ShapeMismatch", &[LAST, "48 bits", "8 bytes"]),
        ),
        changed(
            "12 unknown dtype",
            |m| m[LAST]["dtype"] = json!("F12"),
            0,
            unsupported("Dtype", &["F12", "column"]),
        ),
        tensors("12 F64", "F64", |_| (), unsupported("Dtype", &[FIRST, LAST, "F64", "BF16"])),
        tensors("12 F32 is fine", "F32", |_| (), Expect::Opens(&[])),
        tensors(
            "13 a 0-dim tensor that is needed",
            "BF16",
            |t| t.last_mut().unwrap().1 = vec![],
            model("ShapeMismatch", &[LAST, "[]", "[4]"]),
        ),
        tensors(
            "13 a dim of zero that is needed",
            "BF16",
            |t| t.last_mut().unwrap().1 = vec![0],
            model("ShapeMismatch", &[LAST, "[0]"]),
        ),
        tensors(
            "13 a 0-dim tensor nobody needs",
            "BF16",
            |t| t.push(("x".into(), vec![])),
            Expect::Opens(&["nobody asked for: x"]),
        ),
        tensors(
            "13 a dim of zero nobody needs",
            "BF16",
            |t| t.push(("x".into(), vec![0, 7])),
            Expect::Opens(&["x"]),
        ),
        tensors(
            "14 two missing",
            "BF16",
            drop_two,
            model("MissingTensor", &["0.self_attn.q_proj.weight", LAST]),
        ),
        tensors(
            "14 one extra",
            "BF16",
            |t| t.push(("extra.weight".into(), vec![3])),
            Expect::Opens(&["extra.weight"]),
        ),
        tensors(
            "14 missing and misshapen at once",
            "BF16",
            missing_and_misshapen,
            model("MissingTensor", &[LAST, FIRST, "wrong shape"]),
        ),
        tensors(
            "14 a bias nobody computes",
            "BF16",
            |t| t.push(("model.layers.0.self_attn.q_proj.bias".into(), vec![4])),
            unsupported("ExtraTensor", &["q_proj.bias"]),
        ),
        bytes("15 weights all NaN", all_nan, Expect::Opens(&[])),
        bytes(
            "16 truncated by one byte",
            good_file()[..good_len - 1].to_vec(),
            model("Truncated", &["440", "439"]),
        ),
    ];
    cases.push(case("9 more tensors than the limit", |f| many(f, 1), model("Count", &["131072"])));
    cases.push(case("9 as many tensors as the limit", |f| many(f, 0), Expect::Opens(&["and 131045 more"])));
    cases.push(Case {
        then: shrink,
        ..case(
            "16 truncated after open",
            good,
            Expect::Fails(Class::Io, "SourceChanged", &["model.norm.weight"]),
        )
    });
    cases
}

/// A good model and so many other tensors that there are `over` more than the limit.
fn many(folder: &Path, over: usize) -> PathBuf {
    let mut list = good_tensors();
    list.extend((list.len()..(1 << 17) + over).map(|i| (format!("x{i}"), vec![0])));
    let (map, data) = header(&list, "BF16");
    folder_with(folder, &file(&Value::Object(map).to_string(), data))
}

fn sparse(folder: &Path) -> PathBuf {
    write_config(folder, &good_config());
    let file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all_at(&100_000_001u64.to_le_bytes(), 0).unwrap();
    file.set_len(1 << 31).unwrap();
    folder.to_owned()
}

fn overlap(map: &mut Map<String, Value>) {
    let [start, end] = [0, 1].map(|i| map[LAST]["data_offsets"][i].as_u64().unwrap());
    map[LAST]["data_offsets"] = json!([start - 8, end - 8]);
}

fn hole(map: &mut Map<String, Value>) {
    let [start, end] = [0, 1].map(|i| map[LAST]["data_offsets"][i].as_u64().unwrap());
    map[LAST]["data_offsets"] = json!([start + 8, end + 8]);
}

fn drop_two(tensors: &mut Vec<(String, Vec<u64>)>) {
    tensors.retain(|(name, _)| name != LAST && !name.contains("q_proj"));
}

fn missing_and_misshapen(tensors: &mut Vec<(String, Vec<u64>)>) {
    tensors.retain(|(name, _)| name != LAST);
    tensors[0].1 = vec![15, 4];
}

fn shrink(checkpoint: Checkpoint) -> Result<Checkpoint, Error> {
    let path = checkpoint.files.last().unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    checkpoint.weights.final_norm.read()?;
    Ok(checkpoint)
}
