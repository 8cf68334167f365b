//! Conversations: one actor each, under one supervisor, from the question to the answer.
//!
//! State is **owned** and replicated: each step of a turn is on the disk of a majority before the next begins. When the actor or the node dies in the
//! middle of a turn, the next life goes on where it stopped; a tool call that may have had effects is not made again but
//! reported, unless the tool says that calling it twice is harmless.
//!
//! # Layout
//! - [`handle`]: how the rest of the node reaches conversations
//! - [`state`]: the state machine. Pure
//! - [`fill`]: going on with the tool of the turn before
//! - [`answer`]: results in words, by templates. Pure
//! - [`record`]: what is on the disk
//! - [`caller`]: calling a tool
//! - [`messages`], [`error`]
//! - `placed`, `watch`: conversations that other nodes have
//! - `keeper`: starts interrupted ones
//! - here: the actor of one conversation

pub mod answer;
pub mod caller;
pub mod error;
pub mod fill;
pub mod handle;
mod keeper;
pub mod messages;
mod placed;
pub mod record;
mod shared;
pub mod state;
mod watch;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;
use troupe_protocol::access::Principal;
use troupe_protocol::conversation::{Conversation, ConversationEvent, ConversationSummary, Turn};
use troupe_protocol::error::Problem;
use troupe_protocol::event::{FlowEvent, FlowStep};
use troupe_protocol::id::{ConversationId, CorrelationId, TurnId};
use troupe_protocol::time::Timestamp;

pub use caller::{CallFailure, ToolCaller};
pub use error::ConversationError;
pub use handle::{ConversationServices, ConversationsHandle};
pub use messages::ConversationMessage;
pub use record::TREES;

use crate::router::RouterHandle;
use crate::router::planner::PlanContext;
use crate::runtime::{Actor, ActorError, Context, Deadline, Reply};
use crate::store::WriteError;
use record::{ConversationRecord, Unfinished};
use shared::Shared;
use state::{ConversationState, Effect, FillTask};

/// How long choosing and filling a tool may take.
const ROUTE_WITHIN: Duration = Duration::from_secs(30);
/// An actor without work and watchers stops after this time; the next message starts it again.
const IDLE: Duration = Duration::from_secs(300);
/// How long a resumed question waits for the servers to be found again before it is routed.
const INDEX_WITHIN: Duration = Duration::from_secs(10);

/// One conversation.
struct ConversationActor {
    id: ConversationId,
    shared: Arc<Shared>,
    events: broadcast::Sender<ConversationEvent>,
    state: ConversationState,
    current: Option<Current>,
    /// Who waits for the end of the turn in hand, to move the conversation away.
    resting: Vec<Reply<()>>,
    last_active: tokio::time::Instant,
    /// Whether another has written a step where this was about to: this life ends, and the next begins with what is there.
    is_overtaken: bool,
}

/// The turn in hand.
struct Current {
    turn_id: TurnId,
    correlation_id: CorrelationId,
    principal: Principal,
    work: Option<AbortHandle>,
    is_resumed: bool,
}

impl ConversationActor {
    fn new(id: ConversationId, shared: Arc<Shared>) -> Self {
        let events = shared.channel(id);
        let last_active = tokio::time::Instant::now();
        Self {
            id,
            shared,
            events,
            state: ConversationState::default(),
            current: None,
            resting: Vec::new(),
            last_active,
            is_overtaken: false,
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>, ctx: &Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Write(step) => {
                    match self.write(step).await {
                        Ok(()) => {}
                        // Another has gone on with it: what is here is not how it stands.
                        Err(WriteError::Conflict(_)) => return self.is_overtaken = true,
                        Err(error) => return self.give_up(&error),
                    }
                }
                Effect::Route { question, context } => self.route(question, context, ctx),
                Effect::Fill(task) => self.fill(task, ctx),
                Effect::Call {
                    server,
                    tool,
                    arguments,
                } => {
                    let Some(current) = self.current.as_mut() else {
                        return;
                    };
                    let (turn_id, principal) = (current.turn_id, current.principal.clone());
                    let caller = Arc::clone(&self.shared.services.caller);
                    let within = self.shared.services.call_within;
                    let (cluster, id) = (self.shared.services.cluster.clone(), self.id);
                    current.work = Some(ctx.spawn_to_self(
                        "call tool",
                        guarded(turn_id, async move {
                            ConversationsHandle::until_here(&cluster, id).await;
                            let began = Instant::now();
                            let deadline = Deadline::within(within);
                            let outcome = caller.call(&server, &tool, arguments, &principal, deadline).await;
                            let duration_ms = began.elapsed().as_millis() as u64;
                            ConversationMessage::CallEnded {
                                turn_id,
                                outcome,
                                duration_ms,
                            }
                        }),
                    ));
                }
                Effect::Abort => {
                    if let Some(work) = self.current.as_mut().and_then(|current| current.work.take()) {
                        work.abort();
                    }
                }
                Effect::Drop(turn_id) => {
                    self.state.drop_oldest();
                    if let Err(error) = self.shared.trees.remove_turn(self.id, turn_id).await {
                        tracing::warn!(conversation = %self.id, %error, "an old turn stays on the disk");
                    }
                }
            }
        }
    }

    fn route(&mut self, question: String, context: PlanContext, ctx: &Context<Self>) {
        let Some(current) = self.current.as_mut() else {
            return;
        };
        let (turn_id, principal) = (current.turn_id, current.principal.clone());
        let router = self.shared.services.router.clone();
        let is_resumed = current.is_resumed;
        current.work = Some(ctx.spawn_to_self(
            "route",
            guarded(turn_id, async move {
                if is_resumed {
                    wait_for_servers(&router).await;
                }
                let routing = router
                    .route(&question, &context, &principal, Deadline::within(ROUTE_WITHIN))
                    .await;
                let routed = Some(Box::new(fill::interpret(routing, &router, &principal)));
                ConversationMessage::Routed { turn_id, routed }
            }),
        ));
    }

    fn fill(&mut self, task: Box<FillTask>, ctx: &Context<Self>) {
        let Some(current) = self.current.as_mut() else {
            return;
        };
        let (turn_id, principal) = (current.turn_id, current.principal.clone());
        let router = self.shared.services.router.clone();
        current.work = Some(ctx.spawn_to_self(
            "fill arguments",
            guarded(turn_id, async move {
                let routed = match router.tool(&task.server, &task.tool, &principal) {
                    Some(tool) => {
                        let now = jiff::Zoned::now();
                        fill::go_on(&task, &tool, &**router.planner(), &now, ROUTE_WITHIN).await
                    }
                    None => None, // it is gone meanwhile
                };
                ConversationMessage::Routed {
                    turn_id,
                    routed: routed.map(Box::new),
                }
            }),
        ));
    }

    /// Writes a step down, applies it, and tells who watches.
    async fn write(&mut self, step: FlowStep) -> Result<(), WriteError> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let event = FlowEvent {
            correlation_id: current.correlation_id,
            conversation_id: self.id,
            turn_id: current.turn_id,
            at: now(),
            step,
        };
        let is_first = matches!(event.step, FlowStep::UserQueryReceived { .. });
        let begun = is_first.then(|| Unfinished {
            turn_id: event.turn_id,
            principal: current.principal.clone(),
            since: event.at,
        });
        self.shared
            .trees
            .put_step(self.state.steps_written(), &event, begun.as_ref())
            .await?;
        self.state.apply(event.clone());
        if self.state.running_turn().is_none() {
            // Before anybody hears of the end: who then reads the list finds it up to date.
            self.shared.trees.end(self.id).await?;
            self.summarise().await?;
        }
        self.announce(event);
        Ok(())
    }

    /// Tells who watches of a step that is applied.
    fn announce(&mut self, event: FlowEvent) {
        let Some(turn) = self.state.last_turn().cloned() else {
            return;
        };
        match &event.step {
            FlowStep::UserQueryReceived { .. } => self.tell(ConversationEvent::TurnStarted { turn }),
            FlowStep::AnswerReady { .. } => {
                self.current = None;
                self.resting.drain(..).for_each(|waiting| waiting.send(()));
                self.last_active = tokio::time::Instant::now();
                self.tell_answer(&turn);
                self.tell(ConversationEvent::TurnEnded { turn });
            }
            _ => self.tell(ConversationEvent::TurnChanged { turn }),
        }
        // Without observers there is nobody to tell.
        let _ = self.shared.flow.send(event);
    }

    fn tell(&self, event: ConversationEvent) {
        // Without watchers there is nobody to tell.
        let _ = self.events.send(event);
    }

    fn tell_answer(&self, turn: &Turn) {
        let mut offset = 0;
        for text in answer::pieces(&turn.answer) {
            let units = text.encode_utf16().count() as u32;
            self.tell(ConversationEvent::AnswerChunk {
                turn_id: turn.id,
                offset,
                text,
            });
            offset += units;
        }
    }

    /// The store does not take the step: the turn ends in memory, and says why.
    fn give_up(&mut self, error: &WriteError) {
        tracing::error!(conversation = %self.id, %error, "a step could not be written down");
        let Some(current) = &self.current else { return };
        let problem = Problem::from(error);
        let text = format!("This could not go on: {}.", problem.detail);
        let step = FlowStep::AnswerReady {
            status: troupe_protocol::conversation::TurnStatus::Failed,
            text,
            missing: Vec::new(),
            problem: Some(problem),
        };
        let event = FlowEvent {
            correlation_id: current.correlation_id,
            conversation_id: self.id,
            turn_id: current.turn_id,
            at: now(),
            step,
        };
        self.state.apply(event.clone());
        self.announce(event);
    }

    /// Brings the line in the list up to date.
    async fn summarise(&mut self) -> Result<(), WriteError> {
        let turns = self.state.turns().len() as u32;
        let first_question = self.state.turns().next().map(|turn| turn.question.clone());
        self.change(|summary| {
            summary.turns = turns;
            summary.updated_at = now();
            if let Some(question) = first_question.as_ref().filter(|_| summary.title.is_empty()) {
                summary.title = answer::title_of(question);
            }
        })
        .await
        .map(|_| ())
    }

    async fn change(
        &mut self,
        change: impl Fn(&mut ConversationSummary),
    ) -> Result<Option<ConversationSummary>, WriteError> {
        let Some(record) = self.shared.trees.change(self.id, change).await? else {
            return Ok(None);
        };
        let summary = record.summary.clone();
        self.keep(record);
        self.tell(ConversationEvent::SummaryChanged {
            summary: summary.clone(),
        });
        Ok(Some(summary))
    }

    fn keep(&self, record: ConversationRecord) {
        // A conversation that is deleted meanwhile stays deleted.
        if let Some(known) = self.shared.records.write().get_mut(&self.id) {
            *known = record;
        }
    }

    fn end_if_overtaken(&self) -> Result<(), ActorError> {
        if self.is_overtaken {
            return Err(ActorError::new("another has gone on with this conversation"));
        }
        Ok(())
    }

    fn read(&self) -> Option<Conversation> {
        let summary = self.shared.record(self.id)?.summary;
        Some(Conversation {
            summary,
            history: self.state.turns().cloned().collect(),
        })
    }

    fn has_turn(&self, turn_id: TurnId) -> bool {
        self.is_current(turn_id) || self.state.turns().any(|turn| turn.id == turn_id)
    }

    fn is_current(&self, turn_id: TurnId) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.turn_id == turn_id)
    }
}

impl Actor for ConversationActor {
    type Message = ConversationMessage;
    const KIND: &'static str = "conversation";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        // Its former owner may have been faster in writing the last steps than this node in reading them.
        self.shared.trees.linearize().await?;
        self.state = ConversationState::rebuild(self.shared.trees.steps(self.id)?);
        ctx.send_after(IDLE, ConversationMessage::IdleDue);
        let Some(unfinished) = self.shared.trees.unfinished_of(self.id)? else {
            return Ok(());
        };
        let Some(turn) = self.state.running_turn() else {
            self.shared.trees.end(self.id).await?; // it stopped between the answer and this
            return Ok(());
        };
        self.current = Some(Current {
            turn_id: turn.id,
            correlation_id: turn.correlation_id,
            principal: unfinished.principal,
            work: None,
            is_resumed: true,
        });
        let effects = self.state.resume();
        self.perform(effects, ctx).await;
        self.end_if_overtaken()
    }

    async fn handle(&mut self, message: ConversationMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        if !matches!(message, ConversationMessage::IdleDue) {
            self.last_active = tokio::time::Instant::now();
        }
        match message {
            ConversationMessage::UserInput { turn_id, reply, .. } if self.has_turn(turn_id) => {
                // Asked again since the answer was lost with a node.
                reply.send(Ok(turn_id));
            }
            ConversationMessage::UserInput { reply, .. } if self.current.is_some() => {
                reply.send(Err(ConversationError::TurnInProgress(self.id)));
            }
            ConversationMessage::UserInput {
                turn_id,
                correlation_id,
                text,
                principal,
                reply,
            } => {
                self.current = Some(Current {
                    turn_id,
                    correlation_id,
                    principal,
                    work: None,
                    is_resumed: false,
                });
                let effects = self.state.said(&text);
                self.perform(effects, ctx).await;
                reply.send(Ok(turn_id));
            }
            ConversationMessage::Routed { turn_id, routed } if self.is_current(turn_id) => {
                let effects = match routed {
                    Some(routed) => self.state.routed(*routed),
                    None => self.state.not_an_answer(),
                };
                self.perform(effects, ctx).await;
            }
            ConversationMessage::CallEnded {
                turn_id,
                outcome,
                duration_ms,
            } if self.is_current(turn_id) => {
                let effects = match outcome {
                    Ok(result) => self.state.call_answered(result, duration_ms),
                    Err(failure) => self.state.call_failed(failure),
                };
                self.perform(effects, ctx).await;
            }
            ConversationMessage::WorkPanicked { turn_id } if self.is_current(turn_id) => {
                let effects = self.state.work_panicked();
                self.perform(effects, ctx).await;
            }
            // Of a turn that was cancelled.
            ConversationMessage::Routed { .. }
            | ConversationMessage::CallEnded { .. }
            | ConversationMessage::WorkPanicked { .. } => {}
            ConversationMessage::Cancel(reply) => {
                let effects = self.state.cancelled();
                let was_running = !effects.is_empty();
                self.perform(effects, ctx).await;
                reply.send(was_running);
            }
            ConversationMessage::Read(reply) => {
                if let Some(conversation) = self.read() {
                    reply.send(conversation);
                }
            }
            ConversationMessage::Change { title, pinned, reply } => {
                let changed = self.change(|summary| {
                    summary.title = title.clone().unwrap_or_else(|| summary.title.clone());
                    summary.pinned = pinned.unwrap_or(summary.pinned);
                });
                let outcome = match changed.await {
                    Ok(Some(summary)) => Ok(summary),
                    Ok(None) => Err(ConversationError::NotFound(self.id)),
                    Err(error) => Err(error.into()),
                };
                reply.send(outcome);
            }
            ConversationMessage::Rest(reply) if self.current.is_none() => reply.send(()),
            ConversationMessage::Rest(reply) => self.resting.push(reply),
            ConversationMessage::IdleDue => {
                let is_idle = self.current.is_none() && self.last_active.elapsed() >= IDLE;
                if is_idle {
                    self.shared.retire(self.id).await;
                    ctx.stop();
                } else {
                    ctx.send_after(IDLE, ConversationMessage::IdleDue);
                }
            }
        }
        self.end_if_overtaken()
    }

    fn snapshot(&self) -> serde_json::Value {
        let running = self.state.running_turn();
        json!({
            "conversation": self.id,
            "turns": self.state.turns().len(),
            "status": running.map(|turn| turn.status),
            "tool": running.and_then(|turn| turn.route.as_ref()).map(|route| format!("{}/{}", route.server, route.tool)),
            "watchers": self.events.receiver_count(),
        })
    }
}

/// A panic in the work of a turn must not leave the turn waiting for ever.
async fn guarded(turn_id: TurnId, work: impl Future<Output = ConversationMessage>) -> ConversationMessage {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(message) => message,
        Err(_) => ConversationMessage::WorkPanicked { turn_id },
    }
}

/// After a restart the servers come back one by one; a question that is routed at once would find none.
async fn wait_for_servers(router: &RouterHandle) {
    let until = tokio::time::Instant::now() + INDEX_WITHIN;
    while router.status().servers <= 1 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn now() -> Timestamp {
    Timestamp::from(jiff::Timestamp::now())
}

#[cfg(test)]
mod tests;
