use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use troupe_protocol::error::Code;
use troupe_protocol::mcp::Era;
use troupe_protocol::server::Transport;

use super::bed::*;
use crate::runtime::testkit;

type Stream = mpsc::UnboundedSender<Event>;

/// A server of protocol version 2024-11-05. Answers come on the stream, some before the POST is acknowledged.
#[derive(Default)]
struct Fake {
    sessions: AtomicU64,
    streams: Mutex<HashMap<u64, Stream>>,
    initialized: AtomicUsize,
    /// Calls that it has taken and does not answer.
    hanging: AtomicUsize,
    cancelled: AtomicUsize,
    pongs: AtomicUsize,
    unauthorized: AtomicUsize,
    /// What the first event says, with the session in place of `{}`.
    endpoint: Mutex<String>,
}

struct Running {
    fake: Arc<Fake>,
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve() -> Running {
    let fake = Arc::new(Fake::default());
    *fake.endpoint.lock() = "/messages?session={}".to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/sse", listener.local_addr().unwrap());
    let app = Router::new()
        .route("/sse", get(open))
        .route("/messages", post(take))
        .with_state(Arc::clone(&fake));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Running { fake, url, task }
}

fn check(fake: &Fake, headers: &HeaderMap) {
    if headers.get("authorization").map(|value| value.as_bytes()) != Some(b"Bearer s3cr3t-t0k3n") {
        fake.unauthorized.fetch_add(1, Ordering::SeqCst);
    }
}

async fn open(State(fake): State<Arc<Fake>>, headers: HeaderMap) -> impl IntoResponse {
    check(&fake, &headers);
    let session = fake.sessions.fetch_add(1, Ordering::SeqCst) + 1;
    let (sender, events) = mpsc::unbounded_channel();
    let endpoint = fake.endpoint.lock().replace("{}", &session.to_string());
    sender
        .send(Event::default().event("endpoint").data(endpoint))
        .unwrap();
    fake.streams.lock().insert(session, sender);
    Sse::new(UnboundedReceiverStream::new(events).map(Ok::<_, Infallible>))
}

async fn take(
    State(fake): State<Arc<Fake>>,
    Query(query): Query<BTreeMap<String, u64>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    check(&fake, &headers);
    let session = query.get("session").copied().unwrap_or_default();
    let Some(stream) = fake.streams.lock().get(&session).cloned() else {
        return (StatusCode::NOT_FOUND, "no such session").into_response();
    };
    let message: Value = serde_json::from_str(&body).unwrap();
    let say = |message: Value| {
        let _ = stream.send(Event::default().event("message").data(message.to_string()));
    };
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => say(result(json!({
            "protocolVersion": "2024-11-05", "capabilities": {"tools": {"listChanged": true}},
            "serverInfo": {"name": "fake", "version": "1"},
        }))),
        "notifications/initialized" => {
            fake.initialized.fetch_add(1, Ordering::SeqCst);
            say(json!({"jsonrpc": "2.0", "id": "theirs", "method": "ping"}));
        }
        "notifications/cancelled" => {
            fake.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        "tools/call" => match message["params"]["name"].as_str().unwrap_or_default() {
            "hang" => {
                fake.hanging.fetch_add(1, Ordering::SeqCst);
            }
            "refused" => return (StatusCode::BAD_GATEWAY, "no").into_response(),
            tool => {
                say(result(json!({"content": [{"type": "text", "text": tool}]})));
                // The answer is there before the POST is acknowledged.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        },
        "" => {
            fake.pongs.fetch_add(1, Ordering::SeqCst);
        }
        _ => say(result(json!({}))),
    }
    StatusCode::ACCEPTED.into_response()
}

fn register(bed: &Bed, server: &Running) {
    let authorization = "Bearer ${secret:token}".parse().unwrap();
    let transport = Transport::Sse {
        url: server.url.clone(),
        headers: BTreeMap::from([("authorization".to_owned(), authorization)]),
    };
    bed.register("old", transport);
}

#[tokio::test]
async fn answers_come_on_the_stream_and_find_their_callers() {
    let (bed, server) = (Arc::new(Bed::new().await), serve().await);
    register(&bed, &server);
    let calls: Vec<_> = ["a", "b", "c"]
        .map(|tool| (tool, background(&bed, "old", tool)))
        .into();
    for (tool, call) in calls {
        assert_eq!(text(&call.await.unwrap().unwrap()), tool);
    }
    let info = bed.upstreams.info(&name("old")).unwrap();
    assert_eq!(
        (info.era, info.protocol_version.as_str()),
        (Era::Legacy, "2024-11-05")
    );
    let fake = &server.fake;
    testkit::eventually(testkit::PATIENCE, || fake.pongs.load(Ordering::SeqCst) == 1)
        .await
        .unwrap();
    assert_eq!(fake.initialized.load(Ordering::SeqCst), 1);
    assert_eq!(
        fake.unauthorized.load(Ordering::SeqCst),
        0,
        "each request has the headers"
    );
    let error = bed.call("old", "refused").await.unwrap_err();
    assert!(error.to_string().contains("502"), "{error}");
}

#[tokio::test]
async fn a_lost_stream_and_a_forgotten_session_are_made_anew() {
    let (bed, server) = (Arc::new(Bed::new().await), serve().await);
    register(&bed, &server);
    bed.call("old", "a").await.unwrap();
    let waiting = background(&bed, "old", "hang");
    let fake = &server.fake;
    let is_sent = || fake.hanging.load(Ordering::SeqCst) == 1;
    testkit::eventually(testkit::PATIENCE, is_sent).await.unwrap();
    // What was sent is lost with the stream, and its caller hears of it at once.
    fake.streams.lock().clear();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::UpstreamDied, "{error}");
    assert_eq!(text(&bed.call("old", "again").await.unwrap()), "again");
    assert_eq!(fake.sessions.load(Ordering::SeqCst), 2);
    // The stream stays, but the server no longer knows the session: the call is made again within a new one.
    let kept = std::mem::take(&mut *fake.streams.lock());
    assert_eq!(text(&bed.call("old", "anew").await.unwrap()), "anew");
    assert_eq!(fake.sessions.load(Ordering::SeqCst), 3);
    drop(kept);
}

#[tokio::test]
async fn a_cancelled_call_is_told_to_the_server() {
    let (bed, server) = (Arc::new(Bed::new().await), serve().await);
    register(&bed, &server);
    bed.call("old", "a").await.unwrap();
    let waiting = background(&bed, "old", "hang");
    let id = || {
        let calls = bed.upstreams.calls();
        calls
            .iter()
            .find(|call| call.method == "tools/call")
            .map(|call| call.id)
    };
    let is_sent = || server.fake.hanging.load(Ordering::SeqCst) == 1;
    testkit::eventually(testkit::PATIENCE, is_sent).await.unwrap();
    bed.upstreams.cancel(id().unwrap()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::CallCancelled);
    testkit::eventually(testkit::PATIENCE, || {
        server.fake.cancelled.load(Ordering::SeqCst) == 1
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_server_that_refuses_posts_is_tried_with_the_older_transport() {
    let (bed, server) = (Bed::new().await, serve().await);
    bed.register_url("found", &server.url);
    assert_eq!(text(&bed.call("found", "a").await.unwrap()), "a");
    assert_eq!(server.fake.sessions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_endpoint_elsewhere_gets_nothing() {
    let (bed, server, other) = (Bed::new().await, serve().await, serve().await);
    *server.fake.endpoint.lock() = other.url.replace("/sse", "/messages?session={}");
    register(&bed, &server);
    let error = bed.call("old", "a").await.unwrap_err();
    assert!(error.to_string().contains("another origin"), "{error}");
    assert_eq!(other.fake.unauthorized.load(Ordering::SeqCst), 0);
    assert_eq!(other.fake.sessions.load(Ordering::SeqCst), 0);
}
