//! Virtual servers over real ones: a legacy server that is a process and one over HTTP of both eras, seen by clients of
//! both eras; made by the command line, kept by the cluster.

use std::time::Duration;

use rmcp::model::{GetPromptRequestParams, ReadResourceRequestParams};
use serde_json::{Value, json};
use troupe_tests::conformance::Fixture;
use troupe_tests::mcp::{Era, call, text, tool_names};
use troupe_tests::{Cluster, Node, eventually};

const FIXTURE: &str = env!("CARGO_BIN_EXE_conformance-server");
const JOURNAL_SERVER: &str = env!("CARGO_BIN_EXE_journal-server");

/// As an administrator would write it.
const DESK: &str = r#"
title = "Desk"
description = "What the desk may use"

[[items]]
server = "process"
name = "greet"
as = "welcome"
title = "Welcome"
description = "Welcomes the world"
fixed = { name = "world" }

[[items]]
server = "remote"
name = "test_custom_header"
as = "say"

[[items]]
server = "remote"
name = "slow_compute"
fixed = { seconds = 30 }
hidden = ["label"]
timeout_ms = 300

[[items]]
kind = "prompt"
server = "process"
name = "test_prompt_with_arguments"
as = "brief"
fixed = { arg1 = "fixed" }

[[items]]
kind = "resource"
server = "process"
name = "test://static-text"
as = "desk://text"

[[items]]
kind = "resource_template"
server = "remote"
name = "test://template/{id}/data"
"#;

/// A node with the two servers and the virtual one over them.
async fn desk() -> (Node, Fixture, String) {
    let node = Node::start().await;
    let fixture = Fixture::start(FIXTURE, "both").await;
    let process = [FIXTURE, "legacy", "--stdio"].map(str::to_owned);
    node.add_server("process", &process).await;
    node.cli(&["server", "add", "remote", "--url", &fixture.url])
        .await
        .ok();
    node.wait_online("remote").await;
    let file = node.scratch().join("desk.toml");
    std::fs::write(&file, DESK).unwrap();
    let file = file.display().to_string();
    let said = node.cli(&["virtual", "add", "desk", "--file", &file]).await.ok();
    (node, fixture, said)
}

#[tokio::test]
async fn clients_of_both_eras_see_and_use_what_was_chosen_of_servers_of_both() {
    let (node, _fixture, said) = desk().await;
    assert!(
        said.contains("/mcp/virtual/desk") && !said.contains("warning"),
        "{said}"
    );
    for era in Era::BOTH {
        let client = node.mcp("/mcp/virtual/desk", era).await;
        assert_eq!(
            tool_names(&client).await,
            ["welcome", "say", "slow_compute"],
            "{era:?}"
        );
        let tools = serde_json::to_value(client.list_all_tools().await.unwrap()).unwrap();
        assert_eq!(tools[0]["title"], "Welcome");
        assert_eq!(
            tools[0]["inputSchema"]["properties"],
            json!({}),
            "what is fixed is not shown"
        );
        assert_eq!(tools[0]["inputSchema"].get("required"), None);

        assert_eq!(
            text(&call(&client, "welcome", json!({})).await.unwrap()),
            "Hello, world!"
        );
        assert_eq!(
            text(&call(&client, "say", json!({ "value": "Hé!" })).await.unwrap()),
            "Hé!"
        );
        for (tool, arguments, named) in [
            ("welcome", json!({ "name": "me" }), "name"),
            ("slow_compute", json!({ "label": "x" }), "label"),
            ("greet", json!({ "name": "me" }), "desk offers no tool"),
            ("process__greet", json!({ "name": "me" }), "desk offers no tool"),
            ("find_tools", json!({ "query": "x" }), "desk offers no tool"),
            ("slow_compute", json!({}), "300 ms"),
        ] {
            let refused = call(&client, tool, arguments).await.unwrap_err().to_string();
            assert!(refused.contains(named), "{era:?} {tool}: {refused}");
        }

        let prompts = serde_json::to_value(client.list_all_prompts().await.unwrap()).unwrap();
        assert_eq!(prompts[0]["name"], "brief");
        assert_eq!(prompts[0]["arguments"].as_array().unwrap().len(), 1, "{prompts}");
        let arguments = json!({ "arg2": "given" }).as_object().unwrap().clone();
        let prompt = GetPromptRequestParams::new("brief").with_arguments(arguments);
        let prompt = serde_json::to_value(client.get_prompt(prompt).await.unwrap()).unwrap();
        assert!(
            prompt.to_string().contains("arg1='fixed', arg2='given'"),
            "{prompt}"
        );

        let resources = serde_json::to_value(client.list_all_resources().await.unwrap()).unwrap();
        assert_eq!(
            (resources.as_array().unwrap().len(), &resources[0]["uri"]),
            (1, &json!("desk://text"))
        );
        let templates = client.list_all_resource_templates().await.unwrap();
        assert_eq!(templates.len(), 1);
        let read = async |uri: &str| {
            let read = client.read_resource(ReadResourceRequestParams::new(uri)).await;
            read.map(|result| serde_json::to_value(result).unwrap())
        };
        assert_eq!(
            read("desk://text").await.unwrap()["contents"][0]["uri"],
            "desk://text"
        );
        let record = read("test://template/7/data").await.unwrap();
        assert!(record.to_string().contains("Data for ID: 7"), "{record}");
        for unchosen in [
            "test://static-text",
            "test://template/7/8/data",
            "test://static-binary",
        ] {
            assert!(read(unchosen).await.is_err(), "{era:?}: {unchosen} was read");
        }
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn virtual_servers_are_administered_by_administrators_and_everything_is_said_clearly() {
    let (node, _fixture, _) = desk().await;
    let key = node
        .api
        .post("/api/v1/keys", &json!({ "name": "user", "role": "user" }))
        .await
        .ok();
    let user = node.api.with_key(key["key"].as_str());
    let listed = user.get("/api/v1/virtual").await.ok();
    assert_eq!(
        listed["items"][0]["servers"],
        json!(["process", "remote"]),
        "{listed}"
    );
    assert!(
        !listed.to_string().contains("world"),
        "fixed values are not for users: {listed}"
    );
    for refused in [
        user.get("/api/v1/virtual/desk").await,
        user.put("/api/v1/virtual/desk", &json!({ "items": [] })).await,
        user.delete("/api/v1/virtual/desk").await,
    ] {
        refused.problem(403, "T4002");
    }

    let put = async |items: Value| {
        node.api
            .put("/api/v1/virtual/other", &json!({ "items": items }))
            .await
    };
    let twice = json!([{ "server": "process", "name": "greet" }, { "server": "remote", "name": "greet" }]);
    put(twice).await.problem(422, "T2012");
    let hidden = json!([{ "server": "process", "name": "greet", "hidden": ["name"] }]);
    let problem = put(hidden).await.problem(422, "T2013");
    assert!(
        problem["detail"].as_str().unwrap().contains("\"name\""),
        "{problem}"
    );
    let elsewhere = json!([
        { "server": "nobody", "name": "x" },
        { "server": "process", "name": "nothing" },
        { "server": "process", "name": "greet", "fixed": { "nam": "x" } },
    ]);
    let warnings = put(elsewhere).await.ok()["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 3, "{warnings:#}");
    let shown = node.cli(&["virtual", "show", "other"]).await.ok();
    assert_eq!(shown.matches("warning: ").count(), 3, "{shown}");
    assert!(node.cli(&["virtual", "list"]).await.ok().contains("desk"));

    node.cli(&["virtual", "remove", "other"]).await.ok();
    node.api.get("/api/v1/virtual/other").await.problem(404, "T2011");
    let gone = node.cli(&["virtual", "remove", "other"]).await.failed();
    assert!(gone.contains("T2011"), "{gone}");
    let audit = node.api.get("/api/v1/audit?limit=20").await.ok().to_string();
    assert!(
        audit.contains("virtual.put") && audit.contains("virtual.remove"),
        "{audit}"
    );
}

/// Without it a client would be given every tool of every server with each conversation.
#[tokio::test]
async fn a_key_may_be_listed_the_search_alone_and_still_call_everything() {
    let (node, _fixture, _) = desk().await;
    let key = node.cli(&["key", "add", "small", "--tools", "search"]).await.ok();
    let listed = node.cli(&["key", "list", "--json"]).await.json().to_string();
    assert!(listed.contains(r#""tools":"search""#), "{listed}");
    for era in Era::BOTH {
        let client = troupe_tests::mcp::connect(&node.url("/mcp"), Some(key.trim()), era).await;
        assert_eq!(tool_names(&client).await, ["find_tools", "call_tool"], "{era:?}");
        let arguments = json!({ "server": "process", "tool": "greet", "arguments": { "name": "you" } });
        let called = call(&client, "call_tool", arguments).await.unwrap();
        assert!(text(&called).contains("Hello, you!"), "{called:?}");
        let named = call(&client, "process__greet", json!({ "name": "you" }))
            .await
            .unwrap();
        assert_eq!(text(&named), "Hello, you!");
        client.cancel().await.unwrap();
        let all = node.mcp("/mcp", era).await;
        assert!(
            tool_names(&all).await.contains(&"process__greet".to_owned()),
            "others see everything"
        );
        all.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn a_virtual_server_outlives_the_node_where_it_was_made() {
    let mut cluster = Cluster::start(3).await;
    let folder = tempfile::tempdir().unwrap();
    let journal = troupe_tests::journal::Journal::new(folder.path(), "notes");
    cluster.nodes[0]
        .add_server("notes", &journal.command(JOURNAL_SERVER, "notes"))
        .await;
    let tools = cluster.nodes[0].api.get("/api/v1/servers/notes/tools").await.ok();
    let tool = tools["items"][0]["name"].as_str().unwrap().to_owned();
    let items = json!({ "items": [{ "server": "notes", "name": tool, "as": "renamed" }] });
    cluster.nodes[0]
        .api
        .put("/api/v1/virtual/desk", &items)
        .await
        .ok();
    cluster.kill(0).await;
    for era in Era::BOTH {
        let node = &cluster.nodes[1];
        let listed = eventually("the tool at another node", Duration::from_secs(60), async || {
            let client = node.mcp("/mcp/virtual/desk", era).await;
            let tools = tool_names(&client).await;
            client.cancel().await.unwrap();
            (!tools.is_empty()).then_some(tools)
        })
        .await;
        assert_eq!(listed, ["renamed"], "{era:?}");
    }
}
