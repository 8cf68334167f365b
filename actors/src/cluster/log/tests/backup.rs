//! The state into a file and back.

use std::io::{Read, Seek, Write};

use troupe_protocol::error::{Code, Coded};
use troupe_protocol::time::Timestamp;

use super::super::*;
use super::world::{World, unhurried, within};
use crate::store::RecordBatch;

fn now() -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_is_of_one_position_and_can_be_restored_elsewhere() {
    let world = World::of(1, unhurried()).await;
    let node = &world.nodes[&1];
    for number in 0..300 {
        node.put(&format!("fixed-{number:03}"), &"x".repeat(2_000))
            .await
            .unwrap();
    }
    // Two records are always changed together: a backup of one position has them equal.
    let values = node.values();
    let change = |number: u64| {
        let mut batch = RecordBatch::default();
        for key in ["a-first", "z-last"] {
            values.put_into(&mut batch, key, &number.to_string()).unwrap();
        }
        node.log.write(Command::Records(batch), within(10))
    };
    change(0).await.unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let backup = node
        .log
        .backup(file.try_clone().unwrap(), "this".to_owned(), now());
    let mut backup = std::pin::pin!(backup);
    let mut header = None;
    for number in 1.. {
        tokio::select! {
            made = &mut backup, if header.is_none() => header = Some(made.unwrap()),
            written = change(number) => { written.unwrap(); }
        }
        if header.is_some() && number > 20 {
            break;
        }
    }
    let header = header.unwrap();
    assert_eq!(inspect_backup(&mut file).unwrap(), header);

    let other = World::of(3, unhurried()).await;
    let target = &other.nodes[&2];
    target.put("fixed-000", "other").await.unwrap();
    target.put("superfluous", "value").await.unwrap();
    let members = target.log.membership().borrow().clone();
    let restored = target
        .log
        .restore(file.try_clone().unwrap(), Spared::default(), within(60));
    let restored = restored.await.unwrap();
    assert_eq!((restored.put, restored.removed), (302, 1));
    let all = other.same_everywhere().await;
    assert_eq!(all.len(), 302);
    assert_eq!(
        all["a-first"], all["z-last"],
        "the backup is of more than one position"
    );
    assert_eq!(*target.log.membership().borrow(), members);
    let again = target
        .log
        .restore(file.try_clone().unwrap(), Spared::default(), within(60));
    assert_eq!(again.await.unwrap().unchanged, 302);

    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut damaged = tempfile::tempfile().unwrap();
    damaged.write_all(&bytes).unwrap();
    target.put("fixed-000", "changed").await.unwrap();
    let error = target
        .log
        .restore(damaged, Spared::default(), within(60))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::BackupInvalid, "{error}");
    assert_eq!(
        target.get("fixed-000").as_deref(),
        Some("changed"),
        "something was written"
    );
}
