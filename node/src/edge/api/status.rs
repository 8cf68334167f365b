//! How the node is.

use std::cmp::Reverse;

use axum::{Json, extract::State};
use troupe_actors::runtime::warnings::warnings;
use troupe_protocol::{
    api::{ActorCounts, NodeStatus},
    cluster::ClusterStatus,
    observe::{ActorReport, ActorStatus},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    builtin,
    cluster::{counts_of, warnings_of},
};
use crate::edge::EdgeState;

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new().routes(routes!(show_status))
}

/// How the node is, and what a person should look at.
#[utoipa::path(
    get, path = "/api/v1/status", tag = "node",
    params(("node" = Option<String>, Query, description = "the name or id of a member; this node by default")),
    responses((status = 200, body = NodeStatus))
)]
async fn show_status(State(state): State<EdgeState>) -> Json<NodeStatus> {
    Json(status_of(&state).await)
}

/// Put together from what the parts publish.
pub async fn status_of(state: &EdgeState) -> NodeStatus {
    status_within(state, &state.cluster.status().await)
}

/// As [`status_of`], of a node in a cluster that fares like this.
pub fn status_within(state: &EdgeState, cluster: &ClusterStatus) -> NodeStatus {
    let reports = state.system.directory().reports();
    let index = state.router.status();
    let mut servers = state.registry.view().status_counts(&state.health.view());
    servers.add(builtin::STATUS);
    let mut warnings = warnings(&reports, &index.model);
    warnings.extend(warnings_of(cluster));
    warnings.sort_by_key(|warning| Reverse(warning.severity));
    NodeStatus {
        node_id: state.node_id,
        node_name: state.node_name.to_string(),
        cluster: counts_of(cluster),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: state.started.elapsed().as_millis() as u64,
        ready: state.is_ready(),
        warnings,
        model: index.model,
        planner: index.planner,
        servers,
        actors: count(&reports),
        calls_in_flight: state.upstreams.calls_in_flight() as u64,
        dead_letters: state.system.dead_letters().total(),
    }
}

fn count(reports: &[ActorReport]) -> ActorCounts {
    let mut counts = ActorCounts::default();
    for report in reports
        .iter()
        .filter(|report| report.status != ActorStatus::Stopped)
    {
        counts.total += 1;
        counts.restarts += report.restarts;
        counts.messages_waiting += report.mailbox_depth;
        match report.status {
            ActorStatus::Busy => counts.busy += 1,
            ActorStatus::Suspended => counts.suspended += 1,
            ActorStatus::Restarting => counts.restarting += 1,
            _ => {}
        }
    }
    counts
}
