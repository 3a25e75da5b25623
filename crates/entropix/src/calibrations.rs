//! Calibrations that come with the program, by the hash of the model.

use entropix_engine::Calibration;

/// Made by `scripts/make_calibrations`.
const FILES: [(&str, &str); 2] = [
    ("smollm2-135m", include_str!("../calibrations/smollm2-135m.toml")),
    ("qwen2.5-coder-0.5b", include_str!("../calibrations/qwen2.5-coder-0.5b.toml")),
];

/// The calibration of the model whose files have this hash ([`crate::Session::fingerprint`]), if it is known.
pub fn of(sha256: &str) -> Option<Calibration> {
    let read = |(name, text): (&str, &str)| {
        Calibration::parse(name, text.as_bytes()).expect("a test reads every one of them")
    };
    FILES.into_iter().map(read).find(|calibration| calibration.sha256 == sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use entropix_engine::PolicyFile;

    #[test]
    fn every_preset_finds_its_quantiles() {
        for (name, text) in FILES {
            let calibration = Calibration::parse(name, text.as_bytes()).unwrap();
            assert!(calibration.requests >= 200, "{name}: {} requests", calibration.requests);
            assert_eq!(of(&calibration.sha256), Some(calibration.clone()));
            for preset in PolicyFile::presets() {
                let policy = PolicyFile::load(preset.name, &[]).unwrap().calibrated(&calibration).unwrap();
                assert!(policy.unresolved().is_empty(), "{}", preset.name);
            }
        }
        assert_eq!(of(&"0".repeat(64)), None);
    }
}
