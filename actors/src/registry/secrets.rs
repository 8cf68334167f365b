//! Where the registry's secrets go.

use futures::future::BoxFuture;
use secrecy::SecretString;
use troupe_protocol::access::SecretName;

use super::error::RegistryError;
use crate::store::RecordBatch;

/// Seals secrets. The vault does; tests have their own.
///
/// It writes nothing: what it gives is written in one batch with the server that refers to the secret, so that one is
/// never there without the other.
pub trait SecretSealer: Send + Sync + 'static {
    /// The records that keep a value under a name.
    fn seal(
        &self,
        name: SecretName,
        value: SecretString,
    ) -> BoxFuture<'_, Result<RecordBatch, RegistryError>>;

    /// The records that remove a sealed value, if there.
    fn forget(&self, name: &SecretName) -> RecordBatch;
}
