//! The vault: secrets sealed at rest, put by name and never shown again.
//!
//! Each secret is sealed with XChaCha20-Poly1305 under the vault's key, with its name as associated data, so that one
//! secret's bytes cannot be passed off as another's. The key is sealed with that of the cluster, or derived from
//! a passphrase with Argon2id (`key`).
//!
//! Clear text exists here, in the answer to [`VaultHandle::resolve`], and in the upstream that asked; both are wiped when
//! dropped. Nothing in this folder has a `Debug`, `Display` or `Serialize` that shows it. What the vault does not do: decide
//! who may put a secret (the edge) or where one may go (the registry's templates).
//!
//! State: replicated (tree `vault`): what is put at one node is known to all, and any of them may open it, since all have
//! the key. The times of use (tree `vault_usage`) stay with the node where they were. Both are read back at the start of
//! each life.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use troupe_protocol::access::{SecretInfo, SecretName};

use crate::runtime::{
    Actor, ActorError, ActorPath, ChildSpec, Context, Deadline, ExitReason, Mailbox, Reply, System,
};
use crate::store::replicated::{WRITE_WITHIN, nudge};
use crate::store::{
    Change, RecordBatch, ReplicatedTree, Store, StoreError, TreeChange, TreeFeed, TypedTree, WriteError,
};

mod cipher;
mod error;
mod key;
mod messages;
mod state;

#[cfg(test)]
mod tests;

pub use error::VaultError;
pub use key::{ClusterKey, KeySource, VaultKey};
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
/// The vault's replicated trees.
pub const TREES: &[&str] = &[VAULT_TREE];
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
    let secrets = store.replicated::<VaultRecord>(VAULT_TREE, VAULT_SCHEMA);
    let usage = store.tree::<Usage>(USAGE_TREE, USAGE_SCHEMA)?;
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let view = Arc::new(ArcSwap::from_pointee(load(&secrets, &usage)?.list()));
    let handle = VaultHandle::new(mailbox.clone(), Arc::clone(&view), secrets.clone());
    let store = store.clone();
    let factory = move || Vault {
        feed: store.follow(TREES),
        store: store.clone(),
        secrets: secrets.clone(),
        usage: usage.clone(),
        key: key.clone(),
        view: Arc::clone(&view),
        state: VaultState::default(),
        writes_usage: false,
    };
    Ok((handle, ChildSpec::actor(mailbox, factory)))
}

fn load(secrets: &ReplicatedTree<VaultRecord>, usage: &TypedTree<Usage>) -> Result<VaultState, StoreError> {
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
    store: Store,
    feed: TreeFeed,
    secrets: ReplicatedTree<VaultRecord>,
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

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let nudges = nudge(self.store.follow(TREES), ctx.mailbox().clone(), || {
            VaultMessage::CatchUp
        });
        ctx.spawn("follow the replicated secrets", nudges);
        self.state = load(&self.secrets, &self.usage)?;
        self.publish();
        Ok(())
    }

    async fn handle(&mut self, message: VaultMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            VaultMessage::Put { name, value, reply } => match self.seal(name.clone(), &value) {
                Ok(batch) => {
                    self.write(ctx, batch, |written| VaultMessage::Kept { name, written, reply });
                }
                Err(error) => reply.send(Err(error)),
            },
            VaultMessage::Replace {
                name,
                expected,
                value,
                reply,
            } => match self.replacement(&name, &expected, &value) {
                Ok(batch) => {
                    self.write(ctx, batch, |written| VaultMessage::Kept { name, written, reply });
                }
                Err(error) => reply.send(Err(error)),
            },
            VaultMessage::Kept { name, written, reply } => {
                self.catch_up().await?;
                reply.send(written.map_err(VaultError::from).and_then(|()| {
                    // Removed at another node in the same moment.
                    self.state.info(&name).ok_or(VaultError::NotFound { name })
                }));
            }
            VaultMessage::Remove {
                name,
                is_up_to_date,
                reply,
            } => {
                self.catch_up().await?;
                if self.state.contains(&name) {
                    let batch = self.removal(&name);
                    self.write(ctx, batch, |written| VaultMessage::Removed { written, reply });
                } else if is_up_to_date {
                    reply.send(Err(VaultError::NotFound { name }));
                } else {
                    self.look_again(ctx, name, reply);
                }
            }
            VaultMessage::Removed { written, reply } => {
                self.catch_up().await?;
                reply.send(written.map_err(VaultError::from));
            }
            VaultMessage::Seal { name, value, reply } => reply.send(self.seal(name, &value)),
            VaultMessage::CatchUp => self.catch_up().await?,
            VaultMessage::Resolve {
                template,
                user,
                reply,
            } => {
                self.catch_up().await?; // who asks may have read of the secret a moment ago
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
    /// Writes beside the actor: who wants a secret filled in does not wait for a majority.
    fn write(
        &self,
        ctx: &Context<Self>,
        batch: RecordBatch,
        message: impl FnOnce(Result<(), WriteError>) -> VaultMessage + Send + 'static,
    ) {
        let store = self.store.clone();
        ctx.spawn_to_self("write a secret", async move {
            let deadline = Deadline::within(WRITE_WITHIN);
            message(store.write_records(batch, deadline).await)
        });
    }

    fn removal(&self, name: &SecretName) -> RecordBatch {
        let mut batch = RecordBatch::default();
        self.secrets.remove_into(&mut batch, &state::record_key(name));
        batch
    }

    /// What was put at another node a moment ago may not have come here yet.
    fn look_again(&self, ctx: &Context<Self>, name: SecretName, reply: Reply<Result<(), VaultError>>) {
        let store = self.store.clone();
        ctx.spawn_to_self("catch up before a refusal", async move {
            match store.linearize(Deadline::within(WRITE_WITHIN)).await {
                Ok(()) => VaultMessage::Remove {
                    name,
                    is_up_to_date: true,
                    reply,
                },
                Err(error) => VaultMessage::Removed {
                    written: Err(error),
                    reply,
                },
            }
        });
    }

    /// The sealed secret, to be written.
    fn seal(&self, name: SecretName, value: &SecretString) -> Result<RecordBatch, VaultError> {
        let clear = value.expose_secret();
        self.state.refuse_put(&name, clear.len())?;
        let sealed = cipher::seal(self.key.master(), name.as_str(), clear.as_bytes())?;
        let secret = self
            .state
            .next_secret(name, sealed, jiff::Timestamp::now().into());
        let mut batch = RecordBatch::default();
        let key = state::record_key(&secret.name);
        self.secrets
            .put_into(&mut batch, &key, &VaultRecord::Secret(secret))?;
        Ok(batch)
    }

    /// The sealed secret, to be written if what is there now is still there then.
    fn replacement(
        &self,
        name: &SecretName,
        expected: &SecretString,
        value: &SecretString,
    ) -> Result<RecordBatch, VaultError> {
        let changed = || VaultError::Changed { name: name.clone() };
        let key = state::record_key(name);
        let there = self.secrets.get_versioned(&key)?.ok_or_else(changed)?;
        let VaultRecord::Secret(secret) = there.value else {
            return Err(changed());
        };
        let clear = cipher::open(self.key.master(), name.as_str(), &secret.sealed)?;
        if clear.as_str() != expected.expose_secret() {
            return Err(changed());
        }
        let mut batch = self.seal(name.clone(), value)?;
        self.secrets.guard_into(&mut batch, &key, Some(there.version));
        Ok(batch)
    }

    /// Takes what has changed, here or at other nodes.
    async fn catch_up(&mut self) -> Result<(), VaultError> {
        match self.feed.drain() {
            None => return Ok(()),
            Some(TreeChange::Everything) => {
                self.write_usage().await;
                self.state = load(&self.secrets, &self.usage)?;
            }
            Some(TreeChange::Keys(keys)) => {
                for changed in keys {
                    self.take(&changed.key).await?;
                }
            }
        }
        self.publish();
        Ok(())
    }

    async fn take(&mut self, key: &str) -> Result<(), VaultError> {
        match self.secrets.get(key)? {
            Some(VaultRecord::Secret(secret)) => self.state.put(secret),
            Some(VaultRecord::Meta(_)) => {}
            None => {
                let name = key.strip_prefix(state::SECRET_PREFIX);
                let Some(Ok(name)) = name.map(SecretName::new) else {
                    return Ok(());
                };
                if self.state.remove(&name) {
                    self.usage.remove(name.as_str()).await?;
                }
            }
        }
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
