//! Supervisors, mailboxes and observation at work, on real actors.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use troupe_protocol::id::{ActorPath, CorrelationId};
use troupe_protocol::observe::{ActorCommand, ActorStatus, DeadLetterReason, ExitReason, Snapshot};
use troupe_protocol::trace::Outcome;

use super::*;
use crate::runtime::testkit::{Crash, PATIENCE, crash, eventually, start};
use crate::runtime::{Root, SendError, System, SystemConfig};

/// Counts; how far it got survives its lives only in `total`.
struct Counter {
    total: Arc<AtomicU32>,
    count: u32,
    gate: Arc<Semaphore>,
}

enum Count {
    Add(u32),
    Read(Reply<u32>),
    WaitForGate,
    Panic,
    Forward(Mailbox<Count>),
}

impl Message for Count {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "Add",
            Self::Read(_) => "Read",
            Self::WaitForGate => "WaitForGate",
            Self::Panic => "Panic",
            Self::Forward(_) => "Forward",
        }
    }
}

impl Actor for Counter {
    type Message = Count;
    const KIND: &'static str = "counter";

    async fn started(&mut self, _: &Context<Self>) -> Result<(), ActorError> {
        self.count = self.total.load(Ordering::SeqCst);
        Ok(())
    }

    async fn handle(&mut self, message: Count, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            Count::Add(more) => {
                self.count += more;
                self.total.store(self.count, Ordering::SeqCst);
            }
            Count::Read(reply) => reply.send(self.count),
            Count::WaitForGate => self.gate.acquire().await?.forget(),
            Count::Panic => panic!("asked to"),
            Count::Forward(to) => to.tell(Count::Add(1))?,
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({ "count": self.count })
    }
}

struct Bench {
    system: System,
    counter: Mailbox<Count>,
    gate: Arc<Semaphore>,
    root: Root,
}

fn counter(
    system: &System,
    name: &str,
    messages_max: u32,
    gate: &Arc<Semaphore>,
) -> (Mailbox<Count>, ChildSpec) {
    let mailbox = Mailbox::new(system, ActorPath::new("node").child(name), messages_max);
    let (total, gate) = (Arc::new(AtomicU32::new(0)), Arc::clone(gate));
    let spec = ChildSpec::actor(mailbox.clone(), move || Counter {
        total: Arc::clone(&total),
        count: 0,
        gate: Arc::clone(&gate),
    });
    (mailbox, spec)
}

async fn bench(messages_max: u32) -> Bench {
    let system = System::new(SystemConfig::default());
    let gate = Arc::new(Semaphore::new(0));
    let (counter, spec) = counter(&system, "counter", messages_max, &gate);
    let root = start(&system, vec![spec]).await.unwrap();
    Bench {
        system,
        counter,
        gate,
        root,
    }
}

fn soon() -> Deadline {
    Deadline::within(PATIENCE)
}

fn status_of(system: &System, mailbox: &Mailbox<Count>) -> ActorStatus {
    let id = system.directory().find(mailbox.path()).unwrap();
    system.directory().report(id).unwrap().status
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_only_the_message_in_hand() {
    let Bench {
        system,
        counter,
        root,
        ..
    } = bench(100).await;
    counter.tell(Count::Add(2)).unwrap();
    counter.tell(Count::Panic).unwrap();
    counter.tell(Count::Add(3)).unwrap();
    assert_eq!(counter.ask(Count::Read, soon()).await, Ok(5));

    let id = system.directory().find(counter.path()).unwrap();
    let report = system.directory().report(id).unwrap();
    assert_eq!((report.restarts, report.failed), (1, 1));
    assert_eq!(
        report.last_exit,
        Some(ExitReason::Panicked {
            error: "asked to".to_owned()
        })
    );
    assert_eq!(root.shutdown().await, ExitReason::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn who_asked_a_crashing_actor_is_told_at_once() {
    let Bench { system, counter, .. } = bench(100).await;
    counter.tell(Count::WaitForGate).unwrap();
    let question = counter.ask(Count::Read, Deadline::within(Duration::from_secs(3600)));
    let id = system.directory().find(counter.path()).unwrap();
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Busy)
        .await
        .unwrap();
    // The question waits behind the message in hand, so it survives the kill and is answered by the next life.
    system.directory().command(id, ActorCommand::Kill).unwrap();
    assert_eq!(question.await, Ok(0));
    let exits = system.directory().detail(id, soon()).await.unwrap().exits;
    assert_eq!(exits[0].reason, ExitReason::Killed);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_answers_overloaded_at_once() {
    let Bench {
        system,
        counter,
        gate,
        ..
    } = bench(3).await;
    counter.tell(Count::WaitForGate).unwrap();
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Busy)
        .await
        .unwrap();
    for _ in 0..3 {
        counter.tell(Count::Add(1)).unwrap();
    }
    let refused = counter.tell(Count::Add(1));
    assert!(
        matches!(refused, Err(SendError::Overloaded { messages_max: 3, .. })),
        "{refused:?}"
    );
    tokio::time::sleep(Duration::from_millis(250)).await;
    let id = system.directory().find(counter.path()).unwrap();
    let report = system.directory().report(id).unwrap();
    assert_eq!((report.mailbox_depth, report.overloaded), (3, 1));
    assert!(
        report.oldest_waiting_ms >= Some(250),
        "{:?}",
        report.oldest_waiting_ms
    );
    assert_eq!(
        system.dead_letters().read().items[0].reason,
        DeadLetterReason::Overloaded
    );
    gate.add_permits(1);
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Idle)
        .await
        .unwrap();
    assert_eq!(counter.ask(Count::Read, soon()).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn a_busy_actor_is_observed_and_a_dead_one_too() {
    let Bench {
        system,
        counter,
        gate,
        ..
    } = bench(10).await;
    let directory = system.directory();
    let id = directory.find(counter.path()).unwrap();
    counter.tell(Count::Add(7)).unwrap();
    assert_eq!(counter.ask(Count::Read, soon()).await, Ok(7));
    let asleep = directory.detail(id, soon()).await.unwrap();
    assert_eq!(
        asleep.snapshot,
        Snapshot::Alive {
            state: json!({ "count": 7 })
        }
    );

    counter.tell(Count::WaitForGate).unwrap();
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Busy)
        .await
        .unwrap();
    let busy = directory
        .detail(id, Deadline::within(Duration::from_millis(50)))
        .await
        .unwrap();
    assert_eq!(
        busy.snapshot,
        Snapshot::Timeout {
            state: Some(json!({ "count": 7 }))
        }
    );
    assert_eq!(busy.report.current.unwrap().message, "WaitForGate");
    gate.add_permits(1);

    directory.command(id, ActorCommand::Drain).unwrap();
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Stopped)
        .await
        .unwrap();
    let dead = directory.detail(id, soon()).await.unwrap();
    assert_eq!(
        dead.snapshot,
        Snapshot::PostMortem {
            state: Some(json!({ "count": 7 }))
        }
    );
    assert!(matches!(
        counter.tell(Count::Add(1)),
        Err(SendError::Stopped { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn suspended_messages_wait_and_drained_ones_are_finished() {
    let Bench { system, counter, .. } = bench(10).await;
    let directory = system.directory();
    let id = directory.find(counter.path()).unwrap();
    directory.command(id, ActorCommand::Suspend).unwrap();
    counter.tell(Count::Add(1)).unwrap();
    let unanswered = counter
        .ask(Count::Read, Deadline::within(Duration::from_secs(2)))
        .await;
    assert!(
        matches!(unanswered, Err(AskError::DeadlineExceeded { .. })),
        "{unanswered:?}"
    );
    assert_eq!(status_of(&system, &counter), ActorStatus::Suspended);
    directory.command(id, ActorCommand::Drain).unwrap();
    directory.command(id, ActorCommand::Resume).unwrap();
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Stopped)
        .await
        .unwrap();
    // The expired question was not put to the actor any more.
    assert_eq!(
        system.dead_letters().read().items[0].reason,
        DeadLetterReason::Expired
    );

    directory.command(id, ActorCommand::Restart).unwrap();
    eventually(PATIENCE, || status_of(&system, &counter) == ActorStatus::Idle)
        .await
        .unwrap();
    assert_eq!(counter.ask(Count::Read, soon()).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_dies_too_often_ends_the_tree_with_the_reason() {
    let Bench {
        system,
        counter,
        mut root,
        ..
    } = bench(100).await;
    for _ in 0..11 {
        counter.tell(Count::Panic).unwrap();
    }
    let reason = root.ended().await;
    assert!(
        matches!(&reason, ExitReason::RestartIntensityExceeded { child, .. } if child.name() == "counter"),
        "{reason}"
    );
    assert_eq!(
        reason.to_string(),
        "gave up on node/counter, which died too often (last: panicked: asked to)"
    );
    assert!(
        system.directory().find(counter.path()).is_some(),
        "the dead stay visible"
    );
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gave_up_is_restarted_with_the_children_it_was_given_later() {
    let system = System::new(SystemConfig::default());
    let gate = Arc::new(Semaphore::new(0));
    let inner = SupervisorSpec::new(&system, ActorPath::new("node/inner")).intensity(Intensity {
        restarts_max: 1,
        within: Duration::from_secs(10),
    });
    let handle = inner.handle();
    let _root = start(&system, vec![ChildSpec::supervisor(inner)]).await.unwrap();
    let (mailbox, spec) = counter(&system, "inner/late", 10, &gate);
    handle.start_child(spec, soon()).await.unwrap();
    mailbox.tell(Count::Add(4)).unwrap();
    mailbox.tell(Count::Panic).unwrap();
    mailbox.tell(Count::Panic).unwrap();
    mailbox.tell(Count::Add(1)).unwrap();
    assert_eq!(mailbox.ask(Count::Read, soon()).await, Ok(5));
    let inner = system.directory().find(handle.path()).unwrap();
    assert_eq!(system.directory().report(inner).unwrap().restarts, 1);
    assert_eq!(handle.stop_child(mailbox.path(), soon()).await, Ok(true));
    assert!(matches!(
        mailbox.tell(Count::Add(1)),
        Err(SendError::Stopped { .. })
    ));
}

#[tokio::test]
async fn with_its_supervisor_every_child_has_stopped() {
    let system = System::new(SystemConfig::default());
    let inner = SupervisorSpec::new(&system, ActorPath::new("inner"));
    let handle = inner.handle();
    let root = start(&system, vec![ChildSpec::supervisor(inner)]).await.unwrap();
    root.shutdown().await;
    assert_eq!(
        handle.stop_child(&ActorPath::new("inner/late"), soon()).await,
        Ok(false)
    );
}

#[tokio::test(start_paused = true)]
async fn one_for_all_restarts_the_siblings_too() {
    let system = System::new(SystemConfig::default());
    let gate = Arc::new(Semaphore::new(0));
    let (a, a_spec) = counter(&system, "a", 10, &gate);
    let (b, b_spec) = counter(&system, "b", 10, &gate);
    let spec = SupervisorSpec::new(&system, ActorPath::new("node")).strategy(Strategy::OneForAll);
    let _root = system.start(spec.child(a_spec).child(b_spec)).await.unwrap();
    b.tell(Count::Add(1)).unwrap();
    let a_id = system.directory().find(a.path()).unwrap();
    crash(&system, a_id, Crash::Error).unwrap();
    let restarts = |mailbox: &Mailbox<Count>| {
        let id = system.directory().find(mailbox.path()).unwrap();
        system.directory().report(id).unwrap().restarts
    };
    eventually(PATIENCE, || restarts(&a) == 1 && restarts(&b) == 1)
        .await
        .unwrap();
    assert_eq!(b.ask(Count::Read, soon()).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_who_caused_what() {
    let system = System::new(SystemConfig::default());
    let gate = Arc::new(Semaphore::new(0));
    let (a, a_spec) = counter(&system, "a", 10, &gate);
    let (b, b_spec) = counter(&system, "b", 10, &gate);
    let _root = start(&system, vec![a_spec, b_spec]).await.unwrap();
    let (edge, id) = (ActorPath::new("node/edge"), CorrelationId(42));
    let work = async {
        a.tell(Count::Forward(b.clone())).unwrap();
        a.ask(Count::Read, soon()).await.unwrap();
        b.ask(Count::Read, soon()).await
    };
    let read = system
        .trace(&edge, "http", "POST /count", id, work, |_| Outcome::Done)
        .await;
    assert_eq!(read, Ok(1));
    let trace = system.traces().get(id).unwrap();
    let [root] = trace.roots.as_slice() else {
        panic!("{trace:?}")
    };
    assert_eq!(root.span.message, "POST /count");
    let steps: Vec<(&str, &str)> = root
        .children
        .iter()
        .map(|step| (step.span.actor.as_str(), step.span.message.as_str()))
        .collect();
    assert_eq!(
        steps,
        [("node/a", "Forward"), ("node/a", "Read"), ("node/b", "Read")]
    );
    let forwarded = &root.children[0].children[0].span;
    assert_eq!(
        (forwarded.actor.as_str(), forwarded.message.as_str()),
        ("node/b", "Add")
    );
    assert!(
        root.children
            .iter()
            .all(|step| step.span.outcome == Outcome::Done)
    );
}

/// A bare ractor actor, to measure against.
struct Bare;

struct BareAdd(Option<Reply<u64>>);
impl ractor::Message for BareAdd {}

impl ractor::Actor for Bare {
    type Msg = BareAdd;
    type State = u64;
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ractor::ActorRef<BareAdd>,
        (): (),
    ) -> Result<u64, ractor::ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<BareAdd>,
        message: BareAdd,
        count: &mut u64,
    ) -> Result<(), ractor::ActorProcessingErr> {
        *count += 1;
        message.0.into_iter().for_each(|reply| reply.send(*count));
        Ok(())
    }
}

/// What the runtime costs when nobody looks: a message through a mailbox, all counting included, against the same
/// through a bare ractor actor in the same run.
/// `cargo test --release -p troupe-actors --lib a_message_costs -- --nocapture` prints it.
#[tokio::test]
async fn a_message_costs_less_than_a_microsecond_more_than_a_bare_one() {
    const MESSAGES: u32 = 200_000;
    let Bench { counter, .. } = bench(MESSAGES + 1).await;
    let began = std::time::Instant::now();
    for _ in 0..MESSAGES {
        counter.tell(Count::Add(1)).unwrap();
    }
    assert_eq!(
        counter
            .ask(Count::Read, Deadline::within(Duration::from_secs(60)))
            .await,
        Ok(MESSAGES)
    );
    let ours = began.elapsed() / MESSAGES;

    let (bare, _) = <Bare as ractor::Actor>::spawn(None, Bare, ()).await.unwrap();
    let began = std::time::Instant::now();
    for _ in 0..MESSAGES {
        bare.send_message(BareAdd(None)).unwrap();
    }
    let (reply, answer) = Reply::channel();
    bare.send_message(BareAdd(Some(reply))).unwrap();
    answer.await.unwrap();
    let bare = began.elapsed() / MESSAGES;

    println!("one message: {ours:?} through the runtime, {bare:?} through bare ractor");
    if !cfg!(debug_assertions) {
        assert!(
            ours < bare + Duration::from_micros(1),
            "{ours:?} against {bare:?}"
        );
    }
}
