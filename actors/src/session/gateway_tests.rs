//! The gateway over a real registry and real upstreams; the servers are the node's own, or processes that do not answer.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use secrecy::SecretString;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use troupe_protocol::access::{Principal, SecretName, SecretTemplate};
use troupe_protocol::id::ActorPath;
use troupe_protocol::mcp::{ClientCapabilities, Era, ListKind, ToolDescriptor};
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo};
use troupe_protocol::virtual_server::VirtualDetail;

use super::*;
use crate::registry::virtual_servers::{self, VirtualServerError};
use crate::registry::{self, RegistryError, RegistryHandle, SecretSealer};
use crate::runtime::{Deadline, Root, SystemConfig, testkit};
use crate::store::{RecordBatch, Store};
use crate::upstream::*;

/// What the servers are asked for.
struct Fakes(RegistryHandle);

impl ServerSource for Fakes {
    fn find(&self, name: &ServerName) -> Option<RegisteredServer> {
        let entry = self.0.view().get(name.as_str())?;
        Some(RegisteredServer {
            enabled: entry.operation.enabled,
            transport: entry.operation.transport.clone(),
        })
    }

    fn changes(&self) -> BoxStream<'static, ServerChange> {
        futures::stream::pending().boxed()
    }
}

struct NoSecrets;

impl SecretSource for NoSecrets {
    fn resolve<'a>(
        &'a self,
        template: &'a SecretTemplate,
        _: Deadline,
    ) -> BoxFuture<'a, Result<SecretString, SecretFailure>> {
        let text = template.as_str().to_owned();
        async move { Ok(text.into()) }.boxed()
    }
}

impl SecretSealer for NoSecrets {
    fn seal(&self, _: SecretName, _: SecretString) -> BoxFuture<'_, Result<RecordBatch, RegistryError>> {
        async { Ok(RecordBatch::default()) }.boxed()
    }

    fn forget(&self, _: &SecretName) -> RecordBatch {
        RecordBatch::default()
    }
}

/// A server with one tool, `echo`, that answers with its arguments and links to a resource.
struct Echo(Era);

impl BuiltinServer for Echo {
    fn info(&self) -> Arc<UpstreamInfo> {
        Arc::new(UpstreamInfo {
            era: self.0,
            protocol_version: "2025-11-25".to_owned(),
            server_info: ServerInfo {
                name: "echo".to_owned(),
                title: None,
                version: "1".to_owned(),
            },
            capabilities: json!({ "tools": {} }),
            instructions: None,
        })
    }

    fn tools(&self) -> Arc<Vec<ToolDescriptor>> {
        let tool = to_raw_value(&json!({ "name": "echo", "inputSchema": { "type": "object" } })).unwrap();
        Arc::new(ToolDescriptor::read(ListKind::Tools, &tool).into_iter().collect())
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: Value,
        _: &'a Principal,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Value, BuiltinError>> {
        async move {
            if tool != "echo" {
                return Err(BuiltinError::ToolNotFound(tool.to_owned()));
            }
            let link = json!({ "type": "resource_link", "uri": "a://b", "name": "b" });
            Ok(json!({ "content": [link], "structuredContent": arguments }))
        }
        .boxed()
    }
}

/// A server with one tool that needs an argument and never answers.
struct Strict;

impl BuiltinServer for Strict {
    fn info(&self) -> Arc<UpstreamInfo> {
        Echo(Era::Modern).info()
    }

    fn tools(&self) -> Arc<Vec<ToolDescriptor>> {
        let schema = json!({ "type": "object", "properties": { "needed": {} }, "required": ["needed"] });
        let tool = to_raw_value(&json!({ "name": "strict", "inputSchema": schema })).unwrap();
        Arc::new(ToolDescriptor::read(ListKind::Tools, &tool).into_iter().collect())
    }

    fn call<'a>(
        &'a self,
        _: &'a str,
        _: Value,
        _: &'a Principal,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Value, BuiltinError>> {
        std::future::pending().boxed()
    }
}

struct Bed {
    gateway: Gateway,
    sessions: SessionsHandle,
    _root: Root,
    _folder: tempfile::TempDir,
}

impl Bed {
    /// A gateway to the server `echo`, the built-in server, and these commands.
    async fn with(commands: &[(&str, &str, &[&str])]) -> Self {
        let system = System::new(SystemConfig::default());
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (registry_child, registry) = registry::child(&system, &store, Arc::new(NoSecrets)).unwrap();
        let (upstreams, upstreams_child) = UpstreamsHandle::build(
            &system,
            ActorPath::new("node/upstreams"),
            UpstreamSettings {
                probe_timeout_ms: 60_000,
                ..UpstreamSettings::default()
            },
            Arc::new(Fakes(registry.clone())),
            Arc::new(NoSecrets),
            crate::upstream::tests::bed::alone(),
        );
        let (sessions_child, sessions) = sessions(
            &system,
            ActorPath::new("node/sessions"),
            SessionLimits::default(),
            &store,
            crate::upstream::tests::bed::alone(),
        );
        let (parking_child, parking) = parked::parking(
            &system,
            ActorPath::new("node/parking"),
            crate::upstream::tests::bed::alone().node_id(),
            parked::StateKey::derive(&[7; 32]),
            parked::ParkingLimits::default(),
        );
        let (virtual_child, virtual_servers) =
            virtual_servers::child(&system, ActorPath::new("node/virtual_servers"), &store);
        let children = vec![
            registry_child,
            upstreams_child,
            sessions_child,
            parking_child,
            virtual_child,
        ];
        let root = testkit::start(&system, children).await.unwrap();
        let commands = commands.iter().copied().chain([("echo", "true", &[][..])]);
        for (name, command, args) in commands {
            let new = json!({ "name": name, "command": command, "args": args });
            registry
                .register(serde_json::from_value(new).unwrap(), &Principal::node())
                .await
                .unwrap();
        }
        upstreams.register_builtin(ServerName::new("echo").unwrap(), Arc::new(Echo(Era::Legacy)));
        upstreams.register_builtin(ServerName::new("troupe").unwrap(), Arc::new(Echo(Era::Modern)));
        upstreams.register_builtin(ServerName::new("strict").unwrap(), Arc::new(Strict));
        let limits = GatewayLimits {
            list_wait: Duration::from_millis(300),
            ..GatewayLimits::default()
        };
        let gateway = Gateway::new(
            upstreams,
            registry,
            virtual_servers,
            sessions.clone(),
            parking,
            limits,
        );
        Self {
            gateway,
            sessions,
            _root: root,
            _folder: folder,
        }
    }

    async fn ask(&self, endpoint: Endpoint, era: Era, method: &str, params: Value) -> Answered {
        let client = Client {
            era,
            principal: Principal::anonymous(),
            capabilities: ClientCapabilities::default(),
        };
        let params: Option<Box<RawValue>> = Some(to_raw_value(&params).unwrap());
        let method = method.to_owned();
        let request = ClientRequest {
            endpoint,
            client,
            method,
            params,
            notifications: None,
            session: None,
            param_headers: None,
        };
        match self.gateway.answer(request).await {
            Answer::Result(result) => Answered {
                result: serde_json::from_str(&result).unwrap(),
                code: 0,
            },
            Answer::Error { code, object, .. } => Answered {
                result: serde_json::from_str(&object).unwrap(),
                code,
            },
        }
    }

    async fn tool_names(&self) -> (Vec<String>, Value) {
        let list = self
            .ask(Endpoint::Aggregate, Era::Legacy, "tools/list", json!({}))
            .await
            .result;
        let names = list["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned());
        (names.collect(), list["_meta"].clone())
    }
}

struct Answered {
    result: Value,
    code: i64,
}

fn echo() -> Endpoint {
    Endpoint::Server(ServerName::new("echo").unwrap())
}

#[tokio::test]
async fn all_servers_are_one_under_exposed_names() {
    let bed = Bed::with(&[]).await;
    assert_eq!(
        bed.tool_names().await.0,
        ["echo", "echo__echo"],
        "the built-in server's tools come bare"
    );
    let params = json!({ "name": "echo__echo", "arguments": { "a": 1 } });
    let called = bed
        .ask(Endpoint::Aggregate, Era::Modern, "tools/call", params)
        .await
        .result;
    assert_eq!(called["structuredContent"]["a"], 1);
    assert_eq!(
        called["content"][0]["uri"], "troupe://echo/a://b",
        "links lead through the gateway"
    );
    assert_eq!(called["resultType"], "complete");
    let bare = json!({ "name": "echo", "arguments": {} });
    assert_eq!(
        bed.ask(Endpoint::Aggregate, Era::Legacy, "tools/call", bare)
            .await
            .code,
        0
    );
}

#[tokio::test]
async fn a_servers_own_endpoint_passes_everything_as_it_is() {
    let bed = Bed::with(&[]).await;
    let params = json!({ "name": "echo", "arguments": { "n": 1 } });
    let called = bed
        .ask(echo(), Era::Legacy, "tools/call", params.clone())
        .await
        .result;
    assert_eq!(called["content"][0]["uri"], "a://b");
    assert_eq!(called.get("resultType"), None);
    assert_eq!(
        bed.ask(echo(), Era::Modern, "tools/call", params).await.result["resultType"],
        "complete"
    );
    let listed = bed.ask(echo(), Era::Modern, "tools/list", json!({})).await.result;
    assert_eq!(
        (&listed["tools"][0]["name"], &listed["cacheScope"]),
        (&json!("echo"), &json!("private"))
    );
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let bed = Bed::with(&[]).await;
    let cases = [
        ("tools/call", json!({ "name": "nobody__x" }), -32602, "nobody__x"),
        ("tools/call", json!({}), -32602, "params.name"),
        ("prompts/get", json!({ "name": "nobody__x" }), -32602, "nobody__x"),
        ("resources/read", json!({ "uri": "x://y" }), -32602, "x://y"),
        (
            "resources/read",
            json!({ "uri": "troupe://nobody/x://y" }),
            -32602,
            "nobody",
        ),
        ("completion/complete", json!({ "ref": 7 }), -32602, "params.ref"),
        ("tools/list", json!({ "cursor": "!" }), -32602, "params.cursor"),
        ("no/such", json!({}), -32601, "no/such"),
        ("ping", json!({}), -32601, "ping"),
    ];
    for (method, params, code, named) in cases {
        let answered = bed.ask(Endpoint::Aggregate, Era::Modern, method, params).await;
        assert_eq!(answered.code, code, "{method}: {}", answered.result);
        assert!(
            answered.result["message"].as_str().unwrap().contains(named),
            "{method}: {}",
            answered.result
        );
    }
    assert_eq!(
        bed.ask(Endpoint::Aggregate, Era::Legacy, "ping", json!({}))
            .await
            .code,
        0
    );
}

#[tokio::test]
async fn a_dead_and_a_slow_server_neither_empty_nor_delay_a_list() {
    let bed = Bed::with(&[("dead", "false", &[]), ("slow", "sleep", &["60"])]).await;
    let began = Instant::now();
    let (names, meta) = bed.tool_names().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(names, ["echo", "echo__echo"]);
    let missing: Vec<&str> = meta[merge::UNAVAILABLE_KEY]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|note| note["server"].as_str())
        .collect();
    assert_eq!(missing, ["dead", "slow"], "{meta}");
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(bed.tool_names().await.0, names);
        quickest = quickest.min(began.elapsed());
    }
    assert!(
        quickest < Duration::from_millis(250),
        "the slow server was waited for each time: {quickest:?}"
    );
}

#[tokio::test]
async fn endpoints_introduce_themselves() {
    let bed = Bed::with(&[]).await;
    let all = bed
        .gateway
        .introduce(&Endpoint::Aggregate, Era::Legacy)
        .await
        .unwrap();
    assert_eq!(all.server_info["name"], "troupe");
    let one = bed.gateway.introduce(&echo(), Era::Legacy).await.unwrap();
    assert_eq!(one.server_info["name"], "echo");
    assert!(bed.gateway.knows("echo") && bed.gateway.knows("troupe") && !bed.gateway.knows("nobody"));
    assert_eq!(bed.sessions.open_count(), 0);
}

fn desk() -> Endpoint {
    Endpoint::Virtual(ServerName::new("desk").unwrap())
}

impl Bed {
    async fn put_desk(&self, items: Value) -> Result<VirtualDetail, VirtualServerError> {
        let definition = json!({ "title": "Desk", "description": "for the desk", "items": items });
        let definition = serde_json::from_value(definition).unwrap();
        let name = ServerName::new("desk").unwrap();
        self.gateway
            .put_virtual(name, definition, &Principal::node())
            .await
    }
}

#[tokio::test]
async fn a_virtual_server_offers_what_was_chosen_as_it_was_described_and_nothing_else() {
    let bed = Bed::with(&[]).await;
    let items = json!([
        { "server": "echo", "name": "echo", "as": "say", "title": "Say", "description": "Says it",
            "fixed": { "loud": true, "n": 1 }, "hidden": ["debug"] },
        { "server": "troupe", "name": "echo" },
        { "kind": "resource", "server": "echo", "name": "a://b", "as": "docs://b" },
    ]);
    let detail = bed.put_desk(items).await.unwrap();
    assert_eq!(detail.summary.tools_count, 2);
    let told: Vec<&str> = detail
        .warnings
        .iter()
        .map(|warning| warning.name.as_str())
        .collect();
    assert_eq!(told, ["say", "say", "say", "docs://b"], "{:?}", detail.warnings);
    for era in [Era::Legacy, Era::Modern] {
        let listed = bed.ask(desk(), era, "tools/list", json!({})).await.result;
        let tools = listed["tools"].as_array().unwrap();
        assert_eq!(
            (&tools[0]["name"], &tools[0]["title"]),
            (&json!("say"), &json!("Say")),
            "{listed}"
        );
        assert_eq!((tools.len(), &tools[1]["name"]), (2, &json!("echo")));
        let params = json!({ "name": "say", "arguments": { "text": "hi" } });
        let called = bed.ask(desk(), era, "tools/call", params).await.result;
        assert_eq!(
            called["structuredContent"],
            json!({ "text": "hi", "loud": true, "n": 1 })
        );
        assert_eq!(
            called["content"][0]["uri"], "docs://b",
            "addresses are those that can be read here"
        );
        for (method, params, named) in [
            (
                "tools/call",
                json!({ "name": "say", "arguments": { "loud": false } }),
                "loud",
            ),
            (
                "tools/call",
                json!({ "name": "say", "arguments": { "debug": 1 } }),
                "debug",
            ),
            (
                "tools/call",
                json!({ "name": "echo__echo" }),
                "desk offers no tool",
            ),
            ("prompts/get", json!({ "name": "say" }), "desk offers no prompt"),
            (
                "tools/call",
                json!({ "name": "say", "Name": "delete_all" }),
                "in case alone",
            ),
            (
                "tools/call",
                json!({ "name": "say", "arguments": { "LOUD": false } }),
                "LOUD",
            ),
            (
                "resources/read",
                json!({ "uri": "docs://b", "URI": "a://c" }),
                "in case alone",
            ),
        ] {
            let refused = bed.ask(desk(), era, method, params).await;
            assert_eq!(refused.code, -32602, "{method}: {}", refused.result);
            let said = refused.result["message"].as_str().unwrap();
            assert!(said.contains(named), "{method}: {said}");
        }
    }
    let foreign = bed
        .ask(desk(), Era::Legacy, "resources/read", json!({ "uri": "a://b" }))
        .await;
    assert_eq!(
        foreign.code, -32002,
        "the server's own address is not offered: {}",
        foreign.result
    );
    let introduced = bed.gateway.introduce(&desk(), Era::Modern).await.unwrap();
    assert_eq!(introduced.server_info["title"], "Desk");
    assert_eq!(introduced.instructions.as_deref(), Some("for the desk"));
    assert!(
        introduced.capabilities["tools"]["listChanged"] == true
            && introduced.capabilities.get("prompts").is_none()
    );
}

#[tokio::test]
async fn what_a_virtual_server_cannot_offer_now_is_told_and_what_it_never_can_is_refused() {
    let bed = Bed::with(&[("dead", "false", &[])]).await;
    let items = json!([
        { "server": "echo", "name": "echo" },
        { "server": "echo", "name": "nothing" },
        { "server": "dead", "name": "x" },
        { "server": "nobody", "name": "y" },
    ]);
    let detail = bed.put_desk(items).await.unwrap();
    assert_eq!(detail.warnings.len(), 3, "{:?}", detail.warnings);
    let listed = bed.ask(desk(), Era::Modern, "tools/list", json!({})).await.result;
    assert_eq!(listed["tools"].as_array().unwrap().len(), 1);
    let missing = listed["_meta"][merge::UNAVAILABLE_KEY].as_array().unwrap();
    let codes: Vec<&str> = missing
        .iter()
        .map(|note| note["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["T3010", "T3001", "T2003"], "{listed}");
    assert_eq!(listed["ttlMs"], 0, "what is not whole is not to be kept");

    let hidden = json!([{ "server": "strict", "name": "strict", "hidden": ["needed"] }]);
    let refused = bed.put_desk(hidden).await.unwrap_err();
    assert!(refused.to_string().contains("\"needed\""), "{refused}");
    let gone = Endpoint::Virtual(ServerName::new("gone").unwrap());
    assert_eq!(
        bed.ask(gone, Era::Modern, "tools/list", json!({})).await.result["data"]["code"],
        "T2011"
    );
}

#[tokio::test]
async fn a_tool_of_a_virtual_server_may_have_a_time_of_its_own() {
    let bed = Bed::with(&[]).await;
    let items = json!([{ "server": "strict", "name": "strict", "timeout_ms": 50, "fixed": { "needed": 1 } }]);
    bed.put_desk(items).await.unwrap();
    let began = Instant::now();
    let late = bed
        .ask(desk(), Era::Modern, "tools/call", json!({ "name": "strict" }))
        .await;
    assert_eq!(late.result["data"]["code"], "T3003", "{}", late.result);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn clients_of_a_virtual_server_hear_when_it_changes() {
    let bed = Bed::with(&[]).await;
    let items = json!([{ "server": "echo", "name": "echo" }]);
    bed.put_desk(items.clone()).await.unwrap();
    let mut notices = bed.gateway.notices(&desk());
    bed.put_desk(json!([{ "server": "troupe", "name": "echo" }]))
        .await
        .unwrap();
    let told = tokio::time::timeout(testkit::PATIENCE, notices.next())
        .await
        .unwrap();
    assert!(told.contains(&Notice::ToolsChanged), "{told:?}");
}
