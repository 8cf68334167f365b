//! A damaged database is noticed: at opening or at reading, never by records that are silently not there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use troupe_protocol::error::{Code, Coded};

use super::*;

const RECORDS: u32 = 400;

fn key(n: u32) -> String {
    format!("{n:04}")
}

fn value(n: u32) -> String {
    format!("{n} ").repeat(40)
}

/// A store with some records, closed again.
async fn filled(folder: &Path) {
    let store = Store::open(folder).unwrap();
    let texts = store.tree::<String>("texts", 1).unwrap();
    for n in (0..RECORDS).step_by(4) {
        let changes = (n..n + 4).map(|n| Change::Put(key(n), value(n))).collect();
        texts.batch(changes).await.unwrap();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn open_error(folder: &Path) -> StoreError {
    Store::open(folder).map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_missing_database_is_not_replaced_by_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let error = open_error(folder.path());
    assert!(matches!(error, StoreError::Lost { .. }), "{error}");
    assert_eq!(error.code(), Code::StoreCorrupt);
    assert!(
        !folder.path().join("store").exists(),
        "an empty database was made"
    );
}

#[tokio::test]
async fn an_emptied_database_is_not_taken_for_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    fs::File::create(folder.path().join("store/db")).unwrap();
    let error = open_error(folder.path());
    assert_eq!(error.code(), Code::StoreCorrupt, "{error}");
}

#[tokio::test]
async fn the_database_of_another_folder_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(one.path()).await;
    filled(other.path()).await;
    fs::remove_dir_all(one.path().join("store")).unwrap();
    copy_folder(&other.path().join("store"), &one.path().join("store"));
    let error = open_error(one.path());
    assert!(matches!(error, StoreError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn an_earlier_state_of_the_database_is_noticed() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(folder.path()).await;
    copy_folder(&folder.path().join("store"), backup.path());
    filled(folder.path()).await;
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    copy_folder(backup.path(), &folder.path().join("store"));
    let error = open_error(folder.path());
    assert!(
        matches!(
            error,
            StoreError::RolledBack {
                found: 100,
                acknowledged: 200,
                ..
            }
        ),
        "{error}"
    );
    fs::remove_file(folder.path().join("commits")).unwrap(); // what the message says, to go on with what is left
    Store::open(folder.path()).unwrap();
}

#[tokio::test]
async fn a_damaged_record_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let texts = store.tree::<String>("texts", 1).unwrap();
    texts.put("a", &"fine".to_owned()).await.unwrap();
    let raw = store.inner.engine.tree("texts").unwrap();
    let mut record = raw.get(b"a").unwrap().unwrap();
    *record.last_mut().unwrap() ^= 1;
    raw.apply(vec![RawChange::Put {
        key: b"b".to_vec(),
        value: record,
    }])
    .unwrap();

    let error = texts.get("b").unwrap_err();
    assert_eq!(error.code(), Code::StoreCorrupt);
    let text = error.to_string().replace(folder.path().to_str().unwrap(), "DATA");
    insta::assert_snapshot!(text);
    assert_eq!(texts.get("a").unwrap().as_deref(), Some("fine"));
    assert_eq!(texts.scan_prefix("").filter(Result::is_err).count(), 1);
    let report = store.verify().unwrap();
    assert_eq!((report.damaged, report.problems[0].key.as_str()), (1, "b"));
}

/// Flips one bit anywhere in the used part of the file, many times over.
#[tokio::test]
async fn no_flipped_bit_loses_a_record_silently() {
    const TRIALS: usize = 60;
    let original = tempfile::tempdir().unwrap();
    filled(original.path()).await;
    let used_bytes = {
        let content = fs::read(original.path().join("store/db")).unwrap();
        content.iter().rposition(|byte| *byte != 0).unwrap() + 1
    };
    let mut random = fastrand::Rng::with_seed(7);
    let (mut refused, mut noticed, mut harmless) = (0, 0, 0);
    let untouched = tempfile::tempdir().unwrap();
    copy_folder(original.path(), untouched.path());
    assert_eq!(
        Store::open(untouched.path())
            .unwrap()
            .tree::<String>("texts", 1)
            .unwrap()
            .len()
            .unwrap(),
        400
    );
    for trial in 0..TRIALS {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(original.path(), folder.path());
        let position = random.usize(..used_bytes) as u64;
        flip(&folder.path().join("store/db"), position, random.u8(..8));
        let store = match Store::open(folder.path()) {
            Ok(store) => store,
            Err(error) => {
                assert_eq!(error.code(), Code::StoreCorrupt, "{error}");
                refused += 1;
                continue;
            }
        };
        let texts = store.tree::<String>("texts", 1).unwrap();
        let mut errors = 0;
        for n in 0..RECORDS {
            match texts.get(&key(n)) {
                Ok(found) => assert_eq!(
                    found,
                    Some(value(n)),
                    "trial {trial}: byte {position} changed record {n} silently"
                ),
                Err(_) => errors += 1,
            }
        }
        if errors > 0 { noticed += 1 } else { harmless += 1 }
    }
    println!("{refused} refused at opening, {noticed} noticed at reading, {harmless} harmless");
    assert!(refused + noticed > 0, "no trial damaged anything");
}

fn flip(path: &Path, position: u64, bit: u8) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, position).unwrap();
}
