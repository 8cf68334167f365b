//! What links are for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use troupe_protocol::cluster::LinkState;
use troupe_protocol::error::Code;
use troupe_protocol::id::SpanId;
use troupe_protocol::trace::TraceContext;
use troupe_protocol::wire::MESSAGE_BYTES_MAX;

use super::bed::{Bed, id, within_s};
use crate::cluster::identity::{
    Applicant, ClusterIdentity, EnrolDesk, EnrolGrant, INVITATION_VALID_FOR, KeyFingerprint, Refusal,
    TokenHash,
};
use crate::cluster::link::*;
use crate::runtime::testkit::{PATIENCE, eventually};
use crate::runtime::{Deadline, trace};

#[tokio::test]
async fn nodes_ask_and_tell_each_other_both_ways() {
    let bed = Bed::new();
    let (mut one, two) = bed.pair().await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
    assert_eq!(two.ask(1, "hello").await.unwrap(), "hello");
    two.links
        .tell(id(1), Service::Bench, Bytes::from_static(b"news"))
        .unwrap();
    let told = tokio::time::timeout(PATIENCE, one.told.recv()).await.unwrap();
    assert_eq!(told.unwrap(), (id(2), Bytes::from_static(b"news")));
    let context = TraceContext {
        correlation_id: trace::new_correlation_id(),
        span: SpanId(1),
    };
    let tell = async {
        two.links
            .tell(id(1), Service::Bench, Bytes::from_static(b"news"))
            .unwrap();
    };
    trace::within(Some(context), tell).await;
    let (_, whose) = one.told.recv().await.unwrap();
    assert_eq!(
        whose,
        context.correlation_id.to_string(),
        "the trace came with it"
    );
    for bytes in [1, 4_000, 5_000, 16 * 1024, 100_000, MESSAGE_BYTES_MAX] {
        let request = Bytes::from(vec![b'x'; bytes]);
        let answered = one
            .links
            .ask(id(2), Service::Bench, request.clone(), within_s(10))
            .await;
        assert_eq!(answered.unwrap(), request, "{bytes} bytes there and back");
    }
}

#[tokio::test]
async fn three_nodes_are_linked_pairwise_and_report_it() {
    let bed = Bed::new();
    let nodes = [bed.node(1).await, bed.node(2).await, bed.node(3).await];
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.clone()).collect();
    let all: Vec<(u128, &str)> = (1..).zip(addresses.iter().map(String::as_str)).collect();
    for node in &nodes {
        node.knows(&all);
    }
    for (number, node) in (1..).zip(&nodes) {
        for other in (1..=3).filter(|other| *other != number) {
            node.is_linked_to(other).await;
            assert_eq!(node.ask(other, "hello").await.unwrap(), "hello");
        }
        let measured = || {
            let status = node.links.status();
            status.len() == 2 && status.iter().all(|link| link.round_trip_us.is_some())
        };
        eventually(PATIENCE, measured).await.unwrap();
        for link in node.links.status() {
            assert_eq!(
                (link.state, link.wire_version, link.opened),
                (LinkState::Up, 1, 1)
            );
            assert!(link.bytes_in > 0 && link.bytes_out > 0);
            assert!(link.clock_skew_ms.unwrap().abs() < 1_000);
        }
    }
}

#[tokio::test]
async fn every_ask_ends() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    let failed = one.ask(2, "fail").await;
    assert!(
        matches!(failed, Err(LinkError::Remote { code: Code::ToolNotFound, detail }) if detail == "no such tool")
    );
    let panicked = one.ask(2, "panic").await;
    assert!(matches!(
        panicked,
        Err(LinkError::Remote {
            code: Code::ActorFailed,
            ..
        })
    ));
    let unserved = one
        .links
        .ask(id(2), Service::Log, Bytes::new(), within_s(10))
        .await;
    assert!(matches!(
        unserved,
        Err(LinkError::Remote {
            code: Code::NodeUnreachable,
            ..
        })
    ));
    let too_large = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    let refused = one
        .links
        .ask(id(2), Service::Bench, too_large, within_s(10))
        .await;
    assert!(matches!(refused, Err(LinkError::TooLarge { bytes }) if bytes == MESSAGE_BYTES_MAX + 1));
    let answer_too_large = one.ask(2, &format!("give {}", MESSAGE_BYTES_MAX + 1)).await;
    assert!(matches!(
        answer_too_large,
        Err(LinkError::Remote {
            code: Code::BodyTooLarge,
            ..
        })
    ));
    assert!(matches!(
        one.ask(7, "hello").await,
        Err(LinkError::Unreachable { .. })
    ));
    let soon = Deadline::within(Duration::from_millis(50));
    let late = one.ask_within(2, "never", soon).await;
    assert!(matches!(late, Err(LinkError::DeadlineExceeded { .. })));
    let gone = || two.seen.dropped.load(Ordering::SeqCst) == 1;
    eventually(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn an_ask_that_is_dropped_is_dropped_there_too() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    {
        let asking = one.ask_within(2, "never", within_s(3_600));
        let begun = eventually(PATIENCE, || two.seen.begun.load(Ordering::SeqCst) == 1);
        tokio::select! {
            _ = asking => panic!("an answer to never"),
            begun = begun => begun.unwrap(),
        }
    }
    let dropped = || two.seen.dropped.load(Ordering::SeqCst) == 1;
    eventually(PATIENCE, dropped).await.unwrap();
}

async fn read(mut stream: LinkStream) -> (Vec<Bytes>, Result<Bytes, LinkError>) {
    let mut parts = Vec::new();
    loop {
        match stream.next().await {
            StreamItem::Part(part) => parts.push(part),
            StreamItem::End(end) => return (parts, end),
        }
    }
}

#[tokio::test]
async fn parts_come_in_order_before_the_answer_from_others_and_oneself() {
    let bed = Bed::new();
    let (one, _two) = bed.pair().await;
    for to in [id(2), id(1)] {
        for (count, bytes) in [(5, 10), (40, 30_000), (5_000, 1), (0, 0)] {
            let request = Bytes::from(format!("parts {count} {bytes}"));
            let stream = one
                .links
                .stream(to, Service::Bench, request, within_s(30))
                .await
                .unwrap();
            let (parts, end) = read(stream).await;
            assert_eq!(end.unwrap(), "done");
            assert_eq!(parts.len(), count, "{count} parts of {bytes} bytes");
            let in_order = (0..count)
                .zip(&parts)
                .all(|(at, part)| part[..] == vec![at as u8; bytes][..]);
            assert!(in_order);
        }
    }
    let request = Bytes::from_static(b"fail");
    let stream = one
        .links
        .stream(id(2), Service::Bench, request, within_s(30))
        .await
        .unwrap();
    assert!(matches!(
        read(stream).await.1,
        Err(LinkError::Remote {
            code: Code::ToolNotFound,
            ..
        })
    ));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stops_its_sender_and_nobody_else() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    let request = Bytes::from_static(b"parts 1000 10000");
    let stream = one
        .links
        .stream(id(2), Service::Bench, request, within_s(60))
        .await
        .unwrap();
    let some_sent = || two.seen.parts.load(Ordering::SeqCst) >= 20;
    eventually(PATIENCE, some_sent).await.unwrap();
    for _ in 0..50 {
        let large = one.ask(2, "give 100000").await.unwrap();
        assert_eq!(large.len(), 100_000, "others are not held up");
    }
    let sent = two.seen.parts.load(Ordering::SeqCst);
    assert!(
        sent <= 26,
        "{sent} parts of 10 kB are more than the credit of 256 KiB"
    );
    drop(stream);
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn nodes_open_http_streams_to_each_other() {
    let bed = Bed::new();
    let (one, mut two) = bed.pair().await;
    let mut stream = one.links.connect_http(id(2), within_s(5)).await.unwrap();
    stream.write_all(b"GET /").await.unwrap();
    stream.flush().await.unwrap();
    let mut accepted = two.http.recv().await.unwrap();
    assert_eq!(accepted.from, id(1));
    let mut request = [0; 5];
    accepted.stream.read_exact(&mut request).await.unwrap();
    assert_eq!(&request, b"GET /");
    assert!(matches!(
        one.links.connect_http(id(9), within_s(5)).await,
        Err(LinkError::Unreachable { .. })
    ));
}

/// Takes the token it knows, after a while.
struct Desk {
    token: TokenHash,
    takes: Duration,
}

impl EnrolDesk for Desk {
    fn admit(
        &self,
        token: TokenHash,
        _: KeyFingerprint,
        _: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>> {
        let (is_known, takes) = (token == self.token, self.takes);
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            is_known.then(EnrolGrant::default).ok_or(Refusal {
                code: Code::JoinRefused,
                detail: "unknown token".to_owned(),
            })
        })
    }

    fn knows(&self, token: TokenHash) -> bool {
        token == self.token
    }
}

fn newcomer() -> Applicant {
    Applicant {
        node: id(2),
        name: "beta".parse().unwrap(),
        generation: troupe_protocol::cluster::Generation(1),
        version: "0.1.0".to_owned(),
        wire_versions: (1, 1),
        cluster_address: "127.0.0.1:1".to_owned(),
        edge_address: "127.0.0.1:2".to_owned(),
        timing: None,
    }
}

/// The first member that the join string names is starting: nobody decides about newcomers there yet.
#[tokio::test]
async fn a_newcomer_goes_on_to_the_next_member_and_strangers_do_not_end_its_enrolment() {
    let bed = Bed::new();
    let (starting, member) = (bed.node(1).await, bed.node(3).await);
    let (join, token) = bed
        .identity(3)
        .invite(
            vec![starting.address.clone(), member.address.clone()],
            jiff::Timestamp::now(),
            INVITATION_VALID_FOR,
        )
        .unwrap();
    let takes = Duration::from_secs(1);
    member.links.enrol_with(Arc::new(Desk { token, takes }));
    let data = tempfile::tempdir().unwrap();
    let applicant = newcomer();
    let enrolling = ClusterIdentity::enrol(data.path(), &applicant, &join);
    let strangers = async {
        tokio::time::sleep(takes / 2).await;
        let mut connections = Vec::new();
        for _ in 0..300 {
            connections.push(tokio::net::TcpStream::connect(&member.address).await.unwrap());
        }
        connections
    };
    let (enrolled, _connections) = tokio::join!(enrolling, strangers);
    enrolled.unwrap();
}

#[tokio::test]
async fn a_newcomer_joins_over_the_node_port() {
    let bed = Bed::new();
    let one = bed.node(1).await;
    let (join, hash) = bed
        .identity(1)
        .invite(
            vec![one.address.clone()],
            jiff::Timestamp::now(),
            INVITATION_VALID_FOR,
        )
        .unwrap();
    one.links.enrol_with(Arc::new(Desk {
        token: hash,
        takes: Duration::ZERO,
    }));
    let data = tempfile::tempdir().unwrap();
    let (identity, _) = ClusterIdentity::enrol(data.path(), &newcomer(), &join)
        .await
        .unwrap();
    let two = super::bed::Node::start(identity, 1, "127.0.0.1:0", LinkSettings::default()).await;
    one.knows(&[(2, &two.address)]);
    one.is_linked_to(2).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}
