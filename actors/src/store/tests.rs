#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use troupe_protocol::error::{Code, Coded};

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Server {
    name: String,
    calls: u64,
}

fn server(name: &str, calls: u64) -> Server {
    Server {
        name: name.to_owned(),
        calls,
    }
}

fn keys<V>(scan: impl Iterator<Item = Result<(String, V), StoreError>>) -> Vec<String> {
    scan.map(|record| record.unwrap().0).collect()
}

#[tokio::test]
async fn what_is_put_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = Store::open(folder.path()).unwrap();
        let servers = store.tree::<Server>("servers", 1).unwrap();
        servers.put("time", &server("time", 1)).await.unwrap();
        servers.put("time", &server("time", 2)).await.unwrap();
        servers.put("git", &server("git", 0)).await.unwrap();
        servers.remove("git").await.unwrap();
        assert_eq!(servers.get("time").unwrap(), Some(server("time", 2)));
    }
    let store = Store::open(folder.path()).unwrap();
    let servers = store.tree::<Server>("servers", 1).unwrap();
    assert_eq!(servers.get("time").unwrap(), Some(server("time", 2)));
    assert_eq!(servers.get("git").unwrap(), None);
    assert_eq!(servers.len().unwrap(), 1);
    assert_eq!(store.verify().unwrap().damaged, 0);
}

#[tokio::test]
async fn scans_walk_both_ways_and_keep_to_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Store::open(folder.path())
        .unwrap()
        .tree::<Server>("servers", 1)
        .unwrap();
    let puts = ["a/1", "a/2", "a/é", "b", "a"].map(|key| Change::Put(key.to_owned(), server(key, 0)));
    servers.batch(puts.into()).await.unwrap();
    assert_eq!(keys(servers.scan_prefix("a/")), ["a/1", "a/2", "a/é"]);
    assert_eq!(
        keys(servers.scan_prefix("").rev()),
        ["b", "a/é", "a/2", "a/1", "a"]
    );
    assert_eq!(keys(servers.scan_before("a/2").rev()), ["a/1", "a"]);
    assert_eq!(keys(servers.scan_after("a/2")), ["a/é", "b"]);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_and_the_largest_stay_in_the_database_file() {
    let folder = tempfile::tempdir().unwrap();
    let texts = Store::open(folder.path())
        .unwrap()
        .tree::<String>("texts", 1)
        .unwrap();
    let largest = "x".repeat(RECORD_BYTES_MAX - 11);
    let error = texts.put("above", &format!("{largest}x")).await.unwrap_err();
    assert_eq!(error.code(), Code::RecordTooLarge);
    insta::assert_snapshot!(error);
    let long_key = |n: usize| format!("{:k$}", n * 7919 % 100, k = KEY_BYTES_MAX);
    for n in 0..300 {
        texts.put(&long_key(n), &largest).await.unwrap();
        if n % 3 == 0 {
            texts.remove(&long_key(n / 2)).await.unwrap();
        }
    }
    let spilled = std::fs::read_dir(folder.path().join("store/blobs"))
        .unwrap()
        .count();
    assert_eq!(
        spilled, 0,
        "the engine spilled pages into files that it never syncs"
    );
}

#[tokio::test]
async fn a_batch_is_refused_whole_when_one_record_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let texts = Store::open(folder.path())
        .unwrap()
        .tree::<String>("texts", 1)
        .unwrap();
    let changes = vec![
        Change::Put("a".into(), "1".into()),
        Change::Put("b".into(), "x".repeat(RECORD_BYTES_MAX)),
    ];
    assert_eq!(
        texts.batch(changes).await.unwrap_err().code(),
        Code::RecordTooLarge
    );
    assert!(texts.is_empty().unwrap());
}

#[tokio::test]
async fn a_whole_catalogue_fits_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let texts = Store::open(folder.path())
        .unwrap()
        .tree::<String>("texts", 1)
        .unwrap();
    let changes = (0..2500)
        .map(|n| Change::Put(format!("{n:05}"), "x".repeat(4000)))
        .collect();
    texts.batch(changes).await.unwrap();
    assert_eq!(texts.len().unwrap(), 2500);
}

#[tokio::test]
async fn an_earlier_schema_is_migrated_and_a_later_one_refused() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Earlier {
        title: String,
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store
        .tree::<Earlier>("servers", 1)
        .unwrap()
        .put("time", &Earlier { title: "Time".into() })
        .await
        .unwrap();

    let without_migration = store.tree::<Server>("servers", 2).unwrap();
    assert!(matches!(
        without_migration.get("time").unwrap_err(),
        StoreError::Migration { from: 1, to: 2, .. }
    ));

    let present = without_migration.migrating(|from, mut value| {
        assert_eq!(from, 1);
        let name = value["title"].take();
        Ok(serde_json::json!({ "name": name, "calls": 0 }))
    });
    assert_eq!(present.get("time").unwrap(), Some(server("Time", 0)));
    present.put("time", &server("Time", 1)).await.unwrap();
    let error = store
        .tree::<Earlier>("servers", 1)
        .unwrap()
        .get("time")
        .unwrap_err();
    insta::assert_snapshot!(error);
}

#[tokio::test]
async fn a_second_node_on_the_folder_is_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        StoreError::InUse {
            folder: folder.path().to_owned(),
            holder: Some(std::process::id())
        }
    );
    assert!(error.to_string().contains("--data"));
    drop(first);
    Store::open(folder.path()).unwrap();
}

#[tokio::test]
async fn concurrent_writers_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let numbers = store.tree::<u64>("numbers", 1).unwrap();
    let writers = (0..64).map(|n| {
        let numbers = numbers.clone();
        async move { numbers.put(&n.to_string(), &n).await.unwrap() }
    });
    futures::future::join_all(writers).await;
    let status = store.status();
    assert_eq!(status.writes, 64);
    assert!(
        status.syncs < 32,
        "64 concurrent writes took {} syncs",
        status.syncs
    );
}

#[tokio::test]
async fn blobs_are_kept_once_and_checked_when_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let content = Bytes::from(vec![7_u8; 1 << 20]);
    let id = store.blobs().put(content.clone()).await.unwrap();
    assert_eq!(store.blobs().put(content.clone()).await.unwrap(), id);
    assert_eq!(store.blobs().get(&id).await.unwrap(), Some(content));
    assert!(store.blobs().contains(&id).await);
    assert_eq!(store.blobs().get(&BlobId::of(b"other")).await.unwrap(), None);

    let path = folder
        .path()
        .join("blobs")
        .join(&id.as_str()[..2])
        .join(id.as_str());
    std::fs::write(&path, b"tampered").unwrap();
    assert!(matches!(
        store.blobs().get(&id).await.unwrap_err(),
        StoreError::CorruptBlob { .. }
    ));
    store.blobs().remove(&id).await.unwrap();
    store.blobs().remove(&id).await.unwrap();
    assert!(!store.blobs().contains(&id).await);
}

#[test]
fn a_blob_id_is_64_hex_digits_and_never_a_path() {
    for wrong in [
        "",
        "../../etc/passwd",
        &"A".repeat(64),
        &"a".repeat(63),
        &format!("{}/", "a".repeat(63)),
    ] {
        assert!(wrong.parse::<BlobId>().is_err(), "{wrong:?} was accepted");
        assert!(serde_json::from_value::<BlobId>((*wrong).into()).is_err());
    }
}
