//! The first administrator key.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::state::{AccessState, KeyRecord};
use super::token::{Token, TokenKind};
use super::{AccessError, KEYS_SCHEMA, KEYS_TREE, now};
use crate::store::{Store, files};
use troupe_protocol::access::{KeyInfo, Principal, Role};

const KEY_FILE: &str = "admin.key";
const FIRST_KEY_NAME: &str = "admin";

/// What a node that had no keys was given.
pub struct FirstStart {
    /// The administrator key, to be shown once.
    pub key: SecretString,
    /// What is kept of it.
    pub info: KeyInfo,
    /// Where it stays readable for the owner of the data folder.
    pub path: PathBuf,
}

impl FirstStart {
    /// The principal whom the key proves, for the first login code.
    pub fn principal(&self) -> Principal {
        Principal::of_key(self.info.name.clone(), self.info.role, self.info.id)
    }
}

/// Gives a node without keys its administrator key, written to `admin.key` in the data folder; `None` when there are keys.
///
/// A key file without keys in the store is that of a first start which was cut off: its key is taken.
///
/// # Errors
/// When the store fails, or an existing `admin.key` holds something else or may be read by others.
pub async fn prepare(store: &Store) -> Result<Option<FirstStart>, AccessError> {
    let keys = store.tree::<KeyRecord>(KEYS_TREE, KEYS_SCHEMA)?;
    if !keys.is_empty()? {
        return Ok(None);
    }
    let path = store.folder().join(KEY_FILE);
    let token = match files::read_private(&path)?.map(Zeroizing::new) {
        Some(text) => {
            Token::parse(TokenKind::Key, text.trim()).ok_or(AccessError::KeyFile { path: path.clone() })?
        }
        None => {
            let token = Token::generate(TokenKind::Key)?.into_secret();
            let line = Zeroizing::new(format!("{}\n", token.expose_secret()));
            files::write_private(&path, line.as_bytes())?;
            Token::parse(TokenKind::Key, token.expose_secret())
                .ok_or(AccessError::KeyFile { path: path.clone() })?
        }
    };
    let by = Principal::node().name;
    let record = AccessState::default().new_key(FIRST_KEY_NAME, Role::Admin, &by, &token, now())?;
    keys.put(&record.id.to_string(), &record).await?;
    Ok(Some(FirstStart {
        key: token.into_secret(),
        info: record.info(),
        path,
    }))
}
