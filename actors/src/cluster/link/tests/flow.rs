//! How much may be under way, and what goes first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bed::{Bed, Node, Wire, id, within_s};
use crate::cluster::link::*;
use crate::runtime::Deadline;
use crate::runtime::testkit::{PATIENCE, eventually};

fn in_flight(node: &Node) -> u64 {
    node.links.status()[0].in_flight_bytes
}

#[tokio::test]
async fn a_peer_that_takes_nothing_holds_no_more_than_the_window() {
    let bed = Bed::new();
    let patient = LinkSettings {
        silence_ms_max: 60_000,
        ..LinkSettings::default()
    };
    let one = bed.start(1, 1, "127.0.0.1:0", patient.clone()).await;
    let two = bed.start(2, 1, "127.0.0.1:0", patient.clone()).await;
    let wire = Wire::to(&two.address).await;
    one.knows(&[(2, &wire.address)]);
    one.is_linked_to(2).await;
    wire.hold();
    for bytes in [1_000, 50_000] {
        let message = Bytes::from(vec![1; bytes]);
        let mut accepted_bytes = 0;
        let refused = loop {
            match one.links.tell(id(2), Service::Bench, message.clone()) {
                Ok(()) => accepted_bytes += bytes,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, LinkError::Overloaded { .. }), "{refused:?}");
        assert!(
            accepted_bytes <= patient.window_bytes as usize,
            "{accepted_bytes} bytes of {bytes} each"
        );
    }
    assert!(in_flight(&one) <= u64::from(patient.window_bytes));
    let soon = Deadline::within(Duration::from_millis(100));
    let waited = one.ask_within(2, "hello", soon).await;
    assert!(
        matches!(waited, Err(LinkError::DeadlineExceeded { .. })),
        "an ask waits for room: {waited:?}"
    );

    wire.release();
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
    let small_rest = || in_flight(&one) <= 128 * 1024;
    eventually(PATIENCE, small_rest).await.unwrap();
}

async fn median_of_asks(node: &Node, count: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        node.ask(2, "hello").await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_ask_does_not_wait_for_the_bulk_of_others() {
    let bed = Bed::new();
    let (one, _two) = bed.pair().await;
    let one = Arc::new(one);
    let mut bulk = JoinSet::new();
    let began = Instant::now();
    for _ in 0..64 {
        let links = one.links.clone();
        bulk.spawn(async move {
            let request = Bytes::from(vec![b'x'; 256 * 1024]);
            links
                .ask(id(2), Service::Bench, request, within_s(120))
                .await
                .unwrap()
                .len()
        });
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let small = median_of_asks(&one, 5).await;
    assert!(!bulk.is_empty());
    while let Some(bytes) = bulk.join_next().await {
        assert_eq!(bytes.unwrap(), 256 * 1024);
    }
    let all = began.elapsed();
    // Behind the bulk it would take about as long as all of it; the bars themselves are for `troupe bench cluster`.
    assert!(small < all / 8, "{small:?} of {all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_asks_at_once_are_all_answered_and_leave_nothing_behind() {
    let bed = Bed::new();
    let (one, _two) = bed.pair().await;
    let mut asks = JoinSet::new();
    for number in 0..64_usize {
        let links = one.links.clone();
        asks.spawn(async move {
            for round in 0..20 {
                let bytes = if (number + round) % 8 == 0 { 40_000 } else { 100 };
                let request = Bytes::from(vec![b'a' + (number % 20) as u8; bytes]);
                let answered = links
                    .ask(id(2), Service::Bench, request.clone(), within_s(60))
                    .await;
                assert_eq!(answered.unwrap(), request);
            }
        });
    }
    while let Some(done) = asks.join_next().await {
        done.unwrap();
    }
    // What was taken is told in steps, so that up to one step of each class may be outstanding.
    assert!(in_flight(&one) < 128 * 1024, "{}", in_flight(&one));
}
