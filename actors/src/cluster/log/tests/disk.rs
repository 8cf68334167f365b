//! A disk that takes no more: writes are refused and say why, reads go on, and what was acknowledged is there afterwards.
//!
//! The test starts itself again under a limit of the size of files (`ulimit -f`), which stands for the full disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use troupe_protocol::error::{Code, Coded};

use super::world::{World, unhurried};

const FOLDER_VARIABLE: &str = "TROUPE_LOG_DISK_FOLDER";
const LIMIT_BLOCKS: u32 = 40 * 1024; // of 512 or 1,024 bytes, as the shell likes: 20 or 40 MiB

/// The node whose disk gets full. As a test of its own it does nothing.
#[test]
#[ignore = "started by the test below"]
fn filled() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(fill(Path::new(&folder)));
}

async fn fill(folder: &Path) {
    let world = World::in_folder(folder, 1, unhurried()).await;
    let node = &world.nodes[&1];
    let value = "x".repeat(60_000);
    let mut last = None;
    let error = loop {
        let key = format!("key-{:05}", last.map_or(0, |last| last + 1));
        match node.put_within(&key, &value, 20).await {
            Ok(_) => {
                last = Some(last.map_or(0, |last: u32| last + 1));
                println!("acknowledged {key}");
            }
            Err(error) => break error,
        }
        assert!(last < Some(20_000), "the disk never gets full");
    };
    println!("refused {} {error}", error.code());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = std::time::Instant::now();
    let again = node.put_within("again", "value", 20).await.unwrap_err();
    println!("again {} {again}", again.code());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(again.code(), Code::StoreUnavailable, "{again}");
    assert!(node.log.check().is_err());
    assert_eq!(node.get("key-00000").as_deref(), Some(value.as_str()));
    println!("reads go on");
    std::process::exit(0); // as after a crash: nothing is tidied up
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_costs_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let limited = tokio::task::spawn_blocking(move || {
        let script = format!("trap '' XFSZ; ulimit -f {LIMIT_BLOCKS}; exec \"$0\" \"$@\"");
        let child = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=2", // on one core the name of the test would come first on the line
                "cluster::log::tests::disk::filled",
            ])
            .env(FOLDER_VARIABLE, path)
            .stdin(Stdio::null())
            .output();
        child.unwrap()
    });
    let output = limited.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("reads go on"), "{said}");
    let acknowledged: BTreeSet<&str> = said
        .lines()
        .filter_map(|line| line.split_once("acknowledged ").map(|(_, key)| key))
        .collect();
    assert!(acknowledged.len() > 10, "{said}");
    let refused = said.lines().find(|line| line.contains("refused"));
    println!("{} acknowledged, then: {}", acknowledged.len(), refused.unwrap());

    let world = World::again(folder.path(), 1, unhurried()).await;
    let all = world.same_everywhere().await;
    for key in acknowledged {
        assert!(all.contains_key(key), "{key} was acknowledged and is lost");
    }
    world.nodes[&1].put("there-is-room-again", "value").await.unwrap();
}
