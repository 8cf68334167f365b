//! Requests of legacy sessions that another node has, and of modern clients that are back with the answers for a call
//! which is parked at another: handed on to it as they are, and its answer handed back, streams included. So any node
//! serves any client, and nobody needs to keep a client at one node.
//!
//! Both nodes compare epochs: a request that comes to a node which is behind waits there until it is not; one that comes
//! to a node which is ahead is sent back (421), and its sender looks again when it has caught up.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;
use troupe_actors::cluster::{ClusterHandle, Nowhere};
use troupe_actors::runtime::Deadline;
use troupe_actors::session::SessionPlace;
use troupe_protocol::cluster::{Epoch, MemberState};
use troupe_protocol::id::NodeId;

use super::Context;
use super::fault::Fault;
use crate::edge::peer::{self, PeerError};

/// The epoch of the node that sends a request or sends one back.
const EPOCH: HeaderName = HeaderName::from_static("x-troupe-epoch");
/// How long a node for the session is looked for: longer than a dead one takes to be noticed.
const PATIENCE: Duration = Duration::from_secs(8);
/// The pause before it is looked again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How soon it is known whether a node that was lost is gone.
const GONE_KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// The longest time to the beginning of an answer: longer than any call takes.
const ANSWER_BEGINS_WITHIN: Duration = Duration::from_secs(3_600);
/// Headers of an answer that are about its connection, or that this node gives itself.
const NOT_HANDED_BACK: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::DATE,
    HeaderName::from_static("x-correlation-id"),
];

/// The answer of the node that has the session of this request; nothing when that is this one, or there is no session.
pub(super) async fn hand_on(
    context: &Context<'_>,
    method: Method,
    headers: &HeaderMap,
) -> Result<Option<Response>, Fault> {
    let Some(id) = context.headers.session_id else {
        return Ok(None);
    };
    let sessions = &context.state.sessions;
    if context.is_handed_on
        && let Some(epoch) = epoch_of(headers)
    {
        sessions.reaches(epoch).await;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let node = match sessions.place(id).await {
            SessionPlace::Here => return Ok(None),
            SessionPlace::At(_) | SessionPlace::Nowhere(_) if context.is_handed_on => {
                return Ok(Some(misdirected(sessions.epoch())));
            }
            SessionPlace::Nowhere(reason) => return Err(no_node(reason)),
            SessionPlace::At(node) => node,
        };
        let trouble = match ask(context, node, &method, headers).await {
            Ok(response) if response.status() == StatusCode::MISDIRECTED_REQUEST => {
                if let Some(epoch) = epoch_of(response.headers()) {
                    sessions.reaches(epoch).await;
                }
                Fault::no_node("the session is moving between nodes")
            }
            Ok(response) => return Ok(Some(handed_back(response, &context.state.cluster, node))),
            Err(PeerError::Lost(detail)) if method == Method::POST => {
                // It may have been at work: whoever sent the request decides whether it may be done twice.
                return Err(Fault::node_lost(&detail));
            }
            Err(error) => Fault::no_node(&error.to_string()),
        };
        if Instant::now() >= until {
            return Err(trouble);
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// The answer of the node that has the parked call to which a modern client is back; nothing if that node is gone, and
/// the call with it.
///
/// # Errors
/// The node lives and could not be asked: the call stands there still, and the client may come again.
pub(super) async fn hand_to(
    context: &Context<'_>,
    node: NodeId,
    headers: &HeaderMap,
) -> Result<Option<Response>, Fault> {
    let cluster = &context.state.cluster;
    let until = Instant::now() + PATIENCE;
    while is_alive(cluster, node) {
        let error = match ask(context, node, &Method::POST, headers).await {
            Ok(response) => return Ok(Some(handed_back(response, cluster, node))),
            Err(error) => error,
        };
        if let PeerError::Lost(detail) = error {
            // Asked again it might act again; whether it is gone will be known in a moment.
            let is_gone = gone(cluster.clone(), node);
            return match tokio::time::timeout(GONE_KNOWN_WITHIN, is_gone).await {
                Ok(()) => Ok(None),
                Err(_) => Err(Fault::node_lost(&detail)),
            };
        }
        if Instant::now() >= until {
            return Err(Fault::no_node(&error.to_string()));
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    Ok(None)
}

async fn ask(
    context: &Context<'_>,
    node: NodeId,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, PeerError> {
    let body = context
        .body
        .as_ref()
        .map_or_else(Bytes::new, |body| Bytes::copy_from_slice(body));
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method.clone();
    if let Some(path) = &context.path {
        *request.uri_mut() = path.clone().into();
    } else if let Ok(path) = context.endpoint.to_string().parse() {
        *request.uri_mut() = path;
    }
    *request.headers_mut() = headers.clone();
    request.headers_mut().remove(header::CONTENT_LENGTH);
    request
        .headers_mut()
        .insert(EPOCH, epoch_value(context.state.sessions.epoch()));
    let deadline = Deadline::within(ANSWER_BEGINS_WITHIN);
    let asked = peer::try_send(context.state, node, request, &context.principal, deadline);
    tokio::select! {
        response = asked => response,
        () = gone(context.state.cluster.clone(), node) => {
            Err(PeerError::Lost(format!("node {node} was lost while it was asked")))
        }
    }
}

/// The answer as it came, without what was about the connection between the nodes. Its stream ends with the node.
fn handed_back(response: Response, cluster: &ClusterHandle, node: NodeId) -> Response {
    let (mut parts, body) = response.into_parts();
    for name in NOT_HANDED_BACK {
        parts.headers.remove(name);
    }
    let is_stream = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|form| form.as_bytes().starts_with(b"text/event-stream"));
    if !is_stream {
        return Response::from_parts(parts, body);
    }
    let until_gone = body
        .into_data_stream()
        .take_until(Box::pin(gone(cluster.clone(), node)));
    Response::from_parts(parts, Body::from_stream(until_gone))
}

/// Resolves when a node is no longer taken for alive.
async fn gone(cluster: ClusterHandle, node: NodeId) {
    let mut epochs = cluster.epochs();
    loop {
        epochs.mark_unchanged();
        if !is_alive(&cluster, node) || epochs.changed().await.is_err() {
            return;
        }
    }
}

fn is_alive(cluster: &ClusterHandle, node: NodeId) -> bool {
    let membership = cluster.membership();
    let member = membership.members.get(&node);
    member.is_some_and(|member| member.state != MemberState::Down)
}

fn misdirected(epoch: Epoch) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response.headers_mut().insert(EPOCH, epoch_value(epoch));
    response
}

fn no_node(reason: Nowhere) -> Fault {
    match reason {
        Nowhere::NoLease => Fault::no_quorum(),
        Nowhere::Moving | Nowhere::NobodyUp => Fault::no_node("the session is moving between nodes"),
    }
}

fn epoch_of(headers: &HeaderMap) -> Option<Epoch> {
    headers.get(EPOCH)?.to_str().ok()?.parse().ok().map(Epoch)
}

fn epoch_value(epoch: Epoch) -> HeaderValue {
    HeaderValue::from(epoch.0)
}
