#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::OnceLock;

use futures::future::BoxFuture;
use tokio::time::Instant;
use troupe_protocol::error::Code;
use troupe_protocol::health::{HealthReport, HealthStatus};
use troupe_protocol::mcp::Era;
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo};

use super::super::reach::{Answer, Failure};
use super::*;
use crate::cluster::testkit::Net;
use crate::runtime::testkit::{self, Crash};
use crate::runtime::{Root, SystemConfig};
use crate::upstream::tests::bed::alone;
use HealthStatus::{Degraded, Disabled, Offline, Online, Testing};

/// A world of servers that answer as the test says.
#[derive(Default)]
struct World {
    enabled: Mutex<Wanted>,
    disabled: Mutex<Vec<ServerName>>,
    /// What the next probes find; the last stays.
    script: Mutex<BTreeMap<ServerName, VecDeque<Fate>>>,
    probes: Mutex<Vec<(ServerName, Duration)>>,
    changed: tokio::sync::Notify,
    began: OnceLock<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Answers(u64),
    Fails,
    CommandMissing,
    Starts,
    Hangs,
}

impl World {
    fn set(&self, name: &str, fates: &[Fate]) {
        self.script
            .lock()
            .insert(server(name), fates.iter().copied().collect());
    }

    fn enable(&self, name: &str, fates: &[Fate]) {
        self.set(name, fates);
        self.disabled.lock().retain(|other| other.as_str() != name);
        self.enabled.lock().insert(server(name), None);
        self.changed.notify_waiters();
    }

    fn disable(&self, name: &str) {
        self.enabled.lock().remove(name);
        self.disabled.lock().push(server(name));
        self.changed.notify_waiters();
    }

    fn remove(&self, name: &str) {
        self.enabled.lock().remove(name);
        self.changed.notify_waiters();
    }

    fn fate(&self, name: &ServerName) -> Fate {
        let mut script = self.script.lock();
        let fates = script.get_mut(name).unwrap();
        if fates.len() > 1 {
            fates.pop_front().unwrap()
        } else {
            fates[0]
        }
    }
}

struct WorldServers(Arc<World>);

impl Servers for WorldServers {
    fn enabled(&self) -> Wanted {
        self.0.enabled.lock().clone()
    }

    fn contains(&self, name: &ServerName) -> bool {
        self.0.enabled.lock().contains_key(name) || self.0.disabled.lock().contains(name)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let world = Arc::clone(&self.0);
        futures::stream::unfold(world, |world| async move {
            world.changed.notified().await;
            Some(((), world))
        })
        .boxed()
    }
}

struct WorldReach(Arc<World>);

impl Reach for WorldReach {
    fn probe<'a>(&'a self, name: &'a ServerName, _: Deadline) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let began = *self.0.began.get_or_init(Instant::now);
            self.0.probes.lock().push((name.clone(), began.elapsed()));
            let failure = |code, is_lasting, is_starting| Failure {
                reason: format!("{code:?}"),
                code,
                is_lasting,
                is_starting,
            };
            match self.0.fate(name) {
                Fate::Answers(ms) => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    Ok(Answer {
                        latency: Duration::from_millis(ms),
                        info: Arc::new(UpstreamInfo {
                            era: Era::Legacy,
                            protocol_version: "2025-11-25".into(),
                            server_info: ServerInfo {
                                name: "fake".into(),
                                version: "1".into(),
                                title: None,
                            },
                            capabilities: json!({"tools": {}, "prompts": null}),
                            instructions: None,
                        }),
                        tool_names: Some(vec!["Get_Time".into()]),
                    })
                }
                Fate::Fails => Err(failure(Code::UpstreamUnreachable, false, false)),
                Fate::CommandMissing => Err(failure(Code::CommandNotFound, true, false)),
                Fate::Starts => Err(failure(Code::UpstreamUnreachable, false, true)),
                Fate::Hangs => std::future::pending().await,
            }
        })
    }
}

struct Bed {
    system: System,
    world: Arc<World>,
    board: Arc<Board>,
    keeper: Mailbox<KeeperMessage>,
    connections: broadcast::Sender<UpstreamEvent>,
    _root: Root,
}

fn server(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

/// The wall clock of a test: it goes with tokio's paused time.
fn paused_now() -> Timestamp {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    let passed = Instant::now().saturating_duration_since(began).as_millis();
    Timestamp::from_unix_ms(1_800_000_000_000 + i64::try_from(passed).unwrap())
}

async fn bed(servers: &[(&str, &[Fate])]) -> Bed {
    bed_of(alone(), servers).await
}

async fn bed_of(cluster: ClusterHandle, servers: &[(&str, &[Fate])]) -> Bed {
    let world = Arc::new(World::default());
    servers.iter().for_each(|(name, fates)| world.enable(name, fates));
    let system = System::new(SystemConfig::default());
    let connections = broadcast::Sender::new(64);
    let events = connections.clone();
    let parts = Parts {
        settings: HealthSettings::default(),
        servers: Arc::new(WorldServers(Arc::clone(&world))),
        reach: Arc::new(WorldReach(Arc::clone(&world))),
        connections: Arc::new(move || events.subscribe()),
        now: paused_now,
        cluster,
    };
    let (spec, keeper, board) = build(&system, ActorPath::new("node/health"), parts);
    let root = testkit::start(&system, vec![spec]).await.unwrap();
    Bed {
        system,
        world,
        board,
        keeper,
        connections,
        _root: root,
    }
}

impl Bed {
    async fn probe(&self, name: &str) -> Result<Arc<HealthReport>, HealthError> {
        let deadline = Deadline::within(Duration::from_secs(60));
        let name = server(name);
        let prober = self
            .keeper
            .ask(|reply| KeeperMessage::FindProber { name, reply }, deadline)
            .await??;
        Ok(prober
            .ask(|reply| ProberMessage::ProbeNow { reply }, deadline)
            .await?)
    }

    fn status(&self, name: &str) -> Option<HealthStatus> {
        self.board.view().get(name).map(|report| report.status)
    }

    async fn becomes(&self, name: &str, status: HealthStatus) {
        let came = testkit::eventually(Duration::from_secs(600), || self.status(name) == Some(status)).await;
        assert!(
            came.is_ok(),
            "{name} is {:?} and never became {status:?}",
            self.status(name)
        );
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn enabled_servers_are_probed_again_and_again() {
    let bed = bed(&[("a", &[Fate::Answers(5)]), ("b", &[Fate::Fails])]).await;
    bed.becomes("a", Online).await;
    bed.becomes("b", Offline).await;
    seconds(300).await;
    let probes = bed.world.probes.lock().clone();
    let of_a: Vec<Duration> = probes
        .iter()
        .filter(|(name, _)| name.as_str() == "a")
        .map(|(_, at)| *at)
        .collect();
    assert!((9..=12).contains(&of_a.len()), "{of_a:?}");
    for pair in of_a.windows(2) {
        let pause = (pair[1] - pair[0]).as_secs_f64();
        assert!((26.9..33.2).contains(&pause), "a pause of {pause} s");
    }
    let pauses: std::collections::BTreeSet<u128> = of_a
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis())
        .collect();
    assert!(pauses.len() > 3, "without jitter: {pauses:?}");

    let report = bed.board.report(&server("a")).unwrap();
    assert_eq!(
        (report.latency_ms, report.era, report.tools_count),
        (Some(5.0), Some(Era::Legacy), Some(1))
    );
    assert_eq!(
        (report.capabilities.as_slice(), &*report.tool_names),
        (["tools".to_owned()].as_slice(), "get_time")
    );
    assert_eq!(report.uptime_24h, Some(1.0));
    assert_eq!(bed.board.report(&server("b")).unwrap().uptime_24h, Some(0.0));
    assert_eq!(
        bed.board.report(&server("b")).unwrap().last_error_code.as_deref(),
        Some("T3001")
    );
    assert!(bed.board.history(&server("a")).latency.len() >= 9);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_and_so_is_its_end() {
    let bed = bed(&[("a", &[Fate::Answers(5)])]).await;
    bed.becomes("a", Online).await;
    let mut events = bed.board.subscribe();
    bed.world.set("a", &[Fate::Fails]);
    bed.becomes("a", Offline).await;
    bed.world.set("a", &[Fate::Answers(5)]);
    bed.becomes("a", Online).await;
    let mut course = Vec::new();
    while let Ok(event) = events.try_recv() {
        let now = event.now.unwrap().status;
        if now != event.before {
            course.push((event.before, now));
        }
    }
    assert_eq!(
        course,
        [
            (Online, Degraded),
            (Degraded, Offline),
            (Offline, Degraded),
            (Degraded, Online)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_noticed_between_probes() {
    let bed = bed(&[("a", &[Fate::Answers(5)])]).await;
    bed.becomes("a", Online).await;
    seconds(5).await;
    let began = Instant::now();
    bed.world.set("a", &[Fate::Answers(50), Fate::Fails]);
    bed.connections
        .send(UpstreamEvent::Down {
            server: server("a"),
            reason: "killed".into(),
        })
        .unwrap();
    bed.becomes("a", Degraded).await;
    assert!(
        began.elapsed() < Duration::from_millis(50),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        bed.board.report(&server("a")).unwrap().last_error.as_deref(),
        Some("killed")
    );
    // Up again: looked at without waiting for the next turn.
    bed.becomes("a", Offline).await;
    bed.world.set("a", &[Fate::Answers(5)]);
    let began = Instant::now();
    bed.connections
        .send(UpstreamEvent::Up {
            server: server("a"),
            era: Era::Legacy,
        })
        .unwrap();
    bed.becomes("a", Online).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_chatty_server_is_not_probed_as_often_as_it_chatters() {
    let bed = bed(&[("a", &[Fate::Answers(5)])]).await;
    bed.becomes("a", Online).await;
    let before = bed.world.probes.lock().len();
    for _ in 0..100 {
        let kind = troupe_protocol::mcp::ListKind::Tools;
        bed.connections
            .send(UpstreamEvent::ListChanged {
                server: server("a"),
                kind,
            })
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let probes = bed.world.probes.lock().len() - before;
    assert!((2..=6).contains(&probes), "{probes} probes in two seconds");
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_says_is_followed() {
    let bed = bed(&[("a", &[Fate::Answers(5)])]).await;
    bed.becomes("a", Online).await;
    bed.world.enable("b", &[Fate::Answers(5)]);
    bed.becomes("b", Online).await;
    bed.world.disable("a");
    bed.becomes("a", Disabled).await;
    let probes = || {
        bed.world
            .probes
            .lock()
            .iter()
            .filter(|(name, _)| name.as_str() == "a")
            .count()
    };
    let before = probes();
    seconds(200).await;
    assert_eq!(probes(), before, "a disabled server is left alone");
    assert_eq!(
        bed.board.report(&server("a")).unwrap().tools_count,
        Some(1),
        "what is known of it stays"
    );

    bed.world.enable("a", &[Fate::Answers(5)]);
    bed.becomes("a", Online).await;
    let mut events = bed.board.subscribe();
    bed.world.remove("a");
    testkit::eventually(testkit::PATIENCE, || bed.status("a").is_none())
        .await
        .unwrap();
    let last = std::iter::from_fn(|| events.try_recv().ok()).last().unwrap();
    assert_eq!(last.now, None);
}

#[tokio::test(start_paused = true)]
async fn another_way_to_reach_a_server_makes_it_unknown() {
    let bed = bed(&[("a", &[Fate::Answers(5)])]).await;
    bed.becomes("a", Online).await;
    bed.world.set("a", &[Fate::CommandMissing]);
    let moved = Transport::Stdio {
        command: "x".into(),
        args: vec![],
        cwd: None,
        env: BTreeMap::new(),
    };
    bed.world.enabled.lock().insert(server("a"), Some(moved));
    bed.world.changed.notify_waiters();
    bed.becomes("a", Offline).await;
    let report = bed.board.report(&server("a")).unwrap();
    assert_eq!(
        (report.last_error_code.as_deref(), report.tools_count),
        (Some("T3007"), None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_first_start_is_no_outage() {
    let bed = bed(&[(
        "a",
        &[
            Fate::Starts,
            Fate::Starts,
            Fate::Starts,
            Fate::Starts,
            Fate::Answers(5),
        ],
    )])
    .await;
    let mut events = bed.board.subscribe();
    bed.becomes("a", Online).await;
    let seen: Vec<HealthStatus> = std::iter::from_fn(|| events.try_recv().ok())
        .filter_map(|event| event.now)
        .map(|now| now.status)
        .collect();
    assert!(
        seen.iter().all(|status| matches!(status, Testing | Online)),
        "{seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_made_on_demand_and_has_an_end() {
    let bed = bed(&[("a", &[Fate::Answers(5)]), ("b", &[Fate::Hangs])]).await;
    bed.becomes("a", Online).await;
    bed.world.set("a", &[Fate::Fails]);
    let report = bed.probe("a").await.unwrap();
    assert_eq!(report.status, Degraded);
    let began = Instant::now();
    let report = bed.probe("b").await.unwrap();
    assert!(
        began.elapsed() <= Duration::from_secs(21),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        (report.status, report.last_error.as_deref()),
        (Offline, Some("no answer within 10000 ms"))
    );
    assert_eq!(
        bed.probe("nobody").await.unwrap_err(),
        HealthError::NotFound(server("nobody"))
    );
    bed.world.disable("a");
    bed.becomes("a", Disabled).await;
    assert_eq!(
        bed.probe("a").await.unwrap_err(),
        HealthError::Disabled(server("a"))
    );
    // Enabled and asked in the same moment: the keeper has not heard of it yet, and looks.
    bed.world.set("c", &[Fate::Answers(1)]);
    bed.world.enabled.lock().insert(server("c"), None);
    assert_eq!(bed.probe("c").await.unwrap().status, Online);
}

#[tokio::test(start_paused = true)]
async fn crashes_of_keeper_and_prober_leave_the_others_probing() {
    let bed = bed(&[("a", &[Fate::Answers(5)]), ("b", &[Fate::Answers(5)])]).await;
    bed.becomes("a", Online).await;
    bed.becomes("b", Online).await;
    for path in ["node/health/.keeper", "node/health/probers/a"] {
        let id = bed.system.directory().find(&ActorPath::new(path)).unwrap();
        testkit::crash(&bed.system, id, Crash::Panic).unwrap();
    }
    seconds(5).await;
    bed.becomes("a", Online).await;
    assert_eq!(bed.status("b"), Some(Online));
    bed.world.enable("c", &[Fate::Answers(5)]);
    bed.becomes("c", Online).await;
    assert_eq!(bed.probe("a").await.unwrap().status, Online);
    assert!(
        !bed.board.history(&server("a")).latency.is_empty(),
        "history outlives the prober"
    );
}

#[tokio::test(start_paused = true)]
async fn each_server_is_probed_by_one_node_and_known_to_all() {
    let servers: Vec<String> = (0..12).map(|number| format!("server-{number}")).collect();
    let fates: Vec<(&str, &[Fate])> = servers
        .iter()
        .map(|name| (name.as_str(), &[Fate::Answers(5)][..]))
        .collect();
    let net = Net::new(2, 2);
    let nodes = [
        bed_of(net.node(0), &fates).await,
        bed_of(net.node(1), &fates).await,
    ];
    for name in &servers {
        nodes[0].becomes(name, Online).await;
        nodes[1].becomes(name, Online).await;
        let probes = |node: &Bed| {
            node.world
                .probes
                .lock()
                .iter()
                .any(|(probed, _)| probed.as_str() == name)
        };
        assert!(
            probes(&nodes[0]) != probes(&nodes[1]),
            "{name} is probed by one node"
        );
    }
    let known = nodes
        .each_ref()
        .map(|node| node.board.report(&server("server-3")).unwrap());
    assert_eq!(known[0].since, known[1].since);
    assert_eq!(&*known[0].tool_names, "get_time");
    assert_eq!(known[0].tool_names, known[1].tool_names);

    let probes_before = nodes[1].world.probes.lock().len();
    net.kill(0);
    net.up(&[1]).await;
    seconds(40).await;
    let probed: std::collections::BTreeSet<_> = nodes[1].world.probes.lock()[probes_before..]
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(probed.len(), servers.len(), "the other node probes them all");
    assert_eq!(nodes[1].status("server-3"), Some(Online));
    nodes[1].world.disable("server-3");
    nodes[1].becomes("server-3", Disabled).await;
}
