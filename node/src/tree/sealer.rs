//! The vault as the registry needs it.

use futures::future::BoxFuture;
use secrecy::SecretString;
use troupe_actors::{
    registry::{RegistryError, SecretSealer},
    store::RecordBatch,
    vault::{VaultError, VaultHandle},
};
use troupe_protocol::{access::SecretName, error::Coded};

/// Seals the registry's secrets in the vault.
pub struct VaultSealer(pub VaultHandle);

impl SecretSealer for VaultSealer {
    fn seal(
        &self,
        name: SecretName,
        value: SecretString,
    ) -> BoxFuture<'_, Result<RecordBatch, RegistryError>> {
        Box::pin(async move { self.0.seal(name, value).await.map_err(|error| refused(&error)) })
    }

    fn forget(&self, name: &SecretName) -> RecordBatch {
        self.0.forget(name)
    }
}

fn refused(error: &VaultError) -> RegistryError {
    RegistryError::Vault {
        code: error.code(),
        detail: error.to_string(),
    }
}
