//! `/api/v1`: administration and observation. Handlers only translate: decisions live in the actors.
//!
//! Each handler stands with its path and types in one place; the router and the OpenAPI document are both made from
//! that, so neither can have a route that the other lacks.

pub mod backup;
mod builtin;
pub mod cluster;
mod conversations;
mod keys;
mod logins;
mod observe;
mod offers;
pub mod openapi;
mod secrets;
mod servers;
mod session;
mod status;
mod tools;
mod virtual_servers;

use axum::Router;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use status::{status_of, status_within};

use super::{live, state::EdgeState};

/// The routes of the API.
pub fn routes() -> Router<EdgeState> {
    documented().split_for_parts().0
}

fn documented() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::with_openapi(openapi::preamble())
        .merge(session::routes())
        .merge(servers::routes())
        .merge(logins::routes())
        .merge(offers::routes())
        .merge(virtual_servers::routes())
        .merge(tools::routes())
        .merge(conversations::routes())
        .merge(status::routes())
        .merge(cluster::routes())
        .merge(backup::routes())
        .routes(routes!(live::live))
        .routes(routes!(live::feed))
        .merge(observe::routes())
        .merge(secrets::routes())
        .merge(keys::routes())
        .merge(openapi::routes())
}
