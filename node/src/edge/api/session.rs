//! Signing in and out, and who one is.

use std::net::SocketAddr;

use axum::{
    Extension, Json,
    extract::{ConnectInfo, State},
    response::{AppendHeaders, IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use troupe_actors::access::{LOGIN_CODE_TTL, SESSION_AGE_MAX};
use troupe_protocol::{
    access::Principal,
    api::{LoginLink, LoginRequest, Me},
    error::Code,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{
    ApiError, ApiJson, ApiResult, Caller, EdgeState, Proof,
    auth::{SESSION_COOKIE, session_token},
};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(logout))
        .routes(routes!(me))
        .routes(routes!(login_link))
}

/// Signs a browser in, with the code of a login link or with a key: sets the session cookie.
#[utoipa::path(
    post, path = "/api/v1/login", tag = "session", request_body = LoginRequest, security(()),
    responses((status = 200, body = Me))
)]
async fn login(
    State(state): State<EdgeState>,
    from: Option<Extension<ConnectInfo<SocketAddr>>>,
    ApiJson(request): ApiJson<LoginRequest>,
) -> ApiResult<Response> {
    let signed_in = sign_in(&state, request).await;
    if let Err(refused) = &signed_in
        && refused.problem().status == StatusCode::UNAUTHORIZED
    {
        let from = from.map(|Extension(ConnectInfo(from))| from);
        state.audit_failed_sign_in(from, &refused.problem().detail);
    }
    let (principal, token) = signed_in?;
    state.record(&principal, "session.open", &principal.name);
    let age_s = SESSION_AGE_MAX.as_secs();
    let cookie = set_cookie(&token, age_s);
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Json(who(&state, &principal)),
    )
        .into_response())
}

async fn sign_in(state: &EdgeState, request: LoginRequest) -> ApiResult<(Principal, SecretString)> {
    match (request.code, request.key) {
        (Some(code), None) => Ok(state.access.redeem(code.trim()).await?),
        (None, Some(key)) => {
            let principal = state.access.authenticate(key.trim()).ok_or_else(|| {
                ApiError::new(
                    Code::Unauthenticated,
                    "the key is unknown or revoked; `troupe key add` makes another",
                )
            })?;
            let token = state.access.open_session(&principal).await?;
            Ok((principal, token))
        }
        _ => {
            let detail = "body: give either `code` (of a login link) or `key`";
            Err(ApiError::new(Code::InvalidField, detail))
        }
    }
}

/// Signs a browser out.
#[utoipa::path(
    post, path = "/api/v1/logout", tag = "session", security(()),
    responses((status = 204, description = "signed out"))
)]
async fn logout(State(state): State<EdgeState>, headers: HeaderMap) -> ApiResult<Response> {
    if let Some(token) = session_token(&headers) {
        state.access.close_session(token).await?;
    }
    let cookie = set_cookie(&SecretString::from(""), 0);
    Ok((
        StatusCode::NO_CONTENT,
        AppendHeaders([(header::SET_COOKIE, cookie)]),
    )
        .into_response())
}

fn set_cookie(token: &SecretString, age_s: u64) -> HeaderValue {
    let token = token.expose_secret();
    let text = format!("{SESSION_COOKIE}={token}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict");
    let mut cookie = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    cookie.set_sensitive(true);
    cookie
}

/// Who the caller is.
#[utoipa::path(get, path = "/api/v1/me", tag = "session", responses((status = 200, body = Me)))]
async fn me(State(state): State<EdgeState>, caller: Caller) -> Json<Me> {
    Json(who(&state, &caller.principal))
}

fn who(state: &EdgeState, principal: &Principal) -> Me {
    Me {
        name: principal.name.clone(),
        role: principal.role,
        node_id: state.node_id,
        node_name: state.node_name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Makes a one-time link that signs a browser in as the caller.
#[utoipa::path(post, path = "/api/v1/login-link", tag = "session", responses((status = 200, body = LoginLink)))]
async fn login_link(State(state): State<EdgeState>, caller: Caller) -> ApiResult<Json<LoginLink>> {
    if caller.proof != Proof::Key {
        let detail = "a login link is made with a key, not with a browser session";
        return Err(ApiError::new(Code::Forbidden, detail));
    }
    let audited = state.auditing(&caller, "session.link", &caller.principal.name);
    let code = state.access.mint_login_code(&caller.principal).await;
    audited.ended(&code);
    let url = state.login_url(code?.expose_secret());
    Ok(Json(LoginLink {
        url,
        expires_in_ms: LOGIN_CODE_TTL.as_millis() as u64,
    }))
}
