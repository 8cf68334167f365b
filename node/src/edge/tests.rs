//! The whole edge on a real node in this process: real store, real actors, real sockets where it matters.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tower::ServiceExt;
use troupe_protocol::error::Problem;

use super::{api::openapi, rules::RULES};
use crate::{config::Config, tree::Node};

struct Bed {
    node: Node,
    router: Router,
    key: String,
    host: String,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    fn problem(&self, status: u16, code: &str) -> Problem {
        assert_eq!(
            self.headers[header::CONTENT_TYPE],
            "application/problem+json",
            "{}",
            self.text
        );
        let problem: Problem = serde_json::from_str(&self.text).unwrap();
        assert_eq!(
            (self.status.as_u16(), problem.code.as_str()),
            (status, code),
            "{}",
            self.text
        );
        assert_eq!(problem.status, status);
        assert_eq!(
            problem.correlation_id.unwrap().to_string(),
            self.headers["x-correlation-id"].to_str().unwrap()
        );
        problem
    }
}

impl Bed {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data = folder.path().join("data").display().to_string();
        config.edge.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let node = Node::start(config, None).await.unwrap();
        let key = node.first_start.as_ref().unwrap().key.expose_secret().to_owned();
        let host = node.state.config.edge.listen.to_string();
        Self {
            router: super::router(node.state.clone()),
            node,
            key,
            host,
            _folder: folder,
        }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host);
        request.header(header::AUTHORIZATION, format!("Bearer {}", self.key))
    }

    fn bare(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Body::empty()).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }
}

#[test]
fn every_route_of_the_api_has_a_rule_and_every_rule_a_route() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let ruled: BTreeSet<String> = RULES
        .iter()
        .filter(|rule| rule.path.starts_with("/api/"))
        .map(|rule| format!("{} {}", rule.method, rule.path))
        .collect();
    assert_eq!(documented, ruled);
    assert!(documented.len() >= 49, "{} routes", documented.len());
}

#[test]
fn the_document_refers_to_nothing_that_is_not_there() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "no schema {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_but_health_and_the_page_needs_a_key() {
    let bed = Bed::new().await;
    for rule in RULES {
        let method: Method = if rule.method == "*" {
            Method::POST
        } else {
            rule.method.parse().unwrap()
        };
        let path = rule.path.replace(['{', '}'], "");
        let answer = bed
            .send(bed.bare(method, &path).body(Body::empty()).unwrap())
            .await;
        let open = rule.access == super::rules::Access::Public;
        assert_eq!(
            answer.status == StatusCode::UNAUTHORIZED,
            !open,
            "{} {}: {}",
            rule.method,
            rule.path,
            answer.text
        );
    }
    let unknown = bed
        .send(
            bed.bare(Method::GET, "/api/v1/nothing")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    unknown.problem(401, "T4001");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_node_opens_tools_and_registry_only() {
    let bed = Bed::with(|config| config.edge.open = true).await;
    let get = |path: &'static str| bed.send(bed.bare(Method::GET, path).body(Body::empty()).unwrap());
    assert_eq!(get("/v0.1/servers").await.status, StatusCode::OK);
    get("/api/v1/servers").await.problem(401, "T4001");
    get("/metrics").await.problem(401, "T4001");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_told_apart() {
    let bed = Bed::new().await;
    let made = bed
        .post(
            "/api/v1/keys",
            json!({ "name": "eve", "role": "user" }).to_string(),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let eve = Bed {
        key: made.json()["key"].as_str().unwrap().to_owned(),
        ..bed
    };
    assert_eq!(eve.get("/api/v1/me").await.json()["role"], "user");
    let refused = eve.get("/api/v1/actors").await.problem(403, "T4002");
    assert!(refused.detail.contains("operator"), "{}", refused.detail);
    eve.post("/api/v1/keys", "{}").await.problem(403, "T4002");
    assert_eq!(eve.get("/api/v1/servers").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_arguments_and_in_wrong_bodies_are_for_nobody_else() {
    let bed = Bed::new().await;
    let server =
        json!({ "name": "shop", "command": "shop", "args": ["--token", "planted-1"], "enabled": false });
    let made = bed.post("/api/v1/servers", server.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let wrong = json!({ "name": "other", "command": "other", "env": "TOKEN=planted-2" });
    let refused = bed
        .post("/api/v1/servers", wrong.to_string())
        .await
        .problem(422, "T1002");
    assert!(refused.detail.contains("planted-2"), "{}", refused.detail);

    let made = bed
        .post(
            "/api/v1/keys",
            json!({ "name": "olga", "role": "operator" }).to_string(),
        )
        .await;
    let operator = Bed {
        key: made.json()["key"].as_str().unwrap().to_owned(),
        ..bed
    };
    let trace = format!("/api/v1/traces/{}", refused.correlation_id.unwrap());
    for path in ["/api/v1/servers", "/api/v1/servers/shop", &trace] {
        let seen = operator.get(path).await;
        assert_eq!(seen.status, StatusCode::OK, "{path}: {}", seen.text);
        assert!(!seen.text.contains("planted"), "{path}: {}", seen.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_signs_in_and_needs_its_own_origin_for_changes() {
    let bed = Bed::new().await;
    let link = bed.post("/api/v1/login-link", "").await.json();
    let code = link["url"]
        .as_str()
        .unwrap()
        .split("code=")
        .nth(1)
        .unwrap()
        .to_owned();
    let body = json!({ "code": code }).to_string();
    let login = |body: String| {
        let request = bed
            .bare(Method::POST, "/api/v1/login")
            .header(header::CONTENT_TYPE, "application/json");
        bed.send(request.body(Body::from(body)).unwrap())
    };
    let answer = login(body.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{part} is missing in {cookie}");
    }
    login(body).await.problem(401, "T4003");

    let session = cookie.split(';').next().unwrap().to_owned();
    let with_cookie = |method, path| bed.bare(method, path).header(header::COOKIE, &session);
    let me = bed
        .send(
            with_cookie(Method::GET, "/api/v1/me")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(me.json()["role"], "admin", "{}", me.text);
    let open = || with_cookie(Method::POST, "/api/v1/conversations");
    bed.send(open().body(Body::empty()).unwrap())
        .await
        .problem(403, "T1007");
    let foreign = open().header(header::ORIGIN, "http://evil.example");
    bed.send(foreign.body(Body::empty()).unwrap())
        .await
        .problem(403, "T1007");
    let own = open().header(header::ORIGIN, format!("http://{}", bed.host));
    assert_eq!(
        bed.send(own.body(Body::empty()).unwrap()).await.status,
        StatusCode::CREATED
    );

    let out =
        with_cookie(Method::POST, "/api/v1/logout").header(header::ORIGIN, format!("http://{}", bed.host));
    assert_eq!(
        bed.send(out.body(Body::empty()).unwrap()).await.status,
        StatusCode::NO_CONTENT
    );
    bed.send(
        with_cookie(Method::GET, "/api/v1/me")
            .body(Body::empty())
            .unwrap(),
    )
    .await
    .problem(401, "T4001");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bodies_are_refused_with_their_place() {
    let bed = Bed::new().await;
    let malformed = bed
        .post("/api/v1/servers", "{\"name\": ")
        .await
        .problem(400, "T1001");
    assert!(
        malformed.detail.contains("line 1 column 9"),
        "{}",
        malformed.detail
    );
    bed.post("/api/v1/servers", b"{\"name\": \"\xff\"}".to_vec())
        .await
        .problem(400, "T1001");
    let wrong_type = bed
        .post("/api/v1/servers", "{\n\"name\": 7}")
        .await
        .problem(422, "T1002");
    assert!(
        wrong_type.detail.contains("expected a string") && wrong_type.detail.contains("line 2"),
        "{}",
        wrong_type.detail
    );
    let unknown = bed
        .post("/api/v1/servers", "{\"colour\": 7}")
        .await
        .problem(422, "T1002");
    assert!(unknown.detail.contains("colour"), "{}", unknown.detail);
    let text = bed
        .request(Method::POST, "/api/v1/servers")
        .header(header::CONTENT_TYPE, "text/plain");
    bed.send(text.body(Body::from("{}")).unwrap())
        .await
        .problem(415, "T1006");
    bed.get("/api/v1/nothing").await.problem(404, "T1003");
    let method = bed
        .send(
            bed.request(Method::DELETE, "/api/v1/status")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    method.problem(405, "T1004");
    assert_eq!(method.headers[header::ALLOW], "GET,HEAD");
    bed.get("/api/v1/servers?limit=many").await.problem(422, "T1002");
    bed.get("/api/v1/servers?colour=red").await.problem(422, "T1002");
    bed.get("/api/v1/servers/No%20Slug").await.problem(404, "T2003");
    bed.get("/api/v1/traces/xyz").await.problem(404, "T7006");
    bed.get("/api/v1/conversations/xyz").await.problem(404, "T5003");
    bed.get("/api/v1/actors/node%2Fnobody")
        .await
        .problem(404, "T7001");
    let large = vec![b' '; 17 * 1024 * 1024];
    bed.post("/api/v1/servers", large).await.problem(413, "T1005");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_registered_changed_and_removed_and_the_audit_tells() {
    let bed = Bed::new().await;
    let new = json!({ "name": "slow", "command": "sleep", "args": ["60"], "env": { "TOKEN": "planted-7431" }, "enabled": false });
    let made = bed.post("/api/v1/servers", new.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.headers[header::LOCATION], "/api/v1/servers/slow");
    assert!(!made.text.contains("planted"), "{}", made.text);
    bed.post("/api/v1/servers", new.to_string())
        .await
        .problem(409, "T2002");

    let listed = bed.get("/api/v1/servers?search=slow").await.json();
    assert_eq!(
        (&listed["total"], &listed["items"][0]["status"]),
        (&json!(1), &json!("disabled")),
        "{listed}"
    );
    bed.post("/api/v1/servers/slow/probe", "")
        .await
        .problem(409, "T2007");
    let secrets = bed.get("/api/v1/secrets").await;
    assert!(
        secrets.text.contains("server/slow/env/TOKEN") && !secrets.text.contains("planted"),
        "{}",
        secrets.text
    );

    let gone = bed
        .send(
            bed.request(Method::DELETE, "/api/v1/servers/slow")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    bed.get("/api/v1/servers/slow").await.problem(404, "T2003");
    bed.node
        .state
        .audit_log
        .flush(troupe_actors::runtime::Deadline::within(
            std::time::Duration::from_secs(5),
        ))
        .await
        .unwrap();
    let audit = bed.get("/api/v1/audit?action=server").await.json();
    let actions: Vec<&str> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert_eq!(
        actions,
        ["server.remove", "server.register", "server.register"],
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_observed_says_on_which_node_and_may_ask_for_one() {
    let bed = Bed::new().await;
    let me = bed.get("/api/v1/me").await.json();
    let (id, name) = (me["node_id"].as_str().unwrap(), me["node_name"].as_str().unwrap());
    for node in [id, name, "all"] {
        for path in [
            "actors",
            "actors/tree",
            "traces",
            "dead-letters",
            "calls",
            "audit",
        ] {
            let answer = bed.get(&format!("/api/v1/{path}?node={node}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        }
    }
    let actors = bed.get("/api/v1/actors").await.json();
    assert_eq!(actors["items"][0]["node"], id, "{actors}");
    let vault = bed.get(&format!("/api/v1/actors/node%2Fvault?node={name}")).await;
    assert_eq!(vault.json()["report"]["node"], id);
    let nobody = bed.get("/api/v1/actors?node=nobody").await;
    nobody.problem(404, "T8005");
    let status = bed.get("/api/v1/cluster").await.json();
    assert_eq!(status["members"][0]["name"], name, "{status}");
    bed.post("/api/v1/cluster/members/nobody/drain", "")
        .await
        .problem(404, "T8005");
    let unconfirmed = bed
        .post(&format!("/api/v1/cluster/members/{name}/drain"), "")
        .await;
    unconfirmed.problem(422, "T7005");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_back_what_was() {
    let bed = Bed::new().await;
    let server = |name: &str| json!({ "name": name, "command": "true", "enabled": false }).to_string();
    bed.post("/api/v1/servers", server("kept")).await;
    let request = bed.request(Method::GET, "/api/v1/cluster/backup");
    let response = bed
        .router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let backup = response.into_body().collect().await.unwrap().to_bytes();
    bed.post("/api/v1/servers", server("later")).await;
    let remove = bed.request(Method::DELETE, "/api/v1/servers/kept");
    bed.send(remove.body(Body::empty()).unwrap()).await;
    let restore = |query: &str, body: bytes::Bytes| {
        let path = format!("/api/v1/cluster/restore{query}");
        bed.send(bed.request(Method::POST, &path).body(Body::from(body)).unwrap())
    };
    restore("", backup.clone()).await.problem(422, "T7005");
    let half = backup.slice(..backup.len() / 2);
    restore("?confirm=replace-everything", half)
        .await
        .problem(422, "T8011");
    assert_eq!(
        bed.get("/api/v1/servers/later").await.status,
        StatusCode::OK,
        "nothing was touched"
    );
    let restored = restore("?confirm=replace-everything", backup).await.json();
    assert_eq!(restored["with_secrets"], true, "{restored}");
    for (name, status) in [("kept", StatusCode::OK), ("later", StatusCode::NOT_FOUND)] {
        let within = std::time::Duration::from_secs(20);
        let path = format!("/api/v1/servers/{name}");
        let seen = async {
            while bed.get(&path).await.status != status {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, seen)
            .await
            .unwrap_or_else(|_| panic!("{name}"));
    }
    // Nobody waits for the audit log: what is said to it is there a moment later.
    let told = async {
        loop {
            let audit = bed.get("/api/v1/audit?action=cluster").await.json();
            if audit["items"].as_array().unwrap().len() == 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told)
        .await
        .expect("both restores and the backup are in the audit log");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_lines_too() {
    let bed = Bed::new().await;
    bed.get("/api/v1/live/feed?topics=weather")
        .await
        .problem(422, "T1002");
    let request = bed.request(Method::GET, "/api/v1/live/feed?topics=actors,status");
    let response = bed
        .router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let mut body = response.into_body();
    let mut topics = BTreeSet::new();
    while topics.len() < 2 {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(20), body.frame()).await;
        let line = frame.unwrap().unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&line).unwrap();
        topics.insert(event["topic"].as_str().unwrap().to_owned());
    }
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["actors", "status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_are_seen_and_controlled() {
    let bed = Bed::new().await;
    let tree = bed.get("/api/v1/actors/tree").await.json();
    assert_eq!(tree["items"][0]["path"], "node", "{tree}");
    let vault = bed.get("/api/v1/actors/node%2Fvault").await.json();
    assert_eq!(
        (&vault["report"]["kind"], &vault["snapshot"]["answer"]),
        (&json!("vault"), &json!("alive")),
        "{vault}"
    );
    bed.post("/api/v1/actors/node%2Fvault/restart", "")
        .await
        .problem(422, "T7005");
    bed.post("/api/v1/actors/node%2Fvault/explode", "")
        .await
        .problem(404, "T1003");
    let restarted = bed
        .post(
            "/api/v1/actors/node%2Fvault/restart",
            "{\"confirm\":\"node/vault\"}",
        )
        .await;
    assert_eq!(restarted.status, StatusCode::OK, "{}", restarted.text);
    let id = restarted.headers["x-correlation-id"].to_str().unwrap().to_owned();
    let trace = bed.get(&format!("/api/v1/traces/{id}")).await.json();
    assert_eq!(
        trace["roots"][0]["message"], "POST /api/v1/actors/{id}/{command}",
        "{trace}"
    );
    let metrics = bed.get("/metrics").await;
    assert!(
        metrics
            .text
            .contains("troupe_actor_mailbox_messages{path=\"node/vault\""),
        "{}",
        metrics.text
    );
    assert!(metrics.text.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_with_care() {
    let bed = Bed::new().await;
    let get = |path: &'static str| bed.send(bed.bare(Method::GET, path).body(Body::empty()).unwrap());
    for path in ["/", "/console/actors"] {
        let page = get(path).await;
        assert!(
            page.status == StatusCode::OK && page.text.contains("<html"),
            "{path}: {}",
            page.text
        );
        let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe-eval"),
            "{policy}"
        );
        let etag = page.headers[header::ETAG].clone();
        let again = bed.bare(Method::GET, path).header(header::IF_NONE_MATCH, etag);
        assert_eq!(
            bed.send(again.body(Body::empty()).unwrap()).await.status,
            StatusCode::NOT_MODIFIED
        );
    }
    get("/assets/nothing.js").await.problem(404, "T1003");
    let explained = get("/errors/T4001").await;
    assert!(explained.text.contains("What to do"), "{}", explained.text);
    get("/errors/T9999").await.problem(404, "T1003");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_host_is_refused_everywhere() {
    let bed = Bed::new().await;
    for path in ["/", "/healthz", "/api/v1/me", "/mcp", "/v0.1/servers"] {
        let request = Request::builder().uri(path).header(header::HOST, "evil.example");
        bed.send(request.body(Body::empty()).unwrap())
            .await
            .problem(403, "T1007");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_in_order_and_frees_its_port() {
    let bed = Bed::new().await;
    let address = bed.node.state.config.edge.listen;
    assert!(tokio::net::TcpStream::connect(address).await.is_ok());
    let reason = bed.node.shutdown().await;
    assert!(reason.is_clean(), "{reason}");
}

mod wire {
    //! What only shows on a real socket.

    use std::time::Duration;

    use futures::{SinkExt, StreamExt};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn read_to_end(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        tokio::time::timeout(SOON, stream.read_to_string(&mut text))
            .await
            .unwrap()
            .unwrap();
        text
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_connection_too_many_is_told_so() {
        let bed = Bed::with(|config| config.edge.connections_max = crate::config::Bounded::new(2)).await;
        let address = bed.node.state.config.edge.listen;
        let mut first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let refused = loop {
            let mut third = TcpStream::connect(address).await.unwrap();
            if bed.node.state.connections.open() == 2 {
                break read_to_end(&mut third).await;
            }
        };
        assert!(
            refused.starts_with("HTTP/1.1 503") && refused.contains("edge.connections_max"),
            "{refused}"
        );
        first
            .write_all(
                format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        assert!(read_to_end(&mut first).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_never_finishes_its_headers_is_let_go() {
        let bed = Bed::with(|config| config.edge.header_timeout_ms = crate::config::Bounded::new(200)).await;
        let mut slow = TcpStream::connect(bed.node.state.config.edge.listen)
            .await
            .unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127")
            .await
            .unwrap();
        let answer = read_to_end(&mut slow).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }

    type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

    async fn connect(bed: &Bed, origin: &str) -> Result<Socket, u16> {
        let mut request = format!("ws://{}/api/v1/live", bed.host)
            .into_client_request()
            .unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {}", bed.key).parse().unwrap());
        headers.insert("origin", origin.parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn hear(socket: &mut Socket, topic: &str) -> Value {
        let heard = async {
            while let Some(Ok(message)) = socket.next().await {
                let Message::Text(text) = message else { continue };
                let event: Value = serde_json::from_str(&text).unwrap();
                if event["topic"] == topic {
                    return event;
                }
            }
            panic!("the node hung up before {topic}");
        };
        tokio::time::timeout(SOON, heard).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn live_clients_hear_what_they_subscribed_to() {
        let bed = Bed::new().await;
        let own = format!("http://{}", bed.host);
        assert_eq!(connect(&bed, "http://evil.example").await.err(), Some(403));
        let mut socket = connect(&bed, &own).await.unwrap();
        let subscribe = json!({ "subscribe": ["servers", "actors", "status"] }).to_string();
        socket.send(Message::text(subscribe)).await.unwrap();
        let actors = hear(&mut socket, "actors").await;
        assert!(actors["reports"].as_array().unwrap().len() > 8, "{actors}");
        assert_eq!(
            hear(&mut socket, "status").await["status"]["node_id"],
            bed.node.state.node_id.to_string()
        );

        let new = json!({ "name": "slow", "command": "sleep", "args": ["60"], "enabled": false });
        assert_eq!(
            bed.post("/api/v1/servers", new.to_string()).await.status,
            StatusCode::CREATED
        );
        assert_eq!(hear(&mut socket, "server").await["server"]["name"], "slow");

        socket
            .send(Message::text("{\"subscribe\":[\"gossip\"]}"))
            .await
            .unwrap();
        let refused = hear(&mut socket, "refused").await;
        assert!(
            refused["detail"].as_str().unwrap().contains("allowed: servers"),
            "{refused}"
        );
        socket.send(Message::text("nonsense")).await.unwrap();
        hear(&mut socket, "refused").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_users_live_client_sees_no_actors() {
        let bed = Bed::new().await;
        let made = bed
            .post(
                "/api/v1/keys",
                json!({ "name": "eve", "role": "user" }).to_string(),
            )
            .await;
        let eve = Bed {
            key: made.json()["key"].as_str().unwrap().to_owned(),
            ..bed
        };
        let mut socket = connect(&eve, &format!("http://{}", eve.host)).await.unwrap();
        socket
            .send(Message::text("{\"subscribe\":[\"actors\"]}"))
            .await
            .unwrap();
        let refused = hear(&mut socket, "refused").await;
        assert!(
            refused["detail"].as_str().unwrap().contains("operator"),
            "{refused}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_question_is_answered_by_the_built_in_server() {
        let bed = Bed::new().await;
        let answer = bed
            .post("/api/v1/ask", json!({ "text": "what time is it?" }).to_string())
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let answer = answer.json();
        assert_eq!(
            (&answer["status"], &answer["route"]["tool"]),
            (&json!("answered"), &json!("current_time")),
            "{answer:#}"
        );
        let listed = bed.get("/api/v1/servers").await.json();
        assert_eq!(
            (&listed["total"], &listed["items"][0]["name"]),
            (&json!(1), &json!("troupe")),
            "{listed}"
        );
        let shown = bed.get("/api/v1/servers/troupe").await.json();
        assert_eq!(shown["tools_count"], 5, "{shown}");
    }
}
