//! Servers of which the cluster has one process: two and three nodes in one test process, real shell scripts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use troupe_protocol::access::Principal;
use troupe_protocol::cluster::EntityKind;
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{ClientCapabilities, ListKind, Profile, method};
use troupe_protocol::observe::ActorCommand;
use troupe_protocol::upstream::UpstreamState;

use super::bed::*;
use crate::cluster::testkit::Net;
use crate::runtime::{Deadline, testkit};
use crate::upstream::*;

/// Nodes with the same servers registered; all processes write to the first one's log.
struct Nodes {
    net: Net,
    beds: Vec<Arc<Bed>>,
}

impl Nodes {
    async fn new(nodes: usize, up: usize) -> Self {
        let net = Net::new(nodes, up);
        let mut beds = Vec::new();
        for number in 0..nodes {
            beds.push(Arc::new(Bed::within(net.node(number)).await));
        }
        Self { net, beds }
    }

    /// Registers the script on all nodes under a name whose owner is this node.
    fn register_at(&self, owner: usize, script: &str) -> String {
        let names = (0..100).map(|number| format!("shell-{number}"));
        let server = self.net.key_of(owner, EntityKind::Upstream, names);
        for bed in &self.beds {
            bed.register(&server, self.beds[0].script(script));
        }
        server
    }

    fn log(&self) -> String {
        self.beds[0].log()
    }
}

/// The processes that were started, and those that ended in order, by their log.
fn starts(log: &str) -> usize {
    log.matches("start ").count()
}

#[tokio::test]
async fn a_call_at_any_node_reaches_the_one_process_byte_for_byte() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    let here = text(&nodes.beds[0].call(&server, "pid").await.unwrap());
    let there = text(&nodes.beds[1].call(&server, "pid").await.unwrap());
    assert_eq!(here, there);
    assert_eq!(starts(&nodes.log()), 1, "{}", nodes.log());

    let upstream = nodes.beds[1].upstreams.get(&name(&server), soon()).await.unwrap();
    assert_eq!(upstream.info().server_info.name, "shell");
    let params = r#"{ "name":"echo", "arguments":{"n":1e400,"z":123456789012345678901234567890} }"#;
    let params_raw = RawValue::from_string(params.to_owned()).unwrap();
    let options = CallOptions::on_behalf_of(Principal::node(), soon());
    let reply = upstream
        .request(method::TOOLS_CALL, Some(params_raw), options)
        .await
        .unwrap();
    let RawReply::Result(result) = reply else {
        panic!("{reply:?}")
    };
    assert!(result.get().contains(params), "{}", result.get());

    let no_such = upstream
        .request("no/such", None, CallOptions::own(soon()))
        .await
        .unwrap();
    assert!(matches!(no_such, RawReply::Error(_)), "{no_such:?}");
    let log = nodes.beds[1]
        .upstreams
        .logs(&name(&server), soon())
        .await
        .unwrap();
    assert!(
        log.iter().any(|line| line.text.contains("token is [secret]")),
        "{log:?}"
    );
}

#[tokio::test]
async fn long_parameters_and_results_go_in_pieces() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    let upstream = nodes.beds[1].upstreams.get(&name(&server), soon()).await.unwrap();
    let long = "ä1".repeat(300_000);
    let params = raw(serde_json::json!({ "name": "echo", "arguments": { "long": long } }));
    let reply = upstream
        .request(method::TOOLS_CALL, params, CallOptions::own(soon()))
        .await
        .unwrap();
    let RawReply::Result(result) = reply else {
        panic!("{reply:?}")
    };
    assert!(result.get().contains(&long), "{} bytes", result.get().len());
}

#[tokio::test]
async fn progress_comes_before_the_answer_and_lists_are_kept_until_they_change() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    let upstream = nodes.beds[1].upstreams.get(&name(&server), soon()).await.unwrap();
    let (sender, mut progress) = mpsc::channel(8);
    let params = raw(serde_json::json!({ "name": "progress", "_meta": { "progressToken": "mine" } }));
    let options = CallOptions {
        progress: Some(sender),
        ..CallOptions::own(soon())
    };
    upstream
        .request(method::TOOLS_CALL, params, options)
        .await
        .unwrap();
    let told = progress.recv().await.unwrap();
    assert!(
        told.as_str()
            .contains(r#""progressToken":"mine","progress":1,"x":1e400"#),
        "{}",
        told.as_str()
    );

    let heard = || nodes.beds[1].upstreams.state(&name(&server)) == UpstreamState::Ready;
    testkit::eventually(testkit::PATIENCE, heard).await.unwrap();
    for _ in 0..3 {
        let tools = upstream.list(ListKind::Tools, soon()).await.unwrap();
        assert!(tools[0].raw.get().contains("123456789012345678901234567890"));
    }
    assert_eq!(nodes.log().matches("tools/list").count(), 1);
    let mut events = nodes.beds[1].upstreams.subscribe();
    nodes.beds[1].call(&server, "changed").await.unwrap();
    let event = tokio::time::timeout(testkit::PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(event, UpstreamEvent::ListChanged { .. }), "{event:?}");
    upstream.list(ListKind::Tools, soon()).await.unwrap();
    assert_eq!(nodes.log().matches("tools/list").count(), 2);
}

#[tokio::test]
async fn calls_in_flight_are_listed_at_both_ends_and_cancelled_at_either() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    nodes.beds[0].call(&server, "pid").await.unwrap();
    for canceller in [1, 0] {
        let bed = Arc::clone(&nodes.beds[1]);
        let called = server.clone();
        let call = tokio::spawn(async move { bed.call(&called, "hang").await });
        let listed = || nodes.beds.iter().all(|bed| bed.upstreams.calls().len() == 1);
        testkit::eventually(testkit::PATIENCE, listed).await.unwrap();
        let upstreams = &nodes.beds[canceller].upstreams;
        upstreams.cancel(upstreams.calls()[0].id).unwrap();
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::CallCancelled, "{error}");
        let gone = || nodes.beds.iter().all(|bed| bed.upstreams.calls().is_empty());
        testkit::eventually(testkit::PATIENCE, gone).await.unwrap();
    }
    nodes.beds[0].logged("notifications/cancelled").await;
}

#[tokio::test]
async fn a_server_that_moves_takes_no_new_calls_finishes_those_in_flight_and_goes_on_elsewhere() {
    let nodes = Nodes::new(2, 1).await;
    let slow = LEGACY.replace(
        r#"*'"name":"home"'*) text "$HOME" ;;"#,
        r#"*'"name":"home"'*) sleep 1; text "$HOME" ;;"#,
    );
    // The second node is not up yet; a name that will be its own.
    let server = {
        nodes.net.up(&[0, 1]).await;
        let server = nodes.register_at(1, &slow);
        nodes.net.up(&[0]).await;
        server
    };
    let first = text(&nodes.beds[0].call(&server, "pid").await.unwrap());
    let (bed, called) = (Arc::clone(&nodes.beds[0]), server.clone());
    let in_flight = tokio::spawn(async move { bed.call(&called, "home").await });
    nodes.beds[0].logged(r#""name":"home""#).await;
    let began = Instant::now();
    let (moved, during) = tokio::join!(nodes.net.up(&[0, 1]), nodes.beds[0].call(&server, "pid"));
    let () = moved;
    let second = text(&during.unwrap());
    assert_ne!(first, second, "a new process");
    assert!(
        in_flight.await.unwrap().is_ok(),
        "the call in flight was finished"
    );
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(text(&nodes.beds[1].call(&server, "pid").await.unwrap()), second);
    let log = nodes.log();
    let (end, start) = (log.rfind("end ").unwrap(), log.rfind("start ").unwrap());
    assert!(
        end < start,
        "the first process ended before the second began: {log}"
    );
    assert_eq!(starts(&log), 2);
}

#[tokio::test]
async fn a_call_that_finds_its_server_moving_is_not_made_there() {
    let bed = Bed::new().await;
    bed.register_script("shell", LEGACY);
    bed.call("shell", "pid").await.unwrap();
    let slot = bed.upstreams.slot(&name("shell")).unwrap();
    // Whoever gives it away has said so, and has not yet closed the connection.
    slot.move_away();
    let params = raw(serde_json::json!({ "name": "home", "arguments": {} }));
    let late = slot.request(method::TOOLS_CALL, params.as_deref(), CallOptions::own(soon()));
    assert_eq!(late.await.unwrap_err(), UpstreamError::Stopped(name("shell")));
    assert_eq!(bed.upstreams.calls_in_flight(), 0);
    assert!(!bed.log().contains(r#""name":"home""#), "{}", bed.log());
}

#[tokio::test]
async fn when_the_owner_dies_calls_in_flight_say_so_lists_are_read_again_and_the_server_is_taken_over() {
    let nodes = Nodes::new(3, 3).await;
    let server = nodes.register_at(0, LEGACY);
    nodes.beds[0].call(&server, "pid").await.unwrap();
    let heard = || {
        nodes.beds[1..]
            .iter()
            .all(|bed| bed.upstreams.state(&name(&server)) == UpstreamState::Ready)
    };
    testkit::eventually(testkit::PATIENCE, heard).await.unwrap();
    let (bed, called) = (Arc::clone(&nodes.beds[1]), server.clone());
    let in_flight = tokio::spawn(async move { bed.call(&called, "hang").await });
    nodes.beds[0].logged(r#""name":"hang""#).await;
    nodes.net.kill(0);
    nodes.beds[0].shutdown().await;
    let error = in_flight.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::UpstreamDied, "{error}");
    assert!(
        error.is_retryable() && error.to_string().contains("may have had effects"),
        "{error}"
    );

    let upstream = nodes.beds[1].upstreams.get(&name(&server), soon()).await;
    let (bed, called) = (Arc::clone(&nodes.beds[1]), server.clone());
    let waiting = tokio::spawn(async move { bed.call(&called, "pid").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "it waits for a new owner");
    nodes.net.up(&[1, 2]).await;
    assert!(waiting.await.unwrap().is_ok());
    upstream.unwrap().tools(soon()).await.unwrap();
    assert_eq!(starts(&nodes.log()), 2, "{}", nodes.log());
}

#[tokio::test]
async fn a_server_in_use_is_started_by_its_new_owner_before_anybody_calls() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    nodes.beds[0].call(&server, "pid").await.unwrap();
    let heard = || nodes.beds[1].upstreams.state(&name(&server)) == UpstreamState::Ready;
    testkit::eventually(testkit::PATIENCE, heard).await.unwrap();
    nodes.net.kill(0);
    nodes.beds[0].shutdown().await;
    nodes.net.up(&[1]).await;
    let started = || starts(&nodes.log()) == 2;
    testkit::eventually(testkit::PATIENCE, started).await.unwrap();
    testkit::eventually(testkit::PATIENCE, heard).await.unwrap();
}

#[tokio::test]
async fn without_an_owner_a_call_ends_with_its_deadline_and_says_why() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    nodes.net.kill(0);
    let error = nodes.beds[1]
        .call_until(&server, "pid", Deadline::within(Duration::from_millis(400)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NodeUnreachable, "{error}");
    assert!(error.is_retryable());
}

/// Others start theirs a moment after the end of the lease.
#[tokio::test]
async fn without_a_lease_servers_stand_still_at_once_even_when_the_starter_is_busy() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    let bed = &nodes.beds[0];
    bed.call(&server, "pid").await.unwrap();
    let slot = bed.upstreams.slot(&name(&server)).unwrap();
    let directory = bed.system.directory();
    let starter = directory
        .reports()
        .into_iter()
        .find(|report| report.kind == "starter");
    directory
        .command(starter.unwrap().id, ActorCommand::Suspend)
        .unwrap();
    nodes.net.lose_lease(0);
    let node = nodes.net.node(0);
    let settling = tokio::spawn(async move { node.settle().await });
    let stands_still = || slot.is_suspended();
    testkit::eventually(Duration::from_secs(5), stands_still)
        .await
        .unwrap();
    settling.abort();
}

/// A call of the tool that asks for a form, for a client that fills in forms; and where it asks.
async fn ask_for_a_form(
    bed: &Bed,
    server: &str,
) -> (
    impl Future<Output = Result<RawReply, UpstreamError>> + use<>,
    mpsc::Receiver<Question>,
) {
    let forms = RawValue::from_string(r#"{"elicitation":{}}"#.to_owned()).unwrap();
    let profile = Profile::of(&ClientCapabilities::new(forms));
    let upstream = bed.upstreams.get(&name(server), soon()).await.unwrap();
    let upstream = bed
        .upstreams
        .for_clients(upstream, profile, soon())
        .await
        .unwrap();
    let (to, questions) = QuestionsTo::channel(profile);
    let options = CallOptions {
        questions: Some(to),
        ..CallOptions::own(soon())
    };
    let params = raw(serde_json::json!({ "name": "ask", "arguments": {} }));
    let request = async move { upstream.request(method::TOOLS_CALL, params, options).await };
    (request, questions)
}

/// Calls the tool that asks for a form, for a client that fills in forms, which answers `{"action":"accept"}`.
async fn call_and_answer(bed: &Bed, server: &str) -> serde_json::Value {
    let (request, mut questions) = ask_for_a_form(bed, server).await;
    let answering = async {
        let question = questions.recv().await.unwrap();
        assert_eq!(question.method, "elicitation/create");
        assert_eq!(
            question.params.as_ref().unwrap().get(),
            r#"{"message":"who?","n":1e400}"#
        );
        assert_eq!(question.key(), "question");
        let answer = RawValue::from_string(r#"{"action":"accept"}"#.to_owned()).unwrap();
        question.answer(&RawReply::Result(answer));
        questions
    };
    let (reply, _questions) = tokio::join!(request, answering);
    let RawReply::Result(result) = reply.unwrap() else {
        panic!("an error")
    };
    serde_json::from_str(result.get()).unwrap()
}

#[tokio::test]
async fn what_a_server_asks_reaches_its_client_at_any_node_and_it_has_a_process_for_such_clients() {
    let nodes = Nodes::new(2, 2).await;
    let server = nodes.register_at(0, LEGACY);
    let plain = text(&nodes.beds[1].call(&server, "pid").await.unwrap());
    let there = call_and_answer(&nodes.beds[1], &server).await;
    assert_eq!(there["answer"]["result"]["action"], "accept", "{there}");
    let here = call_and_answer(&nodes.beds[0], &server).await;
    assert_eq!(here["pid"], there["pid"], "one process for clients of one kind");
    assert_ne!(here["pid"], plain.as_str(), "and another for the rest");
    assert_eq!(starts(&nodes.log()), 2);
    let log = nodes.log();
    assert!(
        log.contains(r#""capabilities":{"elicitation":{"form":{}}}"#),
        "{log}"
    );
    assert!(log.contains(r#""capabilities":{}"#), "{log}");
}

#[tokio::test]
async fn a_server_whose_client_has_not_answered_moves_at_once_with_all_its_processes() {
    let nodes = Nodes::new(2, 1).await;
    let server = {
        nodes.net.up(&[0, 1]).await;
        let server = nodes.register_at(1, LEGACY);
        nodes.net.up(&[0]).await;
        server
    };
    let (request, mut questions) = ask_for_a_form(&nodes.beds[0], &server).await;
    let waiting = tokio::spawn(request);
    let unanswered = questions.recv().await.unwrap();
    let began = Instant::now();
    nodes.net.up(&[0, 1]).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    drop(unanswered);
    nodes.beds[1].call(&server, "pid").await.unwrap();
    let log = nodes.log();
    assert_eq!(log.matches("end ").count(), 2, "both processes ended here: {log}");
}
