//! Every weight format against what the Python `gguf` package reads from the same bytes
//! (`scripts/record_dequant.py`), bit for bit. Catches a wrong nibble, scale, order or rounding.
#![forbid(unsafe_code)]

use entropix_model::DType;
use entropix_model::quant::dequantise;
use serde_json::Value;
use std::path::Path;

fn record() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/dequant.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
    (0..text.len() / 2).map(digits).collect()
}

#[test]
fn agrees_with_the_gguf_package_bit_for_bit() {
    let record = record();
    assert_eq!(record.as_object().unwrap().len(), DType::ALL.len());
    for dtype in DType::ALL {
        let entry = &record[dtype.name()];
        let bytes = unhex(entry["bytes"].as_str().unwrap());
        let want: Vec<f32> = entry["f32_bits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bits| f32::from_bits(u32::from_str_radix(bits.as_str().unwrap(), 16).unwrap()))
            .collect();
        let mut have = vec![0.0; want.len()];
        dequantise(dtype, &bytes, &mut have);
        for (i, (have, want)) in have.iter().zip(&want).enumerate() {
            let same = have.to_bits() == want.to_bits() || have.is_nan() && want.is_nan();
            assert!(same, "{dtype} value {i}: {have:e} wants {want:e}");
        }
        assert!(want.iter().filter(|x| x.is_finite() && **x != 0.0).count() > want.len() / 2, "{dtype}");
    }
}
