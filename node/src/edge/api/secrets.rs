//! Secrets, on their way into the vault. There is no way out.

use axum::{Json, extract::State};
use http::StatusCode;
use secrecy::SecretString;
use troupe_protocol::{
    access::{SecretInfo, SecretName},
    api::{Page, PageQuery, PutSecret},
    error::Code,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{ApiError, ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_secrets))
        .routes(routes!(put_secret, remove_secret))
}

/// The secrets' names and dates, never their values.
#[utoipa::path(
    get, path = "/api/v1/secrets", tag = "secrets", params(PageQuery),
    responses((status = 200, body = Page<SecretInfo>))
)]
async fn list_secrets(
    State(state): State<EdgeState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Json<Page<SecretInfo>> {
    let mut secrets = state.vault.list();
    if let Some(search) = &query.search {
        secrets.retain(|secret| secret.name.as_str().contains(search.as_str()));
    }
    Json(Page::slice(
        secrets.into_iter(),
        query.cursor.as_deref(),
        query.limit,
    ))
}

/// Seals a secret, in place of the one with that name if there is one.
#[utoipa::path(
    put, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = SecretName, Path, description = "with %2F for slashes")),
    request_body = PutSecret, responses((status = 200, body = SecretInfo))
)]
async fn put_secret(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
    ApiJson(secret): ApiJson<PutSecret>,
) -> ApiResult<Json<SecretInfo>> {
    let name = secret_name(&name)?;
    let audited = state.auditing(&caller, "secret.put", name.as_str());
    let put = state.vault.put(name, SecretString::from(secret.value)).await;
    audited.ended(&put);
    Ok(Json(put?))
}

/// Forgets a secret.
#[utoipa::path(
    delete, path = "/api/v1/secrets/{name}", tag = "secrets",
    params(("name" = SecretName, Path, description = "with %2F for slashes")),
    responses((status = 204, description = "gone"))
)]
async fn remove_secret(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<StatusCode> {
    let name = secret_name(&name)?;
    let audited = state.auditing(&caller, "secret.remove", name.as_str());
    let removed = state.vault.remove(&name).await;
    audited.ended(&removed);
    removed?;
    Ok(StatusCode::NO_CONTENT)
}

fn secret_name(name: &str) -> ApiResult<SecretName> {
    SecretName::new(name).map_err(|error| ApiError::new(Code::InvalidName, error.to_string()))
}
