//! Asking another node over HTTP. A connection serves one request at a time, so that dropping the answer ends the request
//! there; one whose answer was read to its end waits a moment for another.

use std::{
    collections::HashMap,
    future::Future,
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{BoxError, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use troupe_actors::runtime::{Deadline, trace};
use troupe_protocol::{access::Principal, error::Code, id::NodeId};

use super::{PRINCIPAL, assert_principal};
use crate::edge::{ApiError, ApiResult, EdgeState};

/// Headers that are about the connection on which a request came, or prove who sent it to us.
const NOT_HANDED_ON: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::AUTHORIZATION,
    header::COOKIE,
    header::ORIGIN,
    header::ACCEPT_ENCODING,
];

/// How long the way to another node may take to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// For how long a connection waits for another request; the other node waits longer.
const IDLE_TIME_MAX: Duration = Duration::from_secs(3);
/// How many connections to one node wait.
const IDLE_PER_NODE_MAX: usize = 64;

/// Why another node gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// It was not asked.
    #[error("node {0} cannot be reached")]
    Unreachable(NodeId),
    /// It was asked, or may have been, and no answer came.
    #[error("{0}")]
    Lost(String),
    /// It did not begin to answer in time.
    #[error("node {0} did not answer in time")]
    Late(NodeId),
    /// The request cannot be sent.
    #[error("{0}")]
    Unsendable(String),
}

impl From<PeerError> for ApiError {
    fn from(error: PeerError) -> Self {
        let code = match &error {
            PeerError::Unreachable(_) | PeerError::Lost(_) => Code::NodeUnreachable,
            PeerError::Late(_) => Code::DeadlineExceeded,
            PeerError::Unsendable(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Sends a request to another node, on behalf of a principal. The deadline is for the answer's beginning; its body may
/// come for as long as it does.
///
/// # Errors
/// `NodeUnreachable` when there is no way to it or the connection ends, `DeadlineExceeded`.
pub async fn send(
    state: &EdgeState,
    node: NodeId,
    request: Request,
    principal: &Principal,
    deadline: Deadline,
) -> ApiResult<Response> {
    Ok(try_send(state, node, request, principal, deadline).await?)
}

/// As [`send`], for who must know whether the node may have acted.
///
/// # Errors
/// [`PeerError`].
pub async fn try_send(
    state: &EdgeState,
    node: NodeId,
    mut request: Request,
    principal: &Principal,
    deadline: Deadline,
) -> Result<Response, PeerError> {
    prepare(&mut request, principal)
        .map_err(|error| PeerError::Unsendable(error.problem().detail.clone()))?;
    let asked = async {
        let mut request = request;
        if let Some(waiting) = state.peers.take(node) {
            match exchange(state, node, waiting, request).await {
                Ok(response) => return Ok(response),
                // It was closed meanwhile.
                Err(Trouble::NotSent(unsent)) => request = *unsent,
                Err(Trouble::Lost(error)) => return Err(error),
            }
        }
        let connection = connect(state, node, deadline).await?;
        exchange(state, node, connection, request)
            .await
            .map_err(|trouble| match trouble {
                Trouble::NotSent(_) => PeerError::Unreachable(node),
                Trouble::Lost(error) => error,
            })
    };
    let lost = lost(state, node);
    tokio::select! {
        answered = tokio::time::timeout_at(deadline.instant(), asked) => {
            answered.unwrap_or(Err(PeerError::Late(node)))
        }
        () = lost => Err(PeerError::Lost(format!("node {node} was lost while it was asked"))),
    }
}

/// Completes when the node is found to be silent: a connection that waits for an answer would not notice.
fn lost(state: &EdgeState, node: NodeId) -> Lost {
    match state.cluster.links() {
        Some(links) => Box::pin(links.lost(node)),
        None => Box::pin(std::future::pending()),
    }
}

fn prepare(request: &mut Request, principal: &Principal) -> ApiResult<()> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    for name in NOT_HANDED_ON {
        headers.remove(name);
    }
    headers.insert(header::HOST, HeaderValue::from_static("node"));
    headers.insert(PRINCIPAL, assert_principal(principal)?);
    continue_trace(headers);
    request.extensions_mut().clear();
    Ok(())
}

/// The other node's steps belong to the request in hand.
fn continue_trace(headers: &mut HeaderMap) {
    let Some(context) = trace::current() else { return };
    let parent = format!("00-{}-{}-01", context.correlation_id, context.span);
    if let Ok(parent) = HeaderValue::from_str(&parent) {
        headers.insert("traceparent", parent);
    }
}

/// A connection to another node. It does nothing unless it is polled.
struct Connection {
    sender: http1::SendRequest<Body>,
    work: Work,
    /// When it was last used.
    used: Instant,
}

/// What drives a connection.
type Work = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// See [`lost`].
type Lost = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Connections to other nodes that wait for another request.
#[derive(Default)]
pub struct PeerConnections(Mutex<HashMap<NodeId, Vec<Connection>>>);

impl PeerConnections {
    fn take(&self, node: NodeId) -> Option<Connection> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = waiting.get_mut(&node)?;
        of_node.retain(|connection| connection.used.elapsed() < IDLE_TIME_MAX);
        of_node.pop()
    }

    fn put(&self, node: NodeId, mut connection: Connection) {
        connection.used = Instant::now();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, connections| {
            connections.retain(|connection| connection.used.elapsed() < IDLE_TIME_MAX);
            !connections.is_empty()
        });
        let of_node = waiting.entry(node).or_default();
        if of_node.len() < IDLE_PER_NODE_MAX {
            of_node.push(connection);
        }
    }
}

async fn connect(state: &EdgeState, node: NodeId, deadline: Deadline) -> Result<Connection, PeerError> {
    let unreachable = || PeerError::Unreachable(node);
    let links = state.cluster.links().ok_or_else(unreachable)?;
    let by = deadline.earlier(Deadline::within(CONNECT_TIME_MAX));
    let stream = links.connect_http(node, by).await.map_err(|_| unreachable())?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|_| unreachable())?;
    Ok(Connection {
        sender,
        work: Box::pin(connection),
        used: Instant::now(),
    })
}

enum Trouble {
    /// Nothing of the request has left.
    NotSent(Box<Request>),
    Lost(PeerError),
}

/// Sends a request and waits for the beginning of the answer.
async fn exchange(
    state: &EdgeState,
    node: NodeId,
    mut connection: Connection,
    request: Request,
) -> Result<Response, Trouble> {
    let is_ready = tokio::select! {
        biased;
        _ = &mut connection.work => false,
        ready = connection.sender.ready() => ready.is_ok(),
    };
    if !is_ready {
        return Err(Trouble::NotSent(Box::new(request)));
    }
    let lost = lost(state, node);
    let mut has_ended = false;
    let answered = {
        let mut answer = pin!(connection.sender.try_send_request(request));
        tokio::select! {
            biased;
            answered = &mut answer => answered,
            _ = &mut connection.work => {
                has_ended = true;
                answer.await // what went wrong, the answer says too
            }
        }
    };
    let response = answered.map_err(|mut error| match error.take_message() {
        Some(request) => Trouble::NotSent(Box::new(request)),
        None => Trouble::Lost(PeerError::Lost(format!(
            "node {node} was lost while it was asked: {}",
            error.error()
        ))),
    })?;
    Ok(response.map(|body| {
        Body::new(Driven {
            state: state.clone(),
            node,
            connection: (!has_ended).then_some(connection),
            lost,
            body,
        })
    }))
}

/// A body with the connection it comes over, which goes on while the body is read and then waits for another request.
/// Dropped before its end, it closes the connection, and so ends the request at the other node. It breaks off when the
/// other node is lost.
struct Driven {
    state: EdgeState,
    node: NodeId,
    connection: Option<Connection>,
    lost: Lost,
    body: Incoming,
}

impl HttpBody for Driven {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(connection) = self.connection.as_mut()
            && connection.work.as_mut().poll(context).is_ready()
        {
            self.connection = None;
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        ready!(self.lost.as_mut().poll(context));
        self.connection = None;
        self.lost = Box::pin(std::future::pending());
        let what = format!("node {} was lost while it answered", self.node);
        Poll::Ready(Some(Err(what.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.body.is_end_stream()) {
            self.state.peers.put(self.node, connection);
        }
    }
}
