//! Nodes that stand still, and networks that are cut. The long ones are run by `make faults`. What may befall a node's own
//! disk and clock: `cluster_machines.rs`.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;
use troupe_tests::cluster::SETTLED_WITHIN;
use troupe_tests::network::{Network, isolated};
use troupe_tests::report::figure;
use troupe_tests::scene::{PLACED, Scene};
use troupe_tests::upstream::HttpUpstream;
use troupe_tests::{ClusterOptions, eventually, process};

/// Held by each test: several nodes at a time are enough for the machine.
static ALONE: Mutex<()> = Mutex::const_new(());
const JOURNAL_SERVER: &str = env!("CARGO_BIN_EXE_journal-server");
const PAUSE: Duration = Duration::from_secs(20);
/// The lease is 1100 ms; the rest is for the machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The scene in a network that can be cut.
async fn scene_in(network: &Network, nodes: usize) -> Scene {
    let cluster = ClusterOptions::default().network(network).start(nodes).await;
    let upstream = HttpUpstream::start_at(network.router()).await;
    Scene::set_in(cluster, upstream, JOURNAL_SERVER).await
}

/// The test of this name: the scene in a network of its own, with traffic on everything while `cuts` are made. Afterwards
/// everything holds.
fn in_network(test: &str, nodes: usize, cuts: impl AsyncFnOnce(&Network, &Scene)) {
    isolated(test, async {
        let network = Network::new(nodes);
        let scene = scene_in(&network, nodes).await;
        let traffic = scene.traffic().await;
        cuts(&network, &scene).await;
        heal(&network, &scene).await;
        let outcome = traffic.finish().await;
        scene.assert_holds(&outcome).await;
    });
}

async fn heal(network: &Network, scene: &Scene) {
    network.heal();
    scene.cluster.wait_settled().await;
}

/// What a node does that is cut off from the majority: no writes, no placed servers, but reads and stateless calls.
async fn assert_degraded(scene: &Scene, node: usize) {
    let api = &scene.cluster.nodes[node].api;
    let what = format!("node-{node} refuses writes");
    eventually(&what, STOPPED_WITHIN, async || {
        let (status, code) = scene.cluster.register(node, "never").await;
        (status == 503 && code == "T8001").then_some(())
    })
    .await;
    eventually("no placed server there", STOPPED_WITHIN, async || {
        let family = process::descendants(scene.cluster.nodes[node].pid());
        let runs = family
            .into_iter()
            .any(|pid| process::command_line(pid).contains("journal-server") && process::can_act(pid));
        (!runs).then_some(())
    })
    .await;
    api.get(&format!("/api/v1/servers/{PLACED}")).await.ok();
    let call = json!({ "arguments": { "text": "stateless" } });
    api.post("/api/v1/servers/outliving/tools/echo/call", &call)
        .await
        .ok();
    let status = scene.cluster.try_status(node).await.expect("it answers");
    assert_eq!(status["has_quorum"], false, "{status}");
    let said = scene.cluster.nodes[node].cli(&["status"]).await.ok();
    assert!(said.contains("degraded"), "{said}");
}

async fn pause_and_go_on(scene: &mut Scene, node: usize) {
    let paused = Instant::now();
    scene.was_paused = true;
    scene.cluster.pause(node);
    scene.cluster.wait_settled().await; // the others go on without it
    let settled = paused.elapsed();
    figure(
        "pause to the others agreeing that it is down",
        format_args!("{settled:.2?}"),
        "stated only",
    );
    tokio::time::sleep(PAUSE.saturating_sub(settled)).await;
    scene.cluster.resume(node);
    scene.cluster.wait_settled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test]
#[ignore = "long: make faults"]
async fn a_leader_that_stands_still_for_twenty_seconds_does_no_harm_when_it_goes_on() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::set(3, JOURNAL_SERVER).await;
    let traffic = scene.traffic().await;
    let leader = scene.cluster.leader().await;
    pause_and_go_on(&mut scene, leader).await;
    let outcome = traffic.finish().await;
    scene.assert_safe(&outcome).await;
    outcome
        .modern
        .assert_all_succeeded("modern clients that retry once", outcome.began);
}

#[tokio::test]
#[ignore = "long: make faults"]
async fn an_owner_that_stands_still_for_twenty_seconds_serves_nothing_when_it_goes_on() {
    let _alone = ALONE.lock().await;
    let mut scene = Scene::set(3, JOURNAL_SERVER).await;
    let traffic = scene.traffic().await;
    let owner = scene.owner().await;
    pause_and_go_on(&mut scene, owner).await;
    let outcome = traffic.finish().await;
    scene.assert_safe(&outcome).await;
}

#[test]
fn a_leader_cut_off_from_all_others_steps_down_and_comes_back() {
    in_network(
        "a_leader_cut_off_from_all_others_steps_down_and_comes_back",
        3,
        async |network, scene| {
            let leader = scene.cluster.leader().await;
            let cut = Instant::now();
            network.isolate(leader);
            scene
                .cluster
                .wait_writable((leader + 1) % 3, "by-the-majority")
                .await;
            figure(
                "leader cut off to the next write by the majority",
                format_args!("{:.2?}", cut.elapsed()),
                "stated only",
            );
            assert_degraded(scene, leader).await;
            heal(network, scene).await;
            scene.cluster.wait_writable(leader, "after-healing").await;
        },
    );
}

#[test]
#[ignore = "long: make faults"]
fn an_owner_cut_off_stops_before_another_begins() {
    in_network(
        "an_owner_cut_off_stops_before_another_begins",
        3,
        async |network, scene| {
            for _ in 0..3 {
                let owner = scene.owner().await;
                network.isolate(owner);
                let cut = Instant::now();
                eventually("another owner", SETTLED_WITHIN, async || {
                    scene.cluster.runs("journal-server").filter(|heir| *heir != owner)
                })
                .await;
                figure(
                    "cut to the placed server at another node",
                    format_args!("{:.2?}", cut.elapsed()),
                    "stated only",
                );
                assert_degraded(scene, owner).await;
                heal(network, scene).await;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        },
    );
}

#[test]
#[ignore = "long: make faults"]
fn frames_lost_in_one_direction_only_do_no_harm() {
    in_network(
        "frames_lost_in_one_direction_only_do_no_harm",
        3,
        async |network, scene| {
            for is_deaf in [false, true] {
                let leader = scene.cluster.leader().await;
                for other in (0..3).filter(|other| *other != leader) {
                    if is_deaf {
                        network.cut_one_way(other, leader);
                    } else {
                        network.cut_one_way(leader, other);
                    }
                }
                scene
                    .cluster
                    .wait_writable((leader + 1) % 3, &format!("one-way-{is_deaf}"))
                    .await;
                tokio::time::sleep(Duration::from_secs(5)).await;
                heal(network, scene).await;
            }
        },
    );
}

#[test]
#[ignore = "long: make faults"]
fn two_nodes_that_only_a_third_can_reach_keep_working() {
    isolated("two_nodes_that_only_a_third_can_reach_keep_working", async {
        let network = Network::new(3);
        let scene = scene_in(&network, 3).await;
        let traffic = scene.traffic().await;
        let leader = scene.cluster.leader().await;
        network.cut(leader, (leader + 1) % 3);
        let bridge = (leader + 2) % 3;
        for round in 0..5 {
            scene
                .cluster
                .wait_writable(bridge, &format!("over-the-bridge-{round}"))
                .await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        heal(&network, &scene).await;
        let outcome = traffic.finish().await;
        // one of the two may be without a lease all the while, and what it runs stands still: safe is what it must be
        scene.assert_safe(&outcome).await;
    });
}

#[test]
#[ignore = "long: make faults"]
fn the_smaller_part_of_five_stands_still_and_the_larger_goes_on() {
    in_network(
        "the_smaller_part_of_five_stands_still_and_the_larger_goes_on",
        5,
        async |network, scene| {
            let leader = scene.cluster.leader().await;
            let smaller = [leader, (leader + 1) % 5];
            for inside in smaller {
                for outside in (0..5).filter(|node| !smaller.contains(node)) {
                    network.cut(inside, outside);
                }
            }
            scene
                .cluster
                .wait_writable((leader + 2) % 5, "by-three-of-five")
                .await;
            for node in smaller {
                assert_degraded(scene, node).await;
            }
        },
    );
}
