//! The client that the conformance suite starts for each of its client scenarios: it registers the scenario's server at a
//! node, logs in there where that is asked for, and does through the node what the scenario wants of a client. So what
//! the suite judges is the node.
//!
//! `conformance-client URL`, with the node in `TROUPE_TEST_NODE` and `TROUPE_TEST_KEY`, and what the suite says in
//! `MCP_CONFORMANCE_SCENARIO`, `…_PROTOCOL_VERSION` and `…_CONTEXT`.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::{Map, Value, json};
use troupe_tests::api::Api;

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
/// Rounds of questions that a call may take.
const ROUNDS_MAX: usize = 3;
/// The server ends a stream and wants it taken up again after a while.
const STREAM_AGAIN: Duration = Duration::from_secs(3);
/// A browser on its way through an authorization server.
const REDIRECTS_MAX: usize = 4;

struct Scenario {
    name: String,
    context: Value,
    api: Api,
    /// Its server at the node.
    server: String,
    /// The session of a legacy client; a modern one has none.
    session: Option<String>,
    is_modern: bool,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().next_back().expect("the scenario's server");
    let name = variable("MCP_CONFORMANCE_SCENARIO");
    // Headers that repeat arguments are the node's work when its client is a legacy one.
    let mirrors = matches!(name.as_str(), "http-custom-headers" | "http-invalid-tool-headers");
    let is_modern = variable("MCP_CONFORMANCE_PROTOCOL_VERSION").as_str() >= MODERN && !mirrors;
    let mut scenario = Scenario {
        context: serde_json::from_str(&variable("MCP_CONFORMANCE_CONTEXT")).unwrap_or_default(),
        api: Api::new(variable("TROUPE_TEST_NODE"), Some(variable("TROUPE_TEST_KEY"))),
        server: format!("s{}", std::process::id()),
        session: None,
        is_modern,
        name,
    };
    let new = json!({ "name": scenario.server, "url": url });
    scenario.api.post("/api/v1/servers", &new).await.ok();
    scenario.play().await;
    // The suite waits until all connections to its server have ended.
    let registered = format!("/api/v1/servers/{}", scenario.server);
    scenario.api.delete(&registered).await.ok();
}

impl Scenario {
    async fn play(&mut self) {
        if self.name.starts_with("auth/") {
            self.log_in().await;
        }
        self.begin_session().await;
        let mut tools = self.ask("tools/list", json!({}), None).await;
        if self.name.starts_with("auth/") && tools.get("error").is_some() {
            // The scenario has taken the login back.
            self.log_in().await;
            tools = self.ask("tools/list", json!({}), None).await;
        }
        if let Some(calls) = self.context["toolCalls"].as_array().cloned() {
            for call in calls {
                let name = call["name"].as_str().unwrap_or_default().to_owned();
                self.call(&name, &call["arguments"]).await;
            }
            return;
        }
        for tool in tools["result"]["tools"].as_array().cloned().unwrap_or_default() {
            let name = tool["name"].as_str().unwrap_or_default().to_owned();
            self.call(&name, &arguments_for(&tool)).await;
        }
        if self.name == "sse-retry" {
            tokio::time::sleep(STREAM_AGAIN).await;
        }
    }

    async fn log_in(&self) {
        let mut login = json!({ "origin": self.api.base });
        for member in ["client_id", "client_secret"] {
            if let Some(value) = self.context.get(member) {
                login[member] = value.clone();
            }
        }
        if self.name == "auth/client-credentials-basic" {
            login["grant"] = "client_credentials".into();
        }
        let path = format!("/api/v1/servers/{}/oauth/start", self.server);
        let started = self.api.post(&path, &login).await;
        println!("login: {} {}", started.status, started.text);
        let started: Value = serde_json::from_str(&started.text).unwrap_or_default();
        let Some(mut at) = started["url"].as_str().map(str::to_owned) else {
            return;
        };
        let browser = reqwest::Client::builder().redirect(Policy::none()).no_proxy();
        let browser = browser.build().expect("a browser");
        for _ in 0..REDIRECTS_MAX {
            let page = browser.get(&at).send().await.expect("a page");
            println!("{at}: {}", page.status());
            let next = page
                .headers()
                .get(header::LOCATION)
                .and_then(|next| next.to_str().ok());
            let Some(next) = next else { return };
            at = next.to_owned();
        }
    }

    fn message(&self, message: &Value) -> RequestBuilder {
        let path = format!("/mcp/servers/{}", self.server);
        let request = self.api.request(Method::POST, &path).json(message);
        let request = request.header("accept", "application/json, text/event-stream");
        let version = if self.is_modern { MODERN } else { LEGACY };
        let request = request.header("mcp-protocol-version", version);
        match &self.session {
            Some(session) => request.header("mcp-session-id", session),
            None => request,
        }
    }

    async fn begin_session(&mut self) {
        if self.is_modern {
            return;
        }
        let params = json!({
            "protocolVersion": LEGACY,
            "capabilities": { "elicitation": { "form": { "applyDefaults": true } } },
            "clientInfo": { "name": "conformance-client", "version": "1" },
        });
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let answer = self.message(&initialize).send().await.expect("an answer");
        let session = answer.headers().get("mcp-session-id");
        self.session = session
            .and_then(|session| session.to_str().ok())
            .map(str::to_owned);
        println!("initialize: {}", answer.text().await.unwrap_or_default());
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.message(&initialized).send().await.expect("an answer");
    }

    async fn ask(&self, method: &str, mut params: Value, name: Option<&str>) -> Value {
        if self.is_modern {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities":
                    { "elicitation": { "form": {} }, "sampling": {}, "roots": {} },
                "io.modelcontextprotocol/clientInfo": { "name": "conformance-client", "version": "1" },
            });
        }
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut request = self.message(&message);
        if self.is_modern {
            request = request.header("mcp-method", method);
        }
        if let Some(name) = name.filter(|_| self.is_modern) {
            request = request.header("mcp-name", name);
        }
        let answer = request.send().await.expect("an answer");
        let answer = self.answer_of(answer).await;
        println!("{method}: {answer}");
        answer
    }

    /// The answer itself; questions on the way to it are answered.
    async fn answer_of(&self, mut answer: Response) -> Value {
        let content = answer.headers().get(header::CONTENT_TYPE);
        let is_stream = content.is_some_and(|content| content.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            return serde_json::from_str(&answer.text().await.unwrap_or_default()).unwrap_or_default();
        }
        let mut text = String::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some((event, rest)) = text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let message: Value = data
                    .and_then(|data| serde_json::from_str(data).ok())
                    .unwrap_or_default();
                text = rest.to_owned();
                if message["method"] == "elicitation/create" {
                    self.fill_in(&message).await;
                } else if message.get("id").is_some() {
                    return message;
                }
            }
        }
        Value::Null
    }

    /// Answers a form with its defaults.
    async fn fill_in(&self, question: &Value) {
        let fields = question["params"]["requestedSchema"]["properties"].as_object();
        let defaults = fields.into_iter().flatten().filter_map(|(name, field)| {
            let default = field.get("default")?;
            Some((name.clone(), default.clone()))
        });
        let content: Map<String, Value> = defaults.collect();
        let result = json!({ "action": "accept", "content": content });
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        self.message(&answer).send().await.expect("an answer");
    }

    async fn call(&self, name: &str, arguments: &Value) {
        let mut params = json!({ "name": name, "arguments": arguments });
        for _ in 0..ROUNDS_MAX {
            let answer = self.ask("tools/call", params.clone(), Some(name)).await;
            let result = &answer["result"];
            if result["resultType"] != "input_required" {
                return;
            }
            let asked = result["inputRequests"].as_object().into_iter().flatten();
            let answers = asked.map(|(key, request)| (key.clone(), answer_to(request)));
            params = json!({ "name": name, "arguments": arguments });
            params["inputResponses"] = Value::Object(answers.collect());
            if let Some(state) = result.get("requestState") {
                params["requestState"] = state.clone();
            }
        }
    }
}

fn answer_to(request: &Value) -> Value {
    match request["method"].as_str().unwrap_or_default() {
        "elicitation/create" => json!({ "action": "accept", "content": { "confirmed": true } }),
        "roots/list" => json!({ "roots": [] }),
        _ => json!({ "role": "assistant", "content": { "type": "text", "text": "x" }, "model": "none" }),
    }
}

/// Something of the right type for each argument.
fn arguments_for(tool: &Value) -> Value {
    let fields = tool["inputSchema"]["properties"].as_object();
    let arguments = fields.into_iter().flatten().map(|(name, field)| {
        let value = match field["type"].as_str() {
            Some("number" | "integer") => json!(5),
            Some("boolean") => json!(true),
            _ => json!("x"),
        };
        (name.clone(), value)
    });
    Value::Object(arguments.collect())
}
