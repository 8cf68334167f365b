#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use troupe_protocol::access::{AuditOutcome, AuditQuery, KeyId, Principal, Role};

use super::*;
use crate::runtime::{Deadline, Root, SystemConfig, testkit};

async fn started(folder: &Path, events_max: u64) -> (AuditHandle, Root) {
    let store = Store::open(folder).unwrap();
    let system = System::new(SystemConfig::default());
    let (handle, spec) = actor(
        &system,
        ActorPath::new("node/audit"),
        &store,
        AuditSettings { events_max },
    )
    .unwrap();
    (handle, testkit::start(&system, vec![spec]).await.unwrap())
}

async fn flush(audit: &AuditHandle) {
    audit
        .flush(Deadline::within(Duration::from_secs(10)))
        .await
        .unwrap();
}

async fn subjects(audit: &AuditHandle, query: AuditQuery) -> Vec<String> {
    audit
        .list(query)
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|event| event.subject)
        .collect()
}

fn ana() -> Principal {
    Principal::of_key("ana", Role::User, KeyId::from_ulid(ulid::Ulid::generate()))
}

#[tokio::test]
async fn events_are_listed_newest_first_by_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, root) = started(folder.path(), 1000).await;
    audit.record(NewAuditEvent::new(&Principal::node(), "server.register", "time"));
    audit.record(NewAuditEvent::new(&ana(), "server.register", "git").refused("needs the role admin"));
    audit.record(NewAuditEvent::new(&ana(), "servers.list", "all"));
    audit.record(NewAuditEvent::new(&ana(), "secret.put", "git-token").failed("disk full"));
    flush(&audit).await;

    let all = audit.list(AuditQuery::default()).await.unwrap();
    let listed: Vec<&str> = all.items.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(
        (listed, all.total, all.next_cursor),
        (vec!["git-token", "all", "git", "time"], 4, None)
    );
    assert_eq!(all.items[2].detail.as_deref(), Some("needs the role admin"));

    let query = |change: fn(&mut AuditQuery)| {
        let mut query = AuditQuery::default();
        change(&mut query);
        query
    };
    assert_eq!(
        subjects(&audit, query(|q| q.principal = Some("node".into()))).await,
        ["time"]
    );
    assert_eq!(
        subjects(&audit, query(|q| q.action = Some("server".into()))).await,
        ["git", "time"]
    );
    assert_eq!(
        subjects(&audit, query(|q| q.action = Some("secret.put".into()))).await,
        ["git-token"]
    );
    assert_eq!(
        subjects(&audit, query(|q| q.subject = Some("git".into()))).await,
        ["git-token", "git"]
    );
    assert_eq!(
        subjects(&audit, query(|q| q.outcome = Some(AuditOutcome::Refused))).await,
        ["git"]
    );
    let moment = all.items[0].at.unix_ms();
    let from = |ms| Some(troupe_protocol::time::Timestamp::from_unix_ms(ms));
    let later = AuditQuery {
        since: from(moment + 3_600_000),
        ..AuditQuery::default()
    };
    assert!(subjects(&audit, later).await.is_empty());
    let earlier = AuditQuery {
        until: from(moment - 3_600_000),
        ..AuditQuery::default()
    };
    assert!(subjects(&audit, earlier).await.is_empty());
    audit.list(query(|q| q.limit = Some(0))).await.unwrap_err();
    audit.list(query(|q| q.limit = Some(501))).await.unwrap_err();
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, root) = started(folder.path(), 1000).await;
    for n in 0..25 {
        audit.record(NewAuditEvent::new(&Principal::node(), "server.register", n));
    }
    flush(&audit).await;
    let mut query = AuditQuery {
        limit: Some(10),
        ..AuditQuery::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = audit.list(query.clone()).await.unwrap();
        seen.extend(page.items.into_iter().map(|event| event.subject));
        let Some(cursor) = page.next_cursor else { break };
        query.cursor = Some(cursor);
    }
    let expected: Vec<String> = (0..25).rev().map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn the_oldest_make_room_and_nothing_taken_in_is_lost_with_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, root) = started(folder.path(), 50).await;
    for n in 0..70 {
        audit.record(NewAuditEvent::new(&Principal::node(), "server.register", n));
        if n % 10 == 0 {
            flush(&audit).await;
        }
    }
    flush(&audit).await;
    for n in 70..80 {
        audit.record(NewAuditEvent::new(&Principal::node(), "server.register", n));
    }
    // Let the actor take them in; it must not get to write them.
    tokio::task::yield_now().await;
    let _ = root.shutdown().await;
    drop(audit);

    let (audit, root) = started(folder.path(), 50).await;
    let newest = subjects(
        &audit,
        AuditQuery {
            limit: Some(500),
            ..AuditQuery::default()
        },
    )
    .await;
    assert_eq!(newest.first().map(String::as_str), Some("79"));
    assert!(
        (50..=60).contains(&newest.len()),
        "{} events are kept",
        newest.len()
    );
    audit.record(NewAuditEvent::new(&Principal::node(), "server.register", "last"));
    flush(&audit).await;
    let page = audit.list(AuditQuery::default()).await.unwrap();
    assert_eq!((page.total, page.items[0].subject.as_str()), (50, "last"));
    assert_eq!(audit.lost(), 0);
    let _ = root.shutdown().await;
}

#[tokio::test]
async fn recording_into_a_full_mailbox_or_after_the_end_is_counted_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, root) = started(folder.path(), 100_000).await;
    let recorded = 20_000;
    for n in 0..recorded {
        audit.record(NewAuditEvent::new(&Principal::node(), "server.register", n));
    }
    flush_when_there_is_room(&audit).await;
    let kept = audit.list(AuditQuery::default()).await.unwrap().total;
    assert!(audit.lost() > 0, "20,000 events at once fitted");
    assert_eq!(kept + audit.lost(), recorded);
    let _ = root.shutdown().await;
    let lost = audit.lost();
    audit.record(NewAuditEvent::new(&Principal::node(), "server.register", "late"));
    assert_eq!(audit.lost(), lost + 1);
}

async fn flush_when_there_is_room(audit: &AuditHandle) {
    while audit
        .flush(Deadline::within(Duration::from_secs(10)))
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
}

#[test]
fn long_texts_are_shortened() {
    let event =
        NewAuditEvent::new(&Principal::node(), "server.register", "é".repeat(1000)).failed("x".repeat(5000));
    let event = event.at(troupe_protocol::time::Timestamp::from_unix_ms(0));
    assert_eq!(event.subject.chars().count(), 301);
    assert_eq!(event.detail.map(|detail| detail.chars().count()), Some(2001));
}
