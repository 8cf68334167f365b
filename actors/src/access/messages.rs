//! What the access actor can be told, and the handle with which others do, and ask who is who.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use tokio::sync::Semaphore;
use troupe_protocol::access::{KeyId, KeyInfo, NewKey, Principal};
use troupe_protocol::cluster::NodeName;

use super::kept::Kept;
use super::token::{Token, TokenHash, TokenKind};
use super::view::AccessView;
use super::{AccessError, now};
use crate::runtime::{Deadline, Mailbox, Message, Reply};

/// How long a change may take; a durable write, with room for a slow disk.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Login codes unknown at this node that are looked for in the whole cluster at the same time: anybody can make some up.
const CODES_LOOKED_FOR_MAX: usize = 4;

/// What the access actor can be told. Tokens travel as hashes, but for the new ones in answers.
#[derive(strum::IntoStaticStr)]
pub enum AccessMessage {
    /// Make a key.
    CreateKey {
        /// What it is to be.
        new: NewKey,
        /// Who makes it.
        by: Principal,
        /// The answer: the key itself, this once.
        reply: Reply<Result<(KeyInfo, SecretString), AccessError>>,
    },
    /// Make a key worthless.
    RevokeKey {
        /// Which.
        id: KeyId,
        /// The answer: which it was.
        reply: Reply<Result<KeyInfo, AccessError>>,
    },
    /// Make the keys worthless that a node was given when it joined.
    RevokeKeysOfNode {
        /// Which node.
        node: NodeName,
        /// The answer: which they were.
        reply: Reply<Result<Vec<KeyInfo>, AccessError>>,
    },
    /// Make a one-time login code.
    MintLoginCode {
        /// For whom.
        principal: Principal,
        /// The answer.
        reply: Reply<Result<SecretString, AccessError>>,
    },
    /// Turn a login code into a session.
    Redeem {
        /// The code's hash.
        code: TokenHash,
        /// The answer: who, and the session's token.
        reply: Reply<Result<(Principal, SecretString), AccessError>>,
    },
    /// Open a session.
    OpenSession {
        /// For whom.
        principal: Principal,
        /// The answer: the session's token.
        reply: Reply<Result<SecretString, AccessError>>,
    },
    /// End a session.
    CloseSession {
        /// The token's hash.
        token: TokenHash,
        /// The answer.
        reply: Reply<Result<(), AccessError>>,
    },
    /// Take what has changed at other nodes.
    CatchUp,
    /// Write down what was used, remove what has expired; the actor's own timer.
    Tidy,
}

impl Message for AccessMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// The way to the access actor, and to its view. Cheap to clone.
#[derive(Clone)]
pub struct AccessHandle {
    mailbox: Mailbox<AccessMessage>,
    view: Arc<ArcSwap<AccessView>>,
    kept: Kept,
    looks: Arc<Semaphore>,
}

impl AccessHandle {
    pub(super) fn new(mailbox: Mailbox<AccessMessage>, view: Arc<ArcSwap<AccessView>>, kept: Kept) -> Self {
        Self {
            mailbox,
            view,
            kept,
            looks: Arc::new(Semaphore::new(CODES_LOOKED_FOR_MAX)),
        }
    }

    /// Who is behind a presented API key. Asks nobody; under a microsecond.
    pub fn authenticate(&self, presented: &str) -> Option<Principal> {
        self.view.load().authenticate_key(presented, now())
    }

    /// Who is behind a presented browser session token. Asks nobody.
    pub fn authenticate_session(&self, presented: &str) -> Option<Principal> {
        self.view.load().authenticate_session(presented, now())
    }

    /// All keys, the oldest first, without the keys themselves. Asks nobody.
    pub fn list(&self) -> Vec<KeyInfo> {
        self.view.load().list()
    }

    /// Whether a key is (still) there. Asks nobody.
    pub fn has_key(&self, id: KeyId) -> bool {
        self.view.load().has_key(id)
    }

    /// Makes a key. What is returned beside its description is the key itself, which nobody can be shown again.
    ///
    /// # Errors
    /// When the name breaks the rule or is taken, there are too many keys, or the store fails.
    pub async fn create_key(
        &self,
        new: NewKey,
        by: &Principal,
    ) -> Result<(KeyInfo, SecretString), AccessError> {
        let by = by.clone();
        self.ask(|reply| AccessMessage::CreateKey { new, by, reply })
            .await
    }

    /// Makes a key worthless, and ends its sessions.
    ///
    /// # Errors
    /// When there is no such key, it is the last administrator key, or the store fails.
    pub async fn revoke(&self, id: KeyId) -> Result<KeyInfo, AccessError> {
        self.ask(|reply| AccessMessage::RevokeKey { id, reply }).await
    }

    /// Makes the administrator keys worthless that were made for a node when it joined, as it is about to be removed. The
    /// last administrator key of the cluster stays. Gives those that are gone.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoke_keys_of_node(&self, node: NodeName) -> Result<Vec<KeyInfo>, AccessError> {
        self.ask(|reply| AccessMessage::RevokeKeysOfNode { node, reply })
            .await
    }

    /// The records, by tree and key, that a restore must leave as they are, lest nobody can come in any more: the keys that
    /// nodes were given, whose files lie in their data folders, and that of the caller.
    pub fn kept_by_a_restore(&self, caller: &Principal) -> HashSet<(String, String)> {
        let of_node = Principal::node().name;
        let keys = self.list().into_iter();
        keys.filter(|key| key.created_by == of_node || caller.key_id == Some(key.id))
            .flat_map(|key| Kept::records_of(key.id, key.name))
            .collect()
    }

    /// Makes a one-time login code for the browser, valid for ten minutes, for the principal of a key.
    ///
    /// # Errors
    /// When the principal has no key, or none that is there still.
    pub async fn mint_login_code(&self, principal: &Principal) -> Result<SecretString, AccessError> {
        let principal = principal.clone();
        self.ask(|reply| AccessMessage::MintLoginCode { principal, reply })
            .await
    }

    /// Turns a login code into a session. Gives who, and the session's token.
    ///
    /// # Errors
    /// When the code is unknown, was used, or has expired.
    pub async fn redeem(&self, code: &str) -> Result<(Principal, SecretString), AccessError> {
        let code = Token::parse(TokenKind::LoginCode, code)
            .ok_or(AccessError::LoginCode)?
            .hash();
        let redeemed = self.ask(|reply| AccessMessage::Redeem { code, reply }).await;
        if !matches!(redeemed, Err(AccessError::LoginCode)) {
            return redeemed;
        }
        // One that was made at another node a moment ago may not have come here yet.
        let Ok(_look) = self.looks.try_acquire() else {
            return redeemed;
        };
        if self.kept.linearize().await.is_err() {
            return redeemed;
        }
        self.ask(|reply| AccessMessage::Redeem { code, reply }).await
    }

    /// Opens a session for the principal of a key. Gives the session's token.
    ///
    /// # Errors
    /// When the principal has no key, or none that is there still, or the store fails.
    pub async fn open_session(&self, principal: &Principal) -> Result<SecretString, AccessError> {
        let principal = principal.clone();
        self.ask(|reply| AccessMessage::OpenSession { principal, reply })
            .await
    }

    /// Ends a session, if there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn close_session(&self, token: &str) -> Result<(), AccessError> {
        let token = TokenHash::of(token);
        self.ask(|reply| AccessMessage::CloseSession { token, reply })
            .await
    }

    async fn ask<T: Send>(
        &self,
        question: impl FnOnce(Reply<Result<T, AccessError>>) -> AccessMessage,
    ) -> Result<T, AccessError> {
        self.mailbox.ask(question, Deadline::within(WRITE_WITHIN)).await?
    }
}
