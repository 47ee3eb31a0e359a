//! Settings of the resolver, and how the environment variables of the Hugging Face tools map to them.
//!
//! Libraries do not read the environment: [`HubConfig::from_env`] takes the lookup as a function, the command
//! line passes `std::env::var`, a test passes a table. The names and their order of precedence are those of
//! `huggingface_hub`, so that a user's cache, token and mirror keep working.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::HubError;

/// Where models are asked for when nothing else is said.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A text that must not reach a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`, without the line end that a token file has.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Where the access token comes from. It is read when a request is about to be made: whoever merges local models or works
/// offline is not kept from it by a token that is of no use there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Token {
    /// None is sent.
    #[default]
    Absent,
    /// This one.
    Given(Secret),
    /// The content of this file; none if it does not exist or is empty.
    File(PathBuf),
}

impl Token {
    /// The token to send.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] for a token with characters no header can carry; [`HubError::Io`] for a token file that exists
    /// and cannot be read.
    pub(super) fn read(&self) -> Result<Option<Secret>, HubError> {
        let path = match self {
            Self::Absent => return Ok(None),
            Self::Given(secret) => return check_token("HF_TOKEN", secret.reveal()).map(Some),
            Self::File(path) => path,
        };
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => check_token("HF_TOKEN_PATH", &text).map(Some),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(HubError::io(path, "read the token file", error)),
        }
    }
}

/// Everything the resolver takes from outside.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// Folder of `models--…` folders. `None` is an error only once a hub model is asked for.
    pub cache: Option<PathBuf>,
    /// Hub address without trailing slash.
    pub endpoint: String,
    /// Access token, sent to the endpoint's own host only.
    pub token: Token,
    /// Never open a connection.
    pub offline: bool,
    /// Longest wait for a connection and for the answer to a question about a repository or file.
    pub metadata_timeout: Duration,
    /// Longest silence inside a file.
    pub download_timeout: Duration,
    /// How often a request that failed for a passing reason is repeated.
    pub retries: u32,
    /// Wait before the first repetition; doubles each time.
    pub retry_delay: Duration,
    /// Whether snapshots link to blobs; otherwise each snapshot holds its own files.
    pub symlinks: bool,
    /// Proxy address, which may hold a password.
    pub proxy: Option<Secret>,
    /// Hosts reached without the proxy, comma-separated.
    pub no_proxy: Option<String>,
    /// PEM file of certificates to trust in place of Mozilla's.
    pub ca_bundle: Option<PathBuf>,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            home: None,
            cache: None,
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: Token::Absent,
            offline: false,
            metadata_timeout: Duration::from_secs(10),
            download_timeout: Duration::from_secs(10),
            retries: 4,
            retry_delay: Duration::from_secs(1),
            symlinks: true,
            proxy: None,
            no_proxy: None,
            ca_bundle: None,
        }
    }
}

impl HubConfig {
    /// Reads the settings through `get`, which returns the value of an environment variable.
    ///
    /// # Errors
    /// [`HubError::BadSetting`] for an endpoint that is no web address, or a timeout that is no number.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let get = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let home = first(&["HOME", "USERPROFILE"]).map(PathBuf::from);
        let folder = |name: &str| get(name).map(|path| expand(&path, home.as_deref()));
        let hf_home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
            .or_else(|| home.as_ref().map(|dir| dir.join(".cache").join("huggingface")));
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let is_on = |name: &str| get(name).is_some_and(|value| is_true(&value));
        let default = Self::default();
        let endpoint = endpoint(get("HF_ENDPOINT"))?;
        Ok(Self {
            cache: cache.or_else(|| hf_home.as_ref().map(|dir| dir.join("hub"))),
            token: token(&get, hf_home.as_deref(), folder("HF_TOKEN_PATH")),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            metadata_timeout: seconds(&get, "HF_HUB_ETAG_TIMEOUT", default.metadata_timeout)?,
            download_timeout: seconds(&get, "HF_HUB_DOWNLOAD_TIMEOUT", default.download_timeout)?,
            symlinks: !is_on("HF_HUB_DISABLE_SYMLINKS"),
            proxy: first(proxy_names(&endpoint)).map(|text| Secret::new(&text)),
            no_proxy: first(&["NO_PROXY", "no_proxy"]),
            ca_bundle: ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().find_map(folder),
            endpoint,
            home,
            ..default
        })
    }
}

/// The four spellings of "on" that the Hugging Face tools accept; anything else is off.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_ascii_uppercase().as_str())
}

fn proxy_names(endpoint: &str) -> &'static [&'static str] {
    if endpoint.starts_with("https:") {
        &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    } else {
        &["http_proxy", "ALL_PROXY", "all_proxy"] // HTTP_PROXY can be set by a request header under CGI
    }
}

fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(path),
    }
}

fn endpoint(value: Option<String>) -> Result<String, HubError> {
    let text = value.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    check_endpoint(text.trim().trim_end_matches('/'))
}

/// Returns the address if requests can be built on it.
pub(super) fn check_endpoint(text: &str) -> Result<String, HubError> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control() || "?#@\\".contains(c));
    if host.is_empty() || host.starts_with('/') || !plain {
        let reason =
            "must be a web address such as https://huggingface.co, without query or password".to_owned();
        return Err(HubError::BadSetting { name: "HF_ENDPOINT", reason });
    }
    Ok(text.to_owned())
}

fn token(
    get: &impl Fn(&str) -> Option<String>,
    hf_home: Option<&Path>,
    token_path: Option<PathBuf>,
) -> Token {
    if get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return Token::Absent;
    }
    if let Some(text) = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")) {
        return Token::Given(Secret::new(&text));
    }
    token_path.or_else(|| hf_home.map(|dir| dir.join("token"))).map_or(Token::Absent, Token::File)
}

fn check_token(name: &'static str, text: &str) -> Result<Secret, HubError> {
    let secret = Secret::new(text);
    if secret.reveal().bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(secret);
    }
    let reason = "the token has a space or a character outside ASCII".to_owned();
    Err(HubError::BadSetting { name, reason })
}

fn seconds(
    get: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: Duration,
) -> Result<Duration, HubError> {
    let Some(text) = get(name) else { return Ok(default) };
    let value = text.trim().parse::<f64>().ok().filter(|value| *value > 0.0);
    value.and_then(|value| Duration::try_from_secs_f64(value).ok()).ok_or_else(|| HubError::BadSetting {
        name,
        reason: format!("`{text}` is no number of seconds above 0"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: &[(&str, &str)]) -> Result<HubConfig, HubError> {
        HubConfig::from_env(|name| {
            table.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    fn cache(table: &[(&str, &str)]) -> PathBuf {
        read(table).unwrap().cache.unwrap()
    }

    #[test]
    fn cache_folder_by_precedence() {
        assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        let home = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")];
        assert_eq!(cache(&home), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]), Path::new("/new"));
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "")]), Path::new("/h/.cache/huggingface/hub"));
        assert!(read(&[]).unwrap().cache.is_none());
    }

    #[test]
    fn switches_take_four_spellings() {
        for on in ["1", "on", "Yes", "TRUE"] {
            assert!(read(&[("HF_HUB_OFFLINE", on)]).unwrap().offline, "{on}");
            assert!(read(&[("TRANSFORMERS_OFFLINE", on)]).unwrap().offline, "{on}");
        }
        for off in ["0", "", "off", "2"] {
            assert!(!read(&[("HF_HUB_OFFLINE", off)]).unwrap().offline, "{off}");
        }
        assert!(!read(&[("HF_HUB_DISABLE_SYMLINKS", "1")]).unwrap().symlinks);
    }

    #[test]
    fn endpoint_and_timeouts_are_checked() {
        assert_eq!(read(&[("HF_ENDPOINT", "http://mirror/hf//")]).unwrap().endpoint, "http://mirror/hf");
        for bad in ["mirror", "ftp://x", "https://", "https://u:p@x", "https://x?y", "http:///x"] {
            let error = read(&[("HF_ENDPOINT", bad)]).unwrap_err();
            assert!(matches!(error, HubError::BadSetting { name: "HF_ENDPOINT", .. }), "{bad}");
        }
        assert_eq!(read(&[("HF_HUB_ETAG_TIMEOUT", "3")]).unwrap().metadata_timeout, Duration::from_secs(3));
        for bad in ["x", "0", "-1", "nan", "inf", "1e300"] {
            assert!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn token_by_precedence_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::io::Write::write_all(
                &mut std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
            path.to_str().unwrap().to_owned()
        };
        let token = |table: &[(&str, &str)]| read(table).unwrap().token.read();
        let of = |table: &[(&str, &str)]| token(table).unwrap().map(|token| token.reveal().to_owned());
        assert_eq!(of(&[("HF_HOME", home)]), None);
        write("token", "from_home\n");
        let path = write("other", "from_path\n");
        assert_eq!(of(&[("HF_HOME", home)]).as_deref(), Some("from_home"));
        let table = [("HF_HOME", home), ("HF_TOKEN_PATH", &path)];
        assert_eq!(of(&table).as_deref(), Some("from_path"));
        let table = [("HF_HOME", home), ("HUGGING_FACE_HUB_TOKEN", "old")];
        assert_eq!(of(&table).as_deref(), Some("old"));
        let table = [("HF_TOKEN", " hf_new\n"), ("HUGGING_FACE_HUB_TOKEN", "old")];
        assert_eq!(of(&table).as_deref(), Some("hf_new"));
        assert_eq!(of(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let shown =
            format!("{:?}", read(&[("HF_TOKEN", "hf_new"), ("HTTPS_PROXY", "http://u:pw@p")]).unwrap());
        assert!(!shown.contains("hf_new") && !shown.contains("pw"), "{shown}");
        let error = token(&[("HF_TOKEN", "hf_ab cd")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("hf_ab"), "{error}");
        // A folder stands in for a file without the right to read it, which root has.
        let error = token(&[("HF_TOKEN_PATH", home)]).unwrap_err().to_string();
        assert!(error.contains("read the token file") && error.contains(home), "{error}");
    }
}
