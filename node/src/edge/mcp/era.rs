//! Which era a message belongs to, and whether a modern message carries what it must.
//!
//! A message is modern if it says so: by a version in its `_meta`, or by its headers. `initialize` without that is
//! legacy whatever the headers say. Modern messages are checked as the specification's section "Server Validation"
//! (2026-07-28, basic/transports/streamable-http) asks: what headers and body say twice must be the same.

use std::borrow::Cow;

use http::HeaderMap;
use serde_json::value::RawValue;
use troupe_actors::upstream::ParamHeaders;
use troupe_protocol::jsonrpc::{Message, edit, string_of};
use troupe_protocol::mcp::{ClientCapabilities, Era, ProtocolVersion, header, meta, method};

use super::fault::Fault;

/// The headers by which MCP requests are described. Absent, repeated and unreadable ones are told apart.
#[derive(Debug, Clone, Copy)]
pub struct McpHeaders<'a> {
    /// `MCP-Protocol-Version`
    pub protocol_version: Option<&'a str>,
    /// `Mcp-Session-Id`
    pub session_id: Option<&'a str>,
    /// `Mcp-Method`
    pub method: Option<&'a str>,
    /// `Mcp-Name`
    pub name: Option<&'a str>,
}

impl<'a> McpHeaders<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`Fault::header_mismatch`] for a header that is given twice or has characters that no header value has.
    pub fn read(headers: &'a HeaderMap) -> Result<Self, Fault> {
        Ok(Self {
            protocol_version: only(headers, header::PROTOCOL_VERSION)?,
            session_id: only(headers, header::SESSION_ID)?,
            method: only(headers, header::METHOD)?,
            name: only(headers, header::NAME)?,
        })
    }

    /// Whether the version header names a modern revision. For requests without a body, this decides their era.
    pub fn is_modern(&self) -> bool {
        self.known_version()
            .is_some_and(|version| version.era() == Era::Modern)
    }

    fn known_version(&self) -> Option<ProtocolVersion> {
        self.protocol_version?.parse().ok()
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Fault::header_mismatch(format!(
            "the header {name} is given more than once"
        )));
    }
    let text = value
        .to_str()
        .map_err(|_| Fault::header_mismatch(format!("the header {name} is not visible ASCII")))?;
    Ok(Some(text.trim()))
}

/// What is looked at of a request's `params._meta`. It is read once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meta<'a> {
    version: Option<&'a RawValue>,
    capabilities: Option<&'a RawValue>,
    /// The token under which the client wants to hear of progress.
    pub progress_token: Option<&'a RawValue>,
    /// From which level on the client wants log messages.
    pub log_level: Option<&'a RawValue>,
}

/// The `_meta` of a message, empty if it has none.
pub fn meta_of<'a>(message: &Message<'a>) -> Meta<'a> {
    let Some(meta) = message.params.and_then(|params| edit::member(params, "_meta")) else {
        return Meta::default();
    };
    let keys = [
        meta::PROTOCOL_VERSION,
        meta::CLIENT_CAPABILITIES,
        meta::PROGRESS_TOKEN,
        meta::LOG_LEVEL,
    ];
    let [version, capabilities, progress_token, log_level] = edit::find(meta, keys);
    Meta {
        version,
        capabilities,
        progress_token,
        log_level,
    }
}

/// The era of a message.
pub fn era_of(headers: &McpHeaders<'_>, message: &Message<'_>, meta: &Meta<'_>) -> Era {
    if meta.version.is_some() {
        return Era::Modern;
    }
    match (message.method(), headers.known_version()) {
        (method::INITIALIZE, _) => Era::Legacy,
        (_, Some(version)) => version.era(),
        (method::DISCOVER, None) => Era::Modern,
        // A version that nobody knows, or none: only modern clients name the method in a header, and only legacy
        // clients have a session.
        (_, None) if headers.session_id.is_some() => Era::Legacy,
        (_, None) if headers.method.is_some() => Era::Modern,
        (_, None) => Era::Legacy,
    }
}

/// Checks a modern request's `_meta` and headers. What it says its client can do is the only thing to keep of them.
///
/// # Errors
/// The fault with which the specification wants it answered: -32020, -32022 or -32602, all with status 400.
pub fn check_modern(
    headers: &McpHeaders<'_>,
    message: &Message<'_>,
    meta: &Meta<'_>,
) -> Result<ClientCapabilities, Fault> {
    check_version(headers, meta)?;
    let capabilities = meta
        .capabilities
        .filter(|capabilities| capabilities.get().starts_with('{'));
    let capabilities = capabilities.ok_or_else(|| {
        Fault::malformed_meta(format!(
            "params._meta[{:?}] is required and is an object",
            meta::CLIENT_CAPABILITIES
        ))
    })?;
    check_method(headers, message)?;
    check_name(headers, message)?;
    Ok(ClientCapabilities::new(capabilities.to_owned()))
}

fn check_version(headers: &McpHeaders<'_>, meta: &Meta<'_>) -> Result<(), Fault> {
    let Some(in_meta) = meta.version else {
        if let Some(unknown) = headers
            .protocol_version
            .filter(|_| headers.known_version().is_none())
        {
            return Err(Fault::unsupported_version(unknown));
        }
        return Err(Fault::malformed_meta(format!(
            "params._meta[{:?}] is required",
            meta::PROTOCOL_VERSION
        )));
    };
    let in_meta = string_of(in_meta).ok_or_else(|| {
        Fault::malformed_meta(format!("params._meta[{:?}] is a string", meta::PROTOCOL_VERSION))
    })?;
    match headers.protocol_version {
        None => {
            return Err(Fault::header_mismatch(
                "the header MCP-Protocol-Version is required".to_owned(),
            ));
        }
        Some(in_header) if in_header != in_meta => {
            return Err(Fault::header_mismatch(format!(
                "the header MCP-Protocol-Version says {in_header:?}, the body says {in_meta:?}"
            )));
        }
        Some(_) => {}
    }
    match in_meta.parse::<ProtocolVersion>() {
        Ok(version) if version.era() == Era::Modern => Ok(()),
        _ => Err(Fault::unsupported_version(&in_meta)),
    }
}

fn check_method(headers: &McpHeaders<'_>, message: &Message<'_>) -> Result<(), Fault> {
    let in_body = message.method();
    match headers.method {
        None => Err(Fault::header_mismatch(
            "the header Mcp-Method is required".to_owned(),
        )),
        Some(in_header) if in_header != in_body => Err(Fault::header_mismatch(format!(
            "the header Mcp-Method says {in_header:?}, the body says {in_body:?}"
        ))),
        Some(_) => Ok(()),
    }
}

fn check_name(headers: &McpHeaders<'_>, message: &Message<'_>) -> Result<(), Fault> {
    let Some(key) = header::name_member(message.method()) else {
        return Ok(());
    };
    let Some(in_header) = headers.name else {
        return Err(Fault::header_mismatch(format!(
            "the header Mcp-Name is required for {}",
            message.method()
        )));
    };
    let in_header = header::decode_value(in_header).ok_or_else(|| {
        Fault::header_mismatch("the header Mcp-Name is not valid Base64 of UTF-8".to_owned())
    })?;
    let in_body = message.params.and_then(|params| edit::string_member(params, key));
    let Some(in_body) = in_body else {
        return Err(Fault::header_mismatch(format!(
            "the header Mcp-Name says {in_header:?}, the body has no params.{key}"
        )));
    };
    if in_header != in_body {
        return Err(Fault::header_mismatch(format!(
            "the header Mcp-Name says {in_header:?}, the body says {in_body:?}"
        )));
    }
    Ok(())
}

/// The headers `Mcp-Param-*`: what each stands for, or nothing where it cannot be read or is given more than once.
pub fn param_headers(headers: &HeaderMap) -> ParamHeaders {
    let mut given = ParamHeaders::new();
    let named = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(header::PARAM_PREFIX));
    for (name, value) in named {
        let text = value.to_str().ok().map(str::trim).and_then(header::decode_value);
        let text = text.filter(|_| !given.contains_key(name.as_str()));
        given.insert(name.as_str().to_owned(), text.map(Cow::into_owned));
    }
    given
}

/// Checks the version header of a legacy request that belongs to a session.
///
/// # Errors
/// For a revision that is not spoken here. A missing header is fine: the session knows its revision.
pub fn check_legacy_version(headers: &McpHeaders<'_>) -> Result<(), Fault> {
    match headers.protocol_version {
        Some(version) if headers.known_version().is_none() => Err(Fault::unsupported_version(version)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    const MODERN: &str = "2026-07-28";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn body(method: &str, mut params: Value, version: Option<&str>) -> String {
        if let Some(version) = version {
            params["_meta"] = json!({ meta::PROTOCOL_VERSION: version, meta::CLIENT_CAPABILITIES: {} });
        }
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
    }

    fn era(pairs: &[(&str, &str)], body: &str) -> Era {
        let headers = headers(pairs);
        let message = Message::parse_str(body).unwrap();
        era_of(&McpHeaders::read(&headers).unwrap(), &message, &meta_of(&message))
    }

    fn check(pairs: &[(&str, &str)], body: &str) -> Result<ClientCapabilities, (u16, i64)> {
        let headers = headers(pairs);
        let message = Message::parse_str(body).unwrap();
        let read = McpHeaders::read(&headers).map_err(|fault| (fault.status.as_u16(), fault.code))?;
        check_modern(&read, &message, &meta_of(&message)).map_err(|fault| (fault.status.as_u16(), fault.code))
    }

    #[test]
    fn the_era_is_what_the_message_says_of_itself() {
        let list = |version| body("tools/list", json!({}), version);
        let version = "mcp-protocol-version";
        assert_eq!(era(&[], &list(None)), Era::Legacy);
        assert_eq!(era(&[(version, "2025-11-25")], &list(None)), Era::Legacy);
        assert_eq!(era(&[(version, MODERN)], &list(None)), Era::Modern);
        assert_eq!(era(&[], &list(Some(MODERN))), Era::Modern);
        assert_eq!(
            era(&[(version, "2025-11-25")], &list(Some("1900-01-01"))),
            Era::Modern
        );
        assert_eq!(
            era(
                &[(version, "1900-01-01"), ("mcp-method", "tools/list")],
                &list(None)
            ),
            Era::Modern
        );
        assert_eq!(
            era(&[(version, "1900-01-01"), ("mcp-session-id", "x")], &list(None)),
            Era::Legacy
        );
        assert_eq!(era(&[], &body("server/discover", json!({}), None)), Era::Modern);
        assert_eq!(
            era(&[(version, MODERN)], &body("initialize", json!({}), None)),
            Era::Legacy
        );
    }

    #[test]
    fn a_modern_request_is_taken_when_headers_and_body_agree() {
        let base = [
            ("mcp-protocol-version", MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
        ];
        let capabilities = check(&base, &body("tools/call", json!({"name": "echo"}), Some(MODERN))).unwrap();
        assert_eq!(capabilities.as_str(), "{}");
        let encoded = [base[0], base[1], ("mcp-name", "=?base64?w6k=?=")];
        assert!(check(&encoded, &body("tools/call", json!({"name": "é"}), Some(MODERN))).is_ok());
        assert!(check(&base[..1], &body("x", json!({}), Some(MODERN))).is_err());
    }

    #[test]
    fn what_is_absent_or_disagrees_is_refused_with_the_right_code() {
        let version = ("mcp-protocol-version", MODERN);
        let (called, named) = (("mcp-method", "tools/call"), ("mcp-name", "echo"));
        let call = body("tools/call", json!({"name": "echo"}), Some(MODERN));
        let refused = [
            (vec![called, named], call.clone(), -32020),
            (
                vec![("mcp-protocol-version", "2025-11-25"), called, named],
                call.clone(),
                -32020,
            ),
            (vec![version, named], call.clone(), -32020),
            (
                vec![version, ("mcp-method", "Tools/Call"), named],
                call.clone(),
                -32020,
            ),
            (vec![version, called], call.clone(), -32020),
            (vec![version, called, ("mcp-name", "other")], call.clone(), -32020),
            (
                vec![version, called, ("mcp-name", "=?base64?!?=")],
                call.clone(),
                -32020,
            ),
            (vec![version, called, named, named], call, -32020),
            (
                vec![version, called, named],
                body("tools/call", json!({}), Some(MODERN)),
                -32020,
            ),
            (
                vec![version, called, named],
                body("tools/call", json!({"name": "echo"}), None),
                -32602,
            ),
            (
                vec![("mcp-protocol-version", "1900-01-01"), called, named],
                body("tools/call", json!({"name": "echo"}), Some("1900-01-01")),
                -32022,
            ),
            (
                vec![("mcp-protocol-version", "1900-01-01"), called, named],
                body("tools/call", json!({}), None),
                -32022,
            ),
        ];
        for (headers, body, code) in refused {
            assert_eq!(
                check(&headers, &body).unwrap_err(),
                (400, code),
                "{headers:?} {body}"
            );
        }
        let no_capabilities = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list",
            "params": {"_meta": {meta::PROTOCOL_VERSION: MODERN}}});
        let listed = [version, ("mcp-method", "tools/list")];
        assert_eq!(
            check(&listed, &no_capabilities.to_string()).unwrap_err(),
            (400, -32602)
        );
    }

    #[test]
    fn header_values_are_decoded_as_the_specification_shows() {
        for (value, text) in [
            ("us-west1", "us-west1"),
            ("=?base64?SGVsbG8sIOS4lueVjA==?=", "Hello, 世界"),
            ("=?base64?IHBhZGRlZCA=?=", " padded "),
            ("=?base64?bGluZTEKbGluZTI=?=", "line1\nline2"),
            ("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "=?base64?literal?="),
        ] {
            assert_eq!(header::decode_value(value).as_deref(), Some(text));
        }
    }
}
