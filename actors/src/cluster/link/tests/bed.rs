//! Nodes with links, a service that does what it is asked, and a wire that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use troupe_protocol::cluster::Generation;
use troupe_protocol::error::Code;
use troupe_protocol::id::{ActorPath, NodeId};
use ulid::Ulid;

use crate::cluster::identity::ClusterIdentity;
use crate::cluster::link::*;
use crate::runtime::testkit::{self, PATIENCE, eventually};
use crate::runtime::{Deadline, Root, System, SystemConfig, trace};

pub fn id(number: u128) -> NodeId {
    NodeId::from_ulid(Ulid(number))
}

pub fn within_s(seconds: u64) -> Deadline {
    Deadline::within(Duration::from_secs(seconds))
}

/// What the service of a node has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub begun: AtomicUsize,
    pub dropped: AtomicUsize,
    pub parts: AtomicUsize,
}

/// Does what it is asked.
struct Obedient {
    seen: Arc<Seen>,
    told: mpsc::Sender<(NodeId, Bytes)>,
}

struct CountDrop(Arc<Seen>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl LinkService for Obedient {
    fn ask(
        &self,
        _: NodeId,
        request: Bytes,
        context: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let seen = Arc::clone(&self.seen);
        seen.begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let text = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
            let mut words = text.split(' ');
            let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0_usize);
            match text.split(' ').next().unwrap_or_default() {
                "never" => {
                    let _counted = CountDrop(seen);
                    std::future::pending().await
                }
                "fail" => Err(ServiceError::new(Code::ToolNotFound, "no such tool")),
                "panic" => panic!("as asked"),
                "give" => {
                    number();
                    Ok(Bytes::from(vec![7; number()]))
                }
                "parts" => {
                    number();
                    let (count, bytes) = (number(), number());
                    for part in 0..count {
                        let part = Bytes::from(vec![part as u8; bytes]);
                        if context.parts.send(part).await.is_err() {
                            break;
                        }
                        seen.parts.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Bytes::from_static(b"done"))
                }
                _ => Ok(request),
            }
        })
    }

    fn tell(&self, from: NodeId, message: Bytes) {
        let message = match trace::current() {
            Some(context) => Bytes::from(context.correlation_id.to_string()),
            None => message,
        };
        let _ = self.told.try_send((from, message));
    }
}

/// A cluster of nodes in this process.
pub struct Bed {
    folder: TempDir,
    founder: Arc<ClusterIdentity>,
}

impl Bed {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let founder = ClusterIdentity::create(&folder.path().join("founder"), id(u128::MAX)).unwrap();
        Self { folder, founder }
    }

    pub fn identity(&self, number: u128) -> Arc<ClusterIdentity> {
        let data = self.folder.path().join(format!("node-{number}"));
        self.founder.sibling(&data, id(number)).unwrap()
    }

    pub async fn node(&self, number: u128) -> Node {
        self.start(number, 1, "127.0.0.1:0", LinkSettings::default())
            .await
    }

    pub async fn start(&self, number: u128, generation: u64, listen: &str, settings: LinkSettings) -> Node {
        Node::start(self.identity(number), generation, listen, settings).await
    }

    /// Two nodes with a link: the first one dials.
    pub async fn pair(&self) -> (Node, Node) {
        let (one, two) = (self.node(1).await, self.node(2).await);
        one.knows(&[(2, &two.address)]);
        two.knows(&[(1, &one.address)]);
        one.is_linked_to(2).await;
        two.is_linked_to(1).await;
        (one, two)
    }
}

pub struct Node {
    pub id: NodeId,
    pub links: LinksHandle,
    pub address: String,
    pub http: mpsc::Receiver<HttpStream>,
    pub told: mpsc::Receiver<(NodeId, Bytes)>,
    pub seen: Arc<Seen>,
    system: System,
    root: Root,
}

impl Node {
    pub async fn start(
        identity: Arc<ClusterIdentity>,
        generation: u64,
        listen: &str,
        settings: LinkSettings,
    ) -> Self {
        let system = System::new(SystemConfig::default());
        let port = NodePort::bind(listen.parse().unwrap()).await.unwrap();
        let address = port.address().to_string();
        let (id, path) = (identity.node(), ActorPath::new("node/cluster/links"));
        let made = links(&system, path, identity, Generation(generation), port, settings);
        let (sender, told) = mpsc::channel(100_000);
        let seen = Arc::new(Seen::default());
        let service = Obedient {
            seen: Arc::clone(&seen),
            told: sender,
        };
        made.handle.serve(Service::Bench, Arc::new(service));
        let root = testkit::start(&system, vec![made.child]).await.unwrap();
        Self {
            id,
            links: made.handle,
            address,
            http: made.http,
            told,
            seen,
            system,
            root,
        }
    }

    pub fn knows(&self, peers: &[(u128, &str)]) {
        let peer = |(number, address): &(u128, &str)| Peer {
            id: id(*number),
            address: (*address).to_owned(),
        };
        self.links.connect_to(peers.iter().map(peer).collect());
    }

    pub async fn is_linked_to(&self, number: u128) {
        let is_up = || self.links.is_up(id(number));
        if eventually(PATIENCE, is_up).await.is_err() {
            panic!(
                "no link from {} to {}: {:?}",
                self.id,
                id(number),
                self.links.status()
            );
        }
    }

    pub async fn is_not_linked_to(&self, number: u128) {
        let is_down = || !self.links.is_up(id(number));
        eventually(PATIENCE, is_down).await.unwrap();
    }

    /// Waits until the link's last error says something.
    pub async fn complains(&self, number: u128, says: &str) {
        let complains = || self.error_of(number).is_some_and(|error| error.contains(says));
        if eventually(PATIENCE, complains).await.is_err() {
            panic!("no {says:?} in {:?}", self.links.status());
        }
    }

    pub fn error_of(&self, number: u128) -> Option<String> {
        let status = self.links.status();
        let link = status.into_iter().find(|link| link.node == id(number));
        link.and_then(|link| link.last_error)
    }

    pub async fn ask(&self, to: u128, request: &str) -> Result<Bytes, LinkError> {
        self.ask_within(to, request, within_s(10)).await
    }

    pub async fn ask_within(&self, to: u128, request: &str, deadline: Deadline) -> Result<Bytes, LinkError> {
        let request = Bytes::from(request.to_owned());
        self.links.ask(id(to), Service::Bench, request, deadline).await
    }

    /// Makes the actor of the links crash.
    pub fn crash(&self) {
        let directory = self.system.directory();
        let links = directory.find(&ActorPath::new("node/cluster/links")).unwrap();
        testkit::crash(&self.system, links, testkit::Crash::Panic).unwrap();
    }

    pub async fn stop(self) {
        self.root.shutdown().await;
    }
}

/// A wire to an address that can be held still: connections stay open, nothing goes through.
pub struct Wire {
    pub address: String,
    flows: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Wire {
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (flows, is_flowing) = watch::channel(true);
        let target = target.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pumps = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect(&target).await else {
                    continue;
                };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                pumps.spawn(pump(near_read, far_write, is_flowing.clone()));
                pumps.spawn(pump(far_read, near_write, is_flowing.clone()));
            }
        });
        Self {
            address,
            flows,
            _tasks: tasks,
        }
    }

    pub fn hold(&self) {
        self.flows.send_replace(false);
    }

    pub fn release(&self) {
        self.flows.send_replace(true);
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut is_flowing: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if is_flowing.wait_for(|flows| *flows).await.is_err() || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
