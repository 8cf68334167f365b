//! Tools found, chosen and explained.
//!
//! What the router says about its choices: to the conversation that acts on them, and to the people who ask why.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

/// A tool that fits a question, with the scores that say how well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ToolMatch {
    /// The server that offers the tool.
    pub server: String,
    /// The tool's name on that server.
    pub tool: String,
    /// The tool's title, where it has one.
    pub title: Option<String>,
    /// What the tool does, in its author's words.
    pub description: String,
    /// The JSON Schema of its arguments.
    #[ts(type = "unknown")]
    pub input_schema: Value,
    /// The fused score that ranks the matches: comparable within one search only.
    pub score: f32,
    /// The share of the best lexical score of this search, from 0 to 1.
    pub lexical_score: f32,
    /// How near the meanings are (the cosine), from 0 to 1; absent while no embedding model is ready.
    pub dense_score: Option<f32>,
}

/// A tool that was considered, as it appears in the explanation of a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Candidate {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The fused score.
    pub score: f32,
    /// The lexical part, from 0 to 1.
    pub lexical_score: f32,
    /// The cosine, where there is one.
    pub dense_score: Option<f32>,
    /// How likely the tool fits the question, from 0 to 1.
    pub confidence: f32,
}

/// What follows from the candidates' scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum Decision {
    /// The first candidate fits: call it.
    Call,
    /// Several fit about equally and the first would change something: ask which one is meant.
    Ask,
    /// None fits well, some come near: offer the nearest.
    OfferNearest,
    /// None fits.
    Nothing,
}

/// Who filled the arguments in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, TS, ToSchema, strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum PlannerKind {
    /// The built-in rules, which follow the tool's schema.
    #[default]
    Rules,
    /// The configured OpenAI-compatible endpoint.
    Endpoint,
}

/// Where the value of an argument came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ArgumentSource {
    /// The argument.
    pub argument: String,
    /// How its value was found, as `place "Tokyo" → Asia/Tokyo`.
    pub found: String,
}

/// Server and tool that were chosen, with arguments and reasons.
///
/// When the decision is not to call, server and tool are the nearest ones and the arguments are empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Route {
    /// The chosen server.
    pub server: String,
    /// The chosen tool.
    pub tool: String,
    /// The arguments of the call.
    #[ts(type = "unknown")]
    pub arguments: Value,
    /// How likely the tool fits the question, from 0 to 1.
    pub confidence: f32,
    /// What was decided on the scores.
    pub decision: Decision,
    /// What was considered, best first.
    pub candidates: Vec<Candidate>,
    /// Who filled the arguments in.
    pub planner: PlannerKind,
    /// Where each argument came from.
    pub sources: Vec<ArgumentSource>,
    /// The reasons in one or two sentences.
    pub why: String,
}

/// How the model that compares meanings fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum ModelState {
    /// Being loaded; tools are found by their words meanwhile.
    Loading,
    /// Loaded.
    Ready,
    /// A file is missing; tools are found by their words only.
    Missing,
    /// It is there but could not be loaded; tools are found by their words only.
    Failed,
}

/// The state of the embedding model, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ModelStatus {
    /// Its state.
    pub state: ModelState,
    /// Which model from where; or what is missing and where to put it.
    pub detail: String,
}

/// The state of the tool index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct IndexStatus {
    /// Servers whose tools are indexed.
    pub servers: u32,
    /// Tools that are indexed.
    pub tools: u32,
    /// Tools whose vector is computed.
    pub tools_embedded: u32,
    /// The embedding model.
    pub model: ModelStatus,
    /// The planner that is asked first.
    pub planner: PlannerKind,
}
