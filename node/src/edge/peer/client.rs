//! Asking another node over HTTP: a connection for each request, so that dropping the answer ends the request there.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, response::Response};
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

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

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
    let lost =
        |error: hyper::Error| PeerError::Lost(format!("node {node} was lost while it was asked: {error}"));
    let asked = async {
        let unreachable = || PeerError::Unreachable(node);
        let links = state.cluster.links().ok_or_else(unreachable)?;
        let connected_by = deadline.earlier(Deadline::within(CONNECT_TIME_MAX));
        let stream = links
            .connect_http(node, connected_by)
            .await
            .map_err(|_| unreachable())?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|_| unreachable())?;
        let mut connection: Option<Connection> = Some(Box::pin(connection));
        let mut answer = Box::pin(sender.send_request(request));
        let ended = async {
            if let Some(connection) = connection.as_mut() {
                let _ = connection.await; // what went wrong, the answer says too
            }
        };
        let response = tokio::select! {
            biased;
            response = &mut answer => response,
            () = ended => {
                connection = None;
                answer.await
            }
        };
        let response = response.map_err(lost)?;
        Ok(response.map(|body| Body::new(Driven { connection, body })))
    };
    match tokio::time::timeout_at(deadline.instant(), asked).await {
        Ok(answered) => answered,
        Err(_) => Err(PeerError::Late(node)),
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

/// A body with the connection it comes over, which goes on while the body is read.
struct Driven {
    connection: Option<Connection>,
    body: Incoming,
}

impl HttpBody for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(connection) = self.connection.as_mut()
            && connection.as_mut().poll(context).is_ready()
        {
            self.connection = None;
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
