//! A hub of one repository on 127.0.0.1, with the answers and headers that the real one gives: small files
//! directly with git's hash for a tag, large ones by a redirect with their SHA-256.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub holds, and how it misbehaves.
#[derive(Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Demanded of every request.
    pub(super) token: Option<String>,
    /// Close the connection after this many bytes of the body of a file, once.
    pub(super) cut: Option<(String, usize)>,
    /// Send whole files whatever range is asked for.
    pub(super) ignore_ranges: bool,
    /// Sent for every tag instead of the true one.
    pub(super) tag: Option<String>,
    /// "PATH RANGE" of every request.
    pub(super) log: Vec<String>,
}

/// Serves until it is dropped.
pub(super) struct Server {
    pub(super) endpoint: String,
    pub(super) state: Arc<Mutex<State>>,
    listener: TcpListener,
    thread: Option<thread::JoinHandle<()>>,
    stop: Arc<Mutex<bool>>,
}

impl Server {
    pub(super) fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let stop = Arc::new(Mutex::new(false));
        let (accept, shared, stopped) = (listener.try_clone().unwrap(), state.clone(), stop.clone());
        let base = endpoint.clone();
        let thread = thread::spawn(move || {
            for stream in accept.incoming() {
                if *stopped.lock().unwrap() {
                    return;
                }
                let (shared, base) = (shared.clone(), base.clone());
                // A client that goes away ends its connection only.
                thread::spawn(move || drop(serve(stream.unwrap(), &shared, &base)));
            }
        });
        Self { endpoint, state, listener, thread: Some(thread), stop }
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        // Wakes the thread, which then sees that it should stop.
        let _ = TcpStream::connect(self.listener.local_addr().unwrap());
        let _ = self.thread.take().unwrap().join();
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, base: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut range, mut authorised) = (None, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => range = Some(value.to_owned()),
                "authorization" => authorised = Some(value.to_owned()),
                _ => {}
            }
        }
        if !answer(&mut stream, state, base, &path, range.as_deref(), authorised.as_deref())? {
            return Ok(());
        }
    }
}

/// Answers one request; false when the connection is to be closed.
fn answer(
    stream: &mut TcpStream,
    state: &Mutex<State>,
    base: &str,
    path: &str,
    range: Option<&str>,
    authorised: Option<&str>,
) -> std::io::Result<bool> {
    let mut state = state.lock().unwrap();
    state.log.push(format!("{path} {}", range.unwrap_or("-")));
    let plain = |stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)?;
        Ok(true)
    };
    let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted.as_deref() != authorised {
        return plain(stream, "401 Unauthorized", "", b"{\"error\":\"Access is restricted\"}");
    }
    let revision = |text: &str| matches!(text, "main" | "v1" | COMMIT);
    if let Some(name) = path.strip_prefix("/api/models/org/tiny/revision/") {
        if !revision(name) {
            return plain(stream, "404 Not Found", "", b"{}");
        }
        let names = state.files.keys().map(|name| serde_json::json!({"rfilename": name}));
        let info = serde_json::json!({"sha": COMMIT, "siblings": names.collect::<Vec<_>>()});
        return plain(stream, "200 OK", "", info.to_string().as_bytes());
    }
    let (name, is_cdn) = match (path.strip_prefix("/org/tiny/resolve/"), path.strip_prefix("/cdn/")) {
        (Some(rest), _) => match rest.split_once('/') {
            Some((name, file)) if revision(name) => (file, false),
            _ => return plain(stream, "404 Not Found", "", b"{}"),
        },
        (_, Some(file)) => (file, true),
        _ => return plain(stream, "404 Not Found", "", b"{}"),
    };
    let Some(body) = state.files.get(name).cloned() else {
        return plain(stream, "404 Not Found", "", b"{}");
    };
    let is_large = name.ends_with(".safetensors") || name.ends_with(".gguf");
    let sha256: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = state.tag.clone().unwrap_or(if is_large { sha256 } else { sha256[..40].to_owned() });
    if is_large && !is_cdn {
        let headers = format!(
            "Location: {base}/cdn/{name}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{tag}\"\r\nETag: \"other\"\r\n"
        );
        return plain(stream, "302 Found", &headers, b"");
    }
    let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{tag}\"\r\n");
    let asked = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (start, end) = match asked {
        Some((start, end)) => {
            let end = end.parse().map_or(body.len(), |end: usize| end + 1).min(body.len());
            (start.parse().unwrap(), end)
        }
        None => (0, body.len()),
    };
    // The first byte alone is what a client asks to learn the length.
    if asked.is_none() || state.ignore_ranges && end - start > 1 {
        return plain(stream, "200 OK", &headers, &body);
    }
    if start >= body.len() {
        return plain(stream, "416 Range Not Satisfiable", &headers, b"");
    }
    let piece = &body[start..end];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\n{headers}Content-Range: bytes {start}-{}/{}\r\nContent-Length: {}\r\n\r\n",
        end - 1,
        body.len(),
        piece.len()
    )?;
    if let Some((file, n)) = state.cut.clone()
        && file == name
        && piece.len() > 1
    {
        state.cut = None;
        stream.write_all(&piece[..n])?;
        return Ok(false);
    }
    stream.write_all(piece)?;
    Ok(true)
}
