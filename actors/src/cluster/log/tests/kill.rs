//! A whole cluster killed at once with SIGKILL, at any moment: at the next start everything acknowledged is there.
//!
//! The test starts itself again as the cluster, which says on its standard output what was acknowledged; kills it; starts
//! the same nodes here and compares.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::super::*;
use super::world::{World, unhurried, within};

const FOLDER_VARIABLE: &str = "TROUPE_LOG_KILL_FOLDER";
const MEMBERS_VARIABLE: &str = "TROUPE_LOG_KILL_MEMBERS";
const ROUND_VARIABLE: &str = "TROUPE_LOG_KILL_ROUND";
const WRITERS: usize = 4;

fn settings() -> LogSettings {
    LogSettings {
        snapshot_every_entries: 80,
        keep_entries: 20,
        ..unhurried()
    }
}

/// The cluster that is killed. As a test of its own it does nothing.
#[test]
#[ignore = "started by the tests below"]
fn killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u128>().unwrap();
    let (members, round) = (number(MEMBERS_VARIABLE), number(ROUND_VARIABLE));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::again(Path::new(&folder), members, settings()).await;
        let writers = (0..WRITERS).map(|writer| write(&world, round, writer));
        futures::future::join_all(writers).await;
    });
}

async fn write(world: &World, round: u128, writer: usize) {
    let nodes: Vec<_> = world.nodes.values().collect();
    let node = nodes[writer % nodes.len()];
    for count in 0.. {
        let key = format!("{round}-{writer}-{count}");
        if node.put(&key, &"x".repeat(count % 3_000)).await.is_ok() {
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {key}").unwrap();
            out.flush().unwrap();
        }
    }
}

/// What was acknowledged until it was killed.
fn run_and_kill(folder: PathBuf, members: u128, round: u32, lives: Duration) -> BTreeSet<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=2", // on one core the name of the test would come first on the line
            "cluster::log::tests::kill::killed",
        ])
        .env(FOLDER_VARIABLE, folder)
        .env(MEMBERS_VARIABLE, members.to_string())
        .env(ROUND_VARIABLE, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (sender, lines) = sync_channel(100_000);
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            // A line begins where the harness left off; only whole ones count.
            if let Some((_, key)) = line.split_once("acknowledged ") {
                sender.send(key.to_owned()).unwrap();
            }
        }
    });
    let mut acknowledged = BTreeSet::new();
    let first = lines.recv_timeout(Duration::from_secs(60));
    acknowledged.extend(first.ok());
    let until = Instant::now() + lives;
    while let Ok(key) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        acknowledged.insert(key);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged.extend(lines.iter());
    reader.join().unwrap();
    acknowledged
}

async fn survives(members: u128, kills: u32) {
    let folder = tempfile::tempdir().unwrap();
    World::in_folder(folder.path(), members, settings())
        .await
        .stop_all()
        .await;
    let mut acknowledged = BTreeSet::new();
    let mut random = fastrand::Rng::with_seed(20_261_122);
    for round in 0..kills {
        let lives = Duration::from_millis(random.u64(..400));
        let path = folder.path().to_owned();
        let killed = tokio::task::spawn_blocking(move || run_and_kill(path, members, round, lives));
        let before = acknowledged.len();
        acknowledged.extend(killed.await.unwrap());
        assert!(acknowledged.len() > before, "round {round}: nothing was written");
        let mut world = World::again(folder.path(), members, settings()).await;
        let all = world.same_everywhere().await;
        for key in &acknowledged {
            assert!(
                all.contains_key(key),
                "round {round}: {key} was acknowledged and is lost"
            );
        }
        world.nodes[&1]
            .put(&format!("after-{round}"), "value")
            .await
            .unwrap();
        world.nodes[&1].log.linearize(within(10)).await.unwrap();
        world.stop_all().await;
    }
    println!(
        "{members} members, {kills} kills: {} acknowledged",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_survives_kills_of_a_lone_node() {
    survives(1, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_survives_kills_of_a_whole_cluster_at_once() {
    survives(3, 6).await;
}
