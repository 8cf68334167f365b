//! Nodes that die (SIGKILL) while clients write and call: nothing acknowledged is lost, and hardly anybody notices.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;
use troupe_tests::cluster::SETTLED_WITHIN;
use troupe_tests::history::order;
use troupe_tests::journal::Journal;
use troupe_tests::load::Account;
use troupe_tests::load::registry::RegistryLoad;
use troupe_tests::report::{figure, percentile};
use troupe_tests::scene::Scene;
use troupe_tests::upstream::HttpUpstream;
use troupe_tests::{Cluster, eventually, parts};

/// Held by each test: several nodes at a time are enough for the machine.
static ALONE: Mutex<()> = Mutex::const_new(());
/// What is promised on a quiet machine; `troupe bench cluster` measures that, here it is only told.
const FAILOVER_PROMISED: Duration = Duration::from_secs(2);
/// What a loaded machine with a debug build may need; that it recovers at all is the assertion.
const FAILOVER_WITHIN: Duration = Duration::from_secs(60);
/// The lease is 900 ms; then the processes are ended, and the machine has other work.
const STOPPED_PROMISED: Duration = Duration::from_secs(3);
const JOURNAL_SERVER: &str = env!("CARGO_BIN_EXE_journal-server");

/// Which node dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Leader,
    Follower,
    /// The one that runs the placed server.
    Owner,
    /// One that does not vote; there is one among four.
    Learner,
}

/// What happened to whom, and when.
struct Kills {
    scene: Scene,
    moments: Vec<(Victim, Instant)>,
}

impl Kills {
    async fn find(&self, victim: Victim) -> usize {
        match victim {
            Victim::Leader => self.scene.cluster.leader().await,
            Victim::Follower => self.scene.cluster.follower().await,
            Victim::Owner => self.scene.owner().await,
            Victim::Learner => self.scene.cluster.learner().await,
        }
    }

    /// Kills one, leaves it dead for a while, starts it again and waits until it is back.
    async fn kill_and_restart(&mut self, victim: Victim, dead: Duration) {
        let node = self.find(victim).await;
        self.moments.push((victim, Instant::now()));
        self.scene.cluster.kill(node).await;
        tokio::time::sleep(dead).await;
        self.scene.cluster.nodes[node].start_again().await;
        self.scene.cluster.wait_settled().await;
    }

    /// The time from each kill, or each of one kind of victim, to the next success; and what is promised of it.
    fn assert_recovered(&self, what: &str, of: Option<Victim>, account: &Account) {
        let killed = self
            .moments
            .iter()
            .filter(|(victim, _)| of.is_none_or(|of| of == *victim));
        let recovered = killed.map(|(_, moment)| account.recovered_after(*moment));
        let mut recoveries: Vec<Duration> = recovered
            .map(|recovered| recovered.unwrap_or_else(|| panic!("{what}: nothing after a kill succeeded")))
            .collect();
        let (median, p99) = (percentile(&mut recoveries, 50), percentile(&mut recoveries, 99));
        let longest = recoveries[recoveries.len() - 1];
        let victims = of.map_or("of any node".to_owned(), |victim| {
            format!("{victim:?}").to_lowercase()
        });
        figure(
            &format!("kill ({victims}, {} times) to next {what}", recoveries.len()),
            format_args!("p50 {median:.2?}, p99 {p99:.2?}, longest {longest:.2?}"),
            format_args!("{FAILOVER_PROMISED:?}"),
        );
        assert!(longest < FAILOVER_WITHIN, "{what}: {longest:?} after a kill");
    }
}

/// What clients saw of it, for people to judge.
fn say_errors(what: &str, account: &Account) {
    let kinds = account.kinds_of_failures();
    let (failed, all) = (kinds.values().sum::<usize>(), account.attempts.len());
    figure(
        &format!("errors that {what} saw"),
        format_args!("{failed} of {all} {kinds:?}"),
        "stated only",
    );
}

/// Runs all loads while nodes are killed, and checks everything afterwards.
async fn kills(nodes: usize, victims: &[Victim], dead: Duration) {
    let mut kills = Kills {
        scene: Scene::set(nodes, JOURNAL_SERVER).await,
        moments: Vec::new(),
    };
    let traffic = kills.scene.traffic().await;
    for victim in victims {
        kills.kill_and_restart(*victim, dead).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let outcome = traffic.finish().await;
    let (writes, placed) = (&outcome.registry.writes, &outcome.placed);
    say_errors("modern clients that retry once", &outcome.modern);
    say_errors("callers of the placed server, who do not retry,", placed);
    say_errors("legacy sessions, which do not retry,", &outcome.sessions);
    say_errors("writers, who do not retry,", writes);
    kills.assert_recovered("acknowledged write", None, writes);
    kills.assert_recovered("acknowledged write", Some(Victim::Leader), writes);
    kills.assert_recovered("answer of the placed server", None, placed);
    kills.assert_recovered("answer of the placed server", Some(Victim::Owner), placed);
    kills.assert_recovered("answer in a legacy session", None, &outcome.sessions);
    kills.scene.assert_holds(&outcome).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_leader_follower_and_owner_are_killed() {
    let _alone = ALONE.lock().await;
    let victims = [Victim::Leader, Victim::Owner, Victim::Follower];
    kills(3, &victims, Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "long: make faults"]
async fn fifty_kills_lose_nothing_that_was_acknowledged() {
    let _alone = ALONE.lock().await;
    let round = [
        Victim::Leader,
        Victim::Owner,
        Victim::Follower,
        Victim::Leader,
        Victim::Owner,
        Victim::Learner,
    ];
    let victims: Vec<Victim> = round.into_iter().cycle().take(50).collect();
    kills(4, &victims, Duration::from_secs(4)).await;
}

#[tokio::test]
async fn a_real_stdio_server_answers_again_after_its_node_died() {
    let _alone = ALONE.lock().await;
    let Some(time) = parts::time() else { return };
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[1].add_server("time", &time).await;
    let call = json!({ "arguments": { "timezone": "Asia/Tokyo" } });
    let path = "/api/v1/servers/time/tools/get_current_time/call";
    for node in 0..3 {
        cluster.nodes[node].wait_online("time").await;
        cluster.nodes[node].api.post(path, &call).await.ok();
    }
    let owner = cluster.owner("mcp-server-time").await;
    let killed = Instant::now();
    cluster.kill(owner).await;
    for node in cluster.live() {
        eventually("the server answers again", SETTLED_WITHIN, async || {
            (cluster.nodes[node].api.post(path, &call).await.status == 200).then_some(())
        })
        .await;
    }
    figure(
        "kill of its owner to the next answer of mcp-server-time at every node (it starts in a second or two)",
        format_args!("{:.2?}", killed.elapsed()),
        "stated only",
    );
    let heir = cluster.owner("mcp-server-time").await;
    assert_ne!(owner, heir);
}

#[tokio::test]
async fn a_cluster_killed_at_once_comes_back_with_everything_acknowledged() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start(3).await;
    let apis = cluster.apis();
    let writers = RegistryLoad::start(&apis).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pids: Vec<u32> = cluster.nodes.iter().map(troupe_tests::Node::pid).collect();
    for pid in pids {
        troupe_tests::process::signal(pid, "KILL");
    }
    for node in 0..3 {
        cluster.kill(node).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for node in 0..3 {
        cluster.nodes[node].launch();
    }
    for node in 0..3 {
        cluster.nodes[node].wait_ready().await;
    }
    cluster.wait_settled().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let record = writers.finish().await;
    record.assert_holds(&apis).await;
    let written_since = record
        .writes
        .attempts
        .last()
        .is_some_and(|attempt| attempt.outcome.is_ok());
    assert!(
        written_since,
        "it takes writes again: {:?}",
        record.writes.attempts.last()
    );
}

#[tokio::test]
async fn a_minority_refuses_writes_and_goes_on_reading() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start(3).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let journal = Journal::new(folder.path(), "placed");
    let command = journal.command(JOURNAL_SERVER, "placed");
    let upstream = HttpUpstream::start().await;
    let body = json!({ "name": "outliving", "url": upstream.url });
    cluster.nodes[0].api.post("/api/v1/servers", &body).await.ok();
    cluster.nodes[0].add_server("placed", &command).await;
    // what survives is the owner, so that it has something to stop
    let survivor = cluster.owner("journal-server").await;
    cluster.nodes[survivor].wait_online("outliving").await;
    let others: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
    for node in &others {
        cluster.kill(*node).await;
    }
    let cut = Instant::now();
    let api = cluster.nodes[survivor].api.clone();
    eventually("the placed server stopped", FAILOVER_WITHIN, async || {
        cluster.runs("journal-server").is_none().then_some(())
    })
    .await;
    figure(
        "loss of the majority to the end of the placed server",
        format_args!("{:.2?}", cut.elapsed()),
        format_args!("{STOPPED_PROMISED:?}"),
    );
    let new = json!({ "name": "refused", "command": "true", "enabled": false });
    // One that was sent before the loss was known may be told that its outcome is unknown.
    eventually("writes refused", FAILOVER_WITHIN, async || {
        let sent = api.post("/api/v1/servers", &new).await;
        assert!(matches!(sent.status, 503 | 504), "{sent:?}");
        (sent.status == 503).then(|| sent.problem(503, "T8001"))
    })
    .await;
    api.get("/api/v1/servers/placed").await.ok();
    assert_eq!(api.get("/api/v1/servers/refused").await.status, 404);
    let call = json!({ "arguments": { "text": "stateless" } });
    api.post("/api/v1/servers/outliving/tools/echo/call", &call)
        .await
        .ok();
    let status = cluster.try_status(survivor).await.expect("it answers");
    assert_eq!(status["has_quorum"], false, "{status}");
    let said = cluster.nodes[survivor].cli(&["status"]).await.ok();
    assert!(said.contains("degraded"), "{said}");

    cluster.nodes[others[0]].start_again().await;
    eventually("writes again", SETTLED_WITHIN, async || {
        let sent = api.post("/api/v1/servers", &new).await;
        // A write whose outcome was unknown may have happened: then the name is taken.
        matches!(sent.status, 201 | 409).then_some(())
    })
    .await;
    cluster.owner("journal-server").await;
    order::one_at_a_time(&journal.lives()).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[tokio::test]
async fn a_node_that_lost_its_disk_comes_back_as_a_new_member() {
    let _alone = ALONE.lock().await;
    let mut cluster = Cluster::start(3).await;
    let body = json!({ "name": "before", "command": "true", "enabled": false });
    cluster.nodes[0].api.post("/api/v1/servers", &body).await.ok();
    cluster.kill(2).await;
    cluster.nodes[2].wipe();
    cluster.wait_state(2, "down").await;
    // the cluster knows a node of this name that may come back: the newcomer is refused until the old one is removed
    let string = cluster.invite(0).await;
    cluster.nodes[2].join_at_start(&string);
    let said = cluster.nodes[2].start_refused(SETTLED_WITHIN).await;
    assert!(said.contains("T8006"), "{said}");
    cluster.nodes[0]
        .cli(&["node", "remove", &Cluster::name(2)])
        .await
        .ok();
    cluster.nodes[2].wipe();
    let string = cluster.invite(0).await;
    cluster.nodes[2].join_at_start(&string);
    cluster.nodes[2].start_again().await;
    cluster.wait_settled().await;
    eventually("it has everything", SETTLED_WITHIN, async || {
        let read = cluster.nodes[2].api.get("/api/v1/servers/before").await;
        (read.status == 200).then_some(())
    })
    .await;
}
