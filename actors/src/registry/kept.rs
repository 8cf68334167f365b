//! The registry's replicated records: reading them, following them, and the batches that change them.
//!
//! A change was decided on a state; its batches say so with guards on the servers that it touches, so that it happens only
//! if nobody changed those meanwhile, at whatever node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use troupe_protocol::server::ServerName;

use super::messages::RegistryEvent;
use super::record::{
    Assembly, DeletedServer, ServerRecord, StoredRecord, Write, deleted_writes, manifest_key, removal_writes,
    server_key, server_writes,
};
use super::state::{Change, RegistryState};
use crate::runtime::Deadline;
use crate::store::replicated::{RECORD_BATCH_BYTES_MAX, RecordVersion, WRITE_WITHIN};
use crate::store::{RecordBatch, ReplicatedTree, Store, StoreError, TreeChange, TreeFeed, WriteError};

/// The registry's replicated trees.
pub const TREES: &[&str] = &[TREE];
const TREE: &str = "registry";
const SCHEMA_VERSION: u16 = 1;
const SERVER_PREFIX: &str = "server/";
const VERSION_PREFIX: &str = "version/";
const DELETED_PREFIX: &str = "deleted/";
/// Servers that change together are told of one by one up to this number.
const TOLD_ONE_BY_ONE_MAX: usize = 8;
/// Small batches are written together up to this size.
const TOGETHER_BYTES_MAX: usize = RECORD_BATCH_BYTES_MAX / 2;

/// What has changed since the state was as it was given.
#[derive(Default)]
pub(super) struct News {
    pub change: Change,
    pub events: Vec<RegistryEvent>,
}

/// A part of what carries out a change; the parts are written in their order.
#[derive(Debug)]
pub(super) struct Part {
    batch: RecordBatch,
    /// Whether the change has happened without it already, and this only clears away what is left.
    is_remainder: bool,
}

impl Part {
    fn of(batch: RecordBatch) -> Self {
        Self {
            batch,
            is_remainder: false,
        }
    }

    fn remainder(batch: RecordBatch) -> Self {
        Self {
            batch,
            is_remainder: true,
        }
    }
}

/// The records, as far as they have been read.
pub(super) struct Kept {
    store: Store,
    tree: ReplicatedTree<StoredRecord>,
    feed: TreeFeed,
    /// Of each server's record, as it was read: what a change was decided on.
    heads: Heads,
}

impl Kept {
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            tree: store.replicated(TREE, SCHEMA_VERSION),
            feed: store.follow(TREES),
            heads: BTreeMap::new(),
        }
    }

    /// Wakes whoever follows the registry.
    pub fn nudges(&self) -> TreeFeed {
        self.store.follow(TREES)
    }

    /// Reads everything, on a thread that may wait for the disk.
    pub async fn read(&mut self) -> Result<RegistryState, StoreError> {
        self.feed.drain();
        let tree = self.tree.clone();
        let read = tokio::task::spawn_blocking(move || read_all(&tree)).await;
        let (state, heads) = read.map_err(|error| StoreError::Failed {
            folder: self.store.folder().to_owned(),
            reason: error.to_string(),
        })??;
        self.heads = heads;
        Ok(state)
    }

    /// What has changed, here or at other nodes, since `state` was read; nothing when nothing has.
    pub async fn catch_up(&mut self, state: &RegistryState) -> Result<Option<News>, StoreError> {
        let keys = match self.feed.drain() {
            None => return Ok(None),
            Some(TreeChange::Everything) => {
                let now = self.read().await?;
                return Ok(Some(News {
                    change: state.difference(&now),
                    events: vec![imported(now.servers().len())],
                }));
            }
            Some(TreeChange::Keys(keys)) => keys,
        };
        let mut news = News::default();
        let names: BTreeSet<ServerName> = keys
            .iter()
            .filter_map(|changed| server_of(&changed.key))
            .collect();
        for name in names {
            self.read_server(state, name, &mut news)?;
        }
        if keys.iter().any(|changed| changed.key.starts_with(DELETED_PREFIX)) {
            self.read_deleted(state, &mut news.change)?;
        }
        if news.events.len() > TOLD_ONE_BY_ONE_MAX {
            news.events = vec![imported(news.events.len())];
        }
        Ok(Some(news))
    }

    fn read_server(
        &mut self,
        state: &RegistryState,
        name: ServerName,
        news: &mut News,
    ) -> Result<(), StoreError> {
        // The head first: when it is older than the versions that are read then, a guard on it does not hold.
        let key = server_key(&name);
        let mut assembly = Assembly::default();
        match self.tree.get_versioned(&key)? {
            Some(head) => {
                self.heads.insert(name.clone(), head.version);
                assembly.take(&key, head.value);
            }
            None => {
                self.heads.remove(&name);
            }
        }
        for version in self.tree.scan_prefix(&format!("{VERSION_PREFIX}{name}/")) {
            let (key, version) = version?;
            assembly.take(&key, version);
        }
        let now = assembly.finish().0.pop();
        let before = state.servers().get(&name);
        match (before, now) {
            (Some(before), Some(now)) if **before == now => {}
            (None, None) => {}
            (before, Some(now)) => {
                news.events.push(match before {
                    Some(_) => RegistryEvent::Updated { name },
                    None => RegistryEvent::Registered { name },
                });
                news.change.puts.push(Arc::new(now));
            }
            (Some(_), None) => {
                news.events.push(RegistryEvent::Removed { name: name.clone() });
                news.change.removes.push(name);
            }
        }
        Ok(())
    }

    fn read_deleted(&self, state: &RegistryState, change: &mut Change) -> Result<(), StoreError> {
        let mut assembly = Assembly::default();
        for record in self.tree.scan_prefix(DELETED_PREFIX) {
            let (key, record) = record?;
            assembly.take(&key, record);
        }
        let now = RegistryState::from_records(assembly);
        let difference = state.difference_of_deleted(&now);
        change.forgets.extend(difference.forgets);
        change.remembers.extend(difference.remembers);
        Ok(())
    }

    /// The parts that carry out a change which was decided on `state`, in order. What is sealed for a server comes along
    /// in `secrets`, by its name.
    pub fn parts(
        &self,
        state: &RegistryState,
        change: &Change,
        mut secrets: BTreeMap<ServerName, RecordBatch>,
    ) -> Result<Vec<Part>, StoreError> {
        let mut batches = Vec::new();
        for record in &change.puts {
            let sealed = secrets.remove(&record.name).unwrap_or_default();
            let batch = self.put(state, record, change, sealed)?;
            push_together(&mut batches, pieces(batch));
        }
        let mut parts: Vec<Part> = batches.into_iter().map(Part::of).collect();
        for record in change.removes.iter().filter_map(|name| state.servers().get(name)) {
            parts.extend(self.removal(state, record, change, secrets.remove(&record.name))?);
        }
        Ok(parts)
    }

    fn put(
        &self,
        state: &RegistryState,
        record: &ServerRecord,
        change: &Change,
        sealed: RecordBatch,
    ) -> Result<RecordBatch, StoreError> {
        let mut batch = self.guarded(&record.name);
        batch.append(sealed);
        let before = state.servers().get(&record.name);
        let manifest_name = record.manifest_name();
        if before.is_none() {
            let key = manifest_key(manifest_name);
            self.tree.guard_into(&mut batch, &key, None);
            let server = record.name.clone();
            self.write_into(&mut batch, (key, Some(StoredRecord::Manifest { server })))?;
            // What a removal that was cut off has left behind would turn up again.
            for left_over in self
                .tree
                .scan_prefix(&format!("{VERSION_PREFIX}{}/", record.name))
            {
                self.tree.remove_into(&mut batch, &left_over?.0);
            }
        }
        if change.forgets.iter().any(|forgotten| forgotten == manifest_name)
            && let Some(deleted) = state.deleted().get(manifest_name)
        {
            self.all_into(&mut batch, deleted_writes(deleted, false))?;
        }
        // The head last: should the batch have to be cut in pieces, the server changes with the last of them.
        let mut writes = server_writes(before.map(AsRef::as_ref), record);
        writes.rotate_left(1);
        self.all_into(&mut batch, writes)?;
        Ok(batch)
    }

    /// The head goes first, and with it the server; then what is left of it, when that is too much for one batch.
    fn removal(
        &self,
        state: &RegistryState,
        record: &ServerRecord,
        change: &Change,
        dropped_secrets: Option<RecordBatch>,
    ) -> Result<Vec<Part>, StoreError> {
        let mut head = self.guarded(&record.name);
        head.append(dropped_secrets.unwrap_or_default());
        self.tree
            .remove_into(&mut head, &manifest_key(record.manifest_name()));
        let mut rest = RecordBatch::default();
        let (heads, versions): (Vec<Write>, Vec<Write>) = removal_writes(record)
            .into_iter()
            .partition(|(key, _)| key.starts_with(SERVER_PREFIX));
        self.all_into(&mut head, heads)?;
        self.all_into(&mut rest, versions)?;
        let is_its = |deleted: &&Arc<DeletedServer>| deleted.manifest_name() == record.manifest_name();
        for deleted in change.remembers.iter().filter(is_its) {
            self.all_into(&mut rest, deleted_writes(deleted, true))?;
        }
        for forgotten in change
            .forgets
            .iter()
            .filter_map(|forgotten| state.deleted().get(forgotten))
        {
            self.all_into(&mut rest, deleted_writes(forgotten, false))?;
        }
        if head.bytes() + rest.bytes() <= RECORD_BATCH_BYTES_MAX {
            head.append(rest);
            return Ok(vec![Part::of(head)]);
        }
        self.tree.guard_into(&mut rest, &server_key(&record.name), None);
        let mut parts = vec![Part::of(head)];
        parts.extend(pieces(rest).into_iter().map(Part::remainder));
        Ok(parts)
    }

    /// Writes a part of a change.
    pub async fn write(&self, part: Part) -> Result<(), WriteError> {
        let deadline = Deadline::within(WRITE_WITHIN);
        match self.store.write_records(part.batch, deadline).await {
            // Somebody registered the same name again, and cleared away what was left.
            Err(WriteError::Conflict(_)) if part.is_remainder => Ok(()),
            written => written,
        }
    }

    /// Waits until the records show everything that was acknowledged before.
    pub async fn linearize(&self) -> Result<(), WriteError> {
        self.store.linearize(Deadline::within(WRITE_WITHIN)).await
    }

    fn guarded(&self, name: &ServerName) -> RecordBatch {
        let mut batch = RecordBatch::default();
        self.tree
            .guard_into(&mut batch, &server_key(name), self.heads.get(name).copied());
        batch
    }

    fn all_into(&self, batch: &mut RecordBatch, writes: Vec<Write>) -> Result<(), StoreError> {
        writes
            .into_iter()
            .try_for_each(|write| self.write_into(batch, write))
    }

    fn write_into(&self, batch: &mut RecordBatch, (key, record): Write) -> Result<(), StoreError> {
        match record {
            Some(record) => self.tree.put_into(batch, &key, &record),
            None => {
                self.tree.remove_into(batch, &key);
                Ok(())
            }
        }
    }
}

type Heads = BTreeMap<ServerName, RecordVersion>;

fn read_all(tree: &ReplicatedTree<StoredRecord>) -> Result<(RegistryState, Heads), StoreError> {
    let mut heads = Heads::new();
    let mut assembly = Assembly::default();
    for record in tree.scan_versioned("") {
        let (key, record) = record?;
        if let StoredRecord::Server(head) = &record.value {
            heads.insert(head.name.clone(), record.version);
        }
        assembly.take(&key, record.value);
    }
    Ok((RegistryState::from_records(assembly), heads))
}

fn server_of(key: &str) -> Option<ServerName> {
    let name = match key.strip_prefix(VERSION_PREFIX) {
        Some(rest) => rest.split('/').next()?,
        None => key.strip_prefix(SERVER_PREFIX)?,
    };
    ServerName::new(name).ok()
}

fn imported(count: usize) -> RegistryEvent {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    RegistryEvent::Imported { count }
}

/// A batch, cut so that each piece fits an entry of the log; each has all the guards.
fn pieces(batch: RecordBatch) -> Vec<RecordBatch> {
    if batch.check().is_ok() {
        return vec![batch];
    }
    let RecordBatch { guards, changes } = batch;
    let piece = || RecordBatch {
        guards: guards.clone(),
        changes: Vec::new(),
    };
    let mut pieces = vec![piece()];
    for change in changes {
        let mut last = pieces.pop().unwrap_or_else(piece);
        last.changes.push(change);
        if last.check().is_err()
            && last.changes.len() > 1
            && let Some(change) = last.changes.pop()
        {
            pieces.push(last);
            last = piece();
            last.changes.push(change);
        }
        pieces.push(last);
    }
    pieces
}

/// Appends batches; one that fits is made part of the last.
fn push_together(batches: &mut Vec<RecordBatch>, more: Vec<RecordBatch>) {
    for batch in more {
        match batches.last_mut() {
            Some(last) if last.bytes() + batch.bytes() <= TOGETHER_BYTES_MAX => last.append(batch),
            _ => batches.push(batch),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::time::Timestamp;

    use super::super::state::Registration;
    use super::super::state::tests::{Deed, manifest, registration};
    use super::*;

    /// What is kept is what is known: a state that is read is the state that followed the writes.
    #[tokio::test]
    async fn what_is_followed_is_what_is_read_after_any_deeds() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let mut kept = Kept::new(&store);
        let mut state = kept.read().await.unwrap();
        for step in 0..600 {
            let server = random.u8(..4);
            let deed = match random.u8(..10) {
                0..4 => Deed::Register(server),
                4..8 => Deed::Publish(server, random.u8(..6)),
                _ => Deed::Remove(server),
            };
            let Ok(change) = deed.decide(&state, Timestamp::from_unix_ms(step)) else {
                continue;
            };
            for batch in kept.parts(&state, &change, BTreeMap::new()).unwrap() {
                kept.write(batch).await.unwrap();
            }
            if let Some(news) = kept.catch_up(&state).await.unwrap() {
                state.apply(news.change);
            }
        }
        let read = Kept::new(&store).read().await.unwrap();
        assert!(!read.servers().is_empty() && !read.deleted().is_empty());
        assert!(state.difference(&read).is_empty(), "{state:?}\n{read:?}");
        assert_eq!(read.servers().len(), state.servers().len());
    }

    #[tokio::test]
    async fn a_server_too_large_for_one_batch_goes_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut kept = Kept::new(&store);
        let mut state = kept.read().await.unwrap();
        for version in 0..10 {
            let mut manifest = manifest("a/large", &format!("1.{version}.0"));
            manifest.description = "y".repeat(60_000); // stays with what is left of it
            let now = Timestamp::from_unix_ms(version);
            let change = match version {
                0 => state.register(
                    Registration {
                        manifest,
                        ..registration("large", "", "")
                    },
                    now,
                ),
                _ => state.publish(&ServerName::new("large").unwrap(), manifest, now),
            };
            carry_out(&mut kept, &mut state, change.unwrap()).await;
        }
        let change = state.remove(&ServerName::new("large").unwrap(), Timestamp::from_unix_ms(99));
        assert!(carry_out(&mut kept, &mut state, change.unwrap()).await > 3);
        assert!(state.servers().is_empty());
        assert_eq!(state.deleted()["a/large"].versions.len(), 10);
        let read = Kept::new(&store).read().await.unwrap();
        assert!(state.difference(&read).is_empty());
    }

    #[tokio::test]
    async fn a_server_that_is_registered_during_the_removal_of_its_former_self_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut kept = Kept::new(&store);
        let mut state = kept.read().await.unwrap();
        let large = |version: i64| {
            let mut manifest = manifest("a/large", &format!("1.{version}.0"));
            manifest.description = "y".repeat(60_000);
            manifest
        };
        let registered = Registration {
            manifest: large(0),
            ..registration("large", "", "")
        };
        let name = ServerName::new("large").unwrap();
        let register = state.register(registered, Timestamp::from_unix_ms(0));
        carry_out(&mut kept, &mut state, register.unwrap()).await;
        for version in 1..6 {
            let publish = state.publish(&name, large(version), Timestamp::from_unix_ms(version));
            carry_out(&mut kept, &mut state, publish.unwrap()).await;
        }
        let removal = state.remove(&name, Timestamp::from_unix_ms(7)).unwrap();
        let mut parts = kept.parts(&state, &removal, BTreeMap::new()).unwrap();
        let remainder = parts.split_off(1);
        assert!(!remainder.is_empty());
        for head in parts {
            kept.write(head).await.unwrap();
        }
        let mut elsewhere = Kept::new(&store);
        let mut state = elsewhere.read().await.unwrap();
        assert!(state.servers().is_empty());
        let again = state.register(
            registration("large", "b/other", "1.0.0"),
            Timestamp::from_unix_ms(8),
        );
        carry_out(&mut elsewhere, &mut state, again.unwrap()).await;
        for part in remainder {
            kept.write(part).await.unwrap(); // a conflict would have the removal decided again
        }
        let read = Kept::new(&store).read().await.unwrap();
        assert_eq!(read.servers()[&name].versions.len(), 1);
        assert_eq!(read.servers()[&name].manifest_name(), "b/other");
    }

    async fn carry_out(kept: &mut Kept, state: &mut RegistryState, change: Change) -> usize {
        let batches = kept.parts(state, &change, BTreeMap::new()).unwrap();
        let count = batches.len();
        for batch in batches {
            kept.write(batch).await.unwrap();
        }
        state.apply(kept.catch_up(state).await.unwrap().unwrap().change);
        count
    }

    #[test]
    fn a_batch_that_is_too_large_is_cut_and_keeps_its_order_and_guards() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let texts = store.replicated::<String>("texts", 1);
        let mut batch = RecordBatch::default();
        texts.guard_into(&mut batch, "guard", None);
        for number in 0..20 {
            texts
                .put_into(&mut batch, &format!("{number:02}"), &"x".repeat(30_000))
                .unwrap();
        }
        let pieces = pieces(batch.clone());
        assert_eq!(pieces.len(), 4);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.check().is_ok() && piece.guards == batch.guards)
        );
        let again: Vec<_> = pieces.into_iter().flat_map(|piece| piece.changes).collect();
        assert_eq!(again, batch.changes);
    }
}
