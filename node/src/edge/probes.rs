//! `/healthz`: the process answers. `/readyz`: every part has started.

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use troupe_protocol::api::Readiness;

use super::state::EdgeState;

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when every part has started, else 503 with what is missing.
pub async fn readyz(State(state): State<EdgeState>) -> impl IntoResponse {
    let ready = !state.stopping.is_cancelled();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, waiting_for: Vec::new() }))
}
