//! Addresses of resources inside results, as an endpoint of several servers must show them so that they can be read
//! there. Pure.
//!
//! A server's result names its resources by their own addresses; a client of the aggregate endpoint can only read
//! `troupe://server/ADDRESS`, one of a virtual server what that calls them. Rewritten are the
//! places where the specification puts addresses: `contents` of `resources/read`, and resource links and embedded
//! resources in the content of `tools/call` and `prompts/get`.

use std::borrow::Cow;

use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits, json_string};
use troupe_protocol::mcp::method;

/// From a server's own address to the exposed one; nothing where they are the same.
type Exposed<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The result of this method with its addresses as they are exposed.
pub fn readdressed<'a>(method: &str, exposed: Exposed<'_>, result: &'a RawValue) -> Cow<'a, str> {
    let text = result.get();
    if !text.contains("\"uri\"") {
        return Cow::Borrowed(text);
    }
    let rewritten = match method {
        method::RESOURCES_READ => in_array(result, "contents", |item| with_exposed_uri(exposed, item)),
        method::TOOLS_CALL => in_array(result, "content", |block| content_block(exposed, block)),
        method::PROMPTS_GET => in_array(result, "messages", |message| {
            let content = edit::member(message, "content")?;
            with(message, "content", content_block(exposed, content)?)
        }),
        _ => None,
    };
    rewritten.map_or(Cow::Borrowed(text), Cow::Owned)
}

fn content_block(exposed: Exposed<'_>, block: &RawValue) -> Option<String> {
    match &*edit::string_member(block, "type")? {
        "resource_link" => with_exposed_uri(exposed, block),
        "resource" => with(
            block,
            "resource",
            with_exposed_uri(exposed, edit::member(block, "resource")?)?,
        ),
        _ => None,
    }
}

fn with_exposed_uri(exposed: Exposed<'_>, object: &RawValue) -> Option<String> {
    let uri = edit::string_member(object, "uri")?;
    with(object, "uri", json_string(&exposed(&uri)?))
}

fn with(object: &RawValue, key: &str, value: String) -> Option<String> {
    edit::with_members(
        object,
        &ObjectEdits {
            set: vec![(key, Cow::Owned(value))],
            remove: Vec::new(),
        },
    )
}

/// The object with the items of one of its arrays changed; nothing if it has no such array.
fn in_array(object: &RawValue, key: &str, change: impl Fn(&RawValue) -> Option<String>) -> Option<String> {
    let items: Vec<&RawValue> = serde_json::from_str(edit::member(object, key)?.get()).ok()?;
    let mut array = String::from("[");
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            array.push(',');
        }
        match change(item) {
            Some(changed) => array.push_str(&changed),
            None => array.push_str(item.get()),
        }
    }
    array.push(']');
    with(object, key, array)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::names;
    use super::*;

    fn of(method: &str, result: &str) -> String {
        let exposed = |uri: &str| Some(names::exposed_uri("demo", uri));
        readdressed(method, &exposed, serde_json::from_str(result).unwrap()).into_owned()
    }

    #[test]
    fn the_addresses_that_the_specification_knows_are_rewritten() {
        assert_eq!(
            of(
                "resources/read",
                r#"{"contents":[{"uri":"a://b","text":"\"uri\"","n":1e400}],"x":1}"#
            ),
            r#"{"contents":[{"uri":"troupe://demo/a://b","text":"\"uri\"","n":1e400}],"x":1}"#
        );
        assert_eq!(
            of(
                "tools/call",
                r#"{"content":[{"type":"text","text":"hi"},{"type":"resource_link","uri":"a://b"},{"type":"resource","resource":{"uri":"a://c"}}]}"#
            ),
            r#"{"content":[{"type":"text","text":"hi"},{"type":"resource_link","uri":"troupe://demo/a://b"},{"type":"resource","resource":{"uri":"troupe://demo/a://c"}}]}"#
        );
        assert_eq!(
            of(
                "prompts/get",
                r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"a://c"}}}]}"#
            ),
            r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"troupe://demo/a://c"}}}]}"#
        );
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for result in [
            r#"{"content":[{"type":"text","text":"no address"}], "structuredContent":{"uri":"a://b"}}"#,
            r#"{"content":"\"uri\""}"#,
            r#"{ "uri":"a://b" }"#,
            "7",
        ] {
            assert_eq!(of("tools/call", result), result);
        }
    }
}
