//! The sessions of ractor_cluster: the only place that speaks to it.
//!
//! Each connection has a `NodeSession` in Isolated mode, supervised by a host of ours. The host stands in for the
//! library's `NodeServer`, which would open a listener of its own, elect among connections by rules that let a dead one
//! win over its successor, and know nothing of generations; who may connect is decided by `state` before.
//!
//! Of each node its peers see one actor, the dispatcher: unnamed, because the library lets a named actor that dies on a
//! peer take the registration of its namesake here; found by the number that the hello said, among the session's own
//! children, because process groups are the same for all nodes of a process and would let one speak for another.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation, SessionCheckReply};
use ractor_cluster::{NetworkStream, NodeServerMessage, NodeSession, NodeSessionMessage};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::shared::Shared;
use super::transport::{MESSAGE_BYTES_MAX, Reader, Writer};

/// A batch on its way to a dispatcher.
struct Batch(Vec<u8>);

impl ractor::Message for Batch {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        Ok(SerializedMessage::Cast {
            variant: String::new(),
            args: self.0,
            metadata: None,
        })
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Cast { args, .. } => Ok(Self(args)),
            _ => Err(BoxedDowncastErr),
        }
    }
}

/// The one actor of this node that its peers see: takes their batches.
struct Dispatcher(Arc<Shared>);

impl Actor for Dispatcher {
    type Msg = Batch;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Batch>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Batch>, batch: Batch, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let batch = Bytes::from(batch.0);
        let key = batch.first_chunk().map(|key| u64::from_le_bytes(*key));
        if let Some(connection) = key.and_then(|key| self.0.by_key(key)) {
            connection.receive(&batch);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Batch>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(()) // hosts come and go with their connections
    }
}

/// The running dispatcher. It ends when this is dropped, and all sessions with it.
#[derive(Debug)]
pub(super) struct RunningDispatcher(ActorCell);

impl RunningDispatcher {
    /// Starts the dispatcher; the receiver hears of its end.
    pub(super) async fn start(shared: Arc<Shared>) -> Result<(Self, oneshot::Receiver<()>), String> {
        let (dispatcher, ended) = Actor::spawn(None, Dispatcher(shared), ())
            .await
            .map_err(|error| error.to_string())?;
        let (sender, receiver) = oneshot::channel();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with the dispatcher, which this value ends"
        )]
        tokio::spawn(async move {
            let _ = ended.await;
            let _ = sender.send(());
        });
        Ok((Self(dispatcher.get_cell()), receiver))
    }

    /// Its number, by which peers find it.
    pub(super) fn number(&self) -> u64 {
        self.0.get_id().pid()
    }

    pub(super) fn supervisor(&self) -> Supervisor {
        Supervisor(self.0.clone())
    }
}

impl Drop for RunningDispatcher {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Under whom sessions run.
#[derive(Debug, Clone)]
pub(super) struct Supervisor(ActorCell);

/// What a session begins with.
pub(super) struct SessionStart {
    pub reader: Reader,
    pub writer: Writer,
    /// Whether the peer dialled.
    pub is_server: bool,
    /// As this node calls itself, and as the peer must: `id#generation`.
    pub own_name: String,
    pub peer_name: String,
    /// Known to members only. The certificates are the lock; this is what the library wants.
    pub cookie: String,
    /// The number of the peer's dispatcher.
    pub peer_dispatcher: u64,
    /// A number for the session: no other of this process may have it.
    pub session: u64,
}

/// Opens a session and waits until the peer's dispatcher is there.
pub(super) async fn open(
    supervisor: Supervisor,
    connection: &Arc<Connection>,
    start: SessionStart,
) -> Result<(), String> {
    let (ready, is_ready) = oneshot::channel();
    let peer_dispatcher = start.peer_dispatcher;
    let host = Host {
        connection: Arc::downgrade(connection),
        peer_name: start.peer_name.clone(),
    };
    let (host, _) = Actor::spawn_linked(None, host, (start, ready), supervisor.0)
        .await
        .map_err(|error| error.to_string())?;
    let session = is_ready.await;
    let found = session.ok().and_then(|session| {
        let mut actors = session.get_children().into_iter();
        actors.find(|actor| matches!(actor.get_id(), ActorId::Remote { pid, .. } if pid == peer_dispatcher))
    });
    match found {
        Some(_) => {
            connection.begin(peer_dispatcher);
            Ok(())
        }
        None => {
            host.stop(None);
            let reason = connection.end_reason();
            Err(if reason.is_empty() {
                "the session did not begin".to_owned()
            } else {
                reason.to_owned()
            })
        }
    }
}

/// Supervises the session of one connection.
struct Host {
    connection: Weak<Connection>,
    peer_name: String,
}

struct HostState {
    session: ActorRef<NodeSessionMessage>,
    ready: Option<oneshot::Sender<ActorCell>>,
}

impl Host {
    fn end(&self, myself: &ActorRef<NodeServerMessage>, reason: &str) {
        if let Some(connection) = self.connection.upgrade() {
            connection.end(reason);
        }
        myself.stop(None);
    }
}

impl Actor for Host {
    type Msg = NodeServerMessage;
    type State = HostState;
    type Arguments = (SessionStart, oneshot::Sender<ActorCell>);

    async fn pre_start(
        &self,
        myself: ActorRef<NodeServerMessage>,
        (start, ready): Self::Arguments,
    ) -> Result<HostState, ActorProcessingErr> {
        // The library exports where its message is used, but not its type.
        let mut name = default_of(|information: NodeServerSessionInformation| information.peer_name);
        name.name.clone_from(&start.own_name);
        name.connection_string = start.own_name;
        let session = NodeSession::new(
            start.session,
            start.is_server,
            start.cookie,
            myself.clone(),
            name,
            NodeConnectionMode::Isolated,
        );
        let stream = NetworkStream::External {
            peer_label: Some(start.peer_name),
            local_label: None,
            reader: Box::new(start.reader),
            writer: Box::new(start.writer),
        };
        let session = session.with_max_inbound_frame_size(MESSAGE_BYTES_MAX);
        let (session, _) = Actor::spawn_linked(None, session, stream, myself.get_cell()).await?;
        Ok(HostState {
            session,
            ready: Some(ready),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeServerMessage>,
        message: NodeServerMessage,
        state: &mut HostState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeServerMessage::UpdateSession { name, .. } if name.name != self.peer_name => {
                self.end(&myself, "the peer's session has another name than its hello");
            }
            NodeServerMessage::CheckSession { reply, .. } => {
                let _ = reply.send(SessionCheckReply::NoOtherConnection);
            }
            NodeServerMessage::ConnectionReady(_) => {
                if let Some(ready) = state.ready.take() {
                    let _ = ready.send(state.session.get_cell());
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<NodeServerMessage>,
        event: SupervisionEvent,
        _: &mut HostState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(_, _, reason) => {
                let reason = reason.unwrap_or_else(|| "no reason given".to_owned());
                self.end(&myself, &format!("the session ended: {reason}"));
            }
            SupervisionEvent::ActorFailed(_, error) => {
                self.end(&myself, &format!("the session failed: {error}"));
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<NodeServerMessage>,
        _: &mut HostState,
    ) -> Result<(), ActorProcessingErr> {
        self.end(&myself, "the session was stopped");
        Ok(())
    }
}

/// The default of a type that a field has, for types that cannot be named.
fn default_of<S, T: Default>(_: impl Fn(S) -> Option<T>) -> T {
    T::default()
}
