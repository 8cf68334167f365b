//! Registry and vault as connections to servers need them.

use std::sync::Arc;

use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use secrecy::SecretString;
use tokio_stream::wrappers::BroadcastStream;
use troupe_actors::{
    openapi::{DocumentError, Documents},
    registry::{RegistryEvent, RegistryHandle},
    runtime::Deadline,
    upstream::{RegisteredServer, SecretFailure, SecretSource, ServerChange, ServerSource},
    vault::VaultHandle,
};
use troupe_protocol::{access::SecretTemplate, error::Coded, server::ServerName};

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

fn failure(error: &impl Coded) -> SecretFailure {
    SecretFailure {
        code: error.code(),
        reason: error.to_string(),
    }
}
