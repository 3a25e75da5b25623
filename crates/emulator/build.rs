//! Compiles the runtime and every kernel with the C++ compiler, twice: plain, and checked (the compiler reports
//! every access to the runtime). Each becomes one shared library; with the fake driver besides, another one that passes for
//! libcuda, and on that one that passes for libcublasLt.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// (name, compiler flags of the runtime, more flags of kernels)
const VARIANTS: [(&str, &[&str], &[&str]); 2] = [
    ("plain", &[], &[]),
    (
        "checked",
        &["-DEMULATOR_CHECKED"],
        &[
            "-fsanitize=thread",
            "--param=tsan-instrument-func-entry-exit=0",
            "-fsanitize=bounds",
            "-fsanitize=alignment",
            "-fsanitize-undefined-trap-on-error",
        ],
    ),
];
const COMMON: [&str; 6] =
    ["-c", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-U_FORTIFY_SOURCE"];
/// Lambdas may be empty in some instantiations, and pragmas are the other compiler's.
const KERNEL_FLAGS: [&str; 7] = [
    "-std=c++17",
    "-O2",
    "-xc++",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused",
    "-Wno-int-in-bool-context",
];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let (runtime, driver, kernels) = (here.join("runtime"), here.join("driver"), here.join("../../kernels"));
    let blas = here.join("cublaslt");
    for folder in [&runtime, &driver, &blas, &kernels] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    let compiler = env::var("CXX").unwrap_or_else(|_| "g++".into());
    let vector: &[&str] =
        if env::var("CARGO_CFG_TARGET_ARCH").unwrap() == "x86_64" { &["-march=x86-64-v3"] } else { &[] };

    let build_script = here.join("build.rs");
    let runtime_headers: Vec<PathBuf> = files(&runtime, "h").into_iter().chain([build_script]).collect();
    let kernel_headers: Vec<PathBuf> =
        runtime_headers.iter().cloned().chain(files(&kernels, "cuh")).collect();
    let mut jobs: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let mut links = Vec::new();
    for (name, runtime_flags, kernel_flags) in VARIANTS {
        let folder = out.join(name);
        fs::create_dir_all(&folder).unwrap();
        let flags = |more: &[&str]| -> Vec<String> {
            COMMON
                .iter()
                .chain(vector)
                .chain(more)
                .map(|f| f.to_string())
                .chain([format!("-I{}", runtime.display())])
                .collect()
        };
        let mut objects = Vec::new();
        let mut compile = |source: PathBuf, headers: &[PathBuf], flags: Vec<String>| {
            let object = folder.join(source.file_name().unwrap()).with_extension("o");
            let mut arguments = flags;
            arguments.extend([source.display().to_string(), "-o".into(), object.display().to_string()]);
            objects.push(object.clone());
            if headers.iter().chain([&source]).any(|input| is_newer(input, &object)) {
                jobs.push((object, arguments));
            }
        };
        for source in files(&runtime, "cpp") {
            compile(
                source,
                &runtime_headers,
                flags(&[&["-std=c++20", "-O3", "-Wall", "-Wextra", "-Wno-restrict"], runtime_flags].concat()),
            );
        }
        let runtime_objects = objects_of(&files(&runtime, "cpp"), &folder);
        let kernel_line = flags(&[&KERNEL_FLAGS, kernel_flags].concat());
        for source in files(&kernels, "cu") {
            let mut line = kernel_line.clone();
            line.push(format!("-I{}", kernels.display()));
            compile(source, &kernel_headers, line);
        }
        let driver_headers: Vec<PathBuf> =
            runtime_headers.iter().cloned().chain(files(&driver, "h")).collect();
        let driver_sources = files(&driver, "cpp");
        let n_driver = driver_sources.len();
        for source in driver_sources {
            compile(source, &driver_headers, flags(&["-std=c++20", "-O2", "-Wall", "-Wextra"]));
        }
        compile(blas.join("cublaslt.cpp"), &[], flags(&["-std=c++20", "-O3", "-Wall", "-Wextra"]));
        let blas_object = objects.split_off(objects.len() - 1);
        let kernel_objects = objects[..objects.len() - n_driver].to_vec();
        links.push((folder.join("libkernels.so"), kernel_objects, None));
        let libcuda = folder.join("libcuda.so");
        links.push((libcuda.clone(), objects, Some("libcuda.so")));
        let blas_name = "libcublasLt.so.13";
        links.push((folder.join(blas_name), [blas_object, vec![libcuda]].concat(), Some(blas_name)));
        let upper = name.to_uppercase();
        println!("cargo:rustc-env=EMULATOR_{upper}={}", folder.join("libkernels.so").display());
        println!("cargo:rustc-env=EMULATOR_{upper}_FLAGS={}", kernel_line.join("\u{1f}"));
        println!("cargo:rustc-env=EMULATOR_{upper}_RUNTIME={}", runtime_objects.join("\u{1f}"));
    }
    println!("cargo:rustc-env=EMULATOR_COMPILER={compiler}");
    println!("cargo:rustc-env=EMULATOR_KERNELS={}", kernels.display());

    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let queue = Mutex::new(jobs);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some((object, arguments)) = queue.lock().unwrap().pop() else { return };
                    run(&compiler, &arguments, &object);
                }
            });
        }
    });
    for (library, objects, name) in links {
        let mut arguments: Vec<String> =
            ["-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs"].iter().map(|f| f.to_string()).collect();
        arguments.extend(name.map(|name| format!("-Wl,-soname,{name}")));
        arguments.extend(objects.iter().map(|o| o.display().to_string()));
        arguments.extend(["-o".into(), library.display().to_string()]);
        run(&compiler, &arguments, &library);
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

/// Whether `input` changed since `product` was made, or there is no product.
fn is_newer(input: &Path, product: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    match (time(input), time(product)) {
        (Ok(input), Ok(product)) => input >= product,
        _ => true,
    }
}

fn objects_of(sources: &[PathBuf], folder: &Path) -> Vec<String> {
    sources
        .iter()
        .map(|s| folder.join(s.file_name().unwrap()).with_extension("o").display().to_string())
        .collect()
}

fn run(compiler: &str, arguments: &[String], product: &Path) {
    let output = Command::new(compiler).args(arguments).output().unwrap_or_else(|e| {
        panic!("cannot run {compiler} ({e}): the kernel tests need a C++17 compiler; install g++ or set CXX")
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler} could not make {}:\n{text}", product.display());
    for line in text.lines().filter(|line| line.contains("warning:")) {
        println!("cargo:warning={line}");
    }
}
