//! The line of the server `troupe`, which is part of every node, in the list of servers.

use std::time::Duration;

use troupe_actors::runtime::Deadline;
use troupe_protocol::{
    health::{HealthHistory, HealthReport, HealthStatus},
    mcp::ListKind,
    server::{
        OfficialMeta, OfficialStatus, Operation, ServerDetail, ServerJson, ServerName, ServerPage,
        ServerQuery, ServerSummary, name::BUILTIN_SERVER,
    },
    time::Timestamp,
};

use crate::edge::EdgeState;

/// It answers whenever the node does.
pub const STATUS: HealthStatus = HealthStatus::Online;
/// It is no further away than this process.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const TITLE: &str = "Troupe";
const DESCRIPTION: &str = "The node's own tools: servers, tools, status, time.";

/// Puts the line on the first page of a list that it fits.
pub async fn add_to(page: &mut ServerPage, query: &ServerQuery, state: &EdgeState) {
    let fits_status = query.status.is_none_or(|status| status == STATUS);
    let text = format!("{BUILTIN_SERVER} {DESCRIPTION}").to_lowercase();
    let search = query.search.as_deref().unwrap_or_default().to_lowercase();
    let fits = fits_status && search.split_whitespace().all(|word| text.contains(word));
    if !fits {
        return;
    }
    let Some(line) = summary(state).await else {
        return;
    };
    page.total += 1;
    if query.cursor.is_none() {
        page.items.insert(0, line);
    }
}

/// Its line.
async fn summary(state: &EdgeState) -> Option<ServerSummary> {
    let name = ServerName::new(BUILTIN_SERVER).ok()?;
    let info = state.upstreams.info(&name)?;
    let upstream = state
        .upstreams
        .get(&name, Deadline::within(ANSWER_TIMEOUT))
        .await
        .ok()?;
    let tools = upstream.tools(Deadline::within(ANSWER_TIMEOUT)).await.ok()?;
    Some(ServerSummary {
        title: TITLE.to_owned(),
        description: DESCRIPTION.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        transport: Some("builtin".to_owned()),
        endpoint: None,
        era: Some(info.era),
        capabilities: [ListKind::Tools, ListKind::Resources, ListKind::Prompts]
            .into_iter()
            .filter(|kind| info.offers(*kind))
            .map(|kind| kind.capability().to_owned())
            .collect(),
        tools_count: u32::try_from(tools.len()).ok(),
        enabled: true,
        status: STATUS,
        latency_ms: None,
        uptime_24h: None,
        last_active: None,
        last_error: None,
        labels: Vec::new(),
        owner: "node".to_owned(),
        name,
    })
}

/// Everything about it, as for other servers.
pub async fn detail(state: &EdgeState) -> Option<ServerDetail> {
    let summary = summary(state).await?;
    let manifest: ServerJson = serde_json::from_value(serde_json::json!({
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": "local/troupe",
        "title": TITLE,
        "description": DESCRIPTION,
        "version": env!("CARGO_PKG_VERSION"),
    }))
    .ok()?;
    let started: Timestamp = (jiff::Timestamp::now() - state.started.elapsed()).into();
    let official = OfficialMeta {
        status: OfficialStatus::Active,
        status_changed_at: started,
        published_at: started,
        updated_at: started,
        is_latest: true,
    };
    Some(ServerDetail {
        manifest: manifest.into(),
        operation: Operation {
            enabled: true,
            transport: None,
            labels: Vec::new(),
            owner: summary.owner.clone(),
            call_timeout_ms: None,
        },
        official,
        versions: vec![summary.version.clone()],
        revision: 1,
        created_at: started,
        updated_at: started,
        health: HealthReport {
            status: STATUS,
            era: summary.era,
            ..HealthReport::default()
        },
        history: HealthHistory::default(),
        summary,
    })
}
