//! Looking at actors and traces, and controlling actors.

use std::time::Duration;

use axum::{Json, extract::State};
use troupe_actors::runtime::Deadline;
use troupe_protocol::{
    api::{ActorCommandRequest, ActorCommandResponse, Page, PageQuery},
    error::Code,
    id::{ActorId, ActorPath, CorrelationId, NodeId},
    observe::{ActorCommand, ActorDetail, ActorReport, ActorTree, DeadLetters},
    trace::{Trace, TraceSummary},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{
    ApiError, ApiPath, ApiQuery, ApiResult, Caller, EdgeState,
    everywhere::{self, Located, Scope, as_it_is, joined, located, whole_list},
    extract::OptionalJson,
};

/// How long an actor may take to tell its state before its last known one is shown.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_millis(500);
const TRACES_MAX: usize = 1_000;
const DEAD_LETTERS_MAX: usize = 1_000;

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_actors))
        .routes(routes!(actor_tree))
        .routes(routes!(show_actor))
        .routes(routes!(command_actor))
        .routes(routes!(list_traces))
        .routes(routes!(show_trace))
        .routes(routes!(list_dead_letters))
}

/// All actors of all nodes with their figures.
#[utoipa::path(
    get, path = "/api/v1/actors", tag = "observation",
    params(("node" = Option<String>, Query, description = "a member's name or id, or all (the default)")),
    responses((status = 200, body = Page<ActorReport>))
)]
async fn list_actors(
    State(state): State<EdgeState>,
    caller: Caller,
    scope: Scope,
) -> Json<Page<ActorReport>> {
    let here = located(state.system.directory().reports(), state.node_id);
    let others = scope.ask_others(&state, &caller, as_it_is).await;
    Json(joined(here, others))
}

/// The supervision trees of all nodes.
#[utoipa::path(
    get, path = "/api/v1/actors/tree", tag = "observation",
    params(("node" = Option<String>, Query, description = "a member's name or id, or all (the default)")),
    responses((status = 200, body = Page<ActorTree>))
)]
async fn actor_tree(State(state): State<EdgeState>, caller: Caller, scope: Scope) -> Json<Page<ActorTree>> {
    let here = located(state.system.directory().tree(), state.node_id);
    let others = scope.ask_others(&state, &caller, as_it_is).await;
    Json(joined(here, others))
}

/// Everything about one actor, with its own account of its state.
#[utoipa::path(
    get, path = "/api/v1/actors/{id}", tag = "observation",
    params(
        ("id" = String, Path, description = "the actor's number, or its path with %2F for slashes"),
        ("node" = Option<String>, Query, description = "the name or id of the member it is on; this node by default"),
    ),
    responses((status = 200, body = ActorDetail))
)]
async fn show_actor(
    State(state): State<EdgeState>,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<Json<ActorDetail>> {
    let id = find(&state, &id)?;
    let mut detail = state
        .system
        .directory()
        .detail(id, Deadline::within(SNAPSHOT_TIMEOUT))
        .await?;
    detail.report.locate(state.node_id);
    Ok(Json(detail))
}

/// Restarts, suspends, resumes, drains or kills an actor.
#[utoipa::path(
    post, path = "/api/v1/actors/{id}/{command}", tag = "observation",
    params(
        ("id" = String, Path, description = "the actor's number, or its path with %2F for slashes"),
        ("command" = String, Path, description = "restart, suspend, resume, drain or kill"),
        ("node" = Option<String>, Query, description = "the name or id of the member it is on; this node by default"),
    ),
    request_body = ActorCommandRequest,
    responses((status = 200, body = ActorCommandResponse))
)]
async fn command_actor(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath((id, command)): ApiPath<(String, String)>,
    OptionalJson(request): OptionalJson<ActorCommandRequest>,
) -> ApiResult<Json<ActorCommandResponse>> {
    let command: ActorCommand = command.parse().map_err(|_| {
        let detail = format!("no command {command:?}; allowed: restart, suspend, resume, drain, kill");
        ApiError::new(Code::NotFound, detail)
    })?;
    let id = find(&state, &id)?;
    let directory = state.system.directory();
    let report = directory
        .report(id)
        .ok_or_else(|| unknown_actor(&id.to_string()))?;
    let ends_work = matches!(
        command,
        ActorCommand::Restart | ActorCommand::Drain | ActorCommand::Kill
    );
    if ends_work && request.confirm.as_deref() != Some(report.path.as_str()) {
        let detail = format!(
            "{command} ends work; send its path {:?} as `confirm`",
            report.path.as_str()
        );
        return Err(ApiError::new(Code::ConfirmationMissing, detail));
    }
    let below = format!("{}/", report.path);
    let children = directory
        .reports()
        .iter()
        .filter(|other| other.path.as_str().starts_with(&below))
        .count();
    let done = directory.command(id, command);
    state.audit(&caller, &format!("actor.{command}"), report.path.as_str(), &done);
    done?;
    Ok(Json(ActorCommandResponse {
        path: report.path,
        command,
        children: children as u32,
    }))
}

fn find(state: &EdgeState, id: &str) -> ApiResult<ActorId> {
    let by_number = id
        .parse::<ActorId>()
        .ok()
        .filter(|id| state.system.directory().report(*id).is_some());
    by_number
        .or_else(|| state.system.directory().find(&ActorPath::new(id)))
        .ok_or_else(|| unknown_actor(id))
}

fn unknown_actor(id: &str) -> ApiError {
    ApiError::new(
        Code::ActorNotFound,
        format!("no actor {id:?} on this node; give its number or its path"),
    )
}

/// The latest traces of all nodes, newest first. One that went over several nodes is one.
#[utoipa::path(
    get, path = "/api/v1/traces", tag = "observation",
    params(
        PageQuery,
        ("node" = Option<String>, Query, description = "a member's name or id, or all (the default)"),
    ),
    responses((status = 200, body = Page<TraceSummary>))
)]
async fn list_traces(
    State(state): State<EdgeState>,
    caller: Caller,
    scope: Scope,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Json<Page<TraceSummary>> {
    let here = located(state.system.traces().latest(TRACES_MAX), state.node_id);
    let others = scope.ask_others(&state, &caller, whole_list).await;
    let mut traces = everywhere::traces(here, others.answers);
    if let Some(search) = query.search.map(|search| search.to_lowercase()) {
        traces.retain(|trace| {
            trace.title.to_lowercase().contains(&search)
                || trace.correlation_id.to_string().starts_with(&search)
        });
    }
    let page = Page::slice(traces.into_iter(), query.cursor.as_deref(), query.limit);
    Json(Page {
        unanswered: others.unanswered,
        ..page
    })
}

/// One trace as a tree of the steps that all nodes recorded.
#[utoipa::path(
    get, path = "/api/v1/traces/{correlation_id}", tag = "observation",
    params(
        ("correlation_id" = CorrelationId, Path, description = "32 hex digits"),
        ("node" = Option<String>, Query, description = "a member's name or id, or all (the default)"),
    ),
    responses((status = 200, body = Trace))
)]
async fn show_trace(
    State(state): State<EdgeState>,
    caller: Caller,
    scope: Scope,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<Json<Trace>> {
    let others = scope.ask_others::<Trace>(&state, &caller, as_it_is).await;
    let found = id.parse().ok().and_then(|id| {
        let here = state
            .system
            .traces()
            .get(id)
            .map(|trace| trace_on(trace, state.node_id));
        let parts = here
            .into_iter()
            .chain(others.answers.into_iter().map(|(_, part)| part));
        everywhere::trace(id, parts.collect(), others.unanswered)
    });
    found.map(Json).ok_or_else(|| {
        ApiError::new(
            Code::TraceNotFound,
            format!("no trace {id:?} among the last {TRACES_MAX}"),
        )
    })
}

fn trace_on(trace: Trace, node: NodeId) -> Trace {
    let (id, dropped) = (trace.correlation_id, trace.spans_dropped);
    Trace::from_spans(id, located(trace.into_spans(), node), dropped)
}

/// Messages that reached nobody, on any node.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "observation",
    params(("node" = Option<String>, Query, description = "a member's name or id, or all (the default)")),
    responses((status = 200, body = DeadLetters))
)]
async fn list_dead_letters(
    State(state): State<EdgeState>,
    caller: Caller,
    scope: Scope,
) -> Json<DeadLetters> {
    let mut here = state.system.dead_letters().read();
    here.items = located(here.items, state.node_id);
    let others = scope.ask_others(&state, &caller, as_it_is).await;
    Json(everywhere::dead_letters(here, others, DEAD_LETTERS_MAX))
}
