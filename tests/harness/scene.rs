//! The usual scene of the cluster's tests: some nodes, a server over HTTP that outlives them all, a placed stdio server
//! that keeps a journal of its life, and traffic on everything; and what must hold whatever befell the nodes.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::cluster::{Cluster, ClusterOptions};
use crate::history::order;
use crate::journal::Journal;
use crate::load::registry::{RegistryLoad, RegistryRecord};
use crate::load::{Account, Attempt, Load, calls};
use crate::report::figure;
use crate::upstream::HttpUpstream;

/// The longest that a caller may be kept waiting for an answer of whatever kind: clear of what callers give up after.
const NOBODY_HANGS: Duration = Duration::from_secs(9);

/// By then every client has been answered, and sessions have begun.
const FLOWS_AFTER: Duration = Duration::from_secs(2);

/// The server over HTTP.
pub const OUTLIVING: &str = "outliving";
/// The placed server on stdio.
pub const PLACED: &str = "placed";

/// Nodes and servers.
pub struct Scene {
    pub cluster: Cluster,
    pub upstream: HttpUpstream,
    pub journal: Journal,
    /// A node was paused: what it runs lives on, for nobody can stop the children of a process that stands still. Then
    /// no two processes may serve at once, instead of live.
    pub was_paused: bool,
    _folder: TempDir,
}

impl Scene {
    /// So many nodes on loopback. `journal_server` is `env!("CARGO_BIN_EXE_journal-server")`.
    pub async fn set(nodes: usize, journal_server: &str) -> Self {
        let cluster = ClusterOptions::default().start(nodes).await;
        Self::set_in(cluster, HttpUpstream::start().await, journal_server).await
    }

    /// In this cluster, with this server over HTTP.
    pub async fn set_in(cluster: Cluster, upstream: HttpUpstream, journal_server: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let journal = Journal::new(folder.path(), PLACED);
        let first = &cluster.nodes[cluster.any_live()];
        let body = json!({ "name": OUTLIVING, "url": upstream.url });
        first.api.post("/api/v1/servers", &body).await.ok();
        let command = journal.command(journal_server, PLACED);
        first.add_server(PLACED, &command).await;
        for node in cluster.live() {
            cluster.nodes[node].wait_online(OUTLIVING).await;
            cluster.nodes[node].wait_online(PLACED).await;
        }
        Self {
            cluster,
            upstream,
            journal,
            was_paused: false,
            _folder: folder,
        }
    }

    /// The node that runs the placed server.
    pub async fn owner(&self) -> usize {
        self.cluster.owner("journal-server").await
    }

    /// Starts traffic of every kind at all nodes. Returns once it flows.
    pub async fn traffic(&self) -> Traffic {
        let apis = self.cluster.apis();
        let traffic = Traffic {
            began: Instant::now(),
            registry: RegistryLoad::start(&apis).await,
            modern: calls::modern(&apis, OUTLIVING, 2),
            placed: calls::placed(&apis, PLACED, 3, calls::PAUSE),
            sessions: calls::sessions(&apis, OUTLIVING, 3),
        };
        tokio::time::sleep(FLOWS_AFTER).await;
        traffic
    }

    /// What must hold whatever befell the nodes, as long as never more than one was away at a time: every answer can
    /// be true, nothing acknowledged is lost, clients that retry once saw no error, no session was forgotten, nobody
    /// hung, no call was repeated, and the placed server never lived twice at once.
    pub async fn assert_holds(&self, outcome: &Outcome) {
        self.cluster.wait_settled().await;
        self.assert_safe(outcome).await;
        outcome
            .modern
            .assert_all_succeeded("modern clients that retry once", outcome.began);
        for (what, account) in [("placed", &outcome.placed), ("session", &outcome.sessions)] {
            let hung = account.slower_than(NOBODY_HANGS, outcome.began);
            assert!(hung.is_empty(), "{what} calls hung: {hung:#?}");
        }
    }

    /// The part of [`Self::assert_holds`] that holds even when no majority was there.
    pub async fn assert_safe(&self, outcome: &Outcome) {
        outcome.registry.assert_holds(&self.cluster.apis()).await;
        let (operations, registrations) = outcome.registry.counts();
        figure(
            "history checked",
            format_args!("{operations} operations, {registrations} registrations acknowledged"),
            "all explained, none lost",
        );
        let failures = outcome.sessions.failures(outcome.began);
        let forgotten: Vec<&String> = failures
            .iter()
            .filter(|reason| reason.contains(": 404"))
            .collect();
        assert!(forgotten.is_empty(), "sessions were forgotten: {forgotten:#?}");
        let lives = if self.was_paused {
            self.journal.serving()
        } else {
            self.journal.lives()
        };
        assert!(!lives.is_empty(), "the placed server kept no journal");
        for (what, account) in [("placed", &outcome.placed), ("session", &outcome.sessions)] {
            assert!(account.succeeded() > 0, "no {what} call was answered");
        }
        order::one_at_a_time(&lives).unwrap_or_else(|wrong| panic!("{wrong}"));
        let notes = self.journal.notes();
        let repeated: Vec<_> = notes.iter().filter(|(_, count)| **count > 1).collect();
        assert!(
            repeated.is_empty(),
            "calls were repeated behind the caller's back: {repeated:?}"
        );
        assert!(self.upstream.calls() > 0, "the server over HTTP was never called");
    }
}

/// All loads at once.
pub struct Traffic {
    began: Instant,
    registry: RegistryLoad,
    modern: Load<Vec<Attempt>>,
    placed: Load<Vec<Attempt>>,
    sessions: Load<Vec<Attempt>>,
}

/// What came of it.
pub struct Outcome {
    pub began: Instant,
    pub registry: RegistryRecord,
    pub modern: Account,
    pub placed: Account,
    pub sessions: Account,
}

impl Traffic {
    /// Stops all loads.
    pub async fn finish(self) -> Outcome {
        Outcome {
            began: self.began,
            modern: self.modern.account().await,
            placed: self.placed.account().await,
            sessions: self.sessions.account().await,
            registry: self.registry.finish().await,
        }
    }
}
