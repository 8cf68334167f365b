//! The tools of all servers that are up: listing and finding them.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::Deserialize;
use troupe_actors::{router::index::document::ToolDocument, runtime::Deadline};
use troupe_protocol::{
    api::{Page, ToolListing},
    error::Code,
    routing::ToolMatch,
};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{ApiError, ApiQuery, ApiResult, Caller, EdgeState};

const FIND_TIMEOUT: Duration = Duration::from_secs(5);
const FOUND_DEFAULT: usize = 10;
const FOUND_MAX: usize = 100;
const QUERY_BYTES_MAX: usize = 8 * 1024;

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_tools))
        .routes(routes!(find_tools))
}

/// Which tools to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ToolQuery {
    /// Words that must occur in server, name, title or description.
    search: Option<String>,
    /// Only this server's.
    server: Option<String>,
    /// Items wanted, 1 to 500.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The tools of all servers that are up.
#[utoipa::path(
    get, path = "/api/v1/tools", tag = "tools", params(ToolQuery),
    responses((status = 200, body = Page<ToolListing>))
)]
async fn list_tools(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<ToolQuery>,
) -> Json<Page<ToolListing>> {
    let words: Vec<String> = query
        .search
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_lowercase)
        .collect();
    let mut tools = state.router.tools(&caller.principal);
    tools.retain(|tool| {
        let of_server = query
            .server
            .as_deref()
            .is_none_or(|server| *tool.server == *server);
        of_server && words.iter().all(|word| mentions(tool, word))
    });
    let page = Page::slice(tools.iter().map(listing), query.cursor.as_deref(), query.limit);
    Json(page)
}

fn mentions(tool: &ToolDocument, word: &str) -> bool {
    let texts = [
        &*tool.server,
        &tool.name,
        tool.title.as_deref().unwrap_or_default(),
        &tool.description,
    ];
    texts.iter().any(|text| text.to_lowercase().contains(word))
}

fn listing(tool: &Arc<ToolDocument>) -> ToolListing {
    ToolListing {
        server: tool.server.to_string(),
        tool: tool.name.clone(),
        title: tool.title.clone(),
        description: tool.description.clone(),
        input_schema: tool.input_schema.clone(),
    }
}

/// What a tool should do.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FindQuery {
    /// In words.
    q: String,
    /// Items wanted, 1 to 100.
    limit: Option<usize>,
}

/// The tools that fit best, best first.
#[utoipa::path(
    get, path = "/api/v1/tools/search", tag = "tools", params(FindQuery),
    responses((status = 200, body = Page<ToolMatch>))
)]
async fn find_tools(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<FindQuery>,
) -> ApiResult<Json<Page<ToolMatch>>> {
    if query.q.len() > QUERY_BYTES_MAX {
        let detail = format!("q has {} bytes; allowed: {QUERY_BYTES_MAX}", query.q.len());
        return Err(ApiError::new(Code::InvalidField, detail));
    }
    let limit = query.limit.unwrap_or(FOUND_DEFAULT).clamp(1, FOUND_MAX);
    let found = state
        .router
        .find_tools(&query.q, &caller.principal, limit, Deadline::within(FIND_TIMEOUT))
        .await;
    Ok(Json(Page::whole(found)))
}
