//! Health of servers that are really there: shell scripts over stdio.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use troupe_protocol::health::HealthStatus::{self, Offline, Online};
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::Era;
use troupe_protocol::server::{ServerName, Transport};

use super::keeper::{Parts, Servers, Wanted, build};
use super::messages::{HealthHandle, HealthSettings};
use crate::runtime::{ActorPath, Deadline, Root, System, SystemConfig, testkit};
use crate::upstream::tests::bed::{Bed, LEGACY, MODERN, alone, name, soon, text};

/// The servers of a test, all enabled.
struct Fixed(Vec<ServerName>);

impl Servers for Fixed {
    fn enabled(&self) -> Wanted {
        self.0.iter().map(|name| (name.clone(), None)).collect()
    }

    fn contains(&self, name: &ServerName) -> bool {
        self.0.contains(name)
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        futures::stream::pending().boxed()
    }
}

async fn health_of(bed: &Bed, servers: &[&str]) -> (HealthHandle, Root) {
    let system = System::new(SystemConfig::default());
    let events = bed.upstreams.clone();
    let parts = Parts {
        settings: HealthSettings {
            probe_timeout: Duration::from_secs(5),
            ..HealthSettings::default()
        },
        servers: Arc::new(Fixed(servers.iter().map(|server| name(server)).collect())),
        reach: Arc::new(bed.upstreams.clone()),
        connections: Arc::new(move || events.subscribe()),
        now: || jiff::Timestamp::now().into(),
        cluster: alone(),
    };
    let (spec, keeper, board) = build(&system, ActorPath::new("node/health"), parts);
    let root = testkit::start(&system, vec![spec]).await.unwrap();
    (
        HealthHandle::new(keeper, board, bed.upstreams.clone(), alone()),
        root,
    )
}

async fn becomes(health: &HealthHandle, server: &str, status: HealthStatus) {
    let is_so = || {
        health
            .report(&name(server))
            .is_some_and(|report| report.status == status)
    };
    let came = testkit::eventually(testkit::PATIENCE, is_so).await;
    assert!(came.is_ok(), "{server}: {:?}", health.report(&name(server)));
}

#[tokio::test]
async fn servers_are_started_by_being_probed_and_what_they_offer_is_known() {
    let bed = Bed::new().await;
    bed.register_script("legacy", LEGACY);
    bed.register_script("modern", MODERN);
    let nowhere = Transport::Stdio {
        command: "no-such-command-here".into(),
        args: Vec::new(),
        cwd: None,
        env: BTreeMap::new(),
    };
    bed.register("nowhere", nowhere);
    let (health, _root) = health_of(&bed, &["legacy", "modern", "nowhere"]).await;
    becomes(&health, "legacy", Online).await;
    becomes(&health, "modern", Online).await;
    becomes(&health, "nowhere", Offline).await;
    let legacy = health.report(&name("legacy")).unwrap();
    assert_eq!((legacy.era, legacy.tools_count), (Some(Era::Legacy), Some(1)));
    assert_eq!(
        (legacy.implementation.as_deref(), &*legacy.tool_names),
        (Some("shell 1"), "pid")
    );
    assert!(
        legacy.latency_ms.is_some_and(|latency_ms| latency_ms < 1_000.0),
        "{legacy:?}"
    );
    assert_eq!(health.report(&name("modern")).unwrap().era, Some(Era::Modern));
    let nowhere = health.report(&name("nowhere")).unwrap();
    assert_eq!(nowhere.last_error_code.as_deref(), Some("T3007"), "{nowhere:?}");
}

#[tokio::test]
async fn a_killed_server_is_seen_and_back_within_seconds() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let (health, _root) = health_of(&bed, &["shell"]).await;
    becomes(&health, "shell", Online).await;
    let mut events = health.subscribe();
    let reply = bed.call("shell", "pid").await.unwrap();
    assert!(matches!(reply, RawReply::Result(_)));
    let pid = text(&reply);
    std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status()
        .unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let event = events.recv().await.unwrap();
            if event.now.as_ref().is_some_and(|now| now.status != Online) {
                return event;
            }
        }
    });
    let event = seen.await.unwrap();
    assert_eq!(event.before, Online);
    assert!(event.now.unwrap().last_error.is_some());
    becomes(&health, "shell", Online).await;
    assert_ne!(text(&bed.call("shell", "pid").await.unwrap()), pid);
}

#[tokio::test]
async fn a_connection_is_tested_before_it_is_saved() {
    let bed = Bed::new().await;
    let (health, _root) = health_of(&bed, &[]).await;
    let report = health.test(&bed.script(LEGACY), soon()).await;
    assert!(report.ok, "{report:?}");
    assert_eq!((report.era, report.tools_count), (Some(Era::Legacy), Some(1)));
    assert!(
        report.log_tail.iter().any(|line| line.starts_with("token is")),
        "{report:?}"
    );

    let report = health
        .test(&bed.script("echo going down >&2; exit 3"), soon())
        .await;
    assert!(!report.ok && report.error.is_some(), "{report:?}");
    assert!(
        report.log_tail.iter().any(|line| line == "going down"),
        "{report:?}"
    );

    let deadline = Deadline::within(Duration::from_millis(300));
    let report = health.test(&bed.script("sleep 100"), deadline).await;
    assert!(!report.ok && report.error_code.is_some(), "{report:?}");
}
