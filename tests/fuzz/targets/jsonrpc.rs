//! Any bytes as a JSON-RPC message: what is taken for one is JSON, and with another id it is the same but for the id.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::{ErrorObject, Kind, Message, RawMessage, edit, push_line};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::parse(bytes) else {
        return;
    };
    serde_json::from_str::<&RawValue>(message.text).expect("a message is JSON");
    let texts = |message: &Message<'_>| {
        [message.params, message.result, message.error].map(|part| part.map(|part| part.get().to_owned()))
    };
    match message.kind {
        Kind::Request => assert!(message.id.is_some() && message.method.is_some()),
        Kind::Notification => assert!(message.id.is_none() && message.method.is_some()),
        Kind::Response => assert!(message.result.is_some() != message.error.is_some()),
    }
    let _ = message.error.and_then(ErrorObject::read);

    let renamed = edit::with_id(&message, "18446744073709551615");
    let read = Message::parse_str(&renamed).expect("another id makes no other message");
    assert_eq!(read.kind, message.kind);
    assert_eq!(texts(&read), texts(&message));
    assert_eq!(read.method, message.method);
    if message.id.is_some() {
        assert_eq!(read.id_u64(), Some(u64::MAX));
    }
    for key in ["progressToken", "requestId", "_meta"] {
        if let Some(changed) = edit::with_param(&message, key, "7") {
            let read = Message::parse_str(&changed).expect("another parameter makes no other message");
            let value = edit::member(read.params.expect("it has some"), key).expect("it is there still");
            assert_eq!(value.get(), "7");
        }
    }
    let kept = RawMessage::from(&message);
    assert_eq!(kept.as_str(), message.text);
    kept.message().expect("what was read once is read again");

    let mut line = Vec::new();
    push_line(&mut line, message.text);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    assert_eq!(line.last(), Some(&b'\n'));
});
