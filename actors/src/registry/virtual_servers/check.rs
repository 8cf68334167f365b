//! What a definition may say, whatever the servers behind it are. Pure.
//!
//! Everything has a bound, and each refusal names its place. Whether servers have what is chosen is no reason to refuse:
//! they may be down, or register later; that is told as a warning (`super::view`).

use std::collections::HashSet;

use troupe_protocol::server::ServerName;
use troupe_protocol::virtual_server::{VirtualDefinition, VirtualItem, VirtualKind};
use url::Url;

use super::VirtualServerError;

/// The most things of one virtual server.
pub const ITEMS_MAX: usize = 500;
/// The most characters of a title.
const TITLE_CHARS_MAX: usize = 200;
/// The most characters of a description, and of instructions.
const TEXT_CHARS_MAX: usize = 16_384;
/// The most characters of a tool's or prompt's name that is given here (2025-11-25, server/tools, "Tool Names").
const NAME_CHARS_MAX: usize = 128;
/// The most bytes of a server's own name for something: addresses may be long.
const OWN_NAME_BYTES_MAX: usize = 4_096;
/// The most arguments that are fixed or hidden, each.
const ARGUMENTS_MAX: usize = 64;
/// The most bytes of the fixed values of one thing.
const FIXED_BYTES_MAX: usize = 32 * 1024;
/// The most bytes of a definition: a record in the log, and a body that every node keeps.
const DEFINITION_BYTES_MAX: usize = 512 * 1024;
/// The longest time a call may be allowed, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 3_600_000;

type Checked = Result<(), VirtualServerError>;

/// Checks a definition, which is to be kept under this name.
///
/// # Errors
/// What is wrong, where, and what would be right.
pub fn check(name: &ServerName, definition: &VirtualDefinition) -> Checked {
    if let Some(other) = definition.name.as_ref().filter(|other| *other != name) {
        return Err(VirtualServerError::invalid(
            "name",
            format!(
                "says {other}, but the virtual server is put under {name}: say the same, or leave it out"
            ),
        ));
    }
    checked_chars("title", definition.title.as_deref(), TITLE_CHARS_MAX)?;
    checked_chars("description", definition.description.as_deref(), TEXT_CHARS_MAX)?;
    checked_chars("instructions", definition.instructions.as_deref(), TEXT_CHARS_MAX)?;
    let count = definition.items.len();
    if count == 0 || count > ITEMS_MAX {
        return Err(VirtualServerError::invalid(
            "items",
            format!("has {count} entries, allowed are 1 to {ITEMS_MAX}"),
        ));
    }
    let mut names = HashSet::new();
    for (index, item) in definition.items.iter().enumerate() {
        let place = place(index, item);
        checked_item(&place, item)?;
        if !names.insert((item.kind, item.exposed_name())) {
            return Err(VirtualServerError::invalid(
                place,
                format!(
                    "is the second {} called {:?}: give one of them another name with `as`",
                    item.kind.words(),
                    item.exposed_name()
                ),
            ));
        }
    }
    let bytes = serde_json::to_vec(definition).map_or(usize::MAX, |text| text.len());
    if bytes > DEFINITION_BYTES_MAX {
        return Err(VirtualServerError::invalid(
            "the definition",
            format!("has {bytes} bytes, at most {DEFINITION_BYTES_MAX} are kept"),
        ));
    }
    Ok(())
}

/// What people call the place of an item.
pub(super) fn place(index: usize, item: &VirtualItem) -> String {
    format!("items[{index}] ({}/{})", item.server, item.name)
}

fn checked_item(place: &str, item: &VirtualItem) -> Checked {
    let wrong = |reason: String| Err(VirtualServerError::invalid(place, reason));
    if item.name.is_empty() || item.name.len() > OWN_NAME_BYTES_MAX {
        return wrong(format!(
            "must say in `name` what its server calls it, in at most {OWN_NAME_BYTES_MAX} bytes"
        ));
    }
    checked_chars(&format!("{place}: title"), item.title.as_deref(), TITLE_CHARS_MAX)?;
    let description = item.description.as_deref();
    checked_chars(&format!("{place}: description"), description, TEXT_CHARS_MAX)?;
    if let Some(exposed_as) = &item.exposed_as {
        checked_new_name(place, item.kind, exposed_as)?;
    }
    if item.timeout_ms.is_some_and(|ms| ms == 0 || ms > TIMEOUT_MS_MAX) {
        return wrong(format!("has a timeout_ms that is not in 1 to {TIMEOUT_MS_MAX}"));
    }
    checked_arguments(place, item)
}

fn checked_new_name(place: &str, kind: VirtualKind, name: &str) -> Checked {
    let wrong = |reason: &str| Err(VirtualServerError::invalid(place, reason));
    match kind {
        VirtualKind::Tool | VirtualKind::Prompt => {
            let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.bytes().all(may_stand) {
                return wrong("has an `as` that is not 1 to 128 of A-Z a-z 0-9 _ - .");
            }
        }
        VirtualKind::Resource => {
            if name.len() > OWN_NAME_BYTES_MAX || Url::parse(name).is_err() {
                return wrong("has an `as` that is no URI, such as docs://handbook");
            }
        }
        VirtualKind::ResourceTemplate => return wrong("has an `as`, but a template keeps its own addresses"),
    }
    Ok(())
}

fn checked_arguments(place: &str, item: &VirtualItem) -> Checked {
    let wrong = |reason: String| Err(VirtualServerError::invalid(place, reason));
    let has_arguments = matches!(item.kind, VirtualKind::Tool | VirtualKind::Prompt);
    if item.conceals_any() && !has_arguments {
        return wrong(format!(
            "fixes or hides arguments, which a {} does not have",
            item.kind.words()
        ));
    }
    if item.fixed.len() > ARGUMENTS_MAX || item.hidden.len() > ARGUMENTS_MAX {
        return wrong(format!("fixes or hides more than {ARGUMENTS_MAX} arguments"));
    }
    if let Some(both) = item.fixed.keys().find(|argument| item.hidden.contains(*argument)) {
        return wrong(format!(
            "fixes and hides {both:?}: what is fixed is hidden anyway"
        ));
    }
    let fixed_bytes = serde_json::to_vec(&item.fixed).map_or(usize::MAX, |text| text.len());
    if fixed_bytes > FIXED_BYTES_MAX {
        return wrong(format!(
            "fixes values of {fixed_bytes} bytes, at most {FIXED_BYTES_MAX}"
        ));
    }
    let no_text = item.fixed.iter().find(|(_, value)| !value.is_string());
    if let (VirtualKind::Prompt, Some((argument, _))) = (item.kind, no_text) {
        return wrong(format!(
            "fixes {argument:?} with a value that is no string, as arguments of prompts are"
        ));
    }
    Ok(())
}

fn checked_chars(field: &str, text: Option<&str>, chars_max: usize) -> Checked {
    match text.map(|text| text.chars().count()) {
        Some(count) if count > chars_max => Err(VirtualServerError::invalid(
            field,
            format!("has {count} characters, at most {chars_max}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn of(items: Value) -> Checked {
        let definition = serde_json::from_value(json!({ "items": items })).unwrap();
        check(&ServerName::new("desk").unwrap(), &definition)
    }

    #[test]
    fn what_is_right_passes() {
        of(json!([
            { "server": "time", "name": "now" },
            { "kind": "prompt", "server": "time", "name": "now", "fixed": { "zone": "UTC" } },
            { "server": "other", "name": "now", "as": "other.now-2", "timeout_ms": 1,
                "fixed": { "limit": 3 }, "hidden": ["debug"] },
            { "kind": "resource", "server": "time", "name": "a://b", "as": "docs://b" },
            { "kind": "resource_template", "server": "time", "name": "a://{b}" },
        ]))
        .unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (json!([]), "1 to 500"),
            (
                json!([{ "server": "a", "name": "x" }, { "server": "b", "name": "y", "as": "x" }]),
                "items[1] (b/y) is the second tool called \"x\"",
            ),
            (json!([{ "server": "a", "name": "" }]), "`name`"),
            (json!([{ "server": "a", "name": "x", "as": "a b" }]), "A-Z"),
            (
                json!([{ "server": "a", "name": "x", "timeout_ms": 0 }]),
                "timeout_ms",
            ),
            (
                json!([{ "kind": "resource", "server": "a", "name": "x", "as": "y" }]),
                "no URI",
            ),
            (
                json!([{ "kind": "resource_template", "server": "a", "name": "x", "as": "y" }]),
                "keeps its own",
            ),
            (
                json!([{ "kind": "resource", "server": "a", "name": "x", "hidden": ["y"] }]),
                "does not have",
            ),
            (
                json!([{ "server": "a", "name": "x", "hidden": ["y"], "fixed": { "y": 1 } }]),
                "fixes and hides",
            ),
            (
                json!([{ "kind": "prompt", "server": "a", "name": "x", "fixed": { "y": 1 } }]),
                "no string",
            ),
        ];
        for (items, named) in cases {
            let error = of(items.clone()).unwrap_err().to_string();
            assert!(error.contains(named), "{items}: {error}");
        }
        let named = serde_json::from_value(json!({ "name": "x", "items": [] })).unwrap();
        let error = check(&ServerName::new("y").unwrap(), &named).unwrap_err();
        assert!(error.to_string().contains("put under y"), "{error}");
    }
}
