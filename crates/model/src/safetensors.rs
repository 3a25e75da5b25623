//! One safetensors file: its header, checked by the rules of the safetensors crate.
//!
//! The crate's own entry point wants the whole file as one slice, which means a mapping; a file cut short
//! under a mapping ends the process with SIGBUS. So the header is read by position into the heap, keys are
//! taken one by one (maps keep the last of two equal names silently), and the crate's `Metadata` checks the
//! layout. Data are read by position too.
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]

use crate::demand::Stored;
use crate::limits::{SAFETENSORS_HEADER_BYTES, TENSORS};
use crate::quant::DType;
use crate::source::SourceFile;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes of the length before the header.
const LENGTH_BYTES: u64 = 8;

/// The tensors of a file by name, their places compared with the file.
pub(crate) fn read_header(file: &Arc<SourceFile>) -> Result<BTreeMap<String, Stored>> {
    let path = file.path.display();
    let error = |code: &'static str, what: String| Error::model(code, format!("{path}: {what}"));
    if file.len < LENGTH_BYTES {
        return Err(error("HeaderTooSmall", format!("is {} bytes long; a header needs 8", file.len)));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_at(0, &mut length, "the header length")?;
    let length = u64::from_le_bytes(length);
    if length > SAFETENSORS_HEADER_BYTES {
        let limit = SAFETENSORS_HEADER_BYTES;
        return Err(error(
            "HeaderTooLarge",
            format!("says its header is {length} bytes; the limit is {limit}"),
        ));
    }
    let data_start = length.saturating_add(LENGTH_BYTES);
    if data_start > file.len {
        let what = format!("needs {data_start} bytes for its header and has {}; fetch it again", file.len);
        return Err(error("Truncated", what));
    }
    let mut header = vec![0; length as usize];
    file.read_at(LENGTH_BYTES, &mut header, "the header")?;
    let text = std::str::from_utf8(&header).map_err(|e| {
        error("HeaderInvalid", format!("its header is not UTF-8 at byte {}", e.valid_up_to()))
    })?;
    // The first byte is part of the format; it keeps other files from passing as this one.
    if !text.starts_with('{') {
        return Err(error("HeaderInvalid", "its header is no JSON object".into()));
    }
    let RawHeader(mut raw) = serde_json::from_str(text).map_err(|e| coded(&e.to_string(), &error))?;
    drop(header);

    raw.sort_unstable_by_key(|(_, tensor)| tensor.span);
    for (name, tensor) in &raw {
        check_tensor(name, tensor, &error)?;
    }
    check_spans(&raw, file.len.saturating_sub(data_start), &error)?;
    // The authority on the format has the last word; the checks above only give its refusals better names. The
    // crate looks at places only, so it needs no names.
    let infos = raw.iter().map(|(_, tensor)| (String::new(), tensor.info())).collect();
    Metadata::new(None, infos)
        .map_err(|e| error("Layout", format!("the safetensors crate refuses the header: {e}")))?;

    let place = |(name, tensor): (String, RawTensor)| {
        let dtype = match tensor.dtype {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            other => Err(other.to_string()),
        };
        let (start, end) = tensor.span;
        // Within the file, so it cannot pass 2^64.
        let offset = data_start.saturating_add(start);
        let bytes = end.saturating_sub(start);
        (name, Stored { dtype, shape: tensor.shape, file: file.clone(), offset, bytes })
    };
    Ok(raw.into_iter().map(place).collect())
}

/// The error for what the deserialiser says, by the code before its message if there is one.
fn coded(what: &str, error: &MakeError<'_>) -> Error {
    let coded = CODES.iter().find_map(|code| Some((*code, what.strip_prefix(code)?.strip_prefix(": ")?)));
    match coded {
        Some(("Dtype", what)) => Error::unsupported("Dtype", error("Dtype", what.to_owned()).message),
        Some((code, what)) => error(code, what.to_owned()),
        None => error("HeaderInvalid", format!("its header is not valid: {what}")),
    }
}

/// Codes that the deserialiser puts before its message.
const CODES: [&str; 4] = ["DuplicateTensor", "BadOffset", "Count", "Dtype"];

struct RawTensor {
    dtype: Dtype,
    /// Outermost first; no larger on the heap than it must be, since files may have very many.
    shape: Vec<u64>,
    /// First byte and end, from the start of the data.
    span: (u64, u64),
}

/// (name, tensor) in file order, no name twice.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut all: Vec<(String, RawTensor)> = Vec::new();
                let mut has_metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(de::Error::custom("DuplicateTensor: __metadata__ comes twice"));
                        }
                        map.next_value::<Texts>()?;
                    } else if all.len() as u64 == TENSORS {
                        return Err(de::Error::custom(format_args!("Count: more than {TENSORS} tensors")));
                    } else {
                        all.push((name, map.next_value()?));
                    }
                }
                let mut names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
                names.sort_unstable();
                if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
                    return Err(de::Error::custom(format_args!("DuplicateTensor: {name:?} comes twice")));
                }
                Ok(RawHeader(all))
            }
        }
        deserializer.deserialize_map(Header)
    }
}

/// An object whose values are texts, none of them kept.
struct Texts;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                while map.next_entry::<Cow<'_, str>, Cow<'_, str>>()?.is_some() {}
                Ok(Texts)
            }

            fn visit_unit<E>(self) -> Result<Texts, E> {
                Ok(Texts)
            }
        }
        deserializer.deserialize_any(All)
    }
}

impl RawTensor {
    /// The crate's view of it.
    fn info(&self) -> TensorInfo {
        TensorInfo {
            dtype: self.dtype,
            shape: self.shape.iter().map(|&n| n as usize).collect(),
            data_offsets: (self.span.0 as usize, self.span.1 as usize),
        }
    }
}

/// The name of a number format that the safetensors crate knows.
struct Format(Dtype);

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let known = Dtype::deserialize(de::value::StrDeserializer::<de::value::Error>::new(&name));
        known.map(Format).map_err(|_| de::Error::custom(format_args!("Dtype: the unknown dtype {name:?}")))
    }
}

/// A number of `data_offsets`, so that a negative or fractional one is named as what it is.
struct Offset(u64);

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let wrong =
            || de::Error::custom(format_args!("BadOffset: data_offsets hold {number}, no unsigned integer"));
        number.as_u64().map(Offset).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for RawTensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensor;
        impl<'de> Visitor<'de> for Tensor {
            type Value = RawTensor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
                let (mut dtype, mut shape, mut span) = (None, None, None);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    let again = match &*key {
                        "dtype" => dtype.replace(map.next_value::<Format>()?).is_some(),
                        "shape" => shape.replace(map.next_value::<Vec<u64>>()?).is_some(),
                        "data_offsets" => span.replace(map.next_value::<(Offset, Offset)>()?).is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if again {
                        return Err(de::Error::custom(format_args!("{key} comes twice in one tensor")));
                    }
                }
                let Format(dtype) = dtype.ok_or_else(|| de::Error::missing_field("dtype"))?;
                let mut shape = shape.ok_or_else(|| de::Error::missing_field("shape"))?;
                shape.shrink_to_fit();
                let (Offset(start), Offset(end)) =
                    span.ok_or_else(|| de::Error::missing_field("data_offsets"))?;
                Ok(RawTensor { dtype, shape, span: (start, end) })
            }
        }
        deserializer.deserialize_map(Tensor)
    }
}

type MakeError<'a> = dyn Fn(&'static str, String) -> Error + 'a;

/// The checks that need one tensor only.
fn check_tensor(name: &str, tensor: &RawTensor, error: &MakeError<'_>) -> Result<()> {
    let RawTensor { dtype, shape, span: (start, end) } = tensor;
    if end < start {
        return Err(error("BadOffset", format!("tensor {name:?} ends at {end}, before its start {start}")));
    }
    let bits = shape
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(n))
        .and_then(|n| n.checked_mul(dtype.bitsize() as u64))
        .ok_or_else(|| error("Overflow", format!("tensor {name:?} of {shape:?} {dtype} passes 2^64 bits")))?;
    let span = end.saturating_sub(*start);
    if span.checked_mul(8) != Some(bits) {
        let what = format!("tensor {name:?} of {shape:?} {dtype} needs {bits} bits and spans {span} bytes");
        return Err(error("ShapeMismatch", what));
    }
    Ok(())
}

/// Tensors, sorted by place, must follow one another without hole or overlap to the end of the file.
fn check_spans(tensors: &[(String, RawTensor)], data_len: u64, error: &MakeError<'_>) -> Result<()> {
    let mut end = 0;
    for (name, tensor) in tensors {
        let (start, next) = tensor.span;
        if start != end {
            let what = if start < end { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err(error("Layout", format!("tensor {name:?} at {start} {what}, which ends at {end}")));
        }
        end = next;
    }
    if end > data_len {
        let what = format!("wants {end} bytes of data and has {data_len}: it is cut short; fetch it again");
        return Err(error("Truncated", what));
    }
    if end < data_len {
        let extra = data_len.saturating_sub(end);
        return Err(error("Layout", format!("has {extra} bytes after the last tensor")));
    }
    Ok(())
}
