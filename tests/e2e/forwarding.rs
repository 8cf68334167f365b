//! What needs no change passes byte for byte: arbitrary JSON-RPC goes through a real node, and what arrives is compared,
//! on both sides, with what was sent. Numbers that no type holds, repeated keys, escapes, white space, unknown members.

use std::fmt;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;
use troupe_tests::Node;
use troupe_tests::wire::Session;

const CASES: u32 = 60;
/// What the eras say differently, and gateways therefore write anew.
const OF_THE_HOP: [&str; 4] = ["_meta", "resultType", "ttlMs", "cacheScope"];

/// The members of an object as they were written, repeated ones too.
#[derive(Debug)]
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The members that no hop may touch, as text.
fn untouchable(object: &str) -> Vec<(String, String)> {
    let Members(members) = serde_json::from_str(object).expect("an object");
    let members = members
        .into_iter()
        .filter(|(key, _)| !OF_THE_HOP.contains(&key.as_str()));
    members
        .map(|(key, value)| (key, value.get().to_owned()))
        .collect()
}

fn member(object: &str, wanted: &str) -> Option<String> {
    let Members(members) = serde_json::from_str(object).expect("an object");
    let found = members.into_iter().find(|(key, _)| key == wanted);
    found.map(|(_, value)| value.get().to_owned())
}

#[derive(Deserialize)]
struct Message {
    id: Option<Box<RawValue>>,
    #[serde(default)]
    method: String,
    params: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
}

/// A server of either era that notes the parameters it was given, and answers with what the test says.
#[derive(Clone, Default)]
struct Echo {
    seen: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<String>>,
}

impl Echo {
    async fn serve(&self) -> String {
        let router = Router::new()
            .route("/{era}", post(answer))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        origin
    }
}

async fn answer(State(echo): State<Echo>, Path(era): Path<String>, body: String) -> Response {
    let message: Message = serde_json::from_str(&body).expect("JSON-RPC");
    let Some(id) = message.id else {
        return StatusCode::ACCEPTED.into_response();
    };
    let is_modern = era == "modern";
    let result = match message.method.as_str() {
        "server/discover" if !is_modern => {
            let error =
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"unknown"}}}}"#);
            return ([(header::CONTENT_TYPE, "application/json")], error).into_response();
        }
        "server/discover" => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
        })
        .to_string(),
        "initialize" => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "echo", "version": "1" },
        })
        .to_string(),
        "tools/list" => json!({
            "resultType": "complete", "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }],
        })
        .to_string(),
        "ping" => "{}".to_owned(),
        _ => {
            let params = message.params.map(|params| params.get().to_owned());
            echo.seen
                .lock()
                .expect("unpoisoned")
                .push(params.unwrap_or_default());
            echo.answer.lock().expect("unpoisoned").clone()
        }
    };
    let answered = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    ([(header::CONTENT_TYPE, "application/json")], answered).into_response()
}

/// What one client sends, and what it is answered.
#[derive(Debug, Clone)]
struct Case {
    id: String,
    method: &'static str,
    /// Members of the parameters, and of the result, each with the comma before it.
    params: String,
    result: String,
    extension: String,
}

fn space() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "", "", " ", "\t", "\n", "  \n "]).prop_map(str::to_owned)
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ !#-\\[\\]-~]{1,6}",
        1 => "\\\\[\"\\\\/bfnrt]",
        1 => "\\\\u00[0-9a-fA-F]{2}",
        1 => prop::sample::select(vec!["é", "世界", "😀", "\\ud83d\\ude00", "\u{2028}"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn number() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"
}

fn value() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec!["null", "true", "false", "1e400", "-0", "1.0", "{}", "[]"]);
    let leaf = prop_oneof![literal.prop_map(str::to_owned), number(), string()];
    leaf.prop_recursive(8, 48, 5, |inner| {
        let items = (prop::collection::vec(inner.clone(), 0..5), space());
        let array =
            items.prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},"))));
        let pairs = prop::collection::vec((string(), inner), 0..5);
        let object = (pairs, space()).prop_map(|(pairs, space)| {
            let pairs: Vec<_> = pairs
                .into_iter()
                .map(|(key, value)| format!("{key}{space}:{value}"))
                .collect();
            format!("{{{space}{}}}", pairs.join(&format!("{space},{space}")))
        });
        prop_oneof![array, object]
    })
}

/// Members whose names mean nothing to anybody, one of them perhaps twice.
fn unknown_members() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["x", "y", "z", "vendor/thing", "\\u0078y", "é"]);
    let one = (space(), name, value())
        .prop_map(|(space, name, value)| format!(",{space}\"{name}\":{space}{value}"));
    prop::collection::vec(one, 0..4).prop_map(|members| members.concat())
}

fn case() -> impl Strategy<Value = Case> {
    let id = prop_oneof!["[1-9][0-9]{0,17}", "\"[a-z0-9 /-]{1,12}\""];
    let method = prop::sample::select(vec!["tools/call", "vendor/anything"]);
    let parts = (id, method, value(), unknown_members(), unknown_members(), value());
    parts.prop_map(|(id, method, arguments, params, result, extension)| {
        let named = format!(r#""name":"echo","arguments":{{"given":{arguments}}}"#);
        let (params, extension) = (format!("{named}{params}"), extension);
        Case {
            id,
            method,
            params,
            result,
            extension,
        }
    })
}

/// Sends a case as a client of this era, and gives the answer's text.
async fn send(node: &Node, session: Option<&Session>, path: &str, case: &Case) -> String {
    let hop = match session {
        Some(_) => "",
        None => concat!(
            r#","io.modelcontextprotocol/protocolVersion":"2026-07-28""#,
            r#","io.modelcontextprotocol/clientCapabilities":{}"#
        ),
    };
    let meta = format!(r#"{{"vendor/extension": {}{hop}}}"#, case.extension);
    let (id, method, params) = (&case.id, case.method, &case.params);
    let body =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params},"_meta":{meta}}}}}"#);
    let request = node.api.request(reqwest::Method::POST, path);
    let request = request
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    let request = match session {
        Some(session) => request
            .header("mcp-session-id", &session.id)
            .header("mcp-protocol-version", "2025-11-25"),
        None => request
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method)
            .header("mcp-name", "echo"),
    };
    let answer = request.body(body).send().await.expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("a whole answer");
    assert!(status.is_success(), "{status}: {text}");
    if text.starts_with('{') {
        return text;
    }
    let last = text
        .split("\n\n")
        .filter(|event| event.contains("\ndata: {") || event.starts_with("data: {"));
    let lines = last.last().expect("an event").lines();
    let lines: Vec<_> = lines.filter_map(|line| line.strip_prefix("data: ")).collect();
    lines.join("\n")
}

#[test]
fn whatever_is_sent_arrives_as_it_was_written() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let echo = Echo::default();
    let (node, sessions) = runtime.block_on(async {
        let origin = echo.serve().await;
        let node = Node::start().await;
        let mut sessions = Vec::new();
        for era in ["legacy", "modern"] {
            let new = json!({ "name": era, "url": format!("{origin}/{era}") });
            node.api.post("/api/v1/servers", &new).await.ok();
            node.wait_online(era).await;
            let session = Session::open(&node.api, &format!("/mcp/servers/{era}")).await;
            sessions.push(session.expect("a session"));
        }
        (node, sessions)
    });
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&case(), |case| {
        for (server, session) in ["legacy", "modern"].into_iter().zip(&sessions) {
            for session in [Some(session), None] {
                let is_same_era = session.is_some() == (server == "legacy");
                let result = format!(r#"{{"resultType":"complete","content":[]{}}}"#, case.result);
                echo.answer.lock().expect("unpoisoned").clone_from(&result);
                let path = format!("/mcp/servers/{server}");
                let text = runtime.block_on(send(&node, session, &path, &case));
                let answered: Message = serde_json::from_str(&text).expect("JSON-RPC");
                let seen = echo
                    .seen
                    .lock()
                    .expect("unpoisoned")
                    .pop()
                    .expect("the server was asked");

                let sent = format!("{{{}}}", case.params);
                prop_assert_eq!(untouchable(&seen), untouchable(&sent), "parameters to {}", server);
                let meta = member(&seen, "_meta").unwrap_or_default();
                prop_assert_eq!(member(&meta, "vendor/extension"), Some(case.extension.clone()));
                let id = answered.id.expect("its id");
                prop_assert_eq!(id.get(), &case.id);
                let received = answered.result.expect("a result");
                if is_same_era {
                    prop_assert_eq!(received.get(), &result, "result of {}", server);
                } else {
                    prop_assert_eq!(
                        untouchable(received.get()),
                        untouchable(&result),
                        "result of {}",
                        server
                    );
                }
                if is_same_era && session.is_some() {
                    let whole = format!(
                        r#"{{{},"_meta":{{"vendor/extension": {}}}}}"#,
                        case.params, case.extension
                    );
                    prop_assert_eq!(seen, whole, "parameters from a legacy client to a legacy server");
                }
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
