//! Measures, asserts nothing: `cargo test --release -p troupe-actors --lib figures -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde::{Deserialize, Serialize};

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

impl TypedTree<Server> {
    async fn put_owned(self, key: String, value: Server) {
        self.put(&key, &value).await.unwrap();
    }
}

/// Puts by so many writers at once.
async fn measure<F>(what: &str, writers: usize, put: impl Fn(String, Server) -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let puts_each = 4000 / writers.max(4);
    let began = std::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let put = put.clone();
        tasks.spawn(async move {
            let mut latencies_us = Vec::with_capacity(puts_each);
            for n in 0..puts_each {
                let began = std::time::Instant::now();
                put(format!("{writer}/{n}"), server(&"n".repeat(300), n as u64)).await;
                latencies_us.push(began.elapsed().as_micros());
            }
            latencies_us
        });
    }
    let mut latencies: Vec<u128> = tasks.join_all().await.into_iter().flatten().collect();
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / began.elapsed().as_secs_f64();
    let (p50, p99) = (
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    println!("{what}, {writers} writers: {rate:.0} puts/s, p50 {p50} us, p99 {p99} us");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, asserts nothing"]
async fn figures() {
    let folder =
        tempfile::tempdir_in(std::env::var("TROUPE_FIGURES_FOLDER").unwrap_or("/var/tmp".into())).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let servers = store.tree::<Server>("servers", 1).unwrap();
    let replicated = store.replicated::<Server>("replicated_servers", 1);
    for writers in [1_usize, 16, 128] {
        let tree = servers.clone();
        let put = move |key: String, value: Server| {
            let tree = tree.clone();
            async move { tree.put(&key, &value).await.unwrap() }
        };
        measure("tree of this node", writers, put).await;
        let tree = replicated.clone();
        let put = move |key: String, value: Server| {
            let tree = tree.clone();
            async move { tree.put(&key, &value).await.unwrap() }
        };
        measure("replicated tree without a log", writers, put).await;
    }
    let began = std::time::Instant::now();
    let reads = 200_000;
    for n in 0..reads {
        assert!(servers.get(&format!("0/{}", n % 900)).unwrap().is_some());
    }
    println!(
        "{:.0} reads/s on one thread",
        f64::from(reads) / began.elapsed().as_secs_f64()
    );
    let records = servers.len().unwrap();
    let began = std::time::Instant::now();
    assert_eq!(servers.scan_prefix("").filter(Result::is_ok).count(), records);
    println!(
        "scan: {:.0} records/s",
        records as f64 / began.elapsed().as_secs_f64()
    );
    println!("{:?}", store.status());
    let began = std::time::Instant::now();
    for n in 0..1000_u64 {
        let puts = (0..200).map(|key| {
            servers
                .clone()
                .put_owned(format!("hot/{key}"), server(&"n".repeat(300), n))
        });
        futures::future::join_all(puts).await;
    }
    let bytes = std::fs::metadata(folder.path().join("store/db")).unwrap().len();
    println!(
        "200,000 puts over 200 keys: {:?}, the database file has {bytes} bytes",
        began.elapsed()
    );
    drop((servers, replicated, store));
    let began = std::time::Instant::now();
    let _store = Store::open(folder.path()).unwrap();
    println!("open with {records} records: {:?}", began.elapsed());
}
