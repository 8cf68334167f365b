//! Killed with SIGKILL at any moment, what the log has applied and the position up to which it has agree, and what is
//! missing is there again once the log's entries are applied again.
//!
//! As `test_kill`: the test starts itself as a writer and kills it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::replicated::{LogIndex, RecordBatch};
use super::*;

const KILLS: u32 = 60;
const KEYS: u64 = 50;
const FOLDER_VARIABLE: &str = "TROUPE_STORE_KILL_APPLY_FOLDER";

/// What entry `index` does: counts in one tree, notes itself under one of a few keys in another, removes a third.
fn batch(store: &Store, index: u64) -> RecordBatch {
    let (counts, notes) = trees(store);
    let mut batch = RecordBatch::default();
    counts.put_into(&mut batch, "count", &index).unwrap();
    let padding = "x".repeat(usize::try_from(index % 50 * 400).unwrap());
    notes
        .put_into(&mut batch, &format!("{}", index % KEYS), &(index, padding))
        .unwrap();
    notes.remove_into(&mut batch, &format!("{}", (index + KEYS / 2) % KEYS));
    batch
}

type Note = (u64, String);

fn trees(store: &Store) -> (ReplicatedTree<u64>, ReplicatedTree<Note>) {
    (store.replicated("counts", 1), store.replicated("notes", 1))
}

fn applied(store: &Store) -> u64 {
    let position = store.replicated_state().applied().unwrap();
    position.map_or(0, |position| u64::from_be_bytes(position.try_into().unwrap()))
}

/// Applies what the log has beyond the applied position.
fn replay(store: &Store) -> u64 {
    let log = store.raw_log("log").unwrap();
    let state = store.replicated_state();
    for entry in log.range(applied(store) + 1..) {
        let (index, _) = entry.unwrap();
        state
            .apply(&index.to_be_bytes(), vec![(LogIndex(index), batch(store, index))])
            .unwrap();
    }
    log.last().unwrap().unwrap_or(0)
}

fn check(store: &Store, index: u64) {
    let (counts, notes) = trees(store);
    assert_eq!(counts.get("count").unwrap().unwrap_or(0), index);
    let there: Vec<u64> = notes.scan_prefix("").map(|note| note.unwrap().1.0).collect();
    let mut there_sorted = there.clone();
    there_sorted.sort_unstable();
    let expected: Vec<u64> = (index.saturating_sub(KEYS / 2 - 1).max(1)..=index).collect();
    assert_eq!(there_sorted, expected, "records and position disagree");
}

#[test]
#[ignore = "started by `what_is_applied_and_its_position_agree_after_60_kills`"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(Path::new(&folder)).unwrap();
        let log = store.raw_log("log").unwrap();
        let state = store.replicated_state();
        for index in replay(&store) + 1.. {
            log.append([(index, b"entry".as_slice())])
                .unwrap()
                .wait()
                .await
                .unwrap();
            state
                .apply(
                    &index.to_be_bytes(),
                    vec![(LogIndex(index), batch(&store, index))],
                )
                .unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "applied {index}").unwrap();
            out.flush().unwrap();
        }
    });
}

#[test]
fn what_is_applied_and_its_position_agree_after_60_kills() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(20_261_122);
    let (mut last, mut went_back) = (0, 0);
    for _ in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::test_kill_apply::writer",
                "--ignored",
                "--nocapture",
                "--test-threads=2", // on one core the name of the test would come first on the line
            ])
            .env(FOLDER_VARIABLE, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let until = random.u64(1..40);
        let mut told = lines.by_ref().map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("applied ")
                .and_then(|index| index.parse::<u64>().ok())
        });
        let mut acknowledged = told.by_ref().nth(usize::try_from(until).unwrap()).unwrap();
        std::thread::park_timeout(Duration::from_micros(random.u64(..3_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = told.last().unwrap_or(acknowledged);

        let store = Store::open(folder.path()).unwrap();
        let position = applied(&store);
        check(&store, position);
        went_back += u32::from(position < acknowledged);
        let end = replay(&store);
        assert!(
            end >= acknowledged,
            "entry {acknowledged} was durable, the log ends at {end}"
        );
        check(&store, end);
        assert!(end >= last);
        last = end;
    }
    println!("{KILLS} kills, {last} entries, {went_back} times something had to be applied again");
    assert!(
        last > 200,
        "only {last} entries were written: the test has shown little"
    );
    assert_eq!(Store::open(folder.path()).unwrap().verify().unwrap().damaged, 0);
}
