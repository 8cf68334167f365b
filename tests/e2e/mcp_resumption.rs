//! A legacy client that loses the connection of a stream takes it up where it was: nothing is lost, nothing comes twice.

use std::time::Duration;

use serde_json::{Value, json};
use troupe_tests::wire::Session;
use troupe_tests::{Answer, Events, Node, parts};

const PATH: &str = "/mcp/servers/everything";
const STEPS: u64 = 8;

async fn node_with_everything() -> Option<Node> {
    let everything = parts::everything()?;
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    Some(node)
}

/// A call that takes so long, and tells of its progress if there is a token.
fn long_call(id: u64, seconds: u64, token: Option<&str>) -> Value {
    let mut params = json!({
        "name": "trigger-long-running-operation",
        "arguments": { "duration": seconds, "steps": STEPS },
    });
    if let Some(token) = token {
        params["_meta"] = json!({ "progressToken": token });
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

async fn sent(session: &Session, node: &Node, message: &Value) -> Events {
    Events::of(session.post(&node.api, message).send().await.unwrap())
}

async fn taken_up(session: &Session, node: &Node, last_id: &str) -> Events {
    Events::of(session.listen(&node.api, Some(last_id)).send().await.unwrap())
}

fn progress(messages: &[Value]) -> Vec<u64> {
    messages
        .iter()
        .filter_map(|message| message["params"]["progress"].as_u64())
        .collect()
}

#[tokio::test]
async fn a_calls_stream_that_broke_in_the_middle_is_taken_up_without_loss_or_repetition() {
    let Some(node) = node_with_everything().await else {
        return;
    };
    let session = Session::open(&node.api, PATH).await.unwrap();
    let mut events = sent(&session, &node, &long_call(7, 4, Some("p"))).await;
    let opening = events.event().await.unwrap();
    assert!(
        opening.contains("retry: ") && opening.ends_with("data: "),
        "{opening}"
    );
    let primed = events.last_id.clone().unwrap();
    let mut seen = vec![events.next().await.unwrap(), events.next().await.unwrap()];
    let last_id = events.last_id.clone().unwrap();
    drop(events);

    // some of it happens while nobody listens, some while somebody does again
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut again = taken_up(&session, &node, &last_id).await;
    seen.push(again.next().await.unwrap());
    let last_id = again.last_id.clone().unwrap();
    drop(again);
    let mut again = taken_up(&session, &node, &last_id).await;
    seen.extend(again.rest().await);
    assert_eq!(progress(&seen), (1..=STEPS).collect::<Vec<_>>(), "{seen:?}");
    assert_eq!(seen.len() as u64, STEPS + 1);
    let answer = seen.last().unwrap();
    assert!(
        answer["id"] == 7 && answer["result"]["content"].is_array(),
        "{answer}"
    );

    let all = taken_up(&session, &node, &primed).await.rest().await;
    assert_eq!(all, seen, "it is kept for a while after its end");
    let after_the_end = taken_up(&session, &node, &again.last_id.unwrap())
        .await
        .rest()
        .await;
    assert!(after_the_end.is_empty(), "{after_the_end:?}");
}

#[tokio::test]
async fn a_call_that_says_nothing_for_a_while_can_be_taken_up_too_and_streams_are_not_mixed() {
    let Some(node) = node_with_everything().await else {
        return;
    };
    let session = Session::open(&node.api, PATH).await.unwrap();
    let mut ids = Vec::new();
    for id in [1, 2] {
        let mut events = sent(&session, &node, &long_call(id, 3, None)).await;
        events.event().await.unwrap();
        ids.push(events.last_id.unwrap());
    }
    for (id, last_id) in [(1, &ids[0]), (2, &ids[1])] {
        let answers = taken_up(&session, &node, last_id).await.rest().await;
        assert!(
            matches!(&*answers, [answer] if answer["id"] == id && answer["result"].is_object()),
            "{answers:?}"
        );
    }

    let (incarnation, _) = ids[0].split_once('.').unwrap();
    let foreign = format!("{incarnation}.99.0");
    let refused = Answer::of(session.listen(&node.api, Some(&foreign))).await;
    assert_eq!(
        refused.status, 400,
        "the session is not over, which 404 would say: {refused:?}"
    );
    let other = Session::open(&node.api, PATH).await.unwrap();
    let refused = Answer::of(other.listen(&node.api, Some(&ids[0]))).await;
    assert_eq!(refused.status, 400, "another session's stream: {refused:?}");
}

#[tokio::test]
async fn what_is_told_while_the_stream_of_notices_is_broken_is_told_when_it_is_taken_up() {
    let node = Node::start().await;
    let session = Session::open(&node.api, "/mcp").await.unwrap();
    let mut events = Events::of(session.listen(&node.api, None).send().await.unwrap());
    events.event().await.unwrap();
    let primed = events.last_id.clone().unwrap();
    drop(events);

    let new = json!({ "name": "silent", "command": "sleep", "args": ["600"] });
    node.api.post("/api/v1/servers", &new).await.ok();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut events = taken_up(&session, &node, &primed).await;
    events.expect("notifications/tools/list_changed").await;
    let quiet = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            let message = events.next().await.unwrap();
            assert_ne!(
                message["method"], "notifications/tools/list_changed",
                "told twice"
            );
        }
    });
    assert!(quiet.await.is_err());
    drop(events);

    let mut again = taken_up(&session, &node, &primed).await;
    again.expect("notifications/tools/list_changed").await;
    drop(again);
    let mut unknown = taken_up(&session, &node, "17").await;
    for kind in ["tools", "resources", "prompts"] {
        unknown
            .expect(&format!("notifications/{kind}/list_changed"))
            .await;
    }
}
