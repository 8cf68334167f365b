#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;

use super::super::draft::DraftValue;
use super::*;

/// A file of the shared data, or nothing (and a loud word) where the folder is absent. CI refuses to go without.
fn shared(file: &str) -> Option<Vec<u8>> {
    let beside_repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("TROUPE_SHARED_DATA").map_or(beside_repository, PathBuf::from);
    match std::fs::read(folder.join(file)) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let words = format!(
                "{} cannot be read ({error}): set TROUPE_SHARED_DATA",
                folder.join(file).display()
            );
            assert!(std::env::var_os("CI").is_none(), "{words}");
            eprintln!("SKIPPED: {words}");
            None
        }
    }
}

/// The catalogue of 2,120 servers, as text.
pub(crate) fn catalogue() -> Option<String> {
    let packed = shared("catalog-2120-servers.jsonl.gz")?;
    let mut gunzip = Command::new("gunzip")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = gunzip.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &packed).unwrap());
    let mut text = String::new();
    gunzip.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    assert!(gunzip.wait().unwrap().success());
    Some(text)
}

fn import(format: ImportFormat, content: impl Into<String>) -> Result<(RegistryState, Plan), RegistryError> {
    let read = read(&ImportSource {
        format,
        content: content.into(),
    })?;
    let mut state = RegistryState::default();
    let plan = plan(&state, read, "tester", Timestamp::from_unix_ms(0));
    let change = Change {
        puts: plan.change.puts.clone(),
        ..Change::default()
    };
    state.apply(change);
    Ok((state, plan))
}

fn record<'a>(state: &'a RegistryState, name: &str) -> &'a super::super::record::ServerRecord {
    state
        .servers()
        .get(name)
        .unwrap_or_else(|| panic!("no {name} among {:?}", state.servers().keys()))
}

fn transport_text(state: &RegistryState, name: &str) -> String {
    serde_json::to_string(&record(state, name).operation.transport).unwrap()
}

#[test]
fn the_seed_is_converted_and_what_could_not_be_is_named() {
    let Some(bytes) = shared("registry-seed-2025-05-16.json") else {
        return;
    };
    let (state, plan) = import(ImportFormat::Seed, String::from_utf8(bytes).unwrap()).unwrap();
    let report = plan.report;
    assert_eq!(
        (report.imported, report.skipped, report.rejected.len()),
        (464, 0, 7)
    );
    assert!(
        report
            .rejected
            .iter()
            .all(|rejected| rejected.reason == "it has no name: the entry is empty")
    );
    assert_eq!(state.servers().len(), 464);
    for record in state.servers().values() {
        let manifest = &record.latest().unwrap().manifest;
        assert_eq!(manifest.validate(), Ok(()), "{}", manifest.name);
        assert!(!record.operation.enabled, "importing a registry starts nothing");
        let again = ServerJson::from_value(serde_json::to_value(&**manifest).unwrap()).unwrap();
        assert_eq!(again, **manifest);
    }
    let packages: BTreeMap<String, usize> = state
        .servers()
        .values()
        .flat_map(|record| {
            record.versions[0]
                .manifest
                .packages
                .iter()
                .map(|package| package.registry_type.clone())
        })
        .fold(BTreeMap::new(), |mut counts, kind| {
            *counts.entry(kind).or_default() += 1;
            counts
        });
    let with_transport = state
        .servers()
        .values()
        .filter(|record| record.operation.transport.is_some())
        .count();
    println!(
        "packages {packages:?}; {with_transport} can be reached; {} notes",
        report.notes.len()
    );
    assert_eq!(
        packages["pypi"] + packages["npm"] + packages["oci"],
        packages.values().sum::<usize>()
    );

    let magic = &record(&state, "magic-mcp").versions[0].manifest;
    let package = &magic.packages[0];
    assert_eq!(
        (package.identifier.as_str(), package.version.as_deref()),
        ("@21st-dev/magic", Some("0.0.46"))
    );
    assert_eq!(package.environment_variables[0].name, "API_KEY");
    assert!(
        transport_text(&state, "magic-mcp")
            .contains(r#""command":"npx","args":["-y","@21st-dev/magic@0.0.46"]"#)
    );

    let dart = &record(&state, "dart-mcp-server").versions[0].manifest.packages[0];
    assert_eq!(
        (dart.registry_type.as_str(), dart.identifier.as_str()),
        ("oci", "mcp/dart")
    );
    let args = r#"["run","-i","--rm","-e","DART_TOKEN","mcp/dart"]"#;
    assert!(
        transport_text(&state, "dart-mcp-server").contains(args),
        "{}",
        transport_text(&state, "dart-mcp-server")
    );
}

#[test]
fn old_arguments_fall_apart_into_flags_and_values() {
    let argument = |name: &str, value: &str| {
        json!({"type": if name.is_empty() { "positional" } else { "named" }, "name": name, "value": value,
               "default": value, "format": "string", "is_required": true, "value_hint": "hint"})
    };
    let content = json!([{
        "name": "io.github.a/b", "description": "", "repository": {"url": "", "source": "", "id": ""},
        "version_detail": {"version": "0.0.1-seed"},
        "packages": [{"registry_name": "npm", "name": "b", "version": "1.0.0", "package_arguments": [
            argument("", "-y"), argument("", "b@latest"),
            argument("--transport stdio", "--transport stdio"),
            argument("--level=debug", "--level=debug"),
            argument("--api-key <YOUR_KEY>", "--api-key <YOUR_KEY>"),
            argument("1440", "1440"),
            argument("", "start"),
        ]}, {"registry_name": "unknown", "name": "c", "version": ""}, {"registry_name": "npm", "name": "a/b", "version": ""}],
        "remotes": [{"transport_type": "carrier-pigeon", "url": "https://h/"}],
    }])
    .to_string();
    let (state, plan) = import(ImportFormat::Seed, content).unwrap();
    let manifest = &record(&state, "b").versions[0].manifest;
    insta::assert_json_snapshot!(manifest.packages[0].package_arguments, @r#"
    [
      {
        "type": "named",
        "name": "--transport",
        "isRequired": true,
        "value": "stdio"
      },
      {
        "type": "named",
        "name": "--level",
        "isRequired": true,
        "value": "debug"
      },
      {
        "type": "named",
        "name": "--api-key",
        "isRequired": true,
        "placeholder": "<YOUR_KEY>"
      },
      {
        "type": "positional",
        "valueHint": "hint",
        "isRequired": true,
        "value": "1440"
      },
      {
        "type": "positional",
        "valueHint": "hint",
        "isRequired": true,
        "value": "start"
      }
    ]
    "#);
    let notes: Vec<&str> = plan.report.notes.iter().map(|note| note.note.as_str()).collect();
    insta::assert_json_snapshot!(notes, @r#"
    [
      "the package \"c\" is left out: which registry has it is unknown",
      "the package \"a/b\" is left out: this is not the name of an npm package",
      "the remote https://h/ is left out: its transport \"carrier-pigeon\" is unknown",
      "disabled until it is given the argument --api-key",
      "it has no description: its name stands there instead"
    ]
    "#);
    assert_eq!(
        manifest.meta[META_IMPORTED].to_value()["packages"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn the_catalogue_is_imported_with_its_tools() {
    let Some(content) = catalogue() else { return };
    let (state, plan) = import(ImportFormat::Catalog, content).unwrap();
    assert_eq!((plan.report.imported, plan.report.rejected.len()), (2_120, 0));
    let tools: usize = state
        .servers()
        .values()
        .map(|record| record.versions[0].manifest.advertised_tools().len())
        .sum();
    assert_eq!(tools, 17_578);
    let exa = &record(&state, "exa").versions[0].manifest;
    assert_eq!(
        (exa.name.as_str(), exa.title.as_deref()),
        ("catalog/0001.exa_exa-search", Some("Exa Search"))
    );
    assert_eq!(exa.advertised_tools()[0].name, "web_search_exa");
    let shrunk: Vec<&str> = plan
        .report
        .notes
        .iter()
        .filter(|note| note.note.contains("too large"))
        .map(|note| note.name.as_str())
        .collect();
    println!("shrunk: {shrunk:?}");
    assert!(state.servers().values().all(|record| !record.operation.enabled));
}

#[test]
fn desktop_clients_files_are_read() {
    let content = r#"{
        // VS Code allows comments, and trailing commas
        "inputs": [
            {"id": "token", "type": "promptString", "password": true},
            {"id": "zone", "type": "promptString", "default": "UTC"},
        ],
        "servers": {
            "My Time": {"type": "stdio", "command": "uvx", "args": ["mcp-server-time", "--local-timezone", "${input:zone}"],
                        "env": {"LEVEL": "debug", "N": 3}}, /* a block */
            "github": {"type": "http", "url": "https://api.example.com/mcp/", "headers": {"Authorization": "Bearer ${input:token}"}},
            "env": {"url": "https://e.example.com/mcp", "headers": {"X": "${env:X_KEY}", "Y": "${secret:shared}"}},
            "old": {"type": "sse", "url": "https://e.example.com/sse"},
            "off": {"command": "x", "disabled": true},
            "here": {"command": "node", "args": ["${workspaceFolder}/x.js"]},
            "empty": {},
            "天气": {"command": "x"},
        },
    }"#;
    let (state, plan) = import(ImportFormat::McpServers, content).unwrap();
    let enabled = |name: &str| record(&state, name).operation.enabled;

    assert!(enabled("my-time"));
    assert_eq!(
        record(&state, "my-time").versions[0].manifest.title.as_deref(),
        Some("My Time")
    );
    let time = transport_text(&state, "my-time");
    assert!(
        time.contains(r#""args":["mcp-server-time","--local-timezone","UTC"]"#),
        "{time}"
    );
    assert!(time.contains("${secret:server/my-time/env/LEVEL}"), "{time}");
    let secrets: Vec<_> = plan
        .secrets
        .iter()
        .map(|(name, text)| (name.as_str(), text.expose()))
        .collect();
    assert_eq!(
        secrets,
        [
            ("server/my-time/env/LEVEL", "debug"),
            ("server/my-time/env/N", "3")
        ]
    );

    assert!(!enabled("github"), "it waits for its token");
    assert!(transport_text(&state, "github").contains("Bearer ${secret:server/github/input/token}"));
    assert!(transport_text(&state, "env").contains("${secret:server/env/env/X_KEY}"));
    assert!(transport_text(&state, "env").contains(r#""Y":"${secret:shared}""#));
    assert!(enabled("old"));
    assert!(transport_text(&state, "old").starts_with(r#"{"type":"sse","url":"https://e.example.com/sse""#));
    assert!(!enabled("off") && !enabled("here") && !enabled("env"));

    let rejected: Vec<_> = plan
        .report
        .rejected
        .iter()
        .map(|entry| (entry.index, entry.name.as_str(), entry.reason.as_str()))
        .collect();
    assert_eq!(
        rejected,
        [
            (6, "empty", "it has neither a command nor a url"),
            (7, "天气", "its name has none of the letters a-z and digits"),
        ]
    );
    let notes: Vec<String> = plan
        .report
        .notes
        .iter()
        .map(|note| format!("{}: {}", note.name, note.note))
        .collect();
    insta::assert_json_snapshot!(notes, @r#"
    [
      "github: disabled until these are set: the secret server/github/input/token",
      "env: disabled until these are set: the secret server/env/env/X_KEY",
      "here: disabled until these are set: ${workspaceFolder} in args"
    ]
    "#);
}

#[test]
fn each_clients_root_is_known() {
    for content in [
        r#"{"mcpServers": {"x": {"command": "y"}}}"#,
        r#"{"servers": {"x": {"command": "y"}}}"#,
        r#"{"mcp": {"servers": {"x": {"command": "y"}}}}"#,
        r#"{"context_servers": {"x": {"command": {"path": "y", "args": []}}}}"#,
        r#"{"mcpServers": {"x": {"serverUrl": "https://h/"}}}"#,
        r#"{"x": {"command": "y"}}"#,
    ] {
        let (state, _) = import(ImportFormat::McpServers, content).unwrap();
        assert!(record(&state, "x").operation.enabled, "{content}");
    }
    for content in [
        "",
        "[]",
        "{\"mcpServers\": []}",
        "{\"mcpServers\": {\"x\": 1}}",
        "{\"a\": ",
    ] {
        assert!(
            import(ImportFormat::McpServers, content).is_err(),
            "{content:?} was read"
        );
    }
}

#[test]
fn manifests_come_alone_in_lists_and_in_pages() {
    let manifest = json!({"name": "io.github.a/weather", "description": "x".repeat(150), "version": "1.0.0",
        "packages": [{"registryType": "npm", "identifier": "weather", "transport": {"type": "stdio"}}]});
    let (state, plan) = import(ImportFormat::ServerJson, manifest.to_string()).unwrap();
    let weather = record(&state, "weather");
    assert!(
        weather.operation.enabled,
        "a single manifest that is complete is enabled"
    );
    assert_eq!(weather.versions[0].manifest.description.chars().count(), 100);
    let kept = weather.versions[0].manifest.meta[META_IMPORTED].to_value();
    assert_eq!(kept["description"], manifest["description"]);
    assert_eq!(plan.report.notes, []);

    let mut newer = manifest.clone();
    newer["version"] = "1.1.0".into();
    let mut same_slug = manifest.clone();
    same_slug["name"] = "io.github.b/weather".into();
    let mut wrong = manifest.clone();
    wrong["version"] = "^1".into();
    let page = json!({"servers": [{"server": manifest}, {"server": newer}, same_slug, wrong, {"name": "x"}]});
    let (state, plan) = import(ImportFormat::ServerJson, page.to_string()).unwrap();
    assert_eq!((plan.report.imported, plan.report.rejected.len()), (3, 2));
    assert_eq!(record(&state, "weather").versions.len(), 2);
    assert_eq!(
        record(&state, "b-weather").versions[0].manifest.name,
        "io.github.b/weather"
    );
    assert!(!record(&state, "weather").operation.enabled);
    let reasons: Vec<&str> = plan
        .report
        .rejected
        .iter()
        .map(|entry| entry.reason.as_str())
        .collect();
    assert_eq!(
        reasons[0],
        "version: \"^1\" is a range: give one version, such as 1.2.3 (version-range)"
    );
    assert_eq!(reasons[1], "manifest: missing field `description` (unreadable)");
}

#[test]
fn importing_again_changes_nothing_and_other_content_is_refused() {
    let content = |url: &str| json!([{"name": "a.b/c", "description": url, "version": "1"}]).to_string();
    let (mut state, _) = import(ImportFormat::ServerJson, content("one")).unwrap();
    for (text, expected) in [("one", (0, 1, 0)), ("two", (0, 0, 1))] {
        let read = read(&ImportSource {
            format: ImportFormat::ServerJson,
            content: content(text),
        })
        .unwrap();
        let plan = plan(&state, read, "tester", Timestamp::from_unix_ms(1));
        let report = &plan.report;
        assert_eq!((report.imported, report.skipped, report.rejected.len()), expected);
        assert!(plan.change.is_empty());
        state.apply(plan.change);
    }
}

#[test]
fn names_stay_free_of_each_other() {
    let names = ["mcp", "mcp", "mcp"].map(str::to_owned);
    let mut state = RegistryState::default();
    for (index, expected) in ["mcp", "mcp-2", "mcp-3"].into_iter().enumerate() {
        let name = free_name(&state, &names).unwrap();
        assert_eq!(name.as_str(), expected);
        let manifest = ServerJson {
            name: format!("a/b{index}"),
            description: "x".into(),
            version: "1".into(),
            ..ServerJson::default()
        };
        let new = Registration {
            name,
            manifest,
            operation: Operation::default(),
        };
        state.apply(state.register(new, Timestamp::from_unix_ms(0)).unwrap());
    }
    assert_eq!(
        free_name(&state, &["troupe".to_owned()]).unwrap().as_str(),
        "troupe-2"
    );
    assert_eq!(free_name(&state, &["天".to_owned()]), None);
}

#[test]
fn values_that_a_client_gave_are_sealed_or_kept_as_templates() {
    let content =
        r#"{"mcpServers": {"x": {"command": "y", "env": {"A": "costs $5", "B": "${input:unknown}!"}}}}"#;
    let read = read(&ImportSource {
        format: ImportFormat::McpServers,
        content: content.into(),
    })
    .unwrap();
    let Some(DraftTransport::Stdio { env, .. }) = &read.items[0].transport else {
        panic!("not stdio")
    };
    assert_eq!(env["A"], DraftValue::Seal("costs $5".into()));
    let DraftValue::Keep(template) = &env["B"] else {
        panic!("sealed")
    };
    assert_eq!(template.as_str(), "${secret:server/x/input/unknown}!");
}
