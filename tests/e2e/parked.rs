//! A legacy server that asks in the middle of a call, and a modern client that cannot be asked: it is sent away with the
//! question and calls again, at any node, while the server waits.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use troupe_tests::conformance::Fixture;
use troupe_tests::{Answer, Api, Cluster, Node, eventually};

const FIXTURE: &str = env!("CARGO_BIN_EXE_conformance-server");
const SERVER: &str = "/mcp/servers/asking";
/// It asks for a form and answers with what the client gave.
const TOOL: &str = "test_elicitation";

/// A tool call of a modern client that can fill in forms.
async fn call(api: &Api, more: Value) -> Answer {
    call_with(api, json!({ "message": "who?" }), more).await
}

async fn call_with(api: &Api, arguments: Value, more: Value) -> Answer {
    let mut params = json!({
        "name": TOOL,
        "arguments": arguments,
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": { "elicitation": { "form": {} } },
        },
    });
    for (key, value) in more.as_object().expect("an object") {
        params[key] = value.clone();
    }
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let request = api.request(Method::POST, SERVER).json(&message);
    let request = request
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", TOOL);
    Answer::of(request).await
}

/// What the client was asked: the key of the question, and the state that brings the answer back.
struct Asked {
    key: String,
    state: String,
}

impl Asked {
    async fn at(api: &Api) -> Self {
        let result = call(api, json!({})).await.ok()["result"].take();
        assert_eq!(result["resultType"], "input_required", "{result}");
        let requests = result["inputRequests"].as_object().expect("questions");
        let (key, request) = requests.iter().next().expect("a question");
        assert_eq!(requests.len(), 1, "{result}");
        assert_eq!(request["method"], "elicitation/create");
        assert_eq!(request["params"]["message"], "who?");
        assert!(
            result["ttlMs"].is_null(),
            "nobody may keep the question: {result}"
        );
        Self {
            key: key.clone(),
            state: result["requestState"].as_str().expect("a state").to_owned(),
        }
    }

    /// What the client calls again with.
    fn answered(&self) -> Value {
        let form = json!({ "action": "accept", "content": { "username": "ann" } });
        json!({ "requestState": self.state, "inputResponses": { &self.key: form } })
    }
}

fn assert_answered(answer: Answer) {
    let answer = answer.ok();
    let text = answer["result"]["content"][0]["text"].as_str();
    assert!(
        text.is_some_and(|text| text.contains("action=accept") && text.contains("ann")),
        "{answer}"
    );
}

async fn add_fixture(node: &Node) -> Fixture {
    Fixture::start_at(node, "asking", FIXTURE, "legacy").await
}

/// The calls that the node has in hand of the fixture's tool.
async fn calls_in_hand(api: &Api) -> Vec<Value> {
    let all = api.get("/api/v1/calls").await.ok();
    let calls = all["calls"]
        .as_array()
        .or(all["items"].as_array())
        .or(all.as_array());
    let calls = calls.unwrap_or_else(|| panic!("a list of calls: {all}"));
    let of_tool = calls.iter().filter(|call| call["name"] == TOOL);
    of_tool.cloned().collect()
}

#[tokio::test]
async fn a_question_is_answered_by_calling_again() {
    let node = Node::start().await;
    let _fixture = add_fixture(&node).await;
    let asked = Asked::at(&node.api).await;
    assert_eq!(calls_in_hand(&node.api).await.len(), 1, "the server waits");

    // no answer, and one that is none: the same is asked again, under a new state
    let again = call(&node.api, json!({ "requestState": asked.state })).await.ok();
    let next = again["result"]["requestState"]
        .as_str()
        .expect("a state")
        .to_owned();
    assert_ne!(next, asked.state);
    let used = call(&node.api, asked.answered()).await.json();
    assert_eq!(used["error"]["code"], -32602, "a state is of use once: {used}");

    let asked = Asked { state: next, ..asked };
    assert_answered(call(&node.api, asked.answered()).await);
    assert_eq!(calls_in_hand(&node.api).await.len(), 0);
}

#[tokio::test]
async fn a_state_is_good_for_its_own_request_alone() {
    let node = Node::start().await;
    let _fixture = add_fixture(&node).await;
    let asked = Asked::at(&node.api).await;
    let mut changed = asked.answered();
    changed["requestState"] = json!(format!("{}x", asked.state));
    let refused = call(&node.api, changed).await.json();
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    let other = call_with(&node.api, json!({ "message": "what?" }), asked.answered())
        .await
        .json();
    assert_eq!(other["error"]["code"], -32602, "another request: {other}");
    let key = node
        .api
        .post("/api/v1/keys", &json!({ "name": "other", "role": "user" }))
        .await
        .ok();
    let stranger = node.api.with_key(key["key"].as_str());
    let stolen = call(&stranger, asked.answered()).await.json();
    assert_eq!(stolen["error"]["code"], -32602, "somebody else: {stolen}");
    assert_answered(call(&node.api, asked.answered()).await);
}

#[tokio::test]
async fn a_parked_call_can_be_cancelled_and_keeps_no_node_from_stopping() {
    let mut node = Node::start().await;
    let _fixture = add_fixture(&node).await;
    let asked = Asked::at(&node.api).await;
    let in_hand = calls_in_hand(&node.api).await;
    let id = in_hand[0]["id"].as_u64().expect("its number");
    let cancelled = node.api.delete(&format!("/api/v1/calls/{id}")).await;
    assert!((200..300).contains(&cancelled.status), "{cancelled:?}");
    eventually("it is gone", Duration::from_secs(60), async || {
        calls_in_hand(&node.api).await.is_empty().then_some(())
    })
    .await;
    let late = call(&node.api, asked.answered()).await.json();
    let words = late["error"]["message"].as_str().unwrap_or_default();
    assert!(words.contains("cancel"), "{late}");

    Asked::at(&node.api).await;
    let stops = Instant::now();
    assert_eq!(node.stop(Duration::from_secs(30)).await, Some(0));
    assert!(stops.elapsed() < Duration::from_secs(20), "{:?}", stops.elapsed());
}

#[tokio::test]
async fn any_node_takes_the_answer_and_says_so_when_the_call_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let _fixture = add_fixture(&cluster.nodes[0]).await;
    cluster.nodes[1].wait_online("asking").await;
    let asked = Asked::at(&cluster.nodes[0].api).await;
    assert_answered(call(&cluster.nodes[1].api, asked.answered()).await);

    let asked = Asked::at(&cluster.nodes[2].api).await;
    cluster.nodes[2].kill().await;
    let lost = call(&cluster.nodes[1].api, asked.answered()).await.json();
    assert_eq!(lost["error"]["data"]["retryable"], true, "{lost}");
    let asked = Asked::at(&cluster.nodes[1].api).await;
    assert_answered(call(&cluster.nodes[1].api, asked.answered()).await);
}

#[tokio::test]
async fn a_server_that_is_a_process_asks_from_any_node_and_moves_without_waiting_for_people() {
    let mut cluster = Cluster::start(3).await;
    let command = [FIXTURE, "legacy", "--stdio"].map(str::to_owned);
    cluster.nodes[0].add_server("asking", &command).await;
    for node in &cluster.nodes {
        node.wait_online("asking").await;
        let asked = Asked::at(&node.api).await;
        assert_answered(call(&cluster.nodes[0].api, asked.answered()).await);
    }
    let runs = |node: &Node| {
        let all = troupe_tests::process::descendants(node.pid());
        let processes = all
            .into_iter()
            .filter(|pid| troupe_tests::process::command_line(*pid).contains("--stdio"));
        processes.count()
    };
    let owner = cluster.nodes.iter().position(|node| runs(node) > 0);
    let owner = owner.expect("a node runs it");
    assert_eq!(
        runs(&cluster.nodes[owner]),
        2,
        "one process for clients that fill in forms, one for the rest"
    );
    let elsewhere = (owner + 1) % 3;
    let asked = Asked::at(&cluster.nodes[elsewhere].api).await;
    let stops = Instant::now();
    assert_eq!(cluster.nodes[owner].stop(Duration::from_secs(60)).await, Some(0));
    assert!(stops.elapsed() < Duration::from_secs(30), "{:?}", stops.elapsed());
    let lost = call(&cluster.nodes[elsewhere].api, asked.answered()).await.json();
    assert_eq!(lost["error"]["data"]["retryable"], true, "{lost}");
    let asked = Asked::at(&cluster.nodes[elsewhere].api).await;
    assert_answered(call(&cluster.nodes[elsewhere].api, asked.answered()).await);
}
