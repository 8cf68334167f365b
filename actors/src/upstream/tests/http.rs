use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use troupe_protocol::error::Code;
use troupe_protocol::mcp::{Era, method};

use super::bed::*;
use crate::runtime::{Deadline, testkit};
use crate::upstream::*;

/// What a fake server knows and remembers.
struct Fake {
    era: Era,
    /// Counts sessions; the current one is the only one known.
    session: AtomicUsize,
    seen: Mutex<Vec<String>>,
    dropped: Arc<AtomicUsize>,
    /// The id of the request whose stream was ended early.
    interrupted: AtomicU64,
}

impl Fake {
    fn seen(&self, wanted: &str) -> usize {
        self.seen
            .lock()
            .iter()
            .filter(|line| line.contains(wanted))
            .count()
    }
}

/// A server that is running on a port of this machine.
struct Running {
    fake: Arc<Fake>,
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(era: Era, port: u16) -> Running {
    let fake = Fake {
        era,
        session: AtomicUsize::new(0),
        seen: Mutex::default(),
        dropped: Arc::default(),
        interrupted: AtomicU64::new(0),
    };
    let fake = Arc::new(fake);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new()
        .route("/mcp", any(answer))
        .with_state(Arc::clone(&fake));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Running { fake, port, task }
}

impl Running {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }
}

fn json_answer(status: StatusCode, body: Value) -> Response {
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

/// Counts when the stream it is part of is dropped.
struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn answer(
    State(fake): State<Arc<Fake>>,
    http: axum::http::Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("-")
            .to_owned()
    };
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (id, method) = (
        message["id"].clone(),
        message["method"].as_str().unwrap_or("").to_owned(),
    );
    fake.seen.lock().push(format!(
        "{http} {method} version={} session={} mcp-method={} mcp-name={} auth={} region={} {}",
        header("mcp-protocol-version"),
        header("mcp-session-id"),
        header("mcp-method"),
        header("mcp-name"),
        header("authorization"),
        header("mcp-param-region"),
        String::from_utf8_lossy(&body),
    ));
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
    if fake.era == Era::Legacy {
        let current = format!("s{}", fake.session.load(Ordering::SeqCst));
        match (http.as_str(), method.as_str(), header("mcp-session-id")) {
            ("POST", "server/discover", _) => {
                let error = json!({"code": -32000, "message": "Bad Request: Server not initialized"});
                return json_answer(
                    StatusCode::BAD_REQUEST,
                    json!({"jsonrpc": "2.0", "id": null, "error": error}),
                );
            }
            ("POST", "initialize", _) => {
                let session = fake.session.fetch_add(1, Ordering::SeqCst) + 1;
                let info = json!({"name": "fake", "version": "1"});
                let body = result(
                    json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}),
                );
                let mut response = json_answer(StatusCode::OK, body);
                response
                    .headers_mut()
                    .insert("mcp-session-id", format!("s{session}").parse().unwrap());
                return response;
            }
            (_, _, session) if session != current => return StatusCode::NOT_FOUND.into_response(),
            ("GET", ..) if header("last-event-id") == "e1" => {
                let id = fake.interrupted.load(Ordering::SeqCst);
                let content = json!({"content": [{"type": "text", "text": "resumed"}]});
                let response = json!({"jsonrpc": "2.0", "id": id, "result": content});
                return (
                    [("content-type", "text/event-stream")],
                    format!("data: {response}\n\n"),
                )
                    .into_response();
            }
            ("GET", ..) => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
            ("DELETE", ..) => return StatusCode::OK.into_response(),
            (_, method, _) if method.starts_with("notifications/") => {
                return StatusCode::ACCEPTED.into_response();
            }
            _ => {}
        }
    } else if method == "server/discover" {
        let body = json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}});
        return json_answer(StatusCode::OK, result(body));
    } else if header("mcp-method") != method {
        let error = json!({"code": -32020, "message": "Header mismatch"});
        return json_answer(
            StatusCode::BAD_REQUEST,
            json!({"jsonrpc": "2.0", "id": id, "error": error}),
        );
    }
    if method == "tools/list" {
        let region = json!({"type": "string", "x-mcp-header": "Region"});
        let good =
            json!({"name": "regional", "inputSchema": {"type": "object", "properties": {"region": region}}});
        let wrong = json!({"name": "wrong", "inputSchema": {"anyOf": [{"x-mcp-header": "A"}]}});
        let body = json!({"resultType": "complete", "tools": [good, wrong], "ttlMs": 60000});
        return json_answer(StatusCode::OK, result(body));
    }
    match message["params"]["name"].as_str().unwrap_or("") {
        "stream" => {
            let token = message["params"]["_meta"]["progressToken"].clone();
            let progress = json!({"progressToken": token, "progress": 1});
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress});
            let content = json!({"content": [{"type": "text", "text": "streamed"}]});
            let events = format!(
                ": hello\n\nevent: message\ndata: {progress}\n\ndata: {}\n\n",
                result(content)
            );
            ([("content-type", "text/event-stream")], events).into_response()
        }
        "interrupted" => {
            fake.interrupted.store(id.as_u64().unwrap(), Ordering::SeqCst);
            (
                [("content-type", "text/event-stream")],
                "id: e1\nretry: 10\ndata: \n\n",
            )
                .into_response()
        }
        "hang" => {
            let dropped = CountDrop(Arc::clone(&fake.dropped));
            let never = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from(": wait\n\n")) })
                .chain(futures::stream::pending().map(move |_: ()| {
                    let _ = &dropped;
                    Ok(Bytes::new())
                }));
            ([("content-type", "text/event-stream")], Body::from_stream(never)).into_response()
        }
        "page" => (StatusCode::BAD_GATEWAY, "<html>bad gateway</html>").into_response(),
        "late" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            json_answer(
                StatusCode::OK,
                result(json!({"content": [{"type": "text", "text": "late"}]})),
            )
        }
        "unknown" => {
            let error = json!({"code": -32602, "message": "Unknown tool: unknown"});
            json_answer(
                StatusCode::NOT_FOUND,
                json!({"jsonrpc": "2.0", "id": id, "error": error}),
            )
        }
        _ => json_answer(
            StatusCode::OK,
            result(json!({"content": [{"type": "text", "text": "hello"}]})),
        ),
    }
}

#[tokio::test]
async fn a_legacy_server_gets_a_session_and_keeps_it() {
    let (bed, server) = (Bed::new().await, serve(Era::Legacy, 0).await);
    bed.register_url("web", &server.url());
    assert_eq!(text(&bed.call("web", "hello").await.unwrap()), "hello");
    assert_eq!(bed.upstreams.info(&name("web")).unwrap().era, Era::Legacy);
    let fake = Arc::clone(&server.fake);
    assert_eq!(
        fake.seen("initialize version=- session=-"),
        1,
        "{:?}",
        fake.seen.lock()
    );
    assert_eq!(
        fake.seen("notifications/initialized version=2025-11-25 session=s1"),
        1
    );
    assert_eq!(
        fake.seen(
            "tools/call version=2025-11-25 session=s1 mcp-method=- mcp-name=- auth=Bearer s3cr3t-t0k3n"
        ),
        1
    );

    let reply = bed.call("web", "unknown").await.unwrap();
    assert_eq!(
        text(&reply),
        "Unknown tool: unknown",
        "an error in a refusal's body is the server's answer"
    );
    let error = bed.call("web", "page").await.unwrap_err();
    assert!(
        error.to_string().contains("502") && !error.to_string().contains('<'),
        "{error}"
    );

    bed.disable("web");
    testkit::eventually(testkit::PATIENCE, || {
        fake.seen("DELETE  version=2025-11-25 session=s1") == 1
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_forgotten_session_is_renewed_once_for_all_calls() {
    let (bed, server) = (Arc::new(Bed::new().await), serve(Era::Legacy, 0).await);
    bed.register_url("web", &server.url());
    bed.call("web", "hello").await.unwrap();
    server.fake.session.fetch_add(10, Ordering::SeqCst);
    let calls: Vec<_> = (0..10).map(|_| background(&bed, "web", "hello")).collect();
    for call in calls {
        assert_eq!(text(&call.await.unwrap().unwrap()), "hello");
    }
    assert_eq!(
        server.fake.seen("POST initialize"),
        2,
        "once at the start, once for ten calls"
    );
}

#[tokio::test]
async fn a_stream_brings_progress_and_then_the_answer() {
    let (bed, server) = (Bed::new().await, serve(Era::Modern, 0).await);
    bed.register_url("web", &server.url());
    let upstream = bed.upstreams.get(&name("web"), soon()).await.unwrap();
    assert_eq!(upstream.info().era, Era::Modern);
    let (sender, mut progress) = mpsc::channel(4);
    let options = CallOptions {
        progress: Some(sender),
        ..CallOptions::own(soon())
    };
    let params = raw(json!({"name": "stream", "_meta": {"progressToken": 5}}));
    assert_eq!(
        text(
            &upstream
                .request(method::TOOLS_CALL, params, options)
                .await
                .unwrap()
        ),
        "streamed"
    );
    assert!(
        progress
            .recv()
            .await
            .unwrap()
            .as_str()
            .contains(r#""progressToken":5"#)
    );
    let headers = "tools/call version=2026-07-28 session=- mcp-method=tools/call mcp-name=stream";
    assert_eq!(server.fake.seen(headers), 1, "{:?}", server.fake.seen.lock());
}

#[tokio::test]
async fn giving_up_closes_the_stream_of_a_modern_server_and_tells_a_legacy_one() {
    for era in [Era::Modern, Era::Legacy] {
        let (bed, server) = (Bed::new().await, serve(era, 0).await);
        bed.register_url("web", &server.url());
        bed.call("web", "hello").await.unwrap();
        let error = bed
            .call_until("web", "hang", Deadline::within(Duration::from_millis(200)))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::UpstreamTimeout, "{error}");
        let fake = &server.fake;
        let closed = || fake.dropped.load(Ordering::Relaxed) == 1;
        testkit::eventually(testkit::PATIENCE, closed).await.unwrap();
        let told = usize::from(era == Era::Legacy);
        testkit::eventually(testkit::PATIENCE, || fake.seen("notifications/cancelled") == told)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn calls_wait_for_a_server_that_is_being_restarted() {
    let (bed, server) = (Arc::new(Bed::new().await), serve(Era::Legacy, 0).await);
    bed.register_url("web", &server.url());
    bed.call("web", "hello").await.unwrap();
    let in_flight = background(&bed, "web", "late");
    testkit::eventually(testkit::PATIENCE, || server.fake.seen("\"late\"") == 1)
        .await
        .unwrap();
    let port = server.port;
    server.task.abort();
    drop(server);
    let _ = in_flight.await.unwrap();
    let waiting: Vec<_> = (0..5).map(|_| background(&bed, "web", "hello")).collect();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let server = serve(Era::Legacy, port).await;
    for call in waiting {
        assert_eq!(text(&call.await.unwrap().unwrap()), "hello");
    }
    assert_eq!(server.fake.seen("POST initialize"), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_its_reason() {
    let bed = Bed::new().await;
    bed.register_url("nobody", "http://127.0.0.1:9/mcp");
    let error = bed.call("nobody", "x").await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn arguments_are_mirrored_into_headers_as_the_tools_schema_says() {
    let (bed, server) = (Bed::new().await, serve(Era::Modern, 0).await);
    bed.register_url("web", &server.url());
    let upstream = bed.upstreams.get(&name("web"), soon()).await.unwrap();
    let params = raw(json!({"name": "regional", "arguments": {"region": "us-west1"}}));
    upstream
        .request(method::TOOLS_CALL, params, CallOptions::own(soon()))
        .await
        .unwrap();
    assert_eq!(
        server
            .fake
            .seen("mcp-name=regional auth=Bearer s3cr3t-t0k3n region=us-west1"),
        1
    );
    let tools = upstream.tools(soon()).await.unwrap();
    assert_eq!(
        tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
        ["regional"]
    );
    let log = bed.upstreams.logs(&name("web"), soon()).await.unwrap();
    assert!(
        log.iter()
            .any(|line| line.text.starts_with("tool wrong is left out")),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_stream_that_a_legacy_server_ends_early_is_taken_up_again() {
    let (bed, server) = (Bed::new().await, serve(Era::Legacy, 0).await);
    bed.register_url("web", &server.url());
    assert_eq!(text(&bed.call("web", "interrupted").await.unwrap()), "resumed");
    assert_eq!(
        server.fake.seen("POST tools/call"),
        1,
        "the call itself is not repeated"
    );
}

#[tokio::test]
async fn a_credential_that_the_server_repeats_is_in_no_error() {
    let repeat = |headers: HeaderMap| async move {
        let given = headers["authorization"].to_str().unwrap();
        let token = given.trim_start_matches("Bearer ");
        (
            StatusCode::UNAUTHORIZED,
            format!("unknown token {token} in {given:?}"),
        )
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let app = Router::new().route("/mcp", any(repeat));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let bed = Bed::new().await;
    bed.register_url("web", &url);
    let error = bed.call("web", "echo").await.unwrap_err().to_string();
    assert!(error.contains("unknown token [secret]"), "{error}");
    assert!(!error.contains("s3cr3t-t0k3n"), "{error}");
    task.abort();
    bed.shutdown().await;
}
