//! Asking another node over HTTP: a connection for each request, so that dropping the answer ends the request there.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
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

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Sends a request to another node, on behalf of a principal. The deadline is for the answer's beginning; its body may
/// come for as long as it does.
///
/// # Errors
/// `NodeUnreachable` when there is no way to it or the connection ends, `DeadlineExceeded`.
pub async fn send(
    state: &EdgeState,
    node: NodeId,
    mut request: Request,
    principal: &Principal,
    deadline: Deadline,
) -> ApiResult<Response> {
    prepare(&mut request, principal)?;
    let late = || {
        ApiError::new(
            Code::DeadlineExceeded,
            format!("node {node} did not answer in time"),
        )
    };
    let lost = |error: hyper::Error| {
        let detail = format!("node {node} was lost while it was asked: {error}");
        ApiError::new(Code::NodeUnreachable, detail)
    };
    let asked = async {
        let links = state.cluster.links()
            .ok_or_else(|| ApiError::new(Code::NodeUnreachable, format!("no link leads to node {node}")))?;
        let stream = links.connect_http(node, deadline).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
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
        Err(_) => Err(late()),
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
