//! Where the registry's secrets go.

use futures::future::BoxFuture;
use secrecy::SecretString;
use troupe_protocol::access::SecretName;

use super::error::RegistryError;

/// Seals secrets. The vault does; tests have their own.
pub trait SecretSealer: Send + Sync + 'static {
    /// Seals a value under a name; it is on the disk when this returns.
    fn seal(&self, name: SecretName, value: SecretString) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Removes a sealed value, if there.
    fn forget<'a>(&'a self, name: &'a SecretName) -> BoxFuture<'a, Result<(), RegistryError>>;
}
