//! What probers and their keeper are told, and the handle with which others ask about health.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::health::{HealthEvent, HealthHistory, HealthReport, TestReport};
use troupe_protocol::server::{ServerName, Transport};
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo};

use super::board::Board;
use super::placed;
use super::reach::{Answer, Failure};
use crate::cluster::ClusterHandle;
use crate::registry::Health;
use crate::runtime::{AskError, Deadline, Mailbox, Message, Reply};
use crate::upstream::{UpstreamEvent, UpstreamsHandle};

/// How many connections are tested at once before they are saved.
const TESTS_AT_ONCE_MAX: usize = 4;
/// How many lines of a tested server's log are reported.
const LOG_TAIL_LINES_MAX: usize = 50;

/// How servers are probed.
#[derive(Debug, Clone)]
pub struct HealthSettings {
    /// The time between two probes of a server, give or take a tenth.
    pub probe_interval: Duration,
    /// How long a probe may take, a start of the server included.
    pub probe_timeout: Duration,
    /// From which round-trip time on an answer is slow.
    pub slow_from: Duration,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(10),
            slow_from: Duration::from_secs(2),
        }
    }
}

/// What the prober of one server is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(super) enum ProberMessage {
    /// The time for a probe has come. Timers that were replaced carry an old number.
    ProbeDue { timer: u64 },
    /// Probe at once, and answer with what came out.
    ProbeNow { reply: Reply<Arc<HealthReport>> },
    /// A probe has ended.
    Probed { outcome: Box<Result<Answer, Failure>> },
    /// The connection says that it is up, or that a list has changed.
    Stirred,
    /// The connection was lost.
    Lost { reason: String },
    /// The server is reached in another way from now on: nothing is known of it.
    Reconfigured,
}

impl Message for ProberMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// What the keeper of the probers is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(super) enum KeeperMessage {
    /// The registry has changed.
    RegistryChanged,
    /// What this node probes may have changed: answered when nothing is probed that is not its business.
    Settle(Reply<()>),
    /// Something happened to a connection.
    Connection(UpstreamEvent),
    /// Events of connections were missed: look at all servers.
    ConnectionsUnknown,
    /// Who probes this server?
    FindProber {
        name: ServerName,
        reply: Reply<Result<Mailbox<ProberMessage>, HealthError>>,
    },
}

impl Message for KeeperMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Why a server was not probed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// It is not registered.
    #[error("no server is named {0}")]
    NotFound(ServerName),
    /// It is disabled.
    #[error("server {0} is disabled: enable it to have it probed")]
    Disabled(ServerName),
    /// The node that probes it answered with an error, or none could be asked.
    #[error("{detail}")]
    Elsewhere {
        /// Its code.
        code: Code,
        /// In words.
        detail: String,
    },
    /// The prober did not answer.
    #[error(transparent)]
    Unavailable(#[from] AskError),
}

impl Coded for HealthError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::ServerNotFound,
            Self::Disabled(_) => Code::ServerDisabled,
            Self::Elsewhere { code, .. } => *code,
            Self::Unavailable(error) => error.code(),
        }
    }
}

/// Tells how servers fare. Cheap to clone.
#[derive(Clone)]
pub struct HealthHandle {
    pub(super) keeper: Mailbox<KeeperMessage>,
    pub(super) board: Arc<Board>,
    pub(super) upstreams: UpstreamsHandle,
    pub(super) cluster: ClusterHandle,
    pub(super) tests: Arc<Semaphore>,
}

impl std::fmt::Debug for HealthHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HealthHandle({})", self.keeper.path())
    }
}

impl HealthHandle {
    pub(super) fn new(
        keeper: Mailbox<KeeperMessage>,
        board: Arc<Board>,
        upstreams: UpstreamsHandle,
        cluster: ClusterHandle,
    ) -> Self {
        Self {
            keeper,
            board,
            upstreams,
            cluster,
            tests: Arc::new(Semaphore::new(TESTS_AT_ONCE_MAX)),
        }
    }

    /// How all enabled servers fare, and those that were enabled before.
    pub fn view(&self) -> Arc<Health> {
        self.board.view()
    }

    /// How a server fares; nothing before it was first enabled.
    pub fn report(&self, name: &ServerName) -> Option<Arc<HealthReport>> {
        self.board.report(name)
    }

    /// How a server fared in the last 24 hours.
    pub fn history(&self, name: &ServerName) -> HealthHistory {
        self.board.history(name)
    }

    /// Hears of every probe and change of status from now on. Who misses some reads the view again.
    pub fn subscribe(&self) -> broadcast::Receiver<HealthEvent> {
        self.board.subscribe()
    }

    /// Probes a server at once.
    ///
    /// # Errors
    /// When it is not registered or disabled, or no answer came before the deadline. That the server itself does not
    /// answer is no error but a report.
    pub async fn probe(
        &self,
        name: &ServerName,
        deadline: Deadline,
    ) -> Result<Arc<HealthReport>, HealthError> {
        if !placed::is_here(&self.cluster, name) {
            return placed::probe_elsewhere(&self.cluster, name, deadline).await;
        }
        placed::probe_here(&self.keeper, name.clone(), deadline).await
    }

    /// Connects to a server that is not registered (yet), asks what it offers, and disconnects.
    pub async fn test(&self, transport: &Transport, deadline: Deadline) -> TestReport {
        let permit = tokio::time::timeout_at(deadline.instant(), self.tests.acquire()).await;
        if !matches!(permit, Ok(Ok(_))) {
            return TestReport {
                error: Some("too many other tests are running: try again".to_owned()),
                error_code: Some(Code::TooManyRequests.to_string()),
                ..TestReport::default()
            };
        }
        let Ok(name) = ServerName::new("test") else {
            return TestReport::default();
        };
        let trial = self.upstreams.try_out(&name, transport, deadline).await;
        let log = trial
            .log
            .iter()
            .rev()
            .take(LOG_TAIL_LINES_MAX)
            .rev()
            .map(|line| line.text.clone());
        let report = TestReport {
            latency_ms: Some(trial.connected_within.as_secs_f64() * 1_000.0),
            log_tail: log.collect(),
            ..TestReport::default()
        };
        match trial.outcome {
            Ok((info, tools)) => TestReport {
                ok: true,
                era: Some(info.era),
                protocol_version: Some(info.protocol_version.clone()),
                server_info: Some(implementation(&info)),
                tools_count: Some(u32::try_from(tools.len()).unwrap_or(u32::MAX)),
                ..report
            },
            Err(error) => TestReport {
                error: Some(error.to_string()),
                error_code: Some(error.code().to_string()),
                ..report
            },
        }
    }
}

/// A server's own name and version, as `everything 1.0.0`.
pub(super) fn implementation(info: &UpstreamInfo) -> String {
    let ServerInfo { name, version, .. } = &info.server_info;
    format!("{name} {version}").trim().to_owned()
}

/// What a server offers, as it declared it: `tools`, `resources`, `prompts`, …
pub(super) fn capabilities(info: &UpstreamInfo) -> Vec<String> {
    let declared = info.capabilities.as_object().into_iter().flatten();
    declared
        .filter(|(_, value)| !value.is_null())
        .map(|(name, _)| name.clone())
        .collect()
}
