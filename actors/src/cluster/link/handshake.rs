//! From a TCP connection to an open link, on both sides: TLS, hellos, session.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use troupe_protocol::cluster::Generation;
use troupe_protocol::cluster::frame::{HELLO_BYTES_MAX, Hello, HelloAnswer};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;

use super::actor::LinksMessage;
use super::connection::{Agreement, Connection, PeerStart};
use super::error::ServiceError;
use super::messages::{HttpStream, NodeStream, Peer};
use super::port::Proof;
use super::session::{self, SessionStart};
use super::settings::HANDSHAKE_WITHIN;
use super::shared::{Ground, Shared};
use super::state::{compare_timing, negotiate};
use super::transport;
use crate::cluster::identity::{Protocol, answer_applicant, node_of, server_name};
use crate::runtime::Deadline;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it took longer than {} s", HANDSHAKE_WITHIN.as_secs())]
    TimedOut,
    #[error("the peer does not offer a protocol of this node")]
    Protocol,
    #[error("{0}")]
    Certificate(String),
    #[error("{}: {}", _0.code, _0.detail)]
    Refused(ServiceError),
    #[error("the peer says that it is {said}, its certificate that it is {certified}")]
    OtherNode { said: NodeId, certified: NodeId },
    #[error("the links are starting")]
    NotReady,
    #[error("{0}")]
    Session(String),
}

/// Serves a connection that was accepted, as far as it goes without an open link.
pub(super) async fn accept(shared: Arc<Shared>, tcp: TcpStream, proof: Proof) -> Result<(), HandshakeError> {
    let from = tcp.peer_addr()?.ip();
    let (protocol, stream) = within(HANDSHAKE_WITHIN, accept_tls(&shared, tcp)).await?;
    match protocol {
        Protocol::Enrol => {
            let desk = shared.desk.read().clone().ok_or(HandshakeError::NotReady)?;
            let known = || proof.give();
            match answer_applicant(&shared.identity, desk.as_ref(), from, known, stream).await {
                Ok(node) => tracing::info!(%node, "a node has joined the cluster"),
                Err(error) => tracing::warn!(%error, "a node was not taken into the cluster"),
            }
            Ok(())
        }
        Protocol::Http => {
            let from = peer_of(&stream)?;
            shared.let_in(from).map_err(HandshakeError::Refused)?;
            proof.give();
            let handed_over = shared.http.send(HttpStream { from, stream });
            match tokio::time::timeout(HANDSHAKE_WITHIN, handed_over).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(HandshakeError::NotReady),
                // The peer sees the stream closed and tries again.
                Err(_) => Err(HandshakeError::TimedOut),
            }
        }
        Protocol::Link => {
            proof.give();
            let connection = within(HANDSHAKE_WITHIN, welcome(&shared, stream)).await?;
            announce(&shared, connection)
        }
    }
}

async fn within<T>(
    time: Duration,
    step: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(time, step)
        .await
        .unwrap_or(Err(HandshakeError::TimedOut))
}

fn announce(shared: &Shared, connection: Arc<Connection>) -> Result<(), HandshakeError> {
    let opened = LinksMessage::Opened(Arc::clone(&connection));
    shared.mailbox.tell(opened).map_err(|error| {
        connection.end("the links are overloaded");
        HandshakeError::Session(error.to_string())
    })
}

async fn accept_tls(shared: &Shared, tcp: TcpStream) -> Result<(Protocol, NodeStream), HandshakeError> {
    tcp.set_nodelay(true)?;
    let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
    let hello = begun.client_hello();
    let protocol = hello
        .alpn()
        .and_then(Protocol::of_offer)
        .ok_or(HandshakeError::Protocol)?;
    let configuration = shared.identity.server_configuration(protocol);
    let stream = begun.into_stream(configuration).await?;
    Ok((protocol, stream.into()))
}

/// Whose certificate the other side of a stream has shown.
fn peer_of(stream: &NodeStream) -> Result<NodeId, HandshakeError> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates
        .first()
        .ok_or_else(|| HandshakeError::Certificate("the peer has shown no certificate".to_owned()))?;
    node_of(certificate).map_err(|error| HandshakeError::Certificate(error.to_string()))
}

/// Opens a stream to a peer for a protocol.
pub(super) async fn dial_tls(
    shared: &Shared,
    peer: &Peer,
    protocol: Protocol,
) -> Result<NodeStream, HandshakeError> {
    let tcp = TcpStream::connect(&peer.address).await?;
    tcp.set_nodelay(true)?;
    let name = server_name(peer.id).map_err(|error| HandshakeError::Certificate(error.to_string()))?;
    let connector = TlsConnector::from(shared.identity.client_configuration(protocol));
    Ok(connector.connect(name, tcp).await?.into())
}

/// Dials a peer for a link.
pub(super) async fn dial(shared: &Arc<Shared>, peer: &Peer) -> Result<(), HandshakeError> {
    let connection = within(HANDSHAKE_WITHIN, introduce(shared, peer)).await?;
    announce(shared, connection)
}

fn ground(shared: &Shared) -> Result<Ground, HandshakeError> {
    shared.ground.read().clone().ok_or(HandshakeError::NotReady)
}

/// The dialling side of the hellos.
async fn introduce(shared: &Arc<Shared>, peer: &Peer) -> Result<Arc<Connection>, HandshakeError> {
    let mut stream = dial_tls(shared, peer, Protocol::Link).await?;
    let ground = ground(shared)?;
    let own = shared.hello(&ground);
    send(&mut stream, &own).await?;
    let theirs = match receive(&mut stream).await? {
        HelloAnswer::Welcome(hello) => hello,
        HelloAnswer::Refused { code, detail } => {
            let code = code.parse().unwrap_or(Code::NodeUnreachable);
            if code == Code::JoinRefused {
                shared.dismissed.send_replace(Some(detail.clone()));
            }
            return Err(HandshakeError::Refused(ServiceError::new(code, detail)));
        }
    };
    let agreement = agree(shared, &stream, &own, &theirs)?;
    begin(shared, ground, stream, agreement, &theirs, false).await
}

/// The accepting side of the hellos.
async fn welcome(shared: &Arc<Shared>, mut stream: NodeStream) -> Result<Arc<Connection>, HandshakeError> {
    let theirs: Hello = receive(&mut stream).await?;
    let ground = ground(shared)?;
    let own = shared.hello(&ground);
    let agreed = match agree(shared, &stream, &own, &theirs) {
        Ok(agreement) => admit(shared, &theirs).await.map(|()| agreement),
        Err(error) => Err(error),
    };
    match agreed {
        Ok(agreement) => {
            send(&mut stream, &HelloAnswer::Welcome(own)).await?;
            begin(shared, ground, stream, agreement, &theirs, true).await
        }
        Err(error) => {
            if let HandshakeError::Refused(refusal) = &error {
                let answer = HelloAnswer::Refused {
                    code: refusal.code.to_string(),
                    detail: refusal.detail.clone(),
                };
                send(&mut stream, &answer).await?;
                stream.shutdown().await?;
            }
            Err(error)
        }
    }
}

async fn admit(shared: &Shared, hello: &Hello) -> Result<(), HandshakeError> {
    let hello = Box::new(hello.clone());
    let deadline = Deadline::within(HANDSHAKE_WITHIN);
    let asked = shared
        .mailbox
        .ask(|reply| LinksMessage::Admit { hello, reply }, deadline)
        .await;
    let admitted = asked.map_err(|error| HandshakeError::Session(error.to_string()))?;
    admitted.map_err(HandshakeError::Refused)
}

fn agree(
    shared: &Shared,
    stream: &NodeStream,
    own: &Hello,
    theirs: &Hello,
) -> Result<Agreement, HandshakeError> {
    let certified = peer_of(stream)?;
    if certified != theirs.node {
        return Err(HandshakeError::OtherNode {
            said: theirs.node,
            certified,
        });
    }
    shared.let_in(certified).map_err(HandshakeError::Refused)?;
    let wire_version = negotiate(shared.settings.wire_versions, theirs).map_err(HandshakeError::Refused)?;
    compare_timing(shared.settings.timing, theirs).map_err(HandshakeError::Refused)?;
    Ok(Agreement {
        peer: PeerStart {
            node: theirs.node,
            generation: theirs.generation,
            instance: theirs.instance,
        },
        wire_version,
        own_key: own.key,
        peer_key: theirs.key,
    })
}

/// Gives the stream to a session.
async fn begin(
    shared: &Arc<Shared>,
    ground: Ground,
    stream: NodeStream,
    agreement: Agreement,
    theirs: &Hello,
    is_server: bool,
) -> Result<Arc<Connection>, HandshakeError> {
    let connection = Connection::new(agreement, &shared.settings, Arc::clone(&shared.services));
    // Ends the connection if this future is dropped: the time is over, or the actor has ended.
    let unopened = EndOnDrop(Some(Arc::clone(&connection)));
    shared.enter(&connection);
    let (reader, writer) = transport::split(stream, &connection)?;
    let start = SessionStart {
        reader,
        writer,
        is_server,
        own_name: session_name(shared.own.node, shared.own.generation),
        peer_name: session_name(theirs.node, theirs.generation),
        cookie: cookie(shared),
        peer_dispatcher: theirs.dispatcher,
        session: agreement.own_key,
    };
    session::open(ground.supervisor, &connection, start)
        .await
        .map_err(HandshakeError::Session)?;
    unopened.keep();
    Ok(connection)
}

struct EndOnDrop(Option<Arc<Connection>>);

impl EndOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.end("the link was not opened in time");
        }
    }
}

/// What a node is called among sessions: another name after each start, so that nothing of an earlier one is taken for it.
fn session_name(node: NodeId, generation: Generation) -> String {
    format!("{node}#{generation}")
}

/// The library's own authentication, beside the certificates.
fn cookie(shared: &Shared) -> String {
    let mut hash = Sha256::new();
    hash.update(b"troupe link cookie");
    hash.update(shared.identity.cluster_key().as_bytes());
    hex::encode(hash.finalize())
}

async fn send<T: serde::Serialize>(stream: &mut NodeStream, message: &T) -> std::io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    stream.write_u32(length).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

async fn receive<T: serde::de::DeserializeOwned>(stream: &mut NodeStream) -> std::io::Result<T> {
    let length = stream.read_u32().await? as usize;
    if length > HELLO_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "a hello of {length} bytes is over the limit of {HELLO_BYTES_MAX}"
        )));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}
