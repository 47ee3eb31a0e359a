//! A model hub on the loopback interface: listing, file facts, files behind a redirect to a second "storage"
//! host.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server answers; tests change it while it runs.
#[derive(Default, Clone)]
pub(super) struct Behaviour {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Requests to the hub itself need this token.
    pub(super) token: Option<&'static str>,
    /// File and number of bytes after which the connection is closed.
    pub(super) cut: Option<(&'static str, usize)>,
    /// How many times to cut.
    pub(super) cuts: usize,
    /// How much later each further cut comes.
    pub(super) cut_step: usize,
    /// What the storage host answers to everything.
    pub(super) storage_failure: Option<&'static str>,
    /// Answers to the first requests: status line and extra headers.
    pub(super) failures: Vec<&'static str>,
    pub(super) ignore_range: bool,
    /// The storage host sends other bytes than announced.
    pub(super) corrupt: bool,
    /// Replaces the ETag of every file.
    pub(super) etag: Option<&'static str>,
    /// Replaces the commit in the listing.
    pub(super) sha: Option<&'static str>,
    /// The repository has been renamed: relative redirects to `org/new`.
    pub(super) renamed: bool,
    /// Replaces the address large files redirect to.
    pub(super) location: Option<&'static str>,
    /// Accept and say nothing.
    pub(super) silent: bool,
}

pub(super) struct Server {
    pub(super) endpoint: String,
    behaviour: Arc<Mutex<Behaviour>>,
    log: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    ports: Vec<u16>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(behaviour: Behaviour) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let log = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let storage = format!("http://127.0.0.1:{}", ports[1]);
        let threads = listeners.into_iter().map(|listener| {
            let (behaviour, log, stop, storage) =
                (behaviour.clone(), log.clone(), stop.clone(), storage.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (behaviour, log, storage) = (behaviour.clone(), log.clone(), storage.clone());
                    std::thread::spawn(move || answer(&stream.unwrap(), &behaviour, &log, &storage));
                }
            })
        });
        let threads = threads.collect();
        Self { endpoint: format!("http://127.0.0.1:{}", ports[0]), behaviour, log, stop, ports, threads }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    /// Requests so far, as `METHOD path[ token][ range]`; forgets them.
    pub(super) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for port in &self.ports {
            let _ = TcpStream::connect(("127.0.0.1", *port));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Name of a file's blob: SHA-256 for weights, 40 digits for small files, as on the real hub.
pub(super) fn etag(name: &str, bytes: &[u8]) -> String {
    let hash = sha256(bytes);
    if is_large(name) { hash } else { hash[..40].to_owned() }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

struct Request {
    method: String,
    path: String,
    token: Option<String>,
    start: usize,
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, token: None, start: 0 };
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.token = Some(value.trim().trim_start_matches("Bearer ").to_owned()),
            "range" => {
                request.start = value.trim().strip_prefix("bytes=")?.trim_end_matches('-').parse().ok()?;
            }
            _ => {}
        }
    }
    Some(request)
}

fn answer(mut stream: &TcpStream, behaviour: &Mutex<Behaviour>, log: &Mutex<Vec<String>>, storage: &str) {
    let Some(request) = read_request(stream) else { return };
    let mut line = format!("{} {}", request.method, request.path);
    line.extend(request.token.iter().map(|token| format!(" token={token}")));
    if request.start > 0 {
        line.push_str(&format!(" from={}", request.start));
    }
    log.lock().unwrap().push(line);
    let mut state = behaviour.lock().unwrap();
    if state.silent {
        drop(state);
        std::thread::sleep(std::time::Duration::from_secs(2));
        return;
    }
    let reply = reply(&request, &mut state, storage);
    drop(state);
    let _ = stream.write_all(&reply);
}

fn reply(request: &Request, state: &mut Behaviour, storage: &str) -> Vec<u8> {
    if !state.failures.is_empty() {
        return head(state.failures.remove(0), "", 0);
    }
    if let Some(name) = request.path.strip_prefix("/storage/") {
        return storage_reply(request, state, name);
    }
    if state.token.is_some() && state.token != request.token.as_deref() {
        return head("401 Unauthorized", "X-Error-Code: RepoNotFound\r\n", 0);
    }
    if state.renamed && request.path.contains("/org/name/") {
        let to = format!("Location: {}\r\n", request.path.replace("org/name", "org/new"));
        return head("307 Temporary Redirect", &to, 5);
    }
    let path = request.path.replace("org/new", "org/name");
    if let Some(revision) = path.strip_prefix("/api/models/org/name/revision/") {
        return listing(revision.trim_end_matches("?blobs=true"), state);
    }
    match path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) {
        Some(name) => file_reply(request, state, name, storage),
        None => head("404 Not Found", "X-Error-Code: RepoNotFound\r\n", 0),
    }
}

fn listing(revision: &str, state: &Behaviour) -> Vec<u8> {
    if !["main", "v1%2Fx", COMMIT].contains(&revision) {
        return head("404 Not Found", "X-Error-Code: RevisionNotFound\r\n", 0);
    }
    let siblings: Vec<_> = state
        .files
        .iter()
        .map(|(name, bytes)| serde_json::json!({ "rfilename": name, "size": bytes.len() }))
        .collect();
    let body = serde_json::json!({ "sha": state.sha.unwrap_or(COMMIT), "siblings": siblings }).to_string();
    [head("200 OK", "Content-Type: application/json\r\n", body.len()), body.into_bytes()].concat()
}

fn file_reply(request: &Request, state: &mut Behaviour, name: &str, storage: &str) -> Vec<u8> {
    let Some(bytes) = state.files.get(name).cloned() else {
        return head("404 Not Found", "X-Error-Code: EntryNotFound\r\n", 0);
    };
    let etag = state.etag.map_or_else(|| etag(name, &bytes), str::to_owned);
    if is_large(name) {
        let location =
            state.location.map_or_else(|| format!("{storage}/storage/{name}?sig=secret"), str::to_owned);
        let headers = format!(
            "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\n\
             Location: {location}\r\n",
            bytes.len()
        );
        return head("302 Found", &headers, 0);
    }
    let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: W/\"{etag}\"\r\n");
    let head = head("200 OK", &headers, bytes.len());
    if request.method == "HEAD" { head } else { [head, bytes].concat() }
}

fn storage_reply(request: &Request, state: &mut Behaviour, name: &str) -> Vec<u8> {
    if let Some(status) = state.storage_failure {
        return head(status, "", 0);
    }
    let name = name.split('?').next().unwrap();
    let mut bytes = state.files[name].clone();
    if state.corrupt {
        bytes[0] ^= 1;
    }
    let start = if state.ignore_range { 0 } else { request.start };
    let head = if start > 0 {
        let range = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        head("206 Partial Content", &range, bytes.len() - start)
    } else {
        head("200 OK", "ETag: \"storage-etag\"\r\n", bytes.len())
    };
    let end = match state.cut {
        Some((cut, at)) if cut == name && state.cuts > 0 => {
            state.cuts -= 1;
            state.cut = Some((cut, at + state.cut_step));
            at.max(start)
        }
        _ => bytes.len(),
    };
    [head, bytes[start..end].to_vec()].concat()
}

fn head(status: &str, headers: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")
        .into_bytes()
}
