//! Who may: API keys, one-time login codes, browser sessions.
//!
//! A key is 32 random bytes; only its SHA-256 is kept, so the store gives none away, and a look-up by hash tells a guesser
//! nothing. Who asks is answered from an immutable view ([`AccessView`]) without a message to the actor; the actor changes
//! keys and sessions, writes them down, and then publishes the next view.
//!
//! [`prepare`] gives a node without keys its first administrator key, in the file `admin.key` which only its owner can
//! read. What a role may do is decided where it is asked for (the edge); here is only who has which.
//!
//! State: owned by the node's store (trees `keys` and `sessions`), read back at the start of each life. Login codes live in
//! memory and end with the actor.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use serde_json::json;
use troupe_protocol::access::{KeyId, KeyInfo, Principal, Role};
use troupe_protocol::time::Timestamp;

use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, ExitReason, Mailbox, System};
use crate::store::{Change, Store, StoreError, TypedTree};

mod error;
mod first_start;
mod messages;
mod state;
mod token;
mod view;

#[cfg(test)]
mod tests;

pub use error::AccessError;
pub use first_start::{FirstStart, prepare};
pub use messages::{AccessHandle, AccessMessage};
pub use state::{KEYS_MAX, LOGIN_CODE_TTL, LOGIN_CODES_MAX, SESSION_AGE_MAX, SESSION_IDLE_MAX, SESSIONS_MAX};
pub use view::AccessView;

use state::{AccessState, KeyRecord, SessionRecord};
use token::{Token, TokenHash, TokenKind};

const MAILBOX_MESSAGES_MAX: u32 = 1024;
/// How often last use is written down and what has expired is removed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
const KEYS_TREE: &str = "keys";
const KEYS_SCHEMA: u16 = 1;
const SESSIONS_TREE: &str = "sessions";
const SESSIONS_SCHEMA: u16 = 1;

/// The handle, and how to start the actor. Call [`prepare`] before.
///
/// # Errors
/// When the store cannot open or read the keys.
pub fn actor(
    system: &System,
    path: ActorPath,
    store: &Store,
) -> Result<(AccessHandle, ChildSpec), AccessError> {
    let keys = store.tree::<KeyRecord>(KEYS_TREE, KEYS_SCHEMA)?;
    let sessions = store.tree::<SessionRecord>(SESSIONS_TREE, SESSIONS_SCHEMA)?;
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    // Published before the actor's first life: nobody with a key is turned away while the node starts.
    let first_view = load(&keys, &sessions)?.view(&AccessView::default());
    let view = Arc::new(ArcSwap::from_pointee(first_view));
    let handle = AccessHandle::new(mailbox.clone(), Arc::clone(&view));
    let factory = move || Access {
        keys: keys.clone(),
        sessions: sessions.clone(),
        view: Arc::clone(&view),
        state: AccessState::default(),
    };
    Ok((handle, ChildSpec::actor(mailbox, factory)))
}

fn load(keys: &TypedTree<KeyRecord>, sessions: &TypedTree<SessionRecord>) -> Result<AccessState, StoreError> {
    let mut state = AccessState::default();
    for record in keys.scan_prefix("") {
        state.restore_key(record?.1);
    }
    for record in sessions.scan_prefix("") {
        state.restore_session(record?.1);
    }
    Ok(state)
}

fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

/// The actor.
struct Access {
    keys: TypedTree<KeyRecord>,
    sessions: TypedTree<SessionRecord>,
    view: Arc<ArcSwap<AccessView>>,
    state: AccessState,
}

impl Actor for Access {
    type Message = AccessMessage;
    const KIND: &'static str = "access";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        self.state = load(&self.keys, &self.sessions)?;
        self.publish();
        self.tidy_if_possible().await;
        let _timer = ctx.send_after(TIDY_EVERY, AccessMessage::Tidy);
        Ok(())
    }

    async fn handle(&mut self, message: AccessMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            AccessMessage::CreateKey {
                name,
                role,
                by,
                reply,
            } => reply.send(self.create_key(name, role, by).await),
            AccessMessage::RevokeKey { id, reply } => reply.send(self.revoke_key(id).await),
            AccessMessage::MintLoginCode { principal, reply } => reply.send(self.mint_login_code(&principal)),
            AccessMessage::Redeem { code, reply } => reply.send(self.redeem(code).await),
            AccessMessage::OpenSession { principal, reply } => {
                reply.send(self.open_session(&principal).await)
            }
            AccessMessage::CloseSession { token, reply } => reply.send(self.close_session(token).await),
            AccessMessage::Tidy => {
                self.tidy_if_possible().await;
                let _timer = ctx.send_after(TIDY_EVERY, AccessMessage::Tidy);
            }
        }
        Ok(())
    }

    async fn stopped(&mut self, _: &ExitReason) {
        self.tidy_if_possible().await;
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
        name: String,
        role: Role,
        by: Principal,
    ) -> Result<(KeyInfo, SecretString), AccessError> {
        let token = Token::generate(TokenKind::Key)?;
        let key = self.state.new_key(&name, role, &by.name, &token, now())?;
        self.keys.put(&key.id.to_string(), &key).await?;
        let info = key.info();
        self.state.restore_key(key);
        self.publish();
        Ok((info, token.into_secret()))
    }

    /// Sessions of the key end with it: first in what is published, so that a failing disk does not keep them open.
    async fn revoke_key(&mut self, id: KeyId) -> Result<KeyInfo, AccessError> {
        self.state.refuse_revoke(id)?;
        self.keys.remove(&id.to_string()).await?;
        let (info, ended) = self.state.revoke(id)?;
        self.publish();
        self.sessions
            .batch(ended.iter().map(|hash| Change::Remove(hash.to_hex())).collect())
            .await?;
        Ok(info)
    }

    fn mint_login_code(&mut self, principal: &Principal) -> Result<SecretString, AccessError> {
        let token = Token::generate(TokenKind::LoginCode)?;
        self.state.add_login_code(principal, &token, now())?;
        Ok(token.into_secret())
    }

    async fn redeem(&mut self, code: TokenHash) -> Result<(Principal, SecretString), AccessError> {
        let principal = self.state.redeem(code, now())?;
        let token = self.open_session(&principal).await?;
        Ok((principal, token))
    }

    async fn open_session(&mut self, principal: &Principal) -> Result<SecretString, AccessError> {
        let token = Token::generate(TokenKind::Session)?;
        let (session, evicted) = self.state.new_session(principal, &token, now())?;
        let mut changes = vec![Change::Put(session.hash.to_hex(), session.clone())];
        changes.extend(evicted.iter().map(|hash| Change::Remove(hash.to_hex())));
        self.sessions.batch(changes).await?;
        self.state.open_session(session, &evicted);
        self.publish();
        Ok(token.into_secret())
    }

    async fn close_session(&mut self, token: TokenHash) -> Result<(), AccessError> {
        if self.state.close_session(token) {
            self.publish();
            self.sessions.remove(&token.to_hex()).await?;
        }
        Ok(())
    }

    /// A disk that takes no more is no reason to turn everybody away who has a key.
    async fn tidy_if_possible(&mut self) {
        if let Err(error) = self.tidy().await {
            tracing::warn!(%error, "cannot write down when keys were used");
        }
    }

    /// Writes down what was used, removes what has expired.
    async fn tidy(&mut self) -> Result<(), StoreError> {
        let used = self.state.take_fresh_usage(&self.view.load());
        let keys = used
            .keys
            .into_iter()
            .map(|key| Change::Put(key.id.to_string(), key))
            .collect();
        self.keys.batch(keys).await?;
        let expired = self.state.expire(now());
        let mut sessions: Vec<_> = expired.iter().map(|hash| Change::Remove(hash.to_hex())).collect();
        let alive = used
            .sessions
            .into_iter()
            .filter(|session| !expired.contains(&session.hash));
        sessions.extend(alive.map(|session| Change::Put(session.hash.to_hex(), session)));
        self.sessions.batch(sessions).await?;
        if !expired.is_empty() {
            self.publish();
        }
        Ok(())
    }

    fn publish(&self) {
        self.view.store(Arc::new(self.state.view(&self.view.load())));
    }
}
