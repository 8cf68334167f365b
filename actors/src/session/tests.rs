#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::session::settled_for_test as settled;
use super::*;
use crate::runtime::{SystemConfig, testkit};

const LIMITS: SessionLimits = SessionLimits {
    sessions_max: 1_000,
    idle_ms_max: 60_000,
    handshake_ms_max: 10_000,
};

async fn table() -> (SessionsHandle, crate::runtime::Root) {
    let system = System::new(SystemConfig::default());
    let (spec, handle) = sessions(&system, ActorPath::new("node/sessions"), LIMITS);
    (handle, testkit::start(&system, vec![spec]).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn sessions_are_opened_found_closed_and_expire_by_themselves() {
    let (sessions, _root) = table().await;
    let closed = sessions.open(settled("ann")).await.unwrap();
    let idle = sessions.open(settled("ann")).await.unwrap();
    let vanished = sessions.open(settled("ann")).await.unwrap();
    assert!(sessions.find(closed.id.as_str(), "ann").is_some());
    assert!(sessions.find(idle.id.as_str(), "ann").is_some());
    assert!(sessions.find(idle.id.as_str(), "bob").is_none());
    assert!(sessions.close(closed.id.as_str(), "ann").await.unwrap());
    assert!(sessions.find(closed.id.as_str(), "ann").is_none());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(
        sessions.find(vanished.id.as_str(), "ann").is_none(),
        "who never came back is still there"
    );
    assert!(sessions.find(idle.id.as_str(), "ann").is_some());
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(
        sessions.find(idle.id.as_str(), "ann").is_none(),
        "the idle session is still there"
    );
    assert_eq!(sessions.open_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_is_gone_goes_on() {
    let (sessions, _root) = table().await;
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
