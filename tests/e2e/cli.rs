//! The command line: every command prints JSON when asked to, says what went wrong, and ends with the right code.

use serde_json::Value;
use troupe_tests::{Node, parts};

#[tokio::test]
async fn every_command_prints_json_when_asked_to() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    let add: Vec<&str> = ["server", "add", "time", "--json", "--"]
        .into_iter()
        .chain(time.iter().map(String::as_str))
        .collect();
    let added = node.cli(&add).await.json();
    assert!(added.to_string().contains("\"time\""), "{added:#}");
    node.wait_online("time").await;
    let commands: &[&[&str]] = &[
        &["status"],
        &["server", "list"],
        &["server", "show", "time"],
        &["server", "test", "time"],
        &["tool", "list"],
        &["tool", "list", "--server", "time"],
        &["tool", "find", "current time"],
        &[
            "tool",
            "call",
            "time",
            "get_current_time",
            "{\"timezone\":\"Asia/Tokyo\"}",
        ],
        &["ask", "what time is it in Tokyo?"],
        &["actor", "list"],
        &["actor", "tree"],
        &["actor", "show", "node/registry"],
        &["key", "list"],
        &["key", "login-link"],
        &["secret", "list"],
        &["audit"],
        &["doctor"],
        &["server", "disable", "time"],
        &["server", "enable", "time"],
        &["server", "remove", "time"],
    ];
    for command in commands {
        let printed = node.cli(&[command, &["--json"][..]].concat()).await;
        let _: Value = printed.json();
    }
}

#[tokio::test]
async fn an_answer_for_people_has_the_answer_and_its_route() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let said = node.cli(&["ask", "what time is it in Tokyo?"]).await.ok();
    assert!(said.contains("Tokyo"), "{said}");
    assert!(
        said.contains("time") && said.contains("get_current_time"),
        "the route: {said}"
    );
    let list = node.cli(&["server", "list"]).await.ok();
    assert!(list.contains("time") && list.contains("online"), "{list}");
}

#[tokio::test]
async fn another_node_is_reached_by_its_address_and_a_key() {
    let node = Node::start().await;
    let made = node
        .cli(&["key", "add", "ci", "--role", "operator", "--json"])
        .await
        .json();
    let key = made["key"].as_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let url = node.url("");
    let status = troupe_tests::cli::run(
        elsewhere.path(),
        &["status", "--node", &url, "--key", key, "--json"],
    )
    .await;
    assert_eq!(status.json()["ready"], true);
    let list = troupe_tests::cli::run(
        elsewhere.path(),
        &["secret", "list", "--node", &url, "--key", key],
    )
    .await;
    assert!(
        list.failed().contains("T4002"),
        "an operator's key lists no secrets"
    );
}

#[tokio::test]
async fn mistakes_are_said_plainly() {
    let node = Node::start().await;
    for (arguments, expected) in [
        (&["server", "show", "nobody"][..], "T2003"),
        (&["server", "add", "No Slug", "--", "true"], "T2001"),
        (&["tool", "call", "troupe", "no_such_tool", "{}"], "no_such_tool"),
        (&["key", "add", "x", "--role", "king"], "king"),
        (
            &[
                "server",
                "add",
                "both",
                "--url",
                "http://127.0.0.1:1/",
                "--",
                "true",
            ],
            "--url",
        ),
        (&["frobnicate"], "frobnicate"),
    ] {
        let said = node.cli(arguments).await.failed();
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(
            !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
            "{arguments:?}: {said}"
        );
    }
    let nobody_there = tempfile::tempdir().unwrap();
    let said = troupe_tests::cli::run(nobody_there.path(), &["status"])
        .await
        .failed();
    assert!(said.contains("troupe up"), "it says how to start a node: {said}");
}

#[tokio::test]
async fn help_names_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let help = tokio::process::Command::new(troupe_tests::binary::path())
        .arg("--help")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for command in [
        "up", "status", "server", "tool", "ask", "actor", "key", "secret", "audit", "bench", "doctor",
    ] {
        assert!(text.contains(command), "{command} is missing in {text}");
    }
    drop(folder);
}
