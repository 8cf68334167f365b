//! Registries of the real world taken in: 471 entries of the older shape, a catalogue of 2,120, and the JSON that
//! desktop clients write.

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use troupe_tests::{Node, parts};

pub const SEED: &str = "registry-seed-2025-05-16.json";
pub const CATALOGUE: &str = "catalog-2120-servers.jsonl.gz";

fn unpack(path: &Path) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    text
}

async fn import(node: &Node, format: &str, content: &str) -> Value {
    node.api
        .post(
            "/api/v1/servers/import",
            &json!({ "format": format, "content": content }),
        )
        .await
        .ok()
}

/// How many entries a report counts in all; what was not imported says why.
fn counted(report: &Value) -> u64 {
    let rejected = report["rejected"].as_array().unwrap();
    for entry in rejected {
        assert!(
            entry["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
            "{entry}"
        );
    }
    let number = |field: &str| match &report[field] {
        Value::Array(list) => list.len() as u64,
        count => count.as_u64().unwrap_or_else(|| panic!("{field} in {report}")),
    };
    number("imported") + number("skipped") + rejected.len() as u64
}

async fn total(node: &Node) -> u64 {
    node.api.get("/api/v1/servers?limit=1").await.ok()["total"]
        .as_u64()
        .unwrap()
}

#[tokio::test]
async fn the_471_entries_of_the_seed_are_taken_in() {
    let Some(seed) = parts::shared_data(SEED) else {
        return;
    };
    let content = std::fs::read_to_string(seed).unwrap();
    let node = Node::start().await;
    let report = import(&node, "seed", &content).await;
    assert_eq!(counted(&report), 471, "{}", report["rejected"]);
    let imported = total(&node).await - 1; // the built-in server is there too
    assert!(
        imported >= 460,
        "only {imported} were taken in: {}",
        report["rejected"]
    );

    // every one is served by the official API, in pages
    let (mut served, mut cursor) = (0, String::new());
    loop {
        let page = node
            .api
            .get(&format!("/v0.1/servers?limit=100{cursor}"))
            .await
            .ok();
        served += page["servers"].as_array().unwrap().len() as u64;
        match page["metadata"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", urlencoded(next)),
            None => break,
        }
    }
    assert!(served >= imported, "{served} of {imported}");
    let again = import(&node, "seed", &content).await;
    assert_eq!(
        again["imported"], 0,
        "a second import adds nothing: {}",
        again["imported"]
    );
}

#[tokio::test]
async fn the_catalogue_of_2120_servers_is_taken_in_by_the_command_line() {
    let Some(catalogue) = parts::shared_data(CATALOGUE) else {
        return;
    };
    let node = Node::start().await;
    let file = node.scratch().join("catalogue.jsonl");
    std::fs::write(&file, unpack(&catalogue)).unwrap();
    let path = file.display().to_string();
    let report = node
        .cli(&["server", "import", &path, "--format", "catalog", "--json"])
        .await
        .json();
    assert_eq!(counted(&report), 2120, "{}", report["rejected"]);
    assert!(total(&node).await >= 2100, "{}", report["rejected"]);
    let found = node.api.get("/api/v1/servers?search=weather&limit=20").await.ok();
    assert!(found["total"].as_u64().unwrap() > 0, "{found:#}");
}

#[tokio::test]
async fn the_json_of_desktop_clients_is_taken_in_and_works() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    let content = json!({ "mcpServers": {
        "clock": { "command": time[0], "args": &time[1..] },
        "far": { "type": "http", "url": "https://mcp.example.com/mcp", "headers": { "X-Key": "k" } },
        "neither": { "note": "no command, no URL" },
    } });
    let report = import(&node, "mcp_servers", &content.to_string()).await;
    assert_eq!(counted(&report), 3, "{report:#}");
    assert_eq!(report["rejected"][0]["name"], "neither", "{report:#}");
    node.wait_online("clock").await;
    let far = node.api.get("/api/v1/servers/far").await.ok();
    assert_eq!(far["transport"], "streamable_http", "{far:#}");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_its_place() {
    let node = Node::start().await;
    for format in ["mcp_servers", "server_json", "seed", "catalog"] {
        let body = json!({ "format": format, "content": "{ \"mcpServers\": [" });
        let answer = node.api.post("/api/v1/servers/import", &body).await;
        assert!(
            (400..500).contains(&answer.status) || !answer.json()["rejected"].as_array().unwrap().is_empty(),
            "{format}: {answer:?}"
        );
    }
    assert_eq!(total(&node).await, 1);
}

fn urlencoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
