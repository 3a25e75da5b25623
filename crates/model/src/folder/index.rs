//! `model.safetensors.index.json`: which shard holds which tensor.

#![deny(clippy::arithmetic_side_effects)]

use crate::limits::INDEX_BYTES;
use crate::source::SourceFile;
use crate::{Error, Result};
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Component, Path};

/// An index whose shard names stay inside the folder.
#[derive(Debug)]
pub(super) struct Index {
    /// File names, sorted.
    pub(super) shards: Vec<String>,
    /// Tensor name -> position in `shards`.
    pub(super) shard_of: HashMap<String, usize>,
    /// What the index claims all tensors weigh.
    pub(super) total_size: Option<u64>,
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = SourceFile::open(path)?.read_text(INDEX_BYTES, "Index")?;
        let error =
            |code: &'static str, what: String| Error::model(code, format!("{}: {what}", path.display()));
        let raw: RawIndex = serde_json::from_str(&text).map_err(|e| error("Index", e.to_string()))?;
        let WeightMap { shards, mut shard_of } = raw.weight_map;
        if shards.is_empty() {
            return Err(error("Index", "weight_map is empty".into()));
        }
        for shard in &shards {
            let mut parts = Path::new(shard).components();
            let inside = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            if !inside || shard.contains(['\\', '\0']) {
                let what = format!("shard {shard:?} is no plain file name; shards lie beside the index");
                return Err(error("PathEscape", what));
            }
        }
        let mut order: Vec<usize> = (0..shards.len()).collect();
        order.sort_unstable_by_key(|&i| shards.get(i));
        let mut rank = vec![0; shards.len()];
        for (new, &old) in order.iter().enumerate() {
            if let Some(rank) = rank.get_mut(old) {
                *rank = new;
            }
        }
        for shard in shard_of.values_mut() {
            *shard = rank.get(*shard).copied().unwrap_or_default();
        }
        let mut shards = shards;
        shards.sort_unstable();
        Ok(Self { shards, shard_of, total_size: raw.metadata.and_then(|metadata| metadata.total_size) })
    }
}

#[derive(Deserialize)]
struct RawIndex {
    metadata: Option<RawMetadata>,
    weight_map: WeightMap,
}

#[derive(Deserialize)]
struct RawMetadata {
    #[serde(default, deserialize_with = "size")]
    total_size: Option<u64>,
}

/// A size that is no unsigned integer says nothing; some writers store a float.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Other(IgnoredAny),
    }
    Ok(match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Some(bytes),
        Size::Other(_) => None,
    })
}

/// The map with each shard name kept once.
struct WeightMap {
    shards: Vec<String>,
    shard_of: HashMap<String, usize>,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("weight_map as an object of tensor name to shard file name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut numbers: HashMap<String, usize> = HashMap::new();
                let mut shard_of = HashMap::new();
                while let Some((tensor, shard)) = map.next_entry::<String, Cow<'_, str>>()? {
                    let next = numbers.len();
                    let number = match numbers.get(&*shard) {
                        Some(&number) => number,
                        None => *numbers.entry(shard.into_owned()).or_insert(next),
                    };
                    match shard_of.entry(tensor) {
                        Entry::Vacant(place) => place.insert(number),
                        Entry::Occupied(place) => {
                            let name = place.key();
                            return Err(de::Error::custom(format_args!("tensor {name:?} comes twice")));
                        }
                    };
                }
                let mut shards = vec![String::new(); numbers.len()];
                for (name, number) in numbers {
                    if let Some(place) = shards.get_mut(number) {
                        *place = name;
                    }
                }
                Ok(WeightMap { shards, shard_of })
            }
        }
        deserializer.deserialize_map(Map)
    }
}
