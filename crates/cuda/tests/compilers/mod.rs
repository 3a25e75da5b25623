//! NVIDIA's compilers, as scripts/get_nvcc installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library of NVRTC. Without one the tests of it fail, loudly: what no machine compiled is not proved.
pub(crate) fn nvrtc() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/get_nvcc");
    let output = Command::new(script).arg("--nvrtc").output().expect("scripts/get_nvcc can be run");
    assert!(
        output.status.success(),
        "no NVRTC: give scripts/get_nvcc --nvrtc a network.\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let nvcc = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    let home = nvcc.parent().and_then(Path::parent).expect("bin/nvcc in a folder");
    home.join("lib/libnvrtc.so.13")
}
