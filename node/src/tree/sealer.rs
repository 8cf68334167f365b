//! The vault as the registry needs it.

use futures::future::BoxFuture;
use secrecy::SecretString;
use troupe_actors::{
    registry::{RegistryError, SecretSealer},
    vault::{VaultError, VaultHandle},
};
use troupe_protocol::{access::SecretName, error::Coded};

/// Seals the registry's secrets in the vault.
pub struct VaultSealer(pub VaultHandle);

impl SecretSealer for VaultSealer {
    fn seal(&self, name: SecretName, value: SecretString) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            self.0
                .put(name, value)
                .await
                .map(drop)
                .map_err(|error| refused(&error))
        })
    }

    fn forget<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            match self.0.remove(name).await {
                Ok(()) | Err(VaultError::NotFound { .. }) => Ok(()),
                Err(error) => Err(refused(&error)),
            }
        })
    }
}

fn refused(error: &VaultError) -> RegistryError {
    RegistryError::Vault {
        code: error.code(),
        detail: error.to_string(),
    }
}
