//! Which keys, codes and sessions there are, and what may be done with them. Decides; reads no clock and writes nothing.

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
/// The most browser sessions; one more ends the one that was unused the longest.
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
        let mut by_last_use: Vec<&SessionRecord> = self.sessions.values().collect();
        by_last_use.sort_by_key(|session| (session.last_seen_at, session.hash));
        let too_many = (by_last_use.len() + 1).saturating_sub(SESSIONS_MAX);
        let evicted = by_last_use
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::token::TokenKind;
    use super::*;
    use secrecy::ExposeSecret;

    const HOUR_MS: i64 = 3_600_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn token(kind: TokenKind) -> Token {
        Token::generate(kind).unwrap()
    }

    fn with_key(state: &mut AccessState, name: &str, role: Role) -> (Principal, Token) {
        let token = token(TokenKind::Key);
        let key = state.new_key(name, role, "node", &token, at(0)).unwrap();
        let principal = Principal::of_key(name, role, key.id);
        state.restore_key(key);
        (principal, token)
    }

    fn open(state: &mut AccessState, principal: &Principal, now: Timestamp) -> Token {
        let token = token(TokenKind::Session);
        let (session, evicted) = state.new_session(principal, &token, now).unwrap();
        state.open_session(session, &evicted);
        token
    }

    fn view(state: &AccessState) -> AccessView {
        state.view(&AccessView::default())
    }

    #[test]
    fn a_key_proves_its_principal_and_nothing_else_does() {
        let mut state = AccessState::default();
        let (admin, key) = with_key(&mut state, "admin", Role::Admin);
        let view = view(&state);
        let key = key.into_secret();
        let key = key.expose_secret();
        assert_eq!(view.authenticate_key(key, at(1)), Some(admin));
        for wrong in [
            "",
            "trp_",
            &key[1..],
            &format!("{key} "),
            &key.to_lowercase(),
            &"x".repeat(10_000),
        ] {
            assert_eq!(view.authenticate_key(wrong, at(1)), None, "{wrong:?} was taken");
        }
        assert_eq!(view.authenticate_session(key, at(1)), None);
    }

    #[test]
    fn the_last_administrator_key_stays() {
        let mut state = AccessState::default();
        let (first, _) = with_key(&mut state, "first", Role::Admin);
        with_key(&mut state, "user", Role::User);
        let id = first.key_id.unwrap();
        assert_eq!(state.refuse_revoke(id), Err(AccessError::LastAdmin { id }));
        with_key(&mut state, "second", Role::Admin);
        assert_eq!(state.refuse_revoke(id), Ok(()));
    }

    #[test]
    fn a_revoked_key_takes_its_sessions_and_codes_along() {
        let mut state = AccessState::default();
        with_key(&mut state, "admin", Role::Admin);
        let (user, key) = with_key(&mut state, "user", Role::User);
        let session = open(&mut state, &user, at(0)).into_secret();
        let code = token(TokenKind::LoginCode);
        state.add_login_code(&user, &code, at(0)).unwrap();
        let before = view(&state);
        assert_eq!(
            before.authenticate_session(session.expose_secret(), at(1)),
            Some(user.clone())
        );

        let (_, ended) = state.revoke(user.key_id.unwrap()).unwrap();
        assert_eq!(ended.len(), 1);
        let after = state.view(&before);
        assert_eq!(after.authenticate_session(session.expose_secret(), at(1)), None);
        assert_eq!(
            after.authenticate_key(key.into_secret().expose_secret(), at(1)),
            None
        );
        assert_eq!(state.redeem(code.hash(), at(1)), Err(AccessError::LoginCode));
        assert_eq!(
            state
                .new_session(&user, &token(TokenKind::Session), at(1))
                .unwrap_err(),
            AccessError::NotFound {
                id: user.key_id.unwrap()
            }
        );
    }

    #[test]
    fn a_login_code_works_once_and_for_ten_minutes() {
        let mut state = AccessState::default();
        let (admin, _) = with_key(&mut state, "admin", Role::Admin);
        let codes = [token(TokenKind::LoginCode), token(TokenKind::LoginCode)];
        for code in &codes {
            state.add_login_code(&admin, code, at(0)).unwrap();
        }
        assert_eq!(state.redeem(codes[0].hash(), at(599_999)), Ok(admin.clone()));
        assert_eq!(
            state.redeem(codes[0].hash(), at(599_999)),
            Err(AccessError::LoginCode)
        );
        assert_eq!(
            state.redeem(codes[1].hash(), at(600_000)),
            Err(AccessError::LoginCode)
        );
        let error = state
            .add_login_code(&Principal::anonymous(), &codes[0], at(0))
            .unwrap_err();
        assert_eq!(
            error,
            AccessError::NoKey {
                name: "anonymous".to_owned()
            }
        );
    }

    #[test]
    fn login_codes_are_bounded_and_the_oldest_goes() {
        let mut state = AccessState::default();
        let (admin, _) = with_key(&mut state, "admin", Role::Admin);
        let oldest = token(TokenKind::LoginCode);
        state.add_login_code(&admin, &oldest, at(0)).unwrap();
        for _ in 0..LOGIN_CODES_MAX {
            state
                .add_login_code(&admin, &token(TokenKind::LoginCode), at(0))
                .unwrap();
        }
        assert_eq!(state.login_codes_len(), LOGIN_CODES_MAX);
        assert_eq!(state.redeem(oldest.hash(), at(1)), Err(AccessError::LoginCode));
    }

    #[test]
    fn a_session_lives_while_it_is_used_but_not_for_ever() {
        let mut state = AccessState::default();
        let (admin, _) = with_key(&mut state, "admin", Role::Admin);
        let session = open(&mut state, &admin, at(0)).into_secret();
        let session = session.expose_secret();
        let mut view = view(&state);
        for hours in (20..720).step_by(20) {
            assert_eq!(
                view.authenticate_session(session, at(hours * HOUR_MS)),
                Some(admin.clone()),
                "after {hours} h"
            );
            assert_eq!(state.take_fresh_usage(&view).sessions.len(), 1);
            assert!(state.expire(at(hours * HOUR_MS)).is_empty());
            view = state.view(&view);
        }
        assert_eq!(
            view.authenticate_session(session, at(720 * HOUR_MS)),
            None,
            "after 30 days"
        );
        assert_eq!(state.expire(at(720 * HOUR_MS)).len(), 1);

        let idle = open(&mut state, &admin, at(0)).into_secret();
        let view = state.view(&view);
        assert_eq!(
            view.authenticate_session(idle.expose_secret(), at(24 * HOUR_MS)),
            None,
            "idle for a day"
        );
    }

    #[test]
    fn sessions_are_bounded_and_the_one_unused_the_longest_goes() {
        let mut state = AccessState::default();
        let (admin, _) = with_key(&mut state, "admin", Role::Admin);
        let oldest = open(&mut state, &admin, at(0));
        for n in 0..SESSIONS_MAX {
            open(&mut state, &admin, at(1 + i64::try_from(n).unwrap()));
        }
        assert_eq!(state.sessions_len(), SESSIONS_MAX);
        assert!(!state.close_session(oldest.hash()));
    }

    #[test]
    fn last_use_is_told_and_written_once() {
        let mut state = AccessState::default();
        let (_, key) = with_key(&mut state, "admin", Role::Admin);
        let view = view(&state);
        assert!(state.take_fresh_usage(&view).keys.is_empty());
        view.authenticate_key(key.into_secret().expose_secret(), at(7))
            .unwrap();
        assert_eq!(view.list()[0].last_used_at, Some(at(7)));
        assert_eq!(state.take_fresh_usage(&view).keys[0].last_used_at, Some(at(7)));
        assert!(state.take_fresh_usage(&view).keys.is_empty());
    }

    #[test]
    fn names_are_checked_and_unique() {
        let mut state = AccessState::default();
        with_key(&mut state, "Ana María @home", Role::User);
        let key = |name| state.new_key(name, Role::User, "x", &token(TokenKind::Key), at(0));
        assert!(matches!(key("Ana María @home"), Err(AccessError::Exists { .. })));
        for bad in [
            "",
            " a",
            "a ",
            "a\nb",
            "<b>",
            "anonymous",
            "node",
            &"a".repeat(65),
        ] {
            assert!(
                matches!(key(bad), Err(AccessError::Name { .. })),
                "{bad:?} was taken"
            );
        }
    }
}
