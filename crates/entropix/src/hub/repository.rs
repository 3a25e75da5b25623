//! Models of the Hugging Face hub, in the cache that the Python library uses too:
//! `models--org--name/{blobs,refs,snapshots}`.
//!
//! A revision is pinned to a commit first and its name points to that commit (`refs/main`) only when all files
//! are there and checked, so a pull that was interrupted never passes for a whole one.

mod cache;
pub(super) use cache::lock;
mod download;

use super::limits::{HUB_ANSWER_BYTES, HUB_ANSWER_SECONDS};
use super::spec::{Wanted, is_inside};
use super::{Progress, Settings};
use cache::Cached;
use entropix_model::{Class, Error, Result};
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Repo, RepoType};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names of text files that a model may need, besides its weights.
fn is_small_file(name: &str) -> bool {
    let ends = [".json", ".model", ".jinja", ".txt"];
    matches!(name, "config.json" | "generation_config.json" | "special_tokens_map.json" | "added_tokens.json")
        || matches!(name, "vocab.json" | "merges.txt")
        || (name.starts_with("tokenizer") || name.starts_with("chat_template"))
            && ends.iter().any(|end| name.ends_with(end))
}

/// What the hub says about a revision.
#[derive(Debug, Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The snapshot folder, or the one GGUF file in it.
pub(super) fn fetch(settings: &Settings, wanted: &Wanted, progress: &mut dyn Progress) -> Result<PathBuf> {
    let Some(root) = &settings.hub_cache else {
        return Err(Error::new(
            Class::Config,
            "NoCache",
            "no place for models is known: set HF_HOME or HOME, or name a path",
        ));
    };
    let cached = Cached::new(root, &wanted.id);
    let present = cached.find(wanted);
    if settings.offline {
        return present.ok_or_else(|| {
            let what = format!(
                "{}@{}: is not whole in {} and HF_HUB_OFFLINE is set; unset it, or name a path",
                wanted.id,
                wanted.revision,
                root.display()
            );
            Error::new(Class::NoInput, "Offline", what)
        });
    }
    if let Some(path) = present
        && !settings.refresh
    {
        return Ok(path);
    }
    match pull(settings, root, &cached, wanted, progress) {
        Err(error) if error.code == "Network" => match cached.find(wanted) {
            Some(path) => {
                progress.note(&format!("{}; using what is in the cache", error.message));
                Ok(path)
            }
            None => Err(error),
        },
        other => other,
    }
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    if host.is_some_and(|host| !host.is_empty()) {
        return Ok(());
    }
    let message =
        format!("HF_ENDPOINT is {endpoint:?}: wants http:// or https:// and a host; correct or unset it");
    Err(Error::new(Class::Usage, "Environment", message))
}

fn pull(
    settings: &Settings,
    root: &Path,
    cached: &Cached,
    wanted: &Wanted,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    check_endpoint(&settings.endpoint)?;
    let repo = |revision: &str| Repo::with_revision(wanted.id.clone(), RepoType::Model, revision.to_owned());
    let api = ApiBuilder::from_cache(hf_hub::Cache::new(root.to_owned()))
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_progress(false)
        .with_user_agent("entropix", env!("CARGO_PKG_VERSION"))
        .build()
        .map_err(|error| failure(settings, wanted, "", &error.to_string()))?;
    let info = ask(settings, wanted, &api.repo(repo(&wanted.revision)))?;
    let _lock = cached.lock(progress)?;
    let hub = download::Hub {
        settings,
        wanted,
        cached,
        api: &api,
        repo: api.repo(repo(&info.sha)),
        commit: &info.sha,
    };
    let names: Vec<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let file = match &wanted.file {
        Some(file) => Some(file.as_str()),
        None => only_gguf(wanted, &names)?,
    };
    if let Some(file) = file {
        if !names.contains(&file) {
            let what =
                format!("holds no {file}; it holds {}", listed(&names, |name| name.ends_with(".gguf")));
            return Err(no_file(wanted, &what));
        }
        hub.fetch(file, progress)?;
    } else {
        // Small files first: weights that are whole then mean that the rest is.
        for name in names.iter().filter(|name| is_small_file(name)) {
            hub.fetch(name, progress)?;
        }
        let weights = match cached.shards(&info.sha, &hub, &names, progress)? {
            Some(shards) => shards,
            None => vec![cache::SINGLE.to_owned()],
        };
        for name in &weights {
            if !names.contains(&name.as_str()) {
                return Err(no_file(wanted, &format!("holds no {name}, which its index names")));
            }
            hub.fetch(name, progress)?;
        }
    }
    cached.point(&wanted.revision, &info.sha)?;
    cached.find(&Wanted { file: file.map(str::to_owned), ..wanted.clone() }).ok_or_else(|| {
        Error::new(Class::Internal, "Hub", format!("{}: was fetched and cannot be found", wanted.id))
    })
}

/// The GGUF file of a repository that holds nothing else to run.
fn only_gguf<'a>(wanted: &Wanted, names: &[&'a str]) -> Result<Option<&'a str>> {
    if names.contains(&cache::SINGLE) || names.contains(&cache::INDEX) {
        return Ok(None);
    }
    let files: Vec<&str> = names.iter().copied().filter(|name| name.ends_with(".gguf")).collect();
    match files.as_slice() {
        [one] if is_inside(one) => Ok(Some(one)),
        [] => Err(Error::unsupported(
            "NoWeights",
            format!(
                "{}: holds neither safetensors nor GGUF weights, but {}",
                wanted.id,
                listed(names, |_| true)
            ),
        )),
        _ => Err(no_file(
            wanted,
            &format!(
                "holds several GGUF files; name one as {}:FILE: {}",
                wanted.id,
                listed(names, |name| name.ends_with(".gguf"))
            ),
        )),
    }
}

fn listed(names: &[&str], keep: impl Fn(&str) -> bool) -> String {
    let kept: Vec<&str> = names.iter().copied().filter(|name| keep(name)).collect();
    match kept.len() {
        0 => "none".into(),
        1..=24 => kept.join(", "),
        n => format!("{} and {} more", kept[..24].join(", "), n - 24),
    }
}

fn no_file(wanted: &Wanted, what: &str) -> Error {
    Error::new(Class::NoInput, "NoFile", format!("{}@{}: {what}", wanted.id, wanted.revision))
}

/// Which commit and which files the revision is.
fn ask(settings: &Settings, wanted: &Wanted, repo: &ApiRepo) -> Result<Info> {
    let request = repo.info_request().config();
    let request = request
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(HUB_ANSWER_SECONDS)))
        .build();
    let mut response = request.call().map_err(|error| failure(settings, wanted, "", &error.to_string()))?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(failure(settings, wanted, "", &format!("http status: {status}")));
    }
    let odd = |what: String| {
        let what =
            format!("{}: {} answered what is no answer of a hub: {what}", wanted.id, settings.endpoint);
        Error::new(Class::Io, "Hub", what)
    };
    let body = response.body_mut().with_config().limit(HUB_ANSWER_BYTES).read_to_vec();
    let body = body.map_err(|error| failure(settings, wanted, "", &error.to_string()))?;
    let info: Info = serde_json::from_slice(&body).map_err(|error| odd(error.to_string()))?;
    if info.sha.is_empty() || !info.sha.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(odd(format!("a commit called {:?}", info.sha)));
    }
    Ok(info)
}

/// What a failed request means, and what to do about it. hf-hub hides the client's error type, so the status is
/// taken from its text.
fn failure(settings: &Settings, wanted: &Wanted, file: &str, text: &str) -> Error {
    let status =
        text.split("http status: ").nth(1).and_then(|rest| rest.get(..3)).and_then(|n| n.parse().ok());
    let Settings { endpoint, token, .. } = settings;
    let of = if file.is_empty() { String::new() } else { format!("{file} of ") };
    let name = format!("{of}{}@{}", wanted.id, wanted.revision);
    let denied = match token {
        None => "log in: set HF_TOKEN to an access token",
        Some(_) => {
            "HF_TOKEN was sent and gives no access: accept the model's terms on its page, or take another token"
        }
    };
    let (class, code, what) = match status {
        Some(401 | 403) => (
            Class::NoInput,
            "Gated",
            format!("is private, gated or not there (HTTP {}); {denied}", status.unwrap_or(0u16)),
        ),
        Some(404) => {
            (Class::NoInput, "NotFound", "no such repository, revision or file; check the spelling".into())
        }
        Some(429) => {
            (Class::Temp, "Busy", "the hub asks to wait (HTTP 429); try again in a few minutes".into())
        }
        Some(500..=599) => (Class::Temp, "Busy", format!("the hub failed ({text}); try again later")),
        Some(_) => (Class::Io, "Hub", format!("the hub refused ({text})")),
        None if text.contains("os error 28") || text.contains("No space left") => (
            Class::Io,
            "DiskFull",
            "the disk is full; free some space and run again, it goes on where it stopped".into(),
        ),
        None => (
            Class::Temp,
            "Network",
            format!(
                "cannot be fetched ({text}); check the network and run again, it goes on where it stopped"
            ),
        ),
    };
    Error::new(class, code, format!("{name} from {endpoint}: {what}"))
}
