//! `/metrics`: figures for Prometheus, put together when asked for from what the parts count anyway.

use std::fmt;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use troupe_protocol::{
    cluster::{ClusterStatus, LinkState},
    error::Code,
    observe::ActorReport,
};

use super::{api, problem::ApiError, state::EdgeState};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Labelled = Family<Labels, Gauge>;

/// The node's figures.
pub async fn metrics(State(state): State<EdgeState>) -> Response {
    match write(&state).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            ApiError::new(Code::Internal, format!("cannot write the figures: {error}")).into_response()
        }
    }
}

async fn write(state: &EdgeState) -> Result<String, fmt::Error> {
    let fares = state.cluster.status().await;
    let status = api::status_within(state, &fares);
    let mut registry = Registry::with_prefix("troupe");
    for (name, help, value) in [
        ("uptime_milliseconds", "Time since the start", status.uptime_ms),
        ("ready", "Whether every part has started", status.ready.into()),
        (
            "calls_in_flight",
            "Calls to servers that wait for their answer",
            status.calls_in_flight,
        ),
        (
            "connections_open",
            "Open connections of people and clients",
            state.connections.open() as u64,
        ),
        (
            "sessions_open",
            "Open sessions of legacy MCP clients",
            state.sessions.open_count() as u64,
        ),
        ("tools", "Tools in the index", state.router.status().tools.into()),
    ] {
        register_gauge(&mut registry, name, help, value);
    }
    for (name, help, value) in [
        (
            "connections_refused",
            "Connections beyond the bound",
            state.connections.refused() as u64,
        ),
        (
            "dead_letters",
            "Messages that reached nobody",
            status.dead_letters,
        ),
        (
            "audit_events_lost",
            "Audit events that could not be kept",
            state.audit_log.lost(),
        ),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let servers = Family::<Labels, Gauge>::default();
    let counts = status.servers;
    for (name, count) in [
        ("online", counts.online),
        ("degraded", counts.degraded),
        ("offline", counts.offline),
        ("testing", counts.testing),
        ("disabled", counts.disabled),
    ] {
        servers
            .get_or_create(&vec![("status", name.to_owned())])
            .set(count.into());
    }
    registry.register("servers", "Registered servers by how they fare", servers);
    cluster(&mut registry, &fares);
    actors(&mut registry, &state.system.directory().reports());
    process(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn cluster(registry: &mut Registry, status: &ClusterStatus) {
    let own = status.members.iter().find(|known| known.is_self);
    let log = &status.log;
    for (name, help, value) in [
        (
            "cluster_members",
            "Nodes of the cluster",
            status.members.len() as u64,
        ),
        (
            "cluster_has_quorum",
            "Whether the node follows a majority and holds a lease",
            status.has_quorum.into(),
        ),
        (
            "cluster_leads",
            "Whether the node leads the log",
            own.is_some_and(|own| own.is_leader).into(),
        ),
        ("cluster_epoch", "State of the membership", status.epoch.0),
        ("log_term", "Term of the log's leader", log.term),
        ("log_last_entry", "Last entry in the node's log", log.last),
        (
            "log_applied_entry",
            "Last entry that the node has applied",
            log.applied,
        ),
        (
            "log_snapshot_entry",
            "Last entry of the node's latest snapshot",
            log.snapshot,
        ),
        (
            "placed_actors",
            "Placed actors on the node",
            own.and_then(|own| own.placed).unwrap_or(0).into(),
        ),
    ] {
        register_gauge(registry, name, help, value);
    }
    let (up, round_trip, in_flight) = (Labelled::default(), Labelled::default(), Labelled::default());
    let sent = Family::<Labels, Counter>::default();
    let received = Family::<Labels, Counter>::default();
    for (name, link) in status
        .members
        .iter()
        .filter_map(|known| Some((&known.member.name, known.link.as_ref()?)))
    {
        let labels = vec![("node", name.to_string())];
        let figure = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        up.get_or_create(&labels)
            .set((link.state == LinkState::Up).into());
        in_flight.get_or_create(&labels).set(figure(link.in_flight_bytes));
        if let Some(micros) = link.round_trip_us {
            round_trip.get_or_create(&labels).set(figure(micros));
        }
        sent.get_or_create(&labels).inc_by(link.bytes_out);
        received.get_or_create(&labels).inc_by(link.bytes_in);
    }
    registry.register("link_up", "Whether the link to a node is open", up);
    registry.register(
        "link_round_trip_microseconds",
        "Last round trip to a node",
        round_trip,
    );
    registry.register("link_in_flight_bytes", "Bytes on their way to a node", in_flight);
    registry.register(
        "link_sent_bytes",
        "Bytes sent to a node since its link opened",
        sent,
    );
    registry.register(
        "link_received_bytes",
        "Bytes received from a node since its link opened",
        received,
    );
}

fn register_gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn actors(registry: &mut Registry, reports: &[ActorReport]) {
    let depth = Family::<Labels, Gauge>::default();
    let handled = Family::<Labels, Counter>::default();
    let failed = Family::<Labels, Counter>::default();
    let overloaded = Family::<Labels, Counter>::default();
    let restarts = Family::<Labels, Counter>::default();
    let handling = Family::<Labels, Gauge>::default();
    let waiting = Family::<Labels, Gauge>::default();
    for report in reports {
        let labels = vec![("path", report.path.to_string()), ("kind", report.kind.clone())];
        depth.get_or_create(&labels).set(report.mailbox_depth.into());
        handled.get_or_create(&labels).inc_by(report.handled);
        failed.get_or_create(&labels).inc_by(report.failed);
        overloaded.get_or_create(&labels).inc_by(report.overloaded);
        restarts.get_or_create(&labels).inc_by(report.restarts.into());
        for (quantile, handling_us, waiting_us) in [
            ("0.5", report.handling.p50_us, report.waiting.p50_us),
            ("0.95", report.handling.p95_us, report.waiting.p95_us),
            ("0.99", report.handling.p99_us, report.waiting.p99_us),
        ] {
            let mut labels = labels.clone();
            labels.push(("quantile", quantile.to_owned()));
            handling
                .get_or_create(&labels)
                .set(i64::try_from(handling_us).unwrap_or(i64::MAX));
            waiting
                .get_or_create(&labels)
                .set(i64::try_from(waiting_us).unwrap_or(i64::MAX));
        }
    }
    registry.register("actor_mailbox_messages", "Messages waiting", depth);
    registry.register("actor_handled_messages", "Messages handled", handled);
    registry.register(
        "actor_failed_messages",
        "Handlers that ended in an error or a panic",
        failed,
    );
    registry.register(
        "actor_overloaded_messages",
        "Messages refused by a full mailbox",
        overloaded,
    );
    registry.register("actor_restarts", "Restarts", restarts);
    registry.register("actor_handling_microseconds", "Time in the handler", handling);
    registry.register("actor_waiting_microseconds", "Time in the mailbox", waiting);
}

/// Memory and descriptors, where the system tells them.
fn process(registry: &mut Registry) {
    let gauge = |value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    if let Some(bytes) = resident_bytes() {
        registry.register("process_resident_memory_bytes", "Resident memory", gauge(bytes));
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        registry.register(
            "process_open_fds",
            "Open file descriptors",
            gauge(open.count() as u64),
        );
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1_024)
}
