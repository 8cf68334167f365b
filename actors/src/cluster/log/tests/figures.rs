//! Measures, asserts nothing: `cargo test --release -p troupe-actors --lib log::tests::figures -- --ignored --nocapture`

use std::time::Instant;

use futures::future::BoxFuture;
use tokio::task::JoinSet;

use super::super::*;
use super::world::World;
use crate::runtime::Deadline;
use crate::store::{RecordBatch, Store, TypedTree};

type Put = std::sync::Arc<dyn Fn(String) -> BoxFuture<'static, ()> + Send + Sync>;

async fn measure(what: &str, writers: usize, put: Put) {
    let puts_each = 4_000 / writers.max(4);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let put = put.clone();
        tasks.spawn(async move {
            let mut latencies_us = Vec::with_capacity(puts_each);
            for number in 0..puts_each {
                let began = Instant::now();
                put(format!("{writer}/{number}")).await;
                latencies_us.push(began.elapsed().as_micros());
            }
            latencies_us
        });
    }
    let mut latencies: Vec<u128> = tasks.join_all().await.into_iter().flatten().collect();
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    let at = |share: usize| latencies[latencies.len() * share / 100];
    println!(
        "{what}, {writers} writers: {rate:.0} writes/s, p50 {} us, p99 {} us",
        at(50),
        at(99)
    );
}

fn through_the_log(log: LogHandle, store: Store) -> Put {
    let value = "n".repeat(300);
    std::sync::Arc::new(move |key| {
        let (log, value) = (log.clone(), value.clone());
        let tree = store.replicated::<String>("values", 1);
        Box::pin(async move {
            let mut batch = RecordBatch::default();
            tree.put_into(&mut batch, &key, &value).unwrap();
            let deadline = Deadline::within(std::time::Duration::from_secs(20));
            log.write(Command::Records(batch), deadline).await.unwrap();
        })
    })
}

fn plainly(tree: TypedTree<String>) -> Put {
    let value = "n".repeat(300);
    std::sync::Arc::new(move |key| {
        let (tree, value) = (tree.clone(), value.clone());
        Box::pin(async move { tree.put(&key, &value).await.unwrap() })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, asserts nothing"]
async fn figures() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree::<String>("plain", 1).unwrap();
    for writers in [1, 16, 128] {
        measure("a plain put", writers, plainly(tree.clone())).await;
    }
    for members in [1, 3, 5] {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let world = World::in_folder(folder.path(), members, LogSettings::default()).await;
        let leader = world.leader().await;
        for writers in [1, 16, 128] {
            let node = &world.nodes[&leader];
            let put = through_the_log(node.log.clone(), node.store.clone());
            measure(&format!("{members} members, at the leader"), writers, put).await;
        }
        let other = world.nodes.iter().find(|(number, _)| **number != leader);
        if let Some((_, node)) = other {
            let put = through_the_log(node.log.clone(), node.store.clone());
            measure(&format!("{members} members, elsewhere"), 16, put).await;
        }
    }
}
