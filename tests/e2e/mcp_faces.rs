//! The MCP faces as any HTTP client sees them: sessions, streams, notices, cancellation, and every refusal's status.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use troupe_tests::{Answer, Api, Events, Node, NodeOptions, eventually, parts, process};

const BOTH: &str = "application/json, text/event-stream";
const MIB: u64 = 1024 * 1024;
/// Clients that initialise and never come back.
const VANISHING_CLIENTS: usize = 50_000;

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// A modern request: body and headers agree. Tests change one thing each.
fn modern(api: &Api, path: &str, method: &str, mut params: Value) -> RequestBuilder {
    let name = params["name"]
        .as_str()
        .or(params["uri"].as_str())
        .map(str::to_owned);
    let mut meta = params["_meta"].take();
    if meta.is_null() {
        meta = json!({});
    }
    meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    params["_meta"] = meta;
    let mut sent = api.request(Method::POST, path).json(&request(1, method, params));
    sent = sent
        .header("accept", BOTH)
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = name {
        sent = sent.header("mcp-name", name);
    }
    sent
}

/// A legacy client's session, spoken by hand.
struct Session<'a> {
    api: &'a Api,
    path: &'a str,
    id: String,
}

impl<'a> Session<'a> {
    async fn open(api: &'a Api, path: &'a str) -> Self {
        let answer = Answer::of(Self::initialize(api, path, "2025-11-25")).await;
        let id = answer.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let session = Self { api, path, id };
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        assert_eq!(Answer::of(session.post(&initialized)).await.status, 202);
        session
    }

    fn initialize(api: &Api, path: &str, version: &str) -> RequestBuilder {
        let client = json!({ "name": "test", "version": "1" });
        let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": client });
        let sent = api
            .request(Method::POST, path)
            .json(&request(1, "initialize", params));
        sent.header("accept", BOTH)
    }

    fn with(&self, method: Method) -> RequestBuilder {
        let sent = self
            .api
            .request(method, self.path)
            .header("mcp-session-id", &self.id);
        sent.header("mcp-protocol-version", "2025-11-25")
    }

    fn post(&self, message: &Value) -> RequestBuilder {
        self.with(Method::POST).header("accept", BOTH).json(message)
    }

    async fn ask(&self, id: u64, method: &str, params: Value) -> Value {
        Answer::of(self.post(&request(id, method, params))).await.ok()
    }

    async fn listen(&self) -> Events {
        let sent = self.with(Method::GET).header("accept", "text/event-stream");
        Events::of(sent.send().await.unwrap())
    }
}

fn code(answer: &Answer) -> i64 {
    answer.json()["error"]["code"]
        .as_i64()
        .unwrap_or_else(|| panic!("an error code in {answer:?}"))
}

async fn calls_in_flight(node: &Node) -> u64 {
    node.api.get("/api/v1/calls").await.ok()["total"]
        .as_u64()
        .unwrap()
}

async fn until_calls_are(node: &Node, wanted: u64) {
    eventually(
        &format!("{wanted} calls in flight"),
        Duration::from_secs(60),
        async || (calls_in_flight(node).await == wanted).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_session_lives_from_initialize_to_delete_and_is_its_owners_alone() {
    let node = Node::start().await;
    let session = Session::open(&node.api, "/mcp").await;
    let listed = session.ask(2, "tools/list", json!({})).await;
    assert!(listed["result"]["tools"].is_array(), "{listed}");
    assert_eq!(session.ask(3, "ping", json!({})).await["result"], json!({}));

    let key = node
        .api
        .post("/api/v1/keys", &json!({ "name": "other", "role": "user" }))
        .await
        .ok();
    let stranger = node.api.with_key(key["key"].as_str());
    let stolen = Session {
        api: &stranger,
        path: "/mcp",
        id: session.id.clone(),
    };
    let list = request(4, "tools/list", json!({}));
    assert_eq!(
        Answer::of(stolen.post(&list)).await.status,
        404,
        "another key's session"
    );
    let elsewhere = Session {
        path: "/mcp/servers/troupe",
        id: session.id.clone(),
        ..stolen
    };
    assert_eq!(
        Answer::of(elsewhere.post(&list)).await.status,
        404,
        "another endpoint's session"
    );

    let unknown_version = session.post(&list).header("mcp-protocol-version", "1900-01-01");
    assert_eq!(Answer::of(unknown_version).await.status, 400);
    assert_eq!(Answer::of(session.with(Method::DELETE)).await.status, 204);
    assert_eq!(
        Answer::of(session.post(&list)).await.status,
        404,
        "the session is over"
    );
}

#[tokio::test]
async fn the_clients_revision_is_agreed_on_or_the_latest_offered() {
    let node = Node::start().await;
    for (wanted, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("1900-01-01", "2025-11-25"),
    ] {
        let answer = Answer::of(Session::initialize(&node.api, "/mcp", wanted))
            .await
            .ok();
        assert_eq!(answer["result"]["protocolVersion"], agreed, "{answer}");
    }
    let discovered = Answer::of(modern(&node.api, "/mcp", "server/discover", json!({})))
        .await
        .ok();
    assert_eq!(discovered["result"]["supportedVersions"][0], "2026-07-28");
    assert_eq!(discovered["result"]["resultType"], "complete");
}

#[tokio::test]
async fn each_refusal_has_its_status() {
    let node = Node::start().await;
    let api = &node.api;
    for path in ["/mcp", "/mcp/servers/troupe"] {
        let post = |body: &'static str| {
            let sent = api
                .request(Method::POST, path)
                .header("content-type", "application/json");
            sent.header("accept", BOTH).body(body)
        };
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let mut cases = vec![
            (
                "id null",
                post(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#),
                400,
                -32600,
            ),
            (
                "id object",
                post(r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#),
                400,
                -32600,
            ),
            (
                "id fraction",
                post(r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#),
                400,
                -32600,
            ),
            (
                "method number",
                post(r#"{"jsonrpc":"2.0","id":1,"method":7}"#),
                400,
                -32600,
            ),
            (
                "params array",
                post(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#),
                400,
                -32600,
            ),
            (
                "no version of JSON-RPC",
                post(r#"{"id":1,"method":"ping"}"#),
                400,
                -32600,
            ),
            ("no session", post(ping), 400, -32600),
            (
                "unknown session",
                post(ping).header("mcp-session-id", "x"),
                404,
                -32600,
            ),
            (
                "initialize without a version",
                post(r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#),
                400,
                -32602,
            ),
            (
                "GET without a stream",
                api.request(Method::GET, path)
                    .header("accept", "application/json"),
                406,
                -32600,
            ),
            (
                "GET without a session",
                api.request(Method::GET, path)
                    .header("accept", "text/event-stream"),
                400,
                -32600,
            ),
            (
                "DELETE without a session",
                api.request(Method::DELETE, path),
                400,
                -32600,
            ),
            (
                "an unknown method",
                modern(api, path, "no/such", json!({})),
                404,
                -32601,
            ),
            (
                "a method that is gone",
                modern(api, path, "ping", json!({})),
                404,
                -32601,
            ),
        ];
        for method in [Method::GET, Method::DELETE] {
            let sent = api.request(method, path).header("accept", "text/event-stream");
            cases.push((
                "modern and not POST",
                sent.header("mcp-protocol-version", "2026-07-28"),
                405,
                -32600,
            ));
        }
        let mut unlike_json = HeaderMap::new();
        unlike_json.insert("content-type", "text/plain".parse().unwrap());
        cases.push((
            "not JSON by its type",
            post(ping).headers(unlike_json),
            415,
            -32600,
        ));
        let mut html_only = HeaderMap::new();
        html_only.insert("accept", "text/html".parse().unwrap());
        cases.push(("HTML wanted", post(ping).headers(html_only), 406, -32600));
        for (what, sent, status, expected) in cases {
            let answer = Answer::of(sent).await;
            assert_eq!(
                (answer.status, code(&answer)),
                (status, expected),
                "{path}, {what}: {answer:?}"
            );
        }
        for foreign in [("origin", "http://evil.example"), ("host", "evil.example")] {
            let answer = Answer::of(post(ping).header(foreign.0, foreign.1)).await;
            assert_eq!(answer.status, 403, "{path}, foreign {}: {answer:?}", foreign.0);
        }
        let mut json_only = HeaderMap::new();
        json_only.insert("accept", "application/json".parse().unwrap());
        let answer = Answer::of(modern(api, path, "tools/list", json!({})).headers(json_only)).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (200, &"application/json".parse().unwrap())
        );
        let mut stream_only = HeaderMap::new();
        stream_only.insert("accept", "text/event-stream".parse().unwrap());
        let sent = modern(api, path, "tools/list", json!({})).headers(stream_only);
        let mut events = Events::of(sent.send().await.unwrap());
        assert!(events.next().await.unwrap()["result"]["tools"].is_array());
        assert_eq!(events.next().await, None, "the answer ends the stream");
    }
    let nobody = Answer::of(Session::initialize(api, "/mcp/servers/nobody", "2025-11-25")).await;
    assert_eq!(nobody.status, 404);
    assert!(
        nobody.text.contains("nobody") && nobody.text.contains("T2003"),
        "{nobody:?}"
    );
}

#[tokio::test]
async fn progress_is_streamed_before_the_answer_in_both_eras() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    for (path, tool) in [
        ("/mcp", "everything__trigger-long-running-operation"),
        ("/mcp/servers/everything", "trigger-long-running-operation"),
    ] {
        let params = json!({ "name": tool, "arguments": { "duration": 1, "steps": 3 }, "_meta": { "progressToken": "p" } });
        let session = Session::open(&node.api, path).await;
        let legacy = session.post(&request(7, "tools/call", params.clone()));
        for sent in [legacy, modern(&node.api, path, "tools/call", params)] {
            let mut events = Events::of(sent.send().await.unwrap());
            for step in 1..=3 {
                let progress = events.next().await.unwrap();
                assert_eq!(progress["params"]["progressToken"], "p", "{progress}");
                assert_eq!(progress["params"]["progress"], step, "{progress}");
            }
            assert!(events.next().await.unwrap()["result"]["content"].is_array());
            assert_eq!(events.next().await, None);
        }
    }
}

#[tokio::test]
async fn calls_end_when_their_client_cancels_or_a_modern_one_hangs_up_and_only_then() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    let path = "/mcp/servers/everything";
    let params = |seconds: u64| json!({ "name": "trigger-long-running-operation", "arguments": { "duration": seconds, "steps": 1 } });
    let session = Session::open(&node.api, path).await;

    let call = request(11, "tools/call", params(30));
    let cancelled = async {
        until_calls_are(&node, 1).await;
        let params = json!({ "requestId": 11, "reason": "enough" });
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        assert_eq!(Answer::of(session.post(&message)).await.status, 202);
    };
    let (answer, ()) = tokio::join!(Answer::of(session.post(&call)), cancelled);
    assert!(answer.text.contains("T3008"), "{answer:?}");
    until_calls_are(&node, 0).await;

    let hangs_up = tokio::spawn(modern(&node.api, path, "tools/call", params(30)).send());
    until_calls_are(&node, 1).await;
    hangs_up.abort();
    until_calls_are(&node, 0).await;

    let loses_its_connection = tokio::spawn(session.post(&request(12, "tools/call", params(3))).send());
    until_calls_are(&node, 1).await;
    loses_its_connection.abort();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        calls_in_flight(&node).await,
        1,
        "a legacy client that is gone has not cancelled"
    );
    until_calls_are(&node, 0).await;
}

#[tokio::test]
async fn changes_are_told_to_those_who_listen() {
    let node = Node::start().await;
    let session = Session::open(&node.api, "/mcp").await;
    let mut stream = session.listen().await;
    let wanted = json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": ["a://b"] } });
    let subscription = modern(&node.api, "/mcp", "subscriptions/listen", wanted);
    let mut subscribed = Events::of(subscription.send().await.unwrap());
    let acknowledged = subscribed.next().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        acknowledged["params"]["notifications"],
        json!({ "toolsListChanged": true })
    );

    let new = json!({ "name": "silent", "command": "sleep", "args": ["600"] });
    node.api.post("/api/v1/servers", &new).await.ok();
    stream.expect("notifications/tools/list_changed").await;
    let told = subscribed.expect("notifications/tools/list_changed").await;
    assert_eq!(
        told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        1
    );

    let mut second = session.listen().await;
    let ended = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("a second stream takes the first one's place");
    assert_eq!(Answer::of(session.with(Method::DELETE)).await.status, 204);
    let ended = async { while second.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("the stream ends with its session");
}

#[tokio::test]
async fn a_subscribed_resources_changes_are_told_to_its_subscriber() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    let session = Session::open(&node.api, "/mcp/servers/everything").await;
    let other = Session::open(&node.api, "/mcp/servers/everything").await;
    let (mut stream, mut others_stream) = (session.listen().await, other.listen().await);
    let uri = "demo://resource/dynamic/text/1";
    let subscribed = session.ask(2, "resources/subscribe", json!({ "uri": uri })).await;
    assert_eq!(subscribed["result"], json!({}), "{subscribed}");
    session
        .ask(
            3,
            "tools/call",
            json!({ "name": "toggle-subscriber-updates", "arguments": {} }),
        )
        .await;
    let updated = stream.expect("notifications/resources/updated").await;
    assert_eq!(updated["params"]["uri"], uri);
    let unasked = tokio::time::timeout(
        Duration::from_millis(500),
        others_stream.expect("notifications/resources/updated"),
    );
    assert!(unasked.await.is_err(), "who did not subscribe was told");
}

#[tokio::test]
async fn a_dead_and_a_slow_server_neither_delay_nor_empty_the_list_of_all() {
    let node = Node::start().await;
    for (name, command, arguments) in [("dead", "false", json!([])), ("slow", "sleep", json!(["600"]))] {
        let new = json!({ "name": name, "command": command, "args": arguments });
        node.api.post("/api/v1/servers", &new).await.ok();
    }
    let mut last = Duration::MAX;
    for _ in 0..2 {
        let started = Instant::now();
        let listed = Answer::of(modern(&node.api, "/mcp", "tools/list", json!({})))
            .await
            .ok();
        last = started.elapsed();
        assert!(last < Duration::from_secs(20), "{last:?}");
        let names: Vec<&str> = listed["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        assert!(
            names.contains(&"find_tools") && names.contains(&"call_tool"),
            "{names:?}"
        );
        let missing = &listed["result"]["_meta"]["troupe/unavailable"];
        assert!(
            missing.to_string().contains("\"slow\""),
            "what is missing is told: {listed}"
        );
        assert_eq!(listed["result"]["ttlMs"], 0, "an incomplete list is not kept");
    }
    assert!(
        last < Duration::from_secs(1),
        "the slow server was waited for twice: {last:?}"
    );
}

#[tokio::test]
async fn clients_that_initialise_and_vanish_leave_no_memory_behind() {
    let node = NodeOptions::default().arguments(&["--open"]).start().await;
    let anybody = node.api.with_key(None);
    let vanish = async |count: usize| {
        let workers = (0..8).map(|_| async {
            for _ in 0..count / 8 {
                assert_eq!(
                    Answer::of(Session::initialize(&anybody, "/mcp", "2025-11-25"))
                        .await
                        .status,
                    200
                );
            }
        });
        futures::future::join_all(workers).await;
    };
    // the table is full after this; what comes later must find its place in it
    vanish(VANISHING_CLIENTS / 4).await;
    let before = process::resident_bytes(node.pid());
    vanish(VANISHING_CLIENTS).await;
    let grown = process::resident_bytes(node.pid()).saturating_sub(before);
    assert!(grown < 8 * MIB, "{VANISHING_CLIENTS} clients left {grown} bytes");
    let mine = Session::open(&anybody, "/mcp").await;
    assert_eq!(mine.ask(2, "ping", json!({})).await["result"], json!({}));
}
