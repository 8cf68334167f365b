//! The raw JSON-RPC core: a message is looked at, not re-typed.
//!
//! A gateway that parses `params` and `result` into values and prints them again loses what it does not know:
//! integers beyond 64 bits, the order and spelling of members, fields of a later revision. So the parts of a message
//! stay the bytes they came in ([`RawValue`]), and what must change (the id, the progress token, `_meta`) is spliced
//! in between the others ([`edit`]).
//!
//! What lives here: parsing, classification, the bounds on size and depth, and splicing. What does not: methods and
//! fields of the Model Context Protocol ([`crate::mcp`]), and anything that sends or receives.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

mod depth;
pub mod edit;

pub use depth::DEPTH_MAX;

/// The largest message that is read from a client or a server, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Error codes of JSON-RPC 2.0 itself (section 5.1).
pub mod code {
    /// The text is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The JSON is not a request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The method does not exist.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters are wrong.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The receiver failed.
    pub const INTERNAL_ERROR: i64 = -32603;
}

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The text is not UTF-8 or not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// The message is larger than the bound.
    #[error("the message has {bytes} bytes, at most {bytes_max} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The message nests deeper than [`DEPTH_MAX`].
    #[error("the message nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// The message is an array: no current revision of MCP has batches.
    #[error("a batch is not a message: send each message on its own")]
    Batch,
    /// The JSON is not a JSON-RPC 2.0 message.
    #[error("not a JSON-RPC 2.0 message: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
        /// Its id, where it has a usable one: the answer must carry it.
        id: Option<Box<RawValue>>,
    },
}

impl ParseError {
    /// The JSON-RPC error code with which the sender is answered.
    pub fn code(&self) -> i64 {
        match self {
            Self::NotJson(_) => code::PARSE_ERROR,
            _ => code::INVALID_REQUEST,
        }
    }

    /// The id with which the sender is answered, if the message had a usable one.
    pub fn id(&self) -> Option<&RawValue> {
        match self {
            Self::Invalid { id, .. } => id.as_deref(),
            _ => None,
        }
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id, and wants an answer.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has an id and a result or an error.
    Response,
}

/// A message, borrowed from its text.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The whole text, without the white space around it.
    pub text: &'a str,
    /// What it is.
    pub kind: Kind,
    /// The id as written; `null` only in an error response to a message that could not be read.
    pub id: Option<&'a RawValue>,
    /// The method of a request or notification.
    pub method: Option<Cow<'a, str>>,
    /// The parameters of a request or notification.
    pub params: Option<&'a RawValue>,
    /// The result of a response.
    pub result: Option<&'a RawValue>,
    /// The error object of a response.
    pub error: Option<&'a RawValue>,
}

/// The members of a message as they are written. A member that is `null` is told apart from one that is absent.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Message<'a> {
    /// Reads a message of at most [`MESSAGE_BYTES_MAX`] from the bytes of one line, body or event.
    ///
    /// # Errors
    /// As [`ParseError`] says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        Self::parse_within(bytes, MESSAGE_BYTES_MAX)
    }

    /// Reads a message of at most so many bytes.
    ///
    /// # Errors
    /// As [`ParseError`] says.
    pub fn parse_within(bytes: &'a [u8], bytes_max: usize) -> Result<Self, ParseError> {
        if bytes.len() > bytes_max {
            return Err(ParseError::TooLarge {
                bytes: bytes.len(),
                bytes_max,
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| ParseError::NotJson(error.to_string()))?;
        Self::parse_str(text)
    }

    /// Reads a message from text whose size has been bounded by the caller.
    ///
    /// # Errors
    /// As [`ParseError`] says.
    pub fn parse_str(text: &'a str) -> Result<Self, ParseError> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if depth::is_too_deep(text.as_bytes()) {
            return Err(ParseError::TooDeep);
        }
        match text.as_bytes().first() {
            Some(b'{') => {}
            Some(b'[') => return Err(batch_or_garbage(text)),
            _ => return Err(not_an_object(text)),
        }
        let members: Members<'a> = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => ParseError::Invalid {
                reason: error.to_string(),
                id: None,
            },
            _ => ParseError::NotJson(error.to_string()),
        })?;
        members.into_message(text)
    }

    /// Whether the message is a request.
    pub fn is_request(&self) -> bool {
        self.kind == Kind::Request
    }

    /// The method of a request or notification, the empty text for a response.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// The id as an unsigned integer: the form of the ids that Troupe itself gives to requests.
    pub fn id_u64(&self) -> Option<u64> {
        self.id.and_then(|id| id.get().parse().ok())
    }
}

impl<'a> Members<'a> {
    fn into_message(self, text: &'a str) -> Result<Message<'a>, ParseError> {
        let answerable_id = self.id.filter(|id| is_request_id(id));
        let invalid = |reason: &str| ParseError::Invalid {
            reason: reason.to_owned(),
            id: answerable_id.map(ToOwned::to_owned),
        };
        if self.jsonrpc.map(RawValue::get) != Some(r#""2.0""#) {
            return Err(invalid(r#"member "jsonrpc" must be "2.0""#));
        }
        let (kind, method) = match (self.method, self.id, self.result.is_some(), self.error.is_some()) {
            (Some(method), id, false, false) => {
                let method =
                    string_of(method).ok_or_else(|| invalid(r#"member "method" must be a string"#))?;
                match id {
                    None => (Kind::Notification, Some(method)),
                    Some(_) if answerable_id.is_some() => (Kind::Request, Some(method)),
                    Some(_) => return Err(invalid(r#"member "id" must be a string or an integer"#)),
                }
            }
            (None, Some(id), true, false) if is_request_id(id) => (Kind::Response, None),
            (None, Some(id), false, true) if is_request_id(id) || id.get() == "null" => {
                (Kind::Response, None)
            }
            (None, None, false, true) => (Kind::Response, None),
            _ => return Err(invalid("neither a request, nor a notification, nor a response")),
        };
        let Self {
            id,
            params,
            result,
            error,
            ..
        } = self;
        Ok(Message {
            text,
            kind,
            id,
            method,
            params,
            result,
            error,
        })
    }
}

/// Whether an id may name a request: MCP allows strings and integers (of any size), not `null`.
fn is_request_id(id: &RawValue) -> bool {
    let text = id.get();
    text.starts_with('"')
        || text
            .strip_prefix('-')
            .unwrap_or(text)
            .bytes()
            .all(|byte| byte.is_ascii_digit())
}

fn batch_or_garbage(text: &str) -> ParseError {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => ParseError::Batch,
        Err(error) => ParseError::NotJson(error.to_string()),
    }
}

fn not_an_object(text: &str) -> ParseError {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => ParseError::Invalid {
            reason: "a message is an object".to_owned(),
            id: None,
        },
        Err(error) => ParseError::NotJson(error.to_string()),
    }
}

/// Appends a message as one line, the form that standard streams want. Line breaks within JSON are white space between its
/// parts, so a blank does as well.
pub fn push_line(buffer: &mut Vec<u8>, message: &str) {
    let start = buffer.len();
    buffer.extend_from_slice(message.as_bytes());
    for byte in &mut buffer[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    buffer.push(b'\n');
}

/// The text of a JSON string, borrowed where it has no escapes; nothing if the value is not a string.
pub fn string_of(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(value.get()).ok().map(Cow::Owned)
}

/// A message that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    text: Box<str>,
}

impl RawMessage {
    /// Keeps a text that has been read as a message.
    ///
    /// # Errors
    /// If the text is not a message.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, ParseError> {
        let text = text.into();
        Message::parse_str(&text)?;
        Ok(Self { text })
    }

    /// The bytes as they came or were spliced.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text itself.
    pub fn into_text(self) -> Box<str> {
        self.text
    }

    /// The parts of the message.
    ///
    /// # Errors
    /// Never for a message that was made by [`RawMessage::new`].
    pub fn message(&self) -> Result<Message<'_>, ParseError> {
        Message::parse_str(&self.text)
    }
}

impl From<&Message<'_>> for RawMessage {
    fn from(message: &Message<'_>) -> Self {
        Self {
            text: message.text.into(),
        }
    }
}

/// The answer to a request, as the server wrote it.
#[derive(Debug, Clone)]
pub enum RawReply {
    /// The member `result`.
    Result(Box<RawValue>),
    /// The member `error`: an object with `code`, `message` and perhaps `data`.
    Error(Box<RawValue>),
}

impl RawReply {
    /// The reply as a response to the request with this id.
    pub fn to_response(&self, id: &RawValue) -> String {
        match self {
            Self::Result(result) => edit::response(id.get(), "result", result.get()),
            Self::Error(error) => edit::response(id.get(), "error", error.get()),
        }
    }
}

/// The code and message of an error object; unknown members are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct ErrorObject {
    /// The error code.
    pub code: i64,
    /// What went wrong.
    #[serde(default)]
    pub message: String,
    /// Whatever the sender added.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
}

impl ErrorObject {
    /// Reads an error object leniently: nothing if it has no integer code.
    pub fn read(error: &RawValue) -> Option<Self> {
        serde_json::from_str(error.get()).ok()
    }
}

#[cfg(test)]
mod tests;
