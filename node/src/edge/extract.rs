//! Extractors whose refusals are problem documents that say what was expected.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::PathRejection};
use http::{HeaderMap, header, request::Parts};
use serde::de::DeserializeOwned;
use troupe_protocol::error::Code;

use super::{
    auth::Caller,
    body::{BodyLimits, STRANGERS_BYTES_MAX, read_body},
    problem::{ApiError, ApiResult},
    state::EdgeState,
};

/// A JSON body within the API's limits.
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<EdgeState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &EdgeState) -> ApiResult<Self> {
        require_json(request.headers())?;
        let edge = &state.config.edge;
        let (bytes_max, because) = match request.extensions().get::<Caller>() {
            Some(_) => (edge.body_bytes_max.count(), "edge.body_bytes_max"),
            None => (STRANGERS_BYTES_MAX, "from who has not signed in"),
        };
        let limits = BodyLimits {
            bytes_max,
            timeout: edge.body_timeout_ms.millis(),
            because,
            budget: &state.bodies,
        };
        let bytes = read_body(request, &limits).await?;
        parse_json(&bytes).map(Self)
    }
}

/// A JSON body, or the type's default when there is no body.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<EdgeState> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &EdgeState) -> ApiResult<Self> {
        let is_empty = http_body::Body::is_end_stream(request.body());
        if is_empty {
            return Ok(Self(T::default()));
        }
        ApiJson::from_request(request, state)
            .await
            .map(|ApiJson(value)| Self(value))
    }
}

/// A query string.
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(refused) => Err(ApiError::new(
                Code::InvalidField,
                format!("query: {}", inner_text(&refused)),
            )),
        }
    }
}

/// Parameters of the path.
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(refused)) => Err(ApiError::new(
                Code::InvalidField,
                format!("path: {}", refused.kind()),
            )),
            Err(refused) => Err(ApiError::new(Code::Internal, refused.to_string())),
        }
    }
}

/// The innermost cause: what is wrong, without "failed to deserialize" around it.
fn inner_text(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn require_json(headers: &HeaderMap) -> ApiResult<()> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = given
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_json =
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    let given = given.unwrap_or("nothing");
    Err(ApiError::new(
        Code::UnsupportedMediaType,
        format!("Content-Type is {given}; allowed: application/json"),
    ))
}

/// Reads JSON; the refusal names line, column and what was expected.
///
/// # Errors
/// `MalformedJson` (400) when it is no JSON, `InvalidField` (422) when it is JSON of another shape.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let detail = format!(
            "the body is not UTF-8: wrong from byte {} on",
            error.valid_up_to()
        );
        return Err(ApiError::new(Code::MalformedJson, detail));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let code = match error.classify() {
            serde_json::error::Category::Data => Code::InvalidField,
            _ => Code::MalformedJson,
        };
        ApiError::new(code, format!("body: {error}"))
    })
}
