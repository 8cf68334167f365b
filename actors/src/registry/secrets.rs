//! Where the registry's secrets go.

use futures::future::BoxFuture;
use secrecy::SecretString;
use troupe_protocol::access::SecretName;
use troupe_protocol::error::Coded;

use super::error::RegistryError;
use crate::vault::{VaultError, VaultHandle};

/// Seals secrets. The vault does; tests have their own.
pub trait SecretSealer: Send + Sync + 'static {
    /// Seals a value under a name; it is on the disk when this returns.
    fn seal(&self, name: SecretName, value: SecretString) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Removes a sealed value, if there.
    fn forget<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<(), RegistryError>>;
}

impl SecretSealer for VaultHandle {
    fn seal(&self, name: SecretName, value: SecretString) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move { self.put(name, value).await.map(drop).map_err(RegistryError::from) })
    }

    fn forget<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            match self.remove(name).await {
                Ok(()) | Err(VaultError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
    }
}

impl From<VaultError> for RegistryError {
    fn from(error: VaultError) -> Self {
        Self::Vault {
            code: error.code(),
            detail: error.to_string(),
        }
    }
}
