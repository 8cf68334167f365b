//! Faults that take long or need a network of the test's own: pauses, partitions, full disks. `make faults` runs them.
//!
//! Not here: a slow disk (nothing slows the file system down without privilege on the machine) and a jump of the wall
//! clock (it is one for the whole machine; no decision in the cluster compares wall clocks of two nodes).

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;
use troupe_tests::cluster::SETTLED_WITHIN;
use troupe_tests::network::{Network, isolated, mount_disk};
use troupe_tests::report::figure;
use troupe_tests::scene::{PLACED, Scene};
use troupe_tests::upstream::HttpUpstream;
use troupe_tests::{ClusterOptions, Node, NodeOptions, eventually, process};

/// Held by each test: several nodes at a time are enough for the machine.
static ALONE: Mutex<()> = Mutex::const_new(());
const JOURNAL_SERVER: &str = env!("CARGO_BIN_EXE_journal-server");
const PAUSE: Duration = Duration::from_secs(20);
/// The lease is 1100 ms; the rest is for the machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// The scene in a network that can be cut.
async fn scene_in(network: &Network, nodes: usize) -> Scene {
    let cluster = ClusterOptions::default().network(network).start(nodes).await;
    let upstream = HttpUpstream::start_at(network.router()).await;
    Scene::set_in(cluster, upstream, JOURNAL_SERVER).await
}

/// A write at this node, answered within a time in which a majority that is there would have taken it.
async fn write(scene: &Scene, node: usize, name: &str) -> (u16, String) {
    let body = json!({ "name": name, "command": "true", "enabled": false });
    let answer = scene.cluster.nodes[node].api.post("/api/v1/servers", &body).await;
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    (answer.status, code)
}

/// Waits until the majority takes writes at this node.
async fn wait_writable(scene: &Scene, node: usize, name: &str) {
    let what = format!("a write at node-{node}");
    eventually(&what, SETTLED_WITHIN, async || {
        let (status, code) = write(scene, node, name).await;
        // what timed out before may have been written after all
        (status == 201 || code == "T2002").then_some(())
    })
    .await;
}

/// What a node does that is cut off from the majority: no writes, no placed servers, but reads and stateless calls.
async fn assert_degraded(scene: &Scene, node: usize) {
    let api = &scene.cluster.nodes[node].api;
    let what = format!("node-{node} refuses writes");
    eventually(&what, STOPPED_WITHIN, async || {
        let (status, code) = write(scene, node, "never").await;
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
    assert!(
        !status["warnings"].as_array().expect("warnings").is_empty(),
        "{status}"
    );
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
#[ignore = "long: make faults"]
fn a_leader_cut_off_from_all_others_steps_down_and_comes_back() {
    isolated(
        "a_leader_cut_off_from_all_others_steps_down_and_comes_back",
        async {
            let network = Network::new(3);
            let scene = scene_in(&network, 3).await;
            let traffic = scene.traffic().await;
            for round in 0..2 {
                let leader = scene.cluster.leader().await;
                network.isolate(leader);
                wait_writable(&scene, (leader + 1) % 3, &format!("by-the-majority-{round}")).await;
                assert_degraded(&scene, leader).await;
                tokio::time::sleep(Duration::from_secs(3)).await;
                network.heal();
                scene.cluster.wait_settled().await;
                wait_writable(&scene, leader, &format!("after-healing-{round}")).await;
            }
            let outcome = traffic.finish().await;
            scene.assert_holds(&outcome).await;
        },
    );
}

#[test]
#[ignore = "long: make faults"]
fn an_owner_cut_off_stops_before_another_begins() {
    isolated("an_owner_cut_off_stops_before_another_begins", async {
        let network = Network::new(3);
        let scene = scene_in(&network, 3).await;
        let traffic = scene.traffic().await;
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
            assert_degraded(&scene, owner).await;
            network.heal();
            scene.cluster.wait_settled().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let outcome = traffic.finish().await;
        scene.assert_holds(&outcome).await;
    });
}

#[test]
#[ignore = "long: make faults"]
fn frames_lost_in_one_direction_only_do_no_harm() {
    isolated("frames_lost_in_one_direction_only_do_no_harm", async {
        let network = Network::new(3);
        let scene = scene_in(&network, 3).await;
        let traffic = scene.traffic().await;
        for is_deaf in [false, true] {
            let leader = scene.cluster.leader().await;
            for other in (0..3).filter(|other| *other != leader) {
                if is_deaf {
                    network.cut_one_way(other, leader);
                } else {
                    network.cut_one_way(leader, other);
                }
            }
            wait_writable(&scene, (leader + 1) % 3, &format!("one-way-{is_deaf}")).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            network.heal();
            scene.cluster.wait_settled().await;
        }
        let outcome = traffic.finish().await;
        scene.assert_holds(&outcome).await;
    });
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
            wait_writable(&scene, bridge, &format!("over-the-bridge-{round}")).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        network.heal();
        scene.cluster.wait_settled().await;
        let outcome = traffic.finish().await;
        scene.assert_safe(&outcome).await;
    });
}

#[test]
#[ignore = "long: make faults"]
fn the_smaller_part_of_five_stands_still_and_the_larger_goes_on() {
    isolated(
        "the_smaller_part_of_five_stands_still_and_the_larger_goes_on",
        async {
            let network = Network::new(5);
            let scene = scene_in(&network, 5).await;
            let traffic = scene.traffic().await;
            let leader = scene.cluster.leader().await;
            let smaller = [leader, (leader + 1) % 5];
            for inside in smaller {
                for outside in (0..5).filter(|node| !smaller.contains(node)) {
                    network.cut(inside, outside);
                }
            }
            wait_writable(&scene, (leader + 2) % 5, "by-three-of-five").await;
            for node in smaller {
                assert_degraded(&scene, node).await;
            }
            network.heal();
            scene.cluster.wait_settled().await;
            let outcome = traffic.finish().await;
            scene.assert_holds(&outcome).await;
        },
    );
}

#[test]
#[ignore = "long: make faults"]
fn a_full_disk_refuses_writes_clearly_and_goes_on_reading() {
    isolated("a_full_disk_refuses_writes_clearly_and_goes_on_reading", async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        mount_disk(&disk, 48 * 1024);
        let mut node = NodeOptions::default().data(disk.join("data")).start().await;
        let write = async |node: &Node, name: String| {
            let body = json!({ "name": name, "command": "true", "enabled": false });
            node.api.post("/api/v1/servers", &body).await
        };
        write(&node, "before".to_owned()).await.ok();
        let filler = disk.join("filler");
        fill(&filler);
        // what is in hand may still find room; then it is refused
        let mut acknowledged = Vec::new();
        let refused = async {
            for number in 0.. {
                let name = format!("full-{number}");
                let answer = write(&node, name.clone()).await;
                if answer.status == 201 {
                    acknowledged.push(name);
                } else {
                    return answer;
                }
            }
            unreachable!("a disk is finite")
        };
        let refused = tokio::time::timeout(Duration::from_secs(60), refused).await;
        let refused = refused.expect("a full disk refuses");
        assert!(refused.status >= 500, "{refused:?}");
        let code = refused.json()["code"].as_str().map(str::to_owned);
        assert!(
            code.is_some_and(|code| code != "T1010"),
            "said clearly: {refused:?}"
        );
        node.api.get("/api/v1/servers/before").await.ok();
        for name in &acknowledged {
            node.api.get(&format!("/api/v1/servers/{name}")).await.ok();
        }
        std::fs::remove_file(&filler).expect("room again");
        node.kill().await;
        node.start_again().await;
        node.api.get("/api/v1/servers/before").await.ok();
        for name in &acknowledged {
            node.api.get(&format!("/api/v1/servers/{name}")).await.ok();
        }
        write(&node, "after".to_owned()).await.ok();
    });
}

/// Takes all the room there is.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("the filler");
    for size in [1 << 20, 4096, 1] {
        let piece = vec![0; size];
        while file.write_all(&piece).is_ok() {}
    }
}

#[test]
#[ignore = "long: make faults"]
fn a_follower_with_a_full_disk_costs_the_cluster_nothing() {
    isolated("a_follower_with_a_full_disk_costs_the_cluster_nothing", async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        mount_disk(&disk, 48 * 1024);
        let mut cluster = ClusterOptions::default().start(2).await;
        let third = cluster.join_with(|options| options.data(disk.join("data"))).await;
        cluster.wait_settled().await;
        let filler = disk.join("filler");
        fill(&filler);
        for number in 0..200 {
            let body = json!({ "name": format!("kept-{number}"), "command": "true", "enabled": false });
            let written = async || {
                let answer = cluster.nodes[number % 2].api.post("/api/v1/servers", &body).await;
                (answer.status == 201 || answer.status == 409).then_some(())
            };
            eventually("a write without the third", SETTLED_WITHIN, written).await;
        }
        assert_eq!(cluster.nodes[third].api.get("/api/v1/servers").await.status, 200);
        std::fs::remove_file(&filler).expect("room again");
        cluster.kill(third).await;
        cluster.nodes[third].start_again().await;
        cluster.wait_settled().await;
        eventually("it has caught up", SETTLED_WITHIN, async || {
            let read = cluster.nodes[third].api.get("/api/v1/servers/kept-199").await;
            (read.status == 200).then_some(())
        })
        .await;
    });
}
