//! The rules of ARCHITECTURE.md that a program can check: who may depend on whom, where `unsafe` may
//! stand, and what must not be in the tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules that may hold `unsafe`, each for a reason given there.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/cpu/src/",
    // Calling the CUDA driver.
    "crates/cuda/src/driver/",
    // Calling the emulated kernels and the fake driver, which are compiled C++.
    "crates/emulator/src/",
    "crates/cpu/benches/linear.rs",
    "crates/cpu/tests/memory.rs",
    // An allocator that counts, for the memory limits of bad input.
    "crates/model/tests/bad_input/measure",
    // An allocator that counts, for the allocations a step may make.
    "crates/engine/benches/step.rs",
    // Calling loops that were compiled for wider vectors.
    "crates/model/src/sampling/mass.rs",
];

/// Crates (by folder) that may use a third party; everybody else may not.
const FENCES: &[(&str, &[&str])] = &[
    ("safetensors", &["crates/model"]),
    ("memmap2", &[]),
    ("tokenizers", &["."]),
    ("minijinja", &["."]),
    ("clap", &["."]),
    ("indicatif", &["."]),
    ("hf-hub", &["."]),
    ("cudarc", &["crates/cuda"]),
    ("libloading", &["crates/emulator"]),
];

const FOLDERS: [&str; 6] =
    [".", "crates/model", "crates/cpu", "crates/cuda", "crates/emulator", "crates/engine"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder).join("Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of the workspace, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["crates", "tests", "examples"] {
        rust_files(&root().join(folder), &mut files);
    }
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// `line` without comments and string literals, roughly: enough to find keywords.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut previous = ' ';
    for c in line.split("//").next().unwrap_or("").chars() {
        if c == '"' && previous != '\\' && previous != '\'' {
            in_string = !in_string;
        } else if !in_string {
            code.push(c);
        }
        previous = c;
    }
    code
}

fn has_word(line: &str, word: &str) -> bool {
    code_of(line).split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

#[test]
fn dependencies_point_one_way() {
    let ours = |folder: &str| -> Vec<String> {
        dependencies(folder).into_iter().filter(|d| d.starts_with("entropix-")).collect()
    };
    assert_eq!(ours("crates/model"), [""; 0]);
    assert_eq!(ours("crates/cpu"), ["entropix-model"]);
    assert_eq!(ours("crates/cuda"), ["entropix-model"]);
    assert_eq!(ours("crates/emulator"), [""; 0]);
    assert_eq!(ours("crates/engine"), ["entropix-model"]);
}

#[test]
fn third_parties_are_fenced() {
    for folder in FOLDERS {
        let used = dependencies(folder);
        for (name, allowed) in FENCES {
            assert!(!used.contains(*name) || allowed.contains(&folder), "{folder} must not use {name}");
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let table = text.split("## Dependencies and why").nth(1).unwrap();
    for folder in FOLDERS {
        for name in dependencies(folder) {
            assert!(
                name.starts_with("entropix-")
                    || table.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).any(|w| w == name),
                "{folder} uses {name}, which has no line in CONTRIBUTING.md"
            );
        }
    }
}

#[test]
fn unsafe_stands_only_where_listed() {
    for (name, text) in sources() {
        if UNSAFE_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            assert!(!has_word(line, "unsafe"), "{name}:{}: unsafe outside the listed modules", i + 1);
        }
    }
}

#[test]
fn crates_without_unsafe_forbid_it() {
    for lib in ["crates/engine/src/lib.rs", "crates/entropix/src/lib.rs", "crates/entropix/src/main.rs"] {
        let text = std::fs::read_to_string(root().join(lib)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{lib} must forbid unsafe code");
    }
}

#[test]
fn nothing_is_left_undone() {
    let marks = [["to", "do!("].concat(), ["unimpl", "emented!("].concat(), ["#[ign", "ore"].concat()];
    for (name, text) in sources() {
        for (i, line) in text.lines().enumerate() {
            for mark in &marks {
                assert!(!line.contains(mark.as_str()), "{name}:{}: {mark}", i + 1);
            }
        }
    }
}

/// What SECURITY.md says holds a guarantee is there.
#[test]
fn guarantees_are_held_by_what_exists() {
    let text = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let table = text.split("## Guarantees").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut n_paths = 0;
    for path in
        table.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains('/') && !quoted.contains(' '))
    {
        n_paths += 1;
        assert!(root().join(path).exists(), "SECURITY.md names {path}, which is not there");
    }
    assert!(n_paths > 10, "only {n_paths} paths were found");
    for number in 1..=13 {
        assert!(text.contains(&format!("G{number}")), "SECURITY.md does not speak of G{number}");
    }
}

/// The checks above can fail: the word finder sees what it must and no more.
#[test]
fn the_word_finder_sees_code_only() {
    assert!(has_word("    unsafe { f() }", "unsafe"));
    assert!(has_word("pub unsafe fn f() {", "unsafe"));
    assert!(!has_word("// unsafe is discussed here", "unsafe"));
    assert!(!has_word("let s = \"unsafe\";", "unsafe"));
    assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
}

/// Whatever a policy file may say is told where people look it up, and what is shown there can be read.
#[test]
fn policy_files_are_documented() {
    let page = std::fs::read_to_string(root().join("docs/policies.md")).unwrap();
    let dslider = std::fs::read_to_string(root().join("crates/engine/presets/dslider.toml")).unwrap();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let told: BTreeSet<&str> = page.split(|c| !is_word(c)).chain(dslider.split(|c| !is_word(c))).collect();
    let mut files = Vec::new();
    rust_files(&root().join("crates/engine/src/policy/parse"), &mut files);
    files.push(root().join("crates/engine/src/policy/parse.rs"));
    let mut n_keys = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Keys and the words they take are the literals that are one small word.
        for literal in text.split('"') {
            let is_key = literal.len() > 1 && literal.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_key && literal != "empty" {
                n_keys += 1;
                assert!(told.contains(literal), "{literal} of {} is not in docs/policies.md", file.display());
            }
        }
    }
    assert!(n_keys > 80, "{n_keys} keys");
    let examples: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        entropix_engine::PolicyFile::parse("docs/policies.md", example.as_bytes(), &[]).unwrap();
    }
}
