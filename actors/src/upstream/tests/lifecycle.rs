use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use troupe_protocol::access::Principal;
use troupe_protocol::error::Code;
use troupe_protocol::id::{ActorPath, CorrelationId};
use troupe_protocol::mcp::{Era, ListKind, ToolDescriptor, method};
use troupe_protocol::trace::Outcome;
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo, UpstreamState};

use super::bed::*;
use crate::runtime::Deadline;
use crate::runtime::testkit::{self, Crash};
use crate::upstream::*;

#[tokio::test]
async fn a_changed_transport_is_followed() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let first = text(&bed.call("shell", "pid").await.unwrap());
    bed.register_script("shell", &format!("{LEGACY}\n# changed"));
    bed.logged("end ").await;
    let second = text(&bed.call("shell", "pid").await.unwrap());
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_server_that_was_disabled_and_enabled_again_is_started_anew() {
    let bed = Bed::new().await;
    for _ in 0..3 {
        bed.register_script("shell", LEGACY);
        assert!(bed.call("shell", "pid").await.is_ok());
        bed.disable("shell");
        let stopped = || matches!(bed.upstreams.state(&name("shell")), UpstreamState::Idle);
        testkit::eventually(testkit::PATIENCE, stopped).await.unwrap();
    }
    assert_eq!(bed.log().matches("end ").count(), 3);
    assert_eq!(
        bed.system.dead_letters().total(),
        0,
        "an end on purpose is no news"
    );
}

#[tokio::test]
async fn a_crash_of_the_actor_disturbs_no_call() {
    let bed = Arc::new(Bed::new().await);
    bed.register_script("shell", LEGACY);
    let before = text(&bed.call("shell", "pid").await.unwrap());
    let hanging = background(&bed, "shell", "hang");
    bed.logged("hang").await;
    let id = bed
        .system
        .directory()
        .find(&ActorPath::new("node/upstreams/shell"))
        .unwrap();
    testkit::crash(&bed.system, id, Crash::Panic).unwrap();
    testkit::eventually(testkit::PATIENCE, || {
        bed.system.directory().report(id).is_some_and(|r| r.restarts == 1)
    })
    .await
    .unwrap();
    assert_eq!(text(&bed.call("shell", "pid").await.unwrap()), before);
    assert!(!hanging.is_finished());
    // The new life still hears of the connection's end.
    assert!(bed.call("shell", "exit").await.is_err());
    assert_eq!(hanging.await.unwrap().unwrap_err().code(), Code::UpstreamDied);
    assert_ne!(text(&bed.call("shell", "pid").await.unwrap()), before);
}

#[tokio::test]
async fn shutting_down_ends_processes_and_calls() {
    let bed = Arc::new(Bed::new().await);
    bed.register_script("shell", LEGACY);
    let pid = text(&bed.call("shell", "pid").await.unwrap());
    let hanging = background(&bed, "shell", "hang");
    bed.logged("hang").await;
    bed.shutdown().await;
    assert!(hanging.await.unwrap().is_err());
    let is_alive = std::process::Command::new("kill")
        .args(["-0", &pid])
        .status()
        .unwrap()
        .success();
    assert!(!is_alive);
    assert!(
        bed.log().contains("end "),
        "it was asked before it was made to: {}",
        bed.log()
    );
    assert!(bed.upstreams.calls().is_empty());
}

#[tokio::test]
async fn a_server_that_cannot_start_is_not_started_for_every_call() {
    let bed = Bed::new().await;
    bed.register_script("broken", "echo x >> \"$LOG\"; exit 1");
    for _ in 0..5 {
        assert!(bed.call("broken", "x").await.is_err());
    }
    let attempts = bed.log().lines().count();
    assert!(attempts <= 4, "{attempts} attempts for 5 calls in a row");
    assert!(matches!(
        bed.upstreams.state(&name("broken")),
        UpstreamState::Waiting { .. }
    ));
}

#[tokio::test]
async fn a_call_is_a_step_of_its_trace() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let id = CorrelationId(7);
    let edge = ActorPath::new("node/edge");
    let done = |_: &Result<_, UpstreamError>| Outcome::Done;
    bed.system
        .trace(&edge, "http", "POST /mcp", id, bed.call("shell", "pid"), done)
        .await
        .unwrap();
    let trace = bed.system.traces().get(id).unwrap();
    let steps: Vec<&str> = trace.roots[0]
        .children
        .iter()
        .map(|step| step.span.message.as_str())
        .collect();
    assert!(steps.contains(&"tools/call pid"), "{steps:?}");
    assert!(steps.contains(&"Ensure"), "{steps:?}");
}

#[tokio::test]
async fn a_server_can_be_tried_out() {
    let bed = Bed::new().await;
    let trial = bed
        .upstreams
        .try_out(&name("new"), &bed.script(LEGACY), soon())
        .await;
    let (info, tools) = trial.outcome.unwrap();
    assert_eq!((info.era, tools.len()), (Era::Legacy, 1));
    assert!(trial.log.iter().any(|line| line.text == "token is [secret]"));
    bed.logged("end ").await;
    let trial = bed
        .upstreams
        .try_out(&name("new"), &bed.script("echo oops >&2"), soon())
        .await;
    assert!(trial.outcome.unwrap_err().to_string().contains("oops"));
}

struct Clock;

impl BuiltinServer for Clock {
    fn info(&self) -> Arc<UpstreamInfo> {
        Arc::new(UpstreamInfo {
            era: Era::Legacy,
            protocol_version: "2025-11-25".to_owned(),
            server_info: ServerInfo::default(),
            capabilities: json!({"tools": {}}),
            instructions: None,
        })
    }

    fn tools(&self) -> Arc<Vec<ToolDescriptor>> {
        let tool = raw(json!({"name": "now", "inputSchema": {"type": "object"}})).unwrap();
        Arc::new(ToolDescriptor::read(ListKind::Tools, &tool).into_iter().collect())
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: Value,
        principal: &'a Principal,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Value, BuiltinError>> {
        async move {
            match tool {
                "now" => Ok(
                    json!({"content": [{"type": "text", "text": format!("{} {arguments}", principal.name)}]}),
                ),
                "hang" => std::future::pending().await,
                other => Err(BuiltinError::ToolNotFound(other.to_owned())),
            }
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_built_in_server_is_called_like_any_other() {
    let bed = Bed::new().await;
    bed.upstreams.register_builtin(name("troupe"), Arc::new(Clock));
    assert_eq!(text(&bed.call("troupe", "now").await.unwrap()), "anonymous {}");
    assert_eq!(
        text(&bed.call("troupe", "gone").await.unwrap()),
        "unknown tool: gone"
    );
    let upstream = bed.upstreams.get(&name("troupe"), soon()).await.unwrap();
    assert_eq!(upstream.tools(soon()).await.unwrap()[0].name, "now");
    let listed = upstream
        .request(method::TOOLS_LIST, None, CallOptions::own(soon()))
        .await
        .unwrap();
    assert!(text(&listed).contains(r#"{"tools":[{"#));
    let late = bed
        .call_until("troupe", "hang", Deadline::within(Duration::from_millis(50)))
        .await;
    assert_eq!(late.unwrap_err().code(), Code::UpstreamTimeout);
}
