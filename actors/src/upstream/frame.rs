//! Writing requests in the words of each era. Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits};
use troupe_protocol::mcp::{ClientCapabilities, Era, Profile, ProtocolVersion, header, meta, method};

/// How Troupe introduces itself to servers.
pub(super) const CLIENT_INFO: &str = concat!(
    r#"{"name":"troupe","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// The keys of `_meta` that describe one hop; a client's own must not reach the server as ours.
const HOP_KEYS: [&str; 3] = [
    meta::PROTOCOL_VERSION,
    meta::CLIENT_INFO,
    meta::CLIENT_CAPABILITIES,
];

/// How requests to one server are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    pub version: ProtocolVersion,
}

impl Dialect {
    pub const MODERN: Self = Self {
        version: ProtocolVersion::LATEST_MODERN,
    };
    pub const LEGACY: Self = Self {
        version: ProtocolVersion::LATEST_LEGACY,
    };

    pub fn era(self) -> Era {
        self.version.era()
    }

    /// A request as one line.
    ///
    /// `progress` says whether the caller wants to hear of progress: then the call's id becomes the token, else no
    /// token is passed on, since a stranger's could be taken for one of ours.
    pub fn request(
        self,
        id: u64,
        method: &str,
        params: Option<&RawValue>,
        client: &ClientCapabilities,
        progress: bool,
    ) -> String {
        let id = id.to_string();
        let mut edits = ObjectEdits::default();
        match self.era() {
            Era::Modern => edits.set.extend(self.hop_members(client)),
            Era::Legacy => edits.remove.extend(HOP_KEYS),
        }
        if progress {
            edits.set.push((meta::PROGRESS_TOKEN, Cow::Borrowed(&id)));
        } else {
            edits.remove.push(meta::PROGRESS_TOKEN);
        }
        let nothing_to_set = edits.set.is_empty();
        if nothing_to_set && !params.is_some_and(may_have_meta) {
            edits.remove.clear();
        }
        edit::call(Some(&id), method, params, &edits)
    }

    /// A notification as one line.
    pub fn notification(self, method: &str, params: Option<&RawValue>) -> String {
        edit::call(None, method, params, &ObjectEdits::default())
    }

    /// Tells the server that nobody waits for this call any more.
    pub fn cancelled(self, id: u64, reason: &str) -> String {
        let mut line = format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"requestId":{id},"reason":"#,
            method::NOTIFICATION_CANCELLED
        );
        edit::push_string(&mut line, reason);
        line.push_str("}}");
        line
    }

    fn hop_members(self, client: &ClientCapabilities) -> [(&'static str, Cow<'_, str>); 3] {
        [
            (
                meta::PROTOCOL_VERSION,
                Cow::Owned(format!("\"{}\"", self.version)),
            ),
            (meta::CLIENT_INFO, Cow::Borrowed(CLIENT_INFO)),
            (meta::CLIENT_CAPABILITIES, Cow::Borrowed(client.as_str())),
        ]
    }
}

/// The request that starts a legacy session for clients that can do this much for servers.
pub(super) fn initialize(id: u64, profile: Profile) -> String {
    let (method, version) = (method::INITIALIZE, ProtocolVersion::LATEST_LEGACY);
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"protocolVersion":"{version}","capabilities":{},"clientInfo":{CLIENT_INFO}}}}}"#,
        profile.to_capabilities()
    )
}

/// The request that asks a modern server to tell of changes, where it declares that it can.
pub(super) fn listen(id: u64, capabilities: &serde_json::Value) -> Option<String> {
    let announces = |kind: &str| capabilities[kind]["listChanged"] == serde_json::Value::Bool(true);
    let wanted: Vec<&str> = [
        ("tools", r#""toolsListChanged":true"#),
        ("prompts", r#""promptsListChanged":true"#),
    ]
    .into_iter()
    .chain([("resources", r#""resourcesListChanged":true"#)])
    .filter(|(kind, _)| announces(kind))
    .map(|(_, filter)| filter)
    .collect();
    if wanted.is_empty() {
        return None;
    }
    let (mut edits, nobody) = (ObjectEdits::default(), ClientCapabilities::default());
    edits.set.extend(Dialect::MODERN.hop_members(&nobody));
    let params = RawValue::from_string(format!(r#"{{"notifications":{{{}}}}}"#, wanted.join(","))).ok()?;
    Some(edit::call(
        Some(&id.to_string()),
        method::SUBSCRIPTIONS_LISTEN,
        Some(&params),
        &edits,
    ))
}

/// Whether it is worth looking for `_meta`. A key may be written with escapes, so these count as "perhaps".
fn may_have_meta(params: &RawValue) -> bool {
    params.get().contains("_meta") || params.get().contains("\\u")
}

/// The token under which the caller wants to hear of progress.
pub(super) fn progress_token(params: &RawValue) -> Option<Box<RawValue>> {
    if !may_have_meta(params) {
        return None;
    }
    let meta = edit::member(params, "_meta")?;
    edit::member(meta, meta::PROGRESS_TOKEN).map(ToOwned::to_owned)
}

/// What the request names, if requests of this method name something.
pub(super) fn name_of(method: &str, params: Option<&RawValue>) -> Option<String> {
    header::name_of(method, params).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_legacy_request_passes_as_it_is_but_for_hop_keys_and_tokens() {
        let client = ClientCapabilities::default();
        let line = |params: &str, progress| {
            Dialect::LEGACY.request(7, "tools/call", Some(&raw(params)), &client, progress)
        };
        let plain = r#"{ "name":"t" ,"arguments":{"n":1e400}}"#;
        assert_eq!(
            line(plain, false),
            format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{plain}}}"#)
        );
        let with_meta = r#"{"name":"t","_meta":{"progressToken":"x","io.modelcontextprotocol/protocolVersion":"2026-07-28","y":1}}"#;
        assert!(line(with_meta, false).ends_with(r#""params":{"name":"t","_meta":{"y":1}}}"#));
        assert!(
            line(with_meta, true).ends_with(r#""params":{"name":"t","_meta":{"progressToken":7,"y":1}}}"#)
        );
    }

    #[test]
    fn a_modern_request_carries_our_own_hop_keys() {
        let client = ClientCapabilities::new(raw(r#"{"elicitation":{}}"#));
        let line = Dialect::MODERN.request(7, "tools/list", None, &client, false);
        let expected = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{CLIENT_INFO},"io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{}}}}}}}}}}"#
        );
        assert_eq!(line, expected);
    }
}
