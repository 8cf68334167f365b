#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::session::settled_for_test as settled;
use super::*;
use crate::cluster::testkit::Net;
use crate::runtime::{SystemConfig, testkit};
use crate::upstream::tests::bed::alone;

const LIMITS: SessionLimits = SessionLimits {
    sessions_max: 1_000,
    idle_ms_max: 60_000,
    handshake_ms_max: 10_000,
};

/// The sessions of a node; several nodes share the store, as replicated trees are the same on all.
struct Table {
    sessions: SessionsHandle,
    _root: crate::runtime::Root,
}

impl std::ops::Deref for Table {
    type Target = SessionsHandle;

    fn deref(&self) -> &SessionsHandle {
        &self.sessions
    }
}

async fn table_of(store: &Store, cluster: ClusterHandle) -> Table {
    table_with(LIMITS, store, cluster).await
}

async fn table_with(limits: SessionLimits, store: &Store, cluster: ClusterHandle) -> Table {
    let system = System::new(SystemConfig::default());
    let (spec, sessions) = sessions(&system, ActorPath::new("node/sessions"), limits, store, cluster);
    Table {
        sessions,
        _root: testkit::start(&system, vec![spec]).await.unwrap(),
    }
}

async fn table() -> (Table, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (table_of(&store, alone()).await, folder)
}

async fn is_there(sessions: &SessionsHandle, id: &SessionId, owner: &str) -> bool {
    sessions.find(id.as_str(), owner).await.is_some()
}

#[tokio::test]
async fn sessions_are_opened_found_closed_and_expire_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let limits = SessionLimits {
        idle_ms_max: 2_000,
        handshake_ms_max: 800,
        ..LIMITS
    };
    let sessions = table_with(limits, &store, alone()).await;
    let closed = sessions.open(settled("ann")).await.unwrap();
    let idle = sessions.open(settled("ann")).await.unwrap();
    let vanished = sessions.open(settled("ann")).await.unwrap();
    assert!(is_there(&sessions, &closed.id, "ann").await);
    assert!(is_there(&sessions, &idle.id, "ann").await);
    assert!(!is_there(&sessions, &idle.id, "bob").await);
    assert!(sessions.close(closed.id.as_str(), "ann").await.unwrap());
    assert!(!is_there(&sessions, &closed.id, "ann").await);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(
        !is_there(&sessions, &vanished.id, "ann").await,
        "who never came back is still there"
    );
    assert!(is_there(&sessions, &idle.id, "ann").await);
    tokio::time::sleep(Duration::from_millis(2_800)).await;
    assert!(
        !is_there(&sessions, &idle.id, "ann").await,
        "the idle session is still there"
    );
    assert_eq!(sessions.open_count(), 0);
}

#[tokio::test]
async fn a_session_is_on_one_node_and_goes_on_at_the_next_when_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let net = Net::new(2, 2);
    let nodes = [
        table_of(&store, net.node(0)).await,
        table_of(&store, net.node(1)).await,
    ];
    let session = nodes[0].open(settled("ann")).await.unwrap();
    let id = session.id.as_str();
    assert_eq!(
        nodes[0].place(id).await,
        SessionPlace::Here,
        "the name is one that this node owns"
    );
    assert_eq!(nodes[1].place(id).await, SessionPlace::At(net.node(0).node_id()));
    assert!(!is_there(&nodes[1], &session.id, "ann").await);
    assert!(
        !session.has_record(),
        "a client that has not come back costs nothing"
    );
    assert!(is_there(&nodes[0], &session.id, "ann").await);
    session.subscribe("file://a", None);
    nodes[0].keep(&session).await;
    assert!(session.is_kept());

    net.kill(0);
    net.up(&[1]).await;
    assert_eq!(nodes[1].place(id).await, SessionPlace::Here);
    assert!(!is_there(&nodes[1], &session.id, "bob").await);
    let found = nodes[1].find(id, "ann").await.unwrap();
    assert_eq!(
        found.session.settled.protocol_version,
        session.settled.protocol_version
    );
    assert!(found.session.is_subscribed("file://a"));
    assert!(nodes[1].close(id, "ann").await.unwrap());
    assert!(
        !is_there(&nodes[1], &session.id, "ann").await,
        "its record is gone too"
    );
}

#[tokio::test]
async fn a_session_that_is_one_with_its_stream_has_its_name_and_is_known_here_alone() {
    let (sessions, _folder) = table().await;
    let name = sessions.draw_id().unwrap();
    let session = sessions.open_bound(name.as_str(), settled("ann")).await.unwrap();
    assert_eq!(session.id, name);
    let again = sessions.open_bound(name.as_str(), settled("ann")).await.unwrap();
    assert!(Arc::ptr_eq(&session, &again), "it is initialised once");
    session.subscribe("file://a", None);
    sessions.keep(&session).await;
    assert!(is_there(&sessions, &name, "ann").await);
    assert!(!session.has_record());
    let stream = session.open_stream();
    assert!(sessions.close(name.as_str(), "ann").await.unwrap());
    stream.must_end().await;
    assert_eq!(sessions.open_count(), 0);
}

#[tokio::test]
async fn a_session_that_moves_closes_its_stream_and_finishes_its_calls() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let net = Net::new(2, 1);
    let nodes = [
        table_of(&store, net.node(0)).await,
        table_of(&store, net.node(1)).await,
    ];
    let mut sessions = Vec::new();
    for _ in 0..40 {
        let session = nodes[0].open(settled("ann")).await.unwrap();
        assert!(is_there(&nodes[0], &session.id, "ann").await);
        let (stream, call) = (session.open_stream(), session.begin_call("1").unwrap());
        sessions.push((session, stream, call));
    }
    net.up(&[0, 1]).await;
    let mut moved = 0;
    for (session, stream, call) in &sessions {
        let is_here = nodes[0].place(session.id.as_str()).await == SessionPlace::Here;
        let streams_on = tokio::time::timeout(Duration::ZERO, stream.must_end())
            .await
            .is_err();
        assert_eq!(streams_on, is_here);
        assert!(
            tokio::time::timeout(Duration::ZERO, call.cancelled())
                .await
                .is_err()
        );
        assert!(is_there(&nodes[usize::from(!is_here)], &session.id, "ann").await);
        moved += usize::from(!is_here);
    }
    assert!((5..=35).contains(&moved), "{moved} of 40");
    let taken_over = || nodes[1].open_count() == moved && nodes[0].open_count() == 40 - moved;
    testkit::eventually(testkit::PATIENCE, taken_over).await.unwrap();
}

#[tokio::test]
async fn sessions_outlive_a_restart_of_the_node_and_ended_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let before = table_of(&store, alone()).await;
    let session = before.open(settled("ann")).await.unwrap();
    let vanished = before.open(settled("ann")).await.unwrap();
    assert!(is_there(&before, &session.id, "ann").await);
    drop(before);
    let after = table_of(&store, alone()).await;
    testkit::eventually(testkit::PATIENCE, || after.open_count() == 1)
        .await
        .unwrap();
    assert!(is_there(&after, &session.id, "ann").await);
    assert!(!is_there(&after, &vanished.id, "ann").await);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_is_gone_goes_on() {
    let (sessions, _folder) = table().await;
    let (is_done, gone) = (Arc::new(AtomicBool::new(false)), Duration::from_secs(5));
    let done = Arc::clone(&is_done);
    let mut call = sessions.unhurried(Box::pin(async move {
        tokio::time::sleep(gone * 2).await;
        done.store(true, Ordering::Relaxed);
        Answer::Result("{}".into())
    }));
    assert!(tokio::time::timeout(gone, &mut call).await.is_err());
    drop(call);
    tokio::time::sleep(gone * 2).await;
    assert!(is_done.load(Ordering::Relaxed), "the call ended with its client");
}
