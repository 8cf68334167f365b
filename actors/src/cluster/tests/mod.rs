//! Several whole nodes in one process: real links on loopback, real logs in real folders.
#![allow(clippy::unwrap_used)]

mod bed;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use troupe_protocol::cluster::frame::{ClusterTiming, WIRE_VERSION_MAX, WIRE_VERSION_MIN};
use troupe_protocol::cluster::{Address, ClusterWarning, EntityKind, Generation, MemberState};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;

use super::identity::{Applicant, EnrolDesk, JoinString, KeyFingerprint, TokenHash};
use super::link::Peer;
use super::{ClusterError, Whereabouts};
use bed::{Bed, KEYS, soon, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_alone_is_a_cluster_of_one_at_once_and_again_after_a_restart() {
    let mut bed = Bed::default();
    let began = Instant::now();
    bed.found("alpha").await;
    assert!(bed.node(0).cluster.ready(soon()).await);
    let ready_after = began.elapsed();
    assert_eq!(bed.ask(0, 0, soon()).await.unwrap(), bed.node(0).id());
    let status = bed.node(0).cluster.status().await;
    assert!(status.has_quorum);
    assert_eq!(status.warnings, []);
    assert_eq!(status.members.len(), 1);
    assert_eq!(status.members[0].placed, Some(1));
    assert!(status.members[0].is_leader && status.members[0].is_self);

    bed.stop(0).await;
    let began = Instant::now();
    bed.restart(0).await;
    assert!(bed.node(0).cluster.ready(soon()).await);
    println!("ready after {ready_after:?}, again after {:?}", began.elapsed());
    assert_eq!(bed.ask(0, 1, soon()).await.unwrap(), bed.node(0).id());
    let (cluster, id) = (bed.node(0).cluster.clone(), bed.node(0).id());
    // What it says of itself at its start is in the log a moment later.
    let is_noted = || cluster.membership().members[&id].generation.0 == 2;
    assert!(wait_until(is_noted).await.is_some(), "{}", bed.describe().await);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_share_the_addresses_and_each_finds_all() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    bed.join("beta").await;
    bed.join("gamma").await;
    bed.await_up(3).await;
    for key in 0..KEYS {
        let owner = bed.ask(0, key, soon()).await.unwrap();
        for node in 1..3 {
            assert_eq!(
                bed.ask(node, key, soon()).await.unwrap(),
                owner,
                "key {key} at node {node}"
            );
        }
    }
    let counts: Vec<u32> = (0..3)
        .map(|node| bed.node(node).cluster.placed().total())
        .collect();
    assert_eq!(counts.iter().sum::<u32>() as usize, KEYS, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let lapses = |bed: &Bed| (0..3).map(|node| bed.node(node).cluster.lapses()).sum::<u64>();
    let before = lapses(&bed);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        lapses(&bed) - before,
        0,
        "leases are held without a gap while nothing happens"
    );
    bed.end().await;
    bed.account.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_lost_node_did_goes_on_elsewhere_and_no_address_ever_has_two() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    bed.join("beta").await;
    bed.join("gamma").await;
    bed.await_up(3).await;
    bed.await_voters(3).await;
    let load = bed.load();
    bed.settle_in().await;

    // First a follower, then whoever leads.
    for follower in [true, false] {
        let lost = bed.leader_or_follower(!follower).await;
        let its_key = bed.key_of(lost).await;
        let asker = (lost + 1) % 3;
        let cut_at = Instant::now();
        bed.isolate(lost);
        let account = bed.account.clone();
        let lost_id = bed.node(lost).id();
        let stopped = wait_until(|| account.acting_at(lost_id) == 0).await;
        let answer = match bed.ask(asker, its_key, soon()).await {
            Ok(answer) => answer,
            Err(error) => panic!("{error}\n{}", bed.describe().await),
        };
        let answered_after = cut_at.elapsed();
        println!("cut off: stopped after {stopped:?}, others answered after {answered_after:?}");
        assert_ne!(answer, lost_id);
        assert!(stopped.is_some(), "it still acts");
        let error = bed.ask(lost, its_key, soon()).await.unwrap_err();
        assert!(
            matches!(
                error,
                ClusterError::NoQuorum { .. }
                    | ClusterError::Unreachable { .. }
                    | ClusterError::Elsewhere { .. }
            ),
            "{error}"
        );
        let status = bed.node(lost).cluster.status().await;
        assert!(!status.has_quorum);
        assert!(
            status.warnings.contains(&ClusterWarning::Isolated),
            "{:?}",
            status.warnings
        );
        bed.reconnect(lost);
        bed.await_up(3).await;
        bed.settle_in().await;
        let whereabouts = bed.node(asker).cluster.whereabouts(&bed::address(its_key));
        assert!(
            matches!(whereabouts, Whereabouts::At(node, _) if node == lost_id),
            "it has its own back"
        );
    }
    let answered = load.stop().await;
    assert!(answered > 200, "{answered}");
    bed.end().await;
    bed.account.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_newcomer_takes_its_share_and_a_drained_member_gives_all_away() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    bed.join("beta").await;
    bed.join("gamma").await;
    bed.await_up(3).await;
    let load = bed.load();
    bed.settle_in().await;
    let joined_at = Instant::now();
    bed.join("delta").await;
    let newcomer = bed.node(3).cluster.clone();
    let has_share = wait_until(|| newcomer.placed().total() > 0).await;
    println!(
        "the newcomer has its share {:?} after it began to join",
        joined_at.elapsed()
    );
    assert!(has_share.is_some(), "no share after {:?}", joined_at.elapsed());
    bed.await_up(4).await;
    bed.settle_in().await;

    let drained = bed.node(1).id();
    bed.node(2).cluster.drain(drained, soon()).await.unwrap();
    assert_eq!(bed.node(1).cluster.placed().total(), 0);
    assert_eq!(
        bed.node(0).cluster.membership().members[&drained].state,
        MemberState::Draining
    );
    // It still takes questions for all.
    for key in 0..KEYS {
        assert_ne!(bed.ask(1, key, soon()).await.unwrap(), drained);
    }
    let unfailing = load.failures();
    bed.node(2).cluster.undrain(drained, soon()).await.unwrap();
    bed.settle_in().await;
    load.stop().await;
    assert_eq!(
        unfailing, 0,
        "no question failed while addresses moved between living members"
    );
    // What it has given away may still be in hand.
    bed.account.linger(Duration::from_millis(500));
    let began = Instant::now();
    bed.node(2).cluster.drain(drained, soon()).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    bed.account.linger(Duration::ZERO);
    bed.end().await;
    bed.account.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_string_works_once_and_a_name_only_for_one() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    assert!(bed.node(0).cluster.ready(soon()).await);
    let join = bed.invitation(0).await;
    bed.start("beta", Some(join.clone())).await.unwrap();
    let again = bed.start("gamma", Some(join)).await.unwrap_err();
    assert!(again.contains("used up"), "{again}");
    let join = bed.invitation(0).await;
    let taken = bed.start("alpha", Some(join)).await.unwrap_err();
    assert!(taken.contains("alpha"), "{taken}");
    bed.end().await;
}

/// The answer may be lost, or the newcomer not become a member, after its string was taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_newcomer_may_come_again_with_its_join_string_until_it_is_removed_and_nobody_else() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    assert!(bed.node(0).cluster.ready(soon()).await);
    let join: JoinString = bed.invitation(0).await.parse().unwrap();
    let applicant = |node: u128, name: &str| Applicant {
        node: NodeId::from_ulid(ulid::Ulid(node)),
        name: name.parse().unwrap(),
        generation: Generation(1),
        version: String::new(),
        wire_versions: (WIRE_VERSION_MIN, WIRE_VERSION_MAX),
        cluster_address: "127.0.0.1:9".to_owned(),
        edge_address: String::new(),
        timing: None,
    };
    let cluster = bed.node(0).cluster.clone();
    let desk = &cluster.shared.reach.get().unwrap().admission;
    let key = |text: &str| -> KeyFingerprint { serde_json::from_value(text.into()).unwrap() };
    let admit_with = async |with: &str, applicant| {
        let admitted = desk.admit(join.token_hash(), key(with), applicant);
        admitted.await
    };
    let admit = async |applicant| admit_with("its key", applicant).await;
    assert_eq!(admit(applicant(2, "beta")).await.unwrap().members.len(), 2);
    assert_eq!(admit(applicant(2, "beta")).await.unwrap().members.len(), 2);
    let other = admit(applicant(3, "gamma")).await.unwrap_err();
    assert!(other.detail.contains("used up"), "{}", other.detail);
    let hasty = Applicant {
        timing: Some(ClusterTiming {
            lease_ms: 1,
            election_timeout_ms: 1,
        }),
        ..applicant(2, "beta")
    };
    let refused = admit(hasty).await.unwrap_err();
    assert_eq!(refused.code, Code::ClusterSettingsDiffer);
    let pretender = admit_with("another key", applicant(2, "beta")).await;
    let refused = pretender.unwrap_err();
    assert!(refused.detail.contains("used up"), "{}", refused.detail);
    let beta = applicant(2, "beta").node;
    let (removed, told) = std::sync::mpsc::sync_channel(1);
    cluster.before_removal(Arc::new(move |name| {
        removed.send(name).unwrap();
        Box::pin(async { Ok(()) })
    }));
    cluster.remove(beta, soon()).await.unwrap();
    assert_eq!(told.try_recv().unwrap(), applicant(2, "beta").name);
    let removed = admit(applicant(2, "beta")).await.unwrap_err();
    assert_eq!(removed.code, Code::JoinRefused);
    let membership = cluster.log().unwrap().membership();
    assert_eq!(membership.borrow().members.len(), 1);
    bed.end().await;
}

/// Neither who the members are, nor what they are called.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_has_no_good_token_is_told_nothing_about_the_cluster() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    assert!(bed.node(0).cluster.ready(soon()).await);
    let cluster = bed.node(0).cluster.clone();
    let desk = &cluster.shared.reach.get().unwrap().admission;
    let namesake = Applicant {
        node: NodeId::from_ulid(ulid::Ulid(2)),
        name: "alpha".parse().unwrap(),
        generation: Generation(1),
        version: String::new(),
        wire_versions: (WIRE_VERSION_MIN, WIRE_VERSION_MAX),
        cluster_address: "127.0.0.1:9".to_owned(),
        edge_address: String::new(),
        timing: None,
    };
    let guessed: TokenHash = "ab".repeat(32).try_into().unwrap();
    let key: KeyFingerprint = serde_json::from_value("a key".into()).unwrap();
    let refused = desk.admit(guessed, key, namesake).await.unwrap_err();
    assert!(refused.detail.contains("unknown"), "{}", refused.detail);
    let told = refused.detail.contains("alpha") || refused.detail.contains(&bed.node(0).id().to_string());
    assert!(!told, "{}", refused.detail);
    bed.end().await;
}

/// Cut off by its removal, it would be the second of three voters that is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_voter_is_not_removed_while_another_is_down_that_would_be_needed_then() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    bed.join("beta").await;
    bed.join("gamma").await;
    bed.await_up(3).await;
    bed.await_voters(3).await;
    let leader = bed.leader_or_follower(true).await;
    let (unwanted, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    let [unwanted_id, lost_id] = [unwanted, lost].map(|number| bed.node(number).id());
    bed.stop(lost).await;
    let cluster = bed.node(leader).cluster.clone();
    let is_down = || cluster.membership().members[&lost_id].state == MemberState::Down;
    assert!(wait_until(is_down).await.is_some());
    let refused = cluster.remove(unwanted_id, soon()).await.unwrap_err();
    assert!(refused.to_string().contains("still needed"), "{refused}");
    cluster.invite(soon()).await.unwrap();
    bed.restart(lost).await;
    cluster.remove(unwanted_id, soon()).await.unwrap();
    assert!(!cluster.membership().members.contains_key(&unwanted_id));
    cluster.invite(soon()).await.unwrap();
    bed.end().await;
}

/// Whoever remembers nothing of the removal knows of it from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_node_is_refused_by_a_node_that_has_started_since() {
    let mut bed = Bed::default();
    bed.found("alpha").await;
    bed.join("beta").await;
    bed.await_up(2).await;
    // The one with the lower id dials.
    let removed = usize::from(bed.node(0).id() > bed.node(1).id());
    let kept = 1 - removed;
    let removed_id = bed.node(removed).id();
    let removal = bed.node(kept).cluster.remove(removed_id, soon());
    removal.await.unwrap();
    bed.stop(removed).await;
    bed.stop(kept).await;
    bed.restart(kept).await;
    assert!(bed.node(kept).cluster.ready(soon()).await);
    bed.restart(removed).await;
    let kept_id = bed.node(kept).id();
    let refused = || {
        // It listens elsewhere since its start, of which the removed one was not told.
        let membership = bed.node(kept).cluster.membership();
        let address = membership.members[&kept_id].cluster_address.clone();
        let peer = Peer { id: kept_id, address };
        bed.node(removed).cluster.links().unwrap().connect_to(vec![peer]);
        let links = bed.node(removed).cluster.links().unwrap().status();
        let link = links.into_iter().find(|link| link.node == kept_id);
        link.and_then(|link| link.last_error)
            .is_some_and(|error| error.contains("was removed from the cluster"))
    };
    let waited = wait_until(refused).await;
    assert!(waited.is_some(), "{}", bed.describe().await);
    let links = bed.node(kept).cluster.links().unwrap().status();
    assert!(links.iter().all(|link| link.node != removed_id), "{links:?}");
    bed.end().await;
}

/// How long the hot path takes to find an owner: `cargo test --release … -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn whereabouts_cost() {
    for members in [1, 3, 10, 30] {
        let net = super::testkit::Net::new(members, members);
        let cluster = net.node(0);
        let addresses: Vec<Address> = (0..64)
            .map(|key| Address::new(EntityKind::Upstream, format!("server-{key}")))
            .collect();
        let began = std::time::Instant::now();
        let mut here = 0_usize;
        const ROUNDS: usize = 20_000;
        for round in 0..ROUNDS {
            let whereabouts = cluster.whereabouts(&addresses[round % addresses.len()]);
            here += usize::from(matches!(whereabouts, Whereabouts::Here(_)));
        }
        println!(
            "{members} members: {} ns, {here} here",
            began.elapsed().as_nanos() / ROUNDS as u128
        );
    }
}

/// How often the loss of the leader takes the lease of a node that lives, and how soon another leads:
/// `cargo test … lost_leaders -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a measurement"]
async fn lost_leaders() {
    const ROUNDS: usize = 20;
    let mut bed = Bed::default();
    for name in ["alpha", "beta", "gamma"] {
        match name {
            "alpha" => bed.found(name).await,
            name => bed.join(name).await,
        }
    }
    bed.await_up(3).await;
    bed.await_voters(3).await;
    let (mut lapses, mut elections) = (0, Vec::new());
    for round in 0..ROUNDS {
        let lost = bed.leader_or_follower(true).await;
        let others: Vec<_> = (0..3)
            .filter(|node| *node != lost)
            .map(|node| bed.node(node).cluster.clone())
            .collect();
        let count = || others.iter().map(|other| other.lapses()).sum::<u64>();
        let before = count();
        tokio::time::sleep(Duration::from_millis(round as u64 * 17 % 200)).await;
        let lost_at = Instant::now();
        bed.isolate(lost);
        let lost_id = bed.node(lost).id();
        let mut leader = others[0].log().unwrap().leader();
        let is_other = leader.wait_for(|leader| leader.is_some_and(|(leader, _)| leader != lost_id));
        is_other.await.unwrap();
        elections.push(lost_at.elapsed().as_millis());
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        lapses += count() - before;
        bed.reconnect(lost);
        bed.await_up(3).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    elections.sort_unstable();
    println!(
        "{lapses} of {} leases were lost; another led after {elections:?} ms",
        2 * ROUNDS
    );
    bed.end().await;
}

/// What a node writes to its links while nothing happens: `cargo test … idle_traffic -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a measurement"]
async fn idle_traffic() {
    const NODES: usize = 10;
    const SECONDS: u64 = 10;
    let mut bed = Bed::default();
    bed.found("n0").await;
    for number in 1..NODES {
        bed.join(&format!("n{number}")).await;
    }
    bed.await_up(NODES).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let written = |bed: &Bed| -> Vec<u64> {
        let links = (0..NODES).map(|node| bed.node(node).cluster.links().unwrap().status());
        links
            .map(|links| links.iter().map(|link| link.bytes_out).sum())
            .collect()
    };
    let before = written(&bed);
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let after = written(&bed);
    let mut rates: Vec<u64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) / SECONDS)
        .collect();
    rates.sort_unstable();
    let sum: u64 = rates.iter().sum();
    println!("bytes/s written per node: {rates:?}, mean {}", sum / NODES as u64);
    bed.end().await;
}
