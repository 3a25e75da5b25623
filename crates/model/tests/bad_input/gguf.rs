//! Cases 33 to 49: GGUF files.

use crate::gguf_file::*;
use crate::{Case, Expect, case, model, no_input, unsupported};
use entropix_model::{Checkpoint, Error};
use std::path::{Path, PathBuf};

/// The good file after `change`.
pub(crate) fn changed(name: &'static str, change: impl Fn(&mut Gguf) + 'static, expect: Expect) -> Case {
    let make = move |folder: &Path| {
        let mut gguf = Gguf::good();
        change(&mut gguf);
        write(folder, &gguf.bytes())
    };
    case(name, make, expect)
}

/// The good file after `change` of its bytes.
fn raw(name: &'static str, change: impl Fn(&mut Vec<u8>) + 'static, expect: Expect) -> Case {
    let make = move |folder: &Path| {
        let mut bytes = Gguf::good().bytes();
        change(&mut bytes);
        write(folder, &bytes)
    };
    case(name, make, expect)
}

/// Where the header counts lie: magic, version, tensors, pairs.
const FIRST_PAIR: usize = 24;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = header_cases();
    cases.extend(tensor_cases());
    cases.extend(crate::gguf_vocabulary::cases());
    cases
}

fn header_cases() -> Vec<Case> {
    let nested = |g: &mut Gguf| {
        let mut value = vec![];
        for _ in 0..10_000 {
            value.extend(number(ARRAY));
            value.extend(1u64.to_le_bytes());
        }
        g.set("nested", ARRAY, value);
    };
    let of_count = |kind: u32, n: u64| {
        let mut value = number(kind);
        value.extend(n.to_le_bytes());
        value
    };
    let tiny = |n_tensors: u64, n_pairs: u64| {
        move |bytes: &mut Vec<u8>| {
            let gguf = Gguf { n_tensors: Some(n_tensors), n_pairs: Some(n_pairs), ..Gguf::good() };
            *bytes = gguf.bytes()[..64].to_vec();
        }
    };
    let mut cases = vec![
        raw("33 good", |_| (), Expect::Opens(&[])),
        raw("33 bad magic", |b| b[0] = b'X', model("Magic", &["GGUF"])),
        raw("33 no bytes", Vec::clear, model("Truncated", &["4 bytes wanted and 0 left"])),
        changed("33 big-endian", |g| g.version = 3u32.swap_bytes(), unsupported("Version", &["big-endian"])),
        raw("34 tensors u64::MAX", tiny(u64::MAX, 0), model("Count", &["18446744073709551615 tensors"])),
        raw("34 keys u64::MAX", tiny(0, u64::MAX), model("Count", &["18446744073709551615 keys"])),
        raw("34 tensors 2^32", tiny(1 << 32, 0), model("Count", &["4294967296 tensors"])),
        raw("34 keys 2^32", tiny(0, 1 << 32), model("Count", &["4294967296 keys", "40 bytes"])),
        case("34 keys over the limit in a sparse file", sparse_keys, model("Count", &["8193 keys"])),
        changed("34 as many tensors as the limit", many_tensors, Expect::Opens(&["and 131045 more"])),
        changed("34 as many keys as the limit", many_keys, Expect::Opens(&[])),
        case(
            "34 tensors over the limit in a sparse file",
            sparse_tensors,
            model("Count", &["131073 tensors"]),
        ),
        case("34 items over the limit in a sparse file", sparse_tokens, model("Kv", &["4194305 items"])),
        raw(
            "35 key length u64::MAX",
            |b| b[FIRST_PAIR..][..8].fill(0xff),
            model("Kv", &["offset 24", "18446744073709551615"]),
        ),
        changed("35 empty key", |g| g.pairs[0].0.clear(), model("Kv", &["empty key"])),
        changed("35 key not UTF-8", |g| g.pairs[0].0 = vec![0xff], model("Kv", &["not UTF-8"])),
        changed(
            "35 key over 64 KiB",
            |g| g.pairs[0].0 = vec![b'a'; (64 << 10) + 1],
            model("Kv", &["65537", "65536"]),
        ),
        changed(
            "36 string past the end",
            |g| g.set("x", STRING, (1u64 << 20).to_le_bytes().to_vec()),
            model("Kv", &["\"x\"", "1048576"]),
        ),
        changed(
            "36 string over the limit",
            |g| g.set("x", STRING, (1u64 << 40).to_le_bytes().to_vec()),
            model("Kv", &["\"x\"", "limit"]),
        ),
        changed("36 value type 13", |g| g.set("x", 13, number(0)), model("Kv", &["\"x\"", "type 13"])),
        changed("36 value type 255", |g| g.set("x", 255, number(0)), model("Kv", &["type 255"])),
        changed("36 truth value 2", |g| g.set("x", BOOL, vec![2]), model("Kv", &["truth value of 2"])),
        changed("36 array of type 13", |g| g.set("x", ARRAY, array(13, &[])), model("Kv", &["type 13"])),
        changed("37 arrays nested 10,000 deep", nested, model("Kv", &["array of arrays"])),
        changed(
            "38 count x size overflows",
            move |g| g.set("x", ARRAY, of_count(U64, (1 << 61) + 1)),
            model("Overflow", &["\"x\"", "2305843009213693953"]),
        ),
        changed(
            "38 strings overflow",
            move |g| g.set("x", ARRAY, of_count(STRING, u64::MAX)),
            model("Overflow", &["\"x\""]),
        ),
        changed(
            "38 count past the end",
            move |g| g.set("x", ARRAY, of_count(U16, 1 << 40)),
            model("Kv", &["\"x\"", "1099511627776 items"]),
        ),
        changed(
            "39 duplicate key",
            |g| g.pairs.push(g.pairs[3].clone()),
            model("Duplicate", &["llama.embedding_length"]),
        ),
        changed(
            "39 duplicate tensor",
            |g| g.add("output_norm.weight", &[32], 0),
            model("Duplicate", &["output_norm.weight"]),
        ),
        changed("40 alignment 64 is fine", alignment_64, Expect::Opens(&[])),
        changed(
            "40 alignment of type u64",
            |g| g.set("general.alignment", U64, 32u64.to_le_bytes().to_vec()),
            model("Alignment", &["u32"]),
        ),
        changed(
            "40 alignment as text",
            |g| g.set("general.alignment", STRING, string(b"32")),
            model("Alignment", &["u32"]),
        ),
        changed(
            "49 one part of a split model",
            |g| split(g, 2),
            no_input("Split", &["part 2 of 3", "other 2 parts"]),
        ),
        case(
            "49 named as llama.cpp names parts",
            split_named,
            no_input("Split", &["small-00001-of-00003.gguf, small-00003-of-00003.gguf"]),
        ),
        changed(
            "49 a split into one part is whole",
            |g| {
                split(g, 0);
                g.set("split.count", U16, vec![1, 0])
            },
            Expect::Opens(&[]),
        ),
    ];
    for version in [0, 1, 4] {
        cases.push(changed(
            "33 version",
            move |g| g.version = version,
            unsupported("Version", &["versions 2 and 3"]),
        ));
    }
    cases.push(changed("33 version 2 is fine", |g| g.version = 2, Expect::Opens(&[])));
    for alignment in [0, 13, 1, 4, 1 << 31, (1 << 20) + 1, 1 << 21] {
        let change = move |g: &mut Gguf| g.set("general.alignment", U32, number(alignment));
        cases.push(changed("40 alignment", change, model("Alignment", &["power of two", "1048576"])));
    }
    for architecture in ["mamba", "", "LLAMA"] {
        let change =
            move |g: &mut Gguf| g.set("general.architecture", STRING, string(architecture.as_bytes()));
        cases.push(changed("31 architecture", change, unsupported("Architecture", &["llama, qwen2, qwen3"])));
    }
    cases.push(changed(
        "31 architecture missing",
        |g| drop(g.pairs.remove(0)),
        unsupported("Architecture", &["missing"]),
    ));
    for (name, key, value, part) in [
        ("25 no heads", "llama.attention.head_count", number(0), "llama.attention.head_count is 0"),
        ("25 heads of u32::MAX", "llama.attention.head_count", number(u32::MAX), "4294967295"),
        ("26 kv heads", "llama.attention.head_count_kv", number(3), "no multiple"),
        ("28 layers", "llama.block_count", number(1_000_000_000), "llama.block_count is 1000000000"),
    ] {
        let part: &'static [&'static str] = Box::leak(Box::new([part]));
        cases.push(changed(name, move |g| g.set(key, U32, value.clone()), model("Config", part)));
    }
    cases
}

fn tensor_cases() -> Vec<Case> {
    let mut cases = vec![
        changed(
            "41 dim 0",
            |g| g.tensor("attn_q").dims = vec![32, 0],
            model("Shape", &["attn_q", "dimension of 0"]),
        ),
        changed(
            "41 dim negative",
            |g| g.tensor("attn_q").dims = vec![32, -1i64 as u64],
            model("Shape", &["dimension of -1"]),
        ),
        changed("42 the sum wraps", sum_wraps, model("Overflow", &["2^63"])),
        changed(
            "42 one product wraps",
            |g| g.tensor("attn_q").dims = vec![1 << 40, 1 << 40],
            model("Overflow", &["attn_q"]),
        ),
        changed(
            "43 Q4_2",
            |g| g.tensor("attn_q").kind = 4,
            unsupported("Quant", &["attn_q", "Q4_2", "removed", "Q4_K"]),
        ),
        changed("43 IQ4_XS", |g| g.tensor("attn_q").kind = 23, unsupported("Quant", &["IQ4_XS"])),
        changed("43 unknown", |g| g.tensor("attn_q").kind = u32::MAX, unsupported("Quant", &["4294967295"])),
        changed(
            "44 row no multiple of the block",
            |g| g.tensor("attn_q").dims = vec![31, 32],
            model("Shape", &["attn_q", "rows of 31", "32 of Q8_0"]),
        ),
        changed(
            "45 offset unaligned",
            |g| g.tensor("attn_q").offset += 8,
            model("Layout", &["attn_q", "no multiple of 32"]),
        ),
        changed(
            "45 overlap",
            |g| g.tensor("attn_q").offset -= 32,
            model("Layout", &["overlap", "attn_q", "attn_norm"]),
        ),
        changed(
            "45 past the end",
            |g| g.tensor("output_norm").offset += 32,
            model("Layout", &["output_norm", "cut short"]),
        ),
        changed(
            "45 offset wraps",
            |g| g.tensor("attn_q").offset = u64::MAX - 31,
            model("Layout", &["attn_q"]),
        ),
        changed(
            "45 dim 2^42 + 1",
            |g| g.tensor("attn_norm").dims = vec![(1 << 42) + 1],
            model("Layout", &["attn_norm"]),
        ),
        raw(
            "45 truncated by one byte",
            |b| b.truncate(b.len() - 1),
            model("Layout", &["output_norm", "fetch it again"]),
        ),
        changed(
            "14 missing",
            |g| g.tensor("attn_q").name = "extra".into(),
            model("MissingTensor", &["blk.0.attn_q.weight"]),
        ),
        changed("14 extra", |g| g.add("extra", &[3], 0), Expect::Opens(&["extra"])),
        changed(
            "14 a bias nobody computes",
            |g| g.add("blk.0.attn_q.bias", &[32], 0),
            unsupported("ExtraTensor", &["attn_q.bias"]),
        ),
        changed(
            "11 shape at odds with the config",
            |g| g.tensor("attn_k").dims = vec![32, 8],
            model("ShapeMismatch", &["attn_k", "[8, 32]", "[16, 32]"]),
        ),
        changed(
            "11 three dimensions",
            |g| g.tensor("attn_k").dims = vec![32, 16, 1],
            model("ShapeMismatch", &["attn_k"]),
        ),
        changed(
            "12 a quantised norm",
            |g| g.tensor("attn_norm").kind = 8,
            unsupported("Dtype", &["attn_norm", "Q8_0"]),
        ),
        changed(
            "30 mixture of experts",
            |g| g.set("llama.expert_count", U32, number(8)),
            unsupported("Experts", &["expert_count"]),
        ),
        changed(
            "30 half of a head rotated",
            |g| g.set("llama.rope.dimension_count", U32, number(8)),
            unsupported("HeadDim", &["8"]),
        ),
        changed(
            "30 yarn",
            |g| g.set("llama.rope.scaling.type", STRING, string(b"yarn")),
            unsupported("RopeScaling", &["yarn", "linear"]),
        ),
    ];
    for n in [0u32, 5, u32::MAX] {
        let parts: &'static [&'static str] = &["dimensions", "1 to 4"];
        cases.push(raw(
            "41 n_dims",
            move |b| b[first_n_dims()..][..4].copy_from_slice(&n.to_le_bytes()),
            model("Shape", parts),
        ));
    }
    let divisors = |g: &mut Gguf, n: u64, value: f32| {
        g.add("rope_freqs.weight", &[n], 0);
        let at = g.tensors.last().unwrap().offset as usize;
        g.data[at..at + 4 * n as usize].copy_from_slice(&value.to_le_bytes().repeat(n as usize));
    };
    let scales = |bits: u16| {
        move |g: &mut Gguf| {
            let start = g.tensor("token_embd").offset as usize;
            for block in g.data[start..start + 16 * 34].chunks_mut(34) {
                block.fill(0xa5);
                block[..2].copy_from_slice(&bits.to_le_bytes());
            }
        }
    };
    cases.extend([
        changed("30 rope divisors", move |g| divisors(g, 8, 2.0), Expect::Opens(&[])),
        changed(
            "30 rope divisors of another head",
            move |g| divisors(g, 4, 2.0),
            model("Config", &["4 rope factors for heads of 16"]),
        ),
        changed(
            "30 rope divisors of 0",
            move |g| divisors(g, 8, 0.0),
            model("Config", &["rope_freqs.weight holds 0"]),
        ),
        changed("30 rope divisors NaN", move |g| divisors(g, 8, f32::NAN), model("Config", &["holds NaN"])),
    ]);
    for (name, bits) in [("46 scales NaN", 0x7e00), ("46 scales Inf", 0x7c00), ("46 random blocks", 0xa5a5)] {
        cases.push(Case { then: read_everything, ..changed(name, scales(bits), Expect::Opens(&[])) });
    }
    cases
}

/// Where the number of dimensions of the first tensor lies.
fn first_n_dims() -> usize {
    let good = Gguf::good();
    let no_tensors = Gguf { tensors: vec![], ..good.clone() };
    no_tensors.head().len() + 8 + good.tensors[0].name.len()
}

/// These bytes and zeros up to 2 GiB.
fn sparse(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = write(folder, bytes);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 31).unwrap();
    path
}

fn sparse_keys(folder: &Path) -> PathBuf {
    sparse(folder, &Gguf { n_pairs: Some((1 << 13) + 1), ..Gguf::good() }.head()[..FIRST_PAIR])
}

fn sparse_tensors(folder: &Path) -> PathBuf {
    sparse(folder, &Gguf { n_tensors: Some((1 << 17) + 1), ..Gguf::good() }.head()[..FIRST_PAIR])
}

/// Four million empty tokens that lie in no block of the disk.
fn sparse_tokens(folder: &Path) -> PathBuf {
    let mut gguf = Gguf { tensors: vec![], n_tensors: Some(1), n_pairs: Some(1), ..Gguf::good() };
    gguf.pairs.clear();
    let mut value = number(STRING);
    value.extend(((1u64 << 22) + 1).to_le_bytes());
    gguf.set("tokenizer.ggml.tokens", ARRAY, value);
    sparse(folder, &gguf.head())
}

fn many_tensors(gguf: &mut Gguf) {
    for i in gguf.tensors.len()..1 << 17 {
        gguf.add(&format!("x{i}"), &[1], 0);
    }
}

fn many_keys(gguf: &mut Gguf) {
    for i in gguf.pairs.len()..1 << 13 {
        gguf.pairs.push((i.to_string().into_bytes(), BOOL, vec![1]));
    }
}

fn alignment_64(gguf: &mut Gguf) {
    gguf.set("general.alignment", U32, number(64));
    let tensors = std::mem::take(&mut gguf.tensors);
    gguf.data.clear();
    for Info { name, dims, kind, .. } in tensors {
        gguf.data.resize(gguf.data.len().next_multiple_of(64), 0);
        gguf.add(&name, &dims, kind);
    }
    // The data start at a multiple of 64 too: room enough whatever the header's length is.
    gguf.data.resize(gguf.data.len() + 64, 0);
}

fn split(gguf: &mut Gguf, number: u16) {
    gguf.set("split.no", U16, number.saturating_sub(1).to_le_bytes().to_vec());
    gguf.set("split.count", U16, vec![3, 0]);
}

fn split_named(folder: &Path) -> PathBuf {
    let mut gguf = Gguf::good();
    split(&mut gguf, 2);
    let path = folder.join("small-00002-of-00003.gguf");
    std::fs::write(&path, gguf.bytes()).unwrap();
    path
}

fn sum_wraps(gguf: &mut Gguf) {
    for name in ["attn_norm", "output_norm"] {
        gguf.tensor(name).dims = vec![0x7fff_ffff_ffff_ffc0 / 4];
    }
}

fn read_everything(checkpoint: Checkpoint) -> Result<Checkpoint, Error> {
    let values = checkpoint.weights.embedding.read_f32()?;
    assert_eq!(values.len(), 16 * 32);
    Ok(checkpoint)
}
