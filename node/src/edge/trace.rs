//! Every request has a correlation id: it opens a trace, is told in `x-correlation-id`, and stands in problem
//! documents and log lines.

use std::{borrow::Cow, panic::AssertUnwindSafe, pin::pin};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use troupe_actors::runtime::trace::{self, new_correlation_id};
use troupe_protocol::{
    error::{Code, Problem},
    id::CorrelationId,
    trace::{Outcome, TraceContext},
};

use super::{auth, headers, problem::ApiError, state::EdgeState};

const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");
const TRACEPARENT_HEADER: &str = "traceparent";

tokio::task_local! {
    /// Known for every request, also for those whose trace is not kept.
    static CORRELATION: CorrelationId;
}

/// The correlation id of the request in hand.
pub fn current_id() -> Option<CorrelationId> {
    CORRELATION.try_with(|id| *id).ok()
}

/// Middleware around all others: opens the request's trace, lets it in or not ([`auth`]), catches panics, tells the id in
/// the answer, and adds what all answers say ([`headers`]). One for all this, as each costs as much as what it does.
pub async fn correlate(State(state): State<EdgeState>, request: Request, next: Next) -> Response {
    let is_one_at_a_time = request.version() < Version::HTTP_2;
    let cause = caller_step(request.headers());
    let id = cause.map_or_else(new_correlation_id, |cause| cause.correlation_id);
    let title = title_of(&request);
    // By reference: what is passed on by value is there twice, in who passes and in who takes.
    let admitted = AssertUnwindSafe(auth::authorize(&state, request, next)).catch_unwind();
    let handled = pin!(CORRELATION.scope(id, async { admitted.await.unwrap_or_else(|_| panicked()) }));
    let mut response = match title {
        Some(title) => {
            let step = state
                .system
                .trace(&state.edge_path, "http", title, id, handled, outcome_of);
            trace::within(cause, step).await
        }
        None => handled.await,
    };
    let of_answer = response.headers_mut();
    headers::secure(of_answer);
    if is_one_at_a_time && state.leaving.is_cancelled() {
        headers::part(of_answer);
    }
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        of_answer.insert(CORRELATION_HEADER, id);
    }
    response
}

/// A handler panicked: its request fails, nothing else. The panic itself is in the log.
fn panicked() -> Response {
    ApiError::new(Code::Internal, "the request's handler panicked").into_response()
}

/// The step in a W3C `traceparent` header (`00-TRACE-PARENT-FLAGS`): the trace of the caller, often another node, goes on
/// here.
fn caller_step(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get(TRACEPARENT_HEADER)?.to_str().ok()?;
    let mut fields = parent.split('-').skip(1);
    Some(TraceContext {
        correlation_id: fields.next()?.parse().ok()?,
        span: fields.next()?.parse().ok()?,
    })
}

/// What the trace is called; nothing for requests that cause no work of actors: looking at actors and traces should
/// not push out the traces that one looks for.
fn title_of(request: &Request) -> Option<Cow<'static, str>> {
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    let looks_only = request.method() == Method::GET && !route.starts_with("/mcp");
    if looks_only {
        return None;
    }
    Some(format!("{} {route}", request.method()).into())
}

fn outcome_of(response: &Response) -> Outcome {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return Outcome::Done;
    }
    let problem = response.extensions().get::<Box<Problem>>();
    let error = match problem {
        // Their details repeat what was sent, which may be a secret in the wrong place.
        Some(problem) if status.is_client_error() => format!("{}: {}", problem.code, problem.title),
        Some(problem) => problem.to_string(),
        None => format!("HTTP {status}"),
    };
    Outcome::Failed { error }
}
