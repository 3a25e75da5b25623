//! The header of a GGUF file: keys with values, and the table of tensors.
//!
//! Layout after `ggml/docs/gguf.md`: magic, version (u32), tensor count (u64), key count (u64), the pairs,
//! the tensor table, padding to the alignment, tensor data. Versions 2 and 3, little endian.

#![deny(clippy::arithmetic_side_effects)]

use super::cursor::Cursor;
use super::types::dtype;
use crate::limits::{
    GGUF_ALIGNMENT, GGUF_DIMENSIONS, GGUF_ITEMS, GGUF_KEYS, GGUF_NAME_BYTES, GGUF_STRING_BYTES, TENSORS,
};
use crate::quant::DType;
use crate::source::SourceFile;
use crate::{Error, Result};
use std::collections::HashMap;

/// Bytes of the shortest key (one letter) with its type and a one-byte value.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// Bytes of the shortest tensor entry: a name of one letter, one dimension, type and offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;
const DEFAULT_ALIGNMENT: u32 = 32;

/// Arrays that are kept; all others are checked and passed over.
const KEPT_ARRAYS: [&str; 4] =
    ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Of the integer type with this id.
    Integer(i128, u32),
    Float(f64),
    Bool(bool),
    Text(String),
    Strings(Vec<String>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    /// An array that nobody asks for.
    OtherArray,
}

/// One tensor of the table.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// (columns, rows, ...), fastest first, as stored.
    pub(super) dims: Vec<u64>,
    /// From the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Everything before the tensor data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) values: HashMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Header {
    pub(super) fn read(file: &SourceFile) -> Result<Self> {
        let mut cursor = Cursor::new(file);
        let magic: [u8; 4] = cursor.array()?;
        if &magic != b"GGUF" {
            return Err(cursor.error_at(0, "Magic", format!("starts with {magic:02x?}, not with GGUF")));
        }
        match cursor.u32()? {
            2 | 3 => {}
            version => return Err(unsupported_version(file, version)),
        }
        let n_tensors = count(&mut cursor, "tensors", MIN_TENSOR_BYTES, TENSORS)?;
        let n_pairs = count(&mut cursor, "keys", MIN_PAIR_BYTES, GGUF_KEYS)?;

        let mut values = HashMap::new();
        for _ in 0..n_pairs {
            let at = cursor.position();
            let (key, value) = pair(&mut cursor)?;
            if values.contains_key(&key) {
                return Err(cursor.error_at(at, "Duplicate", format!("key {key:?} comes twice")));
            }
            values.insert(key, value);
        }
        let alignment = alignment(&cursor, &values)?;
        let tensors = tensor_table(&mut cursor, n_tensors, alignment, file.len)?;
        Ok(Self { values, tensors })
    }
}

fn unsupported_version(file: &SourceFile, version: u32) -> Error {
    let path = file.path.display();
    let message = if matches!(version.swap_bytes(), 1..=3) {
        format!("{path}: is big-endian GGUF; only little-endian is read: convert it with gguf-py")
    } else {
        format!("{path}: is GGUF version {version}; versions 2 and 3 are read: convert the model again")
    };
    Error::unsupported("Version", message)
}

fn count(cursor: &mut Cursor<'_>, what: &str, min_bytes: u64, limit: u64) -> Result<usize> {
    let at = cursor.position();
    let n = cursor.u64()?;
    let most = cursor.remaining().checked_div(min_bytes).unwrap_or(0);
    if n > most {
        let left = cursor.remaining();
        let what = format!("{n} {what} cannot lie in the {left} bytes that follow");
        return Err(cursor.error_at(at, "Count", what));
    }
    if n > limit {
        return Err(cursor.error_at(at, "Count", format!("{n} {what}; the limit is {limit}")));
    }
    Ok(n as usize)
}

fn pair(cursor: &mut Cursor<'_>) -> Result<(String, Value)> {
    let at = cursor.position();
    let key = cursor.string(GGUF_NAME_BYTES, "a key")?;
    if key.is_empty() {
        return Err(cursor.error_at(at, "Kv", "an empty key"));
    }
    let kind = cursor.u32()?;
    let value = match kind {
        ARRAY => array(cursor, &key)?,
        STRING => Value::Text(cursor.string(GGUF_STRING_BYTES, &format!("the value of {key:?}"))?),
        _ => scalar(cursor, kind, &key)?,
    };
    Ok((key, value))
}

fn scalar(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<Value> {
    let at = cursor.position();
    let integer = |value: i128| Value::Integer(value, kind);
    Ok(match kind {
        0 => integer(u8::from_le_bytes(cursor.array()?).into()),
        1 => integer(i8::from_le_bytes(cursor.array()?).into()),
        2 => integer(u16::from_le_bytes(cursor.array()?).into()),
        3 => integer(i16::from_le_bytes(cursor.array()?).into()),
        U32 => integer(cursor.u32()?.into()),
        I32 => integer(i32::from_le_bytes(cursor.array()?).into()),
        F32 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
        7 => match cursor.array::<1>()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => {
                return Err(cursor.error_at(
                    at,
                    "Kv",
                    format!("{key:?} is a truth value of {other}, not 0 or 1"),
                ));
            }
        },
        10 => integer(cursor.u64()?.into()),
        11 => integer(i64::from_le_bytes(cursor.array()?).into()),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(unknown_kind(cursor, at, kind, key)),
    })
}

fn unknown_kind(cursor: &Cursor<'_>, at: u64, kind: u32, key: &str) -> Error {
    cursor.error_at(at, "Kv", format!("{key:?} has the unknown value type {kind}; types are 0 to 12"))
}

/// Bytes of an item of a scalar type.
fn scalar_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        U32 | I32 | F32 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

fn array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let at = cursor.position();
    let kind = cursor.u32()?;
    let n = cursor.u64()?;
    if kind == ARRAY {
        return Err(cursor.error_at(
            at,
            "Kv",
            format!("{key:?} is an array of arrays, which no model needs"),
        ));
    }
    // A string is at least its length.
    let item = if kind == STRING { Some(8) } else { scalar_bytes(kind) };
    let item = item.ok_or_else(|| unknown_kind(cursor, at, kind, key))?;
    let bytes = n.checked_mul(item).ok_or_else(|| {
        cursor.error_at(
            at,
            "Overflow",
            format!("{key:?} has {n} items of {item} bytes, more than 2^64 bytes"),
        )
    })?;
    if bytes > cursor.remaining() {
        let left = cursor.remaining();
        let what = format!("{key:?} has {n} items, at least {bytes} bytes, and {left} are left");
        return Err(cursor.error_at(at, "Kv", what));
    }
    let keep = KEPT_ARRAYS.contains(&key);
    if keep && n > GGUF_ITEMS {
        return Err(cursor.error_at(at, "Kv", format!("{key:?} has {n} items; the limit is {GGUF_ITEMS}")));
    }
    let n = n as usize;
    match kind {
        STRING if keep => {
            let what = format!("an item of {key:?}");
            let mut all = Vec::with_capacity(n);
            for _ in 0..n {
                all.push(cursor.string(GGUF_STRING_BYTES, &what)?);
            }
            Ok(Value::Strings(all))
        }
        STRING => {
            let what = format!("an item of {key:?}");
            for _ in 0..n {
                let bytes = cursor.length(GGUF_STRING_BYTES, &what)?;
                cursor.skip(bytes)?;
            }
            Ok(Value::OtherArray)
        }
        F32 if keep => {
            let mut all = Vec::with_capacity(n);
            for _ in 0..n {
                all.push(f32::from_le_bytes(cursor.array()?));
            }
            Ok(Value::Floats(all))
        }
        U32 | I32 if keep => {
            let mut all = Vec::with_capacity(n);
            for _ in 0..n {
                let bits = cursor.u32()?;
                all.push(if kind == U32 { bits.into() } else { i64::from(bits as i32) });
            }
            Ok(Value::Integers(all))
        }
        _ => {
            cursor.skip(bytes)?;
            Ok(Value::OtherArray)
        }
    }
}

fn alignment(cursor: &Cursor<'_>, values: &HashMap<String, Value>) -> Result<u64> {
    let wrong = |found: String| {
        cursor.error(
            "Alignment",
            format!(
                "general.alignment is {found}; it must be a u32 and a power of two from 8 to {GGUF_ALIGNMENT}"
            ),
        )
    };
    match values.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(Value::Integer(value, U32)) => match u32::try_from(*value) {
            Ok(n) if n.is_power_of_two() && (8..=GGUF_ALIGNMENT).contains(&n) => Ok(n.into()),
            _ => Err(wrong(value.to_string())),
        },
        Some(other) => Err(wrong(format!("{other:?}"))),
    }
}

/// What one entry of the table says, its offset still relative to the data.
struct Entry {
    info: TensorInfo,
    at: u64,
}

fn tensor_table(cursor: &mut Cursor<'_>, n: usize, alignment: u64, file_len: u64) -> Result<Vec<TensorInfo>> {
    let mut entries: Vec<Entry> = Vec::with_capacity(n);
    // Offsets of files are signed 64-bit numbers, so that is what sizes and their sum must fit.
    let mut total = 0i64;
    for _ in 0..n {
        let entry = entry(cursor)?;
        let name = &entry.info.name;
        total = entry
            .info
            .bytes
            .checked_next_multiple_of(alignment)
            .and_then(|bytes| i64::try_from(bytes).ok())
            .and_then(|bytes| total.checked_add(bytes))
            .ok_or_else(|| {
                cursor.error_at(
                    entry.at,
                    "Overflow",
                    format!("with tensor {name:?} the data passes 2^63 bytes"),
                )
            })?;
        entries.push(entry);
    }
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.info.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(cursor.error("Duplicate", format!("tensor {:?} comes twice", pair.first())));
    }
    let data = cursor.position().next_multiple_of(alignment);
    let mut spans = Vec::with_capacity(n);
    for (i, Entry { info, at }) in entries.iter_mut().enumerate() {
        let wrong = |what: String| cursor.error_at(*at, "Layout", format!("tensor {:?} {what}", info.name));
        if info.offset.checked_rem(alignment) != Some(0) {
            return Err(wrong(format!("lies at offset {}, no multiple of {alignment}", info.offset)));
        }
        let start = data.checked_add(info.offset);
        let end = start.and_then(|start| start.checked_add(info.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => {
                spans.push((start, end, i));
                info.offset = start;
            }
            _ => {
                return Err(wrong(format!(
                    "needs {} bytes at offset {} of the data, and the file ends at {file_len}: it is cut \
                     short or damaged; fetch it again",
                    info.bytes, info.offset
                )));
            }
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if let [(_, end, first), (start, _, second)] = *pair
            && start < end
            && let (Some(first), Some(second)) = (entries.get(first), entries.get(second))
        {
            let what = format!("tensors {:?} and {:?} overlap", first.info.name, second.info.name);
            return Err(cursor.error_at(second.at, "Layout", what));
        }
    }
    Ok(entries.into_iter().map(|entry| entry.info).collect())
}

fn entry(cursor: &mut Cursor<'_>) -> Result<Entry> {
    let at = cursor.position();
    let name = cursor.string(GGUF_NAME_BYTES, "a tensor name")?;
    let n_dims = cursor.u32()?;
    if !(1..=GGUF_DIMENSIONS).contains(&n_dims) {
        let what = format!("tensor {name:?} has {n_dims} dimensions; 1 to {GGUF_DIMENSIONS} are possible");
        return Err(cursor.error_at(at, "Shape", what));
    }
    let mut dims = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        match cursor.u64()? {
            dim if dim == 0 || i64::try_from(dim).is_err() => {
                let what = format!("tensor {name:?} has a dimension of {}", dim as i64);
                return Err(cursor.error_at(at, "Shape", what));
            }
            dim => dims.push(dim),
        }
    }
    let dtype = dtype(cursor.u32()?).map_err(|found| {
        let known = DType::ALL.map(DType::name).join(", ");
        let place =
            cursor.error_at(at, "Quant", format!("tensor {name:?} is stored as {found}; known are {known}"));
        Error::unsupported("Quant", place.message)
    })?;
    let offset = cursor.u64()?;

    let (block_values, block_bytes) = dtype.block();
    let (block_values, block_bytes) = (block_values as u64, block_bytes as u64);
    let columns = dims.first().copied().unwrap_or(0);
    if columns.checked_rem(block_values) != Some(0) {
        let what =
            format!("tensor {name:?} has rows of {columns}, no multiple of the {block_values} of {dtype}");
        return Err(cursor.error_at(at, "Shape", what));
    }
    let bytes = dims
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .and_then(|values| values.checked_div(block_values))
        .and_then(|blocks| blocks.checked_mul(block_bytes))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| {
            cursor.error_at(at, "Overflow", format!("tensor {name:?} of {dims:?} {dtype} passes 2^63 bytes"))
        })?;
    Ok(Entry { info: TensorInfo { name, dtype, dims, offset, bytes }, at })
}
