//! Services with an OpenAPI document, registered as servers: real documents, called at a service that is really there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use troupe_tests::mcp::Era;
use troupe_tests::{Cluster, Node, eventually, parts};

/// Answers every request with what it was, and remembers it.
struct Service {
    base_url: String,
    seen: Arc<Mutex<Vec<Value>>>,
    serving: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(seen): State<Arc<Mutex<Vec<Value>>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("-")
            .to_owned()
    };
    let asked = json!({
        "asked": format!("{} {}", parts.method, parts.uri),
        "authorization": header("authorization"),
        "api_key": header("api_key"),
        "body": String::from_utf8_lossy(&body),
    });
    seen.lock().unwrap().push(asked.clone());
    axum::Json(asked).into_response()
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/api", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Vec<Value>>>::default();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            base_url,
            seen,
            serving,
        }
    }
}

async fn call(node: &Node, server: &str, tool: &str, arguments: Value) -> Value {
    node.call_tool(server, tool, arguments).await["structuredContent"].clone()
}

async fn tools_count(node: &Node, server: &str) -> u64 {
    let detail = node.wait_online(server).await;
    assert_eq!(detail["transport"], "openapi", "{detail:#}");
    detail["tools_count"].as_u64().unwrap()
}

#[tokio::test]
async fn real_documents_of_both_versions_and_forms_become_tools() {
    let Some(documents) = parts::openapi_documents() else {
        return;
    };
    let (node, service) = (Node::start().await, Service::start().await);
    for (name, file, tools) in [
        ("petstore-json", "3.0/json/petstore.json", 20),
        ("petstore-yaml", "3.0/yaml/petstore.yaml", 20),
        ("petstore-next", "3.1/json/petstore.json", 20),
        ("star-trek", "3.0/json/star-trek.json", 100),
        ("large", "3.1/json/readme.json", 50),
        ("circular", "3.0/json/circular.json", 1),
        ("trains", "3.1/yaml/train-travel.yaml", 5),
    ] {
        let file = documents.join(file).display().to_string();
        let options = [
            "server",
            "add",
            name,
            "--openapi",
            &file,
            "--base-url",
            &service.base_url,
        ];
        node.cli(&options).await.ok();
        let count = tools_count(&node, name).await;
        assert!(count >= tools, "{name} has {count} tools");
    }
    for name in ["petstore-json", "petstore-yaml", "petstore-next"] {
        let asked = call(&node, name, "getPetById", json!({ "petId": 7 })).await;
        assert_eq!(asked["asked"], "GET /api/pet/7", "{name}");
        let asked = call(
            &node,
            name,
            "findPetsByStatus",
            json!({ "status": ["sold", "pending"] }),
        )
        .await;
        assert_eq!(
            asked["asked"], "GET /api/pet/findByStatus?status=sold&status=pending",
            "{name}"
        );
        let pet = json!({ "name": "Rex", "photoUrls": ["https://h/1"] });
        let asked = call(&node, name, "addPet", json!({ "body": pet })).await;
        assert_eq!(
            serde_json::from_str::<Value>(asked["body"].as_str().unwrap()).unwrap(),
            pet,
            "{name}"
        );
    }
    // What clients of MCP see is the same.
    let client = node.mcp("/mcp/servers/petstore-json", Era::Legacy).await;
    let tools = client.list_all_tools().await.expect("tools");
    let tool = tools
        .iter()
        .find(|tool| tool.name == "deletePet")
        .expect("deletePet");
    assert_eq!(
        tool.annotations.as_ref().and_then(|hints| hints.destructive_hint),
        Some(true)
    );
}

#[tokio::test]
async fn a_document_is_replicated_with_its_credentials_and_changed() {
    let service = Service::start().await;
    let cluster = Cluster::start(2).await;
    let document = format!(
        "openapi: 3.1.0\ninfo: {{title: Stock, version: '1'}}\nservers: [{{url: '{}'}}]\npaths:\n  /stock/{{item}}:\n    \
         get: {{operationId: stock, security: [{{token: []}}], parameters: [{{name: item, in: path}}]}}\ncomponents:\n  \
         securitySchemes: {{token: {{type: http, scheme: bearer}}}}\n# {}\n",
        service.base_url,
        "x".repeat(200_000),
    );
    let new =
        json!({ "name": "stock", "openapi": { "document": document, "security": { "token": "planted" } } });
    let detail = cluster.nodes[0].api.post("/api/v1/servers", &new).await.ok();
    assert!(
        !detail.to_string().contains("planted") && !detail.to_string().contains("xxxx"),
        "{detail:#}"
    );
    assert_eq!(detail["title"], "Stock");
    for node in &cluster.nodes {
        eventually("the server is known", Duration::from_secs(60), async || {
            Some(node.api.get("/api/v1/servers/stock").await).filter(|answer| answer.status == 200)
        })
        .await;
        let asked = call(node, "stock", "stock", json!({ "item": "pears" })).await;
        assert_eq!(asked["asked"], "GET /api/stock/pears");
        assert_eq!(asked["authorization"], "Bearer planted");
    }

    // A new document does not move the service.
    let moved = document
        .replace("/stock/", "/stock2/")
        .replace(&service.base_url, "http://127.0.0.1:1");
    let change = json!({ "openapi": { "document": moved } });
    cluster.nodes[1]
        .api
        .patch("/api/v1/servers/stock", &change)
        .await
        .ok();
    for node in &cluster.nodes {
        eventually("the change is seen", Duration::from_secs(60), async || {
            let asked = call(node, "stock", "stock", json!({ "item": "pears" })).await;
            Some(asked).filter(|asked| asked["asked"] == "GET /api/stock2/pears")
        })
        .await;
    }
    let wrong = json!({ "name": "wrong", "openapi": { "document": "{}" } });
    cluster.nodes[0]
        .api
        .post("/api/v1/servers", &wrong)
        .await
        .problem(422, "T2015");
    let gone = json!({ "name": "wrong", "openapi": { "url": "http://127.0.0.1:1/openapi.json" } });
    cluster.nodes[0]
        .api
        .post("/api/v1/servers", &gone)
        .await
        .problem(502, "T2016");
    cluster.nodes[0].api.delete("/api/v1/servers/stock").await.ok();
    assert!(!service.seen.lock().unwrap().is_empty());
}
