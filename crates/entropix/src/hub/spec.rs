//! Reading a model's name.

use super::alias::{ALIASES, Alias};
use entropix_model::{Class, Error, Result};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// What a name means.
#[derive(Debug, PartialEq)]
pub(super) enum Spec {
    /// It is there.
    Path(PathBuf),
    Alias(&'static Alias),
    Repository(Wanted),
}

/// A model of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `org/name`, or `name` for the few of old.
    pub(super) id: String,
    /// A branch, tag or commit.
    pub(super) revision: String,
    /// The one GGUF file that is wanted.
    pub(super) file: Option<String>,
}

impl Spec {
    /// # Errors
    /// `NoModel` for a path that is not there, or a name that can be nothing else.
    pub(super) fn parse(name: &OsStr) -> Result<Self> {
        let path = Path::new(name);
        // Links to nowhere and pipes are paths too; the reader says what is wrong with them.
        if path.symlink_metadata().is_ok() {
            return Ok(Spec::Path(path.to_owned()));
        }
        let wrong = |why: &str| {
            let aliases = ALIASES.each_ref().map(|alias| alias.name).join(", ");
            Error::new(
                Class::NoInput,
                "NoModel",
                format!(
                    "{}: {why}; a model is a folder, a .gguf file, org/name of the Hugging Face hub, or one of \
                     {aliases}",
                    path.display()
                ),
            )
        };
        let Some(text) = name.to_str() else { return Err(wrong("no such file or folder")) };
        if let Some(alias) = ALIASES.iter().find(|alias| alias.name == text) {
            return Ok(Spec::Alias(alias));
        }
        if text.is_empty() {
            return Err(wrong("an empty name"));
        }
        let plain = text.split([':', '@']).next().unwrap_or_default();
        let is_path = text.starts_with(['/', '.', '~']) || plain.ends_with(".gguf") || text.contains('\\');
        if is_path || plain.matches('/').count() != 1 {
            return Err(wrong("no such file or folder"));
        }
        Wanted::parse(text).map(Spec::Repository).ok_or_else(|| wrong("is no name of a repository"))
    }
}

impl Wanted {
    /// `org/name[@revision][:file.gguf]`.
    fn parse(text: &str) -> Option<Self> {
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (id, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        // What the hub allows in names; `--` and `..` would be ambiguous in the cache.
        let word = |text: &str| {
            !text.is_empty()
                && !text.contains("--")
                && !text.contains("..")
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !text.starts_with(['.', '-'])
        };
        let (org, name) = id.split_once('/')?;
        let revision_is_plain = !revision.is_empty() && is_inside(revision);
        let file_is_gguf = file.is_none_or(|file| file.ends_with(".gguf") && is_inside(file));
        (word(org) && word(name) && revision_is_plain && file_is_gguf).then(|| Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

/// Whether a relative path stays where it is put.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = !path.is_empty() && !path.contains(['\\', '\0', '?', '#', '%']) && !path.contains("//");
    plain && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(id: &str, revision: &str, file: Option<&str>) -> Spec {
        let (id, revision, file) = (id.into(), revision.into(), file.map(str::to_owned));
        Spec::Repository(Wanted { id, revision, file })
    }

    fn parse(text: &str) -> Result<Spec> {
        Spec::parse(OsStr::new(text))
    }

    #[test]
    fn repositories() {
        for (text, want) in [
            ("org/name", wanted("org/name", "main", None)),
            ("Org-1/a.b_c@v1.0", wanted("Org-1/a.b_c", "v1.0", None)),
            ("org/name@refs/pr/1", wanted("org/name", "refs/pr/1", None)),
            ("org/name:x.gguf", wanted("org/name", "main", Some("x.gguf"))),
            ("org/name@abc:sub/x.gguf", wanted("org/name", "abc", Some("sub/x.gguf"))),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn aliases_and_paths() {
        assert!(matches!(parse("smollm2-135m").unwrap(), Spec::Alias(alias) if alias.name == "smollm2-135m"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Spec::parse(file.path().as_os_str()).unwrap(), Spec::Path(file.path().to_owned()));
    }

    #[test]
    fn what_is_nothing_is_refused_with_what_could_be() {
        for text in [
            "",
            "no-such-name",
            "./x",
            "/no/such/file.gguf",
            "models/x.gguf",
            "a/b/c",
            "a//b",
            "org/",
            "/name",
            "org/na me",
            "org/../x",
            "org/..",
            "org/name@",
            "org/name@../../x",
            "org/name:x.bin",
            "org/name:../x.gguf",
            "org/name:/x.gguf",
            "org/a--b",
            "org/name@a?b",
            "~/x",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!((error.class, error.code), (Class::NoInput, "NoModel"), "{text}");
            assert!(error.message.contains("smollm2-135m"), "{error}");
        }
    }
}
