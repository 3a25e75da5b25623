//! Calibrations that come with the program, by the hash of the model.

use entropix_engine::{Calibration, PolicyFile};
use entropix_model::{Class, Error, Result};
use std::path::Path;

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

/// The one of this name, if there is one.
pub fn named(name: &str) -> Option<Calibration> {
    let (name, text) = FILES.into_iter().find(|(known, _)| *known == name)?;
    Some(Calibration::parse(name, text.as_bytes()).expect("a test reads every one of them"))
}

/// `policy` with its quantiles taken from the calibration of the model `name` whose files have the hash `sha256`:
/// `given`, else one that comes with the program. Without either it stays as it is.
///
/// # Errors
/// `Config` when the given one is of another model, or lacks a quantile.
pub fn resolve(
    policy: &PolicyFile,
    given: Option<(&Path, &Calibration)>,
    name: &str,
    sha256: &str,
) -> Result<PolicyFile> {
    if let Some((path, calibration)) = given {
        check(path, calibration, name, sha256)?;
        return policy.calibrated(calibration);
    }
    match of(sha256) {
        Some(calibration) if !policy.unresolved().is_empty() => policy.calibrated(&calibration),
        _ => Ok(policy.clone()),
    }
}

/// Whether the calibration at `path` is of the model `name` whose files have the hash `sha256`.
///
/// # Errors
/// `Config` when it is of another one.
pub fn check(path: &Path, calibration: &Calibration, name: &str, sha256: &str) -> Result<()> {
    if sha256 == calibration.sha256 {
        return Ok(());
    }
    let message = format!(
        "{}: the calibration is of {} (sha256 {}), this is {name} (sha256 {sha256}); make one with `entropix calibrate`",
        path.display(),
        calibration.model,
        calibration.sha256
    );
    Err(Error::new(Class::Config, "WrongModel", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_finds_its_quantiles() {
        for (name, text) in FILES {
            let calibration = Calibration::parse(name, text.as_bytes()).unwrap();
            assert!(calibration.requests >= 200, "{name}: {} requests", calibration.requests);
            assert_eq!(of(&calibration.sha256), Some(calibration.clone()));
            assert_eq!(named(name), Some(calibration.clone()));
            for preset in PolicyFile::presets() {
                let policy = PolicyFile::load(preset.name, &[]).unwrap().calibrated(&calibration).unwrap();
                assert!(policy.unresolved().is_empty(), "{}", preset.name);
            }
        }
        assert_eq!(of(&"0".repeat(64)), None);
    }
}
