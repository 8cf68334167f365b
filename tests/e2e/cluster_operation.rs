//! What an operator does to a cluster under load: nodes added, drained, restarted one after the other, removed.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;
use troupe_tests::cluster::SETTLED_WITHIN;
use troupe_tests::history::order;
use troupe_tests::journal::Journal;
use troupe_tests::load::calls;
use troupe_tests::report::figure;
use troupe_tests::scene::Scene;
use troupe_tests::{Cluster, eventually, process};

/// Held by each test: several nodes at a time are enough for the machine.
static ALONE: Mutex<()> = Mutex::const_new(());
const JOURNAL_SERVER: &str = env!("CARGO_BIN_EXE_journal-server");
/// So many that a newcomer gets some whatever the hash says: of twenty none, once in four hundred times.
const PLACED_SERVERS: usize = 20;
/// How often each of them is called.
const CALLED_EVERY: Duration = Duration::from_millis(150);
/// What is promised for a newcomer to have taken its share.
const SHARE_PROMISED: Duration = Duration::from_secs(10);
/// What is asserted, on machines that are busy with other things.
const SHARE_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(40);

#[tokio::test]
async fn a_node_that_joins_under_load_takes_its_share_and_no_call_fails() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::set(3, JOURNAL_SERVER).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = (0..PLACED_SERVERS).map(|number| format!("shared-{number}"));
    let journals: Vec<_> = names
        .map(|name| (Journal::new(folder.path(), &name), name))
        .collect();
    let added = journals.iter().enumerate().map(|(number, (journal, name))| {
        let command = journal.command(JOURNAL_SERVER, name);
        let node = &scene.cluster.nodes[number % 3];
        async move { node.add_server(name, &command).await }
    });
    futures::future::join_all(added).await;
    let before = placed(&scene.cluster);
    let traffic = scene.traffic().await;
    let apis = scene.cluster.apis();
    let shared: Vec<_> = journals
        .iter()
        .map(|(_, name)| calls::placed(&apis, name, 1, CALLED_EVERY))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;

    let joins = Instant::now();
    let newcomer = scene.cluster.join().await;
    let joined = joins.elapsed();
    let mut took = Duration::ZERO;
    let mut share = 0;
    while share == 0 || joins.elapsed() < joined + SHARE_PROMISED + Duration::from_secs(3) {
        assert!(
            joins.elapsed() < SHARE_WITHIN,
            "of {PLACED_SERVERS} servers the newcomer runs none"
        );
        let runs = placed(&scene.cluster)[newcomer];
        if runs != share {
            (share, took) = (runs, joins.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figure(
        &format!("start of a fourth node (ready after {joined:.2?}) to its share: {share} of {before:?}"),
        format_args!("{took:.2?}"),
        format_args!("{SHARE_PROMISED:?}"),
    );
    assert!(took < SHARE_WITHIN, "{took:?}");
    let outcome = traffic.finish().await;
    for load in shared {
        let account = load.account().await;
        account.assert_all_succeeded("calls of servers that move", joins);
    }
    outcome
        .placed
        .assert_all_succeeded("calls of the placed server", joins);
    scene.assert_holds(&outcome).await;
    for (journal, name) in &journals {
        order::one_at_a_time(&journal.lives()).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    }
}

/// How many placed servers each node runs.
fn placed(cluster: &Cluster) -> Vec<usize> {
    let count = |node: &troupe_tests::Node| {
        let all = process::descendants(node.pid());
        all.into_iter()
            .filter(|pid| process::command_line(*pid).contains("journal-server"))
            .count()
    };
    cluster.nodes.iter().map(count).collect()
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_no_call() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::set(3, JOURNAL_SERVER).await;
    let traffic = scene.traffic().await;
    let began = Instant::now();
    for node in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let code = scene.cluster.nodes[node].stop(STOPPED_WITHIN).await;
        assert_eq!(code, Some(0), "an orderly stop");
        scene.cluster.nodes[node].start_again().await;
        scene.cluster.wait_settled().await;
    }
    let outcome = traffic.finish().await;
    scene.assert_holds(&outcome).await;
    // a node that is away refuses connections, and one that comes back says so; whoever reached a node was served
    let was_away = |reason: &&String| reason.contains("onnect") || reason.contains("has just started");
    for (what, account) in [("placed", &outcome.placed), ("session", &outcome.sessions)] {
        let failures = account.failures(began);
        let lost: Vec<_> = failures.iter().filter(|reason| !was_away(reason)).collect();
        assert!(
            lost.is_empty(),
            "{what}: {} calls were lost: {lost:#?}",
            lost.len()
        );
    }
}

#[tokio::test]
async fn a_drained_node_gives_everything_away_and_can_be_removed() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::set(3, JOURNAL_SERVER).await;
    let owner = scene.owner().await;
    let witness = (owner + 1) % 3;
    let name = Cluster::name(owner);
    scene.cluster.nodes[witness]
        .cli(&["node", "drain", &name])
        .await
        .ok();
    eventually("the placed server at another node", SETTLED_WITHIN, async || {
        scene.cluster.runs("journal-server").filter(|runs| *runs != owner)
    })
    .await;
    let call = json!({ "arguments": { "text": "after the drain" } });
    for node in 0..3 {
        let path = "/api/v1/servers/placed/tools/note/call";
        scene.cluster.nodes[node].api.post(path, &call).await.ok();
    }
    order::one_at_a_time(&scene.journal.lives()).unwrap_or_else(|wrong| panic!("{wrong}"));
    scene.cluster.kill(owner).await;
    scene.cluster.nodes[witness]
        .cli(&["node", "remove", &name])
        .await
        .ok();
    scene.cluster.wait_settled().await;
    let status = scene.cluster.try_status(witness).await.expect("it answers");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2), "{status}");
}
