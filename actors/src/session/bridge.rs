//! Between the eras: what a reply needs so that a client of the other era can read it. Pure.
//!
//! Between peers of one era nothing is changed (but for what is required and missing) and the bytes pass as they are. What the request needs is added by
//! the upstream, which knows its server; here are the replies.

use std::borrow::Cow;

use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits};
use troupe_protocol::jsonrpc::{ErrorObject, code as jsonrpc_code, string_of};
use troupe_protocol::mcp::{Era, code as mcp_code, meta, method};

/// A result that a legacy client has no way to take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server wants input from the user, which reaches only clients of revision 2026-07-28")]
pub struct InputRequired;

/// How long a client may keep what it is told without saying how long, in milliseconds: not at all.
const TTL_MS: &str = "0";

/// A server's result for a client of this era.
///
/// # Errors
/// [`InputRequired`] where a modern server wants more input and the client is legacy.
pub fn result_for<'a>(
    client: Era,
    server: Era,
    method: &str,
    result: &'a RawValue,
) -> Result<Cow<'a, str>, InputRequired> {
    match (client, server) {
        // What is asked of the client instead is made here and is not to be kept.
        (Era::Modern, Era::Legacy) if asks_for_input(result) => Ok(Cow::Borrowed(result.get())),
        (Era::Modern, Era::Legacy) => Ok(completed(method, result.get())),
        // The member is required, and yet modern servers are about that forget it.
        (Era::Modern, Era::Modern) if !result.get().contains("\"resultType\"") => {
            Ok(completed(method, result.get()))
        }
        (Era::Legacy, Era::Modern) => as_legacy(result),
        _ => Ok(Cow::Borrowed(result.get())),
    }
}

/// A result of ours, or of a legacy server, with what every modern result has.
pub fn completed<'a>(method: &str, result: &'a str) -> Cow<'a, str> {
    let Some(members) = result.strip_prefix('{') else {
        return Cow::Borrowed(result);
    };
    // Only the rare result that has such a word somewhere is looked at more closely.
    let has = |key: &str| {
        result.contains(key)
            && serde_json::from_str::<&RawValue>(result).is_ok_and(|raw| edit::member(raw, key).is_some())
    };
    let mut added = String::new();
    let mut add = |key: &str, value: &str| {
        if !has(key) {
            added.extend(["\"", key, "\":", value, ","]);
        }
    };
    add("resultType", "\"complete\"");
    if is_cacheable(method) {
        add("ttlMs", TTL_MS);
        add("cacheScope", "\"private\"");
    }
    if members.trim_start().starts_with('}') {
        added.pop();
    }
    Cow::Owned(["{", &added, members].concat())
}

/// Whether results of this method say how long they may be kept (2026-07-28, server/utilities/caching).
fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        method::DISCOVER
            | method::TOOLS_LIST
            | method::PROMPTS_LIST
            | method::RESOURCES_LIST
            | method::RESOURCES_TEMPLATES_LIST
            | method::RESOURCES_READ
    )
}

/// The parameters of a legacy client's request for a modern server, which logs only for requests that say from which
/// level on. What the client itself says there counts.
pub(super) fn with_log_level(params: Option<Box<RawValue>>, level: &str) -> Option<Box<RawValue>> {
    let empty = || RawValue::from_string("{}".to_owned()).ok();
    let params = params.or_else(empty)?;
    let meta = edit::member(&params, "_meta");
    if meta.is_some_and(|meta| edit::member(meta, meta::LOG_LEVEL).is_some()) {
        return Some(params);
    }
    let set = |object: &RawValue, key: &str, value: String| {
        let edits = ObjectEdits {
            set: vec![(key, Cow::Owned(value))],
            remove: Vec::new(),
        };
        edit::with_members(object, &edits)
    };
    let meta = meta.map(ToOwned::to_owned).or_else(empty)?;
    let changed = set(&meta, meta::LOG_LEVEL, format!("\"{level}\""));
    let changed = changed.and_then(|meta| set(&params, "_meta", meta));
    // Parameters that are no object pass as they are: the server will say what is wrong with them.
    Some(
        changed
            .and_then(|text| RawValue::from_string(text).ok())
            .unwrap_or(params),
    )
}

/// As [`wants_input`], without looking closely at results that do not have the words.
fn asks_for_input(result: &RawValue) -> bool {
    result.get().contains("\"input_required\"") && wants_input(result)
}

/// Whether the server wants input before it answers.
pub(super) fn wants_input(result: &RawValue) -> bool {
    let result_type = edit::member(result, "resultType").and_then(string_of);
    result_type.is_some_and(|result_type| result_type == "input_required")
}

fn as_legacy(result: &RawValue) -> Result<Cow<'_, str>, InputRequired> {
    const MODERN_MEMBERS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];
    if wants_input(result) {
        return Err(InputRequired);
    }
    let edits = ObjectEdits {
        set: Vec::new(),
        remove: MODERN_MEMBERS.to_vec(),
    };
    Ok(edit::with_members(result, &edits).map_or(Cow::Borrowed(result.get()), Cow::Owned))
}

/// A server's error for a client of this era: the code of a resource that does not exist has changed.
pub fn error_for(client: Era, error: &RawValue) -> Cow<'_, str> {
    let is_retired = client == Era::Modern
        && ErrorObject::read(error).is_some_and(|error| error.code == mcp_code::RESOURCE_NOT_FOUND);
    if !is_retired {
        return Cow::Borrowed(error.get());
    }
    let edits = ObjectEdits {
        set: vec![("code", Cow::Owned(jsonrpc_code::INVALID_PARAMS.to_string()))],
        remove: Vec::new(),
    };
    edit::with_members(error, &edits).map_or(Cow::Borrowed(error.get()), Cow::Owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn between_peers_of_one_era_nothing_changes() {
        let odd = r#"{ "x" : 1e400 , "resultType":"complete"}"#;
        for era in [Era::Legacy, Era::Modern] {
            assert!(
                matches!(result_for(era, era, "tools/list", raw(odd)), Ok(Cow::Borrowed(same)) if same == odd)
            );
        }
    }

    #[test]
    fn a_modern_result_without_a_type_is_complete() {
        let result = result_for(Era::Modern, Era::Modern, "tools/call", raw(r#"{"content":[]}"#)).unwrap();
        assert_eq!(result, r#"{"resultType":"complete","content":[]}"#);
    }

    #[test]
    fn a_legacy_result_gains_what_modern_ones_have() {
        let of = |method, text| {
            result_for(Era::Modern, Era::Legacy, method, raw(text))
                .unwrap()
                .into_owned()
        };
        assert_eq!(
            of("tools/call", r#"{"content":[]}"#),
            r#"{"resultType":"complete","content":[]}"#
        );
        assert_eq!(of("tools/call", "{}"), r#"{"resultType":"complete"}"#);
        assert_eq!(of("tools/call", "{ }"), r#"{"resultType":"complete" }"#);
        assert_eq!(
            of("tools/list", r#"{"tools":[],"ttlMs":5}"#),
            r#"{"resultType":"complete","cacheScope":"private","tools":[],"ttlMs":5}"#
        );
        assert_eq!(
            of("tools/call", r#"{"content":["resultType"]}"#),
            r#"{"resultType":"complete","content":["resultType"]}"#
        );
    }

    #[test]
    fn a_modern_result_loses_what_legacy_ones_lack() {
        let of = |text| result_for(Era::Legacy, Era::Modern, "tools/list", raw(text)).map(Cow::into_owned);
        let result = r#"{"resultType":"complete","tools":[{"x":1e400}],"ttlMs":5,"cacheScope":"public"}"#;
        assert_eq!(of(result).unwrap(), r#"{"tools":[{"x":1e400}]}"#);
        assert_eq!(
            of(r#"{"resultType":"input_required","requestState":"x"}"#),
            Err(InputRequired)
        );
    }

    #[test]
    fn a_legacy_clients_level_goes_with_its_requests() {
        let level = |params: Option<&str>| {
            let params = params.map(|text| raw(text).to_owned());
            with_log_level(params, "info").unwrap().get().to_owned()
        };
        let key = "io.modelcontextprotocol/logLevel";
        assert_eq!(level(None), format!(r#"{{"_meta":{{"{key}":"info"}}}}"#));
        assert_eq!(
            level(Some(r#"{"name":"x","_meta":{"progressToken":1}}"#)),
            format!(r#"{{"name":"x","_meta":{{"progressToken":1,"{key}":"info"}}}}"#)
        );
        let own = format!(r#"{{"_meta":{{"{key}":"error"}}}}"#);
        assert_eq!(level(Some(&own)), own);
        assert_eq!(level(Some("[1]")), "[1]");
    }

    #[test]
    fn the_retired_code_is_translated_for_modern_clients_only() {
        let error = r#"{"code":-32002,"message":"gone","data":{"uri":"x"}}"#;
        assert_eq!(error_for(Era::Legacy, raw(error)), error);
        assert_eq!(
            error_for(Era::Modern, raw(error)),
            r#"{"code":-32602,"message":"gone","data":{"uri":"x"}}"#
        );
    }
}
