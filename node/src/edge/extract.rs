//! Extractors whose refusals are problem documents that say what was expected.

use std::time::Duration;

use axum::{
    RequestExt,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::PathRejection},
};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use troupe_protocol::error::Code;

use super::{
    problem::{ApiError, ApiResult},
    state::EdgeState,
};

/// A larger body is not even drained before it is refused.
const DRAINED_BYTES_MAX: usize = 64 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that sends nothing for this long is waiting for the answer.
const DRAIN_PAUSE: Duration = Duration::from_millis(300);

/// A JSON body within the API's limits.
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<EdgeState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &EdgeState) -> ApiResult<Self> {
        require_json(request.headers())?;
        let limits = &state.config.edge;
        let bytes = read_body(request, &BodyLimits {
            bytes_max: limits.body_bytes_max.count(),
            timeout: limits.body_timeout_ms.millis(),
            setting: "edge.body_bytes_max",
        })
        .await?;
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
        ApiJson::from_request(request, state).await.map(|ApiJson(value)| Self(value))
    }
}

/// A query string.
pub struct ApiQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(refused) => Err(ApiError::new(Code::InvalidField, format!("query: {}", inner_text(&refused)))),
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
            Err(PathRejection::FailedToDeserializePathParams(refused)) => {
                Err(ApiError::new(Code::InvalidField, format!("path: {}", refused.kind())))
            }
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

/// How much of a body is taken, and in what time.
pub struct BodyLimits {
    /// Bytes; one more is refused.
    pub bytes_max: usize,
    /// From the headers to the last byte.
    pub timeout: Duration,
    /// The setting that raises `bytes_max`, for the refusal.
    pub setting: &'static str,
}

/// Reads a whole body within limits.
///
/// A body that announces too great a length is refused without being kept. It is still drained, up to a bound: a
/// client that is in the middle of sending would else see its connection reset instead of the refusal.
///
/// # Errors
/// `BodyTooLarge` (413), `RequestTimeout` (408), or `MalformedJson` (400) when the body ends too early.
pub async fn read_body(request: Request, limits: &BodyLimits) -> ApiResult<Bytes> {
    let too_large = |length: Option<u64>| {
        let given = length.map_or_else(String::new, |length| format!("{length} bytes; "));
        let detail = format!("the body has {given}at most {} are taken ({})", limits.bytes_max, limits.setting);
        ApiError::new(Code::BodyTooLarge, detail)
    };
    let announced = content_length(request.headers());
    if announced.is_some_and(|length| length > limits.bytes_max as u64) {
        let waits_for_permission = request.headers().contains_key(header::EXPECT);
        if !waits_for_permission {
            drain(request).await;
        }
        return Err(too_large(announced));
    }
    let body = Limited::new(request.with_limited_body().into_body(), limits.bytes_max);
    match tokio::time::timeout(limits.timeout, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(None)),
        Ok(Err(error)) => {
            Err(ApiError::new(Code::MalformedJson, format!("the body ended too early: {}", inner_text(&*error))))
        }
        Err(_) => Err(ApiError::new(
            Code::RequestTimeout,
            format!("the body did not arrive within {} ms (edge.body_timeout_ms)", limits.timeout.as_millis()),
        )),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn drain(request: Request) {
    let mut chunks = request.into_body().into_data_stream();
    let discard = async {
        let mut drained_bytes = 0;
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(DRAIN_PAUSE, chunks.next()).await {
            drained_bytes += chunk.len();
            if drained_bytes > DRAINED_BYTES_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, discard).await;
}

fn require_json(headers: &HeaderMap) -> ApiResult<()> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    let given = given.unwrap_or("nothing");
    Err(ApiError::new(Code::UnsupportedMediaType, format!("Content-Type is {given}; allowed: application/json")))
}

/// Reads JSON; the refusal names line, column and what was expected.
///
/// # Errors
/// `MalformedJson` (400) when it is no JSON, `InvalidField` (422) when it is JSON of another shape.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let detail = format!("the body is not UTF-8: wrong from byte {} on", error.valid_up_to());
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
