#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use troupe_protocol::access::Principal;
use troupe_protocol::mcp::{Descriptor, ListKind, ToolDescriptor};
use troupe_protocol::routing::Decision;
use troupe_protocol::server::ServerName;

use super::planner::PlanContext;
use super::planner::rules::RulesPlanner;
use super::sources::LiveServer;
use super::*;
use crate::runtime::SystemConfig;
use crate::runtime::testkit::{PATIENCE, eventually, start};

/// Servers that come and go as a test says.
struct Servers {
    tools: Mutex<BTreeMap<ServerName, Vec<ToolDescriptor>>>,
    changes: broadcast::Sender<ToolChange>,
}

impl Servers {
    fn set(&self, server: &str, tools: &[(&str, &str)]) {
        let tool = |(name, description): &(&str, &str)| {
            let schema = json!({"type": "object", "properties": {"timezone": {"type": "string"}}});
            let raw = to_raw_value(&json!({"name": name, "description": description, "inputSchema": schema}))
                .unwrap();
            Descriptor::read(ListKind::Tools, &raw).unwrap()
        };
        let name: ServerName = server.parse().unwrap();
        self.tools
            .lock()
            .insert(name.clone(), tools.iter().map(tool).collect());
        let _ = self.changes.send(ToolChange::Servers);
        let _ = self.changes.send(ToolChange::Tools(name));
    }

    fn remove(&self, server: &str) {
        self.tools.lock().retain(|name, _| name.as_str() != server);
        let _ = self.changes.send(ToolChange::Servers);
    }
}

impl ToolSource for Servers {
    fn live(&self) -> Vec<LiveServer> {
        let tools = self.tools.lock();
        tools
            .keys()
            .map(|name| LiveServer {
                name: name.clone(),
                description: String::new(),
            })
            .collect()
    }

    fn tools<'a>(
        &'a self,
        server: &'a ServerName,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Arc<Vec<ToolDescriptor>>, String>> {
        let tools = self.tools.lock().get(server).cloned();
        Box::pin(async move { tools.map(Arc::new).ok_or_else(|| "gone".to_owned()) })
    }

    fn changes(&self) -> BoxStream<'static, ToolChange> {
        BroadcastStream::new(self.changes.subscribe())
            .filter_map(|change| async { change.ok() })
            .boxed()
    }
}

#[tokio::test]
async fn the_index_follows_the_servers() {
    let system = System::new(SystemConfig::default());
    let (changes, _) = broadcast::channel(64);
    let servers = Arc::new(Servers {
        tools: Mutex::default(),
        changes,
    });
    let services = RouterServices {
        servers: Arc::clone(&servers) as Arc<dyn ToolSource>,
        embedder: Embedder::start(Vec::new()),
        vectors: None,
        planner: Arc::new(RulesPlanner),
        policy: Arc::new(|_, _| true),
    };
    let (router, spec) = RouterHandle::build(&system, ActorPath::new("node/router"), services);
    let _root = start(&system, vec![spec]).await.unwrap();
    let built_in = router.status().tools;
    assert!(built_in >= 4, "the built-in tools are there from the beginning");

    servers.set(
        "time",
        &[("get_current_time", "Get current time in a specific timezone")],
    );
    eventually(PATIENCE, || router.status().tools == built_in + 1)
        .await
        .unwrap();
    let deadline = Deadline::within(Duration::from_secs(5));
    let somebody = Principal::anonymous();
    let routing = router
        .route(
            "what time is it in Tokyo?",
            &PlanContext::default(),
            &somebody,
            deadline,
        )
        .await;
    let route = routing.to_route().unwrap();
    assert_eq!(
        (route.decision, route.server.as_str(), route.tool.as_str()),
        (Decision::Call, "time", "get_current_time")
    );
    assert_eq!(route.arguments, json!({"timezone": "Asia/Tokyo"}));
    assert!(!route.why.is_empty() && route.candidates.len() > 1);

    servers.set(
        "time",
        &[
            ("get_current_time", "Get current time"),
            ("alarm", "Wake somebody"),
        ],
    );
    eventually(PATIENCE, || router.status().tools == built_in + 2)
        .await
        .unwrap();
    assert_eq!(
        router.find_tools("wake somebody", &somebody, 3, deadline).await[0].tool,
        "alarm"
    );

    servers.remove("time");
    eventually(PATIENCE, || router.status().tools == built_in)
        .await
        .unwrap();
    let route = router
        .route(
            "what time is it in Tokyo?",
            &PlanContext::default(),
            &somebody,
            deadline,
        )
        .await;
    assert_eq!(
        route.to_route().unwrap().tool,
        "current_time",
        "a fresh node answers by itself"
    );
}
