#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde::Serialize;
use serde::de::DeserializeOwned;
use troupe_protocol::error::{Code, Coded};

use super::*;
use crate::runtime::Deadline;
use crate::store::{Change, KEY_BYTES_MAX, RawChange, Store, StoreError};

fn soon() -> Deadline {
    Deadline::within(crate::runtime::testkit::PATIENCE)
}

fn put<V: Serialize + DeserializeOwned + Send + Sync + 'static>(
    tree: &ReplicatedTree<V>,
    key: &str,
    value: V,
) -> RecordBatch {
    let mut batch = RecordBatch::default();
    tree.put_into(&mut batch, key, &value).unwrap();
    batch
}

fn all(tree: &ReplicatedTree<u64>) -> Vec<(String, u64)> {
    tree.scan_prefix("").map(Result::unwrap).collect()
}

#[tokio::test]
async fn without_a_log_a_write_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = Store::open(folder.path()).unwrap();
        let numbers = store.replicated::<u64>("numbers", 1);
        numbers.put("a", &1).await.unwrap();
        numbers.put("b", &2).await.unwrap();
        numbers.remove("a").await.unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    assert_eq!(all(&numbers), [("b".to_owned(), 2)]);
    let report = store.verify().unwrap();
    assert_eq!(report.damaged, 0, "{report:?}");
}

#[tokio::test]
async fn trees_do_not_see_each_other_and_scans_keep_to_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    let more = store.replicated::<u64>("numbers.more", 1);
    let puts = ["a/1", "a/2", "a", "é"].map(|key| Change::Put(key.to_owned(), 1));
    numbers.batch(puts.into()).await.unwrap();
    more.put("a/1", &2).await.unwrap();
    let keys = |prefix: &str| {
        let scan = numbers.scan_prefix(prefix);
        scan.map(|record| record.unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(keys(""), ["a", "a/1", "a/2", "é"]);
    assert_eq!(keys("a/"), ["a/1", "a/2"]);
    assert_eq!(all(&more), [("a/1".to_owned(), 2)]);
    assert_eq!((numbers.len().unwrap(), more.len().unwrap()), (4, 1));
}

#[tokio::test]
async fn a_batch_happens_only_if_all_its_guards_hold() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    numbers.put("a", &1).await.unwrap();
    let seen = numbers.get_versioned("a").unwrap().unwrap();
    assert_eq!(Some(seen.version), numbers.version_of("a", &1));

    let mut batch = put(&numbers, "b", 2);
    numbers.guard_into(&mut batch, "a", Some(seen.version));
    numbers.guard_into(&mut batch, "b", None);
    store.write_records(batch.clone(), soon()).await.unwrap();

    let error = store.write_records(batch, soon()).await.unwrap_err();
    assert_eq!(error.code(), Code::WriteConflict);
    assert!(
        matches!(&error, WriteError::Conflict(conflict) if conflict.key == "b"),
        "{error:?}"
    );

    numbers.put("a", &3).await.unwrap();
    let mut late = put(&numbers, "c", 3);
    numbers.guard_into(&mut late, "a", Some(seen.version));
    store.write_records(late, soon()).await.unwrap_err();
    assert_eq!(numbers.get("c").unwrap(), None);
}

#[tokio::test]
async fn a_guard_sees_what_the_entries_before_it_in_the_same_step_have_done() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    let mut feed = store.follow(&["numbers"]);
    let first = |value| {
        let mut batch = put(&numbers, "a", value);
        numbers.guard_into(&mut batch, "a", None);
        batch
    };
    let state = store.replicated_state();
    let outcomes = state
        .apply(b"2", vec![(LogIndex(1), first(1)), (LogIndex(2), first(2))])
        .unwrap();
    assert!(outcomes[0].is_ok() && outcomes[1].is_err(), "{outcomes:?}");
    assert_eq!(all(&numbers), [("a".to_owned(), 1)]);
    assert_eq!(state.applied().unwrap().as_deref(), Some(b"2".as_slice()));
    let told = feed.drain().unwrap();
    assert!(
        matches!(&told, TreeChange::Keys(keys) if keys.len() == 1),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_store_with_a_log_takes_no_write_past_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.replicated_state().apply(b"1", Vec::new()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    assert_eq!(numbers.put("a", &1).await.unwrap_err().code(), Code::NoQuorum);
    store.end_replication();
    assert_eq!(numbers.put("a", &1).await.unwrap_err().code(), Code::NoQuorum);
    assert!(numbers.is_empty().unwrap());
}

#[tokio::test]
async fn two_nodes_that_apply_the_same_batches_have_the_same_records_and_feeds() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = folders
        .each_ref()
        .map(|folder| Store::open(folder.path()).unwrap());
    testkit::join(&stores);
    let trees = stores
        .each_ref()
        .map(|store| store.replicated::<u64>("numbers", 1));
    let mut feed = stores[1].follow(&["numbers"]);
    let mut other = stores[1].follow(&["others"]);
    trees[0].put("a", &1).await.unwrap();
    trees[1].put("b", &2).await.unwrap();
    let seen = trees[1].get_versioned("a").unwrap().unwrap().version;
    let guarded = |tree: &ReplicatedTree<u64>, value| {
        let mut batch = put(tree, "a", value);
        tree.guard_into(&mut batch, "a", Some(seen));
        batch
    };
    let outcomes = [
        stores[0].write_records(guarded(&trees[0], 5), soon()).await,
        stores[1].write_records(guarded(&trees[1], 6), soon()).await,
    ];
    assert!(outcomes[0].is_ok() && outcomes[1].is_err(), "{outcomes:?}");
    assert_eq!(all(&trees[0]), all(&trees[1]));
    assert_eq!(trees[1].get("a").unwrap(), Some(5));
    for key in ["a", "b", "a"] {
        let Some(TreeChange::Keys(keys)) = feed.next().await else {
            panic!("the feed ended")
        };
        assert_eq!(keys[0].key, key);
    }
    assert_eq!((feed.drain(), other.drain()), (None, None));
    testkit::part(&stores);
}

#[tokio::test]
async fn who_lags_behind_the_feed_is_told_to_read_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    let mut feed = store.follow(&["numbers"]);
    let state = store.replicated_state();
    for n in 0..5_000_u64 {
        let batch = put(&numbers, "a", n);
        state.apply(&n.to_be_bytes(), vec![(LogIndex(n), batch)]).unwrap();
    }
    assert_eq!(feed.next().await, Some(TreeChange::Everything));
    assert!(feed.drain().is_some());
    assert_eq!(feed.drain(), None);
}

fn chunks(mut snapshot: ReplicatedSnapshot) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| snapshot.next_chunk().unwrap()).collect()
}

#[tokio::test]
async fn a_snapshot_is_the_state_at_its_moment_whatever_is_written_while_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let texts = store.replicated::<String>("texts", 1);
    let state = store.replicated_state();
    let long = |n: u64| format!("{n:0>3000}");
    let mut written = 0;
    let mut write = |key: u64, text: Option<String>| {
        let mut batch = RecordBatch::default();
        match text {
            Some(text) => texts.put_into(&mut batch, &format!("{key:04}"), &text).unwrap(),
            None => texts.remove_into(&mut batch, &format!("{key:04}")),
        }
        written += 1;
        let position = format!("{written}");
        state
            .apply(position.as_bytes(), vec![(LogIndex(written), batch)])
            .unwrap();
    };
    for key in (0..1_000).step_by(2) {
        write(key, Some(long(key)));
    }
    let expected: Vec<_> = texts.scan_prefix("").map(Result::unwrap).collect();
    let mut snapshot = state.snapshot().unwrap();
    assert_eq!(snapshot.position(), Some(b"500".as_slice()));
    let mut random = fastrand::Rng::with_seed(7);
    let mut chunks = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        assert!(chunk.len() <= SNAPSHOT_CHUNK_BYTES_MAX);
        chunks.push(chunk);
        for _ in 0..100 {
            let key = random.u64(..1_000);
            write(key, random.bool().then(|| long(key + 1)));
        }
    }
    assert!(chunks.len() > 10);

    let other_folder = tempfile::tempdir().unwrap();
    let other = Store::open(other_folder.path()).unwrap();
    other.replicated::<u64>("gone", 1).put("a", &1).await.unwrap();
    let other_texts = other.replicated::<String>("texts", 1);
    let mut feed = other.follow(&["texts"]);
    let mut installation = other.replicated_state().install().unwrap();
    for chunk in &chunks {
        installation.take(chunk).unwrap();
        assert!(other_texts.is_empty().unwrap(), "it is not yet in use");
    }
    installation.finish(LogIndex(500), b"500".to_vec()).await.unwrap();
    let installed: Vec<_> = other_texts.scan_prefix("").map(Result::unwrap).collect();
    assert_eq!(installed, expected);
    assert!(other.replicated::<u64>("gone", 1).is_empty().unwrap());
    assert_eq!(feed.drain(), Some(TreeChange::Everything));
    drop((other_texts, installed, feed, other));
    let again = Store::open(other_folder.path()).unwrap();
    assert_eq!(again.replicated::<String>("texts", 1).len().unwrap(), 500);
    assert_eq!(
        again.replicated_state().applied().unwrap().as_deref(),
        Some(b"500".as_slice())
    );
    assert_eq!(again.verify().unwrap().damaged, 0);
}

#[tokio::test]
async fn a_snapshot_behind_whose_back_too_much_changes_is_given_up_and_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let texts = store.replicated::<String>("texts", 1);
    let state = store.replicated_state();
    let write = |position: u64, key: u64| {
        let batch = put(&texts, &format!("{key:04}"), "x".repeat(3_000));
        let applied = state.apply(&position.to_be_bytes(), vec![(LogIndex(position), batch)]);
        applied.unwrap();
    };
    (0..200).for_each(|key| write(key, key));
    let mut patient = state.snapshot().unwrap();
    let mut bounded = state.snapshot().unwrap().remembering_at_most(100_000);
    // The same record again and again is remembered once; what was read already, not at all.
    bounded.next_chunk().unwrap().unwrap();
    (0..200).for_each(|n| write(1_000 + n, n % 10));
    (0..50).for_each(|n| write(2_000 + n, 190));
    bounded.next_chunk().unwrap().unwrap();
    (100..190).for_each(|key| write(3_000 + key, key));
    let overtaken = bounded.next_chunk().unwrap_err();
    assert!(matches!(overtaken, StoreError::Overtaken { .. }), "{overtaken}");
    assert!(std::iter::from_fn(|| patient.next_chunk().unwrap()).count() > 1);
    assert!(
        state
            .snapshot()
            .unwrap()
            .remembering_at_most(100_000)
            .next_chunk()
            .is_ok()
    );
}

#[tokio::test]
async fn an_installation_that_is_cut_off_or_damaged_leaves_the_state_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    let state = store.replicated_state();
    state
        .apply(b"1", vec![(LogIndex(1), put(&numbers, "a", 1))])
        .unwrap();
    let chunk = chunks(state.snapshot().unwrap()).remove(0);
    state
        .apply(b"2", vec![(LogIndex(2), put(&numbers, "b", 2))])
        .unwrap();
    let mut installation = state.install().unwrap();
    for bit in 0..chunk.len() * 8 {
        let mut damaged = chunk.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        installation.take(&damaged).unwrap_err();
    }
    installation.take(&chunk).unwrap();
    drop(installation);
    assert_eq!(numbers.len().unwrap(), 2);
    drop((numbers, state, store));
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.replicated::<u64>("numbers", 1).len().unwrap(), 2);
    assert_eq!(
        store.replicated_state().applied().unwrap().as_deref(),
        Some(b"2".as_slice())
    );
}

#[tokio::test]
async fn a_batch_too_large_for_an_entry_of_the_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let texts = store.replicated::<String>("texts", 1);
    let mut batch = RecordBatch::default();
    for key in ["a", "b", "c"] {
        texts.put_into(&mut batch, key, &"x".repeat(80_000)).unwrap();
    }
    assert_eq!(batch.check().unwrap_err().code(), Code::RecordTooLarge);
}

#[tokio::test]
async fn the_records_of_a_former_tree_move_once_and_wherever_it_is_cut_off() {
    const TREES: &[&str] = &["numbers", "texts", "none"];
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let former = store.tree::<u64>("numbers", 1).unwrap();
    let texts = store.tree::<String>("texts", 3).unwrap();
    for n in 0..3_000_u64 {
        former
            .batch(vec![Change::Put(format!("{n:05}"), n)])
            .await
            .unwrap();
    }
    let large = (0..20).map(|n| Change::Put(format!("{n:02}"), "x".repeat(40_000)));
    texts.batch(large.collect()).await.unwrap();
    // As if an attempt had been cut off after a part was copied.
    let numbers = store.replicated::<u64>("numbers", 1);
    numbers.put("00007", &7).await.unwrap();
    let mut feed = store.follow(&["numbers"]);

    assert_eq!(store.adopt_former_trees(TREES).await.unwrap(), 3_020);
    assert!(former.is_empty().unwrap() && texts.is_empty().unwrap());
    let expected: Vec<_> = (0..3_000_u64).map(|n| (format!("{n:05}"), n)).collect();
    assert_eq!(all(&numbers), expected);
    let moved = store.replicated::<String>("texts", 3);
    assert_eq!(moved.get("19").unwrap().unwrap().len(), 40_000);
    assert!(feed.drain().is_some());

    numbers.put("00007", &8).await.unwrap();
    assert_eq!(store.adopt_former_trees(TREES).await.unwrap(), 0);
    assert_eq!(numbers.get("00007").unwrap(), Some(8));
    assert_eq!(store.verify().unwrap().damaged, 0);
}

#[tokio::test]
async fn a_damaged_record_is_named_with_the_tree_it_is_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    numbers.put("a", &1).await.unwrap();
    numbers.put("b", &2).await.unwrap();
    let raw = store.inner.engine.tree(RAW_TREES[0]).unwrap();
    let key = b"numbers\0a".to_vec();
    let mut value = raw.get(&key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    raw.apply(vec![RawChange::Put { key, value }]).unwrap();

    let report = store.verify().unwrap();
    assert_eq!(report.damaged, 1);
    assert_eq!(
        (report.problems[0].tree.as_str(), report.problems[0].key.as_str()),
        ("numbers", "a")
    );
    let error = numbers.get("a").unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt);
    assert!(error.to_string().contains("`numbers`"), "{error}");
    assert_eq!(numbers.get("b").unwrap(), Some(2));
}

#[tokio::test]
async fn a_batch_with_a_key_that_no_record_can_have_is_refused_in_changes_and_in_guards() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.replicated::<u64>("numbers", 1);
    let (longest, too_long) = ("k".repeat(KEY_BYTES_MAX), "k".repeat(KEY_BYTES_MAX + 1));
    for (key, is_possible) in [(longest, true), (too_long, false)] {
        let (mut guarded, mut removal) = (put(&numbers, "a", 1), RecordBatch::default());
        numbers.guard_into(&mut guarded, &key, None);
        numbers.remove_into(&mut removal, &key);
        for batch in [guarded, removal] {
            assert_eq!(batch.check().is_ok(), is_possible);
        }
    }
}
