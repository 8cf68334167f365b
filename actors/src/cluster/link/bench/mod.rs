//! What a link costs, beside the simplest that could do: measured between two nodes in this process, over loopback, in
//! turn and several times over, so that what else the machine does falls on all of them.
//!
//! - `wire`: a raw TCP ping-pong, and a minimal multiplexed RPC on TCP: neither encrypts, bounds nor notices anything
//! - `library`: ractor_cluster's own remote call, on raw TCP as it comes
//! - `local`: an ask from one actor of a node to another
//! - here: our ask, encrypted, and a small ask behind the bulk of others

mod library;
mod local;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use troupe_protocol::cluster::Generation;
use troupe_protocol::id::{ActorPath, NodeId};
use ulid::Ulid;

use super::{
    LinkContext, LinkService, LinkSettings, LinksHandle, NodePort, Peer, Service, ServiceError, links,
};
use crate::cluster::identity::{
    Applicant, ClusterIdentity, EnrolDesk, EnrolGrant, INVITATION_VALID_FOR, KeyFingerprint, Refusal,
    TokenHash,
};
use crate::runtime::{ActorError, Deadline, Root, SupervisorSpec, System, SystemConfig};

/// The sizes of requests and answers, in bytes.
const SIZES: [usize; 2] = [100, 64 * 1024];
/// How many asks are under way at once.
const IN_FLIGHT: [usize; 2] = [1, 256];
/// The bulk behind which a small ask is measured: so many asks of so many bytes, all under way at once.
const BULK_ASKS: usize = 128;
const BULK_BYTES: usize = 256 * 1024;
const ASK_WITHIN: Duration = Duration::from_secs(60);

/// Before a case is measured for the first time.
const WARM_UP: Duration = Duration::from_millis(100);

/// A way to ask, with how much and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Which way.
    pub way: Way,
    /// Bytes of the request and of the answer.
    pub bytes: usize,
    /// Asks under way at once.
    pub in_flight: usize,
}

/// What was measured of a case.
#[derive(Debug, Clone, Serialize)]
pub struct LinkRow {
    /// Which.
    #[serde(flatten)]
    pub case: Case,
    /// One after the other; the same turn of two cases was measured at about the same time.
    pub turns: Vec<Turn>,
}

/// What was measured in one turn of a case.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Turn {
    /// Answers a second.
    pub asks_per_s: f64,
    /// The time that half of the asks stayed within, in microseconds.
    pub p50_us: f64,
    /// The time that 99 % of the asks stayed within, in microseconds.
    pub p99_us: f64,
}

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Bytes there and back on a TCP connection.
    PingPong,
    /// A minimal multiplexed RPC on TCP.
    MinimalRpc,
    /// ractor_cluster's own call.
    LibraryCall,
    /// From actor to actor of one node.
    LocalAsk,
    /// Ours.
    Link,
    /// Ours, small, while large ones of others are under way.
    LinkBehindBulk,
}

/// Measures every case in so many turns, for so long in each. `folder` is for the identities of the two nodes.
///
/// # Errors
/// When the nodes cannot be set up, or an ask fails.
pub async fn measure(folder: &Path, turns: u32, each: Duration) -> Result<Vec<LinkRow>, ActorError> {
    let ground = Ground::start(folder).await?;
    let mut rows: Vec<LinkRow> = cases()
        .map(|case| LinkRow {
            case,
            turns: Vec::new(),
        })
        .collect();
    for turn in 0..turns {
        for row in &mut rows {
            if turn == 0 {
                ground.measure(row.case, WARM_UP).await?;
            }
            row.turns.push(ground.measure(row.case, each).await?.turn());
        }
    }
    ground.stop().await;
    Ok(rows)
}

fn cases() -> impl Iterator<Item = Case> {
    let of_size = |bytes| {
        let case = move |way, in_flight| Case {
            way,
            bytes,
            in_flight,
        };
        let multiplexed = [Way::LocalAsk, Way::MinimalRpc, Way::LibraryCall, Way::Link];
        let loads = IN_FLIGHT.into_iter();
        let asked = loads.flat_map(move |in_flight| multiplexed.map(|way| case(way, in_flight)));
        std::iter::once(case(Way::PingPong, 1)).chain(asked)
    };
    let behind = Case {
        way: Way::LinkBehindBulk,
        bytes: SIZES[0],
        in_flight: 1,
    };
    // Right after the same ask without the bulk.
    let mut cases: Vec<Case> = SIZES.into_iter().flat_map(of_size).collect();
    let idle = |case: &Case| case.way == Way::Link && case.bytes == SIZES[0] && case.in_flight == 1;
    let place = cases.iter().position(idle).map_or(cases.len(), |at| at + 1);
    cases.insert(place, behind);
    cases.into_iter()
}

/// Everything that is measured.
struct Ground {
    pair: Pair,
    minimal: wire::MinimalRpc,
    library: library::Library,
    local: local::Local,
}

impl Ground {
    async fn start(folder: &Path) -> Result<Self, ActorError> {
        Ok(Self {
            pair: Pair::start(folder).await?,
            minimal: wire::MinimalRpc::start().await?,
            library: library::Library::start().await?,
            local: local::Local::start().await?,
        })
    }

    async fn measure(&self, case: Case, each: Duration) -> Result<Times, ActorError> {
        let request = Bytes::from(vec![7; case.bytes]);
        match case.way {
            Way::PingPong => wire::PingPong::start(case.bytes).await?.measure(each).await,
            Way::LocalAsk => load(case.in_flight, each, self.local.asker(request)).await,
            Way::MinimalRpc => load(case.in_flight, each, self.minimal.asker(request)).await,
            Way::LibraryCall => load(case.in_flight, each, self.library.asker(request.to_vec())).await,
            Way::Link => load(case.in_flight, each, self.pair.asker(request)).await,
            Way::LinkBehindBulk => self.pair.ask_behind_bulk(each).await,
        }
    }

    async fn stop(self) {
        self.library.stop();
        self.local.stop().await;
        self.pair.stop().await;
    }
}

/// Times of asks, and how long all of them took.
struct Times {
    each_us: Vec<f64>,
    took: Duration,
}

impl Times {
    fn turn(mut self) -> Turn {
        self.each_us.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (self.each_us.len() as f64 * share) as usize;
            let index = index.min(self.each_us.len().saturating_sub(1));
            self.each_us.get(index).copied().unwrap_or(f64::NAN)
        };
        Turn {
            asks_per_s: self.each_us.len() as f64 / self.took.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
    }
}

/// So many askers, each a task of its own that asks again when it has its answer.
async fn load<F, A>(in_flight: usize, each: Duration, ask: F) -> Result<Times, ActorError>
where
    F: Fn() -> A + Clone + Send + 'static,
    A: Future<Output = Result<usize, ActorError>> + Send + 'static,
{
    let began = Instant::now();
    let until = began + each;
    let mut askers = JoinSet::new();
    for _ in 0..in_flight {
        let ask = ask.clone();
        askers.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                ask().await?;
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
            Ok::<_, ActorError>(times)
        });
    }
    let mut each_us = Vec::new();
    while let Some(times) = askers.join_next().await {
        each_us.extend(times??);
    }
    Ok(Times {
        each_us,
        took: began.elapsed(),
    })
}

struct Echo;

impl LinkService for Echo {
    fn ask(
        &self,
        _: NodeId,
        request: Bytes,
        _: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        Box::pin(std::future::ready(Ok(request)))
    }

    fn tell(&self, _: NodeId, _: Bytes) {}
}

/// Takes in the one newcomer of the measurement.
struct OpenDesk;

impl EnrolDesk for OpenDesk {
    fn admit(
        &self,
        _: TokenHash,
        _: KeyFingerprint,
        _: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>> {
        Box::pin(std::future::ready(Ok(EnrolGrant::default())))
    }

    fn knows(&self, _: TokenHash) -> bool {
        true
    }
}

struct Running {
    links: LinksHandle,
    address: SocketAddr,
    root: Root,
}

/// Two linked nodes.
struct Pair {
    one: Running,
    two: Running,
    to: NodeId,
}

impl Pair {
    async fn start(folder: &Path) -> Result<Self, ActorError> {
        let (from, to) = (NodeId::from_ulid(Ulid(1)), NodeId::from_ulid(Ulid(2)));
        let founder = ClusterIdentity::create(&folder.join("one"), from)?;
        let one = Running::start(Arc::clone(&founder)).await?;
        one.links.enrol_with(Arc::new(OpenDesk));
        let addresses = vec![one.address.to_string()];
        let (join, _) = founder.invite(addresses, jiff::Timestamp::now(), INVITATION_VALID_FOR)?;
        let applicant = Applicant {
            node: to,
            name: "two".parse()?,
            generation: Generation(1),
            version: String::new(),
            wire_versions: LinkSettings::default().wire_versions,
            cluster_address: String::new(),
            edge_address: String::new(),
            timing: None,
        };
        let (newcomer, _) = ClusterIdentity::enrol(&folder.join("two"), &applicant, &join).await?;
        let two = Running::start(newcomer).await?;
        let peer = Peer {
            id: to,
            address: two.address.to_string(),
        };
        one.links.connect_to(vec![peer]);
        crate::runtime::testkit::eventually(ASK_WITHIN, || one.links.is_up(to)).await?;
        Ok(Self { one, two, to })
    }

    fn asker(
        &self,
        request: Bytes,
    ) -> impl Fn() -> BoxFuture<'static, Result<usize, ActorError>> + Clone + Send + 'static {
        let (links, to) = (self.one.links.clone(), self.to);
        move || {
            let (links, request) = (links.clone(), request.clone());
            Box::pin(async move {
                let deadline = Deadline::within(ASK_WITHIN);
                let answer = links.ask(to, Service::Bench, request, deadline).await?;
                Ok(answer.len())
            })
        }
    }

    /// Asks one small thing after the other while 32 MiB of large asks are under way all the time.
    async fn ask_behind_bulk(&self, each: Duration) -> Result<Times, ActorError> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut bulk = JoinSet::new();
        let large = Bytes::from(vec![7; BULK_BYTES]);
        for _ in 0..BULK_ASKS {
            let (links, to) = (self.one.links.clone(), self.to);
            let (large, is_over) = (large.clone(), Arc::clone(&is_over));
            bulk.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let deadline = Deadline::within(ASK_WITHIN);
                    if links
                        .ask(to, Service::Bench, large.clone(), deadline)
                        .await
                        .is_err()
                    {
                        return false;
                    }
                }
                true
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let small = Bytes::from(vec![7; SIZES[0]]);
        let times = load(1, each, self.asker(small)).await;
        is_over.store(true, Ordering::Relaxed);
        let ended = bulk.join_all().await;
        if ended.contains(&false) {
            return Err(ActorError::new("a large ask failed"));
        }
        times
    }

    async fn stop(self) {
        self.one.root.shutdown().await;
        self.two.root.shutdown().await;
    }
}

impl Running {
    async fn start(identity: Arc<ClusterIdentity>) -> Result<Self, ActorError> {
        let system = System::new(SystemConfig::default());
        let port = NodePort::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = port.address();
        let path = ActorPath::new("node/links");
        let made = links(
            &system,
            path,
            identity,
            Generation(1),
            port,
            LinkSettings::default(),
        );
        made.handle.serve(Service::Bench, Arc::new(Echo));
        let spec = SupervisorSpec::new(&system, ActorPath::new("node")).child(made.child);
        Ok(Self {
            links: made.handle,
            address,
            root: system.start(spec).await?,
        })
    }
}
