//! The node's HTTP API as JSON. Types are not shared with the node: what is asserted is what is on the wire.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

/// Long enough for the slowest real server to start on a loaded machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Characters of an answer that a failing test shows.
const TEXT_SHOWN: usize = 2_000;

/// A client with or without a key.
#[derive(Clone)]
pub struct Api {
    /// `http://127.0.0.1:PORT`.
    pub base: String,
    key: Option<String>,
    client: Client,
}

/// One answer, read whole.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

/// An HTTP client. TLS is never spoken here, but the client wants a provider all the same.
pub fn http_client() -> Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .no_proxy()
        .build()
        .expect("an HTTP client")
}

impl Api {
    pub fn new(base: impl Into<String>, key: Option<String>) -> Self {
        Self {
            base: base.into(),
            key,
            client: http_client(),
        }
    }

    /// The same node, seen by the owner of another key, or by nobody.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self {
            key: key.map(str::to_owned),
            ..self.clone()
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.headers.get("content-type");
        write!(
            f,
            "{} {kind:?} {}",
            self.status,
            self.text.chars().take(TEXT_SHOWN).collect::<String>()
        )
    }
}

impl Answer {
    /// Sends the request and reads the answer; panics when none comes.
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("the node answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("the answer arrives whole");
        Self {
            status,
            headers,
            text,
        }
    }

    /// The body as JSON; panics when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body of a 2xx answer; panics on any other, showing it.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "expected success: {self:?}");
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// Asserts an error of this status and stable code, in the form of RFC 9457; answers the problem document.
    pub fn problem(self, status: u16, code: &str) -> Value {
        let kind = self
            .headers
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(kind, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        problem
    }
}
