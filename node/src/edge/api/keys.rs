//! API keys, and who did what with them.

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use secrecy::ExposeSecret;
use troupe_protocol::{
    access::{AuditPage, AuditQuery, KeyId, KeyInfo, NewKey},
    api::{CreatedKey, PAGE_ITEMS_DEFAULT, Page, PageQuery},
    error::Code,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{
    ApiError, ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState,
    everywhere::{self, Scope, as_it_is, located},
};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_keys, create_key))
        .routes(routes!(revoke_key))
        .routes(routes!(list_audit))
}

/// The keys, without the keys themselves.
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "keys", params(PageQuery), responses((status = 200, body = Page<KeyInfo>))
)]
async fn list_keys(
    State(state): State<EdgeState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Json<Page<KeyInfo>> {
    let mut keys = state.access.list();
    if let Some(search) = &query.search {
        keys.retain(|key| key.name.contains(search.as_str()));
    }
    Json(Page::slice(
        keys.into_iter(),
        query.cursor.as_deref(),
        query.limit,
    ))
}

/// Makes a key. The answer is the only time that the key itself is told.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys", request_body = NewKey, responses((status = 201, body = CreatedKey))
)]
async fn create_key(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiJson(new): ApiJson<NewKey>,
) -> ApiResult<impl IntoResponse> {
    let audited = state.auditing(&caller, "key.create", &format!("{} ({})", new.name, new.role));
    let made = state.access.create_key(new, &caller.principal).await;
    audited.ended(&made);
    let (info, key) = made?;
    Ok((
        StatusCode::CREATED,
        Json(CreatedKey {
            info,
            key: key.expose_secret().to_owned(),
        }),
    ))
}

/// Makes a key worthless and ends its sessions.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", tag = "keys", params(("id" = KeyId, Path)),
    responses((status = 204, description = "revoked"))
)]
async fn revoke_key(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<StatusCode> {
    let key: KeyId = id.parse().map_err(|_| {
        ApiError::new(
            Code::KeyNotFound,
            format!("there is no key with the id {id:?}; list them with GET /api/v1/keys"),
        )
    })?;
    let name = state
        .access
        .list()
        .into_iter()
        .find(|known| known.id == key)
        .map_or(id, |known| known.name);
    let audited = state.auditing(&caller, "key.revoke", &name);
    let revoked = state.access.revoke(key).await;
    audited.ended(&revoked);
    revoked?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who did what on any node, newest first.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "keys",
    params(
        AuditQuery,
        ("node" = Option<String>, Query, description = "a member's name or id, or all (the default)"),
    ),
    responses((status = 200, body = AuditPage))
)]
async fn list_audit(
    State(state): State<EdgeState>,
    caller: Caller,
    scope: Scope,
    ApiQuery(query): ApiQuery<AuditQuery>,
) -> ApiResult<Json<AuditPage>> {
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT) as usize;
    let mut here = state.audit_log.list(query).await?;
    here.items = located(here.items, state.node_id);
    let others = scope.ask_others(&state, &caller, as_it_is).await;
    Ok(Json(everywhere::audit(here, others, limit)))
}
