//! Small parts of HTTP: addresses, redirects, headers, and the settings of the connection.

use ureq::http::{HeaderMap, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Body, Proxy};

use super::config::HubConfig;
use super::error::HubError;

/// Where a response redirects to, as a whole address.
pub(super) fn redirect(at: &str, response: &Response<Body>) -> Result<Option<String>, HubError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let to = text(response.headers(), "location").ok_or_else(|| protocol(at, "it redirects to nowhere"))?;
    let next = if to.starts_with("//") {
        format!("{}:{to}", at.split(':').next().unwrap_or("https"))
    } else if to.starts_with('/') {
        format!("{}{to}", origin(at))
    } else {
        to.to_owned()
    };
    let allowed = next.starts_with("https://") || (next.starts_with("http://") && at.starts_with("http://"));
    if allowed { Ok(Some(next)) } else { Err(protocol(at, "it redirects to an address that is not https")) }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

pub(super) fn same_origin(a: &str, b: &str) -> bool {
    origin(a).eq_ignore_ascii_case(origin(b))
}

/// An address without its query, which may be signed.
pub(super) fn bare(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

pub(super) fn protocol(url: &str, reason: &str) -> HubError {
    HubError::Protocol { url: bare(url), reason: reason.to_owned() }
}

pub(super) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name).and_then(|value| value.trim().parse().ok())
}

pub(super) fn proxy(config: &HubConfig) -> Result<Option<Proxy>, HubError> {
    let Some(address) = &config.proxy else { return Ok(None) };
    let bad =
        |_| HubError::BadSetting { name: "HTTPS_PROXY", reason: "is no usable proxy address".to_owned() };
    let parsed = Proxy::new(address.reveal()).map_err(bad)?;
    let Some(exceptions) = &config.no_proxy else { return Ok(Some(parsed)) };
    let mut builder = Proxy::builder(parsed.protocol()).host(parsed.host()).port(parsed.port());
    if let (Some(user), password) = (parsed.username(), parsed.password()) {
        builder = builder.username(user).password(password.unwrap_or_default());
    }
    for host in exceptions.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        builder = builder.no_proxy(host);
    }
    builder.build().map(Some).map_err(bad)
}

pub(super) fn tls(config: &HubConfig) -> Result<TlsConfig, HubError> {
    let Some(path) = &config.ca_bundle else { return Ok(TlsConfig::default()) };
    let pem = std::fs::read(path).map_err(|error| HubError::io(path, "read the certificates", error))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let reason = format!("{} holds no certificate", path.display());
        return Err(HubError::BadSetting { name: "REQUESTS_CA_BUNDLE", reason });
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}
