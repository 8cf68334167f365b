//! What a login gave, as it is sealed, and how it is renewed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rmcp::transport::auth::{
    AuthError, AuthorizationManager, ClientCredentialsConfig, CredentialStore, InMemoryCredentialStore,
    OAuthClientConfig, StoredCredentials,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use troupe_protocol::upstream::LoginGrant;

use super::schedule::Validity;

/// Who gives tokens, and where: what a login gave is sent nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Authority {
    issuer: Option<String>,
    token_endpoint: String,
    /// What the server said when the login was begun, from which its authorization server may have been found.
    #[serde(default)]
    challenge: Option<String>,
}

/// What a login gave.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Login {
    /// The server's address: the tokens are for no other.
    pub server_url: String,
    /// Drawn when somebody logs in, and the same for all tokens that follow.
    #[serde(default)]
    pub lineage: u64,
    authority: Authority,
    grant: LoginGrant,
    client_id: String,
    client_secret: Option<String>,
    redirect_uri: String,
    scopes: Vec<String>,
    credentials: StoredCredentials,
}

/// A manager that knows where the authorization server is, and where it keeps what it gets.
pub(super) async fn manager(
    server_url: &str,
    challenge: Option<String>,
) -> Result<(AuthorizationManager, InMemoryCredentialStore, Authority), AuthError> {
    // The provider is the process's; a second installation fails and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut manager = AuthorizationManager::new(server_url).await?;
    let store = InMemoryCredentialStore::new();
    manager.set_credential_store(store.clone());
    let resolution = manager
        .resolve_metadata_from_challenge(challenge.as_deref())
        .await?;
    let authority = Authority {
        issuer: resolution.metadata.issuer.clone(),
        token_endpoint: resolution.metadata.token_endpoint.clone(),
        challenge,
    };
    manager.set_metadata(resolution.metadata);
    Ok((manager, store, authority))
}

/// When the token of a login was received, whatever server it is for; in seconds since 1970.
pub(super) fn received_at_s(sealed: &SecretString) -> Option<u64> {
    let login: Login = serde_json::from_str(sealed.expose_secret()).ok()?;
    Some(login.received_at_s())
}

impl Login {
    /// The login that a person has completed; nothing when there is no token.
    pub async fn by_person(
        store: &InMemoryCredentialStore,
        server_url: &str,
        authority: Authority,
        client: OAuthClientConfig,
    ) -> Option<Self> {
        Self::of(
            store,
            server_url,
            authority,
            client,
            LoginGrant::AuthorizationCode,
        )
        .await
    }

    /// The login with a client's own credentials.
    pub async fn by_credentials(
        manager: &mut AuthorizationManager,
        store: &InMemoryCredentialStore,
        server_url: &str,
        authority: Authority,
        config: &ClientCredentialsConfig,
        client: OAuthClientConfig,
    ) -> Result<Self, AuthError> {
        manager.validate_client_credentials_metadata(config)?;
        manager.configure_client_credentials(config)?;
        manager.exchange_client_credentials(config).await?;
        let login = Self::of(
            store,
            server_url,
            authority,
            client,
            LoginGrant::ClientCredentials,
        )
        .await;
        login.ok_or(AuthError::AuthorizationRequired)
    }

    async fn of(
        store: &InMemoryCredentialStore,
        server_url: &str,
        authority: Authority,
        client: OAuthClientConfig,
        grant: LoginGrant,
    ) -> Option<Self> {
        let credentials = store.load().await.ok()??;
        Some(Self {
            server_url: server_url.to_owned(),
            lineage: fastrand::u64(1..),
            authority,
            grant,
            client_id: client.client_id,
            client_secret: client.client_secret,
            redirect_uri: client.redirect_uri,
            scopes: client.scopes,
            credentials,
        })
    }

    /// As it is kept.
    pub fn sealed(&self) -> SecretString {
        serde_json::to_string(self).unwrap_or_default().into()
    }

    /// A login as it was kept; nothing when it is of another form or for another address.
    pub fn read(sealed: &SecretString, server_url: &str) -> Option<Self> {
        let login: Self = serde_json::from_str(sealed.expose_secret()).ok()?;
        (login.server_url == server_url).then_some(login)
    }

    fn token(&self) -> Value {
        let response = self.credentials.token_response.as_ref();
        response
            .and_then(|response| serde_json::to_value(response).ok())
            .unwrap_or_default()
    }

    /// The token that requests carry.
    pub fn access_token(&self) -> Option<SecretString> {
        self.token()["access_token"].as_str().map(SecretString::from)
    }

    /// When the token was received, in seconds since 1970.
    pub fn received_at_s(&self) -> u64 {
        self.credentials.token_received_at.unwrap_or_default()
    }

    /// For how long the token is good; nothing when it was not said. Some say 0 for that.
    pub fn validity(&self) -> Option<Validity> {
        let lifetime_s = self.token()["expires_in"]
            .as_u64()
            .filter(|lifetime_s| *lifetime_s > 0)?;
        let now_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let ends_at_s = self.received_at_s().saturating_add(lifetime_s);
        Some(Validity {
            lifetime: Duration::from_secs(lifetime_s),
            remaining: Duration::from_secs(ends_at_s.saturating_sub(now_s)),
        })
    }

    /// The same login with a new token.
    pub async fn renewed(&self) -> Result<Self, AuthError> {
        let renewed = self.with_new_token().await?;
        Ok(Self {
            lineage: self.lineage,
            ..renewed
        })
    }

    async fn with_new_token(&self) -> Result<Self, AuthError> {
        let (mut manager, store, authority) =
            manager(&self.server_url, self.authority.challenge.clone()).await?;
        if authority != self.authority {
            return Err(AuthError::AuthorizationFailed(format!(
                "the server names {} now, the login is of {}: log in again",
                authority.token_endpoint, self.authority.token_endpoint
            )));
        }
        let mut client = OAuthClientConfig::new(self.client_id.clone(), self.redirect_uri.clone())
            .with_scopes(self.scopes.clone());
        if let Some(secret) = &self.client_secret {
            client = client.with_client_secret(secret.clone());
        }
        if self.grant == LoginGrant::ClientCredentials {
            let config = ClientCredentialsConfig::ClientSecret {
                client_id: self.client_id.clone(),
                client_secret: self.client_secret.clone().unwrap_or_default(),
                scopes: self.scopes.clone(),
                resource: Some(self.server_url.clone()),
            };
            return Self::by_credentials(&mut manager, &store, &self.server_url, authority, &config, client)
                .await;
        }
        store.save(self.credentials.clone()).await?;
        manager.configure_client(client.clone())?;
        manager.refresh_token().await?;
        let renewed = Self::by_person(&store, &self.server_url, authority, client).await;
        renewed.ok_or(AuthError::AuthorizationRequired)
    }
}
