//! Logins at servers that ask for OAuth: found out, begun, completed, refreshed.
//!
//! What a login gave is sealed in the vault and so replicated: every node uses it. Each node that has a connection keeps
//! its token fresh ([`Bearer`]): nodes take turns, so one refreshes it and the others take that; `schedule` says when.
//! A refresh token is used once: many authorization servers end a login of which they see one twice. The protocol itself is rmcp's `AuthorizationManager`: discovery
//! (RFC 9728, RFC 8414), registration of the client, PKCE, the check of the issuer, resource indicators. It reaches
//! private addresses only for servers that have one.
//!
//! Source: `docs/specification/2026-07-28/basic/authorization` of the protocol's repository.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rmcp::transport::auth::{
    AuthorizationManager, ClientCredentialsConfig, InMemoryCredentialStore, OAuthClientConfig,
};
use tokio::time::Instant;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::{LoginGrant, ServerLogin, ServerLoginStarted, ServerLoginState};

use super::sources::{SecretFailure, SecretSource};

mod bearer;
mod bearers;
mod challenge;
mod login;
mod schedule;
#[cfg(test)]
mod tests;

pub(super) use bearer::Bearer;
pub(super) use bearers::Bearers;
use bearers::Ground;
use login::{Authority, Login};

/// How long somebody has to log in once that was begun.
const LOGIN_WITHIN: Duration = Duration::from_secs(600);
/// Logins begun and not completed; the oldest gives way.
const BEGUN_MAX: usize = 256;
/// What authorization servers show to people.
const CLIENT_NAME: &str = "Troupe";

/// Why there is no login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The server is not reached over HTTP.
    #[error("server {0} is not reached over HTTP: there is nowhere to log in")]
    NotHttp(ServerName),
    /// The authorization server, or the way to it, refused.
    #[error("no login at server {server}: {reason}")]
    Refused {
        /// The server.
        server: ServerName,
        /// Why.
        reason: String,
    },
    /// No login that was begun here has this state.
    #[error("this login was not begun at this node, or more than ten minutes ago: begin it again")]
    NotBegun,
    /// It could not be kept.
    #[error("the login cannot be kept: {0}")]
    NotKept(String),
}

impl Coded for LoginError {
    fn code(&self) -> Code {
        match self {
            Self::NotHttp(_) => Code::InvalidField,
            Self::Refused { .. } | Self::NotBegun => Code::LoginFailed,
            Self::NotKept(_) => Code::StoreUnavailable,
        }
    }
}

/// What a foreign server said may be as long as it likes.
const REASON_CHARS_MAX: usize = 300;

fn in_short(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().take(REASON_CHARS_MAX).collect()
}

/// A login that waits for its person.
struct Begun {
    server: ServerName,
    server_url: String,
    manager: AuthorizationManager,
    store: InMemoryCredentialStore,
    authority: Authority,
    client: OAuthClientConfig,
    at: Instant,
}

/// The logins of a node's servers.
pub(super) struct Logins {
    secrets: Arc<dyn SecretSource>,
    begun: Mutex<HashMap<String, Begun>>,
}

impl Logins {
    pub fn new(secrets: Arc<dyn SecretSource>) -> Self {
        Self {
            secrets,
            begun: Mutex::default(),
        }
    }

    /// Begins a login; with client credentials it is complete when this returns.
    pub async fn start(
        &self,
        server: &ServerName,
        server_url: &str,
        request: ServerLogin,
        redirect_uri: &str,
    ) -> Result<ServerLoginStarted, LoginError> {
        let refused = |error: &dyn std::fmt::Display| LoginError::Refused {
            server: server.clone(),
            reason: in_short(error),
        };
        let (mut manager, store, authority) =
            login::manager(server_url, challenge::challenge_of(server_url).await)
                .await
                .map_err(|error| refused(&error))?;
        if request.grant == LoginGrant::ClientCredentials {
            let (Some(client_id), Some(client_secret)) = (request.client_id, request.client_secret) else {
                return Err(refused(&"client credentials need client_id and client_secret"));
            };
            let config = ClientCredentialsConfig::ClientSecret {
                client_id: client_id.clone(),
                client_secret: client_secret.expose().to_owned(),
                scopes: request.scopes.clone(),
                resource: Some(server_url.to_owned()),
            };
            let mut client = OAuthClientConfig::new(client_id, redirect_uri).with_scopes(request.scopes);
            client = client.with_client_secret(client_secret.expose());
            let login =
                Login::by_credentials(&mut manager, &store, server_url, authority, &config, client).await;
            self.keep(server, &login.map_err(|error| refused(&error))?)
                .await?;
            return Ok(ServerLoginStarted { url: None });
        }
        let scopes = if request.scopes.is_empty() {
            manager.select_initial_scopes(&[]).await
        } else {
            request.scopes
        };
        let wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let client = match request.client_id {
            Some(client_id) => {
                let mut client = OAuthClientConfig::new(client_id, redirect_uri).with_scopes(scopes.clone());
                if let Some(secret) = &request.client_secret {
                    client = client.with_client_secret(secret.expose());
                }
                manager
                    .configure_client(client.clone())
                    .map_err(|error| refused(&error))?;
                client
            }
            None => {
                let registered = manager.register_client(CLIENT_NAME, redirect_uri, &wanted).await;
                registered.map_err(|error| refused(&error))?
            }
        };
        let url = manager.get_authorization_url(&wanted).await;
        let url = url.map_err(|error| refused(&error))?;
        let state = url::Url::parse(&url).ok().and_then(|url| {
            let mut pairs = url.query_pairs();
            pairs
                .find(|(name, _)| name == "state")
                .map(|(_, state)| state.into_owned())
        });
        let state = state.ok_or_else(|| refused(&"the address to log in at has no state"))?;
        let begun = Begun {
            server: server.clone(),
            server_url: server_url.to_owned(),
            manager,
            store,
            authority,
            client,
            at: Instant::now(),
        };
        self.remember(state, begun);
        Ok(ServerLoginStarted { url: Some(url) })
    }

    fn remember(&self, state: String, begun: Begun) {
        let mut all = self.begun.lock();
        all.retain(|_, begun| begun.at.elapsed() < LOGIN_WITHIN);
        if all.len() >= BEGUN_MAX {
            let oldest = all
                .iter()
                .min_by_key(|(_, begun)| begun.at)
                .map(|(state, _)| state.clone());
            oldest.and_then(|state| all.remove(&state));
        }
        all.insert(state, begun);
    }

    /// Completes a login with what the authorization server sent its person back with.
    pub async fn complete(
        &self,
        state: &str,
        code: &str,
        issuer: Option<&str>,
    ) -> Result<ServerName, LoginError> {
        let begun = self.begun.lock().remove(state);
        let begun = begun.filter(|begun| begun.at.elapsed() < LOGIN_WITHIN);
        let begun = begun.ok_or(LoginError::NotBegun)?;
        let exchanged = begun
            .manager
            .exchange_code_for_token_with_issuer(code, state, issuer)
            .await;
        if let Err(error) = exchanged {
            let refused = LoginError::Refused {
                server: begun.server.clone(),
                reason: in_short(&error),
            };
            // A forged answer must not end the login of who began it; a code is good for one attempt all the same.
            self.remember(state.to_owned(), begun);
            return Err(refused);
        }
        let login = Login::by_person(&begun.store, &begun.server_url, begun.authority, begun.client).await;
        let login = login.ok_or_else(|| LoginError::Refused {
            server: begun.server.clone(),
            reason: "the authorization server gave no token".to_owned(),
        })?;
        self.keep(&begun.server, &login).await?;
        Ok(begun.server)
    }

    /// What is kept of a login at a server.
    pub async fn state(&self, server: &ServerName) -> Result<ServerLoginState, LoginError> {
        let kept = self.secrets.login(server).await;
        let kept = kept.map_err(|SecretFailure { reason, .. }| LoginError::NotKept(reason))?;
        let received_at_s = kept.and_then(|sealed| login::received_at_s(&sealed));
        Ok(ServerLoginState { received_at_s })
    }

    async fn keep(&self, server: &ServerName, login: &Login) -> Result<(), LoginError> {
        let kept = self.secrets.keep_login(server, login.sealed(), None).await;
        kept.map_err(|SecretFailure { reason, .. }| LoginError::NotKept(reason))
    }
}
