//! Every kernel through NVRTC, from the sources that the crate holds, and what is said when it cannot be. Needs no GPU.

use crate::compilers::nvrtc;
use entropix_cuda::Nvrtc;
use entropix_cuda::abi::kernels;
use entropix_emulator::FakeDriver;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

fn open() -> Nvrtc {
    Nvrtc::open(&nvrtc()).unwrap()
}

/// Whether machine code has an entry point of that name.
fn has_kernel(cubin: &[u8], name: &str) -> bool {
    let section = format!("\0.text.{name}\0");
    cubin.windows(section.len()).any(|bytes| bytes == section.as_bytes())
}

#[test]
fn nvrtc_compiles_every_file() {
    let nvrtc = open();
    assert_eq!(nvrtc.version(), (13, 0));
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kernel in kernels() {
        files.entry(kernel.file).or_default().push(kernel.name);
    }
    let jobs: Vec<_> = files.iter().flat_map(|file| ARCHITECTURES.map(|a| (file, a))).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(((file, names), architecture)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let cubin = nvrtc.compile(file, architecture).unwrap_or_else(|e| panic!("{e}"));
                    assert!(cubin.starts_with(b"\x7fELF"), "{file} for {architecture}");
                    for name in *names {
                        assert!(has_kernel(&cubin, name), "{file} for {architecture} has no {name}");
                    }
                    assert!(!has_kernel(&cubin, &names[0][1..]), "any name would be found");
                }
            });
        }
    });
}

#[test]
fn a_file_that_does_not_compile_says_where_and_why() {
    let nvrtc = open();
    let source =
        "#include \"weights.cuh\"\n#include \"dev.cuh\"\nKERNEL void f() { nothing_of_the_kind(); }\n";
    let error = nvrtc.compile_source("broken.cu", source, "sm_90a").unwrap_err();
    assert_eq!(error.code, "KernelCompile");
    for words in [
        "NVRTC 13.0",
        "libnvrtc.so.13",
        "broken.cu for sm_90a",
        "NVRTC_ERROR_COMPILATION",
        "broken.cu(3)",
        "\"nothing_of_the_kind\"",
    ] {
        assert!(error.message.contains(words), "{words}: {error}");
    }
    // A place in a header is named as such.
    let source = "#include \"dev.cuh\"\n#define fmaf nothing_of_the_kind\n#include \"moments.cuh\"\n";
    let error = nvrtc.compile_source("broken.cu", source, "sm_90a").unwrap_err();
    assert!(error.message.contains("moments.cuh("), "{error}");
    // NVRTC says a line each; an error tells the first of them.
    let calls: String = (0..90).map(|i| format!("nothing_of_the_kind_{i:090}();\n")).collect();
    let source = format!("#include \"dev.cuh\"\nKERNEL void f() {{\n{calls}}}\n");
    let error = nvrtc.compile_source("broken.cu", &source, "sm_90a").unwrap_err();
    assert!(error.message.contains("broken.cu(3)") && error.message.contains("..."), "{error}");
    assert!((3000..5000).contains(&error.message.len()), "{} bytes", error.message.len());

    let error = nvrtc.compile("copy_blocks.cu", "sm_999").unwrap_err();
    assert!(error.message.contains("copy_blocks.cu for sm_999"), "{error}");
    assert!(error.message.contains("invalid value for --gpu-architecture"), "{error}");
}

/// A library that has these functions and no others.
fn library(folder: &Path, name: &str, code: &str) -> PathBuf {
    let (source, library) = (folder.join(name).with_extension("cpp"), folder.join(name));
    std::fs::write(&source, code).unwrap();
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "g++".into()));
    let status = compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(status.success(), "{name}");
    library
}

#[test]
fn a_library_that_is_no_nvrtc_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let version = |major: u32| {
        format!(
            "extern \"C\" int nvrtcVersion(int* major, int* minor) {{ *major = {major}, *minor = 8; return 0; }}"
        )
    };
    for (path, words) in [
        (place.path().join("libnvrtc.so.13"), "cannot open"),
        (FakeDriver::folder().join("libkernels.so"), "has no nvrtcVersion"),
        (library(place.path(), "old.so", &version(11)), "is NVRTC 11.8; 12.0 is needed"),
        (library(place.path(), "lame.so", &version(13)), "has no nvrtcCreateProgram"),
    ] {
        let error = Nvrtc::open(&path).unwrap_err();
        assert_eq!(error.code, "NoNvrtc");
        let place = path.display().to_string();
        assert!(error.message.contains(&place) && error.message.contains(words), "{error}");
    }
}
