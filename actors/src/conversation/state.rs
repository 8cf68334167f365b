//! A conversation as a state machine. Pure: what happened goes in, what is to be done comes out.
//!
//! The seven steps: `UserInput` → `UserQueryReceived` → (context, once there are sources of it) → `RouteChosen` →
//! `McpCallStarted` → `McpResponseReady` or `McpCallFailed` → `AnswerReady`. Each [`Effect::Write`] must be on the disk
//! before the effect after it is performed. Turns are the fold of their steps, so that reading them back gives the same
//! state as living through them.

mod fold;

use std::collections::VecDeque;

use serde_json::Value;
use troupe_protocol::conversation::{ToolCall, Turn, TurnStatus};
use troupe_protocol::error::{Code, Problem};
use troupe_protocol::event::FlowStep;
use troupe_protocol::id::TurnId;
use troupe_protocol::routing::{Candidate, Decision, Route};

use super::answer;
use super::caller::CallFailure;
use crate::router::planner::{Arguments, PlanContext};

/// Most turns that are kept; the oldest goes when another comes.
pub const TURNS_MAX: usize = 200;
/// Largest result that is kept, in bytes of JSON. A record of the store has room for it and the names around it.
const RESULT_BYTES_MAX: usize = 48 * 1024;
/// Words with which a question goes on from the one before.
const FOLLOW_UP_OPENINGS: [&str; 6] = [
    "and ",
    "what about ",
    "how about ",
    "and what about ",
    "or ",
    "also ",
];
/// Longest question that can be a follow-up, in words.
const FOLLOW_UP_WORDS_MAX: usize = 8;

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write this step down, then apply it.
    Write(FlowStep),
    /// Choose a tool for the question.
    Route {
        /// The question.
        question: String,
        /// What is known beside it.
        context: PlanContext,
    },
    /// Fill a tool that is known already.
    Fill(Box<FillTask>),
    /// Call the tool.
    Call {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// The arguments.
        arguments: Arguments,
    },
    /// Stop what the turn is doing.
    Abort,
    /// Forget a turn, on the disk too.
    Drop(TurnId),
}

/// A tool that was chosen in the turn before and is to be filled now.
#[derive(Debug, Clone, PartialEq)]
pub struct FillTask {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The question that led to it.
    pub question: String,
    /// What was said now.
    pub reply: String,
    /// What is filled already.
    pub arguments: Arguments,
    /// What was asked for; empty when the tool itself was.
    pub missing: Vec<String>,
    /// What is known beside it.
    pub context: PlanContext,
}

/// What a routing came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Routed {
    /// Call the tool with these arguments.
    Call {
        /// The choice.
        route: Route,
        /// Whether it may be called twice.
        safe_to_repeat: bool,
        /// Something people should see.
        note: Option<String>,
    },
    /// Arguments are missing.
    Missing {
        /// The choice.
        route: Route,
        /// Which.
        names: Vec<String>,
        /// How to ask.
        question: String,
    },
    /// The arguments cannot be had.
    Refused {
        /// The choice.
        route: Route,
        /// Why.
        reason: String,
    },
    /// No tool is to be called unasked.
    NoCall {
        /// The nearest, if any.
        route: Option<Route>,
        /// The decision.
        decision: Decision,
        /// The nearest with their descriptions.
        offered: Vec<(Candidate, String)>,
    },
}

#[derive(Debug, Clone, Default)]
struct Running {
    /// How many steps are written.
    steps: usize,
    safe_to_repeat: bool,
    attempts: u32,
    note: Option<String>,
}

/// What the next message may answer.
#[derive(Debug, Clone, PartialEq)]
enum Pending {
    Arguments {
        route: Box<Route>,
        question: String,
        missing: Vec<String>,
    },
    Choice {
        candidates: Vec<Candidate>,
        question: String,
    },
}

/// The turns and where the last one stands.
#[derive(Debug, Clone, Default)]
pub struct ConversationState {
    turns: VecDeque<Turn>,
    running: Option<Running>,
    pending: Option<Pending>,
    earlier: Arguments,
}

impl ConversationState {
    /// The turns, oldest first.
    pub fn turns(&self) -> impl ExactSizeIterator<Item = &Turn> {
        self.turns.iter()
    }

    /// The turn that is not over yet.
    pub fn running_turn(&self) -> Option<&Turn> {
        self.running.as_ref().and_then(|_| self.turns.back())
    }

    /// The latest turn.
    pub fn last_turn(&self) -> Option<&Turn> {
        self.turns.back()
    }

    /// How many steps of the running turn are written: the number of the next one.
    pub fn steps_written(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.steps)
    }

    /// Somebody says something. Only when no turn is running.
    pub fn said(&mut self, text: &str) -> Vec<Effect> {
        self.running = Some(Running::default());
        let mut effects = Vec::new();
        if self.turns.len() >= TURNS_MAX
            && let Some(oldest) = self.turns.front()
        {
            effects.push(Effect::Drop(oldest.id));
        }
        effects.push(Effect::Write(FlowStep::UserQueryReceived {
            text: text.to_owned(),
        }));
        effects.push(self.begin(text));
        effects
    }

    fn begin(&self, text: &str) -> Effect {
        let context = PlanContext {
            earlier: self.earlier.clone(),
            follows_up: false,
        };
        let fill = |server: &str, tool: &str, question: &str, arguments: Arguments, missing: Vec<String>| {
            Effect::Fill(Box::new(FillTask {
                server: server.to_owned(),
                tool: tool.to_owned(),
                question: question.to_owned(),
                reply: text.to_owned(),
                arguments,
                missing,
                context: context.clone(),
            }))
        };
        match &self.pending {
            Some(Pending::Arguments {
                route,
                question,
                missing,
            }) => {
                let arguments = route.arguments.as_object().cloned().unwrap_or_default();
                fill(&route.server, &route.tool, question, arguments, missing.clone())
            }
            Some(Pending::Choice { candidates, question }) => match chosen(text, candidates) {
                Some(candidate) => fill(
                    &candidate.server,
                    &candidate.tool,
                    question,
                    Arguments::new(),
                    Vec::new(),
                ),
                None => self.route(text),
            },
            None => self.route(text),
        }
    }

    /// A question, or one that goes on from the last: then the same tool is filled anew.
    fn route(&self, text: &str) -> Effect {
        let last = self
            .turns
            .iter()
            .rev()
            .find(|turn| turn.status == TurnStatus::Answered);
        if let Some(route) = last
            .and_then(|turn| turn.route.as_ref())
            .filter(|_| is_follow_up(text))
        {
            return Effect::Fill(Box::new(FillTask {
                server: route.server.clone(),
                tool: route.tool.clone(),
                question: text.to_owned(),
                reply: text.to_owned(),
                arguments: Arguments::new(),
                missing: Vec::new(),
                context: PlanContext {
                    earlier: route.arguments.as_object().cloned().unwrap_or_default(),
                    follows_up: true,
                },
            }));
        }
        let context = PlanContext {
            earlier: self.earlier.clone(),
            follows_up: false,
        };
        Effect::Route {
            question: text.to_owned(),
            context,
        }
    }

    /// What was said is no answer to what was asked: it is a question of its own.
    pub fn not_an_answer(&mut self) -> Vec<Effect> {
        self.pending = None;
        let Some(turn) = self.running_turn() else {
            return Vec::new();
        };
        let context = PlanContext {
            earlier: self.earlier.clone(),
            follows_up: false,
        };
        vec![Effect::Route {
            question: turn.question.clone(),
            context,
        }]
    }

    /// Tool and arguments were chosen, or not.
    pub fn routed(&mut self, routed: Routed) -> Vec<Effect> {
        let Some(running) = self.running.as_mut() else {
            return Vec::new();
        };
        match routed {
            Routed::Call {
                route,
                safe_to_repeat,
                note,
            } => {
                running.safe_to_repeat = safe_to_repeat;
                running.note = note;
                let (server, tool) = (route.server.clone(), route.tool.clone());
                let arguments = route.arguments.clone();
                let values = arguments.as_object().cloned().unwrap_or_default();
                vec![
                    Effect::Write(FlowStep::RouteChosen { route }),
                    Effect::Write(FlowStep::McpCallStarted {
                        server: server.clone(),
                        tool: tool.clone(),
                        arguments,
                        safe_to_repeat,
                    }),
                    Effect::Call {
                        server,
                        tool,
                        arguments: values,
                    },
                ]
            }
            Routed::Missing {
                route,
                names,
                question,
            } => vec![
                Effect::Write(FlowStep::RouteChosen { route }),
                finish(TurnStatus::ArgumentNeeded, question, names, None),
            ],
            Routed::Refused { route, reason } => {
                let problem = Problem::new(Code::ArgumentsInvalid, reason.clone());
                let text = format!("{}/{} fits, but {reason}.", route.server, route.tool);
                vec![
                    Effect::Write(FlowStep::RouteChosen { route }),
                    finish(TurnStatus::Failed, text, Vec::new(), Some(problem)),
                ]
            }
            Routed::NoCall {
                route,
                decision,
                offered,
            } => {
                let text = answer::of_no_call(decision, &offered);
                let status = if decision == Decision::Ask {
                    TurnStatus::ArgumentNeeded
                } else {
                    TurnStatus::NothingFits
                };
                let mut effects: Vec<Effect> = route
                    .map(|route| Effect::Write(FlowStep::RouteChosen { route }))
                    .into_iter()
                    .collect();
                effects.push(finish(status, text, Vec::new(), None));
                effects
            }
        }
    }

    /// The call brought a result.
    pub fn call_answered(&mut self, result: Value, duration_ms: u64) -> Vec<Effect> {
        let Some(running) = &self.running else {
            return Vec::new();
        };
        let mut text = answer::of_result(&result);
        if let Some(note) = &running.note {
            text.push_str(&format!("\n\n(Note: {note}.)"));
        }
        let status = if answer::is_error(&result) {
            TurnStatus::Failed
        } else {
            TurnStatus::Answered
        };
        vec![
            Effect::Write(FlowStep::McpResponseReady {
                result: kept(result, &text),
                duration_ms,
            }),
            finish(status, text, Vec::new(), None),
        ]
    }

    /// The call brought no result. It is made once more where that is safe.
    pub fn call_failed(&mut self, failure: CallFailure) -> Vec<Effect> {
        let Some(running) = self.running.as_mut() else {
            return Vec::new();
        };
        let Some(call) = self.turns.back().and_then(|turn| turn.calls.last()) else {
            return Vec::new();
        };
        let is_safe = running.safe_to_repeat || !failure.may_have_had_effects;
        if failure.is_retryable && is_safe && running.attempts == 0 {
            running.attempts += 1;
            return vec![call_again(call)];
        }
        let may_have_had_effects = failure.may_have_had_effects && !running.safe_to_repeat;
        let text = answer::of_failure(&call.server, &call.tool, &failure.problem, may_have_had_effects);
        vec![
            Effect::Write(FlowStep::McpCallFailed {
                problem: failure.problem.clone(),
                may_have_had_effects,
            }),
            finish(TurnStatus::Failed, text, Vec::new(), Some(failure.problem)),
        ]
    }

    /// The work of the turn panicked.
    pub fn work_panicked(&mut self) -> Vec<Effect> {
        let Some(turn) = self.running_turn() else {
            return Vec::new();
        };
        let problem = Problem::new(Code::Internal, "the work on this question panicked");
        let is_safe = self
            .running
            .as_ref()
            .is_some_and(|running| running.safe_to_repeat);
        let mut text = "This failed inside the node; its trace says where.".to_owned();
        if turn.status == TurnStatus::Calling && !is_safe {
            text.push_str(" The tool may have been at work all the same: check before you ask again.");
        }
        vec![finish(TurnStatus::Failed, text, Vec::new(), Some(problem))]
    }

    /// Somebody no longer wants the answer.
    pub fn cancelled(&mut self) -> Vec<Effect> {
        let Some(turn) = self.running_turn() else {
            return Vec::new();
        };
        let is_calling = turn.status == TurnStatus::Calling;
        let is_safe = self
            .running
            .as_ref()
            .is_some_and(|running| running.safe_to_repeat);
        let text = if is_calling && !is_safe {
            "Cancelled. The tool was told to stop; it may have been at work already."
        } else {
            "Cancelled."
        };
        vec![
            Effect::Abort,
            finish(TurnStatus::Cancelled, text.to_owned(), Vec::new(), None),
        ]
    }

    /// The node stopped in the middle of a turn: goes on where that is safe, reports where it is not.
    pub fn resume(&mut self) -> Vec<Effect> {
        let Some(running) = &self.running else {
            return Vec::new();
        };
        let Some(turn) = self.turns.back() else {
            return Vec::new();
        };
        let question = turn.question.clone();
        match (turn.status, turn.calls.last()) {
            (TurnStatus::Calling, Some(call)) if call.result.is_some() || turn.problem.is_some() => {
                // The outcome is written, the answer is not.
                match (&call.result, &turn.problem) {
                    (Some(result), _) => {
                        let status = if call.failed {
                            TurnStatus::Failed
                        } else {
                            TurnStatus::Answered
                        };
                        vec![finish(status, answer::of_result(result), Vec::new(), None)]
                    }
                    (None, problem) => {
                        let problem = problem.clone().unwrap_or_else(interrupted);
                        let text = answer::of_failure(&call.server, &call.tool, &problem, false);
                        vec![finish(TurnStatus::Failed, text, Vec::new(), Some(problem))]
                    }
                }
            }
            (TurnStatus::Calling, Some(call)) if running.safe_to_repeat => vec![call_again(call)],
            (TurnStatus::Calling, Some(call)) => {
                let problem = interrupted();
                let text = answer::of_failure(&call.server, &call.tool, &problem, true);
                vec![
                    Effect::Write(FlowStep::McpCallFailed {
                        problem: problem.clone(),
                        may_have_had_effects: true,
                    }),
                    finish(TurnStatus::Failed, text, Vec::new(), Some(problem)),
                ]
            }
            _ => vec![self.begin_again(&question)],
        }
    }

    /// From the question on: nothing had been called yet.
    fn begin_again(&self, question: &str) -> Effect {
        let context = PlanContext {
            earlier: self.earlier.clone(),
            follows_up: false,
        };
        Effect::Route {
            question: question.to_owned(),
            context,
        }
    }

    /// Forgets the oldest turn.
    pub fn drop_oldest(&mut self) {
        self.turns.pop_front();
    }
}

/// The candidate that a reply names: by its place in the list, or by its tool's name.
fn chosen<'a>(reply: &str, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
    let reply = reply.trim().trim_end_matches('.').to_lowercase();
    if let Ok(place) = reply.parse::<usize>() {
        return candidates.get(place.checked_sub(1)?);
    }
    candidates.iter().find(|candidate| {
        let tool = candidate.tool.to_lowercase();
        reply == tool || reply == format!("{}/{tool}", candidate.server)
    })
}

fn is_follow_up(text: &str) -> bool {
    let lower = text.trim().to_lowercase();
    let is_short = lower.split_whitespace().count() <= FOLLOW_UP_WORDS_MAX;
    is_short
        && FOLLOW_UP_OPENINGS
            .iter()
            .any(|opening| lower.starts_with(opening))
}

fn finish(status: TurnStatus, text: String, missing: Vec<String>, problem: Option<Problem>) -> Effect {
    Effect::Write(FlowStep::AnswerReady {
        status,
        text,
        missing,
        problem,
    })
}

fn call_again(call: &ToolCall) -> Effect {
    Effect::Call {
        server: call.server.clone(),
        tool: call.tool.clone(),
        arguments: call.arguments.as_object().cloned().unwrap_or_default(),
    }
}

fn interrupted() -> Problem {
    Problem::new(Code::UpstreamDied, "the node stopped while the tool was at work")
}

/// A result that is too large is kept as what the answer says of it.
fn kept(result: Value, answer: &str) -> Value {
    let bytes = result.to_string().len();
    if bytes <= RESULT_BYTES_MAX {
        return result;
    }
    serde_json::json!({
        "content": [{"type": "text", "text": answer}],
        "isError": answer::is_error(&result),
        "_meta": {"troupe/result_bytes": bytes},
    })
}

#[cfg(test)]
mod tests;
