//! What is malformed, hostile or merely slow gets the right status and a clear message, and costs the node little.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use troupe_tests::{Answer, Node, NodeOptions, eventually, parts, process};

const MIB: u64 = 1024 * 1024;
/// The file descriptors this process and the node may open decide how many of the 10,000 can be had.
const IDLE_CONNECTIONS: usize = 10_000;

/// POSTs raw bytes to an MCP endpoint, as a client would.
async fn post_mcp(node: &Node, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = node.api.request(Method::POST, path);
    let request = request.header("content-type", "application/json");
    Answer::of(
        request
            .header("accept", "application/json, text/event-stream")
            .body(body),
    )
    .await
}

/// A modern request, whole and right; tests break one thing each.
fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
    });
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

async fn post_modern(node: &Node, path: &str, message: &Value) -> Answer {
    let method = message["method"].as_str().unwrap();
    let mut request = node.api.request(Method::POST, path).json(message);
    request = request.header("accept", "application/json, text/event-stream");
    request = request
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method);
    if let Some(name) = message["params"]["name"].as_str() {
        request = request.header("mcp-name", name);
    }
    Answer::of(request).await
}

fn rpc_code(answer: &Answer) -> i64 {
    let text = answer
        .text
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap_or(&answer.text);
    let body: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {answer:?}"));
    body["error"]["code"]
        .as_i64()
        .unwrap_or_else(|| panic!("an error in {body}"))
}

#[tokio::test]
async fn mcp_refuses_what_is_not_json_rpc() {
    let node = Node::start().await;
    for path in ["/mcp", "/mcp/servers/troupe"] {
        let cases: [(&str, &[u8], u16, i64); 5] = [
            ("malformed", b"{\"jsonrpc\": \"2.0\", \"id\": 1,", 400, -32700),
            (
                "not UTF-8",
                b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}",
                400,
                -32700,
            ),
            ("empty", b"", 400, -32700),
            (
                "a batch",
                b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]",
                400,
                -32600,
            ),
            ("a number", b"7", 400, -32600),
        ];
        for (what, body, status, code) in cases {
            let answer = post_mcp(&node, path, body).await;
            assert_eq!(
                (answer.status, rpc_code(&answer)),
                (status, code),
                "{path} {what}: {answer:?}"
            );
        }
        let deep = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let answer = post_mcp(&node, path, deep).await;
        assert_eq!(answer.status, 400, "{path}: 100,000 deep: {:?}", answer.headers);
    }
}

#[tokio::test]
async fn mcp_names_what_it_does_not_know() {
    let node = Node::start().await;
    let unknown = post_modern(&node, "/mcp", &modern("tools/frobnicate", json!({}))).await;
    assert_eq!((unknown.status, rpc_code(&unknown)), (404, -32601), "{unknown:?}");

    let call = modern("tools/call", json!({ "name": "no_such_tool", "arguments": {} }));
    let answer = post_modern(&node, "/mcp", &call).await;
    assert!(answer.text.contains("no_such_tool"), "{answer:?}");
    assert_ne!(answer.status, 500, "{answer:?}");

    let session = node
        .api
        .request(Method::POST, "/mcp")
        .header("mcp-session-id", "no-such-session");
    let session = session.header("accept", "application/json, text/event-stream");
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let answer = Answer::of(session.header("mcp-protocol-version", "2025-11-25").json(&list)).await;
    assert_eq!(answer.status, 404, "an unknown session: {answer:?}");
}

#[tokio::test]
async fn modern_headers_must_agree_with_the_message() {
    let node = Node::start().await;
    let message = modern("tools/call", json!({ "name": "current_time", "arguments": {} }));
    let base = || {
        let request = node
            .api
            .request(Method::POST, "/mcp/servers/troupe")
            .json(&message);
        request
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
    };
    let good = Answer::of(
        base()
            .header("mcp-method", "tools/call")
            .header("mcp-name", "current_time"),
    )
    .await;
    assert_eq!(good.status, 200, "{good:?}");
    for (what, request) in [
        ("no Mcp-Method", base().header("mcp-name", "current_time")),
        (
            "another Mcp-Method",
            base()
                .header("mcp-method", "tools/list")
                .header("mcp-name", "current_time"),
        ),
        ("no Mcp-Name", base().header("mcp-method", "tools/call")),
        (
            "another Mcp-Name",
            base()
                .header("mcp-method", "tools/call")
                .header("mcp-name", "other"),
        ),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, rpc_code(&answer)),
            (400, -32020),
            "{what}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn the_api_refuses_wrong_bodies_with_their_place() {
    let node = Node::start().await;
    let raw = |body: &'static [u8]| {
        node.api
            .request(Method::POST, "/api/v1/servers")
            .header("content-type", "application/json")
            .body(body)
    };
    Answer::of(raw(b"{\"name\": ")).await.problem(400, "T1001");
    Answer::of(raw(b"{\"name\": \"\xff\"}"))
        .await
        .problem(400, "T1001");
    let wrong_type = node
        .api
        .post("/api/v1/servers", &json!({ "name": 7, "command": "true" }))
        .await;
    wrong_type.problem(422, "T1002");
    let unknown = node
        .api
        .post(
            "/api/v1/servers",
            &json!({ "name": "a", "command": "true", "colour": "red" }),
        )
        .await;
    let problem = unknown.problem(422, "T1002");
    assert!(
        problem["detail"].as_str().unwrap().contains("colour"),
        "{problem}"
    );
    node.api
        .post(
            "/api/v1/servers",
            &json!({ "name": "Bad Name", "command": "true" }),
        )
        .await
        .problem(422, "T2001");
    node.api
        .post("/api/v1/servers", &json!({ "name": "empty" }))
        .await
        .problem(422, "T1002");
    let kind = node
        .api
        .request(Method::POST, "/api/v1/servers")
        .header("content-type", "text/plain")
        .body("{}");
    Answer::of(kind).await.problem(415, "T1006");
    node.api.get("/api/v1/no-such-path").await.problem(404, "T1003");
    node.api.delete("/api/v1/status").await.problem(405, "T1004");
    node.api
        .get("/api/v1/servers?limit=many")
        .await
        .problem(422, "T1002");
}

#[tokio::test]
async fn fifty_megabytes_are_refused_without_being_kept() {
    let node = Node::start().await;
    let before = process::resident_bytes(node.pid());
    let body = vec![b'x'; 50 * MIB as usize];
    for path in ["/mcp", "/mcp/servers/troupe", "/api/v1/servers", "/api/v1/ask"] {
        let request = node
            .api
            .request(Method::POST, path)
            .header("content-type", "application/json");
        let sent = request
            .header("accept", "application/json, text/event-stream")
            .body(body.clone())
            .send()
            .await;
        // the node may answer and close before all is sent, which some clients report as a failure to send
        if let Ok(answer) = sent {
            assert_eq!(answer.status().as_u16(), 413, "{path}");
        }
    }
    let after = process::resident_bytes(node.pid());
    assert!(
        after < before + 40 * MIB,
        "memory went from {before} to {after} bytes"
    );
    node.api.get("/api/v1/me").await.ok();
}

#[tokio::test]
async fn fifty_megabytes_announced_are_refused_before_they_are_sent() {
    let node = Node::start().await;
    for path in ["/mcp", "/api/v1/servers"] {
        let mut stream = TcpStream::connect(node.listen).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\ncontent-length: 52428800\r\n\r\n",
            node.listen, node.key
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_some(&mut stream, Duration::from_secs(10)).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_megabyte_passes() {
    let Some(everything) = parts::everything() else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    let message = "m".repeat(MIB as usize);
    let body = json!({ "arguments": { "message": message } });
    let answer = node
        .api
        .post("/api/v1/servers/everything/tools/echo/call", &body)
        .await
        .ok();
    assert!(answer.to_string().contains(&message));
}

/// What the node sent until it closed the connection or `within` passed.
async fn read_some(stream: &mut TcpStream, within: Duration) -> String {
    let mut answer = vec![0; 4096];
    match tokio::time::timeout(within, stream.read(&mut answer)).await {
        Ok(Ok(read)) => String::from_utf8_lossy(&answer[..read]).into_owned(),
        Ok(Err(error)) => format!("({error})"),
        Err(_) => "(nothing)".to_owned(),
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_let_go() {
    let quick = NodeOptions::default()
        .environment("TROUPE_EDGE_HEADER_TIMEOUT_MS", "1500")
        .environment("TROUPE_EDGE_BODY_TIMEOUT_MS", "1500");
    let node = quick.start().await;
    let mut headers_unfinished = TcpStream::connect(node.listen).await.unwrap();
    headers_unfinished
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: 127")
        .await
        .unwrap();
    let mut body_unfinished = TcpStream::connect(node.listen).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        node.listen, node.key
    );
    body_unfinished.write_all(head.as_bytes()).await.unwrap();
    let limit = Duration::from_secs(15);
    let (headers, body) = tokio::join!(
        read_some(&mut headers_unfinished, limit),
        read_some(&mut body_unfinished, limit)
    );
    assert!(
        headers.is_empty() || headers.contains("408"),
        "unfinished headers: {headers}"
    );
    assert!(body.contains("408"), "an unfinished body: {body}");
}

#[tokio::test]
async fn ten_thousand_idle_connections_are_borne() {
    let node = Node::start().await;
    let before = process::resident_bytes(node.pid());
    let mut idle = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        match tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(node.listen)).await {
            Ok(Ok(stream)) => idle.push(stream),
            Ok(Err(error)) if error.raw_os_error() == Some(24) => {
                panic!("this process may open too few files: ulimit -n")
            }
            refused => panic!("connection {}: {refused:?}", idle.len()),
        }
    }
    let started = Instant::now();
    node.api.get("/api/v1/me").await.ok();
    let answered_after = started.elapsed();
    let grown = process::resident_bytes(node.pid()).saturating_sub(before);
    troupe_tests::report::figure(
        "10,000 idle connections",
        format_args!(
            "{} MiB more memory, a request answered in {answered_after:.1?}",
            grown / MIB
        ),
        "200 MiB, 2 s",
    );
    assert!(grown < 200 * MIB, "{grown} bytes more");
    assert!(answered_after < Duration::from_secs(20), "{answered_after:?}");
    drop(idle);
    eventually("their files closed", Duration::from_secs(60), async || {
        (process::open_files(node.pid()) < 200).then_some(())
    })
    .await;
}
