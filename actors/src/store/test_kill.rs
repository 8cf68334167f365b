//! Killed with SIGKILL at any moment, everything acknowledged is there at the next start.
//!
//! The test starts itself again as a writer, which says on its standard output what was acknowledged; kills it at a random
//! moment; opens the folder and compares. Two hundred times on the same folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::*;

const KILLS: u32 = 200;
const SEED: u64 = 20_261_122;
const LANES: u64 = 4;
/// A lane removes the record that it wrote so many steps before.
const KEPT_STEPS: u64 = 40;
const FOLDER_VARIABLE: &str = "TROUPE_STORE_KILL_FOLDER";
const SIGKILL: i32 = 9;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    lane: u64,
    step: u64,
    padding: String,
}

impl Entry {
    /// Deterministic, so that the reader knows what the writer wrote; most are small, a few as large as they may be.
    fn of(lane: u64, step: u64) -> Self {
        let bytes = match (lane + step) % 97 {
            0 => RECORD_BYTES_MAX - 200,
            n => usize::try_from(n * 23).unwrap(),
        };
        Self {
            lane,
            step,
            padding: "abcdefgh".chars().cycle().take(bytes).collect(),
        }
    }

    fn blob(lane: u64, step: u64) -> Bytes {
        Bytes::from(format!("{lane}/{step} ").repeat(2000))
    }
}

fn key(lane: u64, step: u64) -> String {
    format!("{lane}/{step:09}")
}

fn has_blob(step: u64) -> bool {
    step.is_multiple_of(16)
}

struct Trees {
    entries: TypedTree<Entry>,
    /// `LANE/a` and `LANE/b` are written in one batch, the last step of the lane into each.
    pairs: TypedTree<u64>,
    store: Store,
}

impl Trees {
    fn open(folder: &Path) -> Self {
        let store = Store::open(folder).unwrap();
        Self {
            entries: store.tree("entries", 1).unwrap(),
            pairs: store.tree("pairs", 1).unwrap(),
            store,
        }
    }

    fn pair(&self, lane: u64) -> (u64, u64) {
        let half = |name| self.pairs.get(&format!("{lane}/{name}")).unwrap().unwrap_or(0);
        (half("a"), half("b"))
    }
}

/// The writer. Runs until it is killed; as a test of its own it does nothing.
#[test]
#[ignore = "started by `everything_acknowledged_survives_200_kills`"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let trees = Trees::open(Path::new(&folder));
        futures::future::join_all((0..LANES).map(|lane| write_lane(&trees, lane))).await;
    });
}

async fn write_lane(trees: &Trees, lane: u64) {
    for step in trees.pair(lane).0 + 1.. {
        if has_blob(step) {
            trees.store.blobs().put(Entry::blob(lane, step)).await.unwrap();
        }
        trees
            .entries
            .put(&key(lane, step), &Entry::of(lane, step))
            .await
            .unwrap();
        if let Some(old) = step.checked_sub(KEPT_STEPS) {
            trees.entries.remove(&key(lane, old)).await.unwrap();
        }
        let halves = ["a", "b"].map(|half| Change::Put(format!("{lane}/{half}"), step));
        trees.pairs.batch(halves.into()).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acknowledged {lane} {step}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn everything_acknowledged_survives_200_kills() {
    let began = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut acknowledged = [0_u64; LANES as usize];
    let mut kills_while_writing = 0;
    for round in 0..KILLS {
        let before = acknowledged;
        // One in four dies at some moment of its start (recovery included), the others while they write.
        let dies_early = random.u32(..4) == 0;
        let lives = Duration::from_micros(random.u64(..60_000));
        run_and_kill(folder.path(), dies_early, lives, &mut acknowledged);
        kills_while_writing += u32::from(acknowledged != before);
        check(folder.path(), round, &mut acknowledged);
    }
    let steps: u64 = acknowledged.iter().sum();
    println!(
        "{KILLS} kills, {kills_while_writing} while writing, {steps} steps, {:?}",
        began.elapsed()
    );
    assert!(
        kills_while_writing >= KILLS / 2,
        "only {kills_while_writing} kills hit a writing process"
    );
    assert!(
        steps > 1000,
        "only {steps} steps were acknowledged: the test has shown little"
    );
    let trees = Trees::open(folder.path());
    assert_eq!(trees.store.verify().unwrap().damaged, 0);
}

/// Starts the writer, kills it, and notes the last step that each lane was told is safe.
fn run_and_kill(folder: &Path, dies_early: bool, lives: Duration, acknowledged: &mut [u64; LANES as usize]) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        // on one core the name of the test would come first on the line
        .args(["--exact", "store::test_kill::writer", "--ignored", "--nocapture", "--test-threads=2"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = whole_lines(child.stdout.take().unwrap());
    let mut seen = Vec::new();
    if !dies_early {
        let first = lines
            .recv_timeout(Duration::from_secs(20))
            .expect("the writer acknowledged nothing in 20 s");
        seen.push(first);
    }
    let until = Instant::now() + lives;
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => seen.push(line),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => panic!("the writer ended by itself"),
        }
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(SIGKILL),
        "the writer ended by itself: {status}"
    );
    seen.extend(lines.iter());
    for (lane, step) in seen {
        acknowledged[lane] = acknowledged[lane].max(step);
    }
}

/// The acknowledgements as they come. A line that the kill cut off counts for nothing.
fn whole_lines(output: impl std::io::Read + Send + 'static) -> Receiver<(usize, u64)> {
    let (sender, receiver) = sync_channel(1 << 16);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap_or(0) > 0 {
            let whole = line
                .strip_suffix('\n')
                .and_then(|line| line.strip_prefix("acknowledged "));
            if let Some((lane, step)) = whole.and_then(|rest| rest.split_once(' ')) {
                sender
                    .send((lane.parse().unwrap(), step.parse().unwrap()))
                    .unwrap();
            }
            line.clear();
        }
    });
    receiver
}

fn check(folder: &Path, round: u32, acknowledged: &mut [u64; LANES as usize]) {
    let trees = Trees::open(folder);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for lane in 0..LANES {
        let told = acknowledged[lane as usize];
        let (a, b) = trees.pair(lane);
        assert_eq!(a, b, "round {round}, lane {lane}: half a batch is there");
        assert!(
            a == told || a == told + 1,
            "round {round}, lane {lane}: step {told} was acknowledged, {a} is there"
        );
        let present: HashSet<String> = trees
            .entries
            .scan_prefix(&format!("{lane}/"))
            .map(|record| {
                let (at, entry) = record.unwrap();
                assert_eq!(entry, Entry::of(lane, entry.step));
                assert_eq!(at, key(lane, entry.step));
                at
            })
            .collect();
        let oldest = (told + 1).saturating_sub(KEPT_STEPS).max(1);
        for step in oldest + 1..=told {
            assert!(
                present.contains(&key(lane, step)),
                "round {round}, lane {lane}: acknowledged step {step} is lost"
            );
            if has_blob(step) {
                let blob = Entry::blob(lane, step);
                let kept = runtime
                    .block_on(trees.store.blobs().get(&BlobId::of(&blob)))
                    .unwrap();
                assert_eq!(
                    kept,
                    Some(blob),
                    "round {round}, lane {lane}: the blob of step {step} is lost"
                );
            }
        }
        // What was removed stays removed; the step in flight may have left one record more.
        let strays = present.len() as u64;
        assert!(
            strays <= KEPT_STEPS + 2,
            "round {round}, lane {lane}: {strays} records, removed ones came back"
        );
        acknowledged[lane as usize] = a;
    }
}
