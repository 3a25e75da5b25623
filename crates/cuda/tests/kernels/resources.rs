//! Every kernel through the real compiler, for every architecture we ship: no spills, registers and shared memory within the
//! table, 128-bit loads and tensor-core instructions where they must be. Needs nvcc, not a GPU.

use entropix_cuda::abi::{Kernel, Kind, kernels};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];
/// sm_90 keeps 1 KB of every block's shared memory for itself.
const RESERVED_SHARED: u32 = 1024;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// nvcc of $NVCC, of target/nvcc, or as scripts/get_nvcc installs it. Without one this test fails, loudly: kernels that no
/// CUDA compiler saw are not proved.
fn nvcc() -> PathBuf {
    if let Some(path) = std::env::var_os("NVCC") {
        return path.into();
    }
    let output = Command::new(root().join("scripts/get_nvcc")).output().expect("scripts/get_nvcc can be run");
    assert!(
        output.status.success(),
        "no nvcc: the kernels could not be compiled for a GPU. Give scripts/get_nvcc a network, or name an nvcc of CUDA 13.0 \
         in $NVCC.\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("a path").trim().into()
}

/// What ptxas says of one kernel.
#[derive(Debug, Default)]
struct Usage {
    registers: u32,
    shared: u32,
}

/// Compiles a file as the build does; gives each entry's usage.
fn compile(
    nvcc: &Path,
    file: &str,
    architecture: &str,
    out: &Path,
) -> Result<BTreeMap<String, Usage>, String> {
    let number = architecture.trim_start_matches("sm_");
    let output = Command::new(nvcc)
        .arg(format!("-I{}", root().join("kernels").display()))
        .args([
            "-std=c++17",
            "-O3",
            "-cubin",
            "-Xptxas",
            "-v,-warn-spills,-Werror",
            "-Werror",
            "all-warnings",
        ])
        .args(["-gencode", &format!("arch=compute_{number},code={architecture}")])
        .arg(root().join("kernels").join(file))
        .arg("-o")
        .arg(out)
        .output()
        .map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{file} for {architecture}:\n{text}"));
    }
    let mut all = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("Used ") {
            let before = |what: &str| -> u32 {
                let words: Vec<&str> =
                    line.split(what).next().unwrap_or_default().split_whitespace().collect();
                if line.contains(what) { words.last().and_then(|w| w.parse().ok()).unwrap_or(0) } else { 0 }
            };
            all.insert(
                name.clone(),
                Usage { registers: before(" registers"), shared: before(" bytes smem") },
            );
        }
    }
    Ok(all)
}

fn by_file() -> BTreeMap<String, Vec<Kernel>> {
    let mut files: BTreeMap<String, Vec<Kernel>> = BTreeMap::new();
    for kernel in kernels() {
        files.entry(kernel.file.clone()).or_default().push(kernel);
    }
    files
}

/// The machine code of one cubin, by kernel.
fn sass(nvcc: &Path, cubin: &Path) -> BTreeMap<String, String> {
    let output = Command::new(nvcc.with_file_name("nvdisasm"))
        .arg("-c")
        .arg(cubin)
        .output()
        .expect("nvdisasm is beside nvcc");
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut all = BTreeMap::new();
    for section in text.split(".section\t.text.").skip(1) {
        let name = section.split([',', '\n']).next().unwrap_or_default().trim().to_owned();
        all.insert(name, section.to_owned());
    }
    all
}

fn at_least(code: &BTreeMap<String, String>, kernel: &str, instruction: &str, n: usize) {
    let text = code.get(kernel).unwrap_or_else(|| panic!("no code of {kernel}; there is {:?}", code.keys()));
    let found = text.matches(instruction).count();
    assert!(found >= n, "{kernel}: {found} {instruction}, at least {n} wanted");
}

#[test]
fn every_file_compiles_without_spills_within_the_table() {
    let nvcc = nvcc();
    let folder = tempfile::tempdir().unwrap();
    let jobs: Vec<(String, Vec<Kernel>, &str)> = by_file()
        .into_iter()
        .flat_map(|(file, list)| ARCHITECTURES.map(|a| (file.clone(), list.clone(), a)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((file, list, architecture)) =
                    jobs.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let cubin = folder.path().join(format!("{file}.{architecture}.cubin"));
                    let usage = compile(&nvcc, file, architecture, &cubin).unwrap_or_else(|e| panic!("{e}"));
                    assert_eq!(usage.len(), list.len(), "{file}: kernels {:?}", usage.keys());
                    for kernel in list {
                        let used = &usage[&kernel.name];
                        let reserved = if *architecture == "sm_90a" { RESERVED_SHARED } else { 0 };
                        assert!(
                            used.registers <= kernel.most_registers
                                && used.shared <= kernel.most_shared + reserved,
                            "{} on {architecture}: {used:?}, the table allows {} registers and {} bytes",
                            kernel.name,
                            kernel.most_registers,
                            kernel.most_shared
                        );
                    }
                    check_code(&nvcc, file, &cubin);
                }
            });
        }
    });
}

/// What the speed of a file rests on.
fn check_code(nvcc: &Path, file: &str, cubin: &Path) {
    let code = sass(nvcc, cubin);
    for (name, text) in &code {
        assert!(!text.contains("LDL") && !text.contains("STL"), "{name} uses local memory");
    }
    if let Some(format) = file.strip_prefix("matmul_").and_then(|f| f.strip_suffix(".cu")) {
        at_least(&code, &format!("matmul_{format}_n8"), "LDG.E.NA.128.CONSTANT", 1);
        at_least(&code, &format!("matmul_{format}_n8"), "HMMA.16816.F32.BF16", 4);
        at_least(&code, &format!("matmul_{format}_wide"), "HMMA.16816.F32.BF16", 64);
        at_least(&code, &format!("matmul_{format}_wide"), "LDGSTS.E", 2);
    }
    if let Some(kind) =
        file.strip_prefix("attend_").and_then(|f| f.strip_suffix(".cu")).filter(|f| *f != "merge")
    {
        let (decode, prefill) = (format!("attend_decode_{kind}"), format!("attend_prefill_{kind}"));
        // Halves are what is multiplied when nothing else is said.
        let product = if kind.starts_with("f16") { "HMMA.16816.F32 " } else { "HMMA.16816.F32.BF16" };
        at_least(&code, &decode, product, 8);
        at_least(&code, &prefill, product, 8);
        at_least(&code, &decode, "LDG.E.64", if kind == "int8_16" { 0 } else { 8 });
    }
    if let Some(format) = file.strip_prefix("head_").and_then(|f| f.strip_suffix(".cu")) {
        for width in ["n8", "n32", "n64"] {
            let kernel = format!("head_{format}_{width}");
            // Weights straight to registers, activations by copies; whole lines of logits, and two rows of 16 bytes a part.
            at_least(&code, &kernel, "LDG.E.NA.128.CONSTANT", 4);
            at_least(&code, &kernel, "LDGSTS.E", 3);
            at_least(&code, &kernel, "STG.E.128", 6);
            at_least(&code, &kernel, "LDS.128", 4);
        }
        at_least(&code, &format!("head_{format}_n8"), "HMMA.16816.F32.BF16", 16);
        at_least(&code, &format!("head_{format}_n64"), "HMMA.16816.F32.BF16", 128);
    }
    if file == "signals.cu" {
        at_least(&code, "signals_merge", "LDG.E.128", 4);
    }
}

/// As a stranger compiles: without an architecture, for which this nvcc takes one that lacks what the kernels need. The part of
/// the device of every file; whole, three that have every such instruction between them.
#[test]
fn every_file_compiles_alone_when_nvcc_is_told_no_architecture() {
    let nvcc = nvcc();
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<String> = by_file().into_keys().collect();
    let whole = ["embed.cu", "matmul_f16.cu", "attend_f16_16.cu"];
    assert!(whole.iter().all(|file| files.iter().any(|f| f == file)), "{files:?}");
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let is_whole = whole.contains(&file.as_str());
                    let output = Command::new(&nvcc)
                        .current_dir(root())
                        .args(["-Ikernels", "-std=c++17", "-O3", if is_whole { "-c" } else { "-ptx" }, "-o"])
                        .arg(folder.path().join(file))
                        .arg(format!("kernels/{file}"))
                        .output()
                        .unwrap();
                    let told = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{file}: {told}");
                    let is_told = told.contains("give nvcc -gencode arch=compute_80,code=sm_80");
                    assert!(is_told || !is_whole, "{file}: {told}");
                }
            });
        }
    });
}

/// The parameters in PTX, which a launch must match, against the table.
#[test]
fn parameters_are_those_of_the_ptx() {
    let nvcc = nvcc();
    let folder = tempfile::tempdir().unwrap();
    // One file of each kind; the others are made by the same macros.
    for file in [
        "matmul_bf16.cu",
        "head_bf16.cu",
        "attend_int8_64.cu",
        "attend_merge.cu",
        "embed.cu",
        "unpack.cu",
        "swiglu.cu",
        "rms_norm.cu",
        "rope_store.cu",
        "attention_signals.cu",
        "signals.cu",
        "candidates.cu",
        "draw.cu",
        "copy_blocks.cu",
    ] {
        let ptx = folder.path().join(file).with_extension("ptx");
        let output = Command::new(&nvcc)
            .arg(format!("-I{}", root().join("kernels").display()))
            .args(["-std=c++17", "-O3", "-ptx", "-gencode", "arch=compute_80,code=compute_80"])
            .arg(root().join("kernels").join(file))
            .arg("-o")
            .arg(&ptx)
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&ptx).unwrap();
        for kernel in &by_file()[file] {
            let (_, rest) = text
                .split_once(&format!(".entry {}(", kernel.name))
                .unwrap_or_else(|| panic!("{file} has no {}", kernel.name));
            let list = rest.split(')').next().unwrap();
            let found: Vec<Kind> = list
                .split(',')
                .map(|p| match p.split_whitespace().nth(1).unwrap_or_default() {
                    ".u64" | ".b64" => Kind::Pointer,
                    ".f32" => Kind::F32,
                    ".u32" | ".b32" => Kind::U32,
                    other => panic!("{}: parameter of type {other}", kernel.name),
                })
                .collect();
            assert_eq!(found, kernel.parameters, "{}", kernel.name);
        }
    }
}
