//! A small good GGUF file in parts, each of which a case may spoil.

use std::path::{Path, PathBuf};

pub(crate) const U16: u32 = 2;
pub(crate) const U32: u32 = 4;
pub(crate) const I32: u32 = 5;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;

/// A file in parts, each of which a case may spoil.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) n_tensors: Option<u64>,
    pub(crate) n_pairs: Option<u64>,
    /// (key, type, value)
    pub(crate) pairs: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Info>,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Info {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

pub(crate) fn array(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend_from_slice(&(items.len() as u64).to_le_bytes());
    bytes.extend(items.concat());
    bytes
}

pub(crate) fn strings<'a>(items: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    array(STRING, &items.into_iter().map(|item| string(item.as_bytes())).collect::<Vec<_>>())
}

pub(crate) fn integers(items: &[i32]) -> Vec<u8> {
    array(I32, &items.iter().map(|item| item.to_le_bytes().to_vec()).collect::<Vec<_>>())
}

impl Gguf {
    /// One llama layer: 16 tokens, hidden 32, 2 heads of 16, 1 KV head, 32 feed-forward; Q8_0 matrices.
    pub(crate) fn good() -> Self {
        let text = |text: &str| (STRING, string(text.as_bytes()));
        let number = |n: u32| (U32, number(n));
        let tokens = "<unk> <s> </s> <0x0A> a b c d e f g h i j k l";
        let pairs = [
            ("general.architecture", text("llama")),
            ("llama.block_count", number(1)),
            ("llama.context_length", number(64)),
            ("llama.embedding_length", number(32)),
            ("llama.feed_forward_length", number(32)),
            ("llama.attention.head_count", number(2)),
            ("llama.attention.head_count_kv", number(1)),
            ("llama.attention.layer_norm_rms_epsilon", (F32, 1e-5f32.to_le_bytes().to_vec())),
            ("tokenizer.ggml.model", text("llama")),
            ("tokenizer.ggml.tokens", (ARRAY, strings(tokens.split(' ')))),
            ("tokenizer.ggml.scores", (ARRAY, array(F32, &vec![0f32.to_le_bytes().to_vec(); 16]))),
            (
                "tokenizer.ggml.token_type",
                (ARRAY, integers(&[2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])),
            ),
            ("tokenizer.ggml.eos_token_id", number(2)),
        ];
        let mut good = Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_pairs: None,
            pairs: pairs.map(|(key, (kind, value))| (key.as_bytes().to_vec(), kind, value)).to_vec(),
            tensors: vec![],
            data: vec![],
        };
        good.add("token_embd.weight", &[32, 16], 8);
        for (name, dims, kind) in [
            ("attn_norm", vec![32], 0),
            ("attn_q", vec![32, 32], 8),
            ("attn_k", vec![32, 16], 8),
            ("attn_v", vec![32, 16], 8),
            ("attn_output", vec![32, 32], 8),
            ("ffn_norm", vec![32], 0),
            ("ffn_gate", vec![32, 32], 8),
            ("ffn_up", vec![32, 32], 8),
            ("ffn_down", vec![32, 32], 8),
        ] {
            good.add(&format!("blk.0.{name}.weight"), &dims, kind);
        }
        good.add("output_norm.weight", &[32], 0);
        good
    }

    /// Appends a tensor, F32 (0) or Q8_0 (8), with zeros for data.
    pub(crate) fn add(&mut self, name: &str, dims: &[u64], kind: u32) {
        let values = dims.iter().product::<u64>() as usize;
        let bytes = if kind == 8 { values / 32 * 34 } else { values * 4 };
        let offset = self.data.len() as u64;
        self.tensors.push(Info { name: name.into(), dims: dims.to_vec(), kind, offset });
        self.data.resize((self.data.len() + bytes).next_multiple_of(32), 0);
    }

    /// Puts a value under a key, new or not.
    pub(crate) fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.pairs.retain(|(old, ..)| old != key.as_bytes());
        self.pairs.push((key.into(), kind, value));
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Info {
        self.tensors.iter_mut().find(|tensor| tensor.name.contains(name)).unwrap()
    }

    /// Everything before the padding and the data.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_pairs.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for Info { name, dims, kind, offset } in &self.tensors {
            bytes.extend(string(name.as_bytes()));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

pub(crate) fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}

pub(crate) fn number(n: u32) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}
