//! Making a connection: start or reach the server, find out its era, shake hands.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{ClientCapabilities, Era, Profile, method};
use troupe_protocol::upstream::UpstreamInfo;

use super::builtin::BuiltinServer;
use super::calls::{CallTable, NewCall, OpenCall};
use super::connection::{Connection, Link};
use super::endpoint::{Endpoint, UpstreamSettings};
use super::era::{Probe, judge_discover, judge_initialize};
use super::error::Failure;
use super::frame::{self, Dialect};
use super::http::{HttpLink, Outgoing, SseLink};
use super::log::LogRing;
use super::stdio::StdioLink;
use super::stdio::process::SpawnError;
use super::wires::{OnNotice, Wires};
use crate::openapi::{Access, Document, OpenApiServer};
use crate::runtime::Deadline;

/// Lines about what of a document cannot be used.
const NOTES_MAX: usize = 50;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectFailure {
    /// The command does not exist.
    CommandNotFound { command: String, path: String },
    /// Anything else.
    Other(Failure),
}

impl From<Failure> for ConnectFailure {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<SpawnError> for ConnectFailure {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::NotFound { command, path } => Self::CommandNotFound { command, path },
            refused @ SpawnError::Refused { .. } => Self::Other(Failure::NotSent(refused.to_string())),
        }
    }
}

/// What connections to one server have in common.
#[derive(Clone)]
pub(super) struct Ground {
    pub calls: Arc<CallTable>,
    pub log: Arc<LogRing>,
    pub on_notice: OnNotice,
    pub settings: Arc<UpstreamSettings>,
    /// What the clients can do for whom the connection is.
    pub profile: Profile,
}

/// Connects within the start-up limit. `hint` is the era that the server spoke last time: it is tried without a probe.
pub(super) async fn connect(
    endpoint: &Endpoint,
    ground: &Ground,
    hint: Option<Era>,
    time_max: Duration,
) -> Result<Connection, ConnectFailure> {
    ground.log.redact(endpoint.secrets());
    if let Some(bearer) = endpoint.bearer() {
        bearer.redact_in(&ground.log);
    }
    let limit = time_max.min(Duration::from_millis(ground.settings.start_timeout_ms));
    let connecting = connect_in_either_era(endpoint, ground, hint);
    let connecting = async {
        let token = endpoint.bearer().and_then(|bearer| bearer.header());
        match (connecting.await, endpoint.bearer()) {
            // While connecting only this attempt holds the token, so it has to wait for a new one itself.
            (Err(ConnectFailure::Other(Failure::NeedsLogin)), Some(bearer))
                if bearer.renewed(token.as_ref(), Deadline::within(limit)).await =>
            {
                connect_in_either_era(endpoint, ground, hint).await
            }
            (outcome, _) => outcome,
        }
    };
    let connected = timeout(limit, connecting).await.unwrap_or_else(|_| {
        let last_words = ground.log.last_words(4);
        let said = if last_words.is_empty() {
            String::new()
        } else {
            format!("; it said: {last_words}")
        };
        Err(Failure::NotSent(format!("it was not ready within {} ms{said}", limit.as_millis())).into())
    });
    connected.map_err(|failure| match failure {
        ConnectFailure::Other(failure) => failure.cleaned(&ground.log).into(),
        not_found @ ConnectFailure::CommandNotFound { .. } => not_found,
    })
}

async fn connect_in_either_era(
    endpoint: &Endpoint,
    ground: &Ground,
    hint: Option<Era>,
) -> Result<Connection, ConnectFailure> {
    match try_connect(endpoint, ground, hint).await {
        // It may have changed its era since, or may not survive a question that it does not know.
        Err(Attempt {
            era: Some(tried),
            failure: ConnectFailure::Other(failure),
        }) if is_worth_another(&failure) => {
            let other = if tried == Era::Legacy {
                Era::Modern
            } else {
                Era::Legacy
            };
            tracing::debug!(server = %ground.calls.server(), %other, reason = failure.reason(), "trying the other era");
            // The first failure explains more than that of a guess.
            try_connect(endpoint, ground, Some(other))
                .await
                .map_err(|_| ConnectFailure::Other(failure))
        }
        outcome => outcome.map_err(|attempt| attempt.failure),
    }
}

fn is_worth_another(failure: &Failure) -> bool {
    match failure {
        Failure::Lost(_) | Failure::Protocol(_) => true,
        Failure::Refused { status, .. } => !matches!(status, 401 | 403),
        Failure::NotSent(_) | Failure::TooLarge(_) | Failure::Overloaded(_) | Failure::NeedsLogin => false,
    }
}

struct Attempt {
    /// The era that was taken for granted, if another attempt with the other one makes sense.
    era: Option<Era>,
    failure: ConnectFailure,
}

async fn try_connect(endpoint: &Endpoint, ground: &Ground, hint: Option<Era>) -> Result<Connection, Attempt> {
    let wires = Wires::new(
        Arc::clone(&ground.calls),
        Arc::clone(&ground.log),
        Arc::clone(&ground.on_notice),
        ground.profile,
    );
    let fatal = |failure: ConnectFailure| Attempt { era: None, failure };
    match endpoint {
        Endpoint::Stdio { .. } => {
            let link =
                StdioLink::start(endpoint, &ground.settings, &wires).map_err(|error| fatal(error.into()))?;
            let greeted = greet_stdio(&link, ground, hint).await;
            match greeted {
                Ok((dialect, info)) => Ok(Connection::new(Link::Stdio(link), dialect, info, wires)),
                Err((era, failure)) => {
                    link.close().await;
                    Err(Attempt {
                        era,
                        failure: failure.into(),
                    })
                }
            }
        }
        Endpoint::StreamableHttp { .. } => {
            let link =
                HttpLink::new(endpoint, &ground.settings, &wires).map_err(|failure| fatal(failure.into()))?;
            match greet_http(&link, ground, hint).await {
                Ok((dialect, info)) => {
                    let connection = Connection::new(Link::Http(link), dialect, info, wires);
                    if ground.profile != Profile::NONE {
                        connection.can_be_asked().await;
                    }
                    Ok(connection)
                }
                Err((era, failure)) => {
                    let refused = |failure: Failure| Attempt {
                        era,
                        failure: failure.into(),
                    };
                    if !is_of_an_older_transport(&failure) {
                        return Err(refused(failure));
                    }
                    // The first failure explains more than that of a guess.
                    let older = connect_sse(endpoint, ground, wires).await;
                    older.map_err(|_| refused(failure))
                }
            }
        }
        Endpoint::OpenApi { document, access } => {
            let server = read_openapi(document, access, ground)
                .await
                .map_err(|failure| fatal(failure.into()))?;
            let info = UpstreamInfo::clone(&server.info());
            let link = Link::Local(Arc::new(server));
            Ok(Connection::new(link, Dialect::MODERN, info, wires))
        }
        Endpoint::Sse { .. } => connect_sse(endpoint, ground, wires)
            .await
            .map_err(|failure| fatal(failure.into())),
    }
}

/// The server of a document. What of it cannot be used is said in the server's log.
async fn read_openapi(
    document: &Arc<str>,
    access: &Arc<Access>,
    ground: &Ground,
) -> Result<OpenApiServer, Failure> {
    let (document, access) = (Arc::clone(document), Arc::clone(access));
    let reading =
        tokio::task::spawn_blocking(move || OpenApiServer::new(&Document::read(&document)?, &access));
    let read = reading
        .await
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let server = read.map_err(|error| Failure::Protocol(error.to_string()))?;
    for note in server.notes().iter().take(NOTES_MAX) {
        ground.log.note(note);
    }
    Ok(server)
}

/// Whether a server that refuses POSTs so may be one that is reached over server-sent events, whose address for POSTs is
/// another one (specification 2025-11-25, transports, backwards compatibility).
fn is_of_an_older_transport(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused {
            status: 400 | 404 | 405,
            ..
        }
    )
}

async fn connect_sse(endpoint: &Endpoint, ground: &Ground, wires: Arc<Wires>) -> Result<Connection, Failure> {
    let link = SseLink::open(endpoint, &ground.settings, &wires).await?;
    match initialize_sse(&link, ground).await {
        Ok((dialect, info)) => Ok(Connection::new(Link::Sse(link), dialect, info, wires)),
        Err(failure) => {
            wires.closing();
            link.close().await;
            Err(failure)
        }
    }
}

async fn initialize_sse(link: &SseLink, ground: &Ground) -> Result<(Dialect, UpstreamInfo), Failure> {
    let call = begin(ground, method::INITIALIZE).map_err(|(_, failure)| failure)?;
    let reply = link
        .call(call.id, frame::initialize(call.id, ground.profile))
        .await?;
    let (dialect, info) = judge_initialize(&reply)?;
    link.send(dialect.notification(method::INITIALIZED, None)).await?;
    Ok((dialect, info))
}

type Greeted = Result<(Dialect, UpstreamInfo), (Option<Era>, Failure)>;

fn begin(ground: &Ground, method: &str) -> Result<OpenCall, (Option<Era>, Failure)> {
    let call = NewCall {
        method: method.to_owned(),
        name: None,
        principal: None,
        correlation_id: None,
        progress: None,
        questions: None,
    };
    ground.calls.begin(call).map_err(|failure| (None, failure))
}

async fn greet_stdio(link: &StdioLink, ground: &Ground, hint: Option<Era>) -> Greeted {
    if hint == Some(Era::Legacy) {
        return initialize_stdio(link, ground)
            .await
            .map_err(|failure| (Some(Era::Legacy), failure));
    }
    let call = begin(ground, method::DISCOVER)?;
    let line = Dialect::MODERN.request(
        call.id,
        method::DISCOVER,
        None,
        &ClientCapabilities::default(),
        false,
    );
    let discovery = link.call(call.id, line);
    tokio::pin!(discovery);
    let patience = Duration::from_millis(ground.settings.probe_timeout_ms);
    let legacy = |failure| (None, failure);
    match timeout(patience, &mut discovery).await {
        Ok(Ok(reply)) => match judge_discover(&reply) {
            Probe::Modern(info) => Ok((Dialect::MODERN, info)),
            Probe::Refused(reason) => Err((None, Failure::Protocol(reason))),
            Probe::Legacy => initialize_stdio(link, ground).await.map_err(legacy),
        },
        Ok(Err(failure)) => Err((Some(Era::Modern), failure)),
        // Either it is a legacy server that does not answer what it does not know, or it is still starting: then the
        // first answer that says something counts.
        Err(_) => {
            let initializing = initialize_stdio(link, ground);
            tokio::pin!(initializing);
            tokio::select! {
                greeted = &mut initializing => greeted.map_err(legacy),
                late = &mut discovery => match late.as_ref().map(judge_discover) {
                    Ok(Probe::Modern(info)) => Ok((Dialect::MODERN, info)),
                    _ => initializing.await.map_err(legacy),
                },
            }
        }
    }
}

async fn initialize_stdio(link: &StdioLink, ground: &Ground) -> Result<(Dialect, UpstreamInfo), Failure> {
    let call = begin(ground, method::INITIALIZE).map_err(|(_, failure)| failure)?;
    let reply = link
        .call(call.id, frame::initialize(call.id, ground.profile))
        .await?;
    let (dialect, info) = judge_initialize(&reply)?;
    link.send(dialect.notification(method::INITIALIZED, None), None)?;
    Ok((dialect, info))
}

async fn greet_http(link: &HttpLink, ground: &Ground, hint: Option<Era>) -> Greeted {
    if hint == Some(Era::Legacy) {
        return initialize_http(link, ground)
            .await
            .map_err(|failure| (Some(Era::Legacy), failure));
    }
    link.set_dialect(Dialect::MODERN);
    let call = begin(ground, method::DISCOVER)?;
    let line = Dialect::MODERN
        .request(
            call.id,
            method::DISCOVER,
            None,
            &ClientCapabilities::default(),
            false,
        )
        .into();
    let outgoing = Outgoing::plain(call.id, method::DISCOVER, line);
    let patience = Duration::from_millis(ground.settings.probe_timeout_ms);
    let probe = match timeout(patience, link.call(outgoing)).await {
        Ok(Ok(reply @ (RawReply::Result(_) | RawReply::Error(_)))) => judge_discover(&reply),
        Ok(Err(failure)) if is_worth_another(&failure) => Probe::Legacy,
        Ok(Err(failure)) => return Err((None, failure)),
        Err(_) => Probe::Legacy,
    };
    match probe {
        Probe::Modern(info) => Ok((Dialect::MODERN, info)),
        Probe::Refused(reason) => Err((None, Failure::Protocol(reason))),
        Probe::Legacy => initialize_http(link, ground)
            .await
            .map_err(|failure| (None, failure)),
    }
}

async fn initialize_http(link: &HttpLink, ground: &Ground) -> Result<(Dialect, UpstreamInfo), Failure> {
    link.set_dialect(Dialect::LEGACY);
    let call = begin(ground, method::INITIALIZE).map_err(|(_, failure)| failure)?;
    let line = frame::initialize(call.id, ground.profile).into();
    let reply = link
        .initialize(Outgoing::plain(call.id, method::INITIALIZE, line))
        .await?;
    let (dialect, info) = judge_initialize(&reply)?;
    link.set_dialect(dialect);
    link.send(
        method::INITIALIZED,
        dialect.notification(method::INITIALIZED, None),
    )
    .await?;
    Ok((dialect, info))
}
