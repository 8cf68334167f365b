//! Real MCP servers, registered as the README says, seen healthy, listed and called.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use troupe_tests::node::{free_address, lasting_address};
use troupe_tests::{Node, eventually, parts};

async fn tool_names(node: &Node, server: &str) -> Vec<String> {
    let tools = node
        .api
        .get(&format!("/api/v1/servers/{server}/tools"))
        .await
        .ok();
    let names = tools["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[tokio::test]
async fn the_time_server_speaks_the_modern_era() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let detail = node.api.get("/api/v1/servers/time").await.ok();
    assert_eq!(detail["era"], "modern", "{detail:#}");
    assert_eq!(detail["tools_count"], 2, "{detail:#}");
    assert_eq!(
        tool_names(&node, "time").await,
        ["get_current_time", "convert_time"]
    );
    let result = node
        .call_tool("time", "get_current_time", json!({ "timezone": "Asia/Tokyo" }))
        .await;
    assert!(result.to_string().contains("+09:00"), "{result:#}");
}

#[tokio::test]
async fn the_everything_server_lists_tools_resources_and_prompts() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    let detail = node.api.get("/api/v1/servers/everything").await.ok();
    assert_eq!(detail["era"], "legacy", "{detail:#}");
    assert!(tool_names(&node, "everything").await.contains(&"echo".to_owned()));
    for kind in ["resources", "prompts"] {
        let listed = node
            .api
            .get(&format!("/api/v1/servers/everything/{kind}"))
            .await
            .ok();
        assert!(
            !listed["items"].as_array().unwrap().is_empty(),
            "{kind}: {listed:#}"
        );
    }
    let result = node
        .call_tool("everything", "echo", json!({ "message": "over the wire: ✓" }))
        .await;
    assert!(result.to_string().contains("over the wire: ✓"), "{result:#}");
}

#[tokio::test]
async fn the_filesystem_server_reads_a_file() {
    let node = Node::start().await;
    let folder = node.scratch().canonicalize().unwrap();
    let Some(filesystem) = parts::filesystem(&folder) else {
        return;
    };
    std::fs::write(folder.join("note.txt"), "a note for the reader\n").unwrap();
    node.add_server("files", &filesystem).await;
    assert_eq!(tool_names(&node, "files").await.len(), 14);
    let path = folder.join("note.txt").display().to_string();
    let result = node
        .call_tool("files", "read_text_file", json!({ "path": path }))
        .await;
    assert!(result.to_string().contains("a note for the reader"), "{result:#}");
}

#[tokio::test]
async fn the_memory_server_gets_its_environment() {
    let Some(memory) = parts::memory() else { return };
    let node = Node::start().await;
    let file = node.scratch().join("memory.jsonl");
    let setting = format!("MEMORY_FILE_PATH={}", file.display());
    node.add_server_with("memory", &["--env", &setting], &memory)
        .await;
    assert_eq!(tool_names(&node, "memory").await.len(), 9);
    let entity =
        json!({ "name": "Ada", "entityType": "person", "observations": ["wrote the first program"] });
    node.call_tool("memory", "create_entities", json!({ "entities": [entity] }))
        .await;
    let graph = node.call_tool("memory", "read_graph", json!({})).await;
    assert!(graph.to_string().contains("wrote the first program"), "{graph:#}");
    assert!(file.is_file(), "the server wrote where its environment told it");
}

#[tokio::test]
async fn the_git_server_reports_a_repository() {
    let node = Node::start().await;
    let repository = node.scratch().join("repository");
    let Some(git) = parts::git(&repository) else {
        return;
    };
    make_repository(&repository);
    node.add_server("git", &git).await;
    assert_eq!(tool_names(&node, "git").await.len(), 12);
    let result = node
        .call_tool("git", "git_log", json!({ "repo_path": repository }))
        .await;
    assert!(result.to_string().contains("the first commit"), "{result:#}");
}

#[tokio::test]
async fn the_sqlite_server_answers_a_query() {
    let node = Node::start().await;
    let Some(sqlite) = parts::sqlite(&node.scratch().join("shop.db")) else {
        return;
    };
    node.add_server("shop", &sqlite).await;
    assert_eq!(tool_names(&node, "shop").await.len(), 6);
    node.call_tool(
        "shop",
        "create_table",
        json!({ "query": "CREATE TABLE fruit (name TEXT, price INTEGER)" }),
    )
    .await;
    node.call_tool(
        "shop",
        "write_query",
        json!({ "query": "INSERT INTO fruit VALUES ('quince', 7)" }),
    )
    .await;
    let result = node
        .call_tool(
            "shop",
            "read_query",
            json!({ "query": "SELECT name FROM fruit WHERE price = 7" }),
        )
        .await;
    assert!(result.to_string().contains("quince"), "{result:#}");
}

#[tokio::test]
async fn a_server_over_http_is_registered_by_its_url() {
    let Some(everything) = parts::everything_http() else {
        return;
    };
    let node = Node::start().await;
    let address = free_address();
    let _server = HttpServer::start(&everything, address.port());
    let url = format!("http://{address}/mcp");
    eventually("the HTTP server listens", Duration::from_secs(60), async || {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    node.cli(&[
        "server",
        "add",
        "remote",
        "--url",
        &url,
        "--header",
        "X-Team=blue",
    ])
    .await
    .ok();
    let detail = node.wait_online("remote").await;
    assert_eq!(detail["transport"], "streamable_http", "{detail:#}");
    let result = node
        .call_tool("remote", "echo", json!({ "message": "far away" }))
        .await;
    assert!(result.to_string().contains("far away"), "{result:#}");
}

#[tokio::test]
async fn a_server_of_the_older_http_transport_is_called_and_found_again_after_its_restart() {
    let Some(everything) = parts::everything_sse() else {
        return;
    };
    let node = Node::start().await;
    let address = lasting_address();
    let server = HttpServer::start(&everything, address.port());
    let listens = async || tokio::net::TcpStream::connect(address).await.ok();
    eventually("the HTTP server listens", Duration::from_secs(60), listens).await;
    let url = format!("http://{address}/sse");
    let add = async |name: &str, options: &[&str]| {
        let command = [&["server", "add", name, "--url", &url], options].concat();
        node.cli(&command).await.ok();
        node.wait_online(name).await
    };
    assert_eq!(add("said", &["--sse"]).await["transport"], "sse");
    // It answers POSTs to this address with 404, so the older transport is tried.
    assert_eq!(add("found", &[]).await["transport"], "streamable_http");
    let echo = async |name: &str| {
        let result = node
            .call_tool(name, "echo", json!({ "message": "far away" }))
            .await;
        assert!(result.to_string().contains("far away"), "{result:#}");
    };
    echo("said").await;
    echo("found").await;

    drop(server);
    let _server = HttpServer::start(&everything, address.port());
    eventually("the HTTP server listens again", Duration::from_secs(60), listens).await;
    for name in ["said", "found"] {
        let path = format!("/api/v1/servers/{name}/tools/echo/call");
        let again = json!({ "arguments": { "message": "again" } });
        let answers = async || {
            let answer = node.api.post(&path, &again).await;
            (answer.status == 200 && answer.text.contains("again")).then_some(())
        };
        eventually("it is found again", Duration::from_secs(60), answers).await;
    }
}

#[tokio::test]
async fn a_connection_is_tested_before_anything_is_saved() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    let good = json!({ "name": "time", "command": time[0], "args": &time[1..] });
    let report = node.api.post("/api/v1/servers/test", &good).await.ok();
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["tools_count"], 2, "{report:#}");

    let bad = json!({ "name": "bad", "command": "no-such-command-anywhere" });
    let report = node.api.post("/api/v1/servers/test", &bad).await.ok();
    assert_eq!(report["ok"], false, "{report:#}");
    assert!(
        report["error"].to_string().contains("no-such-command-anywhere"),
        "{report:#}"
    );
    assert_eq!(
        node.api.get("/api/v1/servers").await.ok()["total"],
        1,
        "nothing was saved"
    );
}

#[tokio::test]
async fn a_server_is_changed_disabled_enabled_and_removed() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let path = "/api/v1/servers/time";
    node.api
        .post("/api/v1/servers", &json!({ "name": "time", "command": "true" }))
        .await
        .problem(409, "T2002");

    node.api.patch(path, &json!({ "enabled": false })).await.ok();
    node.wait_status("time", "disabled").await;
    let call = json!({ "arguments": { "timezone": "UTC" } });
    node.api
        .post(&format!("{path}/tools/get_current_time/call"), &call)
        .await
        .problem(409, "T2007");

    node.api.patch(path, &json!({ "enabled": true })).await.ok();
    node.wait_online("time").await;
    node.api
        .post(&format!("{path}/tools/get_current_time/call"), &call)
        .await
        .ok();

    node.cli(&["server", "remove", "time"]).await.ok();
    node.api.get(path).await.problem(404, "T2003");
    let audit = node.api.get("/api/v1/audit").await.ok().to_string();
    for action in ["time", "server"] {
        assert!(audit.contains(action), "{action} is missing in {audit}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_is_offline_with_its_reason() {
    let node = Node::start().await;
    node.cli(&[
        "server",
        "add",
        "broken",
        "--",
        "sh",
        "-c",
        "echo out of ink >&2; exit 3",
    ])
    .await
    .ok();
    let detail = node.wait_status("broken", "offline").await;
    assert!(detail["last_error"].to_string().len() > 2, "{detail:#}");
    eventually("its stderr in its log", Duration::from_secs(60), async || {
        let log = node.api.get("/api/v1/servers/broken/log").await.ok();
        log.to_string().contains("out of ink").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_official_registry_api_lists_what_is_registered() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let listed = node.api.get("/v0.1/servers?search=time&limit=5").await.ok();
    let server = &listed["servers"][0];
    assert_eq!(server["server"]["name"], "local/time", "{listed:#}");
    let official = &server["_meta"]["io.modelcontextprotocol.registry/official"];
    assert_eq!(
        (&official["status"], &official["isLatest"]),
        (&json!("active"), &json!(true)),
        "{listed:#}"
    );
    let latest = node
        .api
        .get("/v0.1/servers/local%2Ftime/versions/latest")
        .await
        .ok();
    assert_eq!(latest["server"], server["server"], "{latest:#}");
    node.api.get("/v0.1/servers/local%2Ftime/versions").await.ok();
    assert_eq!(
        node.api
            .get("/v0.1/servers/local%2Ftime/versions/9.9.9")
            .await
            .status,
        404
    );
}

/// A server of another process, as it would run on another machine.
struct HttpServer(std::process::Child);

impl HttpServer {
    fn start(command: &[String], port: u16) -> Self {
        let mut server = Command::new(&command[0]);
        server
            .args(&command[1..])
            .env("PORT", port.to_string())
            .stdin(Stdio::null());
        Self(
            server
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_repository(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let git = |arguments: &[&str]| {
        let who = [
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@localhost",
            "-c",
            "commit.gpgsign=false",
        ];
        let done = Command::new("git")
            .args(who)
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    git(&["init", "--quiet"]);
    git(&[
        "commit",
        "--quiet",
        "--allow-empty",
        "--message",
        "the first commit",
    ]);
}
