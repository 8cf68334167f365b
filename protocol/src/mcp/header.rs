//! What of a message HTTP headers say: their names, lower case, and how texts are written into their values (revision
//! 2026-07-28, basic/transports/streamable-http).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::method;
use crate::jsonrpc::edit;

/// The revision of the protocol of this request.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// The session (legacy).
pub const SESSION_ID: &str = "mcp-session-id";
/// The method of the request in the body (modern).
pub const METHOD: &str = "mcp-method";
/// What the request in the body names (modern): see [`name_member`].
pub const NAME: &str = "mcp-name";
/// Begins the headers that mirror arguments of a tool (modern).
pub const PARAM_PREFIX: &str = "mcp-param-";
/// The last event seen, to resume a stream (legacy).
pub const LAST_EVENT_ID: &str = "last-event-id";

const ENCODED_PREFIX: &str = "=?base64?";
const ENCODED_SUFFIX: &str = "?=";

/// The member of `params` that names what a request is about, for the methods whose requests repeat it in [`NAME`]
/// (section "Standard Request Headers"; the tasks extension adds its own).
pub fn name_member(method: &str) -> Option<&'static str> {
    match method {
        method::TOOLS_CALL | method::PROMPTS_GET => Some("name"),
        method::RESOURCES_READ => Some("uri"),
        method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => Some("taskId"),
        _ => None,
    }
}

/// What a request names, if requests of this method name something.
pub fn name_of<'a>(method: &str, params: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    let member = match method {
        method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE => "uri", // methods of the legacy era alone
        _ => name_member(method)?,
    };
    edit::string_member(params?, member)
}

/// A text as the value of a header: as it is where that is safe, else in Base64 (section "Value Encoding").
pub fn encode_value(text: &str) -> Cow<'_, str> {
    let is_plain = text
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t');
    let is_padded = text.trim() != text;
    let looks_encoded = text.starts_with(ENCODED_PREFIX) && text.ends_with(ENCODED_SUFFIX);
    if is_plain && !is_padded && !looks_encoded {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!(
        "{ENCODED_PREFIX}{}{ENCODED_SUFFIX}",
        STANDARD.encode(text)
    ))
}

/// The text that a header's value stands for: itself, or what is encoded in it. Nothing if it is encoded wrongly.
pub fn decode_value(value: &str) -> Option<Cow<'_, str>> {
    let Some(encoded) = value
        .strip_prefix(ENCODED_PREFIX)
        .and_then(|rest| rest.strip_suffix(ENCODED_SUFFIX))
    else {
        return Some(Cow::Borrowed(value));
    };
    String::from_utf8(STANDARD.decode(encoded).ok()?)
        .ok()
        .map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_encoded_as_the_revision_says() {
        for (text, expected) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(encode_value(text), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text: String) {
            let encoded = encode_value(&text);
            prop_assert!(encoded.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t'));
            let decoded = decode_value(&encoded).unwrap();
            prop_assert_eq!(decoded.as_ref(), text.as_str());
        }
    }

    #[test]
    fn the_name_of_a_request_is_found() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let call = raw(r#"{"name":"a\"b"}"#);
        assert_eq!(name_of("tools/call", Some(&call)).as_deref(), Some("a\"b"));
        let read = raw(r#"{"uri":"file:///x"}"#);
        assert_eq!(
            name_of("resources/read", Some(&read)).as_deref(),
            Some("file:///x")
        );
        assert_eq!(name_of("tools/list", Some(&call)), None);
        let task = raw(r#"{"taskId":"t1"}"#);
        assert_eq!(name_of("tasks/get", Some(&task)).as_deref(), Some("t1"));
    }
}
