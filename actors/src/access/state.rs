//! Which keys, codes and sessions there are, and what may be done with them. Decides; reads no clock and writes nothing.
//! What it decides has happened once it was written, and comes back as a change of the records.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use troupe_protocol::access::{KeyId, KeyInfo, NewKey, Principal, Role, ToolsShown};
use troupe_protocol::cluster::NodeName;
use troupe_protocol::time::Timestamp;
use ulid::Ulid;

use super::AccessError;
use super::first_start::is_of_joined;
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
/// A session's last use is written down when the written one is older than this: rarely, since it is for all nodes.
const SESSION_WRITE_AFTER_MS: i64 = 60 * 60 * 1000;

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub id: KeyId,
    pub name: String,
    pub role: Role,
    #[serde(default)]
    pub tools: ToolsShown,
    pub hash: TokenHash,
    pub hint: String,
    pub created_at: Timestamp,
    pub created_by: String,
    /// At this node, as far as it is known. Written only by earlier versions, whose records had it.
    #[serde(default, skip_serializing)]
    pub last_used_at: Option<Timestamp>,
}

impl KeyRecord {
    pub(super) fn principal(&self) -> Principal {
        Principal::of_key(self.name.clone(), self.role, self.id).shown(self.tools)
    }

    pub(super) fn info(&self) -> KeyInfo {
        KeyInfo {
            id: self.id,
            name: self.name.clone(),
            role: self.role,
            tools: self.tools,
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

/// A login code as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoginCodeRecord {
    pub hash: TokenHash,
    pub key_id: KeyId,
    pub created_at: Timestamp,
}

/// What goes when a key is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revocation {
    pub key: KeyRecord,
    pub sessions: Vec<TokenHash>,
    pub codes: Vec<TokenHash>,
    /// Another administrator key that must still be there, when an administrator's goes.
    pub remaining_admin: Option<KeyId>,
}

/// What has expired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    pub sessions: Vec<TokenHash>,
    pub codes: Vec<TokenHash>,
}

/// What was used since it was last written down.
#[derive(Debug, Default)]
pub(super) struct FreshUsage {
    pub keys: Vec<(KeyId, Timestamp)>,
    pub sessions: Vec<SessionRecord>,
}

#[derive(Default)]
pub(super) struct AccessState {
    keys: BTreeMap<KeyId, KeyRecord>,
    sessions: HashMap<TokenHash, SessionRecord>,
    login_codes: HashMap<TokenHash, LoginCodeRecord>,
}

impl AccessState {
    /// Takes a key as it is kept.
    pub(super) fn take_key(&mut self, key: KeyRecord) {
        self.keys.insert(key.id, key);
    }

    pub(super) fn drop_key(&mut self, id: KeyId) {
        self.keys.remove(&id);
    }

    /// Takes a session as it is kept; one whose key is gone stays unseen, and expires.
    pub(super) fn take_session(&mut self, session: SessionRecord) {
        self.sessions.insert(session.hash, session);
    }

    pub(super) fn drop_session(&mut self, hash: TokenHash) {
        self.sessions.remove(&hash);
    }

    /// Takes a login code as it is kept.
    pub(super) fn take_code(&mut self, code: LoginCodeRecord) {
        self.login_codes.insert(code.hash, code);
    }

    pub(super) fn drop_code(&mut self, hash: TokenHash) {
        self.login_codes.remove(&hash);
    }

    /// The record of a key that is about to be made.
    pub(super) fn new_key(
        &self,
        new: &NewKey,
        by: &str,
        token: &Token,
        now: Timestamp,
    ) -> Result<KeyRecord, AccessError> {
        check_name(&new.name)?;
        if self.keys.values().any(|key| key.name == new.name) {
            return Err(AccessError::Exists {
                name: new.name.clone(),
            });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(AccessError::Full);
        }
        Ok(KeyRecord {
            id: KeyId::from_ulid(Ulid::generate()),
            name: new.name.clone(),
            role: new.role,
            tools: new.tools,
            hash: token.hash(),
            hint: token.hint(),
            created_at: now,
            created_by: by.to_owned(),
            last_used_at: None,
        })
    }

    /// The keys that were made for the node with this name when it joined.
    pub(super) fn keys_of_node(&self, node: &NodeName) -> Vec<KeyId> {
        let of_node = self.keys.values().filter(|key| is_of_joined(key, node));
        of_node.map(|key| key.id).collect()
    }

    /// What goes when a key is revoked.
    pub(super) fn revocation(&self, id: KeyId) -> Result<Revocation, AccessError> {
        let key = self.keys.get(&id).ok_or(AccessError::NotFound { id })?;
        let is_another_admin = |other: &&KeyRecord| other.role == Role::Admin && other.id != id;
        let remaining_admin = match key.role {
            Role::Admin => {
                let another = self.keys.values().find(is_another_admin);
                Some(another.ok_or(AccessError::LastAdmin { id })?.id)
            }
            _ => None,
        };
        let sessions = self.sessions.values().filter(|session| session.key_id == id);
        let codes = self.login_codes.values().filter(|code| code.key_id == id);
        Ok(Revocation {
            key: key.clone(),
            sessions: sessions.map(|session| session.hash).collect(),
            codes: codes.map(|code| code.hash).collect(),
            remaining_admin,
        })
    }

    /// The record of a login code that is about to be made, and those that become worthless for it.
    pub(super) fn new_login_code(
        &self,
        principal: &Principal,
        token: &Token,
        now: Timestamp,
    ) -> Result<(LoginCodeRecord, Vec<TokenHash>), AccessError> {
        let key_id = self.key_of(principal)?;
        let mut oldest_first: Vec<&LoginCodeRecord> = self.login_codes.values().collect();
        oldest_first.sort_by_key(|code| (code.created_at, code.hash));
        let too_many = (oldest_first.len() + 1).saturating_sub(LOGIN_CODES_MAX);
        let code = LoginCodeRecord {
            hash: token.hash(),
            key_id,
            created_at: now,
        };
        let evicted = oldest_first.iter().take(too_many).map(|code| code.hash);
        Ok((code, evicted.collect()))
    }

    /// Whose a login code is that is about to be used up.
    pub(super) fn redeem(&self, code: TokenHash, now: Timestamp) -> Result<Principal, AccessError> {
        let known = self
            .login_codes
            .get(&code)
            .filter(|known| known.hash.matches(&code));
        let code = known.filter(|code| !code.has_expired(now));
        code.and_then(|code| self.principal(code.key_id))
            .ok_or(AccessError::LoginCode)
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

    /// Whether there was such a session; from now on it is not seen.
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
            if current.last_used_at > key.last_used_at
                && let Some(at) = current.last_used_at
            {
                key.last_used_at = Some(at);
                fresh.keys.push((key.id, at));
            }
        }
        for session in self.sessions.values() {
            let Some(current) = view.current_session(&session.hash) else {
                continue;
            };
            if current.last_seen_at.unix_ms() - session.last_seen_at.unix_ms() > SESSION_WRITE_AFTER_MS {
                fresh.sessions.push(current);
            }
        }
        fresh
    }

    /// What has expired, going by what was seen at this node too.
    pub(super) fn expired(&self, view: &AccessView, now: Timestamp) -> Expired {
        let is_over = |session: &&SessionRecord| {
            let seen = view.current_session(&session.hash);
            let expired = seen.as_ref().unwrap_or(session).has_expired(now);
            expired || !self.keys.contains_key(&session.key_id)
        };
        let sessions = self.sessions.values().filter(is_over);
        let codes = self.login_codes.values().filter(|code| code.has_expired(now));
        Expired {
            sessions: sessions.map(|session| session.hash).collect(),
            codes: codes.map(|code| code.hash).collect(),
        }
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

    pub(super) fn key_of(&self, principal: &Principal) -> Result<KeyId, AccessError> {
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
        self.keys.get(&id).map(|key| key.principal())
    }
}

impl LoginCodeRecord {
    fn has_expired(&self, now: Timestamp) -> bool {
        let ttl_ms = i64::try_from(LOGIN_CODE_TTL.as_millis()).unwrap_or(i64::MAX);
        now.unix_ms() - self.created_at.unix_ms() >= ttl_ms
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
