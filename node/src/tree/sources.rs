//! Registry and vault as connections to servers need them.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use secrecy::SecretString;
use tokio_stream::wrappers::BroadcastStream;
use troupe_actors::{
    openapi::{DocumentError, Documents},
    registry::{self, RegistryEvent, RegistryHandle},
    runtime::Deadline,
    upstream::{RegisteredServer, SecretFailure, SecretSource, ServerChange, ServerSource},
    vault::VaultHandle,
};
use troupe_protocol::{
    access::{SecretName, SecretTemplate},
    error::Coded,
    server::ServerName,
};

/// How long the vault may take to give a login.
const LOGIN_READ_WITHIN: Duration = Duration::from_secs(10);

/// The registered servers.
pub struct RegisteredServers(pub RegistryHandle);

impl ServerSource for RegisteredServers {
    fn find(&self, name: &ServerName) -> Option<RegisteredServer> {
        let entry = self.0.view().get(name.as_str())?;
        let operation = &entry.operation;
        Some(RegisteredServer {
            enabled: operation.enabled,
            transport: operation.transport.clone(),
        })
    }

    fn changes(&self) -> BoxStream<'static, ServerChange> {
        let change = |event| match event {
            Ok(
                RegistryEvent::Registered { name }
                | RegistryEvent::Updated { name }
                | RegistryEvent::Removed { name },
            ) => ServerChange::One(name),
            // Many at once, or some were missed.
            Ok(RegistryEvent::Imported { .. }) | Err(_) => ServerChange::Any,
        };
        BroadcastStream::new(self.0.subscribe()).map(change).boxed()
    }
}

/// The vault's secrets, and the documents of servers that have one.
pub struct KeptSecrets {
    pub vault: VaultHandle,
    pub documents: Documents,
}

impl SecretSource for KeptSecrets {
    fn resolve<'a>(
        &'a self,
        template: &'a SecretTemplate,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<SecretString, SecretFailure>> {
        Box::pin(async move {
            let resolved = self.vault.resolve_for(template, "servers", deadline).await;
            resolved.map_err(|error| failure(&error))
        })
    }

    fn login<'a>(
        &'a self,
        server: &'a ServerName,
    ) -> BoxFuture<'a, Result<Option<SecretString>, SecretFailure>> {
        Box::pin(async move {
            let name = login_secret(server)?;
            if !self.vault.contains(&name) {
                return Ok(None);
            }
            let template = SecretTemplate::of_secret(&name);
            let deadline = Deadline::within(LOGIN_READ_WITHIN);
            let read = self.vault.resolve_for(&template, "servers", deadline).await;
            read.map(Some).map_err(|error| failure(&error))
        })
    }

    fn keep_login<'a>(
        &'a self,
        server: &'a ServerName,
        login: SecretString,
        in_place_of: Option<SecretString>,
    ) -> BoxFuture<'a, Result<(), SecretFailure>> {
        Box::pin(async move {
            let name = login_secret(server)?;
            let put = match in_place_of {
                Some(expected) => self.vault.replace(name, expected, login).await,
                None => self.vault.put(name, login).await,
            };
            put.map(drop).map_err(|error| failure(&error))
        })
    }

    fn document<'a>(
        &'a self,
        server: &'a ServerName,
        digest: &'a str,
    ) -> BoxFuture<'a, Result<Arc<str>, SecretFailure>> {
        let (documents, server, digest) = (self.documents.clone(), server.clone(), digest.to_owned());
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || documents.get(&server, &digest)).await;
            let read = reading.map_err(|error| DocumentError::Missing(error.to_string()));
            let text = read.and_then(|text| text).map_err(|error| failure(&error))?;
            Ok(Arc::from(text))
        })
    }
}

/// The secret that holds a server's login; the registry forgets it with the server.
fn login_secret(server: &ServerName) -> Result<SecretName, SecretFailure> {
    registry::login_secret(server).map_err(|error| failure(&error))
}

fn failure(error: &impl Coded) -> SecretFailure {
    SecretFailure {
        code: error.code(),
        reason: error.to_string(),
    }
}
