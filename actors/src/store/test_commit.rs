//! A write is acknowledged only after the sync, and never again after a sync that failed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use troupe_protocol::error::{Code, Coded};

use super::engine::{Engine, EngineError, RawChange, RawRange, Tree};
use super::sled_engine::SledEngine;
use super::*;

/// What the engine was asked to do, in order; can be told to fail.
#[derive(Default)]
struct Diary {
    lines: Mutex<Vec<&'static str>>,
    fail_sync: AtomicBool,
}

struct WatchedEngine(SledEngine, Arc<Diary>);
struct WatchedTree(Arc<dyn Tree>, Arc<Diary>);

impl Engine for WatchedEngine {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, EngineError> {
        Ok(Arc::new(WatchedTree(self.0.tree(name)?, Arc::clone(&self.1))))
    }
    fn tree_names(&self) -> Vec<String> {
        self.0.tree_names()
    }
    fn sync(&self) -> Result<(), EngineError> {
        self.1.lines.lock().push("sync");
        if self.1.fail_sync.load(Ordering::SeqCst) {
            return Err(EngineError("no space left on device".to_owned()));
        }
        self.0.sync()
    }
    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

impl Tree for WatchedTree {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.get(key)
    }
    fn apply(&self, changes: Vec<RawChange>) -> Result<(), EngineError> {
        self.1.lines.lock().push("apply");
        self.0.apply(changes)
    }
    fn range(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RawRange {
        self.0.range(from, to)
    }
}

fn watched(folder: &Path) -> (Committer, Arc<dyn Tree>, Arc<Diary>) {
    let diary = Arc::new(Diary::default());
    let engine: Arc<dyn Engine> = Arc::new(WatchedEngine(
        SledEngine::open(folder).unwrap(),
        Arc::clone(&diary),
    ));
    let counter = identity::adopt(folder, engine.as_ref()).unwrap();
    let tree = engine.tree("numbers").unwrap();
    diary.lines.lock().clear();
    (Committer::start(folder, engine, counter).unwrap(), tree, diary)
}

fn put(key: &str) -> Vec<RawChange> {
    vec![RawChange::Put {
        key: key.into(),
        value: b"1".to_vec(),
    }]
}

#[tokio::test]
async fn a_write_is_acknowledged_only_after_the_sync() {
    let folder = tempfile::tempdir().unwrap();
    let (committer, tree, diary) = watched(folder.path());
    committer.write(tree, put("a")).await.unwrap();
    assert_eq!(*diary.lines.lock(), ["apply", "apply", "sync"]); // the record, the commit's number
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (committer, tree, diary) = watched(folder.path());
    diary.fail_sync.store(true, Ordering::SeqCst);
    let error = committer.write(Arc::clone(&tree), put("a")).await.unwrap_err();
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert!(error.to_string().contains("no space left on device"), "{error}");
    diary.fail_sync.store(false, Ordering::SeqCst);
    committer.write(tree, put("b")).await.unwrap_err();
    assert!(committer.status().failed.is_some());
}
