//! An MCP server over HTTP (modern era) within the test's own process: it lives as long as the test wants, whatever
//! becomes of the nodes. Its tools: `echo` (`text`), `wait` (`ms`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running server; it ends when dropped.
pub struct HttpUpstream {
    /// Where it is reached, as a server's address is given to a node.
    pub url: String,
    calls: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl HttpUpstream {
    /// Starts on a free port of the loopback address.
    pub async fn start() -> Self {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// Starts on a free port of this address.
    pub async fn start_at(address: IpAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await;
        let listener = listener.expect("a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("its address"));
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&counted)));
            }
        });
        Self { url, calls, serving }
    }

    /// How many tool calls arrived.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for HttpUpstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Requests of one connection, one after the other.
async fn serve(stream: TcpStream, calls: Arc<AtomicU64>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Some((is_post, body)) = request(&mut stream).await {
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (status, answer) = match () {
            () if !is_post => ("405 Method Not Allowed", String::new()),
            () if message["id"].is_null() => ("202 Accepted", String::new()),
            () => ("200 OK", answer(&message, &calls).await.to_string()),
        };
        let whole = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        let sent = stream.get_mut().write_all(whole.as_bytes());
        if sent.await.is_err() {
            return;
        }
    }
}

/// The next request: whether it is a POST, and its body. Nothing when the connection ended.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(bool, Vec<u8>)> {
    let mut line = String::new();
    let (mut first, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if first.is_empty() {
            first.clone_from(&header);
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first.starts_with("post"), body))
}

async fn answer(message: &Value, calls: &AtomicU64) -> Value {
    let params = &message["params"];
    let result = match message["method"].as_str().unwrap_or_default() {
        "server/discover" => json!({
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": { "tools": {} },
        }),
        "tools/list" => json!({ "resultType": "complete", "tools": [
            { "name": "echo", "description": "Answers the text", "inputSchema": { "type": "object",
                "properties": { "text": { "type": "string" } } } },
            { "name": "wait", "description": "Answers after a while", "inputSchema": { "type": "object",
                "properties": { "ms": { "type": "integer" } } } },
        ] }),
        "tools/call" => {
            calls.fetch_add(1, Ordering::Relaxed);
            let arguments = &params["arguments"];
            if let Some(ms) = arguments["ms"].as_u64() {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            let text = arguments["text"].as_str().unwrap_or("done");
            json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] })
        }
        _ => {
            let error = json!({ "code": -32601, "message": "method not found" });
            return json!({ "jsonrpc": "2.0", "id": message["id"], "error": error });
        }
    };
    json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })
}
