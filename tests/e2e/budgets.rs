//! What the node promises to cost. Limits are asserted for release builds; the figures are printed in any case.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;
use troupe_tests::report::{figure, percentile};
use troupe_tests::{Node, NodeOptions, binary, eventually, parts, process};

const MIB: u64 = 1024 * 1024;
/// Held by each test: one measured beside another would measure that one too.
static ALONE: Mutex<()> = Mutex::const_new(());

fn assert_within<T: PartialOrd + std::fmt::Debug>(what: &str, measured: T, limit: T) {
    if binary::is_release() {
        assert!(
            measured < limit,
            "{what}: {measured:?}, promised is less than {limit:?}"
        );
    }
}

/// The best of a few: what is promised is the node's cost, not that of what else the machine does.
async fn best_start(options: &NodeOptions) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        best = best.min(options.clone().start().await.ready_after);
    }
    best
}

#[tokio::test]
async fn a_node_is_ready_in_a_second() {
    let _alone = ALONE.lock().await;
    let limit = Duration::from_secs(1);
    let measured = best_start(&NodeOptions::default()).await;
    figure(
        "start to ready without a model",
        format_args!("{measured:.0?}"),
        format_args!("{limit:?}"),
    );
    assert_within("start to ready", measured, limit);
}

#[tokio::test]
async fn a_node_with_its_model_is_ready_in_three_seconds() {
    let _alone = ALONE.lock().await;
    let Some(models) = parts::models() else { return };
    let limit = Duration::from_secs(3);
    let measured = best_start(&NodeOptions::default().models(models)).await;
    figure(
        "start to ready with the model",
        format_args!("{measured:.0?}"),
        format_args!("{limit:?}"),
    );
    assert_within("start to ready", measured, limit);
}

#[tokio::test]
async fn an_idle_node_is_small() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let mut largest = 0;
    for _ in 0..20 {
        largest = largest.max(process::resident_bytes(node.pid()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figure(
        "resident memory, idle, without a model",
        format_args!("{} MiB", largest / MIB),
        "60 MiB",
    );
    assert_within("resident memory in bytes", largest, 60 * MIB);
    let before = process::cpu_ms(node.pid());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let spent = process::cpu_ms(node.pid()) - before;
    figure("CPU of an idle node", format_args!("{spent} ms in 3 s"), "90 ms");
    assert_within("CPU of an idle node in ms", spent, 90);
}

#[tokio::test]
async fn search_in_2120_servers_is_quick() {
    const ROUNDS: usize = 8;
    const REQUESTS: usize = 150;
    let _alone = ALONE.lock().await;
    let Some(catalogue) = parts::shared_data("catalog-2120-servers.jsonl.gz") else {
        return;
    };
    let mut content = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(catalogue).unwrap())
        .read_to_string(&mut content)
        .unwrap();
    let node = Node::start().await;
    let started = Instant::now();
    node.api
        .post(
            "/api/v1/servers/import",
            &json!({ "format": "catalog", "content": content }),
        )
        .await
        .ok();
    figure(
        "import of 2,120 servers",
        format_args!("{:.1?}", started.elapsed()),
        "30 s",
    );
    assert_within("import", started.elapsed(), Duration::from_secs(30));
    eventually("2,100 servers listed", Duration::from_secs(60), async || {
        let total = node.api.get("/api/v1/servers?limit=1").await.ok()["total"].as_u64()?;
        (total > 2100).then_some(())
    })
    .await;

    let words = [
        "weather",
        "github",
        "search%20the%20web",
        "database",
        "email",
        "zzz",
        "file",
        "maps",
        "a",
    ];
    let lists = [
        ("search", "/api/v1/servers?limit=50&search=WORD"),
        ("official search", "/v0.1/servers?limit=30&search=WORD"),
        ("a page", "/api/v1/servers?limit=50&sort=name"),
    ];
    for (what, path) in lists {
        let cpu_before = process::cpu_ms(node.pid());
        let mut rounds: Vec<(Duration, Duration)> = Vec::new();
        for _ in 0..ROUNDS {
            let mut samples = Vec::new();
            for request in 0..REQUESTS {
                let url = path.replace("WORD", words[request % words.len()]);
                let started = Instant::now();
                let answer = node.api.get(&url).await;
                samples.push(started.elapsed());
                answer.ok();
            }
            rounds.push((percentile(&mut samples, 99), percentile(&mut samples, 50)));
        }
        let cpu = (process::cpu_ms(node.pid()) - cpu_before) as f64 / (ROUNDS * REQUESTS) as f64;
        // the round that other work on the machine disturbed least
        let (p99, p50) = rounds.into_iter().min().expect("there were rounds");
        let what = format!("{what} in 2,120 servers, over HTTP");
        figure(
            &what,
            format_args!("p50 {p50:.1?}, p99 {p99:.1?}, {cpu:.2} ms of CPU each"),
            "p99 5 ms; 15 ms beside other work",
        );
        assert_within(&what, p99, Duration::from_millis(15));
        assert_within(&format!("{what}, CPU in ms"), cpu, 5.0);
    }
}

#[tokio::test]
async fn a_question_is_routed_quickly() {
    let _alone = ALONE.lock().await;
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    node.ask("what time is it in Tokyo?").await;
    let mut samples = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let answer = node.ask("what time is it in Tokyo?").await;
        samples.push(started.elapsed());
        assert_eq!(answer["status"], "answered", "{answer:#}");
    }
    let (p50, p90) = (percentile(&mut samples, 50), percentile(&mut samples, 90));
    figure(
        "a question asked and answered",
        format_args!("p50 {p50:.1?}, p90 {p90:.1?}"),
        "p50 250 ms",
    );
    assert_within("a question", p50, Duration::from_millis(250));
}
