//! ractor_cluster as it comes: two of its nodes, and its own remote call.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{NodeServer, NodeServerMessage, RactorClusterMessage};
use tokio::net::TcpListener;

use super::ASK_WITHIN;
use crate::runtime::ActorError;

#[derive(RactorClusterMessage)]
enum EchoMessage {
    #[rpc]
    Echo(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

struct Echo;

impl Actor for Echo {
    type Msg = EchoMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<EchoMessage>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<EchoMessage>,
        EchoMessage::Echo(request, reply): EchoMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(request);
        Ok(())
    }
}

/// Two nodes of the library with a session, and an actor that answers with what it is asked.
pub(super) struct Library {
    echo: ActorRef<EchoMessage>,
    actors: Vec<ActorCell>,
}

fn failed(error: impl std::fmt::Display) -> ActorError {
    ActorError::new(error.to_string())
}

async fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port())
}

async fn node(name: &str, port: u16) -> Result<ActorRef<NodeServerMessage>, ActorError> {
    let (name, host) = (name.to_owned(), "127.0.0.1".to_owned());
    let mode = Some(NodeConnectionMode::Isolated);
    let server = NodeServer::new(port, "cookie".to_owned(), name, host, None, mode)
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(Actor::spawn(None, server, ()).await.map_err(failed)?.0)
}

impl Library {
    pub(super) async fn start() -> Result<Self, ActorError> {
        let (echo, _) = Actor::spawn(None, Echo, ()).await.map_err(failed)?;
        let (port_one, port_two) = (free_port().await?, free_port().await?);
        let one = node("one", port_one).await?;
        let two = node("two", port_two).await?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port_two));
        ractor_cluster::client_connect(&one, address)
            .await
            .map_err(failed)?;
        let remote = tokio::time::timeout(ASK_WITHIN, mirror_of(&one, echo.get_id())).await?;
        Ok(Self {
            echo: remote.into(),
            actors: vec![one.get_cell(), two.get_cell(), echo.get_cell()],
        })
    }

    pub(super) fn asker(
        &self,
        request: Vec<u8>,
    ) -> impl Fn() -> BoxFuture<'static, Result<usize, ActorError>> + Clone + Send + 'static {
        let echo = self.echo.clone();
        move || {
            let (echo, request) = (echo.clone(), request.clone());
            Box::pin(async move {
                let ask = |reply| EchoMessage::Echo(request, reply);
                match echo.call(ask, Some(ASK_WITHIN)).await? {
                    CallResult::Success(answer) => Ok(answer.len()),
                    _ => Err(ActorError::new("the library's call was not answered")),
                }
            })
        }
    }

    pub(super) fn stop(&self) {
        for actor in &self.actors {
            actor.stop(None);
        }
    }
}

/// Waits until an actor of the other node is mirrored in a session of this one.
async fn mirror_of(node: &ActorRef<NodeServerMessage>, actor: ActorId) -> ActorCell {
    loop {
        let sessions = node.call(NodeServerMessage::GetSessions, Some(ASK_WITHIN)).await;
        if let Ok(CallResult::Success(sessions)) = sessions {
            let mut mirrors = sessions
                .values()
                .flat_map(|session| session.actor.get_cell().get_children());
            let found = mirrors
                .find(|mirror| matches!(mirror.get_id(), ActorId::Remote { pid, .. } if pid == actor.pid()));
            if let Some(mirror) = found {
                return mirror;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
