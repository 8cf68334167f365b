//! The vault: secrets sealed at rest, put by name and never shown again.
//!
//! Each secret is sealed with XChaCha20-Poly1305 under the vault's key, with its name as associated data, so that one
//! secret's bytes cannot be passed off as another's. The key is in the file `vault.key` of the data folder, readable by
//! its owner only, or derived from a passphrase with Argon2id (`key`).
//!
//! Clear text exists here, in the answer to [`VaultHandle::resolve`], and in the upstream that asked; both are wiped when
//! dropped. Nothing in this folder has a `Debug`, `Display` or `Serialize` that shows it. What the vault does not do: decide
//! who may put a secret (the edge) or where one may go (the registry's templates).
//!
//! State: owned by the node's store (trees `vault` and `vault_usage`); read back at the start of each life.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use troupe_protocol::access::{SecretInfo, SecretName};

use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, ExitReason, Mailbox, System};
use crate::store::{Change, Store, StoreError, TypedTree};

mod cipher;
mod error;
mod key;
mod messages;
mod state;

#[cfg(test)]
mod tests;

pub use error::VaultError;
pub use key::{KeySource, VaultKey};
pub use messages::{VaultHandle, VaultMessage};

use state::{Usage, VaultRecord, VaultState};

/// The largest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 32 * 1024;
/// The most secrets.
pub const SECRETS_MAX: usize = 10_000;

const MAILBOX_MESSAGES_MAX: u32 = 1024;
/// How often last use is written down, when there was any.
const USAGE_WRITE_EVERY: Duration = Duration::from_secs(60);
const VAULT_TREE: &str = "vault";
const VAULT_SCHEMA: u16 = 1;
const USAGE_TREE: &str = "vault_usage";
const USAGE_SCHEMA: u16 = 1;

/// The vault's handle, and how to start it. `key` comes from [`VaultKey::open`], which says clearly when it does not fit.
///
/// # Errors
/// When the store cannot open the vault's trees.
pub fn actor(
    system: &System,
    path: ActorPath,
    store: &Store,
    key: VaultKey,
) -> Result<(VaultHandle, ChildSpec), VaultError> {
    let secrets = store.tree::<VaultRecord>(VAULT_TREE, VAULT_SCHEMA)?;
    let usage = store.tree::<Usage>(USAGE_TREE, USAGE_SCHEMA)?;
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let view = Arc::new(ArcSwap::from_pointee(load(&secrets, &usage)?.list()));
    let handle = VaultHandle::new(mailbox.clone(), Arc::clone(&view));
    let factory = move || Vault {
        secrets: secrets.clone(),
        usage: usage.clone(),
        key: key.clone(),
        view: Arc::clone(&view),
        state: VaultState::default(),
        writes_usage: false,
    };
    Ok((handle, ChildSpec::actor(mailbox, factory)))
}

fn load(secrets: &TypedTree<VaultRecord>, usage: &TypedTree<Usage>) -> Result<VaultState, StoreError> {
    let mut state = VaultState::default();
    for record in secrets.scan_prefix(state::SECRET_PREFIX) {
        if let (_, VaultRecord::Secret(secret)) = record? {
            let usage = usage.get(secret.name.as_str())?.unwrap_or_default();
            state.restore(secret, usage);
        }
    }
    Ok(state)
}

/// The actor.
struct Vault {
    secrets: TypedTree<VaultRecord>,
    usage: TypedTree<Usage>,
    key: VaultKey,
    view: Arc<ArcSwap<Vec<SecretInfo>>>,
    state: VaultState,
    /// Whether a timer to write the usage is under way.
    writes_usage: bool,
}

impl Actor for Vault {
    type Message = VaultMessage;
    const KIND: &'static str = "vault";

    async fn started(&mut self, _: &Context<Self>) -> Result<(), ActorError> {
        self.state = load(&self.secrets, &self.usage)?;
        self.publish();
        Ok(())
    }

    async fn handle(&mut self, message: VaultMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            VaultMessage::Put { name, value, reply } => reply.send(self.put(name, &value).await),
            VaultMessage::Remove { name, reply } => reply.send(self.remove(&name).await),
            VaultMessage::Resolve {
                template,
                user,
                reply,
            } => {
                let now = jiff::Timestamp::now().into();
                reply.send(self.state.resolve(self.key.master(), &template, &user, now));
                if !self.writes_usage && self.state.has_fresh_usage() {
                    self.writes_usage = true;
                    let _timer = ctx.send_after(USAGE_WRITE_EVERY, VaultMessage::WriteUsage);
                }
            }
            VaultMessage::WriteUsage => {
                self.writes_usage = false;
                self.write_usage().await;
                self.publish();
            }
        }
        Ok(())
    }

    async fn stopped(&mut self, _: &ExitReason) {
        self.write_usage().await;
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "secrets": self.state.len(),
            "secrets_max": SECRETS_MAX,
            "key": self.key.describe(),
            "resolved": self.state.resolved(),
            "missed": self.state.missed(),
        })
    }
}

impl Vault {
    async fn put(&mut self, name: SecretName, value: &SecretString) -> Result<SecretInfo, VaultError> {
        let clear = value.expose_secret();
        self.state.refuse_put(&name, clear.len())?;
        let sealed = cipher::seal(self.key.master(), name.as_str(), clear.as_bytes())?;
        let secret = self
            .state
            .next_secret(name, sealed, jiff::Timestamp::now().into());
        self.secrets
            .put(
                &state::record_key(&secret.name),
                &VaultRecord::Secret(secret.clone()),
            )
            .await?;
        let info = self.state.put(secret);
        self.publish();
        Ok(info)
    }

    async fn remove(&mut self, name: &SecretName) -> Result<(), VaultError> {
        if !self.state.contains(name) {
            return Err(VaultError::NotFound { name: name.clone() });
        }
        self.secrets.remove(&state::record_key(name)).await?;
        self.usage.remove(name.as_str()).await?;
        self.state.remove(name);
        self.publish();
        Ok(())
    }

    async fn write_usage(&mut self) {
        let changes = self.state.take_fresh_usage();
        let changes = changes
            .into_iter()
            .map(|(name, usage)| Change::Put(name.as_str().to_owned(), usage))
            .collect();
        if let Err(error) = self.usage.batch(changes).await {
            tracing::warn!(%error, "cannot write down when secrets were used");
        }
    }

    fn publish(&self) {
        self.view.store(Arc::new(self.state.list()));
    }
}
