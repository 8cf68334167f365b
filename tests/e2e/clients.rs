//! Clients that were not written for Troupe: the MCP inspector and the official SDKs for Rust, Python and TypeScript, in
//! both eras and over all transports.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use troupe_tests::conformance::Fixture;
use troupe_tests::mcp::{self, Era};
use troupe_tests::{Node, parts};

const FIXTURE: &str = env!("CARGO_BIN_EXE_conformance-server");
/// All that a client of another language does.
const CLIENT_WITHIN: Duration = Duration::from_secs(60);

/// Runs the inspector against a path of the node; answers the JSON it printed.
async fn inspect(inspector: &[String], node: &Node, path: &str, era: Era, arguments: &[&str]) -> Value {
    let mut command = Command::new(&inspector[0]);
    command.args(&inspector[1..]);
    command.args([
        "--server-url",
        &node.url(path),
        "--transport",
        "http",
        "--format",
        "json",
    ]);
    command.args(["--header", &format!("Authorization: Bearer {}", node.key)]);
    if era == Era::Modern {
        command.args(["--protocol-era", "modern"]);
    }
    // its own folder, so that nothing is read from or left in a home directory
    command
        .args(arguments)
        .env("HOME", node.scratch())
        .kill_on_drop(true);
    let output = command.output().await.expect("the inspector runs");
    assert!(
        output.status.success(),
        "{era:?} {path} {arguments:?}: {output:?}"
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let answer: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"));
    if answer["result"].is_object() {
        answer["result"].clone()
    } else {
        answer
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["tools"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .collect()
}

#[tokio::test]
async fn the_inspector_lists_and_calls_tools_in_both_eras() {
    let (Some(inspector), Some(time)) = (parts::inspector(), parts::time()) else {
        return;
    };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let list = ["--method", "tools/list"];
    for era in Era::BOTH {
        let all = inspect(&inspector, &node, "/mcp", era, &list).await;
        for name in [
            "time__get_current_time",
            "time__convert_time",
            "find_tools",
            "call_tool",
        ] {
            assert!(
                names(&all).contains(&name),
                "{era:?}: {name} is missing in {:?}",
                names(&all)
            );
        }
        let one = inspect(&inspector, &node, "/mcp/servers/time", era, &list).await;
        assert_eq!(names(&one), ["get_current_time", "convert_time"], "{era:?}");

        for (path, tool) in [
            ("/mcp", "time__get_current_time"),
            ("/mcp/servers/time", "get_current_time"),
        ] {
            let call = [
                "--method",
                "tools/call",
                "--tool-name",
                tool,
                "--tool-arg",
                "timezone=Asia/Tokyo",
            ];
            let result = inspect(&inspector, &node, path, era, &call).await;
            assert!(
                result.to_string().contains("+09:00"),
                "{era:?} {path}: {result:#}"
            );
        }
    }
}

#[tokio::test]
async fn the_rust_sdk_reaches_a_modern_server_in_both_eras() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    for era in Era::BOTH {
        for (path, tool) in [
            ("/mcp", "time__convert_time"),
            ("/mcp/servers/time", "convert_time"),
        ] {
            let client = node.mcp(path, era).await;
            assert!(
                mcp::tool_names(&client).await.contains(&tool.to_owned()),
                "{era:?} {path}"
            );
            let arguments = json!({ "source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "Asia/Kolkata" });
            let result = mcp::call(&client, tool, arguments).await.unwrap();
            assert!(mcp::text(&result).contains("08:30"), "{era:?} {path}: {result:?}");
            client.cancel().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_rust_sdk_reaches_a_legacy_server_in_both_eras() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    for era in Era::BOTH {
        for (path, tool) in [("/mcp", "everything__echo"), ("/mcp/servers/everything", "echo")] {
            let client = node.mcp(path, era).await;
            let result = mcp::call(&client, tool, json!({ "message": "hello" }))
                .await
                .unwrap();
            assert!(mcp::text(&result).contains("hello"), "{era:?} {path}: {result:?}");
            let resources = client.list_all_resources().await.unwrap();
            assert!(!resources.is_empty(), "{era:?} {path}");
            let prompts = client.list_all_prompts().await.unwrap();
            assert!(!prompts.is_empty(), "{era:?} {path}");
            client.cancel().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_should_not_see_thousands_finds_and_calls_tools() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let client = node.mcp("/mcp", Era::Modern).await;
    let found = mcp::call(
        &client,
        "find_tools",
        json!({ "query": "current time in a city" }),
    )
    .await
    .unwrap();
    assert!(format!("{found:?}").contains("get_current_time"), "{found:?}");
    let call =
        json!({ "server": "time", "tool": "get_current_time", "arguments": { "timezone": "Asia/Tokyo" } });
    let result = mcp::call(&client, "call_tool", call).await.unwrap();
    assert!(format!("{result:?}").contains("+09:00"), "{result:?}");
    client.cancel().await.unwrap();
}

#[tokio::test]
async fn an_unknown_tool_or_server_is_named_in_the_error() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    for era in Era::BOTH {
        let client = node.mcp("/mcp", era).await;
        let error = mcp::call(&client, "time__no_such_tool", json!({})).await;
        assert!(
            format!("{error:?}").contains("no_such_tool"),
            "{era:?}: {error:?}"
        );
        let refused = mcp::try_connect(&node.url("/mcp/servers/nobody"), Some(&node.key), era).await;
        assert!(refused.is_err(), "{era:?}: a server that is not registered");
    }
}

#[tokio::test]
async fn many_clients_share_one_server_at_once() {
    const CLIENTS: usize = 16;
    const CALLS: usize = 8;
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    let url = node.url("/mcp/servers/everything");
    let work = (0..CLIENTS).map(|client_number| {
        let (url, key) = (url.clone(), node.key.clone());
        async move {
            let era = Era::BOTH[client_number % 2];
            let client = mcp::connect(&url, Some(&key), era).await;
            for call_number in 0..CALLS {
                let message = format!("client {client_number} call {call_number}");
                let result = mcp::call(&client, "echo", json!({ "message": message }))
                    .await
                    .unwrap();
                assert!(
                    mcp::text(&result).contains(&message),
                    "answers were mixed up: {result:?}"
                );
            }
            client.cancel().await.unwrap();
        }
    });
    futures::future::join_all(work).await;
}

/// Runs a client of another language against the fixture through a node; answers what it saw.
async fn run_client(client: &[String], arguments: &[&str], node: &Node) -> Value {
    let mut command = Command::new(&client[0]);
    command.args(&client[1..]).args(arguments);
    command.env("HOME", node.scratch()).kill_on_drop(true);
    let output = tokio::time::timeout(CLIENT_WITHIN, command.output()).await;
    let output = output.expect("the client ends").expect("the client runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{client:?} {arguments:?}: {printed}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        node.log()
    );
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
}

/// What every client does with the fixture, whatever the eras: list, call, hear of progress, read, subscribe, be asked.
fn assert_everything_was_seen(what: &str, seen: &Value) {
    let tools = seen["tools"].as_array().unwrap();
    assert!(tools.contains(&json!("test_simple_text")), "{what}: {seen}");
    assert_eq!(
        seen["text"], "This is a simple text response for testing.",
        "{what}"
    );
    let progress = seen["progress"].as_array().unwrap();
    assert!(progress.len() >= 2, "{what}: {seen}");
    assert!(
        seen["read"].as_str().is_some_and(|text| !text.is_empty()),
        "{what}: {seen}"
    );
    assert_eq!(seen["updated"], true, "{what}");
    assert_eq!(seen["asked"], json!(["who are you?"]), "{what}");
    assert!(
        seen["elicited"].as_str().is_some_and(|text| text.contains("ada")),
        "{what}: {seen}"
    );
}

#[tokio::test]
async fn the_python_and_typescript_sdks_do_everything_with_servers_of_both_eras() {
    let clients = [
        (parts::python_1(), "streamable", ""),
        (parts::python_1(), "sse", "/sse"),
        (parts::python_2(), "legacy", ""),
        (parts::python_2(), "modern", ""),
        (parts::typescript(), "legacy", ""),
        (parts::typescript(), "modern", ""),
    ];
    for eras in ["legacy", "modern"] {
        let node = Node::start().await;
        let _fixture = Fixture::start_at(&node, "fixture", FIXTURE, eras).await;
        for (client, how, at) in &clients {
            let Some(client) = client else { return };
            let url = node.url(&format!("/mcp/servers/fixture{at}"));
            let seen = run_client(client, &[how, &url, &node.key], &node).await;
            assert_everything_was_seen(&format!("{client:?} {how}, server {eras}"), &seen);
        }
    }
}
