//! Where a server is and what it takes to get in, with the secrets in clear. Never logged, never kept elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use super::oauth::Bearer;
use crate::openapi::Access;

/// A transport whose secrets have been resolved. Neither `Debug` nor `Serialize`: it holds secrets in clear.
pub enum Endpoint {
    /// A child process.
    Stdio {
        /// The program: a path, or a name that is looked up on PATH.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// The folder it runs in.
        cwd: Option<String>,
        /// What is added to its environment.
        env: BTreeMap<String, SecretString>,
    },
    /// A server reached over streamable HTTP.
    StreamableHttp {
        /// Its address.
        url: String,
        /// Headers of each request.
        headers: BTreeMap<String, SecretString>,
        /// The token of a login.
        bearer: Option<Arc<Bearer>>,
    },
    /// A service that a document describes.
    OpenApi {
        /// The document.
        document: Arc<str>,
        /// Where the service is and what it takes to get in.
        access: Arc<Access>,
    },
    /// A server reached over HTTP with server-sent events.
    Sse {
        /// The address of its stream.
        url: String,
        /// Headers of each request.
        headers: BTreeMap<String, SecretString>,
        /// The token of a login.
        bearer: Option<Arc<Bearer>>,
    },
}

impl Endpoint {
    /// The token of a login, where requests carry one.
    pub(super) fn bearer(&self) -> Option<&Arc<Bearer>> {
        match self {
            Self::StreamableHttp { bearer, .. } | Self::Sse { bearer, .. } => bearer.as_ref(),
            Self::Stdio { .. } | Self::OpenApi { .. } => None,
        }
    }

    /// The values that must not appear in logs: each whole, without the scheme before it (`Bearer …`), as servers
    /// repeat a token without that, and user and password of a service as they travel. The token of a login looks after
    /// itself: it changes.
    pub(super) fn secrets(&self) -> impl Iterator<Item = SecretString> {
        let (values, more) = match self {
            Self::Stdio { env, .. } => (env, None),
            Self::StreamableHttp { headers, .. } | Self::Sse { headers, .. } => (headers, None),
            Self::OpenApi { access, .. } => (&access.headers, Some(&access.security)),
        };
        let credential = |value: &SecretString| {
            let (_scheme, credential) = value.expose_secret().split_once(' ')?;
            Some(SecretString::from(credential.trim()))
        };
        let more: Vec<&SecretString> = more.into_iter().flat_map(BTreeMap::values).collect();
        let as_basic = |value: &&SecretString| {
            let text = value.expose_secret();
            text.contains(':')
                .then(|| SecretString::from(STANDARD.encode(text)))
        };
        let encoded: Vec<SecretString> = more.iter().filter_map(as_basic).collect();
        values
            .values()
            .chain(more)
            .flat_map(move |value| [Some(value.clone()), credential(value)])
            .flatten()
            .chain(encoded)
    }
}

/// Bounds and times of connections to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The largest message read from or written to a server, in bytes.
    pub message_bytes_max: usize,
    /// Calls in flight to one server.
    pub calls_in_flight_max: usize,
    /// How long a server may take to start and shake hands, in milliseconds.
    pub start_timeout_ms: u64,
    /// How long a stdio server may take to answer `server/discover` before it is taken for a legacy one, in
    /// milliseconds. An answer that comes later is still understood.
    pub probe_timeout_ms: u64,
    /// How long a process may take to end by itself once its input is closed, in milliseconds.
    pub stop_timeout_ms: u64,
    /// How long calls wait for a server that was up to come back, in milliseconds.
    pub restart_wait_ms_max: u64,
    /// The longest pause between attempts to connect, in milliseconds.
    pub backoff_ms_max: u64,
    /// How long a list is kept of a server that does not announce changes, in milliseconds.
    pub list_age_ms_max: u64,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            message_bytes_max: troupe_protocol::jsonrpc::MESSAGE_BYTES_MAX,
            calls_in_flight_max: 1_024,
            start_timeout_ms: 60_000,
            probe_timeout_ms: 3_000,
            stop_timeout_ms: 2_000,
            restart_wait_ms_max: 15_000,
            backoff_ms_max: 30_000,
            list_age_ms_max: 300_000,
        }
    }
}
