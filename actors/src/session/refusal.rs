//! Why a client's request gets no answer from a server, in the terms of JSON-RPC.

use std::fmt::Write as _;
use std::time::Duration;

use troupe_protocol::error::{Code, Coded};
use troupe_protocol::jsonrpc::{ErrorObject, code as jsonrpc_code, edit};
use troupe_protocol::mcp::{Era, code as mcp_code};
use troupe_protocol::server::ServerName;
use troupe_protocol::virtual_server::VirtualKind;

use super::parked::ParkingError;
use super::tasks;
use crate::registry::VirtualServerError;
use crate::upstream::UpstreamError;

/// Why a request was refused, or failed on its way.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody here answers this method.
    #[error("method not found: {0}")]
    MethodNotFound(String),
    /// A parameter that is looked at here is missing or wrong.
    #[error("invalid parameters: {0}")]
    InvalidParams(String),
    /// The client says something else in headers than in its message.
    #[error("header mismatch: {0}")]
    HeaderMismatch(String),
    /// No server offers a tool under this name.
    #[error(
        "unknown tool: {0} (tools are named server__tool; tools/list names them all, find_tools searches)"
    )]
    UnknownTool(String),
    /// No server offers a prompt under this name.
    #[error("unknown prompt: {0} (prompts are named server__prompt; prompts/list names them all)")]
    UnknownPrompt(String),
    /// No server offers a resource at this address.
    #[error(
        "resource not found: {0} (resources are at troupe://server/ADDRESS; resources/list names them all)"
    )]
    UnknownResource(String),
    /// A virtual server does not offer this.
    #[error("virtual server {server} offers no {} {name:?}; its lists name everything it offers", kind.words())]
    NotChosen {
        /// The virtual server.
        server: ServerName,
        /// What was asked for.
        kind: VirtualKind,
        /// Its name.
        name: String,
    },
    /// The virtual server is no longer there.
    #[error(transparent)]
    VirtualServer(VirtualServerError),
    /// The server wants input that this client has no way to give.
    #[error("server {0} wants input from the user, which reaches only clients of revision 2026-07-28")]
    InputRequired(ServerName),
    /// The server wanted input, and the client did not give it.
    #[error("server {server} wants input from the user: {reason}")]
    InputRefused {
        /// The server.
        server: ServerName,
        /// Why there is none.
        reason: String,
    },
    /// The call cannot wait for the client's input, or no longer does.
    #[error(transparent)]
    Parking(#[from] ParkingError),
    /// What the client wants becomes a task, or is about one, and it does not say that it knows tasks.
    #[error("this needs a client that knows the extension io.modelcontextprotocol/tasks")]
    NeedsTasks,
    /// The client has cancelled the request.
    #[error("the request was cancelled")]
    Cancelled,
    /// The session has too many calls in flight.
    #[error("the session has {0} calls in flight already: wait for some of them")]
    TooManyCalls(usize),
    /// The server did not answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl Coded for Refusal {
    fn code(&self) -> Code {
        match self {
            Self::MethodNotFound(_) | Self::UnknownPrompt(_) | Self::UnknownResource(_) => Code::NotFound,
            Self::InvalidParams(_) | Self::HeaderMismatch(_) | Self::NeedsTasks => Code::InvalidField,
            Self::UnknownTool(_) => Code::ToolNotFound,
            Self::NotChosen { kind, .. } if *kind == VirtualKind::Tool => Code::ToolNotFound,
            Self::NotChosen { .. } => Code::NotFound,
            Self::VirtualServer(error) => error.code(),
            Self::InputRequired(_) | Self::InputRefused { .. } => Code::UpstreamProtocol,
            Self::Parking(ParkingError::NotForThis) => Code::InvalidField,
            Self::Parking(ParkingError::Full) => Code::TooManyRequests,
            Self::Parking(_) => Code::CallNotFound,
            Self::Cancelled => Code::CallCancelled,
            Self::TooManyCalls(_) => Code::TooManyRequests,
            Self::Upstream(error) => error.code(),
        }
    }
}

impl Refusal {
    /// The server says what it may not.
    pub(super) fn of_protocol(server: &ServerName, reason: &str) -> Self {
        Self::Upstream(UpstreamError::Protocol {
            server: server.clone(),
            reason: reason.to_owned(),
        })
    }

    /// The call has taken longer than it may.
    pub(super) fn too_late(server: &ServerName, method: &str, waited: Duration) -> Self {
        Self::Upstream(UpstreamError::DeadlineExceeded {
            server: server.clone(),
            method: method.to_owned(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The JSON-RPC error code for a client of this era.
    fn jsonrpc_code(&self, client: Era) -> i64 {
        match self {
            Self::MethodNotFound(_) => jsonrpc_code::METHOD_NOT_FOUND,
            Self::HeaderMismatch(_) => mcp_code::HEADER_MISMATCH,
            Self::NeedsTasks => mcp_code::MISSING_CLIENT_CAPABILITY,
            Self::Parking(ParkingError::NotForThis | ParkingError::Over | ParkingError::NodeGone) => {
                jsonrpc_code::INVALID_PARAMS
            }
            Self::InvalidParams(_) | Self::UnknownTool(_) | Self::UnknownPrompt(_) => {
                jsonrpc_code::INVALID_PARAMS
            }
            Self::UnknownResource(_) if client == Era::Legacy => mcp_code::RESOURCE_NOT_FOUND,
            Self::NotChosen { kind, .. } if *kind == VirtualKind::Resource && client == Era::Legacy => {
                mcp_code::RESOURCE_NOT_FOUND
            }
            Self::UnknownResource(_) | Self::NotChosen { .. } => jsonrpc_code::INVALID_PARAMS,
            Self::Upstream(UpstreamError::ToolNotFound { .. }) => jsonrpc_code::INVALID_PARAMS,
            _ => jsonrpc_code::INTERNAL_ERROR,
        }
    }

    /// Whether the same request may succeed when it is sent again.
    fn is_retryable(&self) -> bool {
        match self {
            Self::TooManyCalls(_) => true,
            Self::Parking(error) => !matches!(error, ParkingError::NotForThis),
            Self::Upstream(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Whether there is no room for the request at the moment, here or on the way to the server.
    fn is_for_load(&self) -> bool {
        matches!(
            self,
            Self::TooManyCalls(_)
                | Self::Parking(ParkingError::Full)
                | Self::Upstream(UpstreamError::Overloaded { .. })
        )
    }

    /// The answer for a client of this era; its `data` has the stable code.
    pub fn into_answer(self, client: Era) -> Answer {
        let code = self.jsonrpc_code(client);
        let mut data = format!(r#"{{"code":"{}""#, Coded::code(&self));
        let _ = write!(data, r#","retryable":{}"#, self.is_retryable());
        if matches!(self, Self::NeedsTasks) {
            let _ = write!(
                data,
                r#","requiredCapabilities":{{"extensions":{{"{}":{{}}}}}}"#,
                tasks::EXTENSION
            );
        }
        data.push('}');
        Answer::Error {
            code,
            object: edit::error_object(code, &self.to_string(), Some(&data)).into(),
            is_for_load: self.is_for_load(),
        }
    }
}

/// The answer to a client's request, ready to be put into a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The member `result`, as JSON text.
    Result(Box<str>),
    /// The member `error`.
    Error {
        /// Its code.
        code: i64,
        /// The whole object, as JSON text.
        object: Box<str>,
        /// Whether it was given here, for there is no room for the request at the moment.
        is_for_load: bool,
    },
}

impl Answer {
    /// The answer that a server's error object is.
    pub(super) fn of_error(object: Box<str>) -> Self {
        let code = serde_json::from_str(&object)
            .ok()
            .and_then(|raw: &serde_json::value::RawValue| ErrorObject::read(raw));
        Self::Error {
            code: code.map_or(jsonrpc_code::INTERNAL_ERROR, |error| error.code),
            object,
            is_for_load: false,
        }
    }

    /// The response with this id (JSON text), as one line.
    pub fn to_response(&self, id: &str) -> String {
        match self {
            Self::Result(result) => edit::response(id, "result", result),
            Self::Error { object, .. } => edit::response(id, "error", object),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refusals_have_the_codes_that_clients_know() {
        let code = |refusal: Refusal, era| match refusal.into_answer(era) {
            Answer::Error { code, .. } => code,
            Answer::Result(_) => 0,
        };
        assert_eq!(code(Refusal::MethodNotFound("x".into()), Era::Modern), -32601);
        assert_eq!(code(Refusal::UnknownTool("x".into()), Era::Legacy), -32602);
        assert_eq!(code(Refusal::UnknownResource("x".into()), Era::Legacy), -32002);
        assert_eq!(code(Refusal::UnknownResource("x".into()), Era::Modern), -32602);
        assert_eq!(code(Refusal::Cancelled, Era::Modern), -32603);
    }

    #[test]
    fn what_is_refused_for_load_is_told_from_what_the_server_says() {
        let is_for_load = |answer: Answer| {
            matches!(
                answer,
                Answer::Error {
                    is_for_load: true,
                    ..
                }
            )
        };
        let server = ServerName::new("a").unwrap();
        let reason = "5 calls are in flight".to_owned();
        let full = UpstreamError::Overloaded { server, reason };
        assert!(is_for_load(Refusal::TooManyCalls(3).into_answer(Era::Legacy)));
        assert!(is_for_load(Refusal::Upstream(full).into_answer(Era::Modern)));
        assert!(!is_for_load(Refusal::Cancelled.into_answer(Era::Modern)));
        let of_server = r#"{"code":-32603,"message":"too busy"}"#;
        assert!(!is_for_load(Answer::of_error(of_server.into())));
    }

    #[test]
    fn an_answer_tells_the_stable_code_and_becomes_a_response() {
        let answer = Refusal::UnknownTool("a\"b".into()).into_answer(Era::Legacy);
        let response: serde_json::Value = serde_json::from_str(&answer.to_response("\"7\"")).unwrap();
        assert_eq!(response["id"], "7");
        assert_eq!(response["error"]["data"]["code"], "T3010");
        assert!(response["error"]["message"].as_str().unwrap().contains("a\"b"));
    }
}
