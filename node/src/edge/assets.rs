//! The embedded web UI: static files, and the page itself for every path that is none.

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, header};

use super::problem::ApiError;

const INDEX: &str = "index.html";
const CACHE_FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const CACHE_REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Answers what no route answers: a file of the UI, its page, or 404.
pub async fn serve(request: Request) -> Response {
    let path = request.uri().path();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read || is_interface(path) {
        return ApiError::not_found(path).into_response();
    }
    let file = path.trim_start_matches('/');
    if let Some(asset) = troupe_web::asset(if file.is_empty() { INDEX } else { file }) {
        return answer(&request, asset);
    }
    let looks_like_file = file.rsplit('/').next().is_some_and(|name| name.contains('.'));
    match troupe_web::asset(INDEX) {
        Some(page) if !looks_like_file => answer(&request, page),
        _ => ApiError::not_found(path).into_response(),
    }
}

fn is_interface(path: &str) -> bool {
    ["/api/", "/v0.1/", "/v1/", "/mcp", "/errors/"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

fn answer(request: &Request, asset: troupe_web::Asset) -> Response {
    let cache = if asset.immutable {
        CACHE_FOREVER
    } else {
        CACHE_REVALIDATE
    };
    let etag = HeaderValue::from_str(&asset.etag).unwrap_or(HeaderValue::from_static("\"\""));
    let known = request
        .headers()
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known == etag);
    let caching = [(header::ETAG, etag), (header::CACHE_CONTROL, cache)];
    if known {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let mime =
        HeaderValue::from_str(&asset.mime).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    (
        caching,
        [(header::CONTENT_TYPE, mime)],
        Body::from(bytes::Bytes::from_owner(asset.bytes)),
    )
        .into_response()
}
