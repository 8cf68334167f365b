//! The choice itself: ranking, which of the best can be filled, decision, arguments. No I/O but the planner's.

use std::sync::Arc;
use std::time::Duration;

use troupe_protocol::routing::{Candidate, Decision, Route};

use super::index::document::ToolDocument;
use super::planner::{Filled, Plan, PlanContext, PlanRequest, Planner, rules};
use super::selection::{self, Ranked};

/// Candidates whose score is at least this share of the best are tried with the rules: whether its arguments are in the
/// question says much about whether a tool is meant.
const CONTENDER_SHARE: f32 = 0.6;
/// Candidates below this confidence are not tried.
const CONTENDER_CONFIDENCE_MIN: f32 = 0.04;
/// Most candidates that are tried.
const CONTENDERS_MAX: usize = 8;
/// What a tool gains in score when all its required arguments are in the question …
const FILLABLE_BONUS: f32 = 0.15;
/// … and for each argument that was found there.
const ARGUMENT_BONUS: f32 = 0.08;
/// The best score that a tool can have then: what is shown is a share of it.
const SCORE_MAX: f32 = 1.0 + FILLABLE_BONUS + ARGUMENTS_COUNTED as f32 * ARGUMENT_BONUS;
/// What that is worth as evidence that the tool is meant, in logits …
const FILLABLE_EVIDENCE: f32 = 0.8;
/// … what an SQL statement is worth for a tool that takes one …
const STATEMENT_EVIDENCE: f32 = 3.0;
/// … and what it says when a required argument is missing.
const MISSING_EVIDENCE: f32 = -0.2;
/// What a tool loses in score when the question asks to see something and the tool says that it changes something.
const CHANGES_PENALTY: f32 = 0.3;
/// A registered tool goes before a built-in one if it is at least this much as likely.
const YIELD_SHARE: f32 = 0.6;
/// Arguments beyond are not counted.
const ARGUMENTS_COUNTED: usize = 3;
/// Candidates in an explanation.
const EXPLAINED_CANDIDATES: usize = 5;

/// What came of a question.
#[derive(Debug, Clone)]
pub struct Routing {
    /// What was decided.
    pub decision: Decision,
    /// The chosen tool; the nearest when none is called.
    pub tool: Option<Arc<ToolDocument>>,
    /// Its arguments, when it is to be called.
    pub plan: Option<Plan>,
    /// All that was considered, best first.
    pub candidates: Vec<Candidate>,
    /// The reasons.
    pub why: String,
}

impl Routing {
    /// As it is shown and kept; nothing when there is no tool at all.
    pub fn to_route(&self) -> Option<Route> {
        let tool = self.tool.as_ref()?;
        let empty = Filled::default();
        let filled = match &self.plan {
            Some(Plan::Filled(filled) | Plan::Missing { filled, .. }) => filled,
            Some(Plan::Refused { .. }) | None => &empty,
        };
        let mut why = self.why.clone();
        if let Some(note) = &filled.note {
            why.push_str(&format!(" Note: {note}."));
        }
        Some(Route {
            server: tool.server.to_string(),
            tool: tool.name.clone(),
            arguments: serde_json::Value::Object(filled.arguments.clone()),
            confidence: self
                .candidates
                .first()
                .map_or(0.0, |candidate| candidate.confidence),
            decision: self.decision,
            candidates: self.candidates.clone(),
            planner: filled.planner,
            sources: filled.sources.clone(),
            why,
        })
    }
}

/// The question and what is known beside it.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The question.
    pub question: &'a str,
    /// What is known beside it.
    pub context: &'a PlanContext,
    /// The present moment.
    pub now: &'a jiff::Zoned,
    /// How long the planner may take.
    pub within: Duration,
}

/// Chooses among ranked tools and fills the chosen one's arguments.
pub async fn choose(ranked: Vec<Ranked>, request: RouteRequest<'_>, planner: &dyn Planner) -> Routing {
    let ranked = settle(ranked, request);
    let decision = selection::decide(&ranked);
    let tool = ranked.first().map(|first| Arc::clone(&first.tool));
    let plan = match (&tool, decision) {
        (Some(tool), Decision::Call) => {
            let within = request.within;
            let RouteRequest {
                question,
                context,
                now,
                ..
            } = request;
            Some(
                planner
                    .fill(PlanRequest {
                        question,
                        tool,
                        context,
                        now,
                        within,
                    })
                    .await,
            )
        }
        _ => None,
    };
    let why = explain(&ranked, decision);
    let candidates = ranked
        .iter()
        .take(EXPLAINED_CANDIDATES)
        .map(Ranked::to_candidate)
        .collect();
    Routing {
        decision,
        tool,
        plan,
        candidates,
        why,
    }
}

/// A ranked tool and what the rules find for it in the question.
struct Contender {
    ranked: Ranked,
    /// How many arguments were found, if all required ones were.
    filled: Option<usize>,
}

/// Moves up the contenders whose arguments are in the question.
fn settle(ranked: Vec<Ranked>, request: RouteRequest<'_>) -> Vec<Ranked> {
    let Some(best) = ranked.first().map(|first| first.score) else {
        return ranked;
    };
    let weigh = |(place, ranked): (usize, Ranked)| {
        let is_contender = place < CONTENDERS_MAX
            && ranked.score >= best * CONTENDER_SHARE
            && ranked.confidence >= CONTENDER_CONFIDENCE_MIN;
        if is_contender {
            weighed(ranked, request)
        } else {
            Contender { ranked, filled: None }
        }
    };
    let mut contenders: Vec<Contender> = ranked.into_iter().enumerate().map(weigh).collect();
    contenders
        .iter_mut()
        .for_each(|contender| contender.ranked.score /= SCORE_MAX);
    contenders.sort_by(|a, b| b.ranked.score.total_cmp(&a.ranked.score));
    yield_to_others(&mut contenders);
    contenders.into_iter().map(|contender| contender.ranked).collect()
}

/// A built-in tool lets a registered one go first that fits about as well and has its arguments.
fn yield_to_others(contenders: &mut [Contender]) {
    let Some(first) = contenders.first().filter(|first| first.ranked.yields) else {
        return;
    };
    let fits_as_well = |other: &Contender| {
        !other.ranked.yields
            && other
                .filled
                .is_some_and(|found| found >= first.filled.unwrap_or(0))
            && other.ranked.confidence
                >= selection::CALL_CONFIDENCE_MIN.max(first.ranked.confidence * YIELD_SHARE)
    };
    if let Some(place) = contenders.iter().position(fits_as_well) {
        contenders[..=place].rotate_right(1);
    }
}

fn weighed(mut ranked: Ranked, request: RouteRequest<'_>) -> Contender {
    let RouteRequest {
        question,
        context,
        now,
        within,
    } = request;
    let bonus = |found: usize| found.min(ARGUMENTS_COUNTED) as f32 * ARGUMENT_BONUS;
    let plan = rules::plan(PlanRequest {
        question,
        tool: &ranked.tool,
        context,
        now,
        within,
    });
    let (score, evidence, filled) = match plan {
        Plan::Filled(filled) => {
            let found = found_in_question(&filled);
            (
                FILLABLE_BONUS + bonus(found),
                evidence(&filled, found),
                Some(found),
            )
        }
        Plan::Missing { filled, .. } => (bonus(found_in_question(&filled)) / 2.0, MISSING_EVIDENCE, None),
        Plan::Refused { .. } => (0.0, MISSING_EVIDENCE, None),
    };
    ranked.score += score;
    ranked.confidence = selection::with_evidence(ranked.confidence, evidence);
    if asks_to_see(question) && ranked.tool.hints.says_it_changes {
        ranked.score -= CHANGES_PENALTY;
    }
    Contender { ranked, filled }
}

fn evidence(filled: &Filled, found: usize) -> f32 {
    let has_statement = filled
        .sources
        .iter()
        .any(|source| source.found.contains("SQL statement"));
    match found {
        0 => 0.0,
        _ if has_statement => STATEMENT_EVIDENCE,
        _ => FILLABLE_EVIDENCE,
    }
}

/// Whether the question begins like a wish to see, not to change.
fn asks_to_see(question: &str) -> bool {
    const OPENINGS: [&str; 13] = [
        "show", "list", "what", "what's", "which", "who", "when", "where", "how", "display", "view",
        "describe", "is",
    ];
    let first = question
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_lowercase();
    OPENINGS.contains(&first.trim_matches(|c: char| !c.is_alphanumeric() && c != '\''))
}

/// Arguments that stand in the question itself; defaults and what was said earlier are no sign of what is meant now.
fn found_in_question(filled: &Filled) -> usize {
    let is_in_question = |found: &str| {
        !found.contains("default") && !found.contains("earlier") && !found.contains("only value")
    };
    filled
        .sources
        .iter()
        .filter(|source| is_in_question(&source.found))
        .count()
}

fn explain(ranked: &[Ranked], decision: Decision) -> String {
    let Some(first) = ranked.first() else {
        return "No tool has a word or a meaning in common with the question.".to_owned();
    };
    let name = format!("{}/{}", first.tool.server, first.tool.name);
    let signals = match first.dense {
        Some(cosine) => format!("words {:.2}, meaning {cosine:.2}", first.lexical),
        None => format!("words {:.2}, no model for meaning", first.lexical),
    };
    let sureness = format!("{:.0} % sure", first.confidence * 100.0);
    let ahead = match ranked.get(1) {
        Some(second) => format!(
            ", ahead of {}/{} by {:.2}",
            second.tool.server,
            second.tool.name,
            first.score - second.score
        ),
        None => String::new(),
    };
    match decision {
        Decision::Call => format!("{name} fits best ({signals}; {sureness}){ahead}."),
        Decision::Ask => format!(
            "{name} fits ({signals}; {sureness}), but another fits as well and the call may change something."
        ),
        Decision::OfferNearest => {
            format!("{name} comes nearest ({signals}), but too far to call it unasked ({sureness}).")
        }
        Decision::Nothing => format!("Nothing fits; {name} is the nearest ({signals}; {sureness})."),
    }
}

#[cfg(test)]
mod tests;
