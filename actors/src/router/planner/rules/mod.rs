//! The built-in planner: follows the tool's schema and takes only what the question says.
//!
//! It never guesses: an optional argument is left out unless the question supports it, a required one that is not in
//! the question is asked for. Simple requests to simple tools are what it is good at; messy ones are what a configured
//! endpoint is for.
//!
//! # Layout
//! - [`entities`]: what the question mentions, with [`place`] and [`moment`]
//! - [`role`]: what a parameter wants, by its name, format and description
//! - [`text`]: free text: the word beside "table", what follows "search for"
//! - `filler`: parameter by parameter, each mention used once
//! - here: the plan as a whole, and how to ask for what is missing

pub mod entities;
mod filler;
pub mod moment;
pub mod pattern;
pub mod place;
pub mod role;
pub mod text;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use troupe_protocol::routing::PlannerKind;

use super::schema::{self, Parameter, ValueKind};
use super::{Filled, Plan, PlanRequest, Planner};
use crate::router::index::analysis;
use filler::Filler;
use role::Role;

/// The planner that is always there.
#[derive(Debug, Clone, Copy, Default)]
pub struct RulesPlanner;

impl Planner for RulesPlanner {
    fn kind(&self) -> PlannerKind {
        PlannerKind::Rules
    }

    fn fill<'a>(&'a self, request: PlanRequest<'a>) -> BoxFuture<'a, Plan> {
        Box::pin(async move { plan(request) })
    }
}

/// Fills by rules; takes microseconds.
pub fn plan(request: PlanRequest<'_>) -> Plan {
    let parameters = schema::parameters(&request.tool.input_schema);
    let mut filler = Filler::new(request);
    // Whoever knows best what it looks for chooses first: a URL before "any text".
    let mut order: Vec<(Role, &Parameter<'_>)> = parameters
        .iter()
        .map(|p| (role::of(p, request.tool), p))
        .collect();
    order.sort_by_key(|(role, parameter)| (role.generality(), !parameter.required));
    let mut missing: Vec<&Parameter<'_>> = Vec::new();
    for (role, parameter) in order {
        if !filler.fill(role, parameter, &parameters) && parameter.required {
            missing.push(parameter);
        }
    }
    let mut filled = filler.into_filled();
    in_schema_order(&mut filled, &parameters);
    if !missing.is_empty() {
        let names = missing
            .iter()
            .map(|parameter| parameter.name.to_owned())
            .collect();
        return Plan::Missing {
            filled,
            names,
            question: ask_for(&missing),
        };
    }
    let faults = schema::faults(&request.tool.input_schema, &filled.arguments);
    if faults.is_empty() {
        return Plan::Filled(filled);
    }
    Plan::Refused {
        reason: format!(
            "the arguments found in the question do not fit the tool: {}",
            faults.join("; ")
        ),
    }
}

/// Reads a person's reply to [`ask_for`] as the value of one parameter.
pub fn read_reply(request: PlanRequest<'_>, name: &str) -> Option<Value> {
    let parameters = schema::parameters(&request.tool.input_schema);
    let parameter = parameters.iter().find(|parameter| parameter.name == name)?;
    let reply = request.question.trim();
    let mut filler = Filler::new(request);
    if filler.fill(role::of(parameter, request.tool), parameter, &parameters) {
        return filler.filled.arguments.get(name).cloned();
    }
    let plain = reply.trim_matches(['"', '\'', '`', '.', ' ']);
    match parameter.kind {
        ValueKind::Text | ValueKind::Other if !plain.is_empty() && parameter.choices.is_empty() => {
            Some(json!(plain))
        }
        ValueKind::Array if !plain.is_empty() => Some(Value::Array(
            plain.split(',').map(|item| json!(item.trim())).collect(),
        )),
        ValueKind::Boolean => match plain.to_lowercase().as_str() {
            "yes" | "y" | "true" | "on" => Some(json!(true)),
            "no" | "n" | "false" | "off" => Some(json!(false)),
            _ => None,
        },
        _ => None,
    }
}

fn in_schema_order(filled: &mut Filled, parameters: &[Parameter<'_>]) {
    let place = |name: &str| parameters.iter().position(|parameter| parameter.name == name);
    filled.sources.sort_by_key(|source| place(&source.argument));
    let mut pairs: Vec<(String, Value)> = std::mem::take(&mut filled.arguments).into_iter().collect();
    pairs.sort_by_key(|(name, _)| place(name));
    filled.arguments = pairs.into_iter().collect();
}

/// How to ask for these parameters.
pub fn ask_for_names(input_schema: &Value, names: &[String]) -> String {
    let parameters = schema::parameters(input_schema);
    let missing: Vec<&Parameter<'_>> = parameters
        .iter()
        .filter(|parameter| names.iter().any(|name| name == parameter.name))
        .collect();
    ask_for(&missing)
}

fn ask_for(missing: &[&Parameter<'_>]) -> String {
    let wanted: Vec<String> = missing.iter().map(|parameter| described(parameter)).collect();
    match wanted.as_slice() {
        [one] => format!("I need one more thing: {one}."),
        several => format!("I need a few more things: {}.", several.join("; ")),
    }
}

fn described(parameter: &Parameter<'_>) -> String {
    let name = analysis::spaced(parameter.name).to_lowercase();
    let mut text = format!("the {name}");
    let description = parameter.description.trim().trim_end_matches('.');
    if !description.is_empty() && description.len() <= 200 {
        text.push_str(&format!(" ({description})"));
    }
    if !parameter.choices.is_empty() && parameter.choices.len() <= 8 {
        let choices: Vec<String> = parameter.choices.iter().map(|choice| plain(choice)).collect();
        text.push_str(&format!(", one of {}", choices.join(", ")));
    }
    text
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
