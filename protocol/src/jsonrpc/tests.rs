#![allow(clippy::unwrap_used)]

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::edit::{self, ObjectEdits};
use super::*;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

#[test]
fn a_message_is_written_on_one_line() {
    let mut lines = Vec::new();
    push_line(&mut lines, "{}");
    push_line(&mut lines, "{\n  \"a\": \"b\\nc\"\r\n}");
    assert_eq!(String::from_utf8(lines).unwrap(), "{}\n{   \"a\": \"b\\nc\"  }\n");
}

#[test]
fn messages_are_told_apart() {
    let kind = |text: &str| Message::parse_str(text).unwrap().kind;
    assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), Kind::Request);
    assert_eq!(
        kind(r#" {"method":"x","id":"a\"b","jsonrpc":"2.0"} "#),
        Kind::Request
    );
    assert_eq!(
        kind(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        Kind::Notification
    );
    assert_eq!(kind(r#"{"jsonrpc":"2.0","id":1,"result":null}"#), Kind::Response);
    assert_eq!(
        kind(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#),
        Kind::Response
    );
}

#[test]
fn what_is_no_message_is_refused_with_the_right_code() {
    let error = |text: &str| Message::parse_str(text).unwrap_err();
    assert!(matches!(error("["), ParseError::NotJson(_)));
    assert!(matches!(error(""), ParseError::NotJson(_)));
    assert!(matches!(error(r#"{"jsonrpc":"2.0","#), ParseError::NotJson(_)));
    assert!(matches!(
        error(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#),
        ParseError::Batch
    ));
    for invalid in [
        "3",
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"x"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"x","result":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#,
    ] {
        assert!(
            matches!(error(invalid), ParseError::Invalid { .. }),
            "{invalid} gave {:?}",
            error(invalid)
        );
        assert_eq!(error(invalid).code(), code::INVALID_REQUEST);
    }
    assert_eq!(
        error(r#"{"jsonrpc":"2.0","id":"q","method":7}"#)
            .id()
            .unwrap()
            .get(),
        r#""q""#
    );
    assert!(matches!(
        Message::parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"),
        Err(ParseError::NotJson(_))
    ));
}

#[test]
fn nesting_is_bounded_and_deep_text_does_not_overflow_the_stack() {
    let nested = |depth: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"x","params":{}{}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    assert!(Message::parse_str(&nested(DEPTH_MAX - 1)).is_ok());
    assert!(matches!(
        Message::parse_str(&nested(DEPTH_MAX)),
        Err(ParseError::TooDeep)
    ));
    assert!(matches!(
        Message::parse_str(&nested(100_000)),
        Err(ParseError::TooDeep)
    ));
    assert!(matches!(
        Message::parse_str(&"[".repeat(1_000_000)),
        Err(ParseError::TooDeep)
    ));
    let brackets_in_a_string = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "[\\\"{".repeat(1000));
    assert!(Message::parse_str(&brackets_in_a_string).is_ok());
}

#[test]
fn size_is_bounded() {
    let large = vec![b' '; MESSAGE_BYTES_MAX + 1];
    assert!(matches!(Message::parse(&large), Err(ParseError::TooLarge { .. })));
}

#[test]
fn big_integers_survive_as_ids() {
    let text = r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"x"}"#;
    assert_eq!(
        Message::parse_str(text).unwrap().id.unwrap().get(),
        "123456789012345678901234567890"
    );
}

#[test]
fn members_of_meta_are_set_and_removed_in_place() {
    let edits = ObjectEdits {
        set: vec![("progressToken", Cow::Borrowed("7"))],
        remove: vec!["gone"],
    };
    let call = |params: &str| edit::call(Some("1"), "m", Some(&raw(params)), &edits);
    let params = |message: &str| {
        Message::parse_str(message)
            .unwrap()
            .params
            .unwrap()
            .get()
            .to_owned()
    };
    assert_eq!(
        params(&call(
            r#"{ "a" : 1e400 , "_meta" : { "progressToken" : "x", "b" : [ ] } , "c":2 }"#
        )),
        r#"{ "a" : 1e400 , "_meta" : { "progressToken" : 7, "b" : [ ] } , "c":2 }"#
    );
    assert_eq!(
        params(&call(r#"{"_meta":{"gone":1, "b":2}}"#)),
        r#"{"_meta":{ "b":2,"progressToken":7}}"#
    );
    assert_eq!(
        params(&call(r#"{"_meta":{"b":2,"gone":1}}"#)),
        r#"{"_meta":{"b":2,"progressToken":7}}"#
    );
    assert_eq!(
        params(&call(r#"{"a":1}"#)),
        r#"{"a":1,"_meta":{"progressToken":7}}"#
    );
    assert_eq!(params(&call("{}")), r#"{"_meta":{"progressToken":7}}"#);
    assert_eq!(params(&call("[1]")), "[1]");
    assert_eq!(
        params(&edit::call(None, "m", None, &edits)),
        r#"{"_meta":{"progressToken":7}}"#
    );
}

#[test]
fn a_progress_notification_gets_the_callers_token_back() {
    let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1, "progressToken": 42 ,"x":1}}"#;
    let message = Message::parse_str(text).unwrap();
    let mapped = edit::with_param(&message, "progressToken", "\"mine\"").unwrap();
    assert_eq!(mapped, text.replace("42", "\"mine\""));
    assert_eq!(edit::with_param(&message, "requestId", "1"), None);
}

/// Any JSON text, with what value types lose: huge and precise numbers, escapes, odd white space.
fn any_json() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        "-?(0|[1-9][0-9]{0,40})",
        "-?(0|[1-9][0-9]{0,9})\\.[0-9]{1,30}([eE][+-]?[0-9]{1,4})?"
    ];
    let string = prop_oneof![
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        Just(r#""\u005fmeta\ud83d\ude00\/""#.to_owned()),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        number,
        string.clone()
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let space = "[ \\t]{0,2}";
        let member = (space, string.clone(), space, inner.clone(), space)
            .prop_map(|(before, key, middle, value, after)| format!("{before}{key}{middle}:{value}{after}"));
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_the_parts_are_they_pass_byte_for_byte(params in any_json(), result in any_json(), unknown in any_json()) {
        let request = format!(r#"{{"x": {unknown},"jsonrpc":"2.0","id":17, "params":{params},"method":"m"}}"#);
        let message = Message::parse_str(&request).unwrap();
        prop_assert_eq!(message.params.unwrap().get(), params.trim());
        prop_assert_eq!(edit::with_id(&message, "\"other\""), request.replace(r#""id":17"#, r#""id":"other""#));

        let forwarded = edit::call(Some("5"), "m", message.params, &ObjectEdits::default());
        prop_assert_eq!(Message::parse_str(&forwarded).unwrap().params.unwrap().get(), params.trim());

        let response = edit::response("1", "result", &result);
        prop_assert_eq!(Message::parse_str(&response).unwrap().result.unwrap().get(), result.trim());
    }

    #[test]
    fn an_edit_touches_only_its_member(params in any_json(), value in any_json()) {
        let edits = ObjectEdits { set: vec![("troupe-test", Cow::Owned(value.clone()))], remove: vec![] };
        let Some(edited) = edit::with_members(&raw(&params), &edits) else {
            let is_object = params.trim().starts_with('{');
            prop_assert!(!is_object);
            return Ok(());
        };
        let edited = raw(&edited);
        prop_assert_eq!(edit::member(&edited, "troupe-test").unwrap().get(), value.trim());
        let back = edit::with_members(&edited, &ObjectEdits { set: vec![], remove: vec!["troupe-test"] }).unwrap();
        prop_assert_eq!(back, params.trim());
    }
}
