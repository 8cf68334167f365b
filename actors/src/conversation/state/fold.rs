//! Turns as the fold of their steps: living through them and reading them back gives the same.

use troupe_protocol::conversation::{ToolCall, Turn, TurnStatus};
use troupe_protocol::event::{FlowEvent, FlowStep};
use troupe_protocol::id::{CorrelationId, TurnId};
use troupe_protocol::routing::Decision;
use troupe_protocol::time::Timestamp;

use super::{ConversationState, Pending, Running, TURNS_MAX};
use crate::conversation::answer;

impl ConversationState {
    /// The state that these steps lead to.
    pub fn rebuild(steps: Vec<FlowEvent>) -> Self {
        let mut state = Self::default();
        for event in steps {
            if let FlowStep::UserQueryReceived { .. } = event.step {
                state.running = Some(Running::default());
            }
            state.apply(event);
        }
        while state.turns.len() > TURNS_MAX {
            state.turns.pop_front();
        }
        state
    }

    /// A step is on the disk: what it changes.
    pub fn apply(&mut self, event: FlowEvent) {
        if let Some(running) = self.running.as_mut() {
            running.steps += 1;
        }
        let FlowEvent {
            correlation_id,
            turn_id,
            at,
            step,
            ..
        } = event;
        if let FlowStep::UserQueryReceived { text } = step {
            self.turns.push_back(new_turn(turn_id, correlation_id, at, text));
            return;
        }
        let Some(turn) = self.turns.back_mut().filter(|turn| turn.id == turn_id) else {
            return;
        };
        match step {
            FlowStep::RouteChosen { route } => turn.route = Some(route),
            FlowStep::McpCallStarted {
                server,
                tool,
                arguments,
                safe_to_repeat,
            } => {
                turn.status = TurnStatus::Calling;
                if let Some(values) = arguments.as_object() {
                    self.earlier.extend(values.clone());
                }
                turn.calls.push(ToolCall {
                    server,
                    tool,
                    arguments,
                    result: None,
                    failed: false,
                    duration_ms: None,
                });
                if let Some(running) = self.running.as_mut() {
                    running.safe_to_repeat = safe_to_repeat;
                }
            }
            FlowStep::McpResponseReady { result, duration_ms } => {
                if let Some(call) = turn.calls.last_mut() {
                    call.failed = answer::is_error(&result);
                    call.result = Some(result);
                    call.duration_ms = Some(duration_ms);
                }
            }
            FlowStep::McpCallFailed { problem, .. } => {
                if let Some(call) = turn.calls.last_mut() {
                    call.failed = true;
                }
                turn.problem = Some(problem);
            }
            FlowStep::AnswerReady {
                status,
                text,
                missing,
                problem,
            } => {
                turn.status = status;
                turn.answer = text;
                turn.problem = problem;
                turn.duration_ms = Some(at.unix_ms().saturating_sub(turn.at.unix_ms()).max(0) as u64);
                self.running = None;
                self.pending = pending(turn, missing, self.pending.take());
            }
            FlowStep::UserQueryReceived { .. }
            | FlowStep::GlazyrContextRequested { .. }
            | FlowStep::ContextReady { .. }
            | FlowStep::ContextFailed { .. } => {}
        }
    }
}

fn new_turn(id: TurnId, correlation_id: CorrelationId, at: Timestamp, question: String) -> Turn {
    Turn {
        id,
        correlation_id,
        at,
        question,
        answer: String::new(),
        status: TurnStatus::Routing,
        route: None,
        calls: Vec::new(),
        duration_ms: None,
        problem: None,
    }
}

/// What the next message may answer, once this turn is over.
fn pending(turn: &Turn, missing: Vec<String>, before: Option<Pending>) -> Option<Pending> {
    let route = turn.route.as_ref()?;
    let offers = matches!(route.decision, Decision::Ask | Decision::OfferNearest);
    match turn.status {
        TurnStatus::ArgumentNeeded if !missing.is_empty() => {
            // Asked a second time, it is still about the question of the first.
            let question = match before {
                Some(Pending::Arguments {
                    question,
                    route: asked,
                    ..
                }) if asked.tool == route.tool => question,
                Some(Pending::Choice { question, .. }) => question,
                _ => turn.question.clone(),
            };
            Some(Pending::Arguments {
                route: Box::new(route.clone()),
                question,
                missing,
            })
        }
        TurnStatus::ArgumentNeeded | TurnStatus::NothingFits if offers => Some(Pending::Choice {
            candidates: route.candidates.clone(),
            question: turn.question.clone(),
        }),
        _ => None,
    }
}
