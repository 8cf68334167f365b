//! How a thing of a server looks on a virtual one, and how a call there becomes a call of the server. Pure.
//!
//! What is not changed keeps its bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits, json_string};
use troupe_protocol::jsonrpc::string_of;
use troupe_protocol::mcp::{Descriptor, ListKind};
use troupe_protocol::virtual_server::{VirtualItem, VirtualKind};

/// The most characters of a template that is looked at.
const TEMPLATE_CHARS_MAX: usize = 4_096;

/// Why a thing cannot be offered as its definition wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the argument {argument:?} is hidden, but required: it needs a fixed value, or must not be hidden")]
pub struct HiddenRequired {
    /// The argument.
    pub argument: String,
}

/// What a client must not give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOffered {
    /// An argument that is fixed or hidden.
    #[error("there is no argument {0:?} here")]
    Argument(String),
    /// What some servers take for another member, since they do not regard case.
    #[error("{0:?} differs from a member that is known here in case alone")]
    Ambiguous(String),
    /// What may hide one.
    #[error("params.arguments must be an object whose keys are text")]
    Unreadable,
}

/// A server's description of a thing as clients of the virtual server see it.
///
/// # Errors
/// [`HiddenRequired`] if nobody could use it.
pub fn shape(thing: &Descriptor, item: &VirtualItem) -> Result<Descriptor, HiddenRequired> {
    let raw: &RawValue = &thing.raw;
    let mut edits = ObjectEdits::default();
    // Tasks are asked about by their ids, and only the server itself knows whose they are.
    edits.remove.push("execution");
    let name = item.exposed_name();
    if item.exposed_as.is_some() {
        let member = if item.kind == VirtualKind::Resource {
            "uri"
        } else {
            "name"
        };
        edits.set.push((member, Cow::Owned(json_string(name))));
    }
    let texts = [("title", &item.title), ("description", &item.description)];
    for (member, text) in texts {
        edits
            .set
            .extend(text.as_ref().map(|text| (member, Cow::Owned(json_string(text)))));
    }
    if item.conceals_any() {
        match item.kind {
            VirtualKind::Tool => {
                if let Some(schema) = edit::member(raw, "inputSchema") {
                    let shown = schema_without(schema, item)?;
                    edits
                        .set
                        .extend(shown.map(|shown| ("inputSchema", Cow::Owned(shown))));
                }
            }
            VirtualKind::Prompt => {
                if let Some(arguments) = edit::member(raw, "arguments") {
                    let shown = arguments_without(arguments, item)?;
                    edits
                        .set
                        .extend(shown.map(|shown| ("arguments", Cow::Owned(shown))));
                }
            }
            VirtualKind::Resource | VirtualKind::ResourceTemplate => {}
        }
    }
    let shaped = edit::with_members(raw, &edits).and_then(|text| RawValue::from_string(text).ok());
    Ok(Descriptor {
        name: name.to_owned(),
        raw: shaped.map_or_else(|| Arc::clone(&thing.raw), Arc::from),
    })
}

/// The arguments that a definition speaks of and the server's tool or prompt does not have.
pub fn unknown_arguments(thing: &Descriptor, item: &VirtualItem) -> Vec<String> {
    let known = match item.kind {
        VirtualKind::Tool => {
            let schema = edit::member(&thing.raw, "inputSchema");
            let is_open = schema
                .and_then(|schema| edit::member(schema, "additionalProperties"))
                .is_some_and(|more| more.get() != "false");
            if is_open {
                return Vec::new();
            }
            schema
                .and_then(|schema| edit::member(schema, "properties"))
                .and_then(keys_of)
                .unwrap_or_default()
        }
        VirtualKind::Prompt => {
            let arguments = edit::member(&thing.raw, "arguments").map_or_else(Vec::new, items_of);
            arguments
                .into_iter()
                .filter_map(|argument| edit::string_member(argument, "name").map(Cow::into_owned))
                .collect()
        }
        VirtualKind::Resource | VirtualKind::ResourceTemplate => return Vec::new(),
    };
    let spoken_of = item.fixed.keys().chain(&item.hidden);
    spoken_of
        .filter(|argument| !known.contains(argument))
        .cloned()
        .collect()
}

/// A name as servers compare it that do not regard case (those in Go read JSON so, and take the last that fits).
fn folded(name: &str) -> String {
    let folded = name.chars().map(|c| if c == 'ſ' { 's' } else { c });
    folded.flat_map(char::to_lowercase).collect()
}

/// Whether an argument of this name may be taken for one that is fixed or hidden.
pub fn conceals(item: &VirtualItem, argument: &str) -> bool {
    if item.conceals(argument) {
        return true;
    }
    let argument = folded(argument);
    let mut concealed = item.fixed.keys().chain(&item.hidden);
    concealed.any(|concealed| folded(concealed) == argument)
}

/// Refuses an object with a member that some servers take for another of these, which alone was looked at here.
///
/// # Errors
/// [`NotOffered`].
pub fn check_members(object: &RawValue, looked_at: &[&str]) -> Result<(), NotOffered> {
    let members = keys_of(object).ok_or(NotOffered::Unreadable)?;
    let is_ambiguous = |member: &String| {
        let folded = folded(member);
        looked_at
            .iter()
            .any(|name| folded == *name && member.as_str() != *name)
    };
    match members.into_iter().find(is_ambiguous) {
        Some(member) => Err(NotOffered::Ambiguous(member)),
        None => Ok(()),
    }
}

/// The names of an object's members; nothing if they cannot be read.
pub fn members_of(object: &RawValue) -> Result<Vec<String>, NotOffered> {
    keys_of(object).ok_or(NotOffered::Unreadable)
}

/// The parameters of a tool call or prompt as the server gets them: its own name, and the fixed arguments.
///
/// # Errors
/// [`NotOffered`] if the client gives an argument that is not its to give.
pub fn arguments(params: &RawValue, item: &VirtualItem) -> Result<Option<Box<RawValue>>, NotOffered> {
    let mut edits = ObjectEdits::default();
    if item.exposed_as.is_some() {
        edits.set.push(("name", Cow::Owned(json_string(&item.name))));
    }
    if item.conceals_any() {
        let empty = RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        let given = edit::member(params, "arguments").filter(|given| given.get() != "null");
        if let Some(given) = given {
            // What cannot be read here cannot be kept from the server either.
            let keys = keys_of(given).ok_or(NotOffered::Unreadable)?;
            if let Some(argument) = keys.into_iter().find(|argument| conceals(item, argument)) {
                return Err(NotOffered::Argument(argument));
            }
        }
        let fixed = item.fixed.iter();
        let fixed = ObjectEdits {
            set: fixed
                .map(|(argument, value)| (argument.as_str(), Cow::Owned(value.to_string())))
                .collect(),
            remove: Vec::new(),
        };
        let whole = edit::with_members(given.unwrap_or(&empty), &fixed).ok_or(NotOffered::Unreadable)?;
        edits.set.push(("arguments", Cow::Owned(whole)));
    }
    if edits.set.is_empty() {
        return Ok(None);
    }
    let changed = edit::with_members(params, &edits);
    let changed = changed.and_then(|text| RawValue::from_string(text).ok());
    changed.ok_or(NotOffered::Unreadable).map(Some)
}

/// Whether an address can be made from a URI template (RFC 6570). Where the template says nothing else a part ends at
/// `/`, `?` and `#`, so that nothing is reached that was not chosen.
pub fn is_made_from(template: &str, uri: &str) -> bool {
    if template.len() > TEMPLATE_CHARS_MAX {
        return false;
    }
    let mut pattern = String::from("^");
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let Some((expression, after)) = after.split_once('}') else {
            return false;
        };
        pattern.push_str(&regex::escape(literal));
        match expression.as_bytes().first() {
            Some(b'+') => pattern.push_str(".+"),
            Some(b'#') => pattern.push_str("(#.*)?"),
            Some(b'.') => pattern.push_str(r"(\.[^/?#]*)?"),
            Some(b'/') if expression.contains('*') => pattern.push_str("(/[^/?#]+)*"),
            // One part for each variable.
            Some(b'/') => expression
                .split(',')
                .for_each(|_| pattern.push_str("(/[^/?#]+)?")),
            Some(b';') => pattern.push_str("(;[^/?#]*)*"),
            Some(b'?') => pattern.push_str(r"(\?[^#]*)?"),
            Some(b'&') => pattern.push_str("(&[^#]*)?"),
            _ => pattern.push_str("[^/?#]+"),
        }
        rest = after;
    }
    pattern.push_str(&regex::escape(rest));
    pattern.push('$');
    Regex::new(&pattern).is_ok_and(|pattern| pattern.is_match(uri))
}

/// The kinds of things of which a definition has any.
pub fn kinds(items: &[VirtualItem]) -> Vec<ListKind> {
    let all = [
        ListKind::Tools,
        ListKind::Resources,
        ListKind::ResourceTemplates,
        ListKind::Prompts,
    ];
    let has = |kind: &ListKind| items.iter().any(|item| item.kind.list() == *kind);
    all.into_iter().filter(has).collect()
}

/// A tool's input schema without what is concealed; nothing if it is no object.
fn schema_without(schema: &RawValue, item: &VirtualItem) -> Result<Option<String>, HiddenRequired> {
    let mut edits = ObjectEdits::default();
    if let Some(required) = edit::member(schema, "required") {
        let required: Vec<Cow<'_, str>> = items_of(required).into_iter().filter_map(string_of).collect();
        if let Some(argument) = required
            .iter()
            .find(|argument| item.hidden.contains(argument.as_ref()))
        {
            let argument = argument.to_string();
            return Err(HiddenRequired { argument });
        }
        let shown = required.iter().filter(|argument| !item.conceals(argument));
        let shown: Vec<String> = shown.map(|argument| json_string(argument)).collect();
        if shown.is_empty() {
            edits.remove.push("required");
        } else {
            edits
                .set
                .push(("required", Cow::Owned(format!("[{}]", shown.join(",")))));
        }
    }
    if let Some(properties) = edit::member(schema, "properties") {
        let concealed = ObjectEdits {
            set: Vec::new(),
            remove: item
                .fixed
                .keys()
                .chain(&item.hidden)
                .map(String::as_str)
                .collect(),
        };
        let shown = edit::with_members(properties, &concealed);
        edits
            .set
            .extend(shown.map(|shown| ("properties", Cow::Owned(shown))));
    }
    Ok(edit::with_members(schema, &edits))
}

/// A prompt's arguments without those that are concealed; nothing if they are no list.
fn arguments_without(arguments: &RawValue, item: &VirtualItem) -> Result<Option<String>, HiddenRequired> {
    let mut shown = Vec::new();
    for argument in items_of(arguments) {
        let name = edit::string_member(argument, "name").unwrap_or_default();
        let is_required = edit::member(argument, "required").is_some_and(|required| required.get() == "true");
        if is_required && item.hidden.contains(name.as_ref()) {
            let argument = name.into_owned();
            return Err(HiddenRequired { argument });
        }
        if !item.conceals(&name) {
            shown.push(argument.get());
        }
    }
    let is_list = arguments.get().starts_with('[');
    Ok(is_list.then(|| format!("[{}]", shown.join(","))))
}

fn items_of(list: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(list.get()).unwrap_or_default()
}

/// Values are not read: there may be numbers among them that nothing here can hold.
fn keys_of(object: &RawValue) -> Option<Vec<String>> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object.get()).ok()?;
    Some(members.into_keys().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn item(value: Value) -> VirtualItem {
        serde_json::from_value(value).unwrap()
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn thing(kind: ListKind, text: &str) -> Descriptor {
        Descriptor::read(kind, &raw(text)).unwrap()
    }

    const TOOL: &str = r#"{"name":"search","description":"old","inputSchema":{"type":"object","x":1e400,"properties":{"query":{"type":"string"},"limit":{"type":"integer"},"debug":{"type":"boolean"}},"required":["query","limit"]},"execution":{"taskSupport":"optional"},"icons":[1]}"#;

    #[test]
    fn a_tool_is_renamed_described_and_loses_what_is_concealed_and_nothing_else() {
        let item = item(
            json!({ "server": "s", "name": "search", "as": "find", "title": "Find", "description": "new",
            "fixed": { "limit": 3 }, "hidden": ["debug"] }),
        );
        let shaped = shape(&thing(ListKind::Tools, TOOL), &item).unwrap();
        assert_eq!(shaped.name, "find");
        assert_eq!(
            shaped.raw.get(),
            r#"{"name":"find","description":"new","inputSchema":{"type":"object","x":1e400,"properties":{"query":{"type":"string"}},"required":["query"]},"icons":[1],"title":"Find"}"#
        );
    }

    #[test]
    fn a_tool_that_is_only_chosen_keeps_its_bytes() {
        let item = item(json!({ "server": "s", "name": "x" }));
        let text = r#"{ "name" : "x", "inputSchema":{"n":12345678901234567890123} }"#;
        let shaped = shape(&thing(ListKind::Tools, text), &item).unwrap();
        assert_eq!(shaped.raw.get().replace(' ', ""), text.replace(' ', ""));
    }

    #[test]
    fn hiding_what_is_required_is_refused_and_fixing_it_is_not() {
        let tool = thing(ListKind::Tools, TOOL);
        let hidden = item(json!({ "server": "s", "name": "search", "hidden": ["query"] }));
        assert_eq!(shape(&tool, &hidden).unwrap_err().argument, "query");
        let fixed = item(json!({ "server": "s", "name": "search", "fixed": { "query": "x", "limit": 1 } }));
        let readable = shape(&tool, &fixed).unwrap().raw.get().replace("1e400", "1");
        let shaped: Value = serde_json::from_str(&readable).unwrap();
        assert_eq!(shaped["inputSchema"].get("required"), None);
        assert_eq!(
            shaped["inputSchema"]["properties"],
            json!({ "debug": { "type": "boolean" } })
        );
        let prompt = thing(
            ListKind::Prompts,
            r#"{"name":"greet","arguments":[{"name":"who","required":true},{"name":"tone"}]}"#,
        );
        let hidden = item(json!({ "kind": "prompt", "server": "s", "name": "greet", "hidden": ["who"] }));
        assert_eq!(shape(&prompt, &hidden).unwrap_err().argument, "who");
        let fixed =
            item(json!({ "kind": "prompt", "server": "s", "name": "greet", "fixed": { "who": "x" } }));
        assert_eq!(
            shape(&prompt, &fixed).unwrap().raw.get(),
            r#"{"name":"greet","arguments":[{"name":"tone"}]}"#
        );
    }

    #[test]
    fn a_definition_that_speaks_of_other_arguments_is_told() {
        let wrong =
            item(json!({ "server": "s", "name": "search", "fixed": { "limits": 3 }, "hidden": ["debug"] }));
        assert_eq!(
            unknown_arguments(&thing(ListKind::Tools, TOOL), &wrong),
            ["limits"]
        );
        let open = r#"{"name":"search","inputSchema":{"type":"object","additionalProperties":true}}"#;
        assert!(unknown_arguments(&thing(ListKind::Tools, open), &wrong).is_empty());
    }

    #[test]
    fn a_call_gets_its_servers_name_and_the_fixed_arguments() {
        let item = item(json!({ "server": "s", "name": "search", "as": "find",
            "fixed": { "limit": 3, "filter": { "a": [1] } } }));
        let call = |text: &str| arguments(&raw(text), &item).map(|params| params.unwrap().get().to_owned());
        assert_eq!(
            call(r#"{"name":"find","arguments":{"query":1e400},"_meta":{"progressToken":1}}"#).unwrap(),
            r#"{"name":"search","arguments":{"query":1e400,"limit":3,"filter":{"a":[1]}},"_meta":{"progressToken":1}}"#.replace("\"limit\":3,\"filter\":{\"a\":[1]}", "\"filter\":{\"a\":[1]},\"limit\":3")
        );
        let bare = r#"{"name":"search","arguments":{"filter":{"a":[1]},"limit":3}}"#;
        assert_eq!(call(r#"{"name":"find"}"#).unwrap(), bare);
        assert_eq!(call(r#"{"name":"find","arguments":null}"#).unwrap(), bare);
        assert_eq!(
            call(r#"{"name":"find","arguments":{"limit":99}}"#).unwrap_err(),
            NotOffered::Argument("limit".to_owned())
        );
        let hard_to_read = r#"{"name":"find","arguments":{"query":1e400,"l\u0069mit":99}}"#;
        assert_eq!(
            call(hard_to_read).unwrap_err(),
            NotOffered::Argument("limit".to_owned())
        );
        for unreadable in [r#"{"\ud800":1,"limit":99}"#, "[99]", "\"limit\""] {
            let params = format!(r#"{{"name":"find","arguments":{unreadable}}}"#);
            assert_eq!(call(&params).unwrap_err(), NotOffered::Unreadable, "{unreadable}");
        }
    }

    #[test]
    fn what_differs_from_concealed_arguments_in_case_alone_is_not_offered_either() {
        let item = item(json!({ "server": "s", "name": "search", "fixed": { "limit": 3, "mask": 1 } }));
        for argument in ["LIMIT", "Limit", "ma\u{17f}k", "mas\u{212a}"] {
            let params = json!({ "name": "search", "arguments": { argument: 99 } }).to_string();
            assert_eq!(
                arguments(&raw(&params), &item).unwrap_err(),
                NotOffered::Argument(argument.to_owned())
            );
        }
        let looked_at = ["name", "arguments"];
        for wrong in [
            r#"{"name":"a","Name":"b"}"#,
            r#"{"name":"a","ARGUMENTS":{}}"#,
            r#"{"\ud800":1}"#,
        ] {
            assert!(check_members(&raw(wrong), &looked_at).is_err(), "{wrong}");
        }
        check_members(
            &raw(r#"{"name":"a","arguments":{},"_meta":{},"other":1e400}"#),
            &looked_at,
        )
        .unwrap();
    }

    #[test]
    fn a_call_without_changes_is_not_touched() {
        let item = item(json!({ "server": "s", "name": "search" }));
        assert!(
            arguments(&raw(r#"{ "name":"search" }"#), &item)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn addresses_belong_to_the_templates_that_make_them() {
        for (template, uri, belongs) in [
            ("demo://item/{id}", "demo://item/7", true),
            ("demo://item/{id}", "demo://item/", false),
            ("demo://item/{id}", "demo://item/7/secret", false),
            ("demo://item/{id}", "other://item/7", false),
            ("demo://item/{id}/x", "demo://item/7/x", true),
            ("file:///{+path}", "file:///a/b?c", true),
            ("file://{/path}", "file:///a/b", false),
            ("file://{/path*}/end", "file:///a/b/end", true),
            ("a://b{?q,r}", "a://b?q=1&r=2", true),
            ("a://b{?q}", "a://b", true),
            ("a://b.c", "a://bxc", false),
            ("a://{broken", "a://x", false),
        ] {
            assert_eq!(is_made_from(template, uri), belongs, "{template} {uri}");
        }
    }
}
