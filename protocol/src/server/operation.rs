//! How a server is operated here: is it enabled, how is it reached, which secrets does it use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use super::hidden_args;
use crate::access::SecretTemplate;

/// How a server is operated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct Operation {
    /// Whether it is connected to, probed, and offered to callers.
    pub enabled: bool,
    /// How it is reached; nothing for an entry that is only catalogued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Words by which people group servers.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Who registered it.
    #[serde(default)]
    pub owner: String,
    /// How long a call may take, in milliseconds; the node's default when nothing is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(type = "number")]
    pub call_timeout_ms: Option<u64>,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export, optional_fields)]
pub enum Transport {
    /// A child process that is spoken to over its standard input and output.
    Stdio {
        /// The program: a path, or a name that is looked up on PATH. Never given to a shell.
        command: String,
        /// Its arguments, each passed as it is.
        #[serde(default)]
        args: Vec<String>,
        /// The folder it runs in; the node's when nothing is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        /// What is added to its environment.
        #[serde(default)]
        env: BTreeMap<String, SecretTemplate>,
    },
    /// A server reached over streamable HTTP.
    StreamableHttp {
        /// Its address, `http` or `https`.
        url: String,
        /// HTTP headers that are sent with each request.
        #[serde(default)]
        headers: BTreeMap<String, SecretTemplate>,
    },
    /// A server reached over HTTP with server-sent events, the transport of protocol version 2024-11-05.
    Sse {
        /// The address of its stream, `http` or `https`.
        url: String,
        /// HTTP headers that are sent with each request.
        #[serde(default)]
        headers: BTreeMap<String, SecretTemplate>,
    },
    /// A service over HTTP whose operations, as an OpenAPI document describes them, are tools.
    #[serde(rename = "openapi")]
    OpenApi {
        /// The document.
        document: OpenApiDocument,
        /// Where the service is, `http` or `https`.
        base_url: String,
        /// HTTP headers that are sent with each request.
        #[serde(default)]
        headers: BTreeMap<String, SecretTemplate>,
        /// The credentials of the document's security schemes, by their names there.
        #[serde(default)]
        security: BTreeMap<String, SecretTemplate>,
    },
}

/// An OpenAPI document that belongs to a server. The text itself is kept apart, as entries are small.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct OpenApiDocument {
    /// Which text: the beginning of its SHA-256, in hexadecimal digits.
    pub digest: String,
    /// How many bytes it has.
    #[ts(type = "number")]
    pub bytes: u64,
    /// Where it was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The text, on its way to where it is kept.
    #[serde(skip)]
    #[ts(skip)]
    #[schema(ignore)]
    pub text: Option<Arc<str>>,
}

impl fmt::Debug for OpenApiDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenApiDocument({}, {} bytes)", self.digest, self.bytes)
    }
}

impl Transport {
    /// The name of the transport, as it is written in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stdio { .. } => "stdio",
            Self::StreamableHttp { .. } => "streamable_http",
            Self::Sse { .. } => "sse",
            Self::OpenApi { .. } => "openapi",
        }
    }

    /// Where the server is, for people: the command line, or the address, without what may be credentials
    /// ([`Self::without_credentials`]).
    pub fn endpoint(&self) -> String {
        match self.without_credentials() {
            Self::Stdio { command, args, .. } => [vec![command], args].concat().join(" "),
            Self::StreamableHttp { url, .. } | Self::Sse { url, .. } => url,
            Self::OpenApi { base_url, .. } => base_url,
        }
    }

    /// The transport as people who do not administer it may see it: addresses without user, query and fragment, and
    /// arguments without the values that their names call a credential.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        let mut shown = self.clone();
        match &mut shown {
            Self::Stdio { args, .. } => hidden_args::hide(args),
            Self::StreamableHttp { url, .. } | Self::Sse { url, .. } => *url = address_for_people(url),
            Self::OpenApi {
                base_url, document, ..
            } => {
                *base_url = address_for_people(base_url);
                document.url = document.url.as_deref().map(address_for_people);
            }
        }
        shown
    }

    /// Every value that may refer to secrets, with the name of its header or variable.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &SecretTemplate)> {
        let (values, more) = match self {
            Self::Stdio { env, .. } => (env, None),
            Self::StreamableHttp { headers, .. } | Self::Sse { headers, .. } => (headers, None),
            Self::OpenApi {
                headers, security, ..
            } => (headers, Some(security)),
        };
        values
            .iter()
            .chain(more.into_iter().flatten())
            .map(|(name, template)| (name.as_str(), template))
    }
}

/// An address without user, query and fragment; any other text as it is.
pub(super) fn address_for_people(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        return text.to_owned();
    };
    if !url.has_host() {
        return text.to_owned();
    }
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for addresses that cannot have a user, which then have none to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_shows_no_credentials() {
        let transport = Transport::StreamableHttp {
            url: "https://user:pass@host.example/mcp?key=abc#x".into(),
            headers: BTreeMap::new(),
        };
        assert_eq!(transport.endpoint(), "https://host.example/mcp");
    }
}
