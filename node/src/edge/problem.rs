//! What the edge answers when it cannot do what was asked: problem documents (RFC 9457) with a stable code.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use troupe_protocol::error::{Code, Coded, Problem};

/// The media type of problem documents.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error on its way to the client. Everything with a [`Code`] becomes one by `?`.
#[derive(Debug)]
pub struct ApiError {
    problem: Box<Problem>,
    headers: HeaderMap,
}

/// What handlers give.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error with this code; `detail` says what was wrong, where, and what would be right.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut headers = HeaderMap::new();
        match code {
            Code::Unauthenticated => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"troupe\""),
                );
            }
            Code::TooManyRequests | Code::UpstreamOverloaded | Code::ActorOverloaded | Code::ShuttingDown => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        Self {
            problem: Box::new(Problem::new(code, detail)),
            headers,
        }
    }

    /// There is nothing at `path`.
    pub fn not_found(path: &str) -> Self {
        Self::new(
            Code::NotFound,
            format!("there is nothing at {path}; /api/openapi.json lists what there is"),
        )
    }

    /// The document that the client gets.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl<E: Coded> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(mut self) -> Response {
        self.problem.correlation_id = super::trace::current_id();
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = %self.problem.code, detail = %self.problem.detail, "request failed");
        }
        let mut response = (status, self.headers, axum::Json(&*self.problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        response.extensions_mut().insert(self.problem);
        response
    }
}
