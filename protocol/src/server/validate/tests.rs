#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({"name": "io.github.user/weather", "description": "Weather", "version": "1.0.2"})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut manifest = minimal();
    manifest[pointer] = value;
    manifest
}

fn faults(manifest: Value) -> Vec<(String, Fault)> {
    let read = ServerJson::from_value(manifest).unwrap();
    read.faults()
        .into_iter()
        .map(|error| (error.field, error.fault))
        .collect()
}

#[test]
fn a_full_manifest_is_right_and_comes_out_as_it_went_in() {
    let manifest = json!({
        "$schema": super::super::manifest::SCHEMA_URL,
        "name": "com.example/full",
        "title": "Full",
        "description": "Everything that the schema has",
        "version": "2.1.0-alpha+build.7",
        "websiteUrl": "https://example.com",
        "repository": {"url": "https://github.com/example/full", "source": "github", "id": "7", "subfolder": "src"},
        "icons": [{"src": "https://example.com/i.png", "mimeType": "image/png", "sizes": ["48x48"], "theme": "dark"}],
        "packages": [{
            "registryType": "npm",
            "registryBaseUrl": "https://packages.example.org",
            "identifier": "@example/full",
            "version": "2.1.0",
            "runtimeHint": "npx",
            "transport": {"type": "streamable-http", "url": "http://127.0.0.1:{port}/mcp"},
            "runtimeArguments": [{"type": "positional", "value": "-y"}],
            "packageArguments": [
                {"type": "named", "name": "--port", "isRepeated": false, "format": "number", "default": "80"},
                {"type": "positional", "valueHint": "folder", "format": "filepath", "isRequired": true},
            ],
            "environmentVariables": [
                {"name": "KEY", "isSecret": true, "value": "{k}", "variables": {"k": {"description": "The key"}}},
            ],
            "unknownOfPackage": [1, 2],
        }],
        "remotes": [{
            "type": "sse",
            "url": "https://{tenant}.example.com/sse",
            "variables": {"tenant": {"isRequired": true, "choices": ["a", "b"]}},
            "headers": [{"name": "X-Key", "isSecret": true, "unknownOfHeader": null}],
        }],
        "_meta": {"io.modelcontextprotocol.registry/publisher-provided": {"tool": "x"}},
        "unknown": {"kept": true},
    });
    let mut fixed = manifest.clone();
    fixed["packages"][0]["transport"]["url"] = "http://127.0.0.1:80/mcp".into();
    let read = ServerJson::from_value(fixed.clone()).unwrap();
    assert_eq!(read.faults(), []);
    assert_eq!(serde_json::to_value(&read).unwrap(), fixed);
    // A variable may only stand for what is declared, and `--port` is declared.
    assert_eq!(faults(manifest), []);
}

#[test]
fn each_fault_names_its_field() {
    let package = |changes: Value| {
        let mut package = json!({"registryType": "npm", "identifier": "x", "transport": {"type": "stdio"}});
        package
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        with("packages", json!([package]))
    };
    let remote = |remote: Value| with("remotes", json!([remote]));
    let cases = [
        (with("name", json!("weather")), "name", Fault::NamePattern),
        (with("name", json!("a/b/c")), "name", Fault::NamePattern),
        (with("name", json!("a b/c")), "name", Fault::NamePattern),
        (
            with("name", json!(format!("a/{}", "x".repeat(199)))),
            "name",
            Fault::TooLong,
        ),
        (with("name", json!("")), "name", Fault::Empty),
        (with("version", json!("^1.2.3")), "version", Fault::VersionRange),
        (with("version", json!("1.x")), "version", Fault::VersionRange),
        (
            with("version", json!("1.2 || 1.3")),
            "version",
            Fault::VersionRange,
        ),
        (
            with("version", json!("latest")),
            "version",
            Fault::VersionReserved,
        ),
        (with("version", json!("1".repeat(256))), "version", Fault::TooLong),
        (
            with("description", json!("x".repeat(101))),
            "description",
            Fault::TooLong,
        ),
        (with("title", json!("  ")), "title", Fault::Empty),
        (
            with("websiteUrl", json!("ftp://example.com")),
            "websiteUrl",
            Fault::UrlScheme,
        ),
        (
            with("repository", json!({"url": "x", "source": "github"})),
            "repository.url",
            Fault::UrlInvalid,
        ),
        (
            with("icons", json!([{"src": "http://example.com/i.png"}])),
            "icons[0].src",
            Fault::UrlScheme,
        ),
        (
            package(json!({"version": "~2"})),
            "packages[0].version",
            Fault::VersionRange,
        ),
        (
            package(json!({"identifier": "a b"})),
            "packages[0].identifier",
            Fault::Space,
        ),
        (
            package(json!({"registryType": "mcpb"})),
            "packages[0].fileSha256",
            Fault::Empty,
        ),
        (
            package(json!({"fileSha256": "xyz"})),
            "packages[0].fileSha256",
            Fault::Sha256,
        ),
        (
            package(json!({"transport": {"type": "sse"}})),
            "packages[0].transport.url",
            Fault::TransportUrl,
        ),
        (
            package(json!({"transport": {"type": "sse", "url": "http://h/{nowhere}"}})),
            "packages[0].transport.url",
            Fault::UrlVariable,
        ),
        (
            package(json!({"packageArguments": [{"type": "named", "name": "--port 80"}]})),
            "packages[0].packageArguments[0].name",
            Fault::ArgumentName,
        ),
        (
            package(json!({"runtimeArguments": [{"type": "positional"}]})),
            "packages[0].runtimeArguments[0]",
            Fault::ArgumentValue,
        ),
        (
            package(json!({"environmentVariables": [{"name": "A", "format": "date"}]})),
            "packages[0].environmentVariables[0].format",
            Fault::Choice,
        ),
        (
            remote(json!({"type": "stdio", "url": "https://h/"})),
            "remotes[0].type",
            Fault::TransportKind,
        ),
        (
            remote(json!({"type": "sse", "url": "ws://h/"})),
            "remotes[0].url",
            Fault::UrlScheme,
        ),
        (
            remote(json!({"type": "sse", "url": "https://{t}.h/"})),
            "remotes[0].url",
            Fault::UrlVariable,
        ),
    ];
    for (manifest, field, fault) in cases {
        assert_eq!(
            faults(manifest.clone()),
            [(field.to_owned(), fault)],
            "of {manifest}"
        );
    }
}

#[test]
fn versions_need_not_be_semantic() {
    for right in ["1.0", "v2", "2025.11.25", "0.0.1-seed", "build-7", "1.2.3-x.1"] {
        assert_eq!(version(right), Ok(()), "{right:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_path() {
    let cases = [
        (
            json!({"name": "a/b", "version": "1"}),
            "manifest: missing field `description`",
        ),
        (
            with("version", json!(1)),
            "version: invalid type: integer `1`, expected a string",
        ),
        (
            with(
                "packages",
                json!([{"registryType": "npm", "identifier": "x", "transport": {"type": "carrier-pigeon"}}]),
            ),
            "packages[0].transport.type: unknown variant `carrier-pigeon`, expected one of `stdio`, `streamable-http`, `sse`",
        ),
        (
            with("remotes", json!([{"type": "sse"}])),
            "remotes[0]: missing field `url`",
        ),
    ];
    for (manifest, expected) in cases {
        let error = ServerJson::from_value(manifest).unwrap_err();
        assert_eq!(error.to_string(), format!("{expected} (unreadable)"));
    }
}
