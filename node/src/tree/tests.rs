//! A whole node in this process, and every actor of it made to crash.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use troupe_actors::runtime::testkit::{Crash, crash, eventually};
use troupe_actors::runtime::{ActorPath, Deadline};
use troupe_protocol::access::Principal;
use troupe_protocol::conversation::TurnStatus;
use troupe_protocol::id::ActorId;
use troupe_protocol::observe::{ActorReport, ActorStatus, ExitReason};

use super::Node;
use crate::config::{Bounded, Config};

const SOON: Duration = Duration::from_secs(20);

struct Bed {
    node: Node,
    principal: Principal,
    _folder: tempfile::TempDir,
}

async fn bed(restarts_max: u64) -> Bed {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data = folder.path().join("data").display().to_string();
    config.edge.listen = "127.0.0.1:0".parse().unwrap();
    config.runtime.restarts_max = Bounded::new(restarts_max);
    let node = Node::start(config, None).await.unwrap();
    let principal = node.first_start.as_ref().unwrap().principal();
    let bed = Bed {
        node,
        principal,
        _folder: folder,
    };
    eventually(SOON, || bed.node.state.system.directory().all_started())
        .await
        .unwrap();
    bed
}

impl Bed {
    fn report(&self, id: ActorId) -> Option<ActorReport> {
        self.node.state.system.directory().report(id)
    }

    async fn still_answers(&self) {
        let question = "what is the current time in UTC?";
        let asked = self
            .node
            .state
            .conversations
            .ask(question, None, &self.principal, Deadline::within(SOON))
            .await;
        assert_eq!(asked.unwrap().turn.status, TurnStatus::Answered);
        let url = format!("http://{}/healthz", self.node.state.config.edge.listen);
        let client = reqwest::Client::builder().timeout(SOON).build().unwrap();
        assert_eq!(client.get(url).send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_any_actor_does_not_take_the_node_down() {
    let bed = bed(1_000).await;
    bed.still_answers().await;
    let actors = bed.node.state.system.directory().reports();
    assert!(actors.len() > 12, "only {} actors", actors.len());
    for before in actors.iter().filter(|actor| actor.path != ActorPath::new("node")) {
        // An actor below a supervisor that crashed before it is told to stop, and gone before its turn comes.
        let Some(now) = bed
            .report(before.id)
            .filter(|now| now.status != ActorStatus::Stopped)
        else {
            continue;
        };
        crash(&bed.node.state.system, before.id, Crash::Panic).unwrap();
        let came_back = eventually(SOON, || {
            bed.report(before.id).is_none_or(|after| {
                after.restarts > now.restarts && matches!(after.status, ActorStatus::Idle | ActorStatus::Busy)
            })
        });
        came_back
            .await
            .unwrap_or_else(|_| panic!("{} did not come back: {:?}", before.path, bed.report(before.id)));
        bed.still_answers().await;
    }
    assert_eq!(bed.node.shutdown().await, ExitReason::Shutdown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_panics_too_often_ends_the_node_and_the_reason_is_told() {
    let Bed {
        mut node, _folder, ..
    } = bed(2).await;
    let audit = node
        .state
        .system
        .directory()
        .find(&ActorPath::new("node/audit"))
        .unwrap();
    for crashes in 1..=3 {
        crash(&node.state.system, audit, Crash::Panic).unwrap();
        let over = || {
            let report = node.state.system.directory().report(audit).unwrap();
            report.failed == crashes && (report.status == ActorStatus::Idle || crashes == 3)
        };
        eventually(SOON, over).await.unwrap();
    }
    let reason = tokio::time::timeout(SOON, node.ended()).await.unwrap();
    assert_eq!(
        reason.to_string(),
        "gave up on node/audit, which died too often (last: panicked: injected panic)"
    );
}
