//! Logins at servers that ask for OAuth.

use axum::{
    Json,
    extract::State,
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;
use troupe_protocol::{
    error::Code,
    server::ServerName,
    upstream::{ServerLogin, ServerLoginStarted, ServerLoginState},
};
use url::Url;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::servers::reachable;
use crate::edge::{ApiError, ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState};

const CALLBACK_PATH: &str = "/api/v1/oauth/callback";

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(show_login))
        .routes(routes!(start_login))
        .routes(routes!(complete_login))
}

/// What there is of a login at a server.
#[utoipa::path(
    get, path = "/api/v1/servers/{name}/oauth", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = ServerLoginState))
)]
async fn show_login(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<ServerLoginState>> {
    let name = reachable(&state, &name)?;
    Ok(Json(state.upstreams.login_state(&name).await?))
}

/// Begins a login: says where the person logs in. With client credentials it is complete.
#[utoipa::path(
    post, path = "/api/v1/servers/{name}/oauth/start", tag = "servers", params(("name" = ServerName, Path)),
    request_body = ServerLogin, responses((status = 200, body = ServerLoginStarted))
)]
async fn start_login(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<ServerLogin>,
) -> ApiResult<Json<ServerLoginStarted>> {
    let name = reachable(&state, &name)?;
    let wrong = |_| {
        let detail =
            "origin: give the node's address as the browser reaches it, such as http://127.0.0.1:7500";
        ApiError::new(Code::InvalidField, detail)
    };
    let redirect_uri = Url::parse(&request.origin).and_then(|origin| origin.join(CALLBACK_PATH));
    let redirect_uri = redirect_uri.map_err(wrong)?;
    let audited = state.auditing(&caller, "server.login", name.as_str());
    let started = state
        .upstreams
        .start_login(&name, request, redirect_uri.as_str())
        .await;
    audited.ended(&started);
    Ok(Json(started?))
}

/// What an authorization server sends back with.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Callback {
    /// The login that was begun.
    #[serde(default)]
    state: String,
    /// What the token is asked for with.
    #[serde(default)]
    code: String,
    /// Who sends back.
    iss: Option<String>,
    /// Why there is no code.
    error: Option<String>,
}

/// Completes a login. The browser comes here from the authorization server.
#[utoipa::path(
    get, path = "/api/v1/oauth/callback", tag = "servers", params(Callback), security(()),
    responses((status = 200, description = "a page for the person"))
)]
async fn complete_login(
    State(state): State<EdgeState>,
    ApiQuery(callback): ApiQuery<Callback>,
) -> ApiResult<Response> {
    if let Some(error) = callback.error {
        let error: String = error.chars().take(100).collect();
        return Err(ApiError::new(
            Code::LoginFailed,
            format!("the authorization server refused: {error}"),
        ));
    }
    let completed = state
        .upstreams
        .complete_login(&callback.state, &callback.code, callback.iss.as_deref())
        .await;
    let name = completed?;
    // A server's name has nothing that needs escaping.
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Logged in</title>\
         <p>Troupe is logged in at <a href=\"/#/registry/servers/{name}\">{name}</a>. This page can be closed.</p>"
    );
    Ok(Html(page).into_response())
}
