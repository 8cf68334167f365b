//! What clients are told without having asked: that a list has changed, or a resource.
//!
//! What happens to servers comes in bursts (a restart changes three lists, an import hundreds of servers), so notices
//! are gathered for a moment and each is told once.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use troupe_protocol::mcp::{ListKind, method};
use troupe_protocol::server::ServerName;

use super::endpoint::Endpoint;
use super::gateway::Gateway;
use super::names;
use crate::registry::{RegistryEvent, VirtualServersHandle};
use crate::upstream::UpstreamEvent;

/// For how long notices are gathered.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// The most notices that are gathered. Only a flood of resource updates gets here; it loses what is over.
const GATHERED_MAX: usize = 1_024;

/// Something that clients may want to hear of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// What `tools/list` answers has changed.
    ToolsChanged,
    /// What `resources/list` or `resources/templates/list` answers has changed.
    ResourcesChanged,
    /// What `prompts/list` answers has changed.
    PromptsChanged,
    /// The resource at this address has changed.
    ResourceUpdated(String),
}

impl Notice {
    /// The method of the notification.
    pub fn method(&self) -> &'static str {
        match self {
            Self::ToolsChanged => method::NOTIFICATION_TOOLS_CHANGED,
            Self::ResourcesChanged => method::NOTIFICATION_RESOURCES_CHANGED,
            Self::PromptsChanged => method::NOTIFICATION_PROMPTS_CHANGED,
            Self::ResourceUpdated(_) => method::NOTIFICATION_RESOURCE_UPDATED,
        }
    }

    /// For a client that may have missed something: everything may have changed, these resources too.
    pub fn everything(resources: Vec<String>) -> Vec<Self> {
        let lists = [Self::ToolsChanged, Self::ResourcesChanged, Self::PromptsChanged];
        let resources = resources.into_iter().map(Self::ResourceUpdated);
        lists.into_iter().chain(resources).collect()
    }

    fn of_list(kind: ListKind) -> Self {
        match kind {
            ListKind::Tools => Self::ToolsChanged,
            ListKind::Resources | ListKind::ResourceTemplates => Self::ResourcesChanged,
            ListKind::Prompts => Self::PromptsChanged,
        }
    }
}

/// The notices for the clients of one endpoint, from now on.
pub struct Notices {
    gathered: Gathered,
    upstream_events: Receiver<UpstreamEvent>,
    registry_events: Receiver<RegistryEvent>,
    /// The names of virtual servers that were put or removed.
    virtual_changes: Receiver<ServerName>,
    /// When what was gathered is told.
    due: Option<Instant>,
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notices({})", self.gathered.endpoint)
    }
}

/// Notices as one stream after the other tells them: what one has not told when it ends, the next does.
#[derive(Debug)]
pub enum NoticeFeed {
    /// Those of a session, until the stream ends.
    OfSession(OwnedMutexGuard<Option<Notices>>),
    /// Those of one stream alone.
    Alone(Notices),
}

impl NoticeFeed {
    /// The next notices, each once. May be dropped and called again: nothing gets lost.
    pub async fn next(&mut self) -> Vec<Notice> {
        let notices = match self {
            Self::OfSession(held) => held.as_mut(),
            Self::Alone(notices) => Some(notices),
        };
        match notices {
            Some(notices) => notices.next().await,
            None => std::future::pending().await,
        }
    }
}

/// The notices that wait to be told. Pure.
struct Gathered {
    endpoint: Endpoint,
    /// To know what virtual servers are made of.
    virtual_servers: Option<VirtualServersHandle>,
    notices: BTreeSet<Notice>,
}

impl Gateway {
    /// The notices for the clients of this endpoint, from now on.
    pub fn notices(&self, endpoint: &Endpoint) -> Notices {
        Notices {
            gathered: Gathered {
                endpoint: endpoint.clone(),
                virtual_servers: Some(self.parts.virtual_servers.clone()),
                notices: BTreeSet::new(),
            },
            upstream_events: self.parts.upstreams.subscribe(),
            registry_events: self.parts.registry.subscribe(),
            virtual_changes: self.parts.virtual_servers.subscribe(),
            due: None,
        }
    }
}

impl Notices {
    /// The next notices, each once. May be dropped and called again: nothing gets lost.
    pub async fn next(&mut self) -> Vec<Notice> {
        loop {
            let due = self.due;
            tokio::select! {
                event = receive(&mut self.upstream_events) => self.gathered.take_upstream_event(event),
                event = receive(&mut self.registry_events) => self.gathered.take_registry_event(event),
                name = receive(&mut self.virtual_changes) => self.gathered.take_virtual_change(name.as_ref()),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    return std::mem::take(&mut self.gathered.notices).into_iter().collect();
                }
            }
            if self.due.is_none() && !self.gathered.notices.is_empty() {
                self.due = Some(Instant::now() + GATHER_TIME);
            }
        }
    }
}

/// The next event; nothing where some were missed. Never resolves once the node has ended.
async fn receive<E: Clone>(events: &mut Receiver<E>) -> Option<E> {
    match events.recv().await {
        Ok(event) => Some(event),
        Err(RecvError::Lagged(_)) => None,
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

impl Gathered {
    fn take_upstream_event(&mut self, event: Option<UpstreamEvent>) {
        let Some(event) = event else {
            return self.everything_changed();
        };
        let server = match &event {
            UpstreamEvent::Up { server, .. }
            | UpstreamEvent::Down { server, .. }
            | UpstreamEvent::ListChanged { server, .. }
            | UpstreamEvent::ResourceUpdated { server, .. } => server,
        };
        let is_one_of_many = match &self.endpoint {
            Endpoint::Aggregate => true,
            Endpoint::Server(own) if own == server => false,
            Endpoint::Virtual(name) if self.is_part_of(server, name) => true,
            Endpoint::Server(_) | Endpoint::Virtual(_) => return,
        };
        match event {
            UpstreamEvent::ListChanged { kind, .. } => self.add(Notice::of_list(kind)),
            UpstreamEvent::Up { .. } => self.everything_changed(),
            // On its own endpoint a server that is away has the lists that it had.
            UpstreamEvent::Down { .. } if is_one_of_many => self.everything_changed(),
            UpstreamEvent::ResourceUpdated { ref server, uri } => {
                let uri = match &self.endpoint {
                    Endpoint::Aggregate => names::exposed_uri(server.as_str(), &uri),
                    Endpoint::Server(_) => uri,
                    Endpoint::Virtual(name) => match self.exposed_by(name, server, &uri) {
                        Some(exposed) => exposed,
                        None => return,
                    },
                };
                self.add(Notice::ResourceUpdated(uri));
            }
            UpstreamEvent::Down { .. } => {}
        }
    }

    fn take_registry_event(&mut self, event: Option<RegistryEvent>) {
        let concerns = match (&self.endpoint, &event) {
            (Endpoint::Aggregate, _) => true,
            (Endpoint::Server(_), _) => false,
            (
                Endpoint::Virtual(name),
                Some(
                    RegistryEvent::Registered { name: server }
                    | RegistryEvent::Updated { name: server }
                    | RegistryEvent::Removed { name: server },
                ),
            ) => self.is_part_of(server, name),
            (Endpoint::Virtual(_), Some(RegistryEvent::Imported { .. }) | None) => true,
        };
        if concerns {
            self.everything_changed();
        }
    }

    /// A virtual server was put or removed; nothing where some changes were missed.
    fn take_virtual_change(&mut self, changed: Option<&ServerName>) {
        if let Endpoint::Virtual(name) = &self.endpoint
            && changed.is_none_or(|changed| changed == name)
        {
            self.everything_changed();
        }
    }

    /// What a virtual server calls this resource.
    fn exposed_by(&self, virtual_server: &ServerName, server: &ServerName, uri: &str) -> Option<String> {
        let virtual_servers = self.virtual_servers.as_ref()?;
        virtual_servers
            .get(virtual_server.as_str())?
            .exposed_uri(server, uri)
    }

    fn is_part_of(&self, server: &ServerName, virtual_server: &ServerName) -> bool {
        let virtual_servers = self.virtual_servers.as_ref();
        let found = virtual_servers.and_then(|servers| servers.get(virtual_server.as_str()));
        found.is_some_and(|found| found.has_part_of(server))
    }

    fn everything_changed(&mut self) {
        self.notices.extend([
            Notice::ToolsChanged,
            Notice::ResourcesChanged,
            Notice::PromptsChanged,
        ]);
    }

    fn add(&mut self, notice: Notice) {
        if self.notices.len() < GATHERED_MAX {
            self.notices.insert(notice);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::sync::broadcast;
    use troupe_protocol::mcp::Era;

    type Senders = (broadcast::Sender<UpstreamEvent>, broadcast::Sender<RegistryEvent>);

    fn name(text: &str) -> ServerName {
        ServerName::new(text).unwrap()
    }

    fn notices(endpoint: Endpoint) -> (Senders, Notices) {
        let (upstream, upstream_events) = broadcast::channel(4);
        let (registry, registry_events) = broadcast::channel(4);
        let (_, virtual_changes) = broadcast::channel(4);
        let gathered = Gathered {
            endpoint,
            virtual_servers: None,
            notices: BTreeSet::new(),
        };
        (
            (upstream, registry),
            Notices {
                gathered,
                upstream_events,
                registry_events,
                virtual_changes,
                due: None,
            },
        )
    }

    fn tools_changed(server: &str) -> UpstreamEvent {
        UpstreamEvent::ListChanged {
            server: name(server),
            kind: ListKind::Tools,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_told_once() {
        let ((upstream, _registry), mut notices) = notices(Endpoint::Aggregate);
        upstream.send(tools_changed("a")).unwrap();
        upstream.send(tools_changed("b")).unwrap();
        upstream
            .send(UpstreamEvent::ListChanged {
                server: name("a"),
                kind: ListKind::ResourceTemplates,
            })
            .unwrap();
        assert_eq!(
            notices.next().await,
            [Notice::ToolsChanged, Notice::ResourcesChanged]
        );
        assert!(
            tokio::time::timeout(Duration::from_secs(5), notices.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_servers_endpoint_hears_of_that_server_alone() {
        let ((upstream, registry), mut notices) = notices(Endpoint::Server(name("a")));
        upstream.send(tools_changed("b")).unwrap();
        registry.send(RegistryEvent::Removed { name: name("b") }).unwrap();
        upstream
            .send(UpstreamEvent::ResourceUpdated {
                server: name("a"),
                uri: "x://y".to_owned(),
            })
            .unwrap();
        upstream
            .send(UpstreamEvent::Down {
                server: name("a"),
                reason: "died".to_owned(),
            })
            .unwrap();
        assert_eq!(
            notices.next().await,
            [Notice::ResourceUpdated("x://y".to_owned())]
        );
        upstream
            .send(UpstreamEvent::Up {
                server: name("a"),
                era: Era::Legacy,
            })
            .unwrap();
        assert_eq!(
            notices.next().await.len(),
            3,
            "after a restart its lists may be others"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_missed_events_is_told_that_everything_has_changed_and_waiting_may_be_interrupted() {
        let ((upstream, _registry), mut notices) = notices(Endpoint::Server(name("a")));
        for _ in 0..9 {
            upstream.send(tools_changed("b")).unwrap();
        }
        assert!(
            tokio::time::timeout(GATHER_TIME / 2, notices.next())
                .await
                .is_err()
        );
        assert_eq!(notices.next().await.len(), 3);
    }
}
