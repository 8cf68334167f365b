//! The way to a server: over connections of its own where that is possible, else through a client that all share.
//!
//! Most servers behind a gateway are reached over plain HTTP, directly. For them the general client does much for each call
//! that is the same every time: it parses the address, looks for proxies and redirects, and has a task for each
//! connection. For TLS, proxies, redirects and passwords in addresses it is the right one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use reqwest::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Client, Method};
use url::Url;

use crate::upstream::error::Failure;
use crate::upstream::oauth::Bearer;

use super::answer;
use super::client::{AGENT, for_address, in_words, is_on_this_machine};
use super::kept::{Failed, KeptConnections};
use super::response::Response;

/// The variables that name a proxy for plain HTTP.
const PROXY_VARIABLES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// A server, and how it is reached.
pub(super) struct Target {
    client: Client,
    pub url: Url,
    /// The headers that its entry gives; some hold secrets.
    entry: HeaderMap,
    /// The token of a login, unless the entry itself says what requests carry.
    bearer: Option<Arc<Bearer>>,
    own: Option<OwnWay>,
}

/// Connections of the server's own.
struct OwnWay {
    connections: Arc<KeptConnections>,
    path: Uri,
    host: HeaderValue,
    /// Whether the server has sent somebody elsewhere: the general client follows from then on.
    is_redirected: AtomicBool,
}

impl Target {
    /// The server at this address. Nothing is sent yet.
    pub fn new(url: Url, entry: HeaderMap, bearer: Option<Arc<Bearer>>) -> Result<Self, Failure> {
        let client = for_address(&url).map_err(Failure::NotSent)?;
        let goes_directly = is_on_this_machine(&url) || !has_proxy();
        let own = if goes_directly { OwnWay::to(&url) } else { None };
        Ok(Self {
            client,
            url,
            entry,
            bearer,
            own,
        })
    }

    /// What every request carries: the headers of the entry and the token.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = self.entry.clone();
        if let Some(token) = self.bearer.as_ref().and_then(|bearer| bearer.header()) {
            headers.append(AUTHORIZATION, token);
        }
        headers
    }

    /// Sends a request and waits for the beginning of its answer. Its headers are made again should the server send it
    /// elsewhere.
    pub async fn send(
        &self,
        method: Method,
        headers: impl Fn() -> HeaderMap,
        body: Bytes,
    ) -> Result<Response, Failed> {
        let own = self.own.as_ref();
        if let Some(own) = own.filter(|own| !own.is_redirected.load(Ordering::Relaxed)) {
            let response = own.send(method.clone(), headers(), body.clone()).await?;
            if !response.is_redirect() {
                return Ok(response);
            }
            own.is_redirected.store(true, Ordering::Relaxed);
        }
        let sent = self.send_generally(method, self.url.clone(), headers(), body);
        Box::pin(sent).await.map(Response::General)
    }

    /// Sends a request through the general client, also to another address than the server's.
    pub async fn send_generally(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<reqwest::Response, Failed> {
        let request = self.client.request(method, url).headers(headers);
        let sent = request.body(body).send().await;
        sent.map_err(|error| {
            let words = in_words(&error);
            if error.is_connect() {
                Failed::NotConnected(words)
            } else {
                Failed::Broken(words)
            }
        })
    }

    /// Whether the server asks for a login that can be had: one whose entry says itself what requests carry does not.
    pub fn wants_login(&self, response: &Response) -> bool {
        !self.entry.contains_key(AUTHORIZATION) && answer::needs_login(response)
    }

    /// Whether requests carry the token of a login.
    pub fn has_token(&self) -> bool {
        self.bearer.is_some()
    }

    /// What is to be done about an answer that asks for a login: the token is renewed, if there is one.
    pub fn challenged(&self) -> Failure {
        if let Some(bearer) = &self.bearer {
            bearer.challenge();
        }
        Failure::NeedsLogin
    }
}

impl OwnWay {
    fn to(url: &Url) -> Option<Self> {
        let is_plain = url.scheme() == "http" && url.username().is_empty() && url.password().is_none();
        let host = url.host_str().filter(|_| is_plain)?;
        let authority = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = url.query().map_or_else(
            || url.path().to_owned(),
            |query| format!("{}?{query}", url.path()),
        );
        let origin = format!("http://{authority}/").parse().ok()?;
        Some(Self {
            connections: Arc::new(KeptConnections::new(origin)),
            path: path.parse().ok()?,
            host: HeaderValue::from_str(&authority).ok()?,
            is_redirected: AtomicBool::new(false),
        })
    }

    async fn send(&self, method: Method, mut headers: HeaderMap, body: Bytes) -> Result<Response, Failed> {
        // An entry may say them itself.
        let usual = [
            (HOST, self.host.clone()),
            (USER_AGENT, HeaderValue::from_static(AGENT)),
            (ACCEPT, HeaderValue::from_static("*/*")),
        ];
        for (name, value) in usual {
            headers.entry(name).or_insert(value);
        }
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = headers;
        let (parts, body) = self.connections.send(request).await?.into_parts();
        Ok(Response::Kept(parts, body))
    }
}

/// Whether plain HTTP goes through a proxy, as the environment of the process says.
fn has_proxy() -> bool {
    static HAS_PROXY: OnceLock<bool> = OnceLock::new();
    *HAS_PROXY.get_or_init(|| {
        PROXY_VARIABLES
            .iter()
            .any(|name| std::env::var_os(name).is_some())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_addresses_have_connections_of_their_own() {
        for (url, host, path) in [
            ("http://127.0.0.1:8080/mcp?a=b", "127.0.0.1:8080", "/mcp?a=b"),
            ("http://[::1]/", "[::1]", "/"),
            ("http://localhost", "localhost", "/"),
        ] {
            let own = OwnWay::to(&url.parse().unwrap()).unwrap();
            assert_eq!(
                (own.host.to_str().unwrap(), own.path.to_string().as_str()),
                (host, path)
            );
        }
        for url in ["https://127.0.0.1/mcp", "http://ada:secret@127.0.0.1/mcp"] {
            assert!(OwnWay::to(&url.parse().unwrap()).is_none(), "{url}");
        }
    }
}
