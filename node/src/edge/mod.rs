//! The port for people and clients: HTTP and WebSocket in, questions to actors out. Nothing is decided here but
//! who may ask and how much.
//!
//! # Layout
//! - `actor`, `listener`, `stall`: connections and their bounds;
//! - `origin`, `auth`, `rules`, `audited`: is the request meant for us, who is it, may they, and what they did;
//! - `trace`, `headers`, `problem`, `body`, `extract`: what all requests and answers have in common;
//! - `api`: `/api/v1`, with its OpenAPI document; `live`: its WebSocket; `everywhere`: one answer of all nodes;
//! - `mcp`: the MCP faces; `official`: `/v0.1`, the official registry API;
//! - `peer`: HTTP between nodes;
//! - `assets`, `errors_page`, `probes`, `metrics`: the UI, the error reference, health and figures.
//!
//! A request passes, from the outside in: correlation and security headers, catch-panic, host and origin check, caller and
//! role, then compression and time limit (neither for MCP: what servers answer passes as it is), handler.

pub mod actor;
pub mod api;
mod assets;
mod audited;
mod auth;
mod body;
mod errors_page;
mod everywhere;
mod extract;
mod headers;
pub mod listener;
pub mod live;
mod mcp;
mod metrics;
mod official;
mod origin;
pub mod peer;
mod probes;
mod problem;
mod rules;
mod stall;
pub mod state;
#[cfg(test)]
mod tests;
mod trace;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Method, Uri};
use tower_http::compression::{CompressionLayer, DefaultPredicate, Predicate, predicate::SizeAbove};
use troupe_protocol::error::Code;

pub use auth::{Caller, Proof};
pub use extract::{ApiJson, ApiPath, ApiQuery};
pub use problem::{ApiError, ApiResult};
pub use state::EdgeState;

/// Answers below this size go out as they are.
const COMPRESSED_BYTES_MIN: u64 = 8 * 1024;

/// Everything that the port answers.
pub fn router(state: EdgeState) -> Router {
    let timed = Router::new()
        .merge(api::routes())
        .merge(official::routes())
        .route_layer(middleware::from_fn_with_state(state.clone(), everywhere::direct))
        .route_layer(middleware::from_fn_with_state(state.clone(), limit_time));
    let compressed = Router::new()
        .merge(timed)
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/errors", get(errors_page::error_reference))
        .route("/errors/{code}", get(errors_page::error_page))
        .fallback(assets::serve)
        .layer(CompressionLayer::new().compress_when(worth_compressing()));
    compressed
        .merge(mcp::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), trace::correlate))
        .with_state(state)
}

/// Small answers, as most calls have, cost more to compress than to send.
fn worth_compressing() -> impl Predicate {
    DefaultPredicate::new().and(SizeAbove::new(COMPRESSED_BYTES_MIN))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("{} has no method {method}; see the Allow header", uri.path()),
    )
}

async fn limit_time(State(state): State<EdgeState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    if route.is_some_and(|route| route.as_str() == api::backup::RESTORE_PATH) {
        return next.run(request).await;
    }
    let limit = state.config.edge.request_timeout_ms.millis();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!(
                "no answer within {} ms (edge.request_timeout_ms)",
                limit.as_millis()
            );
            ApiError::new(Code::DeadlineExceeded, detail).into_response()
        }
    }
}
