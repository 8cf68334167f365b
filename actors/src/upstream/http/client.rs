//! HTTP clients for servers, shared by all connections so that pools and TLS settings exist once.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

/// How Troupe calls itself.
pub(super) const AGENT: &str = concat!("troupe/", env!("CARGO_PKG_VERSION"));
/// How long it may take to connect, TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects followed within one origin: servers answer `/mcp` with `/mcp/`.
const REDIRECTS_MAX: usize = 3;
/// How long an idle connection is kept. Shorter than what servers commonly allow.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// The client for a server at this address.
///
/// Addresses on this machine never go through a proxy, whatever the environment says.
pub(crate) fn for_address(url: &Url) -> Result<Client, String> {
    static DIRECT: OnceLock<Result<Client, String>> = OnceLock::new();
    static BY_ENVIRONMENT: OnceLock<Result<Client, String>> = OnceLock::new();
    if is_on_this_machine(url) {
        DIRECT.get_or_init(|| build(|builder| builder.no_proxy())).clone()
    } else {
        BY_ENVIRONMENT.get_or_init(|| build(|builder| builder)).clone()
    }
}

fn build(adjust: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Result<Client, String> {
    // The provider is the process's; a second installation fails and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(redirect::Policy::custom(within_origin));
    adjust(builder)
        .build()
        .map_err(|error| format!("no HTTP client: {}", in_words(&error)))
}

/// Follows a redirect only within the origin: headers may hold secrets that are meant for it alone.
fn within_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let same_origin = attempt
        .previous()
        .last()
        .is_some_and(|from| from.origin() == attempt.url().origin());
    if same_origin && attempt.previous().len() <= REDIRECTS_MAX {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

pub(super) fn is_on_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An error with its causes. The address is left out, since its query may hold a secret.
pub(crate) fn in_words(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_in_words = cause.to_string();
        if causes.last() != Some(&cause_in_words) {
            causes.push(cause_in_words);
        }
        source = cause.source();
    }
    match (error.is_connect(), error.is_timeout(), causes.last()) {
        (true, true, _) => "connecting took too long".to_owned(),
        (true, false, Some(cause)) => format!("connecting failed: {cause}"),
        (false, true, _) => "the answer took too long".to_owned(),
        (_, _, Some(cause)) => cause.clone(),
        (_, _, None) => "the HTTP exchange failed".to_owned(),
    }
}

/// The headers that an entry adds to each request; they may be secret.
///
/// # Errors
/// Which is none that HTTP allows.
pub(crate) fn headers_of(given: &BTreeMap<String, SecretString>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        let invalid = || format!("header {name:?} has a name or value that HTTP does not allow");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
