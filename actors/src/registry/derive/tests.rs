#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn derived(parts: Value) -> Derived {
    let mut manifest = json!({"name": "com.example/x", "description": "x", "version": "1.0.0"});
    manifest
        .as_object_mut()
        .unwrap()
        .extend(parts.as_object().unwrap().clone());
    let manifest = ServerJson::from_value(manifest).unwrap();
    assert_eq!(manifest.validate(), Ok(()));
    transport(&manifest, &Given::default())
}

fn package(parts: Value) -> Derived {
    let mut package = json!({"transport": {"type": "stdio"}});
    package
        .as_object_mut()
        .unwrap()
        .extend(parts.as_object().unwrap().clone());
    derived(json!({"packages": [package]}))
}

fn command_line(derived: &Derived) -> String {
    match &derived.transport {
        Some(DraftTransport::Stdio { command, args, .. }) => format!("{command} {}", args.join(" ")),
        other => format!("{other:?}"),
    }
}

#[test]
fn packages_are_run_by_the_runner_of_their_registry() {
    let npm = package(json!({"registryType": "npm", "identifier": "@a/b", "version": "1.2.3"}));
    assert_eq!(command_line(&npm), "npx -y @a/b@1.2.3");
    let pypi = package(
        json!({"registryType": "pypi", "identifier": "b", "version": "1.2.3",
        "packageArguments": [{"type": "named", "name": "--zone", "value": "UTC"}]}),
    );
    assert_eq!(command_line(&pypi), "uvx b@1.2.3 --zone UTC");
    let oci = package(
        json!({"registryType": "oci", "identifier": "images.example.org/a/b:1",
        "runtimeArguments": [{"type": "named", "name": "-v", "value": "/a:/b"}],
        "environmentVariables": [{"name": "LEVEL", "default": "info"}]}),
    );
    assert_eq!(
        command_line(&oci),
        "docker run -i --rm -e LEVEL -v /a:/b images.example.org/a/b:1"
    );
    let nuget = package(
        json!({"registryType": "nuget", "identifier": "B", "version": "1.0.0",
        "packageArguments": [{"type": "positional", "value": "mcp"}]}),
    );
    assert_eq!(command_line(&nuget), "dnx B@1.0.0 --yes -- mcp");
}

#[test]
fn values_come_from_value_then_default_and_fill_their_variables() {
    let line = package(
        json!({"registryType": "npm", "identifier": "b", "packageArguments": [
            {"type": "named", "name": "--host", "value": "{h}.example.com", "variables": {"h": {"default": "eu"}}},
            {"type": "named", "name": "--port", "default": 80},
            {"type": "named", "name": "--verbose", "format": "boolean", "value": "true"},
            {"type": "named", "name": "--quiet", "format": "boolean", "default": "false"},
            {"type": "positional", "valueHint": "folder"},
            {"type": "positional", "value": "last one"},
        ]}),
    );
    assert_eq!(
        command_line(&line),
        "npx -y b --host eu.example.com --port 80 --verbose last one"
    );
    assert_eq!(line.missing, Vec::<String>::new());
}

#[test]
fn required_inputs_without_a_value_are_missing() {
    let derived = package(json!({"registryType": "npm", "identifier": "b",
        "packageArguments": [
            {"type": "positional", "valueHint": "folder", "isRequired": true},
            {"type": "named", "name": "--key", "isRequired": true, "placeholder": "abc"},
            {"type": "named", "name": "--url", "value": "http://{h}/", "isRequired": true, "variables": {"h": {}}}],
        "environmentVariables": [{"name": "KEY", "isRequired": true, "isSecret": true}, {"name": "OTHER"}]}));
    assert_eq!(
        derived.missing,
        [
            "the argument folder",
            "the argument --key",
            "the argument --url",
            "the variable KEY"
        ]
    );
}

#[test]
fn what_the_user_gives_is_not_missing() {
    let manifest = ServerJson::from_value(json!({
        "name": "a/b", "description": "x", "version": "1", "remotes": [{
            "type": "streamable-http", "url": "https://h/",
            "headers": [{"name": "Authorization", "isRequired": true, "isSecret": true}, {"name": "X-V", "value": "1"}],
        }],
    }))
    .unwrap();
    let headers = DraftValues::from([("Authorization".into(), DraftValue::Seal("Bearer x".into()))]);
    let derived = transport(
        &manifest,
        &Given {
            headers,
            ..Given::default()
        },
    );
    assert_eq!(derived.missing, Vec::<String>::new());
    let Some(DraftTransport::StreamableHttp { headers, .. }) = derived.transport else {
        panic!("no transport")
    };
    assert_eq!(headers["Authorization"], DraftValue::Seal("Bearer x".into()));
    assert_eq!(headers["X-V"], DraftValue::Keep(SecretTemplate::literal("1")));
}

#[test]
fn the_first_complete_way_is_taken_and_the_others_say_why_not() {
    let derived = derived(json!({
        "remotes": [
            {"type": "streamable-http", "url": "https://{t}.h/", "variables": {"t": {"isRequired": true}}},
        ],
        "packages": [
            {"registryType": "mcpb", "identifier": "https://h/x.mcpb", "fileSha256": "0".repeat(64), "transport": {"type": "stdio"}},
            {"registryType": "npm", "identifier": "b", "transport": {"type": "stdio"}},
        ],
    }));
    assert_eq!(command_line(&derived), "npx -y b");
    assert_eq!(derived.notes.len(), 1, "{:?}", derived.notes);
}

#[test]
fn the_older_transport_is_for_servers_that_speak_no_other() {
    let older = json!({"type": "sse", "url": "https://h/sse"});
    let current = json!({"type": "streamable-http", "url": "https://h/mcp"});
    let package = json!({"registryType": "npm", "identifier": "b", "transport": {"type": "stdio"}});
    let both = derived(json!({"remotes": [older, current], "packages": [package]}));
    assert!(
        matches!(both.transport, Some(DraftTransport::StreamableHttp { .. })),
        "{both:?}"
    );
    let one = derived(json!({"remotes": [older], "packages": [package]}));
    let Some(DraftTransport::Sse { url, .. }) = one.transport else {
        panic!("{one:?}")
    };
    assert_eq!(url, "https://h/sse");
}

#[test]
fn a_manifest_that_says_nothing_gives_nothing() {
    assert_eq!(derived(json!({})), Derived::default());
}
