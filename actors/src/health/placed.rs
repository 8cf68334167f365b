//! Probers in the cluster: each enabled server has one, on the node that owns its address `prober/NAME`; the others take
//! over what it finds. What is known of other nodes' servers is cached: it is heard again, or found out anew.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use troupe_protocol::cluster::{Address, EntityKind, Epoch};
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::health::HealthReport;
use troupe_protocol::id::NodeId;
use troupe_protocol::server::ServerName;
use troupe_protocol::time::Timestamp;
use troupe_protocol::wire::AsJson;

use super::board::Board;
use super::keeper::RunningProbers;
use super::messages::{HealthError, KeeperMessage, ProberMessage};
use crate::cluster::bulletin::{Page, Reader};
use crate::cluster::dispatcher::{Owned, decode, encode};
use crate::cluster::{ClusterHandle, EntityContext, EntityHost, ObserveTopic, ServiceError, Whereabouts};
use crate::runtime::{Deadline, Mailbox};

/// Under which other nodes are asked for their reports.
pub(super) const TOPIC: ObserveTopic = ObserveTopic::new("health");
/// How long the keeper may take to stop probers that belong to other nodes.
const SETTLE_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
/// How many bytes of names of tools other nodes are told.
const TOOL_NAMES_BYTES_MAX: usize = 16 * 1024;

pub(super) fn address_of(name: &ServerName) -> Address {
    Address::new(EntityKind::Prober, name.as_str())
}

/// Whether this node probes the server.
pub(super) fn is_here(cluster: &ClusterHandle, name: &ServerName) -> bool {
    matches!(cluster.whereabouts(&address_of(name)), Whereabouts::Here(_))
}

/// Whether it is not known who probes the server; whoever did may go on, as looking does no harm.
pub(super) fn is_undecided(cluster: &ClusterHandle, name: &ServerName) -> bool {
    matches!(cluster.whereabouts(&address_of(name)), Whereabouts::Nowhere(_))
}

/// What a node lets the others know of a server that it probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HealthNews {
    /// All that is known, and the names of its tools.
    Report(Box<HealthReport>, String),
    /// A probe that found nothing else new.
    Probed(Probed),
}

/// How a probe ended that found nothing else new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Probed {
    at: Option<Timestamp>,
    last_active: Option<Timestamp>,
    latency_ms: Option<f64>,
    uptime_24h: Option<f64>,
}

impl HealthNews {
    /// What to tell after a report has changed; the key under which it is told goes with it.
    pub fn of(name: &ServerName, before: &HealthReport, now: &HealthReport) -> (String, Self) {
        let probed = Probed {
            at: now.last_probe,
            last_active: now.last_active,
            latency_ms: now.latency_ms,
            uptime_24h: now.uptime_24h,
        };
        let mut as_before = now.clone();
        (as_before.last_probe, as_before.last_active) = (before.last_probe, before.last_active);
        (as_before.latency_ms, as_before.uptime_24h) = (before.latency_ms, before.uptime_24h);
        if as_before == *before {
            return (format!("{name} probed"), Self::Probed(probed));
        }
        let cut = now.tool_names.floor_char_boundary(TOOL_NAMES_BYTES_MAX);
        let names = now.tool_names[..cut].to_owned();
        (name.to_string(), Self::Report(Box::new(now.clone()), names))
    }

    /// Brings a report up to date.
    pub fn apply(self, report: &mut HealthReport) {
        match self {
            Self::Report(news, tool_names) => {
                *report = *news;
                report.tool_names = tool_names.into();
            }
            Self::Probed(probed) => {
                report.last_probe = probed.at;
                report.last_active = probed.last_active;
                report.latency_ms = probed.latency_ms;
                report.uptime_24h = probed.uptime_24h;
            }
        }
    }
}

/// Takes over what other nodes find.
pub(super) struct NewsReader {
    pub board: Arc<Board>,
    pub running: RunningProbers,
}

impl Reader for NewsReader {
    fn heard(&self, node: NodeId, page: &Page) {
        for (key, text) in &page.entries {
            let news: (ServerName, HealthNews) = match serde_json::from_str(text) {
                Ok(news) => news,
                // Of a node with a newer program, perhaps.
                Err(error) => {
                    tracing::debug!(%node, key, %error, "news that are not understood");
                    continue;
                }
            };
            // What this node finds out by itself is newer than what a former prober told.
            if !self.running.lock().contains_key(&news.0) {
                self.board.hear(&news.0, news.1);
            }
        }
    }

    /// What is known of its servers stays until their next prober knows more.
    fn lost(&self, _: NodeId) {}
}

/// What the node of a prober is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// Probe at once.
    Probe,
}

type Answered = Result<AsJson<HealthReport>, (Code, String)>;

/// Has the node that probes a server do so at once.
pub(super) async fn probe_elsewhere(
    cluster: &ClusterHandle,
    name: &ServerName,
    deadline: Deadline,
) -> Result<Arc<HealthReport>, HealthError> {
    let answered: Answered = cluster
        .ask(&address_of(name), &Question::Probe, deadline)
        .await
        .map_err(|error| elsewhere(Coded::code(&error), error.to_string()))?;
    answered
        .map(|AsJson(report)| Arc::new(report))
        .map_err(|(code, detail)| elsewhere(code, detail))
}

fn elsewhere(code: Code, detail: String) -> HealthError {
    HealthError::Elsewhere { code, detail }
}

/// This node's part in probing the cluster's servers.
pub(super) struct ProbersHost {
    pub keeper: Mailbox<KeeperMessage>,
    pub running: RunningProbers,
}

impl EntityHost for ProbersHost {
    fn ask(
        &self,
        key: String,
        question: Bytes,
        context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let keeper = self.keeper.clone();
        Box::pin(async move {
            let name = ServerName::new(&key)
                .map_err(|error| ServiceError::new(Code::InvalidServerName, error.to_string()))?;
            let Question::Probe = decode(&question)?;
            let answered: Answered = match probe_here(&keeper, name, context.deadline).await {
                Ok(report) => Ok(AsJson(HealthReport::clone(&report))),
                Err(error) => Err((error.code(), error.to_string())),
            };
            encode(&answered)
        })
    }

    fn settle(&self, _: Epoch, _: Owned) -> BoxFuture<'static, ()> {
        let keeper = self.keeper.clone();
        Box::pin(async move {
            let settled = keeper.ask(KeeperMessage::Settle, Deadline::within(SETTLE_WITHIN));
            if let Err(error) = settled.await {
                tracing::warn!(%error, "probers of other nodes' servers may still run here");
            }
        })
    }

    fn count(&self) -> usize {
        self.running.lock().len()
    }
}

/// Has this node's own prober probe a server at once.
pub(super) async fn probe_here(
    keeper: &Mailbox<KeeperMessage>,
    name: ServerName,
    deadline: Deadline,
) -> Result<Arc<HealthReport>, HealthError> {
    let prober = keeper
        .ask(|reply| KeeperMessage::FindProber { name, reply }, deadline)
        .await??;
    Ok(prober
        .ask(|reply| ProberMessage::ProbeNow { reply }, deadline)
        .await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_protocol::health::HealthStatus;

    #[test]
    fn a_probe_that_finds_nothing_new_is_told_in_few_bytes() {
        let name = ServerName::new("time").unwrap();
        let before = HealthReport {
            status: HealthStatus::Online,
            latency_ms: Some(1.0),
            tool_names: "now".into(),
            ..HealthReport::default()
        };
        let mut now = before.clone();
        now.latency_ms = Some(2.0);
        now.last_probe = Some(Timestamp::from_unix_ms(5));
        let (key, news) = HealthNews::of(&name, &before, &now);
        assert!(
            key == "time probed" && matches!(news, HealthNews::Probed(_)),
            "{news:?}"
        );
        let mut told = before.clone();
        news.apply(&mut told);
        assert_eq!(told, now);

        now.status = HealthStatus::Offline;
        let (key, news) = HealthNews::of(&name, &before, &now);
        assert_eq!(key, "time");
        let json = serde_json::to_string(&news).unwrap();
        let mut told = HealthReport::default();
        serde_json::from_str::<HealthNews>(&json)
            .unwrap()
            .apply(&mut told);
        assert_eq!(told, now);
    }
}
