//! Who may: API keys, one-time login codes, browser sessions.
//!
//! A key is 32 random bytes; only its SHA-256 is kept, so the store gives none away, and a look-up by hash tells a guesser
//! nothing. Who asks is answered from an immutable view ([`AccessView`]) without a message to the actor; the actor changes
//! keys and sessions, writes them down, and then publishes the next view.
//!
//! [`prepare`] gives a cluster without keys its first administrator key, and [`prepare_joined`] a node that has joined one
//! of its own, in the file `admin.key` which only its owner can read. What a role may do is decided where it is asked for
//! (the edge); here is only who has which.
//!
//! State: replicated (`kept`): what is made at one node works at all, and what is revoked at one works at none once they
//! have applied it. The times of last use of keys stay with the node where they were; those of sessions are told to others
//! now and then, so that none expires which is in use. All is read back at the start of each life.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use serde_json::json;
use troupe_protocol::access::{KeyId, KeyInfo, NewKey, Principal};
use troupe_protocol::cluster::NodeName;
use troupe_protocol::time::Timestamp;

use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, ExitReason, Mailbox, System};
use crate::store::replicated::nudge;
use crate::store::{RecordBatch, Store, StoreError, TreeFeed, WriteError};

mod error;
mod first_start;
mod kept;
mod messages;
mod state;
mod token;
mod view;

#[cfg(test)]
mod tests;

pub use error::AccessError;
pub use first_start::{FirstStart, prepare, prepare_joined};
pub use kept::TREES;
pub use messages::{AccessHandle, AccessMessage};
pub use state::{KEYS_MAX, LOGIN_CODE_TTL, LOGIN_CODES_MAX, SESSION_AGE_MAX, SESSION_IDLE_MAX, SESSIONS_MAX};
pub use view::AccessView;

use kept::Kept;
use state::{AccessState, Expired};
use token::{Token, TokenHash, TokenKind};

const MAILBOX_MESSAGES_MAX: u32 = 1024;
/// How often last use is written down and what has expired is removed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
const TIDY_FIRST_AFTER: Duration = Duration::from_secs(10);
/// How often a change is decided anew because another node was faster.
const DECISIONS_MAX: u32 = 8;

/// The handle, and how to start the actor. Call [`prepare`] before.
///
/// # Errors
/// When the store cannot open or read the keys.
pub fn actor(
    system: &System,
    path: ActorPath,
    store: &Store,
) -> Result<(AccessHandle, ChildSpec), AccessError> {
    let kept = Kept::open(store)?;
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    // Published before the actor's first life: nobody with a key is turned away while the node starts.
    let first_view = kept.read()?.view(&AccessView::default());
    let view = Arc::new(ArcSwap::from_pointee(first_view));
    let handle = AccessHandle::new(mailbox.clone(), Arc::clone(&view), kept.clone());
    let factory = move || Access {
        feed: kept.follow(),
        kept: kept.clone(),
        view: Arc::clone(&view),
        state: AccessState::default(),
    };
    Ok((handle, ChildSpec::actor(mailbox, factory)))
}

fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

/// The actor.
struct Access {
    kept: Kept,
    feed: TreeFeed,
    view: Arc<ArcSwap<AccessView>>,
    state: AccessState,
}

impl Actor for Access {
    type Message = AccessMessage;
    const KIND: &'static str = "access";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let nudges = nudge(self.kept.follow(), ctx.mailbox().clone(), || {
            AccessMessage::CatchUp
        });
        ctx.spawn("follow the replicated keys", nudges);
        self.state = self.kept.read()?;
        self.publish();
        // Not now: who starts in a minority need not wait for one.
        let _timer = ctx.send_after(TIDY_FIRST_AFTER, AccessMessage::Tidy);
        Ok(())
    }

    async fn handle(&mut self, message: AccessMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            AccessMessage::CreateKey { new, by, reply } => reply.send(self.create_key(new, by).await),
            AccessMessage::RevokeKey { id, reply } => reply.send(self.revoke_key(id).await),
            AccessMessage::RevokeKeysOfNode { node, reply } => {
                reply.send(self.revoke_keys_of_node(&node).await);
            }
            AccessMessage::MintLoginCode { principal, reply } => {
                reply.send(self.mint_login_code(&principal).await);
            }
            AccessMessage::Redeem { code, reply } => reply.send(self.redeem(code).await),
            AccessMessage::OpenSession { principal, reply } => {
                reply.send(self.open_session(&principal).await)
            }
            AccessMessage::CloseSession { token, reply } => reply.send(self.close_session(token).await),
            AccessMessage::CatchUp => self.catch_up().await?,
            AccessMessage::Tidy => {
                self.tidy_if_possible().await;
                let _timer = ctx.send_after(TIDY_EVERY, AccessMessage::Tidy);
            }
        }
        Ok(())
    }

    async fn stopped(&mut self, _: &ExitReason) {
        // Of this node alone: a node that stops may have nobody left to tell.
        let used = self.state.take_fresh_usage(&self.view.load()).keys;
        if let Err(error) = self.kept.write_usage(used).await {
            tracing::warn!(%error, "cannot write down when keys were used");
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "keys": self.state.keys_len(),
            "keys_max": KEYS_MAX,
            "sessions": self.state.sessions_len(),
            "sessions_max": SESSIONS_MAX,
            "login_codes": self.state.login_codes_len(),
        })
    }
}

impl Access {
    async fn create_key(
        &mut self,
        new: NewKey,
        by: Principal,
    ) -> Result<(KeyInfo, SecretString), AccessError> {
        let token = Token::generate(TokenKind::Key)?;
        let info = self
            .change(|access, batch| {
                let key = access.state.new_key(&new, &by.name, &token, now())?;
                access.kept.put_key(batch, &key)?;
                Ok(key.info())
            })
            .await?;
        Ok((info, token.into_secret()))
    }

    /// Its sessions and login codes end with the key, in one step.
    async fn revoke_key(&mut self, id: KeyId) -> Result<KeyInfo, AccessError> {
        self.change(|access, batch| {
            let revocation = access.state.revocation(id)?;
            if let Some(remaining) = revocation.remaining_admin {
                access.require_key(batch, remaining)?;
            }
            access.kept.remove_key(batch, &revocation.key);
            for hash in revocation.sessions {
                access.kept.remove_session(batch, hash);
            }
            for hash in revocation.codes {
                access.kept.remove_code(batch, hash);
            }
            Ok(revocation.key.info())
        })
        .await
    }

    async fn revoke_keys_of_node(&mut self, node: &NodeName) -> Result<Vec<KeyInfo>, AccessError> {
        self.kept.linearize().await?; // it may have been made at that node a moment ago
        self.catch_up().await?;
        let mut revoked = Vec::new();
        for id in self.state.keys_of_node(node) {
            match self.revoke_key(id).await {
                Ok(key) => revoked.push(key),
                Err(AccessError::NotFound { .. }) => {} // somebody was faster
                Err(error @ AccessError::LastAdmin { .. }) => {
                    tracing::warn!(%node, %error, "a key of a node that is removed stays");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(revoked)
    }

    async fn mint_login_code(&mut self, principal: &Principal) -> Result<SecretString, AccessError> {
        let token = Token::generate(TokenKind::LoginCode)?;
        self.change(|access, batch| {
            let (code, evicted) = access.state.new_login_code(principal, &token, now())?;
            access.require_key(batch, code.key_id)?;
            access.kept.put_code(batch, &code)?;
            for hash in evicted {
                access.kept.remove_code(batch, hash);
            }
            Ok(())
        })
        .await?;
        Ok(token.into_secret())
    }

    /// The code is used up in the same step in which the session opens: at one node, once.
    async fn redeem(&mut self, code: TokenHash) -> Result<(Principal, SecretString), AccessError> {
        let token = Token::generate(TokenKind::Session)?;
        let principal = self
            .change(|access, batch| {
                let principal = access.state.redeem(code, now())?;
                if !access.kept.use_up_code(batch, code)? {
                    return Err(AccessError::LoginCode);
                }
                access.open_session_into(batch, &principal, &token)?;
                Ok(principal)
            })
            .await?;
        Ok((principal, token.into_secret()))
    }

    async fn open_session(&mut self, principal: &Principal) -> Result<SecretString, AccessError> {
        let token = Token::generate(TokenKind::Session)?;
        self.change(|access, batch| access.open_session_into(batch, principal, &token))
            .await?;
        Ok(token.into_secret())
    }

    fn open_session_into(
        &self,
        batch: &mut RecordBatch,
        principal: &Principal,
        token: &Token,
    ) -> Result<(), AccessError> {
        let (session, evicted) = self.state.new_session(principal, token, now())?;
        self.require_key(batch, session.key_id)?;
        self.kept.put_session(batch, &session)?;
        for hash in evicted {
            self.kept.remove_session(batch, hash);
        }
        Ok(())
    }

    /// First in what is published, so that what fails does not keep it open here.
    async fn close_session(&mut self, token: TokenHash) -> Result<(), AccessError> {
        if self.state.close_session(token) {
            self.publish();
            let mut batch = RecordBatch::default();
            self.kept.remove_session(&mut batch, token);
            self.kept.write(batch).await?;
        }
        Ok(())
    }

    /// Decides on what there is, and writes it; again, when another node changed the same meanwhile.
    async fn change<T>(
        &mut self,
        mut decide: impl FnMut(&Self, &mut RecordBatch) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        let mut last_conflict = None;
        let mut is_up_to_date = false;
        for _ in 0..DECISIONS_MAX {
            self.catch_up().await?;
            let mut batch = RecordBatch::default();
            let answer = match decide(self, &mut batch) {
                // What was made at another node a moment ago may not have come here yet.
                Err(refusal) if refusal.is_of_the_state() && !is_up_to_date => {
                    if self.kept.linearize().await.is_err() {
                        return Err(refusal);
                    }
                    is_up_to_date = true;
                    continue;
                }
                decided => decided?,
            };
            match self.kept.write(batch).await {
                Ok(()) => {
                    self.catch_up().await?;
                    return Ok(answer);
                }
                Err(error @ WriteError::Conflict(_)) => last_conflict = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last_conflict.map_or(AccessError::LoginCode, AccessError::Write))
    }

    fn require_key(&self, batch: &mut RecordBatch, id: KeyId) -> Result<(), AccessError> {
        if self.kept.require_key(batch, id)? {
            return Ok(());
        }
        Err(AccessError::NotFound { id }) // it went in this moment
    }

    /// Takes what has changed, here or at other nodes.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let Some(change) = self.feed.drain() else {
            return Ok(());
        };
        let gone = self.kept.catch_up(change, &mut self.state)?;
        self.publish();
        if let Err(error) = self.kept.forget_usage(gone).await {
            tracing::warn!(%error, "cannot forget when a revoked key was used");
        }
        Ok(())
    }

    /// A disk that takes no more, or a majority that is away, is no reason to turn everybody away who has a key.
    async fn tidy_if_possible(&mut self) {
        if let Err(error) = self.tidy().await {
            tracing::warn!(%error, "cannot write down when keys were used");
        }
    }

    /// Writes down what was used, removes what has expired.
    async fn tidy(&mut self) -> Result<(), AccessError> {
        self.catch_up().await?;
        let used = self.state.take_fresh_usage(&self.view.load());
        self.kept.write_usage(used.keys).await?;
        let Expired { sessions, codes } = self.state.expired(&self.view.load(), now());
        let mut batch = RecordBatch::default();
        for hash in codes {
            self.kept.remove_code(&mut batch, hash);
        }
        for hash in &sessions {
            // Another node may have seen it used, or removed it.
            if self.kept.require_session(&mut batch, *hash)?.is_some() {
                self.kept.remove_session(&mut batch, *hash);
            }
        }
        let alive = used
            .sessions
            .iter()
            .filter(|session| !sessions.contains(&session.hash));
        for session in alive {
            let known = self.kept.require_session(&mut batch, session.hash)?;
            if known.is_some_and(|known| known.last_seen_at < session.last_seen_at) {
                self.kept.put_session(&mut batch, session)?;
            }
        }
        match self.kept.write(batch).await {
            Ok(()) => Ok(self.catch_up().await?),
            Err(WriteError::Conflict(_)) => Ok(()), // the next time
            Err(error) => Err(error.into()),
        }
    }

    fn publish(&self) {
        self.view.store(Arc::new(self.state.view(&self.view.load())));
    }
}
