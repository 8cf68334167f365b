//! The actor that answers other nodes' HTTP requests.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, header};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use tower::ServiceExt;
use troupe_actors::{
    cluster::link::HttpStream,
    runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, Mailbox, Message},
};
use troupe_protocol::{error::Code, id::NodeId};

use super::{FromNode, removed};
use crate::edge::{ApiError, state::EdgeState};

const MAILBOX_MESSAGES_MAX: u32 = 16;
/// Connections of other nodes at the same time, besides one for the stream of each session.
const CONNECTIONS_MAX: usize = 1_024;
/// Connections beyond them that are told so at the same time; further ones are just closed.
const REFUSALS_MAX: usize = 64;

/// For a request's headers, and between requests: longer than another node keeps a connection to ask again on it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that other nodes opened. They outlive a restart of the actor that serves them.
pub type PeerStreams = Arc<Mutex<mpsc::Receiver<HttpStream>>>;

/// What the actor is told.
#[derive(Debug, strum::IntoStaticStr)]
pub enum PeersMessage {
    /// No more streams come.
    StreamsEnded,
}

impl Message for PeersMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Answers other nodes.
struct Peers {
    state: EdgeState,
    router: Router,
    streams: PeerStreams,
}

/// The actor at `path`.
pub fn child(state: &EdgeState, path: ActorPath, router: Router, streams: PeerStreams) -> ChildSpec {
    let mailbox = Mailbox::new(&state.system, path, MAILBOX_MESSAGES_MAX);
    let state = state.clone();
    ChildSpec::actor(mailbox, move || Peers {
        state: state.clone(),
        router: router.clone(),
        streams: Arc::clone(&streams),
    })
}

impl Actor for Peers {
    type Message = PeersMessage;
    const KIND: &'static str = "peers";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let (state, router, streams) = (self.state.clone(), self.router.clone(), Arc::clone(&self.streams));
        let connections_max = CONNECTIONS_MAX + state.config.mcp.sessions_max.count();
        ctx.spawn_to_self("serve", async move {
            let mut streams = streams.lock().await;
            let streams = stream::poll_fn(|context| streams.poll_recv(context));
            let streams = streams.map(|accepted| (accepted.from, accepted.stream));
            serve(state, router, connections_max, streams).await;
            PeersMessage::StreamsEnded
        });
        Ok(())
    }

    /// Streams end when the links do, which is when the node stops.
    async fn handle(&mut self, message: PeersMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            PeersMessage::StreamsEnded => Ok(()),
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({ "connections": self.state.peer_connections.open() })
    }
}

/// Serves the streams that come. Those beyond the most are told so rather than left to wait.
pub(in crate::edge) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    state: EdgeState,
    router: Router,
    connections_max: usize,
    mut streams: impl Stream<Item = (NodeId, S)> + Unpin,
) {
    let full = Router::new()
        .fallback(|| async { refused(Code::TooManyRequests, "this node answers as many as it can") });
    let mut connections = JoinSet::new();
    loop {
        let (from, stream) = tokio::select! {
            Some(_) = connections.join_next() => continue,
            stream = streams.next() => match stream {
                Some(stream) => stream,
                None => break,
            },
        };
        let router = match connections.len() {
            open if open < connections_max => &router,
            open if open < connections_max + REFUSALS_MAX => &full,
            _ => continue,
        };
        connections.spawn(serve_connection(state.clone(), router.clone(), from, stream));
    }
    while connections.join_next().await.is_some() {}
}

/// Serves a node for as long as it is a member: what it has open ends when it is removed.
pub(in crate::edge) async fn serve_connection(
    state: EdgeState,
    router: Router,
    from: NodeId,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let _counted = state.peer_connections.enter();
    let answering = state.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(FromNode(from));
        answer(answering.clone(), router.clone(), from, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = removed(state.cluster.clone(), from) => Ok(()),
        () = state.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(node = %from, %error, "another node's connection ended");
    }
}

async fn answer(
    state: EdgeState,
    router: Router,
    from: NodeId,
    request: Request,
) -> Result<Response, Infallible> {
    if !state.cluster.membership().members.contains_key(&from) {
        let detail = format!("node {from} is no member of this cluster");
        return Ok(refused(Code::Forbidden, detail));
    }
    router.oneshot(request).await
}

/// The last answer on a connection.
fn refused(code: Code, detail: impl Into<String>) -> Response {
    let mut response = ApiError::new(code, detail).into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}
