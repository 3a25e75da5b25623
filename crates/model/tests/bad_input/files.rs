//! Case 17: things that are no files, in the place of a model or of one of its files.

use crate::gguf_file::Gguf;
use crate::safetensors::{good, good_file};
use crate::{Case, Expect, case, no_input};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const PARTS: [&str; 2] = ["config.json", "model.safetensors"];

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo is part of every Unix");
    assert!(made.success());
}

/// A good folder with `put` in the place of each of its files in turn, and at the path itself.
fn replaced(
    name: &'static str,
    put: fn(&Path),
    code: &'static str,
    message: &'static [&'static str],
) -> Vec<Case> {
    let alone = case(
        name,
        move |folder| {
            let path = folder.join("model.gguf");
            put(&path);
            path
        },
        no_input(code, message),
    );
    let mut cases = vec![alone];
    for part in PARTS {
        let make = move |folder: &Path| {
            good(folder);
            fs::remove_file(folder.join(part)).unwrap();
            put(&folder.join(part));
            folder.to_owned()
        };
        cases.push(case(name, make, no_input(code, message)));
    }
    cases
}

fn zero(path: &Path) {
    symlink("/dev/zero", path).unwrap();
}

fn dangling(path: &Path) {
    symlink("not-there", path).unwrap();
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = replaced("17 FIFO", fifo, "NotAFile", &["pipe"]);
    cases.extend(replaced("17 /dev/zero", zero, "NotAFile", &["device"]));
    cases.extend(replaced("17 dangling link", dangling, "Os", &["not-there", "does not exist"]));
    // A folder in the place of a .gguf file is a model folder without a config.
    cases.push(case(
        "17 empty folder",
        |folder| folder.to_owned(),
        no_input("NotAModel", &["config.json", "no model is here"]),
    ));
    for part in PARTS {
        let make = move |folder: &Path| {
            good(folder);
            fs::remove_file(folder.join(part)).unwrap();
            fs::create_dir(folder.join(part)).unwrap();
            folder.to_owned()
        };
        cases.push(case("17 a folder for a file", make, no_input("NotAFile", &["folder"])));
    }
    cases.push(case(
        "17 nothing there",
        |folder| folder.join("missing.gguf"),
        no_input("Os", &["missing.gguf"]),
    ));
    cases.push(case("17 no weights", no_weights, no_input("Os", &["model.safetensors"])));
    cases.push(case("17 pickled weights only", pickled, no_input("Os", &["convert them to safetensors"])));
    cases.push(case(
        "17 weights without their folder",
        bare_weights,
        no_input("NotAModel", &["name the folder"]),
    ));
    cases.push(case("17 a folder of two GGUF files", two_ggufs, no_input("NotAModel", &["a.gguf, b.gguf"])));
    cases.push(case("17 a folder of one GGUF file", one_gguf, Expect::Opens(&[])));
    for part in PARTS {
        let forbidden = no_input("Os", &["ermission denied"]);
        cases.push(Case {
            make: Box::new(move |folder| mode_000(folder, part)),
            ..case("17 mode 000", good, forbidden)
        });
    }
    cases
}

fn no_weights(folder: &Path) -> PathBuf {
    good(folder);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    folder.to_owned()
}

fn pickled(folder: &Path) -> PathBuf {
    no_weights(folder);
    fs::write(folder.join("pytorch_model.bin"), "x").unwrap();
    folder.to_owned()
}

fn bare_weights(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    fs::write(&path, good_file()).unwrap();
    path
}

fn one_gguf(folder: &Path) -> PathBuf {
    std::fs::write(folder.join("a.gguf"), Gguf::good().bytes()).unwrap();
    std::fs::write(folder.join("README.md"), "").unwrap();
    folder.to_owned()
}

fn two_ggufs(folder: &Path) -> PathBuf {
    std::fs::write(folder.join("b.gguf"), "").unwrap();
    one_gguf(folder)
}

fn mode_000(folder: &Path, part: &str) -> Option<PathBuf> {
    good(folder);
    let path = folder.join(part);
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        println!("17 mode 000 of {part}: skipped, this user may read everything");
        return None;
    }
    Some(folder.to_owned())
}
