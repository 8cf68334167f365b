//! Clients that know only the transport of 2024-11-05, HTTP with SSE, as any HTTP client sees it.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use troupe_tests::{Answer, Api, ClusterOptions, Events, Node, eventually};

const UNKNOWN: &str = "?sessionId=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn opening(api: &Api, path: &str) -> RequestBuilder {
    let path = format!("{path}/sse");
    api.request(Method::GET, &path)
        .header("accept", "text/event-stream")
}

/// An open stream, and where its client posts to.
async fn open(api: &Api, path: &str) -> (Events, String) {
    let mut events = Events::of(opening(api, path).send().await.unwrap());
    let first = events.event().await.unwrap();
    assert!(first.starts_with("event: endpoint\n"), "{first}");
    let (_, post_to) = first.split_once("data: ").unwrap();
    assert!(
        post_to.starts_with(&format!("{path}/messages?sessionId=")),
        "{first}"
    );
    (events, post_to.to_owned())
}

fn post(api: &Api, post_to: &str, message: &Value) -> RequestBuilder {
    api.request(Method::POST, post_to).json(message)
}

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn initialize() -> Value {
    let client = json!({ "name": "old", "version": "1" });
    let params = json!({ "protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client });
    request(1, "initialize", params)
}

/// Posts a request; the answer comes on the stream.
async fn ask(api: &Api, post_to: &str, events: &mut Events, message: &Value) -> Value {
    assert_eq!(Answer::of(post(api, post_to, message)).await.status, 202);
    let answered = async {
        loop {
            let answer = events.next().await.expect("the stream is open");
            if answer["id"] == message["id"] {
                return answer;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered)
        .await
        .unwrap_or_else(|_| panic!("no answer to {message}"))
}

#[tokio::test]
async fn stream_and_session_are_one() {
    let node = Node::start().await;
    let api = &node.api;
    for path in ["/mcp", "/mcp/servers/troupe"] {
        let (mut events, post_to) = open(api, path).await;
        let list = request(2, "tools/list", json!({}));
        let early = Answer::of(post(api, &post_to, &list)).await;
        assert_eq!(early.status, 400, "before initialize: {early:?}");
        let initialized = ask(api, &post_to, &mut events, &initialize()).await;
        assert_eq!(
            initialized["result"]["protocolVersion"], "2024-11-05",
            "{initialized}"
        );
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(Answer::of(post(api, &post_to, &done)).await.status, 202);
        let listed = ask(api, &post_to, &mut events, &list).await;
        assert!(listed["result"]["tools"].is_array(), "{listed}");
        if path == "/mcp" {
            let new = json!({ "name": "silent", "command": "sleep", "args": ["600"] });
            api.post("/api/v1/servers", &new).await.ok();
            events.expect("notifications/tools/list_changed").await;
        }

        drop(events);
        eventually(
            "the session ends with its stream",
            Duration::from_secs(60),
            async || (Answer::of(post(api, &post_to, &list)).await.status == 404).then_some(()),
        )
        .await;
    }
}

#[tokio::test]
async fn a_stream_is_its_owners_and_its_endpoints_alone() {
    let node = Node::start().await;
    let api = &node.api;
    let status = async |sent: RequestBuilder| Answer::of(sent).await.status;
    assert_eq!(
        status(opening(&api.with_key(None), "/mcp")).await,
        401,
        "without a key"
    );
    for foreign in [("origin", "http://evil.example"), ("host", "evil.example")] {
        let sent = opening(api, "/mcp").header(foreign.0, foreign.1);
        assert_eq!(status(sent).await, 403, "GET, foreign {}", foreign.0);
        let sent = post(api, "/mcp/messages", &initialize()).header(foreign.0, foreign.1);
        assert_eq!(status(sent).await, 403, "POST, foreign {}", foreign.0);
    }
    assert_eq!(status(opening(api, "/mcp/servers/nobody")).await, 404);
    assert_eq!(
        status(post(api, "/mcp/messages", &initialize())).await,
        400,
        "no session is named"
    );
    let unknown = post(api, &format!("/mcp/messages{UNKNOWN}"), &initialize());
    assert_eq!(status(unknown).await, 404);

    let (_events, post_to) = open(api, "/mcp").await;
    let key = api
        .post("/api/v1/keys", &json!({ "name": "other", "role": "user" }))
        .await
        .ok();
    let stranger = api.with_key(key["key"].as_str());
    assert_eq!(
        status(post(&stranger, &post_to, &initialize())).await,
        404,
        "another's stream"
    );
    let elsewhere = post_to.replace("/mcp/", "/mcp/servers/troupe/");
    assert_eq!(
        status(post(api, &elsewhere, &initialize())).await,
        404,
        "another endpoint's"
    );
    let wrong = api
        .request(Method::POST, &post_to)
        .header("content-type", "text/plain")
        .body("x");
    assert_eq!(status(wrong).await, 415);
    let wrong = api
        .request(Method::POST, &post_to)
        .header("content-type", "application/json")
        .body("x");
    assert_eq!(status(wrong).await, 400);
}

#[tokio::test]
async fn messages_reach_the_node_that_has_the_stream_from_every_other() {
    let cluster = ClusterOptions::default().start(3).await;
    let apis = cluster.apis();
    for (first, other) in [(0, 1), (1, 2), (2, 0)] {
        let (mut events, post_to) = open(&apis[first], "/mcp").await;
        let initialized = ask(&apis[other], &post_to, &mut events, &initialize()).await;
        assert!(initialized["result"]["serverInfo"].is_object(), "{initialized}");
        let listed = ask(
            &apis[other],
            &post_to,
            &mut events,
            &request(2, "tools/list", json!({})),
        )
        .await;
        assert!(listed["result"]["tools"].is_array(), "{listed}");
    }
}
