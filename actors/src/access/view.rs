//! What is asked with every request: who is behind this key or session. Immutable but for the times of last use.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use troupe_protocol::access::{KeyId, KeyInfo, Principal};
use troupe_protocol::time::Timestamp;

use super::state::{KeyRecord, SESSION_AGE_MAX, SESSION_IDLE_MAX, SessionRecord};
use super::token::TokenHash;

/// What is presented longer than this is no token of ours and is not even hashed.
const PRESENTED_BYTES_MAX: usize = 256;
const NEVER_MS: i64 = i64::MIN;

/// All keys and sessions at one moment.
#[derive(Default)]
pub struct AccessView {
    keys: HashMap<TokenHash, Arc<KeyEntry>>,
    sessions: HashMap<TokenHash, Arc<SessionEntry>>,
}

/// A key; shared by the views that follow each other, so that its last use is not lost between them.
pub(super) struct KeyEntry {
    record: KeyRecord,
    principal: Principal,
    last_used_ms: AtomicI64,
}

/// A session; shared like a key.
pub(super) struct SessionEntry {
    record: SessionRecord,
    principal: Principal,
    last_seen_ms: AtomicI64,
}

impl AccessView {
    /// The view of these keys and sessions; entries that `before` has too are taken from it.
    pub(super) fn next<'a>(
        before: &Self,
        keys: impl Iterator<Item = &'a KeyRecord>,
        sessions: impl Iterator<Item = (&'a SessionRecord, Principal)>,
    ) -> Self {
        let key = |record: &KeyRecord| {
            let known = before.keys.get(&record.hash).map(Arc::clone);
            (
                record.hash,
                known.unwrap_or_else(|| Arc::new(KeyEntry::new(record.clone()))),
            )
        };
        let session = |(record, principal): (&SessionRecord, Principal)| {
            let known = before.sessions.get(&record.hash).map(Arc::clone);
            let entry = known.unwrap_or_else(|| Arc::new(SessionEntry::new(record.clone(), principal)));
            // It may have been used at other nodes.
            let seen_ms = record.last_seen_at.unix_ms();
            entry.last_seen_ms.fetch_max(seen_ms, Ordering::Relaxed);
            (record.hash, entry)
        };
        Self {
            keys: keys.map(key).collect(),
            sessions: sessions.map(session).collect(),
        }
    }

    /// Who has the key with this hash.
    pub(super) fn authenticate_key(&self, presented: &str, now: Timestamp) -> Option<Principal> {
        let hash = hash_presented(presented)?;
        let entry = self
            .keys
            .get(&hash)
            .filter(|entry| entry.record.hash.matches(&hash))?;
        entry.last_used_ms.fetch_max(now.unix_ms(), Ordering::Relaxed);
        Some(entry.principal.clone())
    }

    /// Whose session has this token, unless it has expired.
    pub(super) fn authenticate_session(&self, presented: &str, now: Timestamp) -> Option<Principal> {
        let hash = hash_presented(presented)?;
        let entry = self
            .sessions
            .get(&hash)
            .filter(|entry| entry.record.hash.matches(&hash))?;
        if entry.current().has_expired(now) {
            return None;
        }
        entry.last_seen_ms.fetch_max(now.unix_ms(), Ordering::Relaxed);
        Some(entry.principal.clone())
    }

    /// All keys, the oldest first.
    pub(super) fn list(&self) -> Vec<KeyInfo> {
        let mut keys: Vec<KeyInfo> = self.keys.values().map(|entry| entry.current().info()).collect();
        keys.sort_by_key(|key| key.id);
        keys
    }

    pub(super) fn has_key(&self, id: KeyId) -> bool {
        self.keys.values().any(|entry| entry.record.id == id)
    }

    /// The record of a key as it should be written down.
    pub(super) fn current_key(&self, hash: &TokenHash) -> Option<KeyRecord> {
        self.keys.get(hash).map(|entry| entry.current())
    }

    /// The record of a session as it should be written down.
    pub(super) fn current_session(&self, hash: &TokenHash) -> Option<SessionRecord> {
        self.sessions.get(hash).map(|entry| entry.current())
    }
}

fn hash_presented(presented: &str) -> Option<TokenHash> {
    (presented.len() <= PRESENTED_BYTES_MAX).then(|| TokenHash::of(presented))
}

impl KeyEntry {
    fn new(record: KeyRecord) -> Self {
        let principal = record.principal();
        let last_used_ms = AtomicI64::new(record.last_used_at.map_or(NEVER_MS, Timestamp::unix_ms));
        Self {
            record,
            principal,
            last_used_ms,
        }
    }

    fn current(&self) -> KeyRecord {
        let last_used_ms = self.last_used_ms.load(Ordering::Relaxed);
        let last_used_at = (last_used_ms != NEVER_MS).then(|| Timestamp::from_unix_ms(last_used_ms));
        KeyRecord {
            last_used_at,
            ..self.record.clone()
        }
    }
}

impl SessionEntry {
    fn new(record: SessionRecord, principal: Principal) -> Self {
        let last_seen_ms = AtomicI64::new(record.last_seen_at.unix_ms());
        Self {
            record,
            principal,
            last_seen_ms,
        }
    }

    fn current(&self) -> SessionRecord {
        let last_seen_at = Timestamp::from_unix_ms(self.last_seen_ms.load(Ordering::Relaxed));
        SessionRecord {
            last_seen_at,
            ..self.record.clone()
        }
    }
}

impl SessionRecord {
    /// Unused for too long, or too old.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        let elapsed_ms =
            |since: Timestamp| u128::try_from(now.unix_ms().saturating_sub(since.unix_ms())).unwrap_or(0);
        elapsed_ms(self.last_seen_at) >= SESSION_IDLE_MAX.as_millis()
            || elapsed_ms(self.created_at) >= SESSION_AGE_MAX.as_millis()
    }
}
