//! One line from the client: what it is, and which headers HTTP wants with it. Pure.

use http::{HeaderMap, HeaderValue};
use serde_json::value::RawValue;
use troupe_protocol::{
    jsonrpc::{Kind, Message, code, edit},
    mcp::{header, meta, method},
};

/// A message as the client wrote it.
#[derive(Debug, Clone)]
pub struct Line {
    pub text: String,
    pub kind: Kind,
    /// The id as written, of a request or a response.
    pub id: Option<String>,
    /// Empty for a response.
    pub method: String,
    /// The revision that the message says itself: only modern ones do.
    pub version: Option<String>,
    /// What the message is about, such as a tool.
    name: Option<String>,
    /// The id of the request that it cancels.
    pub cancels: Option<String>,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// The error response that tells the client what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let message = Message::parse(bytes)
            .map_err(|error| edit::error_response(error.id(), error.code(), &error.to_string(), None))?;
        let meta = message.params.and_then(|params| edit::member(params, "_meta"));
        let cancelled = message
            .params
            .filter(|_| message.method() == method::NOTIFICATION_CANCELLED)
            .and_then(|params| edit::member(params, "requestId"));
        Ok(Self {
            kind: message.kind,
            id: message.id.map(|id| id.get().to_owned()),
            method: message.method().to_owned(),
            version: meta
                .and_then(|meta| edit::string_member(meta, meta::PROTOCOL_VERSION))
                .map(|version| version.into_owned()),
            name: header::name_of(message.method(), message.params).map(|name| name.into_owned()),
            cancels: cancelled.map(|id| id.get().to_owned()),
            text: message.text.to_owned(),
        })
    }

    pub fn is_initialize(&self) -> bool {
        self.method == method::INITIALIZE && self.version.is_none()
    }

    pub fn is_initialized(&self) -> bool {
        self.method == method::INITIALIZED
    }

    /// The headers that a modern message repeats itself in; none of a legacy one.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(version) = &self.version else {
            return headers;
        };
        let stated = [
            (header::PROTOCOL_VERSION, Some(version)),
            (header::METHOD, Some(&self.method)),
            (header::NAME, self.name.as_ref()),
        ];
        for (name, text) in stated {
            let value = text.and_then(|text| HeaderValue::from_str(&header::encode_value(text)).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// The answer when there is none: what went wrong on the way. Only requests have one.
    pub fn failure(&self, why: &str) -> Option<String> {
        if self.kind != Kind::Request {
            return None;
        }
        let id = self.id.clone().and_then(|id| RawValue::from_string(id).ok());
        Some(edit::error_response(
            id.as_deref(),
            code::INTERNAL_ERROR,
            why,
            None,
        ))
    }

    /// Whether a message answers this request.
    pub fn is_answered_by(&self, message: &Message<'_>) -> bool {
        message.kind == Kind::Response && message.id.map(RawValue::get) == self.id.as_deref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_modern_message_repeats_itself_in_headers() {
        let text = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"größer","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let line = Line::read(text.as_bytes()).unwrap();
        let headers = line.headers();
        assert_eq!(headers[header::METHOD], "tools/call");
        assert_eq!(headers[header::PROTOCOL_VERSION], "2026-07-28");
        assert_eq!(headers[header::NAME], "=?base64?Z3LDtsOfZXI=?=");
        assert!(!line.is_initialize());
    }

    #[test]
    fn a_legacy_message_needs_no_headers_of_its_own() {
        let text = r#"{"jsonrpc":"2.0","id":"a","method":"initialize","params":{}}"#;
        let line = Line::read(text.as_bytes()).unwrap();
        assert!(line.is_initialize() && line.headers().is_empty());
        let answer = line.failure("no node").unwrap();
        assert!(Line::read(answer.as_bytes()).unwrap().id.as_deref() == Some("\"a\""));
    }

    #[test]
    fn what_is_no_message_is_answered() {
        let answer = Line::read(b"{\"jsonrpc\":\"2.0\",\"id\":4}").unwrap_err();
        assert!(
            answer.contains("\"id\":4") && answer.contains("-32600"),
            "{answer}"
        );
        assert!(Line::read(b"hello").unwrap_err().contains("-32700"));
    }

    #[test]
    fn a_cancellation_names_its_request() {
        let text = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x"}}"#;
        assert_eq!(Line::read(text).unwrap().cancels.as_deref(), Some("\"x\""));
    }
}
