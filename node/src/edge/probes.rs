//! `/healthz`: the process answers. `/readyz`: every part has started.

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use troupe_protocol::{api::Readiness, observe::ActorStatus};

use super::state::EdgeState;

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when every part has started, else 503 with what is missing.
pub async fn readyz(State(state): State<EdgeState>) -> impl IntoResponse {
    let ready = state.is_ready();
    if ready {
        return (
            StatusCode::OK,
            Json(Readiness {
                ready,
                waiting_for: Vec::new(),
            }),
        );
    }
    let reports = state.system.directory().reports();
    let starting = reports
        .iter()
        .filter(|report| report.status == ActorStatus::Starting);
    let waiting_for = starting.map(|report| report.path.to_string()).collect();
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(Readiness { ready, waiting_for }),
    )
}
