#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::to_raw_value;
use tokio::sync::Notify;
use troupe_protocol::conversation::{TurnStatus, UserInput};
use troupe_protocol::error::Code;
use troupe_protocol::id::ActorPath;
use troupe_protocol::mcp::{Descriptor, ListKind, ToolDescriptor};
use troupe_protocol::server::ServerName;

use super::*;
use crate::cluster::ClusterHandle;
use crate::cluster::testkit::Net;
use crate::pipeline::embedding::Embedder;
use crate::router::planner::Arguments;
use crate::router::planner::rules::RulesPlanner;
use crate::router::sources::{LiveServer, ToolChange};
use crate::router::{RouterServices, ToolSource};
use crate::runtime::testkit::{self, Crash, PATIENCE, eventually};
use crate::runtime::{Root, System, SystemConfig};
use crate::store::Store;
use crate::upstream::tests::bed::alone;

/// One server with the tools of a test.
struct OneServer(Vec<Value>);

impl ToolSource for OneServer {
    fn live(&self) -> Vec<LiveServer> {
        vec![LiveServer {
            name: "s".parse().unwrap(),
            description: String::new(),
        }]
    }

    fn tools<'a>(
        &'a self,
        _: &'a ServerName,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Arc<Vec<ToolDescriptor>>, String>> {
        let read = |tool: &Value| Descriptor::read(ListKind::Tools, &to_raw_value(tool).unwrap()).unwrap();
        let tools = self.0.iter().map(read).collect();
        Box::pin(async move { Ok(Arc::new(tools)) })
    }

    fn changes(&self) -> BoxStream<'static, ToolChange> {
        futures::stream::pending().boxed()
    }
}

/// Answers calls as a script says; an empty script never answers.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<Value, CallFailure>>>,
    calls: Mutex<Vec<(String, Arguments, String)>>,
    called: Notify,
    dropped: Arc<Mutex<u32>>,
}

struct CountDrop(Arc<Mutex<u32>>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        *self.0.lock() += 1;
    }
}

impl ToolCaller for Script {
    fn call<'a>(
        &'a self,
        _: &'a str,
        tool: &'a str,
        arguments: Arguments,
        principal: &'a Principal,
        _: Deadline,
    ) -> BoxFuture<'a, Result<Value, CallFailure>> {
        Box::pin(async move {
            self.calls
                .lock()
                .push((tool.to_owned(), arguments, principal.name.clone()));
            self.called.notify_one();
            let answer = self.answers.lock().pop_front();
            match answer {
                Some(answer) => answer,
                None => {
                    let _count = CountDrop(Arc::clone(&self.dropped));
                    std::future::pending().await
                }
            }
        })
    }
}

struct Node {
    conversations: ConversationsHandle,
    system: System,
    root: Root,
}

fn tools() -> Vec<Value> {
    vec![
        json!({"name": "get_current_time", "description": "Get current time in a specific timezone",
            "annotations": {"readOnlyHint": true},
            "inputSchema": {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]}}),
        json!({"name": "send_mail", "description": "Send a mail message to somebody",
            "inputSchema": {"type": "object", "properties": {"email": {"type": "string"}}, "required": ["email"]}}),
    ]
}

async fn node(store: &Store, script: &Arc<Script>) -> Node {
    node_of(store, script, alone()).await
}

async fn node_of(store: &Store, script: &Arc<Script>, cluster: ClusterHandle) -> Node {
    let system = System::new(SystemConfig::default());
    let services = RouterServices {
        servers: Arc::new(OneServer(tools())),
        embedder: Embedder::start(Vec::new()),
        vectors: None,
        planner: Arc::new(RulesPlanner),
        policy: Arc::new(|_, _| true),
    };
    let (router, router_spec) = RouterHandle::build(&system, ActorPath::new("node/router"), services);
    let services = ConversationServices {
        store: store.clone(),
        router: router.clone(),
        caller: Arc::clone(script) as Arc<dyn ToolCaller>,
        call_within: Duration::from_secs(60),
        cluster,
    };
    let (conversations, spec) =
        ConversationsHandle::build(&system, ActorPath::new("node/conversations"), services).unwrap();
    let root = testkit::start(&system, vec![router_spec, spec]).await.unwrap();
    eventually(PATIENCE, || router.status().servers == 2)
        .await
        .unwrap();
    Node {
        conversations,
        system,
        root,
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn ada() -> Principal {
    Principal {
        name: "ada".to_owned(),
        ..Principal::anonymous()
    }
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn soon() -> Deadline {
    Deadline::within(PATIENCE)
}

fn scripted(answers: Vec<Result<Value, CallFailure>>) -> Arc<Script> {
    Arc::new(Script {
        answers: Mutex::new(answers.into()),
        ..Script::default()
    })
}

#[tokio::test]
async fn a_question_is_answered_streamed_and_kept() {
    let (_folder, store) = store();
    let script = scripted(vec![Ok(text("half past nine")), Ok(text("half past one"))]);
    let node = node(&store, &script).await;
    let id = node.conversations.open(&ada()).await.unwrap().id;
    let mut events = node.conversations.subscribe(id, &ada()).unwrap();
    let answer = node
        .conversations
        .ask("what time is it in Tokyo?", Some(id), &ada(), soon())
        .await
        .unwrap();
    assert_eq!(
        (answer.turn.status, answer.turn.answer.as_str()),
        (TurnStatus::Answered, "half past nine")
    );
    let (tool, arguments, who) = script.calls.lock()[0].clone();
    assert_eq!((tool.as_str(), who.as_str()), ("get_current_time", "ada"));
    assert_eq!(Value::Object(arguments), json!({"timezone": "Asia/Tokyo"}));

    let mut heard = Vec::new();
    let mut streamed = String::new();
    while let Ok(event) = events.try_recv() {
        match event {
            ConversationEvent::TurnStarted { .. } => heard.push("started"),
            ConversationEvent::TurnChanged { turn } => heard.push(match turn.status {
                TurnStatus::Routing => "routing",
                _ => "calling",
            }),
            ConversationEvent::AnswerChunk { text, .. } => streamed.push_str(&text),
            ConversationEvent::TurnEnded { .. } => heard.push("ended"),
            _ => {}
        }
    }
    assert_eq!(heard, ["started", "routing", "calling", "calling", "ended"]);
    assert_eq!(streamed, "half past nine");

    let second = node
        .conversations
        .ask("and in Paris?", Some(id), &ada(), soon())
        .await
        .unwrap();
    assert_eq!(second.turn.answer, "half past one");
    assert_eq!(script.calls.lock()[1].1["timezone"], "Europe/Paris");

    let summary = node.conversations.list(&ada()).pop().unwrap();
    assert_eq!(
        (summary.title.as_str(), summary.turns),
        ("what time is it in Tokyo?", 2)
    );
    assert_eq!(node.conversations.get(id, &ada()).await.unwrap().history.len(), 2);
}

#[tokio::test]
async fn a_conversation_is_its_owners_alone() {
    let (_folder, store) = store();
    let node = node(&store, &scripted(Vec::new())).await;
    let id = node.conversations.open(&ada()).await.unwrap().id;
    let bob = Principal {
        name: "bob".to_owned(),
        ..ada()
    };
    assert!(node.conversations.list(&bob).is_empty());
    let refused = node.conversations.get(id, &bob).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConversationNotFound);
    assert!(node.conversations.subscribe(id, &bob).is_err());
    assert!(
        node.conversations
            .say(
                id,
                UserInput {
                    text: "hi".to_owned()
                },
                &bob
            )
            .await
            .is_err()
    );
    assert!(node.conversations.delete(id, &bob).await.is_err());

    let renamed = node
        .conversations
        .change(id, Some("Clocks".to_owned()), Some(true), &ada())
        .await
        .unwrap();
    assert_eq!((renamed.title.as_str(), renamed.pinned), ("Clocks", true));
    assert!(
        node.conversations
            .change(id, Some("  ".to_owned()), None, &ada())
            .await
            .is_err()
    );
    node.conversations.delete(id, &ada()).await.unwrap();
    assert!(node.conversations.list(&ada()).is_empty());
    assert!(node.conversations.get(id, &ada()).await.is_err());
}

#[tokio::test]
async fn a_missing_argument_is_asked_for_and_small_talk_names_the_nearest() {
    let (_folder, store) = store();
    let script = scripted(vec![Ok(text("sent"))]);
    let node = node(&store, &script).await;
    let asked = node
        .conversations
        .ask("send a mail message", None, &ada(), soon())
        .await
        .unwrap();
    assert_eq!(asked.turn.status, TurnStatus::ArgumentNeeded, "{:?}", asked.turn);
    assert!(asked.turn.answer.contains("the email"), "{}", asked.turn.answer);
    let id = Some(asked.conversation_id);
    let sent = node
        .conversations
        .ask("to bob@example.org please", id, &ada(), soon())
        .await
        .unwrap();
    assert_eq!(sent.turn.answer, "sent", "{:?}", sent.turn);
    assert_eq!(script.calls.lock()[0].1["email"], "bob@example.org");
    let lost = node
        .conversations
        .ask("sing me a song about the time", id, &ada(), soon())
        .await
        .unwrap();
    assert_eq!(lost.turn.status, TurnStatus::NothingFits, "{:?}", lost.turn);
    assert!(lost.turn.answer.contains("1. "), "{}", lost.turn.answer);
}

#[tokio::test]
async fn cancelling_stops_the_call() {
    let (_folder, store) = store();
    let script = scripted(Vec::new());
    let node = node(&store, &script).await;
    let id = node.conversations.open(&ada()).await.unwrap().id;
    let question = UserInput {
        text: "what time is it in Tokyo?".to_owned(),
    };
    node.conversations
        .say(id, question.clone(), &ada())
        .await
        .unwrap();
    script.called.notified().await;
    let busy = node.conversations.say(id, question, &ada()).await.unwrap_err();
    assert_eq!(busy.code(), Code::TurnInProgress);
    assert!(node.conversations.cancel(id, &ada()).await.unwrap());
    eventually(PATIENCE, || *script.dropped.lock() == 1)
        .await
        .unwrap();
    let history = node.conversations.get(id, &ada()).await.unwrap().history;
    assert_eq!(history[0].status, TurnStatus::Cancelled);
    assert!(
        !node.conversations.cancel(id, &ada()).await.unwrap(),
        "there is nothing left to cancel"
    );
}

async fn actor_id(node: &Node, id: ConversationId) -> troupe_protocol::id::ActorId {
    let path = format!("node/conversations/{id}");
    node.system
        .directory()
        .reports()
        .into_iter()
        .find(|report| report.path.as_str() == path)
        .unwrap()
        .id
}

#[tokio::test]
async fn after_a_crash_a_harmless_call_is_made_again_and_another_is_reported() {
    let (_folder, store) = store();
    let script = scripted(Vec::new());
    let node = node(&store, &script).await;
    for (question, called, status) in [
        ("what time is it in Tokyo?", 2, TurnStatus::Answered),
        ("send a mail message to bob@example.org", 1, TurnStatus::Failed),
    ] {
        script.calls.lock().clear();
        let id = node.conversations.open(&ada()).await.unwrap().id;
        node.conversations
            .say(
                id,
                UserInput {
                    text: question.to_owned(),
                },
                &ada(),
            )
            .await
            .unwrap();
        eventually(PATIENCE, || script.calls.lock().len() == 1)
            .await
            .unwrap();
        script.answers.lock().push_back(Ok(text("done")));
        testkit::crash(&node.system, actor_id(&node, id).await, Crash::Panic).unwrap();
        let mut events = node.conversations.subscribe(id, &ada()).unwrap();
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Ok(ConversationEvent::TurnEnded { turn }) = events.recv().await {
                    return turn;
                }
            }
        });
        let turn = ended.await.unwrap();
        assert_eq!(
            (turn.status, script.calls.lock().len()),
            (status, called),
            "{question}: {turn:?}"
        );
        script.answers.lock().clear();
    }
}

#[tokio::test]
async fn a_conversation_outlives_the_node() {
    let (_folder, store) = store();
    let script = scripted(Vec::new());
    let first = node(&store, &script).await;
    let id = first.conversations.open(&ada()).await.unwrap().id;
    let question = UserInput {
        text: "what time is it in Tokyo?".to_owned(),
    };
    first.conversations.say(id, question, &ada()).await.unwrap();
    script.called.notified().await;
    first.root.shutdown().await;

    let script = scripted(vec![Ok(text("half past nine"))]);
    let second = node(&store, &script).await;
    script.called.notified().await;
    let mut history = Vec::new();
    for _ in 0..100 {
        history = second.conversations.get(id, &ada()).await.unwrap().history;
        if history[0].status.is_final() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((history.len(), history[0].answer.as_str()), (1, "half past nine"));
    assert_eq!(second.conversations.list(&ada()).len(), 1);
}

/// Nodes that share a store, as replicated trees are the same on all.
struct Nodes {
    net: Net,
    nodes: Vec<Node>,
    scripts: Vec<Arc<Script>>,
    _folder: tempfile::TempDir,
}

impl Nodes {
    async fn new(scripts: Vec<Arc<Script>>, up: usize) -> Self {
        let (folder, store) = store();
        let net = Net::new(scripts.len(), up);
        let mut nodes = Vec::new();
        for (number, script) in scripts.iter().enumerate() {
            nodes.push(node_of(&store, script, net.node(number)).await);
        }
        Self {
            net,
            nodes,
            scripts,
            _folder: folder,
        }
    }

    /// Opens conversations on the first node until one is this node's.
    async fn open_at(&self, owner: usize) -> ConversationId {
        loop {
            let id = self.nodes[0].conversations.open(&ada()).await.unwrap().id;
            if self.nodes[owner].conversations.is_here(id) {
                return id;
            }
        }
    }
}

#[tokio::test]
async fn a_conversation_is_had_on_any_node_and_run_on_its_own() {
    let scripts = vec![
        scripted(Vec::new()),
        scripted(vec![Ok(text("half past nine")), Ok(text("ten"))]),
    ];
    let nodes = Nodes::new(scripts, 2).await;
    let id = nodes.open_at(1).await;
    let [first, second] = [&nodes.nodes[0].conversations, &nodes.nodes[1].conversations];
    let mut events = first.subscribe(id, &ada()).unwrap();
    let answer = first
        .ask("what time is it in Tokyo?", Some(id), &ada(), soon())
        .await
        .unwrap();
    assert_eq!(answer.turn.answer, "half past nine");
    assert!(
        nodes.scripts[0].calls.lock().is_empty(),
        "its own node calls the tool"
    );
    let ended = async {
        loop {
            if let ConversationEvent::TurnEnded { turn } = events.recv().await.unwrap() {
                return turn;
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(heard.id, answer.turn.id);

    let renamed = first
        .change(id, Some("Clocks".to_owned()), None, &ada())
        .await
        .unwrap();
    assert_eq!((renamed.title.as_str(), renamed.turns), ("Clocks", 1));
    let whole = [
        first.get(id, &ada()).await.unwrap(),
        second.get(id, &ada()).await.unwrap(),
    ];
    assert_eq!(whole[0], whole[1]);
    let listed = || {
        second
            .list(&ada())
            .iter()
            .any(|summary| summary.id == id && summary.title == "Clocks")
    };
    eventually(PATIENCE, listed).await.unwrap();

    first.delete(id, &ada()).await.unwrap();
    assert_eq!(
        second.get(id, &ada()).await.unwrap_err().code(),
        Code::ConversationNotFound
    );
}

#[tokio::test]
async fn a_question_whose_node_dies_is_answered_by_the_next() {
    let scripts = vec![scripted(vec![Ok(text("half past nine"))]), scripted(Vec::new())];
    let nodes = Nodes::new(scripts, 2).await;
    let id = nodes.open_at(1).await;
    let first = nodes.nodes[0].conversations.clone();
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    let asked = tokio::spawn(async move {
        first
            .ask("what time is it in Tokyo?", Some(id), &ada(), soon())
            .await
    });
    nodes.scripts[1].called.notified().await;
    nodes.net.kill(1);
    nodes.net.up(&[0]).await;
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.turn.answer, "half past nine", "{:?}", answer.turn);
    let called = nodes.scripts.iter().map(|script| script.calls.lock().len());
    assert_eq!(
        called.collect::<Vec<_>>(),
        [1, 1],
        "the call is made again since it is harmless"
    );
}

#[tokio::test]
async fn a_conversation_that_moves_goes_on_with_its_turn_at_its_new_node() {
    let scripts = vec![
        scripted(Vec::new()),
        scripted(vec![Ok(text("half past nine")), Ok(text("ten"))]),
    ];
    let nodes = Nodes::new(scripts, 2).await;
    let id = nodes.open_at(1).await;
    nodes.net.up(&[0]).await;
    let first = nodes.nodes[0].conversations.clone();
    let asking = first.clone();
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    let asked = tokio::spawn(async move {
        asking
            .ask("what time is it in Tokyo?", Some(id), &ada(), soon())
            .await
    });
    nodes.scripts[0].called.notified().await;
    nodes.net.up(&[0, 1]).await;
    assert_eq!(
        *nodes.scripts[0].dropped.lock(),
        1,
        "the call that does not end is given up"
    );
    let turn = asked.await.unwrap().unwrap().turn;
    assert_eq!(turn.answer, "half past nine", "{turn:?}");
    let next = first
        .ask("and in Paris?", Some(id), &ada(), soon())
        .await
        .unwrap();
    assert_eq!(next.turn.answer, "ten");
    assert_eq!(nodes.scripts[1].calls.lock()[1].1["timezone"], "Europe/Paris");
}

/// Whoever had it before, or has it next, was still at work.
#[tokio::test]
async fn a_turn_that_another_has_gone_on_with_is_shown_as_the_other_left_it() {
    let (_folder, store) = store();
    let script = scripted(Vec::new());
    let node = node(&store, &script).await;
    let id = node.conversations.open(&ada()).await.unwrap().id;
    let question = UserInput {
        text: "what time is it in Tokyo?".to_owned(),
    };
    node.conversations.say(id, question, &ada()).await.unwrap();
    script.called.notified().await;
    let trees = record::ConversationTrees::open(&store);
    let steps = trees.steps(id).unwrap();
    let answered = FlowStep::AnswerReady {
        status: TurnStatus::Answered,
        text: "half past nine".to_owned(),
        missing: Vec::new(),
        problem: None,
    };
    let of_the_other = FlowEvent {
        step: answered,
        ..steps[0].clone()
    };
    trees.put_step(steps.len(), &of_the_other, None).await.unwrap();
    node.conversations.cancel(id, &ada()).await.unwrap();
    let history = node.conversations.get(id, &ada()).await.unwrap().history;
    assert_eq!(
        (history[0].status, history[0].answer.as_str()),
        (TurnStatus::Answered, "half past nine")
    );
}
