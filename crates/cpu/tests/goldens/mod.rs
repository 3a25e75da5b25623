//! What numpy says the checkpoints give.

use crate::checkpoints::{checkpoint, root};
use entropix_model::{AttentionSignals, Checkpoint, TokenId};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One golden file and its checkpoint.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) texts: Vec<Text>,
    /// Whole rows of logits and the (text, position) they belong to.
    pub(crate) logits: Vec<(Vec<f32>, (String, usize))>,
}

/// One text; arrays have one entry a position of `positions`.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) ids: Vec<TokenId>,
    pub(crate) positions: Vec<usize>,
    pub(crate) entropy: Vec<f64>,
    pub(crate) varentropy: Vec<f64>,
    pub(crate) collision: Vec<f64>,
    pub(crate) log_z: Vec<f64>,
    pub(crate) logit_std: Vec<f64>,
    pub(crate) next_logp: Vec<Option<f64>>,
    pub(crate) top_ids: Vec<Vec<TokenId>>,
    pub(crate) attention: Vec<Attention>,
}

/// The attention signals of one position.
pub(crate) struct Attention {
    pub(crate) position: usize,
    values: [(&'static str, f64); 6],
}

impl Attention {
    pub(crate) fn check(&self, got: &AttentionSignals, tolerance: f64, place: &str) {
        let got = [
            got.entropy,
            got.entropy_rel,
            got.varentropy,
            got.head_spread,
            got.head_disagreement,
            got.interaction,
        ];
        for ((name, want), got) in self.values.iter().zip(got) {
            let off = (f64::from(got) - want).abs() / (1.0 + want.abs());
            assert!(off <= tolerance, "{name} at {place} {}: {got}, not {want}", self.position);
        }
    }
}

impl Golden {
    pub(crate) fn is_tiny(&self) -> bool {
        self.checkpoint.config.n_layers <= 3
    }
}

/// All goldens whose checkpoint is at hand.
pub(crate) fn goldens() -> Vec<Golden> {
    let folder = root().join("tests/data/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    paths.sort();
    assert!(paths.len() > 20, "only {} goldens in {}", paths.len(), folder.display());
    paths.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<Golden> {
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let checkpoint = checkpoint(json["checkpoint"].as_str().unwrap())?;
    let n = json["vocabulary"].as_u64().unwrap() as usize;
    assert_eq!(checkpoint.config.vocab_size, n, "vocabulary of {}", path.display());
    let rows = std::fs::read(path.with_extension("f32")).unwrap_or_default();
    let rows = rows.chunks_exact(4 * n).map(|row| {
        row.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<f32>>()
    });
    let places = json["logits"].as_array().unwrap().iter();
    let places =
        places.map(|l| (l["text"].as_str().unwrap().to_owned(), l["position"].as_u64().unwrap() as usize));
    Some(Golden {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        texts: json["texts"].as_array().unwrap().iter().map(text).collect(),
        logits: rows.zip(places).collect(),
        checkpoint,
    })
}

fn text(json: &Value) -> Text {
    let array = |key: &str| json[key].as_array().unwrap_or_else(|| panic!("no {key}"));
    let floats = |key: &str| array(key).iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let ids =
        |v: &Value| v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as TokenId).collect::<Vec<_>>();
    let attention = json["attention"].as_array().into_iter().flatten().map(|a| Attention {
        position: a["position"].as_u64().unwrap() as usize,
        values: [
            "attn_entropy",
            "attn_entropy_rel",
            "attn_varentropy",
            "head_spread",
            "head_disagreement",
            "interaction",
        ]
        .map(|name| (name, a[name].as_f64().unwrap())),
    });
    Text {
        name: json["name"].as_str().unwrap().to_owned(),
        ids: ids(&json["ids"]),
        positions: array("positions").iter().map(|v| v.as_u64().unwrap() as usize).collect(),
        entropy: floats("entropy"),
        varentropy: floats("varentropy"),
        collision: floats("collision"),
        log_z: floats("log_z"),
        logit_std: floats("logit_std"),
        next_logp: array("next_logp").iter().map(Value::as_f64).collect(),
        top_ids: array("top_ids").iter().map(ids).collect(),
        attention: attention.collect(),
    }
}
