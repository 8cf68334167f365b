//! Connections to one server over HTTP/1.1 in clear, kept from call to call.
//!
//! A connection is driven by the task of whoever uses it. It has none of its own, so an answer wakes the caller and nobody
//! else: on the way from a client to a server and back, a call stays in one task. Dropping an answer before its end
//! closes the connection, which is how a modern server learns that the call was given up.
//!
//! A request is sent a second time only if the kept connection turned out to be closed before anything of it was written.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tower_service::Service;

use super::client::{CONNECT_TIMEOUT, IDLE_TIMEOUT};

/// How often connections that nobody uses are looked at: those that are old or closed go.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Connections that are kept though nobody uses them; further ones are closed after use.
const IDLE_MAX: usize = 256;
/// What a server may still say after the part of an answer that was of interest, for its connection to be kept.
const LAST_FRAMES_MAX: usize = 4;
/// A connection whose peer does not answer is probed after such a time, and again after each further one.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Probes without an answer after which it is given up.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what was sent may stay without an acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// There is no connection, so nothing was sent.
    NotConnected(String),
    /// The connection broke; what was sent may have been acted upon.
    Broken(String),
}

/// The connections to one server.
pub(super) struct KeptConnections {
    /// `http://HOST:PORT/`.
    origin: Uri,
    connector: HttpConnector,
    /// The one used last at the end.
    idle: Mutex<VecDeque<Idle>>,
    sweeping: OnceLock<AbortOnDropHandle<()>>,
}

struct Idle {
    wire: Wire,
    since: Instant,
}

/// One connection.
struct Wire {
    sender: SendRequest<Full<Bytes>>,
    /// Nothing once the connection has ended.
    driver: Option<Pin<Box<Driver>>>,
}

type Driver = Connection<TokioIo<TcpStream>, Full<Bytes>>;
/// A request of which nothing was sent.
type Unsent = Option<Request<Full<Bytes>>>;

/// The body of an answer. At its end the connection is kept for the next call.
pub(super) struct KeptBody {
    incoming: Incoming,
    /// Nothing at the end.
    wire: Option<Wire>,
    is_begun: bool,
    home: Arc<KeptConnections>,
}

impl KeptConnections {
    /// The connections to this address. None is made yet.
    pub fn new(origin: Uri) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
        Self {
            origin,
            connector,
            idle: Mutex::default(),
            sweeping: OnceLock::new(),
        }
    }

    /// Sends a request over a connection that is idle, else over a new one.
    pub async fn send(
        self: &Arc<Self>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<KeptBody>, Failed> {
        while let Some(wire) = self.take_idle() {
            match self.exchange(wire, request).await {
                Ok(response) => return Ok(response),
                // The server closed it at this very moment, and has not seen the request.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(Failed::Broken(in_words(&error))),
            }
        }
        let connecting = Box::pin(self.connect());
        let wire = connecting.await.map_err(Failed::NotConnected)?;
        let exchanged = self.exchange(wire, request).await;
        exchanged.map_err(|(error, _)| Failed::Broken(in_words(&error)))
    }

    async fn connect(&self) -> Result<Wire, String> {
        let connecting = self.connector.clone().call(self.origin.clone());
        let connected = timeout(CONNECT_TIMEOUT, connecting).await;
        let stream = connected
            .map_err(|_| TOO_LONG.to_owned())?
            .map_err(|error| not_connected(&error))?;
        let (sender, driver) = http1::handshake(stream)
            .await
            .map_err(|error| not_connected(&error))?;
        Ok(Wire {
            sender,
            driver: Some(Box::pin(driver)),
        })
    }

    /// The connection that was used last, if it is still good: the others may then grow old.
    fn take_idle(&self) -> Option<Wire> {
        loop {
            let Idle { mut wire, since } = self.idle.lock().pop_back()?;
            if since.elapsed() < IDLE_TIMEOUT && wire.is_still_free() {
                return Some(wire);
            }
        }
    }

    fn keep(self: &Arc<Self>, wire: Wire) {
        // Without a runtime, which is about to end then, connections are of no use.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            let since = Instant::now();
            idle.push_back(Idle { wire, since });
        }
        drop(idle);
        // The task is owned by the connections and ends with them.
        self.sweeping
            .get_or_init(|| AbortOnDropHandle::new(runtime.spawn(sweep(Arc::downgrade(self)))));
    }

    /// One request and the beginning of its answer. A request of which nothing was sent comes back.
    async fn exchange(
        self: &Arc<Self>,
        mut wire: Wire,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<KeptBody>, (hyper::Error, Unsent)> {
        let mut answering = pin!(wire.sender.try_send_request(request));
        let answered = poll_fn(|context| {
            wire.drive(context);
            answering.as_mut().poll(&mut quiet())
        });
        match answered.await {
            Ok(response) => Ok(response.map(|incoming| KeptBody {
                incoming,
                wire: Some(wire),
                is_begun: false,
                home: Arc::clone(self),
            })),
            Err(mut error) => {
                let unsent = error.take_message();
                Err((error.into_error(), unsent))
            }
        }
    }
}

/// Closes connections that have been idle for too long, or that the server has closed.
async fn sweep(connections: Weak<KeptConnections>) {
    loop {
        sleep(SWEEP_EVERY).await;
        let Some(connections) = connections.upgrade() else {
            return;
        };
        let mut idle = connections.idle.lock();
        idle.retain_mut(|idle| idle.since.elapsed() < IDLE_TIMEOUT && idle.wire.is_still_free());
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
    }
}

/// For what makes progress only while a connection is driven, which is always followed by a look at it: nobody need be
/// woken.
fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Wire {
    /// Reads and writes what there is.
    fn drive(&mut self, context: &mut Context<'_>) {
        let driver = self.driver.as_mut();
        if driver.is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
            self.driver = None;
        }
    }

    /// Whether the next request can be sent, after a look at what the server has done meanwhile.
    fn is_still_free(&mut self) -> bool {
        self.drive(&mut quiet());
        self.driver.is_some() && self.sender.is_ready()
    }
}

impl KeptBody {
    /// How many bytes are to come, if that is known.
    pub fn bytes_expected(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// The next part of the body; nothing at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, String>> {
        while self.wire.is_some() {
            let Some(frame) = ready!(self.poll_frame(context)) else {
                self.give_back();
                break;
            };
            let frame = frame.map_err(|error| {
                self.wire = None;
                in_words(&error)
            })?;
            // Trailers say nothing to us.
            if let Ok(data) = frame.into_data() {
                if self.incoming.is_end_stream() {
                    self.give_back();
                }
                return Poll::Ready(Ok(Some(data)));
            }
        }
        Poll::Ready(Ok(None))
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        if !std::mem::replace(&mut self.is_begun, true)
            && let Some(wire) = &mut self.wire
        {
            // The connection waits for somebody to want the body. Asking wakes whoever drove it last, which was us.
            wire.drive(&mut quiet());
        }
        let frame = Pin::new(&mut self.incoming).poll_frame(&mut quiet());
        let (Poll::Pending, Some(wire)) = (&frame, &mut self.wire) else {
            return frame;
        };
        wire.drive(context);
        Pin::new(&mut self.incoming).poll_frame(&mut quiet())
    }

    /// The answer is complete: the connection is free for the next call.
    fn give_back(&mut self) {
        let Some(mut wire) = self.wire.take() else { return };
        if wire.is_still_free() {
            self.home.keep(wire);
        }
    }
}

impl Drop for KeptBody {
    /// Nobody wants the rest. If it is here already, the connection is good for another call; else it is closed.
    fn drop(&mut self) {
        for _ in 0..LAST_FRAMES_MAX {
            match self.poll_chunk(&mut quiet()) {
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(_) | Poll::Pending => return,
            }
        }
    }
}

const TOO_LONG: &str = "connecting took too long";

fn not_connected(error: &(dyn Error + 'static)) -> String {
    let cause = innermost(error);
    let is_late = cause
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
    if is_late {
        TOO_LONG.to_owned()
    } else {
        format!("connecting failed: {cause}")
    }
}

fn in_words(error: &hyper::Error) -> String {
    innermost(error).to_string()
}

/// The cause that says most.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

#[cfg(test)]
mod tests;
