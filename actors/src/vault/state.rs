//! Which secrets there are and what is answered from them. Decides; reads no clock and writes nothing.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use troupe_protocol::access::{SecretInfo, SecretName, SecretTemplate, TemplatePart};
use troupe_protocol::time::Timestamp;
use zeroize::Zeroizing;

use super::cipher::{self, Derivation, MasterKey, Sealed};
use super::{SECRET_BYTES_MAX, SECRETS_MAX, VaultError};

/// Users of a secret that are remembered.
const USERS_MAX: usize = 5;
const USER_CHARS_MAX: usize = 100;

/// Keys of the vault's tree.
pub(super) const META_KEY: &str = "meta";
pub(super) const SECRET_PREFIX: &str = "secret/";

pub(super) fn record_key(name: &SecretName) -> String {
    format!("{SECRET_PREFIX}{name}")
}

/// A record of the vault's tree. Key check and secrets share one tree, so that a change of key can be one batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum VaultRecord {
    Meta(VaultMeta),
    Secret(SealedSecret),
}

/// How to come by the key, and how to know that it is the right one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct VaultMeta {
    /// Only when it comes from a passphrase.
    pub derivation: Option<Derivation>,
    /// A known text, sealed.
    pub check: Sealed,
    /// The vault's key, sealed with the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapped_key: Option<Sealed>,
}

/// A secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealedSecret {
    pub name: SecretName,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub sealed: Sealed,
}

/// When and by whom a secret was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub last_used_at: Option<Timestamp>,
    /// The most recent first.
    pub used_by: Vec<String>,
}

struct Entry {
    secret: SealedSecret,
    usage: Usage,
    usage_is_fresh: bool,
}

#[derive(Default)]
pub(super) struct VaultState {
    secrets: BTreeMap<SecretName, Entry>,
    resolved: u64,
    missed: u64,
}

impl VaultState {
    /// Takes back what was kept.
    pub(super) fn restore(&mut self, secret: SealedSecret, usage: Usage) {
        self.secrets.insert(
            secret.name.clone(),
            Entry {
                secret,
                usage,
                usage_is_fresh: false,
            },
        );
    }

    /// Whether a put must be refused.
    pub(super) fn refuse_put(&self, name: &SecretName, bytes: usize) -> Result<(), VaultError> {
        if bytes > SECRET_BYTES_MAX {
            return Err(VaultError::TooLarge {
                name: name.clone(),
                bytes,
            });
        }
        if self.secrets.len() >= SECRETS_MAX && !self.contains(name) {
            return Err(VaultError::Full);
        }
        Ok(())
    }

    /// The record of a secret that is about to be put.
    pub(super) fn next_secret(&self, name: SecretName, sealed: Sealed, now: Timestamp) -> SealedSecret {
        let created_at = self
            .secrets
            .get(&name)
            .map_or(now, |entry| entry.secret.created_at);
        SealedSecret {
            name,
            created_at,
            updated_at: now,
            sealed,
        }
    }

    /// Takes a secret as it is kept now.
    pub(super) fn put(&mut self, secret: SealedSecret) {
        match self.secrets.get_mut(&secret.name) {
            Some(entry) => entry.secret = secret,
            None => self.restore(secret, Usage::default()),
        }
    }

    /// Forgets a secret; says whether it was there.
    pub(super) fn remove(&mut self, name: &SecretName) -> bool {
        self.secrets.remove(name).is_some()
    }

    /// What may be said of a secret.
    pub(super) fn info(&self, name: &SecretName) -> Option<SecretInfo> {
        self.secrets.get(name).map(Entry::info)
    }

    pub(super) fn contains(&self, name: &SecretName) -> bool {
        self.secrets.contains_key(name)
    }

    pub(super) fn len(&self) -> usize {
        self.secrets.len()
    }

    pub(super) fn resolved(&self) -> u64 {
        self.resolved
    }

    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    pub(super) fn list(&self) -> Vec<SecretInfo> {
        self.secrets.values().map(Entry::info).collect()
    }

    /// Fills in a template and notes who used what.
    pub(super) fn resolve(
        &mut self,
        key: &MasterKey,
        template: &SecretTemplate,
        user: &str,
        now: Timestamp,
    ) -> Result<SecretString, VaultError> {
        let mut filled = Zeroizing::new(String::with_capacity(template.as_str().len()));
        for part in template.parts() {
            match part {
                TemplatePart::Literal(text) => append(&mut filled, &text),
                TemplatePart::Secret(name) => append(&mut filled, &self.open(key, &name, user, now)?),
            }
        }
        self.resolved += 1;
        Ok(SecretString::from(filled.as_str()))
    }

    fn open(
        &mut self,
        key: &MasterKey,
        name: &SecretName,
        user: &str,
        now: Timestamp,
    ) -> Result<Zeroizing<String>, VaultError> {
        let Some(entry) = self.secrets.get_mut(name) else {
            self.missed += 1;
            return Err(VaultError::NotFound { name: name.clone() });
        };
        let clear = cipher::open(key, name.as_str(), &entry.secret.sealed)?;
        entry.use_by(user, now);
        Ok(clear)
    }

    pub(super) fn has_fresh_usage(&self) -> bool {
        self.secrets.values().any(|entry| entry.usage_is_fresh)
    }

    /// The usage that is not written down yet; from now on it counts as written.
    pub(super) fn take_fresh_usage(&mut self) -> Vec<(SecretName, Usage)> {
        let fresh = self.secrets.iter_mut().filter(|(_, entry)| entry.usage_is_fresh);
        fresh
            .map(|(name, entry)| {
                entry.usage_is_fresh = false;
                (name.clone(), entry.usage.clone())
            })
            .collect()
    }
}

impl Entry {
    fn info(&self) -> SecretInfo {
        SecretInfo {
            name: self.secret.name.clone(),
            created_at: self.secret.created_at,
            updated_at: self.secret.updated_at,
            last_used_at: self.usage.last_used_at,
            used_by: self.usage.used_by.clone(),
        }
    }

    fn use_by(&mut self, user: &str, now: Timestamp) {
        self.usage.last_used_at = Some(now);
        self.usage_is_fresh = true;
        if user.is_empty() {
            return;
        }
        let user: String = user.chars().take(USER_CHARS_MAX).collect();
        self.usage.used_by.retain(|known| *known != user);
        self.usage.used_by.insert(0, user);
        self.usage.used_by.truncate(USERS_MAX);
    }
}

/// Appends without leaving clear text behind in a buffer that `String` outgrew.
fn append(filled: &mut Zeroizing<String>, text: &str) {
    if filled.capacity() - filled.len() < text.len() {
        let mut larger = Zeroizing::new(String::with_capacity((filled.len() + text.len()) * 2));
        larger.push_str(filled);
        *filled = larger; // the outgrown buffer is wiped as it is dropped
    }
    filled.push_str(text);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use secrecy::ExposeSecret;

    fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn with(secrets: &[(&str, &str)]) -> (VaultState, MasterKey) {
        let key = MasterKey::generate().unwrap();
        let mut state = VaultState::default();
        for (secret, clear) in secrets {
            let sealed = cipher::seal(&key, secret, clear.as_bytes()).unwrap();
            let record = state.next_secret(name(secret), sealed, at(1));
            state.put(record);
        }
        (state, key)
    }

    fn resolve(state: &mut VaultState, key: &MasterKey, template: &str) -> Result<String, VaultError> {
        let template = SecretTemplate::new(template).unwrap();
        Ok(state
            .resolve(key, &template, "server/x", at(2))?
            .expose_secret()
            .to_owned())
    }

    #[test]
    fn a_template_is_filled_in() {
        let long = "y".repeat(10_000);
        let (mut state, key) = with(&[("a", "alpha"), ("b", "${secret:a}"), ("long", &long)]);
        assert_eq!(
            resolve(&mut state, &key, "Bearer ${secret:a}!").unwrap(),
            "Bearer alpha!"
        );
        assert_eq!(
            resolve(&mut state, &key, "$$${secret:a}${secret:long}").unwrap(),
            format!("$alpha{long}")
        );
        // A secret's own text is never looked into.
        assert_eq!(resolve(&mut state, &key, "${secret:b}").unwrap(), "${secret:a}");
        assert_eq!(resolve(&mut state, &key, "plain").unwrap(), "plain");
        assert_eq!(state.resolved(), 4);
    }

    #[test]
    fn a_missing_secret_is_named() {
        let (mut state, key) = with(&[("a", "alpha")]);
        let error = resolve(&mut state, &key, "${secret:a} ${secret:server/git/env/TOKEN}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no secret `server/git/env/TOKEN`: set it with `troupe secret set server/git/env/TOKEN`"
        );
    }

    #[test]
    fn use_is_noted_and_written_once() {
        let (mut state, key) = with(&[("a", "alpha"), ("b", "beta")]);
        for user in ["one", "two", "three", "four", "five", "six", "two"] {
            state
                .resolve(&key, &SecretTemplate::of_secret(&name("a")), user, at(5))
                .unwrap();
        }
        let info = &state.list()[0];
        assert_eq!(info.last_used_at, Some(at(5)));
        assert_eq!(info.used_by, ["two", "six", "five", "four", "three"]);
        assert_eq!(state.take_fresh_usage().len(), 1);
        assert!(!state.has_fresh_usage());
    }

    #[test]
    fn putting_again_keeps_the_day_of_creation_and_the_usage() {
        let (mut state, key) = with(&[("a", "alpha")]);
        resolve(&mut state, &key, "${secret:a}").unwrap();
        let record = state.next_secret(name("a"), cipher::seal(&key, "a", b"new").unwrap(), at(9));
        state.put(record);
        let info = state.info(&name("a")).unwrap();
        assert_eq!(
            (info.created_at, info.updated_at, info.last_used_at),
            (at(1), at(9), Some(at(2)))
        );
        assert_eq!(resolve(&mut state, &key, "${secret:a}").unwrap(), "new");
    }

    #[test]
    fn limits_are_kept() {
        let (state, _) = with(&[]);
        assert!(matches!(
            state.refuse_put(&name("a"), SECRET_BYTES_MAX + 1),
            Err(VaultError::TooLarge { .. })
        ));
        assert!(state.refuse_put(&name("a"), SECRET_BYTES_MAX).is_ok());
    }
}
