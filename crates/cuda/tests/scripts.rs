//! `scripts/gpu check` on a machine whose program is a stand-in: what it hands to the parts, and what it writes of them; the table
//! of gates; and what the build script says.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name)
}

/// Runs it on a shape, where a Python environment has NVRTC of CUDA 12 and 13; what it said, its report, and the calls.
fn check(device: &str, fast: &str) -> (Output, String, Vec<String>) {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), text).unwrap();
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    for name in ["gpu", "gates.py"] {
        write(&format!("scripts/{name}"), &std::fs::read_to_string(script(name)).unwrap());
    }
    write("bin/entropix", PROGRAM);
    for tests in ["kernels", "backend"] {
        let program =
            format!("#!/usr/bin/env bash\necho \"${{ENTROPIX_NVRTC:-none}} tests {tests}\" >>\"$CALLS\"\n");
        write(&format!("bin/{tests}-tests"), &program);
    }
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
        let parts = [
            "doctor",
            "answers-llama-sure",
            "nvrtc",
            "tests-kernels",
            "tests-backend",
            "kernels-tiny",
            "gates",
            "steps-tiny",
        ];
        for part in parts {
            assert!(report.contains(&format!("| {part} | passed |")), "{part}: {report}");
        }
        assert!(report.contains("| fast | not measured"), "{report}");
        // What was checked stands before what came of it, and no gate is met by what nobody measured.
        let (head, rest) = report.split_once("| part |").unwrap();
        assert!(head.contains(&format!("\n{device}\n")), "{report}");
        assert!(rest.contains("| E1 |") && !rest.contains("| met |"), "{report}");
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
    for tests in ["none tests kernels", "none tests backend"] {
        assert!(calls.iter().any(|call| call == tests), "{calls:?}");
    }
}

/// What has gone wrong stands in the line of its part, and the rest is checked all the same.
#[test]
fn a_failure_says_why_in_its_line() {
    let device = "cuda:0 (H200), driver of CUDA 13.0";
    for (fast, why) in [
        ("warning: x\nerror: CUBLAS_STATUS_INTERNAL_ERROR\nmore", "error: CUBLAS_STATUS_INTERNAL_ERROR"),
        ("it | ends\nso\n\n", "so"),
        ("thread 'a' panicked at a.rs:1:2:\nwhat was left\nnote: run\nerror: y", "what was left"),
        ("a | b", "a / b"),
    ] {
        let (output, report, _) = check(device, fast);
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert!(report.contains(&format!("| fast | FAILED, see cublaslt.log: {why} |")), "{report}");
        assert!(report.contains("| steps-tiny | passed |"), "{report}");
    }
}

/// What is no folder and no flag is refused before anything is written.
#[test]
fn wrong_words_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let script = place.path().join("scripts/gpu");
        let output = Command::new(script).args(words).current_dir(place.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::create_dir(place.path().join("scripts")).unwrap();
    std::fs::copy(script("gpu"), place.path().join("scripts/gpu")).unwrap();
    for words in [
        &["pack", "--out", "x"][..],
        &["pack", "--out"],
        &["pack", "a", "b"],
        &["rehearse", "--bogus"],
        &["check", "--out"],
        &["check", "--minutes"],
        &["check", "--minutes", "x"],
        &["check", "--bogus"],
        &["check", "x"],
        &["what"],
        &[],
    ] {
        let (code, said) = run(words);
        assert_eq!(code, Some(64), "{words:?}: {said}");
        assert!(
            words.is_empty() || said.contains(words[words.len() - 1]) || said.contains("usage"),
            "{said}"
        );
    }
    let (code, said) = run(&["check"]);
    assert!(code == Some(66) && said.contains("no bin/entropix"), "{said}");
    let left = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(left, 1, "nothing but the script");
}

/// Decode steps of one model at 512 positions as `bench kernels` writes them, in microseconds a step of which the head takes a
/// hundredth; and what PyTorch took: `times` as long for samplers, so much longer for the bare head.
fn measured(
    model: &str,
    rows: &[u64],
    times: f64,
) -> (serde_json::Value, Vec<serde_json::Value>, Vec<serde_json::Value>) {
    let step = |&rows: &u64| {
        let ablation = |name: &str, regime: Option<&str>, us: f64, extra: Option<f64>| serde_json::json!({"name": name, "regime": regime, "us": [us, us, us], "extra_us": extra.map(|us| [us, us, us])});
        let mut ablations = vec![
            ablation("greedy", None, 1000.0, None),
            ablation("signals", None, 1007.0, Some(5.0)),
            ablation("attention", None, 1015.0, Some(10.0)),
        ];
        ablations.extend(
            ["flat", "typical", "peaked"].map(|regime| ablation("draw", Some(regime), 5.0, Some(5.0))),
        );
        serde_json::json!({
            "model": format!("random:{model}"), "rows": rows, "tokens": 1, "context": 512, "us": [1005.0, 1005.0, 1005.0],
            "kernels": [{"kernel": "head_bf16_n8", "us": [10.3, 10.0, 11.0]}], "ablations": ablations,
        })
    };
    let samplers = ["flat", "typical", "peaked"].iter().flat_map(|regime| {
        [("shared", times), ("as_written", 3.0 * times), ("flashinfer_chain", times / 5.0)].map(|(peer, us)| {
            serde_json::json!({"shape": model, "rows": 256, "regime": regime, "peer": peer, "how": "plain", "us": [10.0 * us], "why": null})
        })
    });
    let heads = rows.iter().map(|rows| serde_json::json!({"shape": model, "rows": rows, "us": [10.0]}));
    (rows.iter().map(step).collect(), samplers.collect(), heads.collect())
}

/// The verdict on each gate: met only where all of it was measured and nothing is beyond its bar.
#[test]
fn gates_are_met_by_measurements_alone() {
    let place = tempfile::tempdir().unwrap();
    let verdicts = |steps: &[serde_json::Value], torch: Option<serde_json::Value>| -> Vec<String> {
        let mut command = Command::new("python3");
        command.arg(script("gates.py")).arg("-o").arg(place.path());
        for (i, steps) in steps.iter().enumerate() {
            let path = place.path().join(format!("kernels-{i}.json"));
            std::fs::write(&path, steps.to_string()).unwrap();
            command.arg("--ours").arg(path);
        }
        if let Some(torch) = torch {
            std::fs::write(place.path().join("torch.json"), torch.to_string()).unwrap();
            command.arg("--torch").arg(place.path().join("torch.json"));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let table = std::fs::read_to_string(place.path().join("gates.json")).unwrap();
        let table: serde_json::Value = serde_json::from_str(&table).unwrap();
        let told = std::fs::read_to_string(place.path().join("gates.md")).unwrap();
        let gates = table["gates"].as_array().unwrap().iter();
        let verdicts: Vec<String> = gates.map(|gate| gate["verdict"].as_str().unwrap().to_owned()).collect();
        verdicts.iter().for_each(|verdict| assert!(told.contains(verdict.as_str()), "{verdict}: {told}"));
        verdicts
    };
    let rows = [1, 8, 32, 64, 128, 256];
    let shapes = ["smollm2-135m", "llama-3.2-1b", "llama-3.1-8b"];
    let all = |times: f64| {
        let parts: Vec<_> = shapes.iter().map(|shape| measured(shape, &rows, times)).collect();
        let steps: Vec<_> = parts.iter().map(|(steps, ..)| steps.clone()).collect();
        let samplers: Vec<_> = parts.iter().flat_map(|(_, samplers, _)| samplers.clone()).collect();
        let heads: Vec<_> = parts.iter().flat_map(|(.., heads)| heads.clone()).collect();
        (steps, serde_json::json!({"samplers": samplers, "heads": heads}))
    };
    let (steps, torch) = all(10.5);
    assert_eq!(verdicts(&steps, Some(torch.clone())), ["met"; 5]);
    // The fastest way to run the family's sampler is what counts.
    let (_, slower) = all(9.5);
    assert_eq!(verdicts(&steps, Some(slower)), ["met", "met", "not met", "not met", "met"]);
    // One number beyond its bar.
    let mut worse = steps.clone();
    for step in worse[1].as_array_mut().unwrap().iter_mut().filter(|step| step["rows"] == 64) {
        step["ablations"][5]["us"][0] = 15.1.into();
        step["ablations"][2]["extra_us"][0] = 20.1.into();
        step["kernels"][0]["us"][0] = 10.31.into();
    }
    let found = verdicts(&worse, Some(torch.clone()));
    assert_eq!(found, ["not met", "not met", "met", "met", "not met"]);
    // What is missing is never met.
    let found = verdicts(&steps, None);
    assert_eq!(found[..2], ["met", "met"]);
    assert!(found[2..].iter().all(|verdict| verdict.starts_with("not measured: ")), "{found:?}");
    assert!(verdicts(&steps[..1], Some(torch.clone())).iter().all(|v| v.starts_with("not measured: ")));
    let mut bare = steps.clone();
    bare[1].as_array_mut().unwrap().iter_mut().for_each(|step| step["ablations"] = serde_json::Value::Null);
    let found = verdicts(&bare, Some(torch.clone()));
    assert!(found[..4].iter().all(|verdict| verdict.starts_with("not measured: ")), "{found:?}");
    assert_eq!(found[4], "met");
    let mut unknown = torch;
    for sampler in unknown["samplers"].as_array_mut().unwrap() {
        if sampler["peer"] == "flashinfer_chain" {
            (sampler["us"], sampler["why"]) = (serde_json::Value::Null, "no module".into());
        }
    }
    let found = verdicts(&steps, Some(unknown));
    assert_eq!(found[2], "met");
    assert_eq!(found[3], "not measured: flashinfer_chain, flat: no module (and 2 more)");
}

/// What a step takes is held against its floor and against PyTorch's for the same, each by itself.
#[test]
fn cells_are_held_against_their_floor_and_their_peer() {
    let place = tempfile::tempdir().unwrap();
    let put = |name: &str, what: serde_json::Value| {
        let path = place.path().join(name);
        std::fs::write(&path, what.to_string()).unwrap();
        path
    };
    let step = |model: &str, rows: u64, tokens: u64, context: u64, us: f64| {
        serde_json::json!({"model": format!("random:{model}"), "rows": rows, "tokens": tokens, "context": context,
            "us": [us, us, us], "kernels": [], "ablations": null})
    };
    let peer = |shape: &str, rows: u64, us: f64| serde_json::json!({"shape": shape, "rows": rows, "context": 512, "greedy_us": [1.0], "signals_us": [us]});
    let ours = put(
        "ours.json",
        serde_json::json!([
            step("llama-3.2-1b", 1, 1, 512, 579.0 / 0.851),
            step("llama-3.2-1b", 8, 1, 512, 606.0 / 0.819),
            step("llama-3.2-1b", 64, 1, 512, 1000.0),
            step("llama-3.2-1b", 1, 2048, 0, 5400.0 / 0.57),
        ]),
    );
    let torch = put(
        "torch.json",
        serde_json::json!({"results": [
            peer("llama-3.2-1b", 1, 1.24 * 579.0 / 0.851),
            peer("llama-3.2-1b", 8, 1.31 * 606.0 / 0.819),
            peer("smollm2-135m", 1, 500.0),
        ]}),
    );
    let mut command = Command::new("python3");
    command.arg(script("gates.py")).arg("--ours").arg(ours).arg("--torch").arg(torch);
    let output = command.arg("-o").arg(place.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = std::fs::read_to_string(place.path().join("gates.md")).unwrap();
    for line in [
        "| llama-3.2-1b | 1 | 512 | 579 | 680.4 | 85.1% | 85% | met | 1.24 | 1.25 | not met |",
        "| llama-3.2-1b | 8 | 512 | 606 | 739.9 | 81.9% | 82% | not met | 1.31 | 1.30 | met |",
        "| llama-3.2-1b | 64 | 512 | 824 | 1000.0 | 82.4% | 78% | met | - | 1.40 | not measured |",
        "| llama-3.2-1b | prompt | 2048 | 5400 | 9473.7 | 57.0% | 56% | met | - | - |  |",
        "| smollm2-135m | 1 | 512 | 65 | - | - | 35% | not measured | - | 2.50 | not measured |",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
}

/// PyTorch is on no machine that runs tests, so nothing else tells when a name that bench_torch takes from another script is gone.
#[test]
fn scripts_have_what_bench_torch_takes_of_them() {
    let ask = r#"
import ast, sys
sys.path.insert(0, sys.argv[1])
parsed = lambda file: ast.parse(open(f"{sys.argv[1]}/{file}").read())
nodes = list(ast.walk(parsed("bench_torch")))
names = [(n.value.id, n.attr) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
known = {alias.asname or alias.name: alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
there = {"gates": dir(__import__("gates")), "torch_sampler": []}
for node in ast.walk(parsed("torch_sampler.py")):
    there["torch_sampler"] += [getattr(node, "name", None) or getattr(node, "id", None)]
taken = [(known[module], name) for module, name in names if known.get(module) in there]
print(len(taken), *sorted({module for module, _ in taken}))
missing = [f"{module}.{name}" for module, name in taken if name not in there[module]]
sys.exit(", ".join(missing) or 0)
"#;
    let folder = script("gpu");
    let output = Command::new("python3").args(["-c", ask]).arg(folder.parent().unwrap()).output().unwrap();
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "missing: {why}");
    assert!(said.trim().ends_with(" gates torch_sampler"), "{said}");
}

/// A part that failed is never told as passed.
#[test]
fn a_cublaslt_that_fails_is_a_failure() {
    let (output, report, _) = check("cuda:0 (H200), driver of CUDA 13.0", "CUBLAS_STATUS_INTERNAL_ERROR");
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("| fast | FAILED, see cublaslt.log: "), "{report}");
    assert!(!report.contains("| fast | passed |"), "{report}");
}

/// What the build script of this crate says in an environment that names a compiler, and whether it ended well.
fn build_script(nvcc: &Path) -> (bool, String) {
    let place = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = place.path().join("build");
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let made =
        command.args(["--edition", "2024", "-o"]).arg(&program).arg(here.join("build.rs")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let output = Command::new(&program)
        .env("CARGO_MANIFEST_DIR", here)
        .env("OUT_DIR", place.path())
        .env("NVCC", nvcc)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A compiler that is none ends the build with a line, not with a backtrace.
#[test]
fn a_compiler_that_does_not_run_is_told_in_a_line() {
    for nvcc in ["/nowhere/nvcc", "/bin/false"] {
        let (is_built, told) = build_script(Path::new(nvcc));
        assert!(!is_built && told.lines().count() == 1, "{told}");
        assert!(told.starts_with(&format!("$NVCC is {nvcc}, which does not say its version; ")), "{told}");
    }
    // One that runs and refuses is told with what it said.
    let place = tempfile::tempdir().unwrap();
    let refusing = place.path().join("nvcc");
    let text = "#!/usr/bin/env bash\n[[ $1 == --version ]] && echo release 13.0 || { echo no licence >&2; exit 1; }\n";
    std::fs::write(&refusing, text).unwrap();
    std::fs::set_permissions(&refusing, PermissionsExt::from_mode(0o755)).unwrap();
    let (is_built, told) = build_script(&refusing);
    assert!(!is_built && told.contains("could not compile ") && told.contains("\nno licence\n"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}
