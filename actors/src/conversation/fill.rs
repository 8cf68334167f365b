//! Going on with a tool that was chosen in the turn before: what was asked for, what was picked, or the same once more
//! with something else. Pure but for the planner.

use std::time::Duration;

use jiff::Zoned;
use serde_json::Value;
use troupe_protocol::access::Principal;
use troupe_protocol::routing::{ArgumentSource, Candidate, Decision, PlannerKind, Route};

use super::state::{FillTask, Routed};
use crate::router::RouterHandle;
use crate::router::index::document::ToolDocument;
use crate::router::planner::rules::{self, ask_for_names};
use crate::router::planner::{Arguments, Filled, Plan, PlanRequest, Planner, schema};
use crate::router::route::Routing;

/// What the task comes to; nothing when what was said does not go on from before.
pub async fn go_on(
    task: &FillTask,
    tool: &ToolDocument,
    planner: &dyn Planner,
    now: &Zoned,
    within: Duration,
) -> Option<Routed> {
    if !task.missing.is_empty() {
        return answered(task, tool, now);
    }
    let request = PlanRequest {
        question: &task.question,
        tool,
        context: &task.context,
        now,
        within,
    };
    let plan = planner.fill(request).await;
    if task.context.follows_up && !says_something_new(&plan) {
        return None;
    }
    let why = if task.context.follows_up {
        "The question goes on from the one before, so the same tool answers it."
    } else {
        "You picked this tool."
    };
    Some(routed(plan, tool, why))
}

/// A choice of tool with what came of filling it.
pub fn routed(plan: Plan, tool: &ToolDocument, why: &str) -> Routed {
    match plan {
        Plan::Filled(filled) => Routed::Call {
            note: filled.note.clone(),
            route: route(tool, filled, why),
            safe_to_repeat: tool.hints.is_safe_to_repeat(),
        },
        Plan::Missing {
            filled,
            names,
            question,
        } => Routed::Missing {
            route: route(tool, filled, why),
            names,
            question,
        },
        Plan::Refused { reason } => Routed::Refused {
            route: route(tool, Filled::default(), why),
            reason,
        },
    }
}

/// What a routing means for the conversation.
pub fn interpret(routing: Routing, router: &RouterHandle, principal: &Principal) -> Routed {
    let route = routing.to_route();
    match (routing.plan, routing.tool, route) {
        (Some(plan), Some(tool), Some(route)) => match routed(plan, &tool, &routing.why) {
            Routed::Call {
                safe_to_repeat, note, ..
            } => Routed::Call {
                route,
                safe_to_repeat,
                note,
            },
            Routed::Missing { names, question, .. } => Routed::Missing {
                route,
                names,
                question,
            },
            Routed::Refused { reason, .. } => Routed::Refused { route, reason },
            none @ Routed::NoCall { .. } => none,
        },
        (_, _, route) => {
            let described = |candidate: Candidate| {
                let tool = router.tool(&candidate.server, &candidate.tool, principal);
                let description = tool.map(|tool| tool.description.clone()).unwrap_or_default();
                (candidate, description)
            };
            let offered = routing.candidates.into_iter().map(described).collect();
            let decision = if routing.decision == Decision::Call {
                Decision::Nothing
            } else {
                routing.decision
            };
            Routed::NoCall {
                route,
                decision,
                offered,
            }
        }
    }
}

/// Reads a reply as the arguments that were asked for.
fn answered(task: &FillTask, tool: &ToolDocument, now: &Zoned) -> Option<Routed> {
    let request = |question| PlanRequest {
        question,
        tool,
        context: &task.context,
        now,
        within: Duration::ZERO,
    };
    let reply = task.reply.trim();
    if is_refusal(reply) || reply.ends_with('?') {
        return None;
    }
    let mut found: Arguments = match rules::plan(request(reply)) {
        Plan::Filled(filled) | Plan::Missing { filled, .. } if task.missing.len() > 1 => filled
            .arguments
            .into_iter()
            .filter(|(name, _)| task.missing.contains(name))
            .collect(),
        _ => Arguments::new(),
    };
    if found.is_empty() {
        let first = task.missing.first()?;
        found.insert(first.clone(), rules::read_reply(request(reply), first)?);
    }
    let mut sources: Vec<ArgumentSource> = Vec::new();
    let mut arguments = task.arguments.clone();
    for (name, value) in found {
        sources.push(ArgumentSource {
            argument: name.clone(),
            found: format!("you said {}", shown(&value)),
        });
        arguments.insert(name, value);
    }
    let missing: Vec<String> = task
        .missing
        .iter()
        .filter(|name| !arguments.contains_key(*name))
        .cloned()
        .collect();
    let filled = Filled {
        arguments,
        sources,
        note: None,
        planner: PlannerKind::Rules,
    };
    let why = "You answered what was asked for.";
    if !missing.is_empty() {
        let question = ask_for_names(&tool.input_schema, &missing);
        return Some(Routed::Missing {
            route: route(tool, filled, why),
            names: missing,
            question,
        });
    }
    let faults = schema::faults(&tool.input_schema, &filled.arguments);
    if faults.is_empty() {
        return Some(routed(Plan::Filled(filled), tool, why));
    }
    // Asked once more, with what is wrong.
    let names = task.missing.clone();
    let question = format!(
        "That does not fit: {}. {}",
        faults.join("; "),
        ask_for_names(&tool.input_schema, &names)
    );
    let kept = Filled {
        arguments: task.arguments.clone(),
        ..Filled::default()
    };
    Some(Routed::Missing {
        route: route(tool, kept, why),
        names,
        question,
    })
}

fn route(tool: &ToolDocument, filled: Filled, why: &str) -> Route {
    Route {
        server: tool.server.to_string(),
        tool: tool.name.clone(),
        arguments: Value::Object(filled.arguments),
        confidence: 1.0,
        decision: Decision::Call,
        candidates: Vec::new(),
        planner: filled.planner,
        sources: filled.sources,
        why: why.to_owned(),
    }
}

/// Whether a plan took anything from the question itself.
fn says_something_new(plan: &Plan) -> bool {
    let (Plan::Filled(filled) | Plan::Missing { filled, .. }) = plan else {
        return false;
    };
    filled
        .sources
        .iter()
        .any(|source| !source.found.contains("earlier") && !source.found.contains("default"))
}

fn is_refusal(reply: &str) -> bool {
    let reply = reply.trim_end_matches(['.', '!']).to_lowercase();
    matches!(
        reply.as_str(),
        "never mind" | "nevermind" | "cancel" | "stop" | "forget it" | "nothing"
    )
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), |text| format!("\"{text}\""))
}
