//! The few requests a model download needs, over `ureq`.
//!
//! - `GET {endpoint}/api/models/{repo}/revision/{rev}?blobs=true`: the commit and its files
//! - `HEAD {endpoint}/{repo}/resolve/{commit}/{file}`: ETag and size
//! - `GET` on the same address, with `Range` to go on
//!
//! Redirects are followed by hand: the token goes to the endpoint's own host only, never to the storage host
//! it redirects to, and never from https to http.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::HubEvent;
use super::config::{HubConfig, Secret, check_endpoint};
use super::error::HubError;
use super::name::{Commit, RepoId, Revision, blob_name, encode};
use super::wire::{bare, number, protocol, proxy, redirect, same_origin, text, tls};

const MAX_REDIRECTS: usize = 8;
/// Largest listing read; a hundred thousand files stay below.
const MAX_LISTING: u64 = 64_000_000;
/// Longest wait a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// One hub, with its connections.
pub(super) struct Client<'a> {
    agent: Agent,
    config: &'a HubConfig,
    endpoint: String,
    token: Option<Secret>,
}

/// What the hub says about a revision.
pub(super) struct Listing {
    pub(super) commit: Commit,
    pub(super) files: Vec<Sibling>,
}

/// A file of a repository.
#[derive(Debug, Deserialize)]
pub(super) struct Sibling {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    /// Bytes; a mirror may leave it out.
    pub(super) size: Option<u64>,
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// What the hub says about one file.
pub(super) struct FileFacts {
    /// Name of the blob: SHA-256 of large files, git's hash of small ones.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: Option<u64>,
}

impl<'a> Client<'a> {
    pub(super) fn new(config: &'a HubConfig) -> Result<Self, HubError> {
        let endpoint = check_endpoint(config.endpoint.trim_end_matches('/'))?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("onefold/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(config.metadata_timeout))
            .timeout_per_read(Some(config.download_timeout))
            .timeout_per_write(Some(config.download_timeout))
            .proxy(proxy(config)?)
            .tls_config(tls(config)?)
            .build()
            .new_agent();
        Ok(Self { agent, config, endpoint, token: config.token.read()? })
    }

    /// Asks for the commit and files of a revision.
    pub(super) fn listing(
        &self,
        repo: &RepoId,
        revision: &Revision,
        events: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<Listing, HubError> {
        let revision_part = encode(revision.as_str(), "");
        let url = format!("{}/api/models/{repo}/revision/{revision_part}?blobs=true", self.endpoint);
        self.retrying(&repo.to_string(), events, |_| {
            let (response, _) = self.follow("GET", &url, None)?;
            if response.status() != StatusCode::OK {
                let no_revision = text(response.headers(), "x-error-code") == Some("RevisionNotFound");
                let absent = if no_revision { self.no_revision(repo, revision) } else { self.no_repo(repo) };
                return Err(self.refusal(repo, &url, &response, absent));
            }
            read_listing(&url, response)
        })
    }

    /// Asks for the blob name and size of one file.
    pub(super) fn facts(&self, repo: &RepoId, commit: &Commit, file: &str) -> Result<FileFacts, HubError> {
        let url = self.file_url(repo, commit, file);
        let (response, _) = self.follow("HEAD", &url, None)?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refusal(repo, &url, &response, file_not_found(repo, commit, file)));
        }
        let headers = response.headers();
        let answered = text(headers, "x-repo-commit").and_then(Commit::parse);
        if answered.is_some_and(|answered| answered != *commit) {
            return Err(protocol(&url, "it answers for another commit than asked for"));
        }
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag =
            etag.and_then(blob_name).ok_or_else(|| protocol(&url, "it sends no usable ETag"))?.to_owned();
        // The length of a redirect's own body says nothing about the file.
        let length = if status.is_success() { number(headers, "content-length") } else { None };
        Ok(FileFacts { etag, size: number(headers, "x-linked-size").or(length) })
    }

    /// Opens a file from byte `start` on. The answer may ignore `start`: its status says so.
    pub(super) fn open(
        &self,
        repo: &RepoId,
        commit: &Commit,
        file: &str,
        start: u64,
    ) -> Result<Response<Body>, HubError> {
        let url = self.file_url(repo, commit, file);
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let (response, at) = self.follow("GET", &url, range.as_deref())?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            // A storage host knows no tokens: its refusal says nothing about the user's rights.
            _ if !same_origin(&at, &self.endpoint) => Err(status_error(&at, &response)),
            _ => Err(self.refusal(repo, &url, &response, file_not_found(repo, commit, file))),
        }
    }

    pub(super) fn file_url(&self, repo: &RepoId, commit: &Commit, file: &str) -> String {
        format!("{}/{repo}/resolve/{}/{}", self.endpoint, commit.as_str(), encode(file, "/"))
    }

    /// Repeats `attempt` while it fails for a passing reason, with growing waits. A transfer that got further
    /// has all its attempts again: a large file over a bad line needs many.
    pub(super) fn retrying<T>(
        &self,
        subject: &str,
        events: &mut dyn FnMut(HubEvent<'_>),
        mut attempt: impl FnMut(&mut dyn FnMut(HubEvent<'_>)) -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let fresh = (self.config.retries, self.config.retry_delay);
        let (mut left, mut delay) = fresh;
        let mut furthest = 0;
        loop {
            let error = match attempt(events) {
                Err(error) if error.is_transient() => error,
                result => return result,
            };
            if let HubError::Interrupted { received, .. } = error
                && received > furthest
            {
                furthest = received;
                (left, delay) = fresh;
            }
            if left == 0 {
                return Err(error);
            }
            let wait = asked_wait(&error).unwrap_or(delay).min(MAX_WAIT);
            events(HubEvent::Retrying { subject, error: &error, wait });
            std::thread::sleep(wait);
            (left, delay) = (left - 1, delay.saturating_mul(2));
        }
    }

    /// Sends a request and follows redirects; a `HEAD` stops at the one that describes the file.
    fn follow(
        &self,
        method: &str,
        url: &str,
        range: Option<&str>,
    ) -> Result<(Response<Body>, String), HubError> {
        let mut at = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let response = self.send(method, &at, range)?;
            let Some(next) = redirect(&at, &response)? else { return Ok((response, at)) };
            let described = response.headers().contains_key("x-linked-etag") || !same_origin(&at, &next);
            if method == "HEAD" && described {
                return Ok((response, at));
            }
            at = next;
        }
        Err(protocol(url, "it redirects in circles"))
    }

    fn send(&self, method: &str, url: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let request = match method {
            "HEAD" => self.agent.head(url),
            _ => self.agent.get(url),
        };
        let mut request = request.config().timeout_recv_response(Some(self.config.metadata_timeout)).build();
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.call().map_err(|error| HubError::Unreachable { url: bare(url), reason: error.to_string() })
    }

    /// Turns a status that is no success into an error; `absent` is what a 404 means for this request.
    fn refusal(&self, repo: &RepoId, url: &str, response: &Response<Body>, absent: HubError) -> HubError {
        let headers = response.headers();
        let status = response.status().as_u16();
        let code = text(headers, "x-error-code").unwrap_or_default();
        match status {
            404 if code == "RepoNotFound" => self.no_repo(repo),
            404 => absent,
            401 | 403 => HubError::Refused {
                repo: repo.to_string(),
                endpoint: self.endpoint.clone(),
                status,
                with_token: self.token.is_some(),
                gated: code == "GatedRepo",
                tried: Vec::new(),
            },
            _ => status_error(url, response),
        }
    }

    fn no_repo(&self, repo: &RepoId) -> HubError {
        HubError::NotFound { repo: repo.to_string(), endpoint: self.endpoint.clone(), tried: Vec::new() }
    }

    fn no_revision(&self, repo: &RepoId, revision: &Revision) -> HubError {
        let (repo, revision) = (repo.to_string(), revision.as_str().to_owned());
        HubError::RevisionNotFound { repo, revision, endpoint: self.endpoint.clone() }
    }
}

fn status_error(url: &str, response: &Response<Body>) -> HubError {
    let headers = response.headers();
    HubError::Status {
        url: bare(url),
        status: response.status().as_u16(),
        message: text(headers, "x-error-message").unwrap_or_default().chars().take(200).collect(),
        retry_after: number(headers, "retry-after").map(Duration::from_secs),
    }
}

fn read_listing(url: &str, mut response: Response<Body>) -> Result<Listing, HubError> {
    let bytes = response.body_mut().with_config().limit(MAX_LISTING).read_to_vec();
    let bytes = bytes.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(_) => protocol(url, "its listing is too large"),
        error => HubError::Unreachable { url: bare(url), reason: error.to_string() },
    })?;
    let info: ModelInfo = serde_json::from_slice(&bytes)
        .map_err(|error| protocol(url, &format!("its listing is unreadable ({error})")))?;
    let commit = Commit::parse(&info.sha).ok_or_else(|| protocol(url, "it names no commit"))?;
    Ok(Listing { commit, files: info.siblings })
}

fn file_not_found(repo: &RepoId, commit: &Commit, file: &str) -> HubError {
    HubError::FileNotFound {
        repo: repo.to_string(),
        commit: commit.as_str().to_owned(),
        file: file.to_owned(),
    }
}

fn asked_wait(error: &HubError) -> Option<Duration> {
    match error {
        HubError::Status { retry_after, .. } => *retry_after,
        _ => None,
    }
}
