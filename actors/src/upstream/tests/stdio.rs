use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use troupe_protocol::access::Principal;
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{Era, method};

use super::bed::*;
use crate::runtime::{Deadline, testkit};
use crate::upstream::*;

#[tokio::test]
async fn a_legacy_server_is_found_out_and_called() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let upstream = bed.upstreams.get(&name("shell"), soon()).await.unwrap();
    let info = upstream.info();
    assert_eq!(
        (info.era, info.protocol_version.as_str()),
        (Era::Legacy, "2025-06-18")
    );
    assert_eq!(info.server_info.name, "shell");

    let tools = upstream.tools(soon()).await.unwrap();
    assert!(
        tools[0].raw.get().contains("123456789012345678901234567890"),
        "{}",
        tools[0].raw.get()
    );
    upstream.tools(soon()).await.unwrap();
    assert_eq!(bed.log().matches("tools/list").count(), 1, "the list is kept");
    assert!(upstream.prompts(soon()).await.unwrap().is_empty());
    assert!(
        !bed.log().contains("prompts/list"),
        "what is not offered is not asked for"
    );

    let params = r#"{ "name":"echo", "arguments":{"n":1e400,"z":123456789012345678901234567890} }"#;
    let raw_params = serde_json::value::RawValue::from_string(params.to_owned()).unwrap();
    let reply = upstream
        .request(method::TOOLS_CALL, Some(raw_params), CallOptions::own(soon()))
        .await
        .unwrap();
    let RawReply::Result(result) = reply else {
        panic!("{reply:?}")
    };
    assert!(result.get().contains(params), "{}", result.get());
}

#[tokio::test]
async fn a_modern_server_is_found_out_and_gets_its_meta() {
    let bed = Bed::new().await;
    bed.register_script("modern", MODERN);
    let upstream = bed.upstreams.get(&name("modern"), soon()).await.unwrap();
    assert_eq!(upstream.info().era, Era::Modern);
    assert_eq!(upstream.info().server_info.name, "modern-shell");
    assert!(!bed.log().contains("initialize"));
    let echoed = text(&bed.call("modern", "echo").await.unwrap());
    assert!(
        echoed.contains(r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#),
        "{echoed}"
    );
    bed.logged(r#""notifications":{"toolsListChanged":true}"#).await;

    let mut events = bed.upstreams.subscribe();
    bed.call("modern", "changed").await.unwrap();
    let event = tokio::time::timeout(testkit::PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(event, UpstreamEvent::ListChanged { .. }), "{event:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_probe_is_taken_for_a_legacy_one() {
    let bed = Bed::new().await;
    let silent = LEGACY.replace(
        r#"*'"method":"server/discover"'*) say"#,
        r#"*'"method":"server/discover"'*) true"#,
    );
    bed.register_script("silent", &silent);
    let upstream = bed.upstreams.get(&name("silent"), soon()).await.unwrap();
    assert_eq!(upstream.info().era, Era::Legacy);
}

#[tokio::test]
async fn a_server_that_dies_of_the_probe_is_started_again_without_it() {
    let bed = Bed::new().await;
    let fragile = LEGACY.replace(
        r#"*'"method":"server/discover"'*) say"#,
        r#"*'"method":"server/discover"'*) exit 1; say"#,
    );
    bed.register_script("fragile", &fragile);
    assert!(bed.call("fragile", "pid").await.is_ok());
    assert_eq!(bed.log().matches("start ").count(), 2);
}

#[tokio::test]
async fn many_first_calls_start_the_server_once() {
    let bed = Arc::new(Bed::new().await);
    bed.register_script("shell", LEGACY);
    let calls: Vec<_> = (0..50).map(|_| background(&bed, "shell", "pid")).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bed.log().matches("start ").count(), 1);
}

#[tokio::test]
async fn a_server_killed_under_load_fails_its_calls_at_once_and_the_next_call_works() {
    let bed = Arc::new(Bed::new().await);
    bed.register_script("shell", LEGACY);
    let pid = text(&bed.call("shell", "pid").await.unwrap());
    let hanging: Vec<_> = (0..20).map(|_| background(&bed, "shell", "hang")).collect();
    testkit::eventually(testkit::PATIENCE, || {
        bed.log().matches(r#""name":"hang""#).count() == 20
    })
    .await
    .unwrap();

    let killed_at = Instant::now();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    for call in hanging {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::UpstreamDied);
        assert!(error.is_retryable());
        assert!(error.to_string().contains("killed by signal 9"), "{error}");
    }
    assert!(
        killed_at.elapsed() < Duration::from_secs(20),
        "{:?}",
        killed_at.elapsed()
    );
    let next = text(&bed.call("shell", "pid").await.unwrap());
    assert_ne!(next, pid);
    assert_eq!(
        bed.log().matches("server/discover").count(),
        1,
        "the era is remembered"
    );
    assert_eq!(bed.upstreams.calls().len(), 0);
}

#[tokio::test]
async fn a_stopped_server_takes_its_children_with_it() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let child = text(&bed.call("shell", "child").await.unwrap());
    let is_alive = |pid: &str| {
        std::process::Command::new("kill")
            .args(["-0", pid])
            .status()
            .unwrap()
            .success()
    };
    assert!(is_alive(&child));
    bed.disable("shell");
    testkit::eventually(testkit::PATIENCE, || !is_alive(&child))
        .await
        .unwrap();
    assert_eq!(
        bed.call("shell", "pid").await.unwrap_err().code(),
        Code::ServerDisabled
    );
}

#[tokio::test]
async fn a_call_is_listed_and_cancelled_and_the_server_is_told() {
    let bed = Arc::new(Bed::new().await);
    bed.register_script("shell", LEGACY);
    bed.call("shell", "pid").await.unwrap();
    let upstream = bed.upstreams.get(&name("shell"), soon()).await.unwrap();
    let call = tokio::spawn(async move {
        let options = CallOptions::on_behalf_of(Principal::anonymous(), soon());
        upstream
            .request(
                method::TOOLS_CALL,
                raw(serde_json::json!({"name": "hang"})),
                options,
            )
            .await
    });
    testkit::eventually(testkit::PATIENCE, || bed.upstreams.calls().len() == 1)
        .await
        .unwrap();
    let listed = bed.upstreams.calls().remove(0);
    assert_eq!(
        (listed.method.as_str(), listed.name.as_deref()),
        ("tools/call", Some("hang"))
    );
    assert_eq!(listed.principal.as_deref(), Some("anonymous"));
    bed.logged("hang").await;
    bed.upstreams.cancel(listed.id).unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::CallCancelled);
    bed.logged(&format!(
        r#"notifications/cancelled","params":{{"requestId":{}"#,
        listed.id
    ))
    .await;
    assert_eq!(
        bed.upstreams.cancel(listed.id).unwrap_err().code(),
        Code::CallNotFound
    );
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_server_is_told() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    bed.call("shell", "pid").await.unwrap();
    let error = bed
        .call_until("shell", "hang", Deadline::within(Duration::from_millis(200)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::UpstreamTimeout, "{error}");
    bed.logged("notifications/cancelled").await;
    assert!(bed.upstreams.calls().is_empty());
}

#[tokio::test]
async fn progress_reaches_the_caller_under_its_own_token_byte_for_byte() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let upstream = bed.upstreams.get(&name("shell"), soon()).await.unwrap();
    let (sender, mut progress) = mpsc::channel(4);
    let options = CallOptions {
        progress: Some(sender),
        ..CallOptions::own(soon())
    };
    let params = raw(serde_json::json!({"name": "progress", "_meta": {"progressToken": "mine"}}));
    let reply = upstream
        .request(method::TOOLS_CALL, params, options)
        .await
        .unwrap();
    assert_eq!(text(&reply), "done");
    let message = progress.recv().await.unwrap();
    assert!(
        message
            .as_str()
            .contains(r#""params":{"progressToken":"mine","progress":1,"x":1e400}"#),
        "{message:?}"
    );
}

#[tokio::test]
async fn a_server_inherits_little_and_its_secrets_stay_out_of_the_log() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    assert_eq!(
        text(&bed.call("shell", "home").await.unwrap()),
        std::env::var("HOME").unwrap()
    );
    assert!(
        std::env::var("CARGO_MANIFEST_DIR").is_ok(),
        "cargo sets it for tests"
    );
    assert_eq!(text(&bed.call("shell", "cargo").await.unwrap()), "none");
    let log: Vec<String> = bed
        .upstreams
        .logs(&name("shell"), soon())
        .await
        .unwrap()
        .into_iter()
        .map(|line| line.text)
        .collect();
    assert!(log.iter().any(|line| line == "token is [secret]"), "{log:?}");
}

#[tokio::test]
async fn errors_say_what_was_wrong() {
    let bed = Bed::new().await;
    let (command, args) = ("no-such-command-here".to_owned(), Vec::new());
    bed.register(
        "absent",
        troupe_protocol::server::Transport::Stdio {
            command,
            args,
            cwd: None,
            env: Default::default(),
        },
    );
    let error = bed.call("absent", "x").await.unwrap_err();
    assert_eq!(error.code(), Code::CommandNotFound);
    assert!(
        error.to_string().contains("no-such-command-here") && error.to_string().contains("/bin"),
        "{error}"
    );

    bed.register_script("broken", "echo 'ImportError: no module named x' >&2; exit 7");
    let error = bed.call("broken", "x").await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamUnreachable);
    assert!(
        error.to_string().contains("status 7") && error.to_string().contains("ImportError"),
        "{error}"
    );

    assert_eq!(
        bed.call("unknown", "x").await.unwrap_err().code(),
        Code::ServerNotFound
    );

    bed.register_script("exits", LEGACY);
    let error = bed.call("exits", "exit").await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamDied);
    assert!(
        error.to_string().contains("status 3") && error.to_string().contains("giving up"),
        "{error}"
    );
}

#[tokio::test]
async fn noise_is_kept_in_the_log_and_requests_of_the_server_are_answered() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    assert_eq!(text(&bed.call("shell", "noise").await.unwrap()), "quiet");
    assert!(
        bed.upstreams
            .logs(&name("shell"), soon())
            .await
            .unwrap()
            .iter()
            .any(|line| line.text.contains("not json"))
    );
    bed.call("shell", "ping").await.unwrap();
    bed.logged(r#"{"jsonrpc":"2.0","id":"theirs","result":{}}"#).await;
}

#[tokio::test]
async fn a_changed_list_is_read_again() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    let upstream = bed.upstreams.get(&name("shell"), soon()).await.unwrap();
    upstream.tools(soon()).await.unwrap();
    let mut events = bed.upstreams.subscribe();
    bed.call("shell", "changed").await.unwrap();
    let event = tokio::time::timeout(testkit::PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(event, UpstreamEvent::ListChanged { .. }), "{event:?}");
    upstream.tools(soon()).await.unwrap();
    assert_eq!(bed.log().matches("tools/list\"").count(), 2);
}

#[tokio::test]
async fn a_message_over_the_bound_fails_its_call_only() {
    let settings = UpstreamSettings {
        message_bytes_max: 4_000,
        probe_timeout_ms: 10_000,
        ..UpstreamSettings::default()
    };
    let bed = Bed::with(settings).await;
    bed.register_script("shell", LEGACY);
    let upstream = bed.upstreams.get(&name("shell"), soon()).await.unwrap();
    let call = |bytes: usize| {
        let params = raw(serde_json::json!({"name": "echo", "arguments": {"text": "x".repeat(bytes)}}));
        upstream.request(method::TOOLS_CALL, params, CallOptions::own(soon()))
    };
    assert!(call(100).await.is_ok());
    assert_eq!(
        call(5_000).await.unwrap_err().code(),
        Code::MessageTooLarge,
        "to the server"
    );
    assert_eq!(
        call(3_900).await.unwrap_err().code(),
        Code::MessageTooLarge,
        "from the server"
    );
    assert!(call(100).await.is_ok());
}
