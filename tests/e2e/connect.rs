//! `troupe connect`: clients that start a command and speak MCP with it reach the node's servers, in both eras.

use std::process::Stdio;
use std::time::Duration;

use rmcp::ClientServiceExt;
use rmcp::model::ClientConfig;
use rmcp::transport::TokioChildProcess;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use troupe_tests::mcp::{self, Era};
use troupe_tests::{Node, binary, parts};

const SOON: Duration = Duration::from_secs(60);

fn connect(node: &Node, server: &[&str]) -> Command {
    let mut command = Command::new(binary::path());
    command.arg("connect").args(server).arg("--data").arg(node.data());
    command.kill_on_drop(true);
    command
}

/// A client that writes lines and reads lines.
struct Bare {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Bare {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    async fn write(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The answer to this id; what else comes before it is passed over.
    async fn answer_to(&mut self, id: u64) -> Value {
        let found = async {
            loop {
                let line = self.output.next_line().await.unwrap();
                let message: Value = serde_json::from_str(&line.expect("the command goes on")).unwrap();
                if message["id"] == id {
                    return message;
                }
            }
        };
        tokio::time::timeout(SOON, found).await.expect("an answer")
    }

    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.write(&request.to_string()).await;
        self.answer_to(id).await
    }
}

fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "bare", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    params
}

#[tokio::test]
async fn the_rust_sdk_lists_and_calls_over_standard_streams_in_both_eras() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let arguments =
        json!({ "source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "Asia/Kolkata" });
    for era in Era::BOTH {
        for (server, tool) in [(&["time"][..], "convert_time"), (&[], "time__convert_time")] {
            let transport = TokioChildProcess::new(connect(&node, server)).unwrap();
            let client = ClientConfig::default()
                .serve_with_lifecycle(transport, era.lifecycle())
                .await
                .unwrap();
            let tools = mcp::tool_names(&client).await;
            assert!(tools.contains(&tool.to_owned()), "{era:?} {server:?}: {tools:?}");
            let result = mcp::call(&client, tool, arguments.clone()).await.unwrap();
            assert!(
                mcp::text(&result).contains("08:30"),
                "{era:?} {server:?}: {result:?}"
            );
            client.cancel().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_goes_on_when_its_node_has_been_killed_and_started_again() {
    let Some(time) = parts::time() else { return };
    let mut node = Node::start().await;
    node.add_server("time", &time).await;
    let mut client = Bare::start(connect(&node, &["time"]));
    let hello = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "bare", "version": "1" } });
    let begun = client.ask(1, "initialize", hello).await;
    assert_eq!(begun["result"]["protocolVersion"], "2025-11-25", "{begun}");
    client
        .write(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
        .await;
    let call = json!({ "name": "get_current_time", "arguments": { "timezone": "Asia/Tokyo" } });
    let before = client.ask(2, "tools/call", call.clone()).await;
    assert!(before.to_string().contains("+09:00"), "{before}");

    node.kill().await;
    let request = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": call });
    client.write(&request.to_string()).await; // nobody is there to take it yet
    node.start_again().await;
    let after = client.answer_to(3).await;
    assert!(after.to_string().contains("+09:00"), "{after}");
}

#[tokio::test]
async fn wrong_lines_are_answered_and_what_is_in_hand_is_finished_at_the_end() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    let mut client = Bare::start(connect(&node, &["everything"]));
    client.write("not a message").await;
    client
        .write(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":7}"#)
        .await;
    let refused = client.answer_to(1).await;
    assert!(refused["error"]["code"].is_i64(), "{refused}");
    let unknown = client
        .ask(2, "tools/call", modern(json!({ "name": "no_such_tool" })))
        .await;
    assert!(unknown.to_string().contains("no_such_tool"), "{unknown}");

    let echo = modern(json!({ "name": "echo", "arguments": { "message": "grüße\nzwei" } }));
    let request = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": echo });
    client.write(&request.to_string()).await;
    client.input = None; // the client closes its end; the answer comes all the same
    let answer = client.answer_to(3).await;
    assert!(answer.to_string().contains("grüße\\nzwei"), "{answer}");
    let ended = tokio::time::timeout(SOON, client.child.wait()).await;
    assert!(ended.expect("the command ends").unwrap().success());
}

#[tokio::test]
async fn a_server_that_is_not_registered_is_named_in_the_answer() {
    let node = Node::start().await;
    let mut client = Bare::start(connect(&node, &["nobody"]));
    let answer = client.ask(1, "tools/list", modern(json!({}))).await;
    assert!(answer["error"].to_string().contains("nobody"), "{answer}");
}
