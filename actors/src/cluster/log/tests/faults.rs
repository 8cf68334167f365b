//! Nodes that die, networks that fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::super::*;
use super::world::{World, eventually, id, unhurried};

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_another_takes_over_and_nothing_is_lost() {
    let mut world = World::of(3, unhurried()).await;
    for round in 0..4 {
        let leader = world.leader().await;
        let key = format!("before-{round}");
        world.nodes[&leader].put(&key, "value").await.unwrap();
        world.stop(leader).await;
        let died = Instant::now();
        let other = world.nodes.values().next().unwrap();
        other.put(&format!("after-{round}"), "value").await.unwrap();
        println!("kill to next write: {:?}", died.elapsed());
        assert_eq!(other.get(&key).as_deref(), Some("value"));
        world.start(leader).await;
        world.settled().await;
    }
    assert_eq!(world.same_everywhere().await.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_writes_soon_and_comes_after_when_the_network_heals() {
    for silent in [false, true] {
        let world = World::of(5, unhurried()).await;
        world.network.lock().silent = silent;
        let leader = world.leader().await;
        let others: Vec<u128> = world
            .nodes
            .keys()
            .copied()
            .filter(|number| *number != leader)
            .collect();
        let (minority, majority) = ([leader, others[0]], &others[1..]);
        world.cut(&minority, majority);
        world.nodes[&majority[0]].put("majority", "value").await.unwrap();
        // Once it is known that there is no majority, a refusal takes no time.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for number in minority {
            let begun = Instant::now();
            let error = world.nodes[&number].put("minority", "value").await.unwrap_err();
            assert!(
                matches!(error, LogError::NoQuorum { .. }),
                "silent {silent}: {error}"
            );
            assert!(
                begun.elapsed() < Duration::from_secs(8),
                "silent {silent}: refused after {:?}",
                begun.elapsed()
            );
            let short = crate::runtime::Deadline::within(Duration::from_millis(500));
            assert!(world.nodes[&number].log.linearize(short).await.is_err());
            let short = crate::runtime::Deadline::within(Duration::from_millis(500));
            assert!(world.nodes[&number].log.confirm_leadership(short).await.is_err());
        }
        world.heal();
        eventually("the minority follows again", || {
            minority
                .iter()
                .all(|number| world.nodes[number].get("majority").is_some())
        })
        .await;
        world.nodes[&leader].put("healed", "value").await.unwrap();
        let all = world.same_everywhere().await;
        assert!(!all.contains_key("minority"), "what was refused happened");
        assert!(all.contains_key("healed"));
    }
}

/// Writers at all nodes while nodes die and come back, links end and messages get lost: what was acknowledged is there,
/// what was refused is not, and each value of a counter was taken once.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_happens_twice() {
    let seed = std::env::var("TROUPE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    fastrand::seed(seed);
    println!("TROUPE_TEST_SEED={seed}");
    let mut world = World::of(
        3,
        LogSettings {
            snapshot_every_entries: 60,
            keep_entries: 10,
            ..unhurried()
        },
    )
    .await;
    let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
    let refused = Arc::new(Mutex::new(Vec::new()));
    let unknown = Arc::new(AtomicU64::new(0));
    for round in 0..6 {
        let over = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for (number, node) in &world.nodes {
            for writer in 0..2 {
                let (log, values, over) = (node.log.clone(), node.values(), Arc::clone(&over));
                let (acknowledged, refused) = (Arc::clone(&acknowledged), Arc::clone(&refused));
                let unknown = Arc::clone(&unknown);
                let number = *number;
                writers.spawn(async move {
                    for count in 0.. {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        let key = format!("{round}-{number}-{writer}-{count:05}");
                        let mut batch = crate::store::RecordBatch::default();
                        // Were it applied twice, the second would be a conflict and the writer would be told so.
                        values.guard_into(&mut batch, &key, None);
                        values.put_into(&mut batch, &key, &"value".to_owned()).unwrap();
                        let deadline = crate::runtime::Deadline::within(Duration::from_secs(3));
                        match log.write(Command::Records(batch), deadline).await {
                            Ok(written) => {
                                acknowledged.lock().insert(key, written.index);
                            }
                            Err(LogError::OutcomeUnknown { .. }) => {
                                unknown.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(LogError::NoQuorum { .. } | LogError::Stopped { .. }) => {
                                refused.lock().push(key);
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            Err(other) => panic!("{key}: {other}"),
                        }
                    }
                });
            }
        }
        world.network.lock().delay_ms_max = fastrand::u64(0..10);
        world.network.lock().loss = [0.0, 0.02][fastrand::usize(0..2)];
        world.network.lock().silent = fastrand::bool();
        let victim = fastrand::u128(1..=3);
        let others: Vec<u128> = (1..=3).filter(|number| *number != victim).collect();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..800))).await;
        if fastrand::bool() {
            world.cut(&[victim], &others);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(500..3_000))).await;
        }
        over.store(true, Ordering::Relaxed);
        if fastrand::bool() {
            world.stop(victim).await;
        }
        while let Some(writer) = writers.join_next().await {
            writer.unwrap();
        }
        world.heal();
        if !world.nodes.contains_key(&victim) {
            world.start(victim).await;
        }
        world.settled().await;
    }
    let all = world.same_everywhere().await;
    let acknowledged = acknowledged.lock();
    println!(
        "{} acknowledged, {} refused, {} unknown",
        acknowledged.len(),
        refused.lock().len(),
        unknown.load(Ordering::Relaxed)
    );
    for key in acknowledged.keys() {
        assert!(all.contains_key(key), "{key} was acknowledged and is lost");
    }
    for key in refused.lock().iter() {
        assert!(!all.contains_key(key), "{key} was refused and is there");
    }
    assert!(acknowledged.len() > 100, "hardly anything was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_with_an_error() {
    let world = World::of(1, unhurried()).await;
    let log = &world.nodes[&1].log;
    for garbage in [&b""[..], b"\xff\xff\xff\xff", &[7; 1000]] {
        let error = log
            .answer(id(2), bytes::Bytes::copy_from_slice(garbage))
            .await
            .unwrap_err();
        assert!(matches!(error, LogError::Misunderstood { .. }), "{error}");
    }
    world.nodes[&1].put("key", "value").await.unwrap();
}
