//! Puts the commit into the program, for reports and bench results. Without git the program says `unknown`.
#![forbid(unsafe_code)]

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=crates/entropix/build.rs");
    // A package unpacked inside somebody else's repository must not take that one's commit.
    let ours = git(&["ls-files", "--error-unmatch", "crates/entropix/build.rs"]).is_some();
    let commit = if ours { git(&["rev-parse", "--short", "HEAD"]) } else { None };
    println!("cargo::rustc-env=ENTROPIX_BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    if let (true, Some(log)) = (ours, git(&["rev-parse", "--git-path", "logs/HEAD"])) {
        println!("cargo::rerun-if-changed={log}");
    }
}
