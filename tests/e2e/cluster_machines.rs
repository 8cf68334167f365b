//! What may befall a node's own machine: a disk that is slow, hangs or is full, a clock that jumps.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use troupe_tests::cluster::SETTLED_WITHIN;
use troupe_tests::load::Account;
use troupe_tests::machine::Machines;
use troupe_tests::network::{isolated, mount_disk};
use troupe_tests::report::{figure, percentile};
use troupe_tests::scene::Scene;
use troupe_tests::upstream::HttpUpstream;
use troupe_tests::{Cluster, ClusterOptions, Node, NodeOptions, eventually};

/// Held by each test: several nodes at a time are enough for the machine.
static ALONE: Mutex<()> = Mutex::const_new(());
const JOURNAL_SERVER: &str = env!("CARGO_BIN_EXE_journal-server");
/// How long each state of a disk or clock is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// The longest that a write may take while a disk is slow: less than what clients give up after.
const WRITE_WITHIN: Duration = Duration::from_secs(8);
const HOUR_S: i64 = 3_600;

async fn scene_on(machines: &Machines, nodes: usize) -> Scene {
    let cluster = ClusterOptions::default().machines(machines).start(nodes).await;
    Scene::set_in(cluster, HttpUpstream::start().await, JOURNAL_SERVER).await
}

/// A time in which something was so.
struct Span {
    what: &'static str,
    from: Instant,
    until: Instant,
}

impl Span {
    /// Lets some time pass.
    async fn watch(what: &'static str, length: Duration) -> Self {
        let from = Instant::now();
        tokio::time::sleep(length).await;
        let until = Instant::now();
        Self { what, from, until }
    }

    /// That writes were taken in it, each in bounded time; the median.
    fn assert_written(&self, writes: &Account) -> Duration {
        let mut lengths = writes.between(self.from, self.until).lengths();
        assert!(!lengths.is_empty(), "no write was taken with {}", self.what);
        let median = percentile(&mut lengths, 50);
        let (shortest, longest) = (lengths[0], lengths[lengths.len() - 1]);
        figure(
            &format!("writes with {}", self.what),
            format_args!(
                "{} in {:.1?}, {shortest:.1?} to {longest:.1?}, median {median:.1?}",
                lengths.len(),
                self.until - self.from
            ),
            format_args!("{WRITE_WITHIN:?}"),
        );
        assert!(
            longest < WRITE_WITHIN,
            "a write took {longest:?} with {}",
            self.what
        );
        median
    }
}

#[tokio::test]
async fn a_slow_disk_makes_writes_slower_and_nothing_worse() {
    with_syncs_longer_by(Duration::from_millis(250)).await;
}

/// The margin that the test above has for machines whose disks are slow by themselves.
#[tokio::test]
#[ignore = "long: make faults"]
async fn a_disk_more_than_twice_as_slow_does_no_worse() {
    with_syncs_longer_by(Duration::from_millis(600)).await;
}

/// What a sync of a small file takes on this machine's disk, the slowest of some.
fn own_sync() -> Duration {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut file = std::fs::File::create(folder.path().join("file")).expect("a file");
    let syncs = (0..5).map(|_| {
        let began = Instant::now();
        file.write_all(&[0; 512])
            .and_then(|()| file.sync_data())
            .expect("a sync");
        began.elapsed()
    });
    syncs.max().unwrap_or_default()
}

async fn with_syncs_longer_by(slow: Duration) {
    let _alone = ALONE.lock().await;
    let machines = Machines::new();
    let own = own_sync();
    figure(
        "a sync by this machine itself",
        format_args!("{own:.1?}"),
        "stated only",
    );
    // so that a write that takes a few syncs at each of two nodes, and waits for others, fits into it
    let watched = WATCHED.max((slow + own) * 24);
    let scene = scene_on(&machines, 3).await;
    let traffic = scene.traffic().await;
    let leader = scene.cluster.leader().await;
    let set = |nodes: &[usize], sync: Duration| {
        for node in nodes {
            machines.set_sync(*node, sync);
        }
    };
    set(&[(leader + 1) % 3], slow);
    let follower_slow = Span::watch("a follower's disk slow", watched).await;
    set(&[0, 1, 2], Duration::ZERO);
    set(&[leader], slow);
    let leader_slow = Span::watch("the leader's disk slow", watched).await;
    set(&[0, 1, 2], slow);
    tokio::time::sleep(slow * 4).await; // what was under way before was quicker
    let all_slow = Span::watch("all disks slow", watched).await;
    set(&[0, 1, 2], Duration::ZERO);
    tokio::time::sleep(slow * 4).await;
    let after = Span::watch("all disks quick again", watched).await;
    let outcome = traffic.finish().await;
    for span in [&follower_slow, &leader_slow, &after] {
        span.assert_written(&outcome.registry.writes);
    }
    let logs: String = scene.cluster.nodes.iter().map(Node::log).collect();
    figure(
        "leases that ran out, with all of it",
        logs.matches("the lease is over").count(),
        "stated only",
    );
    // Not each of them: what is written while a sync is held back goes to the disk with it.
    let median = all_slow.assert_written(&outcome.registry.writes);
    assert!(median >= slow, "written in {median:?}: the disks were not slow");
    scene.assert_holds(&outcome).await;
}

#[tokio::test]
#[ignore = "long: make faults"]
async fn a_leader_whose_disk_hangs_is_replaced() {
    const HANGS: Duration = Duration::from_secs(15);
    let _alone = ALONE.lock().await;
    let machines = Machines::new();
    let scene = scene_on(&machines, 3).await;
    let traffic = scene.traffic().await;
    let leader = scene.cluster.leader().await;
    machines.set_sync(leader, HANGS);
    let hung = Instant::now();
    scene
        .cluster
        .wait_writable((leader + 1) % 3, "by-the-others")
        .await;
    figure(
        "the leader's disk hangs, to the next write at another node",
        format_args!("{:.2?}", hung.elapsed()),
        "stated only",
    );
    let span = Span::watch("the former leader's disk hanging", HANGS).await;
    machines.set_sync(leader, Duration::ZERO);
    // the sync that is under way takes its time
    eventually("the slow node follows again", SETTLED_WITHIN, async || {
        let (status, _) = scene.cluster.register(leader, "after").await;
        matches!(status, 201 | 409).then_some(())
    })
    .await;
    scene.cluster.wait_settled().await;
    let outcome = traffic.finish().await;
    let writes = outcome.registry.writes.between(span.from, span.until);
    assert!(writes.succeeded() > 10, "{} writes", writes.succeeded());
    scene.assert_safe(&outcome).await;
    outcome
        .modern
        .assert_all_succeeded("modern clients that retry once", outcome.began);
}

/// What a node says of another's clock, in seconds ahead of its own.
fn clock_warning(status: &Value, node: &str) -> Option<i64> {
    let warnings = status["warnings"].as_array().expect("warnings");
    let skews = warnings.iter().filter(|warning| warning["kind"] == "clock_skew");
    let mut of_node = skews.filter(|warning| warning["node"] == node);
    of_node.next()?["skew_ms"].as_i64().map(|ms| ms / 1_000)
}

/// Waits until the others say that the clock of this node is so much ahead, or nothing of it.
async fn wait_clock_warning(cluster: &Cluster, node: usize, ahead_s: i64) {
    let id = cluster.try_status(node).await.expect("it answers")["node_id"].clone();
    let id = id.as_str().expect("an id");
    for witness in (0..cluster.nodes.len()).filter(|witness| *witness != node) {
        let what = format!("node-{witness} says that the clock of node-{node} is {ahead_s} s ahead");
        eventually(&what, SETTLED_WITHIN, async || {
            let said = clock_warning(&cluster.try_status(witness).await?, id);
            match said {
                None => ahead_s == 0,
                Some(said) => ahead_s != 0 && said.abs_diff(ahead_s) <= 2,
            }
            .then_some(())
        })
        .await;
    }
    let witness = (node + 1) % cluster.nodes.len();
    let printed = cluster.nodes[witness].cli(&["status"]).await.ok();
    let warning = format!("the clock of {} differs by", Cluster::name(node));
    assert_eq!(printed.contains(&warning), ahead_s != 0, "{printed}");
}

#[tokio::test]
async fn a_clock_that_jumps_by_an_hour_is_warned_of_and_changes_nothing() {
    let _alone = ALONE.lock().await;
    let machines = Machines::new();
    let scene = scene_on(&machines, 3).await;
    let cluster = &scene.cluster;
    let traffic = scene.traffic().await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let mut elections = Vec::new();
    for (node, ahead_s) in [(leader, HOUR_S), (leader, 0), (other, -HOUR_S), (other, 0)] {
        let before = term(cluster, other).await;
        machines.set_clock(node, ahead_s);
        wait_clock_warning(cluster, node, ahead_s).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        elections.push(term(cluster, other).await - before);
    }
    // a busy machine may cause one; clocks would each time
    assert!(elections.contains(&0), "elections after each jump: {elections:?}");
    figure(
        "elections after each of four jumps",
        format_args!("{elections:?}"),
        "0",
    );
    let outcome = traffic.finish().await;
    scene.assert_holds(&outcome).await;
    for (what, account) in [
        ("calls of the placed server", &outcome.placed),
        ("calls in legacy sessions", &outcome.sessions),
        ("registrations", &outcome.registry.writes),
    ] {
        account.assert_all_succeeded(what, outcome.began);
    }
}

async fn term(cluster: &Cluster, node: usize) -> u64 {
    let status = cluster.try_status(node).await.expect("it answers");
    status["log"]["term"].as_u64().expect("a term")
}

#[tokio::test]
async fn join_strings_expire_by_the_clocks_that_there_are_and_say_so() {
    let _alone = ALONE.lock().await;
    let machines = Machines::new();
    let mut cluster = ClusterOptions::default().machines(&machines).start(1).await;
    let mut newcomer = cluster.create(1, |options| options);
    // made by a clock that is an hour and more behind, an invitation for an hour is over at once
    machines.set_clock(0, -HOUR_S - 60);
    newcomer.join_at_start(&cluster.invite(0).await);
    let said = newcomer.start_refused(SETTLED_WITHIN).await;
    assert!(said.contains("T8007") && said.contains("expired"), "{said}");
    // by a clock that is an hour ahead it lasts an hour longer; and who joins gets a certificate that holds everywhere
    machines.set_clock(0, HOUR_S);
    let joined = cluster.join().await;
    cluster.wait_settled().await;
    cluster.wait_writable(joined, "by-the-newcomer").await;
    wait_clock_warning(&cluster, 0, HOUR_S).await;
    // which it keeps when the clock is right again, and both start anew
    machines.set_clock(0, 0);
    for node in [0, joined] {
        cluster.kill(node).await;
        cluster.nodes[node].launch();
    }
    for node in [0, joined] {
        cluster.nodes[node].wait_ready().await;
    }
    cluster.wait_settled().await;
    cluster.wait_writable(joined, "after-the-restart").await;
}

/// A disk that can be filled in a moment.
const DISK_KIB: u64 = 48 * 1024;

#[test]
fn a_full_disk_refuses_writes_clearly_and_goes_on_reading() {
    isolated("a_full_disk_refuses_writes_clearly_and_goes_on_reading", async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        mount_disk(&disk, DISK_KIB);
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
        // the one that met the full disk may be told that nobody knows; those after it are told why
        let code = refused.json()["code"].as_str().map(str::to_owned);
        assert!(matches!(code.as_deref(), Some("T6001" | "T8003")), "{refused:?}");
        let refused = write(&node, "after-it".to_owned()).await.problem(503, "T6001");
        let detail = refused["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("No space left"), "said clearly: {refused}");
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
fn fill(path: &Path) {
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
    let test = "a_follower_with_a_full_disk_costs_the_cluster_nothing";
    isolated(test, one_disk_full(false));
}

#[test]
#[ignore = "long: make faults"]
fn a_leader_with_a_full_disk_is_replaced() {
    isolated("a_leader_with_a_full_disk_is_replaced", one_disk_full(true));
}

/// Three nodes, of which one runs out of disk: the others go on, and it comes back when there is room.
async fn one_disk_full(leads: bool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().join("disk");
    mount_disk(&disk, DISK_KIB);
    let (mut cluster, full) = if leads {
        let options = ClusterOptions::default().founder_data(disk.join("data"));
        (options.start(3).await, 0)
    } else {
        let mut cluster = ClusterOptions::default().start(2).await;
        let third = cluster.join_with(|options| options.data(disk.join("data"))).await;
        (cluster, third)
    };
    cluster.wait_settled().await;
    cluster.wait_voters(3).await;
    assert_eq!(cluster.leader().await == full, leads);
    let others: Vec<usize> = (0..3).filter(|node| *node != full).collect();
    let filler = disk.join("filler");
    fill(&filler);
    let filled = Instant::now();
    for number in 0..200 {
        let name = format!("kept-{number}");
        cluster.wait_writable(others[number % 2], &name).await;
    }
    figure(
        &format!("200 writes while the disk of one node is full (the leader's: {leads})"),
        format_args!("{:.2?}", filled.elapsed()),
        "stated only",
    );
    let list = cluster.nodes[full].api.get("/api/v1/servers").await;
    assert_eq!(list.status, 200, "it goes on reading: {list:?}");
    std::fs::remove_file(&filler).expect("room again");
    cluster.kill(full).await;
    cluster.nodes[full].start_again().await;
    cluster.wait_settled().await;
    eventually("it has caught up", SETTLED_WITHIN, async || {
        let read = cluster.nodes[full].api.get("/api/v1/servers/kept-199").await;
        (read.status == 200).then_some(())
    })
    .await;
}
