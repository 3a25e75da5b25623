//! `scripts/gpu check` on a machine whose program is a stand-in: what it hands to the parts, and what it writes of them.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Says what `doctor` says of a driver of CUDA 12.8, answers, and measures; with `--fast` it fails as it is told to. Every call
/// is written down with the NVRTC that is named.
const PROGRAM: &str = r#"#!/usr/bin/env bash
echo "${ENTROPIX_NVRTC:-none} $*" >>"$CALLS"
case "$*" in
    doctor)
        echo 'kernels  avx2'
        echo "cuda     $DEVICE"
        [[ -z ${ENTROPIX_NVRTC:-} ]] || echo '         kernels compiled by NVRTC 12.8 when a model is opened'
        ;;
    *--fast*) echo "$FAST" >&2; exit 69 ;;
    batch*)
        while [[ $1 != -o ]]; do shift; done
        echo '{"id":"1","tokens":[1,2,3]}' >"$2"
        ;;
    *) echo '[]' ;;
esac
"#;

/// Runs it on a shape, where a Python environment has NVRTC of CUDA 12 and 13; what it said, its report, and the calls.
fn check(device: &str, fast: &str) -> (Output, String, Vec<String>) {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), text).unwrap();
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gpu");
    write("scripts/gpu", &std::fs::read_to_string(script).unwrap());
    write("bin/entropix", PROGRAM);
    write("bin/backend-tests", "#!/usr/bin/env bash\necho \"${ENTROPIX_NVRTC:-none} tests\" >>\"$CALLS\"\n");
    write("examples/prompts.jsonl", "");
    write("commit", "0000000\n");
    for major in [12, 13] {
        write(&format!("python/nvidia/cuda_nvrtc/lib/libnvrtc.so.{major}"), "");
    }
    let mut command = Command::new(at("scripts/gpu"));
    command.args(["check", "--shapes", "tiny"]).envs([("DEVICE", device), ("FAST", fast)]);
    command.env("CALLS", at("calls")).env("PYTHONPATH", at("python"));
    let output = command.env_remove("ENTROPIX_NVRTC").env_remove("ENTROPIX_CUBLASLT").output().unwrap();
    let report = std::fs::read_to_string(at("results/report.md")).unwrap();
    let calls = std::fs::read_to_string(at("calls")).unwrap();
    (output, report, calls.lines().map(str::to_owned).collect())
}

const NO_CUBLASLT: &str = "there is none";

/// Kernels of a newer CUDA than the driver's are no reason to check nothing where NVRTC is at hand.
#[test]
fn an_older_driver_is_checked_with_kernels_of_nvrtc() {
    for device in [
        "cuda:0 (H200), capability 9.0, 139 GiB, driver of CUDA 12.8",
        "the CUDA driver is of CUDA 12.8, the kernels of this build need 13.0",
    ] {
        let (output, report, calls) = check(device, NO_CUBLASLT);
        assert!(output.status.success(), "{device}: {report}");
        for part in ["doctor", "backend", "answers-llama-sure", "nvrtc", "kernels-tiny", "steps-tiny"] {
            assert!(report.contains(&format!("| {part} | passed |")), "{part}: {report}");
        }
        assert!(report.contains("| fast | not measured"), "{report}");
        // Before the library is known there are only questions.
        let working: Vec<&String> = calls.iter().filter(|call| !call.ends_with(" doctor")).collect();
        assert!(working.len() > 10, "{calls:?}");
        for call in working {
            assert!(call.contains("/libnvrtc.so.12 "), "{device}: {call}");
        }
        assert!(calls.iter().any(|call| call.contains("bench kernels") && call.contains("--device cuda")));
    }
    // Of a driver of which nothing is known the newest is tried.
    let (_, report, _) = check("the CUDA driver sees no device", NO_CUBLASLT);
    assert!(report.contains("/libnvrtc.so.13 |"), "{report}");
    // Where kernels of this build run, they are what is checked.
    let usable =
        "cuda:0 (H200), capability 9.0, 139 GiB, driver of CUDA 13.0\n         kernels of this build";
    let (_, report, calls) = check(usable, NO_CUBLASLT);
    assert!(!report.contains("| kernels | compiled"), "{report}");
    assert!(calls.iter().any(|call| call == "none tests"), "{calls:?}");
}

/// A part that failed is never told as passed.
#[test]
fn a_cublaslt_that_fails_is_a_failure() {
    let (output, report, _) = check("cuda:0 (H200), driver of CUDA 13.0", "CUBLAS_STATUS_INTERNAL_ERROR");
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("| fast | FAILED, see cublaslt.log |"), "{report}");
    assert!(!report.contains("| fast | passed |"), "{report}");
}
