//! Answers to what cannot be served: an HTTP status with a JSON-RPC error in the body.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;
use troupe_protocol::error::{Code, Problem};
use troupe_protocol::jsonrpc::{ParseError, code as jsonrpc_code, edit};
use troupe_protocol::mcp::{ProtocolVersion, code as mcp_code};

/// Why a request is refused at the edge, before any server is asked.
#[derive(Debug)]
pub struct Fault {
    /// The HTTP status.
    pub status: StatusCode,
    /// The JSON-RPC error code.
    pub code: i64,
    /// What was wrong and what would be right.
    pub message: String,
    /// Troupe's stable code, in the error's `data`.
    pub stable: Option<Code>,
    /// More members for the error's `data`, as JSON text without the braces.
    data: Option<String>,
    /// The id of the request, once it is known.
    id: Option<Box<RawValue>>,
    /// Whether the rest of the body was left unread, so that the connection cannot be used again.
    closes: bool,
}

impl Fault {
    fn new(status: StatusCode, code: i64, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            stable: None,
            data: None,
            id: None,
            closes: false,
        }
    }

    fn coded(stable: Code, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(stable.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
        Self {
            stable: Some(stable),
            ..Self::new(status, jsonrpc_code::INVALID_REQUEST, message)
        }
    }

    /// 400, -32020: headers and body disagree.
    pub fn header_mismatch(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, mcp_code::HEADER_MISMATCH, message)
    }

    /// 400, -32022: the revision is not spoken here. The answer lists those that are.
    pub fn unsupported_version(requested: &str) -> Self {
        let supported = ProtocolVersion::ALL
            .map(|version| format!("\"{version}\""))
            .into_iter()
            .rev();
        let mut data = format!(
            "\"supported\":[{}],\"requested\":",
            supported.collect::<Vec<_>>().join(",")
        );
        edit::push_string(&mut data, &requested.chars().take(80).collect::<String>());
        let fault = Self::new(
            StatusCode::BAD_REQUEST,
            mcp_code::UNSUPPORTED_PROTOCOL_VERSION,
            "unsupported protocol version; data.supported lists those that are spoken here",
        );
        Self {
            data: Some(data),
            ..fault
        }
    }

    /// 400, -32602: a modern request without the `_meta` that it must have.
    pub fn malformed_meta(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, jsonrpc_code::INVALID_PARAMS, message)
    }

    /// 400, -32600: the message may not be sent here or now.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, jsonrpc_code::INVALID_REQUEST, message)
    }

    /// 400, -32602: parameters that the edge itself needs are wrong.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, jsonrpc_code::INVALID_PARAMS, message)
    }

    /// 400: the body is no message.
    pub fn not_a_message(error: &ParseError) -> Self {
        let fault = Self::new(StatusCode::BAD_REQUEST, error.code(), error.to_string());
        let stable = match error {
            ParseError::NotJson(_) | ParseError::TooDeep => Some(Code::MalformedJson),
            _ => None,
        };
        Self {
            stable,
            id: error.id().map(RawValue::to_owned),
            ..fault
        }
    }

    /// 404: the session is over or never was, or is another's.
    pub fn unknown_session() -> Self {
        let message =
            "there is no such session (it may have expired): send `initialize` again without Mcp-Session-Id";
        Self::new(StatusCode::NOT_FOUND, jsonrpc_code::INVALID_REQUEST, message)
    }

    /// 404: a message for a stream that is closed or never was, or is another's.
    pub fn unknown_stream() -> Self {
        let message = "there is no such stream (its connection may have ended): open another with GET";
        Self::new(StatusCode::NOT_FOUND, jsonrpc_code::INVALID_REQUEST, message)
    }

    /// 400: a legacy request outside any session.
    pub fn no_session() -> Self {
        Self::invalid_request(
            "the header Mcp-Session-Id is required: send `initialize` first, or speak 2026-07-28 with its `_meta`",
        )
    }

    /// 404: no server of this name.
    pub fn unknown_server(name: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        Self::coded(
            Code::ServerNotFound,
            format!("no server is registered under the name {name:?}"),
        )
    }

    /// 404: no virtual server of this name.
    pub fn unknown_virtual_server(name: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        Self::coded(
            Code::VirtualServerNotFound,
            format!("there is no virtual server {name:?}"),
        )
    }

    /// 405: nothing but POST for modern clients.
    pub fn modern_is_post_only() -> Self {
        Self::coded(
            Code::MethodNotAllowed,
            "revision 2026-07-28 has neither GET nor DELETE: send POST",
        )
    }

    /// 406: nothing we answer with is accepted.
    pub fn not_acceptable(wanted: &str) -> Self {
        Self::coded(
            Code::NotAcceptable,
            format!("the Accept header must name {wanted}"),
        )
    }

    /// What kept the body from being read: 408, 413, or 400 where it broke off.
    pub fn of_problem(problem: &Problem) -> Self {
        let stable = problem.code.parse().unwrap_or(Code::Internal);
        Self {
            closes: true,
            ..Self::coded(stable, problem.detail.clone())
        }
    }

    /// 415: the body is not said to be JSON.
    pub fn not_json() -> Self {
        Self::coded(
            Code::UnsupportedMediaType,
            "the Content-Type must be application/json in UTF-8",
        )
    }

    /// 503: there is no room, or something of ours has failed.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let fault = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            jsonrpc_code::INTERNAL_ERROR,
            message,
        );
        Self {
            stable: Some(Code::TooManyRequests),
            ..fault
        }
    }

    /// 503: no node has the session at the moment.
    pub fn no_node(detail: &str) -> Self {
        Self::of_cluster(Code::PlacedElsewhere, format!("{detail}: try again"))
    }

    /// 503: this node may not act.
    pub fn no_quorum() -> Self {
        let message =
            "this node has the session but does not follow a majority of the voters: try another node";
        Self::of_cluster(Code::NoQuorum, message.to_owned())
    }

    /// 503: the node that has the session was lost while it was at work.
    pub fn node_lost(detail: &str) -> Self {
        let message = format!("{detail} (the request may have had effects; it can be repeated)");
        Self::of_cluster(Code::NodeUnreachable, message)
    }

    fn of_cluster(stable: Code, message: String) -> Self {
        let fault = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            jsonrpc_code::INTERNAL_ERROR,
            message,
        );
        Self {
            stable: Some(stable),
            ..fault
        }
    }

    /// The same for the request with this id.
    pub fn of(mut self, id: Option<&RawValue>) -> Self {
        self.id = self.id.or_else(|| id.map(RawValue::to_owned));
        self
    }

    /// The JSON-RPC error response. A request whose id is not known is answered with the id `null`, as JSON-RPC 2.0
    /// (section 5) has it.
    pub fn to_json(&self) -> String {
        let stable = self.stable.map(|code| format!("\"code\":\"{code}\""));
        let members: Vec<String> = [stable, self.data.clone()].into_iter().flatten().collect();
        let data = (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")));
        edit::error_response(self.id.as_deref(), self.code, &self.message, data.as_deref())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.stable == Some(Code::TooManyRequests) {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(http::header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}
