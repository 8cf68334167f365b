//! The fixture as a server of 2025-11-25 that is written by hand: the ids of its requests are names, as those of no SDK
//! are, and it has that revision's tasks.
//!
//! What it answers comes from the fixture itself, which is asked within the process in the words of 2026-07-28.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::future::join_all;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";
const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
const MODERN: &str = "2026-07-28";
/// Tools that may be tasks, and those that must.
const TASKS: [(&str, &str); 6] = [
    ("slow_compute", "optional"),
    ("protocol_error_job", "optional"),
    ("failing_job", "required"),
    ("confirm_delete", "required"),
    ("multi_input", "required"),
    ("test_tool_with_task", "required"),
];
/// Between two looks at a task.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a request comes to: its result or its error.
type Outcome = Result<Value, Value>;
/// Where the messages of one request's stream go.
type Stream = mpsc::Sender<Value>;

#[derive(Clone)]
struct Server(Arc<Shared>);

struct Shared {
    /// The fixture itself.
    url: String,
    client: reqwest::Client,
    next_session: AtomicU64,
    /// The capabilities of clients, by session.
    sessions: Mutex<HashMap<String, Value>>,
    /// Who waits for the answer to a request of this session and name.
    waiting: Mutex<HashMap<(String, String), oneshot::Sender<Value>>>,
}

/// A router in front of the fixture at this address.
pub fn router(url: String) -> Router {
    let shared = Shared {
        url,
        client: troupe_tests::api::http_client(),
        next_session: AtomicU64::default(),
        sessions: Mutex::default(),
        waiting: Mutex::default(),
    };
    Router::new()
        .route("/mcp", post(receive).delete(|| async { StatusCode::OK }))
        .with_state(Server(Arc::new(shared)))
}

async fn receive(State(server): State<Server>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let session = headers.get("mcp-session-id").and_then(|id| id.to_str().ok());
    let session = session.unwrap_or_default().to_owned();
    let Some(method) = message["method"].as_str() else {
        let name = message["id"].as_str().unwrap_or_default().to_owned();
        let waiting = server
            .0
            .waiting
            .lock()
            .expect("no panic")
            .remove(&(session, name));
        if let Some(waiting) = waiting {
            let _ = waiting.send(message);
        }
        return StatusCode::ACCEPTED.into_response();
    };
    if message.get("id").is_none() {
        return StatusCode::ACCEPTED.into_response();
    }
    if method == "initialize" {
        return server.initialize(&message);
    }
    let (stream, messages) = mpsc::channel(64);
    tokio::spawn(async move {
        let call = Call {
            server,
            session,
            stream,
        };
        let mut response = json!({ "jsonrpc": "2.0", "id": message["id"] });
        match call
            .answer(
                message["method"].as_str().unwrap_or_default(),
                message["params"].clone(),
            )
            .await
        {
            Ok(result) => response["result"] = result,
            Err(error) => response["error"] = error,
        }
        let _ = call.stream.send(response).await;
    });
    let events = futures::stream::unfold(messages, |mut messages| async move {
        let message: Value = messages.recv().await?;
        Some((Ok::<_, Infallible>(format!("data: {message}\n\n")), messages))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

impl Server {
    fn initialize(&self, message: &Value) -> Response {
        let session = format!("raw-{}", self.0.next_session.fetch_add(1, Ordering::Relaxed));
        let capabilities = message["params"]["capabilities"].clone();
        self.0
            .sessions
            .lock()
            .expect("no panic")
            .insert(session.clone(), capabilities);
        let capabilities = json!({
            "completions": {},
            "logging": {},
            "prompts": { "listChanged": true },
            "resources": { "subscribe": true, "listChanged": true },
            "tasks": { "cancel": {}, "requests": { "tools": { "call": {} } } },
            "tools": { "listChanged": true },
        });
        let result = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "serverInfo": { "name": "raw-fixture", "version": "1.0.0" },
        });
        let response = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
        ([("mcp-session-id", session)], Json(response)).into_response()
    }
}

/// A request of a client on its way.
struct Call {
    server: Server,
    session: String,
    stream: Stream,
}

impl Call {
    async fn answer(&self, method: &str, params: Value) -> Outcome {
        let params = if params.is_object() { params } else { json!({}) };
        match method {
            "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => Ok(json!({})),
            "tools/list" => {
                let mut result = self.ask_through("tools/list", params, false).await?;
                for tool in result["tools"].as_array_mut().into_iter().flatten() {
                    if let Some(support) = support(tool["name"].as_str()) {
                        tool["execution"] = json!({ "taskSupport": support });
                    }
                }
                Ok(result)
            }
            "tools/call" => self.call_tool(params).await,
            "tasks/get" => self.task(&params["taskId"]).await.map(|task| legacy(&task)),
            "tasks/result" => self.result_of(&params["taskId"]).await,
            "tasks/cancel" => {
                let task = self.task(&params["taskId"]).await?;
                if has_ended(&task) {
                    return Err(json!({ "code": -32602, "message": "the task has ended" }));
                }
                self.modern("tasks/cancel", params.clone(), true).await?;
                self.task(&params["taskId"]).await.map(|task| legacy(&task))
            }
            method if method.starts_with("tasks/") => Err(not_found(method)),
            method => self.ask_through(method, params, false).await,
        }
    }

    async fn call_tool(&self, mut params: Value) -> Outcome {
        let wants_task = params
            .as_object_mut()
            .and_then(|params| params.remove("task"))
            .is_some();
        match (support(params["name"].as_str()), wants_task) {
            (None, true) => Err(not_found("a task of this tool")),
            (Some("required"), false) => Err(not_found("this tool but as a task")),
            (_, false) => self.ask_through("tools/call", params, false).await,
            (Some(_), true) => {
                let result = self.ask_through("tools/call", params, true).await?;
                Ok(if result["resultType"] == "task" {
                    json!({ "task": legacy(&result) })
                } else {
                    result
                })
            }
        }
    }

    /// Asks the fixture until it has all that it wants of the client.
    async fn ask_through(&self, method: &str, mut params: Value, knows_tasks: bool) -> Outcome {
        loop {
            let mut result = self.modern(method, params.clone(), knows_tasks).await?;
            if result["resultType"] == "input_required" {
                params["inputResponses"] = self.ask_client(&result["inputRequests"], None).await;
                if let Some(state) = result.get("requestState") {
                    params["requestState"] = state.clone();
                }
                continue;
            }
            if let Some(members) = result
                .as_object_mut()
                .filter(|result| result["resultType"] != "task")
            {
                for of_modern in ["resultType", "ttlMs", "cacheScope"] {
                    members.remove(of_modern);
                }
            }
            return Ok(result);
        }
    }

    async fn task(&self, id: &Value) -> Outcome {
        self.modern("tasks/get", json!({ "taskId": id }), true).await
    }

    /// Blocks until the task has ended, and asks the client meanwhile what the task wants.
    async fn result_of(&self, id: &Value) -> Outcome {
        let related = json!({ "taskId": id });
        loop {
            let task = self.task(id).await?;
            match task["status"].as_str() {
                Some("completed") => {
                    let mut result = task["result"].clone();
                    result["_meta"][RELATED_TASK] = related;
                    return Ok(result);
                }
                Some("failed") => return Err(task["error"].clone()),
                Some("cancelled") => return Err(json!({ "code": -32000, "message": "it was cancelled" })),
                _ => {}
            }
            if let Some(requests) = task["inputRequests"].as_object() {
                let related = &related;
                let answered = requests.iter().map(|(key, request)| async move {
                    let request = json!({ key: request });
                    let responses = self.ask_client(&request, Some(related)).await;
                    let update = json!({ "taskId": id, "inputResponses": responses });
                    self.modern("tasks/update", update, true).await
                });
                tokio::select! {
                    _ = join_all(answered) => {}
                    () = self.ends(id) => {}
                    // Else it would go on asking under names under which others ask.
                    () = self.stream.closed() => return Err(not_found("who waits for this result")),
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ends(&self, id: &Value) {
        while self.task(id).await.is_ok_and(|task| !has_ended(&task)) {
            tokio::time::sleep(4 * LOOK_AGAIN).await;
        }
    }

    /// Asks the client all of this at once, under these names.
    async fn ask_client(&self, requests: &Value, related: Option<&Value>) -> Value {
        let requests = requests.as_object().into_iter().flatten();
        let answered = requests.map(|(name, request)| async move {
            let mut message = request.clone();
            message["jsonrpc"] = json!("2.0");
            if let Some(related) = related {
                message["params"]["_meta"][RELATED_TASK] = related.clone();
            }
            let (sender, answer) = oneshot::channel();
            message["id"] = json!(self.wait_under(name, sender));
            let _ = self.stream.send(message).await;
            Some((name.clone(), answer.await.ok()?.get("result")?.clone()))
        });
        let answered = join_all(answered).await.into_iter().flatten();
        Value::Object(answered.collect::<Map<_, _>>())
    }

    /// Notes who waits for an answer under this name, or a similar one while another question of that name has none: what
    /// the client says of that one must not be taken for an answer to this one.
    fn wait_under(&self, name: &str, sender: oneshot::Sender<Value>) -> String {
        let mut waiting = self.server.0.waiting.lock().expect("no panic");
        let similar = (2..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.to_owned())
            .chain(similar)
            .find(|free| !waiting.contains_key(&(self.session.clone(), free.clone())))
            .expect("there is always another number");
        waiting.insert((self.session.clone(), free.clone()), sender);
        free
    }

    /// What the client can do.
    fn capabilities(&self) -> Value {
        let sessions = self.server.0.sessions.lock().expect("no panic");
        sessions.get(&self.session).cloned().unwrap_or_else(|| json!({}))
    }

    /// One request of the fixture in the words of 2026-07-28; what it tells before its answer goes on.
    async fn modern(&self, method: &str, mut params: Value, knows_tasks: bool) -> Outcome {
        let mut capabilities = self.capabilities();
        if knows_tasks {
            capabilities["extensions"] = json!({ EXTENSION: {} });
        }
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
        params["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({ "name": "raw", "version": "1" });
        params["_meta"]["io.modelcontextprotocol/logLevel"] = json!("info");
        let named = params["name"]
            .as_str()
            .or(params["uri"].as_str())
            .or(params["taskId"].as_str());
        let mut request = self.server.0.client.post(&self.server.0.url);
        request = request
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", method);
        if let Some(named) = named {
            request = request.header("mcp-name", named);
        }
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let failed = |error: reqwest::Error| json!({ "code": -32603, "message": error.to_string() });
        let text = request
            .json(&message)
            .send()
            .await
            .map_err(failed)?
            .text()
            .await
            .map_err(failed)?;
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let messages = data
            .chain([text.as_str()])
            .filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
        for mut message in messages {
            if message.get("method").is_some() {
                let _ = self.stream.send(message).await;
            } else if let Some(error) = message.get_mut("error") {
                return Err(error.take());
            } else if let Some(result) = message.get_mut("result") {
                return Ok(result.take());
            }
        }
        Err(json!({ "code": -32603, "message": format!("no answer to {method}") }))
    }
}

fn support(tool: Option<&str>) -> Option<&'static str> {
    TASKS
        .iter()
        .find(|(name, _)| Some(*name) == tool)
        .map(|(_, support)| *support)
}

fn has_ended(task: &Value) -> bool {
    matches!(
        task["status"].as_str(),
        Some("completed" | "failed" | "cancelled")
    )
}

/// A task in the words of 2025-11-25.
fn legacy(task: &Value) -> Value {
    let mut of_legacy = json!({ "ttl": task["ttlMs"] });
    for member in ["taskId", "status", "statusMessage", "createdAt", "lastUpdatedAt"] {
        if let Some(value) = task.get(member) {
            of_legacy[member] = value.clone();
        }
    }
    if let Some(interval) = task.get("pollIntervalMs") {
        of_legacy["pollInterval"] = interval.clone();
    }
    of_legacy
}

fn not_found(what: &str) -> Value {
    json!({ "code": -32601, "message": format!("there is no {what}") })
}
