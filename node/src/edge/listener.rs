//! Accepting connections within bounds: how many, how slowly they may speak, how slowly they may listen.
//!
//! HTTP/1.1 only: MCP clients and browsers without TLS speak nothing else, and WebSockets need its upgrade.
//! Each connection is a task of one [`JoinSet`], so that all end with whoever drops the future of [`serve`].

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use troupe_protocol::error::{Code, Problem};

use super::stall::CutWhenStalled;
use crate::config::EdgeConfig;

/// Refusals being written at the same time; beyond them connections are just closed.
const REFUSALS_MAX: usize = 64;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed accept (no file descriptors left, say), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// File descriptors kept back for the store, upstreams and their pipes.
const DESCRIPTORS_RESERVED: u64 = 512;

/// What a connection may take.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// At the same time.
    pub connections_max: usize,
    /// For a request's headers, and between requests.
    pub header_timeout: Duration,
    /// Of a request's headers.
    pub header_bytes_max: usize,
    /// Without a byte of an answer being taken.
    pub write_stall_timeout: Duration,
}

impl ConnectionLimits {
    /// As configured, and as the operating system allows.
    pub fn new(config: &EdgeConfig) -> Self {
        let configured = config.connections_max.count();
        let possible = descriptors_for_connections();
        if possible < configured {
            tracing::warn!(
                configured,
                possible,
                "the open-files limit allows fewer connections than edge.connections_max; raise it (ulimit -n)"
            );
        }
        Self {
            connections_max: configured.min(possible),
            header_timeout: config.header_timeout_ms.millis(),
            header_bytes_max: config.header_bytes_max.count(),
            write_stall_timeout: config.write_stall_timeout_ms.millis(),
        }
    }
}

/// Raises the soft open-files limit to the hard one and says how many connections that leaves room for.
fn descriptors_for_connections() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        let limit = if setrlimit(Resource::Nofile, raised).is_ok() {
            maximum
        } else {
            current
        };
        let Some(limit) = limit else { return usize::MAX };
        let reserved = DESCRIPTORS_RESERVED.min(limit / 2);
        usize::try_from(limit - reserved).unwrap_or(usize::MAX)
    }
    #[cfg(not(unix))]
    usize::MAX
}

/// How many connections there are.
#[derive(Debug, Clone, Default)]
pub struct ConnectionCounts {
    open: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl ConnectionCounts {
    /// Open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more, until what is returned is dropped.
    pub fn enter(&self) -> Counted {
        Counted::new(&self.open)
    }

    /// Refused since the start.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Counts a connection for as long as it lives.
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a connection that waits for a request is left open when the node stops.
const LINGER: Duration = Duration::from_millis(150);

/// Serves until `stop` is cancelled, then lets the requests in hand finish.
///
/// Dropping the future cuts every connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    counts: ConnectionCounts,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        if counts.open() >= limits.connections_max {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                connections.spawn(async move {
                    refuse(stream).await;
                    drop(permit);
                });
            }
            continue;
        }
        let counted = counts.enter();
        let serving = serve_connection(stream, peer, router.clone(), limits.clone(), stop.clone());
        connections.spawn(async move {
            serving.await;
            drop(counted);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// A connection that its client already gave up is no reason to pause; anything else is.
async fn pause_after(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let stream = TokioIo::new(CutWhenStalled::new(stream, limits.write_stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes_max)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            // A request may be on its way already; its answer says that it is the connection's last.
            match tokio::time::timeout(LINGER, connection.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn answer(router: Router, request: hyper::Request<Incoming>) -> axum::response::Response {
    match router.oneshot(request.map(axum::body::Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Tells one client too many so, in a few bytes, and closes.
async fn refuse(mut stream: TcpStream) {
    let problem = Problem::new(
        Code::TooManyRequests,
        "all connections are taken (edge.connections_max); try again",
    );
    let body = serde_json::to_string(&Problem {
        status: 503,
        ..problem
    })
    .unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let write = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, write).await;
}
