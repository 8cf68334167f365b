//! Where connections get their settings and secrets from. Traits, so that neither registry nor vault is needed to test
//! or to bench a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use secrecy::SecretString;
use troupe_protocol::access::SecretTemplate;
use troupe_protocol::error::Code;
use troupe_protocol::server::{ServerName, Transport};

use crate::openapi::Access;
use crate::runtime::Deadline;

use super::endpoint::Endpoint;
use super::oauth::{Bearer, Bearers};

/// What a connection needs to know of a registered server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredServer {
    /// Whether it may be connected to.
    pub enabled: bool,
    /// How it is reached.
    pub transport: Option<Transport>,
}

/// What has changed among the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerChange {
    /// This one.
    One(ServerName),
    /// Any of them: changes were missed.
    Any,
}

/// Knows the registered servers.
pub trait ServerSource: Send + Sync + 'static {
    /// The server of this name, from a view in memory.
    fn find(&self, name: &ServerName) -> Option<RegisteredServer>;

    /// Changes from now on.
    fn changes(&self) -> BoxStream<'static, ServerChange>;
}

/// Why a secret could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFailure {
    /// The vault's code.
    pub code: Code,
    /// The vault's words.
    pub reason: String,
}

/// Puts secrets into the places where templates name them.
pub trait SecretSource: Send + Sync + 'static {
    /// The text with all secrets in clear.
    fn resolve<'a>(
        &'a self,
        template: &'a SecretTemplate,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<SecretString, SecretFailure>>;

    /// What is kept of a login at this server; nothing when there was none.
    fn login<'a>(
        &'a self,
        _server: &'a ServerName,
    ) -> BoxFuture<'a, Result<Option<SecretString>, SecretFailure>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Keeps a login: in place of this one and of no other, whose failure has the code [`Code::WriteConflict`], or in place
    /// of whatever there is.
    fn keep_login<'a>(
        &'a self,
        server: &'a ServerName,
        _login: SecretString,
        _in_place_of: Option<SecretString>,
    ) -> BoxFuture<'a, Result<(), SecretFailure>> {
        let failure = SecretFailure {
            code: Code::StoreUnavailable,
            reason: format!("logins at {server} are kept nowhere"),
        };
        Box::pin(std::future::ready(Err(failure)))
    }

    /// The OpenAPI document of a server, which its entry names by its digest.
    fn document<'a>(
        &'a self,
        server: &'a ServerName,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Arc<str>, SecretFailure>> {
        let failure = SecretFailure {
            code: Code::StoreUnavailable,
            reason: format!("the document {digest} of {server} is kept nowhere"),
        };
        Box::pin(std::future::ready(Err(failure)))
    }
}

/// The transport with all secrets in clear, and with what else it only names.
pub(super) async fn resolve(
    server: &ServerName,
    transport: &Transport,
    secrets: &dyn SecretSource,
    bearers: &Bearers,
    deadline: Deadline,
) -> Result<Endpoint, SecretFailure> {
    let templates = match transport {
        Transport::Stdio { env, .. } => env,
        Transport::StreamableHttp { headers, .. }
        | Transport::Sse { headers, .. }
        | Transport::OpenApi { headers, .. } => headers,
    };
    let values = resolve_all(templates, secrets, deadline).await?;
    Ok(match transport.clone() {
        Transport::Stdio {
            command, args, cwd, ..
        } => Endpoint::Stdio {
            command,
            args,
            cwd,
            env: values,
        },
        Transport::StreamableHttp { url, .. } => Endpoint::StreamableHttp {
            bearer: bearer_unless_given(server, &url, &values, bearers, deadline).await?,
            url,
            headers: values,
        },
        Transport::Sse { url, .. } => Endpoint::Sse {
            bearer: bearer_unless_given(server, &url, &values, bearers, deadline).await?,
            url,
            headers: values,
        },
        Transport::OpenApi {
            document,
            base_url,
            security,
            ..
        } => {
            let access = Access {
                base_url: Some(base_url),
                headers: values,
                security: resolve_all(&security, secrets, deadline).await?,
            };
            let text = match document.text {
                Some(text) => text,
                None => secrets.document(server, &document.digest).await?,
            };
            Endpoint::OpenApi {
                document: text,
                access: Arc::new(access),
            }
        }
    })
}

/// The token of a login, for an entry that does not itself say what requests carry.
async fn bearer_unless_given(
    server: &ServerName,
    url: &str,
    headers: &BTreeMap<String, SecretString>,
    bearers: &Bearers,
    deadline: Deadline,
) -> Result<Option<Arc<Bearer>>, SecretFailure> {
    let is_given = headers
        .keys()
        .any(|name| name.eq_ignore_ascii_case("authorization"));
    if is_given {
        Ok(None)
    } else {
        bearers.get(server, url, deadline).await
    }
}

async fn resolve_all(
    templates: &BTreeMap<String, SecretTemplate>,
    secrets: &dyn SecretSource,
    deadline: Deadline,
) -> Result<BTreeMap<String, SecretString>, SecretFailure> {
    let mut values = BTreeMap::new();
    for (name, template) in templates {
        values.insert(name.clone(), secrets.resolve(template, deadline).await?);
    }
    Ok(values)
}
