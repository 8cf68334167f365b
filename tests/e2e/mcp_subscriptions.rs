//! Subscriptions to resources: clients of both eras, servers of both, over HTTP and as processes, at the server's own
//! endpoint and at that of all servers. Whoever asked is told, and nobody else; the server is subscribed to once.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use troupe_tests::conformance::Fixture;
use troupe_tests::wire::{self, Session};
use troupe_tests::{Answer, Api, Events, Node, eventually, process};

const FIXTURE: &str = env!("CARGO_BIN_EXE_conformance-server");
const URI: &str = "test://static-text";
const OTHER: &str = "test://static-binary";
const UPDATED: &str = "notifications/resources/updated";
/// Longer than a notice takes.
const QUIET: Duration = Duration::from_millis(400);

/// One of the endpoints at which the fixture is reached: its path, and how things are named there.
struct Face {
    path: &'static str,
    resources: &'static str,
    tools: &'static str,
}

const FACES: [Face; 2] = [
    Face {
        path: "/mcp/servers/fixture",
        resources: "",
        tools: "",
    },
    Face {
        path: "/mcp",
        resources: "troupe://fixture/",
        tools: "fixture__",
    },
];

impl Face {
    fn uri(&self, own: &str) -> String {
        format!("{}{own}", self.resources)
    }

    /// Has the server say that a resource has changed; how many subscriptions to it the server has.
    async fn change(&self, api: &Api, uri: &str) -> String {
        let tool = format!("{}test_trigger_resource_change", self.tools);
        let arguments = json!({ "uri": uri });
        let called = wire::call_modern(api, self.path, &tool, &arguments, Duration::from_secs(20)).await;
        wire::text(&called.expect("the tool is there"))
    }

    async fn ask(&self, api: &Api, session: &Session, method: &str, uri: &str) -> Value {
        let params = json!({ "uri": self.uri(uri) });
        let request = json!({ "jsonrpc": "2.0", "id": 5, "method": method, "params": params });
        Answer::of(session.post(api, &request)).await.ok()
    }

    async fn subscribe(&self, api: &Api, session: &Session, uri: &str) {
        let subscribed = self.ask(api, session, "resources/subscribe", uri).await;
        assert_eq!(subscribed["result"], json!({}), "{subscribed}");
    }

    async fn open(&self, api: &Api) -> (Session, Events) {
        let session = Session::open(api, self.path).await.unwrap();
        let mut events = Events::of(session.listen(api, None).send().await.unwrap());
        events.event().await.unwrap();
        (session, events)
    }

    /// A modern client listens to changes of these resources.
    async fn listen(&self, api: &Api, uris: &[&str]) -> Events {
        let uris: Vec<String> = uris.iter().map(|uri| self.uri(uri)).collect();
        let mut events = Events::of(listening(api, self.path, &uris).send().await.unwrap());
        let acknowledged = events.next().await.unwrap();
        assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
        let agreed = &acknowledged["params"]["notifications"]["resourceSubscriptions"];
        assert_eq!(*agreed, json!(uris), "{acknowledged}");
        events
    }

    async fn expect(&self, events: &mut Events, uri: &str) {
        let updated = events.expect(UPDATED).await;
        assert_eq!(updated["params"]["uri"], self.uri(uri), "{updated}");
    }
}

fn listening(api: &Api, path: &str, uris: &[String]) -> RequestBuilder {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({ "notifications": { "resourceSubscriptions": uris }, "_meta": meta });
    let message = json!({ "jsonrpc": "2.0", "id": 9, "method": "subscriptions/listen", "params": params });
    api.request(Method::POST, path)
        .json(&message)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "subscriptions/listen")
}

async fn expect_quiet(events: &mut Events) {
    let told = tokio::time::timeout(QUIET, events.expect(UPDATED)).await;
    assert!(
        told.is_err(),
        "who has not asked, or no longer, was told: {told:?}"
    );
}

async fn everybody_hears_what_they_asked_for(node: &Node, face: &Face) {
    let api = &node.api;
    assert_eq!(face.change(api, URI).await, "0", "nobody has asked yet");
    let (first, mut first_events) = face.open(api).await;
    let (second, mut second_events) = face.open(api).await;
    let (_third, mut third_events) = face.open(api).await;
    face.subscribe(api, &first, URI).await;
    face.subscribe(api, &second, URI).await;
    face.subscribe(api, &second, OTHER).await;
    let mut modern = face.listen(api, &[URI]).await;

    assert_eq!(
        face.change(api, URI).await,
        "1",
        "the server is subscribed to once for all"
    );
    for events in [&mut first_events, &mut second_events, &mut modern] {
        face.expect(events, URI).await;
    }
    assert_eq!(face.change(api, OTHER).await, "1");
    face.expect(&mut second_events, OTHER).await;
    for events in [&mut first_events, &mut modern, &mut third_events] {
        expect_quiet(events).await;
    }

    let given_up = face.ask(api, &first, "resources/unsubscribe", URI).await;
    assert_eq!(given_up["result"], json!({}), "{given_up}");
    drop(modern);
    assert_eq!(face.change(api, URI).await, "1", "one of three still wants it");
    face.expect(&mut second_events, URI).await;
    expect_quiet(&mut first_events).await;
    let ended = api
        .request(Method::DELETE, face.path)
        .header("mcp-session-id", &second.id)
        .header("mcp-protocol-version", "2025-11-25");
    assert_eq!(Answer::of(ended).await.status, 204);
    eventually(
        "nobody is left, and the server knows",
        Duration::from_secs(60),
        async || (face.change(api, URI).await == "0" && face.change(api, OTHER).await == "0").then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_server_over_http_is_subscribed_to_once_and_those_who_asked_are_told() {
    for eras in ["legacy", "modern"] {
        let node = Node::start().await;
        let _fixture = Fixture::start_at(&node, "fixture", FIXTURE, eras).await;
        for face in &FACES {
            everybody_hears_what_they_asked_for(&node, face).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_a_process_is_subscribed_to_again_when_it_has_been_restarted() {
    for eras in ["legacy", "modern"] {
        let node = Node::start().await;
        let command = [FIXTURE, eras, "--stdio"].map(str::to_owned);
        node.add_server("fixture", &command).await;
        let face = &FACES[0];
        everybody_hears_what_they_asked_for(&node, face).await;

        let (session, mut events) = face.open(&node.api).await;
        face.subscribe(&node.api, &session, URI).await;
        let running = process::descendants(node.pid());
        let server = running
            .iter()
            .find(|pid| process::command_line(**pid).contains("conformance-server"));
        process::signal(*server.expect("the server runs"), "KILL");
        eventually(
            "the subscription is made again",
            Duration::from_secs(60),
            async || {
                let tool = "test_trigger_resource_change";
                let within = Duration::from_secs(5);
                let called =
                    wire::call_modern(&node.api, face.path, tool, &json!({ "uri": URI }), within).await;
                (wire::text(&called.ok()?) == "1").then_some(())
            },
        )
        .await;
        face.expect(&mut events, URI).await;
    }
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused_or_left_out() {
    let node = Node::start().await;
    let (session, _events) = FACES[1].open(&node.api).await;
    let refused = FACES[1]
        .ask(&node.api, &session, "resources/subscribe", URI)
        .await;
    assert_eq!(refused["error"]["code"], -32002, "no such server: {refused}");
    let uris = ["troupe://nobody/a".to_owned()];
    let mut events = Events::of(listening(&node.api, "/mcp", &uris).send().await.unwrap());
    let acknowledged = events.next().await.unwrap();
    assert_eq!(
        acknowledged["params"]["notifications"],
        json!({}),
        "{acknowledged}"
    );
    let wrong = json!({ "jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {} });
    let wrong = Answer::of(session.post(&node.api, &wrong)).await.ok();
    assert_eq!(wrong["error"]["code"], -32602, "{wrong}");
}
