//! The replicated records of keys, login codes and sessions, the times of last use at this node, and the batches that
//! change them.

use std::collections::BTreeSet;
use std::time::Duration;

use troupe_protocol::access::KeyId;

use super::state::{AccessState, KeyRecord, LoginCodeRecord, SessionRecord};
use super::token::TokenHash;
use crate::runtime::Deadline;
use crate::store::replicated::WRITE_WITHIN;
use crate::store::{
    Change, RecordBatch, ReplicatedTree, Store, StoreError, TreeChange, TreeFeed, TypedTree, WriteError,
};
use troupe_protocol::time::Timestamp;

/// The replicated trees of this family.
pub const TREES: &[&str] = &[KEYS_TREE, NAMES_TREE, SESSIONS_TREE, CODES_TREE];
const KEYS_TREE: &str = "keys";
/// Which key has a name: so that two nodes cannot make two of the same. Keys from before have none here.
const NAMES_TREE: &str = "key_names";
const SESSIONS_TREE: &str = "sessions";
const CODES_TREE: &str = "login_codes";
/// When keys were last used at this node; not replicated.
const USAGE_TREE: &str = "key_usage";
const SCHEMA: u16 = 1;
/// Short, because who guesses login codes has this waited for.
const LINEARIZE_WITHIN: Duration = Duration::from_millis(500);

/// The trees. Cheap to clone.
#[derive(Clone)]
pub(super) struct Kept {
    store: Store,
    keys: ReplicatedTree<KeyRecord>,
    names: ReplicatedTree<KeyId>,
    sessions: ReplicatedTree<SessionRecord>,
    codes: ReplicatedTree<LoginCodeRecord>,
    usage: TypedTree<Timestamp>,
}

impl Kept {
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            store: store.clone(),
            keys: store.replicated(KEYS_TREE, SCHEMA),
            names: store.replicated(NAMES_TREE, SCHEMA),
            sessions: store.replicated(SESSIONS_TREE, SCHEMA),
            codes: store.replicated(CODES_TREE, SCHEMA),
            usage: store.tree(USAGE_TREE, SCHEMA)?,
        })
    }

    pub fn follow(&self) -> TreeFeed {
        self.store.follow(TREES)
    }

    pub fn has_no_keys(&self) -> Result<bool, StoreError> {
        self.keys.is_empty()
    }

    /// Everything.
    pub fn read(&self) -> Result<AccessState, StoreError> {
        let mut state = AccessState::default();
        for record in self.keys.scan_prefix("") {
            state.take_key(self.with_usage(record?.1)?);
        }
        for record in self.sessions.scan_prefix("") {
            state.take_session(record?.1);
        }
        for record in self.codes.scan_prefix("") {
            state.take_code(record?.1);
        }
        Ok(state)
    }

    /// Takes what has changed into a state. Gives the keys that are gone.
    pub fn catch_up(&self, change: TreeChange, state: &mut AccessState) -> Result<Vec<KeyId>, StoreError> {
        let keys = match change {
            TreeChange::Everything => {
                *state = self.read()?;
                return Ok(Vec::new());
            }
            TreeChange::Keys(keys) => keys,
        };
        let mut gone = Vec::new();
        let changed: BTreeSet<(&str, &str)> = keys
            .iter()
            .map(|at| (at.tree.as_str(), at.key.as_str()))
            .collect();
        for (tree, key) in changed {
            match tree {
                KEYS_TREE => match (self.keys.get(key)?, key.parse()) {
                    (Some(record), _) => state.take_key(self.with_usage(record)?),
                    (None, Ok(id)) => {
                        state.drop_key(id);
                        gone.push(id);
                    }
                    (None, Err(_)) => {}
                },
                SESSIONS_TREE => match (self.sessions.get(key)?, TokenHash::from_hex(key)) {
                    (Some(session), _) => state.take_session(session),
                    (None, Some(hash)) => state.drop_session(hash),
                    (None, None) => {}
                },
                CODES_TREE => match (self.codes.get(key)?, TokenHash::from_hex(key)) {
                    (Some(code), _) => state.take_code(code),
                    (None, Some(hash)) => state.drop_code(hash),
                    (None, None) => {}
                },
                _ => {}
            }
        }
        Ok(gone)
    }

    /// Makes a key whose name nobody has.
    pub fn put_key(&self, batch: &mut RecordBatch, key: &KeyRecord) -> Result<(), StoreError> {
        self.names.guard_into(batch, &key.name, None);
        self.names.put_into(batch, &key.name, &key.id)?;
        self.keys.put_into(batch, &key.id.to_string(), key)
    }

    /// The records of a key, by tree and key.
    pub fn records_of(id: KeyId, name: String) -> [(String, String); 2] {
        [
            (KEYS_TREE.to_owned(), id.to_string()),
            (NAMES_TREE.to_owned(), name),
        ]
    }

    pub fn remove_key(&self, batch: &mut RecordBatch, key: &KeyRecord) {
        self.keys.remove_into(batch, &key.id.to_string());
        self.names.remove_into(batch, &key.name);
    }

    /// Lets a batch be applied only while a key is there. Says whether it is now.
    pub fn require_key(&self, batch: &mut RecordBatch, id: KeyId) -> Result<bool, StoreError> {
        let id = id.to_string();
        let known = self.keys.get_versioned(&id)?;
        // A key's record never changes: as long as there is one, it is this.
        if let Some(known) = &known {
            self.keys.guard_into(batch, &id, Some(known.version));
        }
        Ok(known.is_some())
    }

    pub fn put_session(&self, batch: &mut RecordBatch, session: &SessionRecord) -> Result<(), StoreError> {
        self.sessions.put_into(batch, &session.hash.to_hex(), session)
    }

    pub fn remove_session(&self, batch: &mut RecordBatch, hash: TokenHash) {
        self.sessions.remove_into(batch, &hash.to_hex());
    }

    /// Lets a batch be applied only while a session is as it is now; gives it.
    pub fn require_session(
        &self,
        batch: &mut RecordBatch,
        hash: TokenHash,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let key = hash.to_hex();
        let Some(known) = self.sessions.get_versioned(&key)? else {
            return Ok(None);
        };
        self.sessions.guard_into(batch, &key, Some(known.version));
        Ok(Some(known.value))
    }

    pub fn put_code(&self, batch: &mut RecordBatch, code: &LoginCodeRecord) -> Result<(), StoreError> {
        self.codes.put_into(batch, &code.hash.to_hex(), code)
    }

    pub fn remove_code(&self, batch: &mut RecordBatch, hash: TokenHash) {
        self.codes.remove_into(batch, &hash.to_hex());
    }

    /// Removes a code in a batch that is applied only if nobody else has; says whether it is there now.
    pub fn use_up_code(&self, batch: &mut RecordBatch, hash: TokenHash) -> Result<bool, StoreError> {
        let key = hash.to_hex();
        let Some(known) = self.codes.get_versioned(&key)? else {
            return Ok(false);
        };
        self.codes.guard_into(batch, &key, Some(known.version));
        self.codes.remove_into(batch, &key);
        Ok(true)
    }

    pub async fn write(&self, batch: RecordBatch) -> Result<(), WriteError> {
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await
    }

    /// Waits a little until the records show everything that was acknowledged before.
    pub async fn linearize(&self) -> Result<(), WriteError> {
        self.store.linearize(Deadline::within(LINEARIZE_WITHIN)).await
    }

    /// Writes down when keys were used at this node.
    pub async fn write_usage(&self, used: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        let puts = used.into_iter().map(|(id, at)| Change::Put(id.to_string(), at));
        self.usage.batch(puts.collect()).await
    }

    pub async fn forget_usage(&self, keys: Vec<KeyId>) -> Result<(), StoreError> {
        let removals = keys.into_iter().map(|id| Change::Remove(id.to_string()));
        self.usage.batch(removals.collect()).await
    }

    fn with_usage(&self, key: KeyRecord) -> Result<KeyRecord, StoreError> {
        let here = self.usage.get(&key.id.to_string())?;
        Ok(KeyRecord {
            last_used_at: key.last_used_at.max(here),
            ..key
        })
    }
}
