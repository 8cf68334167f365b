#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn entries(log: &RawLog) -> Vec<(u64, usize)> {
    let entries = log.range(..).map(Result::unwrap);
    entries.map(|(number, entry)| (number, entry.len())).collect()
}

#[tokio::test]
async fn entries_of_any_size_come_back_in_order_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = [
        0,
        1,
        64 * 1024 - 1,
        64 * 1024,
        64 * 1024 + 1,
        256 * 1024,
        1_000_000,
    ];
    {
        let store = Store::open(folder.path()).unwrap();
        let log = store.raw_log("log").unwrap();
        for (number, size) in (250..).zip(sizes) {
            let entry = vec![number as u8; size];
            let durable = log.append([(number, entry.as_slice())]).unwrap();
            assert_eq!(log.last().unwrap(), Some(number), "visible at once");
            durable.wait().await.unwrap();
        }
        log.put_values(&[("vote", b"me")]).unwrap().wait().await.unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    let log = store.raw_log("log").unwrap();
    let expected: Vec<(u64, usize)> = (250..).zip(sizes).collect();
    assert_eq!(entries(&log), expected);
    assert_eq!(log.value("vote").unwrap().as_deref(), Some(b"me".as_slice()));
    assert_eq!(log.value("other").unwrap(), None);
    for (number, entry) in log.range(251..=252).map(Result::unwrap) {
        assert!(entry.iter().all(|byte| *byte == number as u8));
    }
    let spilled = std::fs::read_dir(folder.path().join("store/blobs")).unwrap();
    assert_eq!(
        spilled.count(),
        0,
        "the engine spilled pages into files that it never syncs"
    );
    assert_eq!(store.verify().unwrap().damaged, 0);
}

#[tokio::test]
async fn both_ends_can_be_cut_and_an_entry_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let log = store.raw_log("log").unwrap();
    assert_eq!((log.first().unwrap(), log.last().unwrap()), (None, None));
    let large = vec![7; 200_000];
    let all = (1..=10_000_u64).map(|number| (number, if number == 9_000 { large.as_slice() } else { b"x" }));
    log.append(all).unwrap().wait().await.unwrap();
    log.remove(..=8_000, false, &[("purged", b"8000")])
        .unwrap()
        .wait()
        .await
        .unwrap();
    log.remove(9_001.., true, &[]).unwrap().wait().await.unwrap();
    assert_eq!(
        (log.first().unwrap(), log.last().unwrap()),
        (Some(8_001), Some(9_000))
    );
    log.append([(9_000, b"other".as_slice())])
        .unwrap()
        .wait()
        .await
        .unwrap();
    let last = log.range(8_999..).map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(last, [(8_999, b"x".to_vec()), (9_000, b"other".to_vec())]);
    assert_eq!(log.value("purged").unwrap().as_deref(), Some(b"8000".as_slice()));
    let above = vec![0; LOG_ENTRY_BYTES_MAX + 1];
    log.append([(9_001, above.as_slice())]).map(|_| ()).unwrap_err();
    assert_eq!(log.last().unwrap(), Some(9_000));
}
