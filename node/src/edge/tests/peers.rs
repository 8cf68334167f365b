//! What nodes may ask of each other over HTTP.

#![allow(clippy::disallowed_methods)]

use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use troupe_actors::runtime::testkit::eventually;
use troupe_protocol::{access::Principal, id::NodeId};

use super::*;
use crate::edge::peer;

const SOON: Duration = Duration::from_secs(20);

/// The other end of a connection on which `node` speaks to the bed's.
fn speak_as(bed: &Bed, node: NodeId) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = peer::serve_connection(bed.node.state.clone(), bed.router.clone(), node, theirs);
    tokio::spawn(serving);
    ours
}

async fn say(connection: &mut DuplexStream, path: &str) {
    let principal = peer::assert_principal(&Principal::node()).unwrap();
    let principal = principal.to_str().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nx-troupe-principal: {principal}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
}

/// What comes until `end` has come, or until the connection ends.
async fn hear(connection: &mut DuplexStream, end: &str) -> String {
    let mut heard = Vec::new();
    let hearing = async {
        loop {
            let text = String::from_utf8_lossy(&heard);
            if (!end.is_empty() && text.contains(end)) || connection.read_buf(&mut heard).await.unwrap() == 0
            {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, hearing).await.unwrap();
    String::from_utf8(heard).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_member_is_refused_and_its_connection_closed() {
    let bed = Bed::new().await;
    let mut stranger = speak_as(&bed, NodeId::from_ulid(ulid::Ulid::generate()));
    say(&mut stranger, "/api/v1/keys").await;
    let refused = hear(&mut stranger, "").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("is no member of this cluster"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_of_other_nodes_is_told_so() {
    let bed = Bed::new().await;
    let own = bed.node.state.node_id;
    let (mut ours, theirs): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| tokio::io::duplex(64 * 1024))
        .map(|(ours, theirs)| (ours, (own, theirs)))
        .unzip();
    let streams = stream::iter(theirs);
    tokio::spawn(peer::serve(
        bed.node.state.clone(),
        bed.router.clone(),
        1,
        streams,
    ));
    for (connection, status) in ours.iter_mut().zip(["HTTP/1.1 200", "HTTP/1.1 429"]) {
        say(connection, "/api/v1/keys").await;
        let answer = hear(connection, "\r\n\r\n").await;
        assert!(answer.starts_with(status), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_another_node_outlives_the_pauses_that_clients_are_given() {
    let bed = Bed::with(|config| config.edge.header_timeout_ms = crate::config::Bounded::new(100)).await;
    let mut connection = speak_as(&bed, bed.node.state.node_id);
    for _ in 0..2 {
        say(&mut connection, "/api/v1/keys").await;
        let answer = hear(&mut connection, "admin").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_finishes_what_other_nodes_have_handed_on() {
    let bed = Bed::new().await;
    let mut connection = speak_as(&bed, bed.node.state.node_id);
    let principal = peer::assert_principal(&Principal::node()).unwrap();
    let principal = principal.to_str().unwrap();
    let (begun, rest) = ("{\"name\": \"eve\", ", "\"role\": \"user\"}");
    let length = begun.len() + rest.len();
    let headers = format!(
        "POST /api/v1/keys HTTP/1.1\r\nhost: node\r\nx-troupe-principal: {principal}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    );
    connection.write_all(headers.as_bytes()).await.unwrap();
    hear(&mut connection, "100 Continue\r\n\r\n").await;
    connection.write_all(begun.as_bytes()).await.unwrap();
    let stopping = bed.node.state.stopping.clone();
    let stopped = tokio::spawn(bed.node.shutdown());
    stopping.cancelled().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    connection.write_all(rest.as_bytes()).await.unwrap();
    let answer = hear(&mut connection, "").await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_when_its_node_is_lost() {
    let bed = Bed::new().await;
    let other = bed.joined().await;
    let (state, id) = (&bed.node.state, other.node.state.node_id);
    let is_up = || {
        let membership = state.cluster.membership();
        membership.eligible().any(|member| member.id == id)
    };
    eventually(SOON, is_up).await.unwrap();
    let feed = Request::get("/api/v1/live/feed?topics=servers")
        .body(Body::empty())
        .unwrap();
    let within = Deadline::within(SOON);
    let answer = peer::send(state, id, feed, &Principal::node(), within)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);

    state.cluster.remove(id, within).await.unwrap();
    let rest = tokio::time::timeout(SOON, answer.into_body().collect())
        .await
        .unwrap();
    assert!(rest.unwrap_err().to_string().contains("was lost"));
    let asked = peer::send(state, id, Request::new(Body::empty()), &Principal::node(), within).await;
    assert_eq!(asked.unwrap_err().problem().code, "T8004");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_open_ends_when_it_is_removed() {
    let bed = Bed::new().await;
    let other = bed.joined().await;
    let id = other.node.state.node_id;
    let mut waiting = speak_as(&bed, id);
    say(&mut waiting, "/api/v1/keys").await;
    assert!(
        hear(&mut waiting, "admin@second")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let mut stream = speak_as(&bed, id);
    say(&mut stream, "/api/v1/live/feed?topics=servers").await;
    assert!(hear(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));

    let within = Deadline::within(SOON);
    bed.node.state.cluster.remove(id, within).await.unwrap();
    hear(&mut waiting, "").await;
    hear(&mut stream, "").await;
}
