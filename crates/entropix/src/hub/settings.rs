//! Where models are kept and fetched from, as the environment says.

use std::ffi::OsString;
use std::path::PathBuf;

const HUB: &str = "https://huggingface.co";

/// Where models are kept and fetched from. hf-hub's own `from_env` knows `HF_HOME` and `HF_ENDPOINT` only, so
/// the rest of what the Python library honours is read here.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Folder of the models that aliases mean; none when no home is known.
    pub cache: Option<PathBuf>,
    /// Folder of `models--org--name` folders, shared with the Python library; none when no home is known.
    pub hub_cache: Option<PathBuf>,
    /// Base address of the hub.
    pub endpoint: String,
    /// Sent to the hub.
    pub token: Option<String>,
    /// Fetch nothing.
    pub offline: bool,
    /// Ask the hub for the newest revision even when a whole model is in the cache.
    pub refresh: bool,
    /// The Python that fetches packages.
    pub python: OsString,
}

impl Settings {
    /// From `XDG_CACHE_HOME`, `HOME`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`
    /// and `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// From variables that `look_up` knows.
    pub fn from_variables(look_up: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let text = |name: &str| get(name).and_then(|value| value.into_string().ok());
        // The XDG specification: a relative path is to be ignored.
        let caches = path("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| path("HOME").map(|home| home.join(".cache")));
        let hf_home = path("HF_HOME").or_else(|| caches.as_ref().map(|caches| caches.join("huggingface")));
        let hub_cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let token_path = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
        let stored_token = || std::fs::read_to_string(token_path?).ok();
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .or_else(stored_token)
            .map(|token| token.trim().to_owned())
            // Anything else cannot stand in a header.
            .filter(|token| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()));
        let truth = |name: &str| {
            text(name).is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
            })
        };
        Self {
            cache: caches.map(|caches| caches.join("entropix")),
            hub_cache,
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| HUB.into()).trim_end_matches('/').to_owned(),
            token,
            offline: truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE"),
            refresh: false,
            python: "python3".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Settings {
        Settings::from_variables(&|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn variables_in_their_order() {
        let plain = from(&[("HOME", "/h")]);
        assert_eq!(plain.cache, Some("/h/.cache/entropix".into()));
        assert_eq!(plain.hub_cache, Some("/h/.cache/huggingface/hub".into()));
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), (HUB, None, false));

        let xdg = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]);
        assert_eq!(xdg.cache, Some("/x/entropix".into()));
        assert_eq!(xdg.hub_cache, Some("/x/huggingface/hub".into()));
        assert_eq!(from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]).cache, Some("/h/.cache/entropix".into()));

        assert_eq!(from(&[("HOME", "/h"), ("HF_HOME", "/f")]).hub_cache, Some("/f/hub".into()));
        let both = from(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]);
        assert_eq!(both.hub_cache, Some("/c".into()));

        let nowhere = from(&[("HOME", "")]);
        assert_eq!((nowhere.cache, nowhere.hub_cache), (None, None));
        assert_eq!(from(&[("HF_ENDPOINT", "http://hub/")]).endpoint, "http://hub");
        for (value, want) in [("1", true), ("TRUE", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(from(&[("HF_HUB_OFFLINE", value)]).offline, want, "{value:?}");
        }
    }

    #[test]
    fn tokens() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), " stored\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(from(&[("HF_HOME", home)]).token.as_deref(), Some("stored"));
        assert_eq!(from(&[("HF_HOME", home), ("HF_TOKEN", "given\n")]).token.as_deref(), Some("given"));
        assert_eq!(from(&[("HF_TOKEN", "a\r\nHost: b")]).token, None, "no header may be smuggled in");
    }
}
