//! Which keys, codes and sessions there are, and what may be done with them. Decides; reads no clock and writes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use troupe_protocol::access::{KeyId, KeyInfo, Principal, Role};
use troupe_protocol::time::Timestamp;
use ulid::Ulid;

use super::AccessError;
use super::token::{Token, TokenHash};
use super::view::AccessView;

/// The most keys.
pub const KEYS_MAX: usize = 10_000;
/// The most browser sessions; one more ends, of those of the key that has the most, the one that was unused the longest.
pub const SESSIONS_MAX: usize = 1_000;
/// The most login codes that wait to be used; one more makes the oldest worthless.
pub const LOGIN_CODES_MAX: usize = 64;
/// How long a login code can be used.
pub const LOGIN_CODE_TTL: Duration = Duration::from_secs(10 * 60);
/// How long a session lives without being used.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a session lives at most.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) const KEY_NAME_CHARS_MAX: usize = 64;
const KEY_NAME_MARKS: &str = " ._-@/+";
/// A session's last use is written down when the written one is older than this.
const SESSION_WRITE_AFTER_MS: i64 = 5 * 60 * 1000;

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub id: KeyId,
    pub name: String,
    pub role: Role,
    pub hash: TokenHash,
    pub hint: String,
    pub created_at: Timestamp,
    pub created_by: String,
    pub last_used_at: Option<Timestamp>,
}

impl KeyRecord {
    pub(super) fn info(&self) -> KeyInfo {
        KeyInfo {
            id: self.id,
            name: self.name.clone(),
            role: self.role,
            hint: self.hint.clone(),
            created_at: self.created_at,
            created_by: self.created_by.clone(),
            last_used_at: self.last_used_at,
        }
    }
}

/// A browser session as it is kept. It is its key's: name and role are the key's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub hash: TokenHash,
    pub key_id: KeyId,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
}

struct LoginCode {
    hash: TokenHash,
    key_id: KeyId,
    created_at: Timestamp,
}

/// What was used since it was last written down.
#[derive(Debug, Default)]
pub(super) struct FreshUsage {
    pub keys: Vec<KeyRecord>,
    pub sessions: Vec<SessionRecord>,
}

#[derive(Default)]
pub(super) struct AccessState {
    keys: BTreeMap<KeyId, KeyRecord>,
    sessions: HashMap<TokenHash, SessionRecord>,
    /// The oldest first.
    login_codes: VecDeque<LoginCode>,
}

impl AccessState {
    /// Takes a key that is on the disk.
    pub(super) fn restore_key(&mut self, key: KeyRecord) {
        self.keys.insert(key.id, key);
    }

    /// Takes a session that is on the disk; one whose key is gone stays unseen, and expires.
    pub(super) fn restore_session(&mut self, session: SessionRecord) {
        self.sessions.insert(session.hash, session);
    }

    /// The record of a key that is about to be made.
    pub(super) fn new_key(
        &self,
        name: &str,
        role: Role,
        by: &str,
        token: &Token,
        now: Timestamp,
    ) -> Result<KeyRecord, AccessError> {
        check_name(name)?;
        if self.keys.values().any(|key| key.name == name) {
            return Err(AccessError::Exists {
                name: name.to_owned(),
            });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(AccessError::Full);
        }
        Ok(KeyRecord {
            id: KeyId::from_ulid(Ulid::generate()),
            name: name.to_owned(),
            role,
            hash: token.hash(),
            hint: token.hint(),
            created_at: now,
            created_by: by.to_owned(),
            last_used_at: None,
        })
    }

    /// Whether a key may not be revoked.
    pub(super) fn refuse_revoke(&self, id: KeyId) -> Result<(), AccessError> {
        let key = self.keys.get(&id).ok_or(AccessError::NotFound { id })?;
        let admins = self.keys.values().filter(|key| key.role == Role::Admin).count();
        if key.role == Role::Admin && admins == 1 {
            return Err(AccessError::LastAdmin { id });
        }
        Ok(())
    }

    /// Forgets a key, its login codes and its sessions; gives the sessions that ended.
    pub(super) fn revoke(&mut self, id: KeyId) -> Result<(KeyInfo, Vec<TokenHash>), AccessError> {
        let key = self.keys.remove(&id).ok_or(AccessError::NotFound { id })?;
        self.login_codes.retain(|code| code.key_id != id);
        let ended: Vec<TokenHash> = self
            .sessions
            .values()
            .filter(|session| session.key_id == id)
            .map(|session| session.hash)
            .collect();
        for hash in &ended {
            self.sessions.remove(hash);
        }
        Ok((key.info(), ended))
    }

    pub(super) fn add_login_code(
        &mut self,
        principal: &Principal,
        token: &Token,
        now: Timestamp,
    ) -> Result<(), AccessError> {
        let key_id = self.key_of(principal)?;
        if self.login_codes.len() >= LOGIN_CODES_MAX {
            self.login_codes.pop_front();
        }
        self.login_codes.push_back(LoginCode {
            hash: token.hash(),
            key_id,
            created_at: now,
        });
        Ok(())
    }

    /// Uses up a login code; gives whose it is.
    pub(super) fn redeem(&mut self, code: TokenHash, now: Timestamp) -> Result<Principal, AccessError> {
        self.forget_old_codes(now);
        let at = self
            .login_codes
            .iter()
            .position(|known| known.hash.matches(&code))
            .ok_or(AccessError::LoginCode)?;
        let code = self.login_codes.remove(at).ok_or(AccessError::LoginCode)?;
        self.principal(code.key_id).ok_or(AccessError::LoginCode)
    }

    /// The record of a session that is about to be opened, and those that must end for it.
    pub(super) fn new_session(
        &self,
        principal: &Principal,
        token: &Token,
        now: Timestamp,
    ) -> Result<(SessionRecord, Vec<TokenHash>), AccessError> {
        let key_id = self.key_of(principal)?;
        let mut held: HashMap<KeyId, usize> = HashMap::new();
        for session in self.sessions.values() {
            *held.entry(session.key_id).or_default() += 1;
        }
        // Who signs in again and again ends sessions of its own, not those of others.
        let mut candidates: Vec<&SessionRecord> = self.sessions.values().collect();
        candidates.sort_by_key(|session| {
            let count = held.get(&session.key_id).copied();
            (Reverse(count), session.last_seen_at, session.hash)
        });
        let too_many = (candidates.len() + 1).saturating_sub(SESSIONS_MAX);
        let evicted = candidates
            .iter()
            .take(too_many)
            .map(|session| session.hash)
            .collect();
        Ok((
            SessionRecord {
                hash: token.hash(),
                key_id,
                created_at: now,
                last_seen_at: now,
            },
            evicted,
        ))
    }

    /// Takes a session that is on the disk now.
    pub(super) fn open_session(&mut self, session: SessionRecord, evicted: &[TokenHash]) {
        for hash in evicted {
            self.sessions.remove(hash);
        }
        self.sessions.insert(session.hash, session);
    }

    /// Whether there was such a session.
    pub(super) fn close_session(&mut self, token: TokenHash) -> bool {
        self.sessions.remove(&token).is_some()
    }

    /// Takes over from the view what was used; gives what should be written down.
    pub(super) fn take_fresh_usage(&mut self, view: &AccessView) -> FreshUsage {
        let mut fresh = FreshUsage::default();
        for key in self.keys.values_mut() {
            let Some(current) = view.current_key(&key.hash) else {
                continue;
            };
            if current.last_used_at > key.last_used_at {
                *key = current;
                fresh.keys.push(key.clone());
            }
        }
        for session in self.sessions.values_mut() {
            let Some(current) = view.current_session(&session.hash) else {
                continue;
            };
            if current.last_seen_at.unix_ms() - session.last_seen_at.unix_ms() > SESSION_WRITE_AFTER_MS {
                *session = current;
                fresh.sessions.push(session.clone());
            }
        }
        fresh
    }

    /// Forgets what has expired; gives the sessions that ended.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<TokenHash> {
        self.forget_old_codes(now);
        let keys = &self.keys;
        let is_over =
            |session: &&SessionRecord| session.has_expired(now) || !keys.contains_key(&session.key_id);
        let expired: Vec<TokenHash> = self
            .sessions
            .values()
            .filter(is_over)
            .map(|session| session.hash)
            .collect();
        for hash in &expired {
            self.sessions.remove(hash);
        }
        expired
    }

    /// What is to be published.
    pub(super) fn view(&self, before: &AccessView) -> AccessView {
        let sessions = self.sessions.values();
        let with_principal = sessions.filter_map(|session| Some((session, self.principal(session.key_id)?)));
        AccessView::next(before, self.keys.values(), with_principal)
    }

    pub(super) fn keys_len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn sessions_len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn login_codes_len(&self) -> usize {
        self.login_codes.len()
    }

    fn forget_old_codes(&mut self, now: Timestamp) {
        let ttl_ms = i64::try_from(LOGIN_CODE_TTL.as_millis()).unwrap_or(i64::MAX);
        self.login_codes
            .retain(|code| now.unix_ms() - code.created_at.unix_ms() < ttl_ms);
    }

    fn key_of(&self, principal: &Principal) -> Result<KeyId, AccessError> {
        let id = principal.key_id.ok_or_else(|| AccessError::NoKey {
            name: principal.name.clone(),
        })?;
        if self.keys.contains_key(&id) {
            Ok(id)
        } else {
            Err(AccessError::NotFound { id })
        }
    }

    fn principal(&self, id: KeyId) -> Option<Principal> {
        self.keys
            .get(&id)
            .map(|key| Principal::of_key(key.name.clone(), key.role, id))
    }
}

fn check_name(name: &str) -> Result<(), AccessError> {
    let allowed = |c: char| c.is_alphanumeric() || KEY_NAME_MARKS.contains(c);
    let reserved = [Principal::anonymous().name, Principal::node().name]
        .iter()
        .any(|reserved| reserved == name);
    let chars = name.chars().count();
    if (1..=KEY_NAME_CHARS_MAX).contains(&chars)
        && name.chars().all(allowed)
        && name.trim() == name
        && !reserved
    {
        return Ok(());
    }
    Err(AccessError::Name {
        name: name.chars().take(KEY_NAME_CHARS_MAX).collect(),
    })
}

#[cfg(test)]
mod tests;
