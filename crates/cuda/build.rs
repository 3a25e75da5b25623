//! Compiles every kernel with nvcc, if there is one: machine code for compute capability 8.0 (which 8.6 and 8.9 run too) and
//! 9.0, and PTX from which the driver makes code for newer devices. The crate holds the sources too, each file once, for NVRTC to
//! compile where nothing of that runs; without nvcc it holds nothing else.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_80,code=compute_80"];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let kernels = here.join("kernels");
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-changed=build.rs");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let mut entries = fs::read_dir(&kernels).unwrap_or_else(|e| panic!("{}: {e}", kernels.display()));
    let mut sources: Vec<PathBuf> = entries.by_ref().map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    sources.sort();
    let (files, headers): (Vec<PathBuf>, Vec<PathBuf>) =
        sources.into_iter().partition(|path| path.extension().is_some_and(|e| e == "cu"));
    let texts = texts("SOURCES", &files) + &texts("HEADERS", &headers);
    let Some((nvcc, major)) = find_nvcc() else {
        println!(
            "cargo:warning=no nvcc of CUDA 12 or 13: the CUDA kernels will be compiled at run time by NVRTC, where there is one; \
             without it --device cuda will refuse. NVCC=$(scripts/get_nvcc) gives an nvcc"
        );
        write_if_new(&out.join("images.rs"), &(list(&[], None) + &texts));
        return;
    };
    let image = |source: &Path| out.join(source.file_name().unwrap()).with_extension("fatbin");
    // Other compilers make other images.
    let stamp = out.join("nvcc");
    write_if_new(&stamp, &nvcc.display().to_string());
    let jobs: Vec<&PathBuf> = files
        .iter()
        .filter(|source| headers.iter().chain([*source, &stamp]).any(|input| is_newer(input, &image(source))))
        .collect();
    let queue = Mutex::new(jobs);
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(source) = queue.lock().unwrap().pop() else { return };
                    compile(&nvcc, &kernels, source, &image(source));
                }
            });
        }
    });
    let images: Vec<(String, PathBuf)> =
        files.iter().map(|source| (name_of(source).to_owned(), image(source))).collect();
    write_if_new(&out.join("images.rs"), &(list(&images, Some(major)) + &texts));
}

/// nvcc of $NVCC, $CUDA_HOME, $CUDA_PATH, the PATH or its usual place, and its major version.
fn find_nvcc() -> Option<(PathBuf, u32)> {
    if let Some(named) = env::var_os("NVCC").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(named);
        let major = version(&path).unwrap_or_else(|| {
            fail(&format!(
                "$NVCC is {}, which does not say its version; unset it or name an nvcc of CUDA 12 or 13",
                path.display()
            ))
        });
        return Some((path, major));
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let folders =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    homes
        .map(|home| home.join("bin"))
        .chain(folders)
        .chain(["/usr/local/cuda/bin".into()])
        .map(|folder| folder.join("nvcc"))
        .filter(|path| path.is_file())
        .find_map(|path| version(&path).filter(|&major| major >= 12).map(|major| (path, major)))
}

fn version(nvcc: &Path) -> Option<u32> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split("release ").nth(1)?.split('.').next()?.parse().ok()
}

fn compile(nvcc: &Path, kernels: &Path, source: &Path, image: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-Xfatbin", "-compress-all", "-I"]).arg(kernels);
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    let output = command.arg(source).arg("-o").arg(image).output();
    let output = output.unwrap_or_else(|e| fail(&format!("cannot run {}: {e}", nvcc.display())));
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        fail(&format!("{} could not compile {}:\n{text}", nvcc.display(), source.display()));
    }
}

/// Ends the build with words: a panic would bury them in a backtrace.
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

/// The source of `images`.
fn list(images: &[(String, PathBuf)], major: Option<u32>) -> String {
    let mut text = format!(
        "/// Major version of CUDA whose compiler made the images; the driver must not be older.\npub(crate) const CUDA_MAJOR: Option<u32> = {major:?};\n\
         /// (file, image) of every kernel file; empty when this build found no compiler.\npub(crate) const IMAGES: &[(&str, &[u8])] = &["
    );
    for (name, path) in images {
        let path = path.display().to_string();
        text += &format!("({name:?}, &Aligned(*include_bytes!({path:?})).0),");
    }
    text += "];\n";
    if !images.is_empty() {
        text += "/// Bytes where a driver may look at words.\n#[repr(align(16))]\nstruct Aligned<T: ?Sized>(T);\n";
    }
    text
}

/// The source of a table of texts.
fn texts(name: &str, files: &[PathBuf]) -> String {
    let rows = files.iter().map(|path| format!("({:?}, include_str!({path:?})),", name_of(path)));
    let rows: String = rows.collect();
    format!("/// (file, text).\npub(crate) const {name}: &[(&str, &str)] = &[{rows}];\n")
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Whether `input` changed since `product` was made, or there is no product.
fn is_newer(input: &Path, product: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    match (time(input), time(product)) {
        (Ok(input), Ok(product)) => input >= product,
        _ => true,
    }
}

fn write_if_new(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}
