//! Peers that die, fall silent, come back, or are not what they should be.

use std::time::Duration;

use tokio::time::Instant;

use troupe_protocol::cluster::frame::ClusterTiming;

use super::bed::{Bed, Wire, id, within_s};
use crate::cluster::link::*;

#[tokio::test]
async fn an_ask_to_a_node_that_ends_is_lost_at_once_and_the_link_is_made_again() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    let mut events = one.links.subscribe();
    let address = two.address.clone();
    let asking = one.ask_within(2, "never", within_s(60));
    let ending = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        two.stop().await;
        began
    };
    let (asked, began) = tokio::join!(asking, ending);
    assert!(matches!(asked, Err(LinkError::Lost { .. })), "{asked:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(events.recv().await.unwrap(), LinkEvent::Down { node: id(2) });
    assert!(matches!(
        one.ask(2, "hello").await,
        Err(LinkError::Unreachable { .. })
    ));

    let two = bed.start(2, 2, &address, LinkSettings::default()).await;
    one.is_linked_to(2).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
    assert!(matches!(events.recv().await.unwrap(), LinkEvent::Up { generation, .. } if generation.0 == 2));
    two.stop().await;
}

#[tokio::test]
async fn a_silent_peer_is_noticed_and_its_link_made_again_when_it_speaks() {
    let bed = Bed::new();
    let (one, two) = (bed.node(1).await, bed.node(2).await);
    let wire = Wire::to(&two.address).await;
    one.knows(&[(2, &wire.address)]);
    one.is_linked_to(2).await;
    wire.hold();
    let began = Instant::now();
    let asked = one.ask_within(2, "hello", within_s(60)).await;
    let noticed = began.elapsed();
    assert!(matches!(asked, Err(LinkError::Lost { .. })), "{asked:?}");
    assert!(
        noticed >= Duration::from_millis(400) && noticed < Duration::from_secs(30),
        "{noticed:?}"
    );
    one.complains(2, "silent").await;
    wire.release();
    one.is_linked_to(2).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_silent_peer_is_noticed_without_being_asked_anything() {
    let bed = Bed::new();
    let settings = LinkSettings {
        idle_ping_interval_ms: 300,
        ..LinkSettings::default()
    };
    let one = bed.start(1, 1, "127.0.0.1:0", settings).await;
    let two = bed.node(2).await;
    let wire = Wire::to(&two.address).await;
    one.knows(&[(2, &wire.address)]);
    one.is_linked_to(2).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert!(one.links.is_up(id(2)), "an idle peer is not a silent one");
    wire.hold();
    one.is_not_linked_to(2).await;
    one.complains(2, "silent").await;
}

#[tokio::test]
async fn a_restarted_node_takes_the_place_of_its_former_self_that_still_seems_alive() {
    let bed = Bed::new();
    let two = bed.node(2).await;
    let wire = Wire::to(&two.address).await;
    let former = bed.node(1).await;
    former.knows(&[(2, &wire.address)]);
    two.is_linked_to(1).await;
    wire.hold();

    let restarted = bed.start(1, 2, "127.0.0.1:0", LinkSettings::default()).await;
    let began = Instant::now();
    restarted.knows(&[(2, &two.address)]);
    restarted.is_linked_to(2).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // The former link was ended before the new one was welcomed, so this is the new one.
    two.is_linked_to(1).await;
    assert_eq!(two.ask(1, "hello").await.unwrap(), "hello");
    assert!(restarted.seen.begun.load(std::sync::atomic::Ordering::SeqCst) >= 1);
}

#[tokio::test]
async fn a_node_that_others_look_for_in_the_wrong_place_finds_them() {
    let bed = Bed::new();
    let (one, two) = (bed.node(1).await, bed.node(2).await);
    one.knows(&[(2, "127.0.0.1:1")]);
    two.knows(&[(1, &one.address)]);
    one.is_linked_to(2).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_copy_of_a_running_node_is_refused_clearly() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    let copy = bed.node(1).await;
    copy.knows(&[(2, &two.address)]);
    copy.complains(2, "T8006").await;
    copy.complains(2, "copies of one data folder").await;
    assert_eq!(
        one.ask(2, "hello").await.unwrap(),
        "hello",
        "the first one goes on"
    );
    assert!(!copy.links.is_up(id(2)));
}

#[tokio::test]
async fn versions_of_the_wire_that_do_not_meet_are_refused_clearly() {
    let bed = Bed::new();
    let later = LinkSettings {
        wire_versions: (2, 3),
        ..LinkSettings::default()
    };
    let (one, two) = (bed.node(1).await, bed.start(2, 1, "127.0.0.1:0", later).await);
    one.knows(&[(2, &two.address)]);
    one.complains(2, "T8012").await;
    assert!(!one.links.is_up(id(2)) && !two.links.is_up(id(1)));
}

#[tokio::test]
async fn nodes_whose_leases_last_differently_have_no_link_and_say_why() {
    let bed = Bed::new();
    let with = |lease_ms| LinkSettings {
        timing: Some(ClusterTiming {
            lease_ms,
            election_timeout_ms: 300,
        }),
        ..LinkSettings::default()
    };
    let one = bed.start(1, 1, "127.0.0.1:0", with(1_100)).await;
    let two = bed.start(2, 1, "127.0.0.1:0", with(5_000)).await;
    one.knows(&[(2, &two.address)]);
    one.complains(2, "T8013").await;
    let error = one.error_of(2).unwrap();
    assert!(error.contains("1100") && error.contains("5000"), "{error}");
    assert!(!one.links.is_up(id(2)));
    let three = bed.start(3, 1, "127.0.0.1:0", with(1_100)).await;
    one.knows(&[(3, &three.address)]);
    one.is_linked_to(3).await;
}

#[tokio::test]
async fn adjacent_versions_of_the_wire_run_together() {
    let bed = Bed::new();
    let later = LinkSettings {
        wire_versions: (1, 2),
        ..LinkSettings::default()
    };
    let (one, two) = (bed.node(1).await, bed.start(2, 1, "127.0.0.1:0", later).await);
    one.knows(&[(2, &two.address)]);
    one.is_linked_to(2).await;
    assert_eq!(one.links.status()[0].wire_version, 1);
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_node_that_leaves_is_let_go_and_dialled_when_it_joins_again() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    one.knows(&[]);
    one.is_not_linked_to(2).await;
    two.is_not_linked_to(1).await;
    assert_eq!(one.links.status().len(), 0);
    one.knows(&[(2, &two.address)]);
    one.is_linked_to(2).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_crash_of_the_links_actor_costs_the_links_once() {
    let bed = Bed::new();
    let (one, two) = bed.pair().await;
    one.crash();
    one.is_not_linked_to(2).await;
    one.is_linked_to(2).await;
    two.is_linked_to(1).await;
    assert_eq!(one.ask(2, "hello").await.unwrap(), "hello");
    assert_eq!(two.ask(1, "hello").await.unwrap(), "hello");
}
