#![allow(clippy::unwrap_used)]
use super::*;

pub(in crate::session) fn settled(owner: &str) -> NewSession {
    NewSession {
        owner: owner.into(),
        endpoint: Endpoint::Aggregate,
        protocol_version: ProtocolVersion::V2025_11_25,
        client_capabilities: ClientCapabilities::default(),
        client: "test 1".into(),
    }
}

fn session() -> Arc<Session> {
    Arc::new(Session::new(SessionId::for_test("s"), settled("ann"), 0))
}

#[tokio::test]
async fn a_call_is_cancelled_by_its_id_and_forgotten_when_over() {
    let session = session();
    let call = session.begin_call("7").unwrap();
    session.cancel_call("\"7\"");
    session.cancel_call("7");
    call.cancelled().await;
    assert!(session.is_busy());
    drop(call);
    assert!(!session.is_busy());
}

#[tokio::test]
async fn of_two_calls_with_one_id_the_end_of_the_first_does_not_hide_the_second() {
    let session = session();
    let first = session.begin_call("1").unwrap();
    let second = session.begin_call("1").unwrap();
    drop(first);
    session.cancel_call("1");
    second.cancelled().await;
}

#[test]
fn calls_in_flight_are_bounded() {
    let session = session();
    let calls: Vec<_> = (0..CALLS_IN_FLIGHT_MAX)
        .map(|n| session.begin_call(&n.to_string()).unwrap())
        .collect();
    assert!(session.begin_call("more").is_none());
    drop(calls);
    assert!(session.begin_call("more").is_some());
}

#[tokio::test]
async fn a_second_stream_takes_the_place_of_the_first_and_the_end_of_the_session_ends_it() {
    let session = session();
    let first = session.open_stream();
    let second = session.open_stream();
    first.must_end().await;
    drop(first);
    assert!(session.is_busy(), "the second stream is open");
    session.end();
    second.must_end().await;
    assert!(
        session.begin_call("1").is_none(),
        "nothing begins in a session that is over"
    );
}
