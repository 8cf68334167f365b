//! Tasks of a modern server for a client of 2025-11-25, and whose tasks are whose. (The other way round the conformance
//! suite plays them through.)

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use troupe_tests::conformance::Fixture;
use troupe_tests::{Answer, Api, Node};

const FIXTURE: &str = env!("CARGO_BIN_EXE_conformance-server");
const SERVER: &str = "/mcp/servers/jobs";

/// A session of a client of 2025-11-25 that confirms whatever it is asked.
struct Session {
    api: Api,
    id: String,
}

impl Session {
    async fn open(api: &Api) -> Self {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "test", "version": "1" },
        });
        let opened = Answer::of(post(api, None, &request("initialize", params))).await;
        let id = opened.headers["mcp-session-id"]
            .to_str()
            .expect("text")
            .to_owned();
        let capabilities = opened.ok()["result"]["capabilities"].take();
        assert!(
            capabilities["tasks"]["requests"]["tools"]["call"].is_object(),
            "{capabilities}"
        );
        Self { api: api.clone(), id }
    }

    /// The response to a request; what comes before it is answered if it is a question.
    async fn ask(&self, method: &str, params: Value) -> Value {
        let sent = post(&self.api, Some(&self.id), &request(method, params));
        let mut response = sent.send().await.expect("an answer");
        let mut text = String::new();
        while let Some(message) = next(&mut response, &mut text).await {
            if message.get("method").is_none() {
                return message;
            }
            if let Some(id) = message.get("id") {
                assert_eq!(message["method"], "elicitation/create", "{message}");
                let related = &message["params"]["_meta"]["io.modelcontextprotocol/related-task"];
                assert!(related["taskId"].is_string(), "{message}");
                let result = json!({ "action": "accept", "content": { "confirm": true } });
                let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
                let taken = Answer::of(post(&self.api, Some(&self.id), &answer)).await;
                assert_eq!(taken.status, 202);
            }
        }
        panic!("no response to {method}");
    }

    /// Begins a task; its id.
    async fn begin(&self, tool: &str, arguments: Value) -> String {
        let params = json!({ "name": tool, "arguments": arguments, "task": { "ttl": 60_000 } });
        let begun = self.ask("tools/call", params).await;
        let task = &begun["result"]["task"];
        assert!(task["ttl"].is_number() || task["ttl"].is_null(), "{begun}");
        assert!(task.get("ttlMs").is_none(), "{begun}");
        task["taskId"]
            .as_str()
            .unwrap_or_else(|| panic!("{begun}"))
            .to_owned()
    }
}

fn request(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

fn post(api: &Api, session: Option<&str>, message: &Value) -> reqwest::RequestBuilder {
    let sent = api.request(Method::POST, SERVER).json(message);
    let sent = sent.header("accept", "application/json, text/event-stream");
    match session {
        Some(id) => sent.header("mcp-session-id", id),
        None => sent,
    }
}

/// The next message of an answer, be it a stream or JSON.
async fn next(response: &mut Response, text: &mut String) -> Option<Value> {
    let is_stream = response.headers()["content-type"] == "text/event-stream";
    loop {
        if let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let message = data.and_then(|data| serde_json::from_str(data).ok());
            *text = rest.to_owned();
            match message {
                Some(message) => return Some(message),
                None => continue,
            }
        }
        match response.chunk().await.expect("the stream does not break") {
            Some(chunk) => text.push_str(std::str::from_utf8(&chunk).expect("text")),
            None if is_stream => return None,
            None => return serde_json::from_str(&std::mem::take(text)).ok(),
        }
    }
}

#[tokio::test]
async fn a_legacy_client_begins_tasks_at_a_modern_server_answers_for_them_and_sees_its_own_alone() {
    let node = Node::start().await;
    let _fixture = Fixture::start_at(&node, "jobs", FIXTURE, "modern").await;
    let session = Session::open(&node.api).await;

    let listed = session.ask("tools/list", json!({})).await;
    let tools = listed["result"]["tools"].as_array().expect("tools");
    assert!(
        tools
            .iter()
            .all(|tool| tool["execution"]["taskSupport"] == "optional")
    );

    let confirmed = session.begin("confirm_delete", json!({ "filename": "a" })).await;
    let result = session.ask("tasks/result", json!({ "taskId": confirmed })).await;
    assert_eq!(result["result"]["content"][0]["text"], "deleted", "{result}");
    let related = &result["result"]["_meta"]["io.modelcontextprotocol/related-task"];
    assert_eq!(related["taskId"], *confirmed);

    let long = session.begin("slow_compute", json!({ "seconds": 60 })).await;
    let seen = session.ask("tasks/get", json!({ "taskId": long })).await;
    assert_eq!(seen["result"]["status"], "working", "{seen}");

    let key = json!({ "name": "other", "role": "user" });
    let key = node.api.post("/api/v1/keys", &key).await.ok();
    let stranger = Session::open(&node.api.with_key(key["key"].as_str())).await;
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        let refused = stranger.ask(method, json!({ "taskId": long })).await;
        assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
    }
    let cancelled = session.ask("tasks/cancel", json!({ "taskId": long })).await;
    assert_eq!(cancelled["result"]["taskId"], *long, "{cancelled}");
    let ended = tokio::time::timeout(
        Duration::from_secs(10),
        session.ask("tasks/result", json!({ "taskId": long })),
    );
    let ended = ended.await.expect("it has ended");
    assert!(ended["error"].is_object(), "{ended}");
}
