//! The rules of ARCHITECTURE.md that a program can check: who may depend on whom, where `unsafe` may
//! stand, and what must not be in the tree.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files that may hold `unsafe`, group by group with the reason; each block says why it is sound.
const UNSAFE_ALLOWED: &[&str] = &[
    // Vector instructions, and slices that threads share by rows.
    "crates/cpu/src/attention/micro.rs",
    "crates/cpu/src/attention/mod.rs",
    "crates/cpu/src/attention/next.rs",
    "crates/cpu/src/attention/signals.rs",
    "crates/cpu/src/attention/tests.rs",
    "crates/cpu/src/attention/tile.rs",
    "crates/cpu/src/backend.rs",
    "crates/cpu/src/cache.rs",
    "crates/cpu/src/forward.rs",
    "crates/cpu/src/head.rs",
    "crates/cpu/src/linear/activations.rs",
    "crates/cpu/src/linear/avx2/float.rs",
    "crates/cpu/src/linear/avx2/int8.rs",
    "crates/cpu/src/linear/avx2/mod.rs",
    "crates/cpu/src/linear/avx2/round.rs",
    "crates/cpu/src/linear/avx2/weights.rs",
    "crates/cpu/src/linear/avx512/brains.rs",
    "crates/cpu/src/linear/avx512/float.rs",
    "crates/cpu/src/linear/avx512/int8.rs",
    "crates/cpu/src/linear/avx512/opened.rs",
    "crates/cpu/src/linear/avx512/peak.rs",
    "crates/cpu/src/linear/avx512/round.rs",
    "crates/cpu/src/linear/avx512/tiles.rs",
    "crates/cpu/src/linear/avx512/weights.rs",
    "crates/cpu/src/linear/kernels.rs",
    "crates/cpu/src/linear/matrix.rs",
    "crates/cpu/src/linear/memory.rs",
    "crates/cpu/src/linear/portable.rs",
    "crates/cpu/src/linear/tests/bitwise.rs",
    "crates/cpu/src/linear/tests/rounding.rs",
    "crates/cpu/src/memory.rs",
    "crates/cpu/src/pool.rs",
    "crates/cpu/src/shared.rs",
    "crates/cpu/src/simd/avx2.rs",
    "crates/cpu/src/simd/avx512.rs",
    "crates/cpu/src/simd/mod.rs",
    "crates/cpu/benches/linear.rs",
    // Calling the CUDA driver, NVRTC and cuBLASLt.
    "crates/cuda/src/driver/cublaslt.rs",
    "crates/cuda/src/driver/functions.rs",
    "crates/cuda/src/driver/graph.rs",
    "crates/cuda/src/driver/library.rs",
    "crates/cuda/src/driver/memory.rs",
    "crates/cuda/src/driver/mod.rs",
    "crates/cuda/src/driver/nvrtc.rs",
    "crates/cuda/src/driver/probe.rs",
    "crates/cuda/src/driver/wait.rs",
    // Calling the emulated kernels and the fake driver, which are compiled C++.
    "crates/emulator/src/driver.rs",
    "crates/emulator/src/lib.rs",
    // Allocators that count, for the memory limits of bad input, of a model and of a step.
    "crates/cpu/tests/memory.rs",
    "crates/engine/benches/step.rs",
    "crates/model/tests/bad_input/measure.rs",
    // Calling loops that were compiled for wider vectors.
    "crates/model/src/sampling/mass.rs",
];

/// What a file in that list says, since the workspace denies it; other files must not say it.
const ALLOW: &str = "#![allow(unsafe_code)]";
const FORBID: &str = "#![forbid(unsafe_code)]";

/// Words in the names of constants that are limits.
const LIMIT_WORDS: [&str; 13] = [
    "ATTEMPTS", "BYTES", "DEPTH", "LARGEST", "LENGTH", "LIMIT", "LONGEST", "MAX", "MOST", "SECONDS", "TIME",
    "TIMEOUT", "WINDOW",
];

/// Constants that have such a name, stand outside the modules that `entropix limits` prints, and are no limit on input.
const NO_LIMITS: &[(&str, &[&str], &str)] = &[
    ("crates/cpu/", &[], "what is computed was read and checked by the crates above"),
    ("crates/cuda/", &[], "the same"),
    ("crates/emulator/", &[], "the same; besides, it is there for tests only"),
    ("crates/model/src/gguf/header.rs", &["MIN_PAIR_BYTES", "MIN_TENSOR_BYTES"], "the least of the format"),
    ("crates/model/src/gguf/cursor.rs", &["BUFFER_BYTES"], "read at once"),
    ("crates/model/src/safetensors.rs", &["LENGTH_BYTES"], "the width of a field"),
    ("crates/model/src/fingerprint.rs", &["PIECE_BYTES"], "read at once"),
    ("crates/engine/src/policy/reach.rs", &["MOST_PIECES"], "a warning is given up, nothing refused"),
    ("crates/engine/src/policy/score.rs", &["WINDOW"], "part of a formula"),
    ("crates/engine/src/policy/dslider/dirichlet.rs", &["MOST"], "part of a formula"),
    ("crates/entropix/src/hub/package.rs", &["SHOWN_BYTES"], "a message is cut, nothing refused"),
    ("crates/entropix/src/jobs/compressed.rs", &["BUFFER_BYTES"], "read at once"),
    (
        "crates/entropix/src/jobs/merge.rs",
        &["PREFIX_BYTES"],
        "kept to sort by; the rest is read from the disk",
    ),
    (
        "crates/entropix/src/jobs/parquet/source.rs",
        &["BUFFER_BYTES", "TOLD_BYTES"],
        "read at once; a message is cut",
    ),
    ("crates/entropix/src/jobs/parquet/write.rs", &["GROUP_BYTES"], "written at once"),
    ("crates/entropix/src/session/open.rs", &["KV_BYTES"], "the default of an option"),
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
    ("libloading", &["crates/cuda", "crates/emulator"]),
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
    for folder in ["crates", "tests", "examples", "fuzz/src", "fuzz/fuzz_targets"] {
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

/// Packages of a Cargo.lock whose names end in `-sys` and that are there more than once. Two copies of one C library in
/// one program are two sets of globals. `windows-sys` is none: it declares functions of the system and links nothing.
fn doubled_libraries(lock: &str) -> Vec<&str> {
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let mut seen = BTreeSet::new();
    names.filter(|name| name.ends_with("-sys") && *name != "windows-sys" && !seen.insert(*name)).collect()
}

#[test]
fn no_c_library_is_there_twice() {
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock = std::fs::read_to_string(root().join(path)).unwrap();
        assert!(lock.contains("-sys\"\n"), "{path} has no -sys crate at all: is it a lock file?");
        assert_eq!(doubled_libraries(&lock), [""; 0], "{path}");
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

/// Whether the file is what the compiler begins a crate with.
fn is_root(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [.., "src", "lib.rs" | "main.rs"] | [.., "build.rs"] => true,
        [.., "tests" | "benches" | "examples" | "fuzz_targets", _] => !name.contains("/src/"),
        [.., "tests", _, "main.rs"] => true,
        _ => false,
    }
}

/// Lines of `text` that begin unsafe code without a `SAFETY:` note in the comment above the statement.
fn unexplained(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| {
        has_word(line, "unsafe") && !["unsafe fn", "unsafe extern"].iter().any(|kind| line.contains(kind))
    };
    let is_explained = |i: usize| {
        // Up to the end of the statement before: the note may stand above the whole of this one.
        let above = lines[..i].iter().rev().map(|line| line.trim());
        let mut of_this = above
            .take_while(|line| line.starts_with("//") || !(line.is_empty() || line.ends_with([';', '}'])));
        lines[i].contains("// SAFETY:") || of_this.any(|line| line.starts_with("// SAFETY:"))
    };
    (0..lines.len()).filter(|&i| begins(lines[i]) && !is_explained(i)).map(|i| i + 1).collect()
}

#[test]
fn unsafe_stands_only_where_listed() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nunsafe_code = \"deny\"\n"), "the workspace must deny unsafe code");
    let mut listed: BTreeSet<&str> = UNSAFE_ALLOWED.iter().copied().collect();
    for (name, text) in sources() {
        let is_listed = listed.remove(name.as_str());
        let first = text.lines().position(|line| has_word(line, "unsafe")).map(|i| i + 1);
        match first {
            Some(line) => assert!(is_listed, "{name}:{line}: unsafe outside the listed files"),
            None => assert!(!is_listed, "{name} is listed and holds no unsafe code"),
        }
        // This file speaks of both attributes.
        if name == "tests/architecture.rs" {
            continue;
        }
        let may = text.contains("allow(unsafe_code)");
        assert_eq!(may, is_listed, "{name}: listed files say {ALLOW}, others do not");
        assert_eq!(
            unexplained(&text),
            [0; 0],
            "{name}: unsafe code without // SAFETY: above it, at these lines"
        );
    }
    assert!(listed.is_empty(), "listed and not there: {listed:?}");
}

/// A crate (a library, program, test, example, bench, fuzz target or build script) of which no file is listed forbids
/// unsafe code, so that no file of it can allow it; the others leave it to the workspace, which denies it.
#[test]
fn crates_without_unsafe_forbid_it() {
    let mut n_roots = 0;
    for (name, text) in sources() {
        if !is_root(&name) {
            continue;
        }
        n_roots += 1;
        let folder = name.rsplit_once('/').unwrap().0;
        // One folder is one crate where it has a lib.rs or main.rs; elsewhere every file is one.
        let is_whole = name.ends_with("/lib.rs") || name.ends_with("/main.rs");
        let has_unsafe = UNSAFE_ALLOWED.iter().any(|listed| {
            *listed == name
                || is_whole && listed.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        });
        assert_eq!(text.lines().any(|line| line == FORBID), !has_unsafe, "{name}: {FORBID}");
    }
    assert!(n_roots > 40, "only {n_roots} crates were found");
}

/// The constant that `line` declares: its name, and its value as written where it stands on the line.
fn constant(line: &str) -> Option<(&str, &str)> {
    let (before, declared) = line.split_once("const ")?;
    let (name, rest) = declared.split_once(": ")?;
    let value = rest.split_once(" = ").map_or("", |(_, value)| value.trim_end_matches(';'));
    (before.trim().is_empty() || before.contains("pub")).then_some((name, value))
}

/// The constants of `text`; not those of its tests.
fn constants(text: &str) -> Vec<(&str, &str)> {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("").lines().filter_map(constant).collect()
}

/// The constants of `text` that are limits by their names and are none of those that `entropix limits` prints.
fn unlisted<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
    let is_limit = |constant: &str| constant.split('_').any(|word| LIMIT_WORDS.contains(&word));
    let is_excused = |constant: &str| {
        NO_LIMITS.iter().any(|(place, names, _)| match names {
            [] => name.starts_with(place),
            names => name == *place && names.contains(&constant),
        })
    };
    let all = constants(text).into_iter().map(|(constant, _)| constant);
    all.filter(|constant| is_limit(constant) && !is_excused(constant)).collect()
}

#[test]
fn every_limit_is_listed() {
    let (mut n_limits, mut excused) = (0, BTreeSet::new());
    for (name, text) in sources() {
        if text.contains("limits! {\n    ///") {
            n_limits += constants(&text).len();
        } else if name.starts_with("crates/") && name.contains("/src/") && !name.contains("/tests") {
            let why =
                "is a limit by its name: put it into a limits module, or into NO_LIMITS with the reason";
            assert_eq!(unlisted(&name, &text), [""; 0], "{name}: each of these {why}");
            excused.extend(
                constants(&text).into_iter().map(|(constant, _)| (name.clone(), constant.to_owned())),
            );
        }
    }
    assert!(n_limits > 70, "only {n_limits} limits were found");
    for (place, names, reason) in NO_LIMITS {
        for constant in *names {
            let stands = excused.contains(&((*place).to_owned(), (*constant).to_owned()));
            assert!(stands, "{place} has no {constant} ({reason}): take it off NO_LIMITS");
        }
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

/// The checks above can fail: they see a limit, a crate and an unsafe block for what they are.
#[test]
fn the_finders_see_what_is_planted() {
    let planted = "const ROW_BYTES: u64 = 7;\npub(super) const MOST: usize = 1;\nconst KIND: u8 = 1;\n";
    assert_eq!(unlisted("crates/model/src/x.rs", planted), ["ROW_BYTES", "MOST"]);
    assert_eq!(unlisted("crates/cpu/src/x.rs", planted), [""; 0]);
    assert_eq!(unlisted("crates/engine/src/policy/dslider/dirichlet.rs", planted), ["ROW_BYTES"]);
    assert_eq!(constants(planted)[0], ("ROW_BYTES", "7"));
    let tests = format!("#[cfg(test)]\nmod tests {{\n{planted}}}");
    assert_eq!(unlisted("crates/model/src/x.rs", &tests), [""; 0]);

    for path in [
        "crates/x/src/lib.rs",
        "crates/x/build.rs",
        "tests/x.rs",
        "crates/x/tests/y/main.rs",
        "fuzz/fuzz_targets/x.rs",
    ] {
        assert!(is_root(path), "{path}");
    }
    for path in ["crates/x/src/tests/y.rs", "tests/cli/x.rs", "crates/x/src/y.rs"] {
        assert!(!is_root(path), "{path}");
    }

    let lock = "name = \"z-sys\"\nname = \"a\"\nname = \"a\"\nname = \"z-sys\"\nname = \"windows-sys\"\nname = \"windows-sys\"\n";
    assert_eq!(doubled_libraries(lock), ["z-sys"]);

    let note = "// SAFETY: it is";
    assert_eq!(unexplained("f();\nunsafe { g() }"), [2]);
    assert_eq!(unexplained(&format!("{note}\nf();\nunsafe {{ g() }}")), [3]);
    assert_eq!(unexplained(&format!("{note}\nunsafe {{ g() }}")), [0; 0]);
    assert_eq!(unexplained(&format!("f();\n{note}\nh(\n    unsafe {{ g() }}")), [0; 0]);
    assert_eq!(unexplained("pub unsafe fn f() {"), [0; 0]);
}

/// The word finder sees what it must and no more.
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
