//! The first administrator key of a cluster, and that of each node which joins it.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::kept::Kept;
use super::state::KeyRecord;
use super::token::{Token, TokenKind};
use super::{AccessError, now};
use crate::store::{RecordBatch, Store, WriteError, files};
use troupe_protocol::access::{KeyId, KeyInfo, Principal, Role};
use troupe_protocol::cluster::NodeName;

const KEY_FILE: &str = "admin.key";
const FIRST_KEY_NAME: &str = "admin";
/// Keys that may be named after one node.
const NAMES_MAX: u32 = 100;
/// Whether this node, having joined, was given its key.
const GIVEN_TREE: &str = "own_key";
const GIVEN_SCHEMA: u16 = 1;
const GIVEN_KEY: &str = "given";

/// What a node was given that had no key.
pub struct FirstStart {
    /// The administrator key, to be shown once.
    pub key: SecretString,
    /// What is kept of it.
    pub info: KeyInfo,
    /// Where it stays readable for the owner of the data folder.
    pub path: PathBuf,
}

impl FirstStart {
    fn new(token: Token, key: &KeyRecord, path: PathBuf) -> Self {
        Self {
            key: token.into_secret(),
            info: key.info(),
            path,
        }
    }

    /// The principal whom the key proves, for the first login code.
    pub fn principal(&self) -> Principal {
        Principal::of_key(self.info.name.clone(), self.info.role, self.info.id)
    }
}

/// Gives a cluster without keys its administrator key, written to `admin.key` in the data folder; `None` when there are
/// keys. For the node that makes the cluster.
///
/// A key file without keys in the store is that of a first start which was cut off: its key is taken.
///
/// # Errors
/// When the store fails, or an existing `admin.key` holds something else or may be read by others.
pub async fn prepare(store: &Store) -> Result<Option<FirstStart>, AccessError> {
    let kept = Kept::open(store)?;
    if !kept.has_no_keys()? {
        return Ok(None);
    }
    let path = store.folder().join(KEY_FILE);
    let token = read_or_make(&path)?;
    let key = make_key(&kept, &token, FIRST_KEY_NAME).await?;
    Ok(Some(FirstStart::new(token, &key, path)))
}

/// Gives a node that has joined a cluster an administrator key of its own, named after it and written to `admin.key` in its
/// data folder, so that the commands on that machine just work; `None` when it was given one before, even if that was
/// revoked since. Call it once the node has caught up with the log.
///
/// # Errors
/// As [`prepare`]; when no majority takes the key.
pub async fn prepare_joined(store: &Store, name: &NodeName) -> Result<Option<FirstStart>, AccessError> {
    let given = store.tree::<KeyId>(GIVEN_TREE, GIVEN_SCHEMA)?;
    if given.get(GIVEN_KEY)?.is_some() {
        return Ok(None);
    }
    let kept = Kept::open(store)?;
    let path = store.folder().join(KEY_FILE);
    let token = read_or_make(&path)?;
    // A start that was cut off had made it already.
    if let Some(known) = kept.read()?.key_with(&token.hash()) {
        given.put(GIVEN_KEY, &known.id).await?;
        return Ok(Some(FirstStart::new(token, known, path)));
    }
    for number in 1..=NAMES_MAX {
        let name = match number {
            1 => format!("{FIRST_KEY_NAME}@{name}"),
            _ => format!("{FIRST_KEY_NAME}@{name} {number}"),
        };
        match make_key(&kept, &token, &name).await {
            // Of a node with this name that was removed.
            Err(AccessError::Exists { .. } | AccessError::Write(WriteError::Conflict(_))) => {}
            Err(error) => return Err(error),
            Ok(key) => {
                given.put(GIVEN_KEY, &key.id).await?;
                return Ok(Some(FirstStart::new(token, &key, path)));
            }
        }
    }
    Err(AccessError::Exists {
        name: format!("{FIRST_KEY_NAME}@{name}"),
    })
}

fn read_or_make(path: &Path) -> Result<Token, AccessError> {
    let unusable = || AccessError::KeyFile {
        path: path.to_owned(),
    };
    let text = match files::read_private(path)?.map(Zeroizing::new) {
        Some(text) => text,
        None => {
            let token = Token::generate(TokenKind::Key)?.into_secret();
            let line = Zeroizing::new(format!("{}\n", token.expose_secret()));
            files::write_private(path, line.as_bytes())?;
            line
        }
    };
    Token::parse(TokenKind::Key, text.trim()).ok_or_else(unusable)
}

async fn make_key(kept: &Kept, token: &Token, name: &str) -> Result<KeyRecord, AccessError> {
    let by = Principal::node().name;
    let key = kept.read()?.new_key(name, Role::Admin, &by, token, now())?;
    let mut batch = RecordBatch::default();
    kept.put_key(&mut batch, &key)?;
    kept.write(batch).await?;
    Ok(key)
}
