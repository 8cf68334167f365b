//! `/api/v1`: administration and observation. Handlers only translate: decisions live in the actors.

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

use super::state::EdgeState;

/// The routes of the API, without the live WebSocket.
pub fn routes() -> Router<EdgeState> {
    let (router, _openapi) = OpenApiRouter::<EdgeState>::new().split_for_parts();
    router
}
