//! The first administrator key of a cluster, and that of each node which joins it.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::kept::Kept;
use super::state::KeyRecord;
use super::token::{Token, TokenKind};
use super::{AccessError, now};
use crate::store::{RecordBatch, Store, WriteError, files};
use troupe_protocol::access::{KeyInfo, NewKey, Principal, Role};
use troupe_protocol::cluster::NodeName;

const KEY_FILE: &str = "admin.key";
const FIRST_KEY_NAME: &str = "admin";
/// Keys that may be named after one node.
const NAMES_MAX: u32 = 100;
/// Whether this node has, or had, an administrator key of its own.
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
    match make_key(&kept, &token, FIRST_KEY_NAME).await {
        // The cluster has keys, which this node had not yet heard of: the one in the file is worth nothing.
        Err(AccessError::Write(WriteError::Conflict(_))) => {
            files::remove(&path)?;
            Ok(None)
        }
        made => Ok(Some(FirstStart::new(token, &made?, path))),
    }
}

/// Gives a node that has joined a cluster an administrator key of its own, named after it and written to `admin.key` in its
/// data folder, so that the commands on that machine just work. It is given once: `None` when the node has such a file, or
/// had one that was removed or whose key was revoked since. Call it once the node has caught up with the log, at any start
/// where [`prepare`] had nothing to do.
///
/// # Errors
/// As [`prepare`]. That no majority takes the key is none: the next start tries again.
pub async fn prepare_joined(store: &Store, name: &NodeName) -> Result<Option<FirstStart>, AccessError> {
    let given = store.tree::<bool>(GIVEN_TREE, GIVEN_SCHEMA)?;
    if given.get(GIVEN_KEY)?.is_some() {
        return Ok(None);
    }
    let path = store.folder().join(KEY_FILE);
    if path.exists() {
        given.put(GIVEN_KEY, &true).await?;
        return Ok(None);
    }
    let token = Token::generate(TokenKind::Key)?;
    let key = match make_joined_key(&Kept::open(store)?, &token, name).await {
        Err(AccessError::Write(error @ (WriteError::NoQuorum { .. } | WriteError::OutcomeUnknown))) => {
            tracing::warn!(%error, "this node has no administrator key of its own yet");
            return Ok(None);
        }
        made => made?,
    };
    // Cut off here, a key is left that nobody has, and the next start makes another.
    let token = write_key(&path, token)?;
    given.put(GIVEN_KEY, &true).await?;
    Ok(Some(FirstStart::new(token, &key, path)))
}

async fn make_joined_key(kept: &Kept, token: &Token, name: &NodeName) -> Result<KeyRecord, AccessError> {
    let first = format!("{FIRST_KEY_NAME}@{name}");
    for number in 1..=NAMES_MAX {
        let name = match number {
            1 => first.clone(),
            _ => format!("{first} {number}"),
        };
        match make_key(kept, token, &name).await {
            // Of a node of this name that was removed.
            Err(AccessError::Exists { .. } | AccessError::Write(WriteError::Conflict(_))) => {}
            made => return made,
        }
    }
    Err(AccessError::Exists { name: first })
}

/// Whether a key is one that was made for the node with this name when it joined.
pub(super) fn is_of_joined(key: &KeyRecord, node: &NodeName) -> bool {
    let of_node = format!("{FIRST_KEY_NAME}@{node}");
    let is_named = match key.name.strip_prefix(&of_node) {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix(' ')
            .is_some_and(|number| number.parse::<u32>().is_ok()),
        None => false,
    };
    is_named && key.created_by == Principal::node().name
}

fn read_or_make(path: &Path) -> Result<Token, AccessError> {
    let unusable = || AccessError::KeyFile {
        path: path.to_owned(),
    };
    let text = match files::read_private(path)?.map(Zeroizing::new) {
        Some(text) => text,
        None => return write_key(path, Token::generate(TokenKind::Key)?),
    };
    Token::parse(TokenKind::Key, text.trim()).ok_or_else(unusable)
}

fn write_key(path: &Path, token: Token) -> Result<Token, AccessError> {
    let text = token.into_secret();
    let line = Zeroizing::new(format!("{}\n", text.expose_secret()));
    files::write_private(path, line.as_bytes())?;
    Token::parse(TokenKind::Key, text.expose_secret()).ok_or_else(|| AccessError::KeyFile {
        path: path.to_owned(),
    })
}

async fn make_key(kept: &Kept, token: &Token, name: &str) -> Result<KeyRecord, AccessError> {
    let by = Principal::node().name;
    let key = kept
        .read()?
        .new_key(&NewKey::new(name, Role::Admin), &by, token, now())?;
    let mut batch = RecordBatch::default();
    kept.put_key(&mut batch, &key)?;
    kept.write(batch).await?;
    Ok(key)
}
