//! The numbers GGUF gives to weight formats (`enum ggml_type`).

use crate::quant::DType;

/// The format with a `ggml_type` id, or the name of what is not supported.
pub(super) fn dtype(id: u32) -> Result<DType, String> {
    Ok(match id {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        12 => DType::Q4_K,
        13 => DType::Q5_K,
        14 => DType::Q6_K,
        30 => DType::BF16,
        _ => {
            let name = match id {
                4 => "Q4_2 (removed from GGUF)",
                5 => "Q4_3 (removed from GGUF)",
                9 => "Q8_1",
                10 => "Q2_K",
                11 => "Q3_K",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24..=27 => "an integer type",
                28 => "F64",
                29 => "IQ1_M",
                31..=33 | 36..=38 => "a repacked type (removed from GGUF)",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => "an unknown type",
            };
            return Err(format!("type {id}, {name}"));
        }
    })
}
