//! A connection to a server: made, era found, ready for calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::HeaderMap;
use serde_json::value::RawValue;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{ClientCapabilities, Era, method};
use troupe_protocol::upstream::UpstreamInfo;

use super::builtin::{self, BuiltinServer};
use super::calls;
use super::error::Failure;
use super::frame::{self, Dialect};
use super::http::{self, HttpLink, Mirror, SseLink};
use super::stdio::StdioLink;
use super::watch;
use super::wires::Wires;
use crate::runtime::Deadline;

/// How long a modern server may take to say of which resources it will tell.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// How bytes get to the server.
pub(super) enum Link {
    Stdio(StdioLink),
    Http(HttpLink),
    Sse(SseLink),
    /// No bytes: the node itself does what the server would.
    Local(Arc<dyn BuiltinServer>),
}

/// How long at most a server without a wire may work for one call. Whoever calls waits for less.
const LOCAL_CALL_MAX: Duration = Duration::from_secs(3_600);

/// A connection that calls can be made over. Its process or streams end when it is closed or dropped.
pub(super) struct Connection {
    pub wires: Arc<Wires>,
    pub info: Arc<UpstreamInfo>,
    link: Link,
    dialect: Dialect,
    /// The request by which a modern server that is a process tells of resources.
    resources: Mutex<Option<u64>>,
}

/// How a modern server told of resources until now.
enum Former {
    /// In answer to this request, over the channel of all.
    Request(Option<u64>),
    Stream(Option<AbortOnDropHandle<()>>),
}

/// A request to be made over a connection.
pub(super) struct Call<'a> {
    pub id: u64,
    pub method: &'a str,
    pub name: Option<&'a str>,
    pub params: Option<&'a RawValue>,
    pub client: &'a ClientCapabilities,
    pub wants_progress: bool,
    /// Arguments that a modern HTTP server wants in headers too.
    pub mirrors: Option<&'a [Mirror]>,
}

impl Connection {
    /// The connection over a link on which the server has been greeted.
    pub fn new(link: Link, dialect: Dialect, info: UpstreamInfo, wires: Arc<Wires>) -> Self {
        let connection = Self {
            wires,
            info: Arc::new(info),
            link,
            dialect,
            resources: Mutex::default(),
        };
        connection.listen();
        connection
    }

    /// Waits until a server can ask whatever it likes: what it asks before its stream is open, some drop.
    pub async fn can_be_asked(&self) {
        if let (Link::Http(link), Era::Legacy) = (&self.link, self.dialect.era()) {
            link.has_listened().await;
        }
    }

    /// Makes a request. Dropping the future does not tell the server; [`Connection::abandon`] does.
    pub async fn call(&self, call: &Call<'_>) -> Result<RawReply, Failure> {
        if let Link::Local(server) = &self.link {
            // It is as well as what does its work.
            if matches!(call.method, method::PING | method::DISCOVER) {
                server.reach().await.map_err(Failure::NotSent)?;
            }
            let deadline = Deadline::within(LOCAL_CALL_MAX);
            return Ok(builtin::answer(&**server, call.method, call.params, None, deadline).await);
        }
        let line = self.dialect.request(
            call.id,
            call.method,
            call.params,
            call.client,
            call.wants_progress,
        );
        let answered = match &self.link {
            Link::Stdio(link) => link.call(call.id, line).await,
            Link::Sse(link) => link.call(call.id, line).await,
            Link::Local(_) => Err(Failure::NotSent("it has no wire".to_owned())),
            Link::Http(link) => {
                let mirrored = match (call.mirrors, call.params) {
                    (Some(mirrors), Some(params)) => http::headers_for(mirrors, params),
                    _ => HeaderMap::new(),
                };
                let Call { id, method, name, .. } = *call;
                link.call(http::Outgoing {
                    id,
                    method,
                    name,
                    mirrored,
                    line: line.into(),
                })
                .await
            }
        };
        answered.map_err(|failure| failure.cleaned(&self.wires.log))
    }

    /// Whether arguments are to be mirrored into headers: only modern servers over HTTP want that.
    pub fn mirrors_arguments(&self) -> bool {
        matches!(self.link, Link::Http(_)) && self.dialect.era() == Era::Modern
    }

    /// Tells the server that nobody waits for the call any more.
    pub fn abandon(&self, id: u64, reason: &str) {
        match &self.link {
            Link::Stdio(link) => {
                // If it cannot be told, it is gone or does not listen.
                let _ = link.send(self.dialect.cancelled(id, reason), None);
            }
            Link::Http(link) => link.cancelled(id, reason),
            Link::Sse(link) => link.send_aside(self.dialect.cancelled(id, reason)),
            // Its work was ended with the caller's.
            Link::Local(_) => {}
        }
    }

    /// Has a modern server tell of these resources, and of no others any more. Answers those that it agrees to; nothing
    /// if it does not say so in time.
    ///
    /// The former stream ends when the new one has begun, so that nothing is missed in between.
    pub async fn listen_to_resources(
        &self,
        uris: &BTreeSet<String>,
        deadline: Deadline,
    ) -> Option<BTreeSet<String>> {
        let id = calls::next_call_id();
        let acknowledged = self.wires.acknowledgement(id);
        let line = watch::listen_params(uris)
            .filter(|_| !uris.is_empty())
            .map(|params| {
                let client = ClientCapabilities::default();
                self.dialect
                    .request(id, method::SUBSCRIPTIONS_LISTEN, Some(&params), &client, false)
            });
        let is_asked = line.is_some();
        let former = match &self.link {
            Link::Stdio(link) => {
                let former = std::mem::replace(&mut *self.resources.lock(), is_asked.then_some(id));
                if let Some(line) = line {
                    // If it cannot be told, it is gone or does not listen.
                    let _ = link.send(line, None);
                }
                Former::Request(former)
            }
            Link::Http(link) => {
                let outgoing =
                    line.map(|line| http::Outgoing::plain(id, method::SUBSCRIPTIONS_LISTEN, line.into()));
                Former::Stream(link.listen_to_resources(outgoing))
            }
            // Only legacy servers are reached the one way, and they have no such request; the others have no resources.
            Link::Sse(_) | Link::Local(_) => return Some(BTreeSet::new()),
        };
        let within = deadline.remaining().min(ACKNOWLEDGED_WITHIN);
        let agreed = if is_asked {
            tokio::time::timeout(within, acknowledged).await
        } else {
            Ok(Ok(Vec::new()))
        };
        match former {
            Former::Request(Some(former)) => self.abandon(former, "it is replaced by another"),
            Former::Request(None) => {}
            Former::Stream(stream) => drop(stream),
        }
        match agreed {
            Ok(Ok(agreed)) => Some(agreed.into_iter().collect()),
            _ => None,
        }
    }

    /// Sends a notification.
    pub async fn notify(&self, method: &str, params: Option<&RawValue>) -> Result<(), Failure> {
        let line = self.dialect.notification(method, params);
        let sent = match &self.link {
            Link::Stdio(link) => link.send(line, None),
            Link::Http(link) => link.send(method, line).await,
            Link::Sse(link) => link.send(line).await,
            Link::Local(_) => Ok(()),
        };
        sent.map_err(|failure| failure.cleaned(&self.wires.log))
    }

    /// Ends the connection and what belongs to it: the process with all it started, or the session.
    pub async fn close(&self) {
        self.wires.closing();
        match &self.link {
            Link::Stdio(link) => link.close().await,
            Link::Http(link) => link.close().await,
            Link::Sse(link) => link.close().await,
            Link::Local(_) => self.wires.lost("the connection was closed"),
        }
    }

    /// Has the server stand still, or go on: only processes can. Whether that was possible.
    pub fn suspend(&self, is_suspended: bool) -> bool {
        match &self.link {
            Link::Stdio(link) => !self.wires.is_gone() && link.suspend(is_suspended),
            Link::Http(_) | Link::Sse(_) | Link::Local(_) => false,
        }
    }

    /// Ends the connection at once, with the process if there is one.
    pub async fn kill(&self) {
        self.wires.closing();
        match &self.link {
            Link::Stdio(link) => link.kill().await,
            Link::Http(link) => link.close().await,
            Link::Sse(link) => link.close().await,
            Link::Local(_) => self.wires.lost("the connection was closed"),
        }
    }

    /// Opens the way on which the server can tell of changes.
    fn listen(&self) {
        match (&self.link, self.dialect.era()) {
            // Over its stream a server of this transport talks unasked anyway; there are no modern ones.
            (Link::Stdio(_), Era::Legacy) | (Link::Sse(_) | Link::Local(_), _) => {}
            (Link::Http(link), Era::Legacy) => link.listen(None),
            (link, Era::Modern) => {
                let id = calls::next_call_id();
                let Some(line) = frame::listen(id, &self.info.capabilities) else {
                    return;
                };
                match link {
                    Link::Stdio(link) => {
                        let _ = link.send(line, None);
                    }
                    Link::Sse(_) | Link::Local(_) => {}
                    Link::Http(link) => {
                        let line = line.into();
                        link.listen(Some(http::Outgoing::plain(
                            id,
                            method::SUBSCRIPTIONS_LISTEN,
                            line,
                        )));
                    }
                }
            }
        }
    }
}
