//! Any JSON, looked into and changed: members are found as a reader of the whole finds them, and stay as they are written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::edit::json_string;
use troupe_protocol::jsonrpc::{edit, string_of};

/// Keys that the input is likely to have, and one that it chooses itself.
const KEYS: [&str; 4] = ["a", "_meta", "name", ""];

fuzz_target!(|input: (&str, &str, &str)| {
    let (text, key, string) = input;
    assert_eq!(
        serde_json::from_str::<String>(&json_string(string)).expect("a string"),
        string
    );
    // What was read as a message before is not deeper than this allows.
    let Ok(whole) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let raw = RawValue::from_string(text.to_owned()).expect("JSON is JSON");
    assert_eq!(string_of(&raw).as_deref(), whole.as_str());
    for key in KEYS.into_iter().chain([key]) {
        let found = edit::member(&raw, key);
        assert_eq!(
            found.is_some(),
            whole.as_object().is_some_and(|object| object.contains_key(key)),
            "{key:?}"
        );
        let edits = edit::ObjectEdits {
            set: vec![(key, json_string(string).into())],
            ..edit::ObjectEdits::default()
        };
        let Some(changed) = edit::with_members(&raw, &edits) else {
            assert!(!whole.is_object());
            continue;
        };
        let read: Value = serde_json::from_str(&changed).expect("a changed object is JSON");
        let read = read.as_object().expect("and an object");
        assert_eq!(read.get(key).and_then(Value::as_str), Some(string));
        for (other, value) in whole.as_object().expect("it was one") {
            assert!(other == key || read.get(other) == Some(value), "{other:?} has changed");
        }
        let edits = edit::ObjectEdits {
            remove: vec![key],
            ..edit::ObjectEdits::default()
        };
        let removed = edit::with_members(&raw, &edits).expect("it is an object");
        let read: Value = serde_json::from_str(&removed).expect("an object without a member is JSON");
        assert!(read.get(key).is_none());
    }
});
