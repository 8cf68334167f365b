//! Fills a tool's arguments from a question.
//!
//! Which tool to call is not decided here (`selection` does); whether one can be filled at all may settle a tie.
//!
//! # Layout
//! - [`schema`]: a tool's JSON Schema as a list of parameters; validation of arguments
//! - [`rules`]: the built-in planner, which follows the schema and never guesses
//! - [`endpoint`]: an OpenAI-compatible chat endpoint, where one is configured; falls back to the rules

pub mod endpoint;
pub mod rules;
pub mod schema;

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use troupe_protocol::routing::{ArgumentSource, PlannerKind};

use super::index::document::ToolDocument;

/// The arguments of a call, by name.
pub type Arguments = Map<String, Value>;

/// What is known beside the question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanContext {
    /// Arguments of earlier turns of the conversation, the latest value of each name.
    pub earlier: Arguments,
    /// Whether the question goes on from the turn before ("and in Paris?"): then its arguments hold for optional
    /// ones too, and the question may leave out what it had said.
    pub follows_up: bool,
}

/// A tool to be filled from a question.
#[derive(Debug, Clone, Copy)]
pub struct PlanRequest<'a> {
    /// The question.
    pub question: &'a str,
    /// The tool.
    pub tool: &'a ToolDocument,
    /// What else is known.
    pub context: &'a PlanContext,
    /// The present moment, in the zone of whoever asks.
    pub now: &'a jiff::Zoned,
    /// How long it may take.
    pub within: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// All required arguments are there and the schema accepts them.
    Filled(Filled),
    /// Required arguments are not in the question.
    Missing {
        /// What could be filled.
        filled: Filled,
        /// The missing ones.
        names: Vec<String>,
        /// How to ask for them.
        question: String,
    },
    /// The tool cannot be called for this question.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Arguments and where they came from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filled {
    /// The arguments.
    pub arguments: Arguments,
    /// Where each came from.
    pub sources: Vec<ArgumentSource>,
    /// Something people should see, as "the configured endpoint did not answer; filled by rules".
    pub note: Option<String>,
    /// Who filled them.
    pub planner: PlannerKind,
}

/// Fills arguments.
pub trait Planner: Send + Sync {
    /// Which planner this is.
    fn kind(&self) -> PlannerKind;

    /// Fills the tool's arguments. Never fails: what goes wrong falls back to rules or is refused.
    fn fill<'a>(&'a self, request: PlanRequest<'a>) -> BoxFuture<'a, Plan>;
}
