#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn new(value: serde_json::Value) -> NewServer {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_command_is_enabled_at_once_and_a_manifest_when_it_is_complete() {
    let draft = Draft::from_new(new(
        json!({"name": "time", "command": "uvx", "args": ["mcp-server-time"]}),
    ))
    .unwrap();
    assert!(draft.enabled);
    assert_eq!(draft.manifest.name, "local/time");

    let manifest = |required: bool| {
        json!({"manifest": {"name": "io.github.u/weather", "description": "x", "version": "1.0.0", "packages": [{
            "registryType": "npm", "identifier": "weather", "transport": {"type": "stdio"},
            "environmentVariables": [{"name": "KEY", "isRequired": required}],
        }]}})
    };
    assert!(Draft::from_new(new(manifest(false))).unwrap().enabled);
    let incomplete = Draft::from_new(new(manifest(true))).unwrap();
    assert!(!incomplete.enabled && incomplete.transport.is_some());
    assert_eq!(incomplete.name.as_str(), "weather");
    let mut insisting = new(manifest(true));
    insisting.enabled = Some(true);
    let error = Draft::from_new(insisting).unwrap_err().to_string();
    assert_eq!(
        error,
        "enabled: the server needs the variable KEY before it can be enabled"
    );
    let mut given = new(manifest(true));
    given.env.insert("KEY".into(), "abc".into());
    assert!(Draft::from_new(given).unwrap().enabled);
}

#[test]
fn contradictions_are_refused() {
    let cases = [
        (
            json!({"name": "x"}),
            "url: is missing: give url, command, or a manifest with remotes or packages",
        ),
        (json!({"command": "x"}), "name: is missing"),
        (
            json!({"name": "x", "command": "a", "url": "https://h/"}),
            "url: give either url or command, not both",
        ),
        (
            json!({"name": "x", "url": "https://h/", "args": ["a"]}),
            "url: args, env and cwd are for servers with a command",
        ),
        (json!({"name": "x", "command": " "}), "command: must not be empty"),
        (
            json!({"name": "x", "command": "a\u{0}"}),
            "command: must not contain NUL",
        ),
        (
            json!({"name": "x", "command": "a", "env": {"A=B": "c"}}),
            "env.A=B: is not a name that can be used there",
        ),
        (
            json!({"name": "x", "url": "https://h/", "headers": {"A B": "c"}}),
            "headers.A B: is not a name that can be used there",
        ),
        (
            json!({"name": "x", "url": "ws://h/"}),
            "url: must begin with http or https, not ws",
        ),
        (
            json!({"name": "x", "command": "a", "call_timeout_ms": 3_600_001}),
            "call_timeout_ms: is 3600001, at most 3600000",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(Draft::from_new(new(value)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_connection_is_tried_with_values_in_clear() {
    let transport = transport_to_test(new(
        json!({"name": "x", "url": "https://h/", "headers": {"A": "pa$$"}}),
    ))
    .unwrap();
    let Transport::StreamableHttp { headers, .. } = transport else {
        panic!("not http")
    };
    assert_eq!(headers["A"], SecretTemplate::literal("pa$$"));
}

#[test]
fn a_patch_keeps_what_it_does_not_name() {
    let current = Transport::Stdio {
        command: "old".into(),
        args: vec!["a".into()],
        cwd: Some("/tmp".into()),
        env: BTreeMap::from([
            ("KEEP".into(), SecretTemplate::literal("1")),
            ("DROP".into(), SecretTemplate::literal("2")),
        ]),
    };
    let patch: ServerPatch =
        serde_json::from_value(json!({"command": "new", "env": {"DROP": null, "ADD": "3"}, "cwd": ""}))
            .unwrap();
    let expected = DraftTransport::Stdio {
        command: "new".into(),
        args: vec!["a".into()],
        cwd: None,
        env: DraftValues::from([
            ("KEEP".into(), DraftValue::Keep(SecretTemplate::literal("1"))),
            ("ADD".into(), DraftValue::Seal("3".into())),
        ]),
    };
    assert_eq!(patched_transport(Some(&current), &patch).unwrap(), Some(expected));

    let untouched = ServerPatch {
        enabled: Some(true),
        ..ServerPatch::default()
    };
    assert_eq!(patched_transport(Some(&current), &untouched).unwrap(), None);

    let moved: ServerPatch = serde_json::from_value(json!({"url": "https://h/"})).unwrap();
    let expected = DraftTransport::StreamableHttp {
        url: "https://h/".into(),
        headers: DraftValues::new(),
    };
    assert_eq!(
        patched_transport(Some(&current), &moved).unwrap(),
        Some(expected),
        "secrets do not move along"
    );
}
