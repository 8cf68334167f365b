//! What the vault can be told, and the handle with which others do.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use troupe_protocol::access::{SecretInfo, SecretName, SecretTemplate};

use super::VaultError;
use super::state::{VaultRecord, record_key};
use crate::runtime::{Deadline, Mailbox, Message, Reply};
use crate::store::{RecordBatch, ReplicatedTree, WriteError};

/// How long putting and removing may take; a durable write, with room for a slow disk.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// What the vault can be told.
#[derive(strum::IntoStaticStr)]
pub enum VaultMessage {
    /// Seal and keep.
    Put {
        /// Under this name.
        name: SecretName,
        /// The clear text.
        value: SecretString,
        /// The answer.
        reply: Reply<Result<SecretInfo, VaultError>>,
    },
    /// Seal and keep, if the value so far is the expected one.
    Replace {
        /// Under this name.
        name: SecretName,
        /// The clear text that is expected.
        expected: SecretString,
        /// The clear text that takes its place.
        value: SecretString,
        /// The answer.
        reply: Reply<Result<SecretInfo, VaultError>>,
    },
    /// Forget.
    Remove {
        /// Which.
        name: SecretName,
        /// Whether this node has seen all that was acknowledged before.
        is_up_to_date: bool,
        /// The answer.
        reply: Reply<Result<(), VaultError>>,
    },
    /// A secret that was to be kept was written, or not.
    Kept {
        /// Which.
        name: SecretName,
        /// How it went.
        written: Result<(), WriteError>,
        /// The answer to who put it.
        reply: Reply<Result<SecretInfo, VaultError>>,
    },
    /// The removal of a secret was written, or not.
    Removed {
        /// How it went.
        written: Result<(), WriteError>,
        /// The answer to who removed it.
        reply: Reply<Result<(), VaultError>>,
    },
    /// Seal, for somebody else to write.
    Seal {
        /// Under this name.
        name: SecretName,
        /// The clear text.
        value: SecretString,
        /// The records to write.
        reply: Reply<Result<RecordBatch, VaultError>>,
    },
    /// Take what has changed at other nodes.
    CatchUp,
    /// Fill in a template.
    Resolve {
        /// The template.
        template: SecretTemplate,
        /// What for.
        user: String,
        /// The answer.
        reply: Reply<Result<SecretString, VaultError>>,
    },
    /// Write down what was used; the vault's own timer.
    WriteUsage,
}

impl Message for VaultMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// The way to the vault. Cheap to clone.
#[derive(Clone)]
pub struct VaultHandle {
    mailbox: Mailbox<VaultMessage>,
    view: Arc<ArcSwap<Vec<SecretInfo>>>,
    secrets: ReplicatedTree<VaultRecord>,
}

impl VaultHandle {
    pub(super) fn new(
        mailbox: Mailbox<VaultMessage>,
        view: Arc<ArcSwap<Vec<SecretInfo>>>,
        secrets: ReplicatedTree<VaultRecord>,
    ) -> Self {
        Self {
            mailbox,
            view,
            secrets,
        }
    }

    /// Seals a secret and keeps it, in place of one with the same name. It is durable when this returns.
    ///
    /// # Errors
    /// When it is above [`SECRET_BYTES_MAX`](super::SECRET_BYTES_MAX), the vault is full, or the store fails.
    pub async fn put(&self, name: SecretName, value: SecretString) -> Result<SecretInfo, VaultError> {
        self.mailbox
            .ask(
                |reply| VaultMessage::Put { name, value, reply },
                Deadline::within(WRITE_WITHIN),
            )
            .await?
    }

    /// Seals a secret and keeps it in place of this value, and of no other. It is durable when this returns.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`VaultError::Changed`] when another value, or none, is there.
    pub async fn replace(
        &self,
        name: SecretName,
        expected: SecretString,
        value: SecretString,
    ) -> Result<SecretInfo, VaultError> {
        let replaced = self.mailbox.ask(
            |reply| VaultMessage::Replace {
                name,
                expected,
                value,
                reply,
            },
            Deadline::within(WRITE_WITHIN),
        );
        replaced.await?
    }

    /// Seals a secret and gives the records that keep it, to be written in one batch with what refers to it. Until then
    /// nothing has happened.
    ///
    /// # Errors
    /// As [`put`](Self::put), but for the writing.
    pub async fn seal(&self, name: SecretName, value: SecretString) -> Result<RecordBatch, VaultError> {
        self.mailbox
            .ask(
                |reply| VaultMessage::Seal { name, value, reply },
                Deadline::within(WRITE_WITHIN),
            )
            .await?
    }

    /// The records that forget a secret, if there, to be written in one batch with what no longer refers to it.
    pub fn forget(&self, name: &SecretName) -> RecordBatch {
        let mut batch = RecordBatch::default();
        self.secrets.remove_into(&mut batch, &record_key(name));
        batch
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// When there is none with this name, or the store fails.
    pub async fn remove(&self, name: &SecretName) -> Result<(), VaultError> {
        let name = name.clone();
        self.mailbox
            .ask(
                |reply| VaultMessage::Remove {
                    name,
                    is_up_to_date: false,
                    reply,
                },
                Deadline::within(WRITE_WITHIN),
            )
            .await?
    }

    /// All secrets by name, without their values. Asks nobody.
    pub fn list(&self) -> Vec<SecretInfo> {
        self.view.load().as_ref().clone()
    }

    /// Whether there is a secret with this name. Asks nobody.
    pub fn contains(&self, name: &SecretName) -> bool {
        self.view
            .load()
            .binary_search_by(|info| info.name.cmp(name))
            .is_ok()
    }

    /// Fills in a template. `user` says what for (`server/github`), and shows in the list of secrets.
    ///
    /// # Errors
    /// [`VaultError::NotFound`] with the name of the first secret that does not exist.
    pub async fn resolve_for(
        &self,
        template: &SecretTemplate,
        user: &str,
        deadline: Deadline,
    ) -> Result<SecretString, VaultError> {
        let (template, user) = (template.clone(), user.to_owned());
        self.mailbox
            .ask(
                |reply| VaultMessage::Resolve {
                    template,
                    user,
                    reply,
                },
                deadline,
            )
            .await?
    }

    /// Fills in a template for nobody in particular.
    ///
    /// # Errors
    /// As [`resolve_for`](Self::resolve_for).
    pub async fn resolve(
        &self,
        template: &SecretTemplate,
        deadline: Deadline,
    ) -> Result<SecretString, VaultError> {
        self.resolve_for(template, "", deadline).await
    }
}
