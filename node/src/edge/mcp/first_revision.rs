//! The face for clients of the first revision (2024-11-05, basic/transports, "HTTP with SSE"), which later ones replaced.
//!
//! GET opens a stream, whose first event says where the client is to POST its messages. Each is answered with 202; what
//! there is to be said comes on the stream. Stream and session are one: when the connection is gone, so are the session
//! and its calls, and nothing of it is known to other nodes than the one that has the connection. Messages that reach
//! another are handed on there.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use troupe_actors::runtime::trace;
use troupe_actors::session::{
    Answer, CALLS_IN_FLIGHT_MAX, CallInSession, Endpoint, Notice, Notices, Refusal, Session, SessionId,
    StreamInSession,
};
use troupe_protocol::jsonrpc::{Kind, Message, RawMessage};
use troupe_protocol::mcp::{Era, method};

use super::event_stream::{self, KEEP_ALIVE, frame, keep_alive};
use super::fault::Fault;
use super::legacy::{self, NOTIFICATIONS_MAX};
use super::negotiation::{self, Accepts};
use super::reply::accepted;
use super::{At, Context, McpHeaders, forward, read_message};
use crate::edge::{Caller, EdgeState};

/// The most streams that may be open at the same time.
const STREAMS_MAX: usize = 1_024;
/// What waits for a slow client; who has more to say waits with it.
const WAITING_MAX: usize = 64;
/// How long after the stream was opened the client must have initialised.
const INITIALIZE_WITHIN: Duration = Duration::from_secs(60);

/// The routes of this face, beside those of the streamable ones.
pub(super) fn routes() -> Router<EdgeState> {
    Router::new()
        .route("/mcp/sse", get(open))
        .route("/mcp/messages", post(receive))
        .route("/mcp/servers/{name}/sse", get(open))
        .route("/mcp/servers/{name}/messages", post(receive))
}

/// The open streams, by the names that their clients got.
#[derive(Default)]
pub struct OpenStreams(Mutex<HashMap<SessionId, Arc<ToClient>>>);

/// The way to a client.
struct ToClient {
    owner: String,
    opened_at: Instant,
    /// The stream has to end.
    ended: CancellationToken,
    endpoint: Endpoint,
    sender: mpsc::Sender<Said>,
    /// Since it has initialised.
    session: OnceLock<Arc<Session>>,
}

/// What goes to the stream.
enum Said {
    /// The client has initialised: from now on it hears of notices, too.
    Initialized(Arc<Session>),
    /// A message.
    Message(Bytes),
}

impl ToClient {
    /// Sends a message; false if the client is gone.
    async fn send(&self, message: &str) -> bool {
        let message = Said::Message(frame(message).into());
        self.sender.send(message).await.is_ok()
    }
}

impl OpenStreams {
    /// Takes a stream up. When there are too many, whoever has the most loses one: one whose client has not initialised,
    /// else the oldest.
    fn insert(&self, id: SessionId, to_client: Arc<ToClient>) -> Result<(), Fault> {
        let mut open = self.0.lock();
        if open.len() >= STREAMS_MAX && !make_room(&mut open, &to_client.owner) {
            return Err(Fault::unavailable(format!(
                "{STREAMS_MAX} streams of the first revision are open: use the streamable transport"
            )));
        }
        open.insert(id, to_client);
        Ok(())
    }

    fn find(&self, id: &str, owner: &str, endpoint: &Endpoint) -> Option<Arc<ToClient>> {
        let open = self.0.lock();
        let found = open.get(id);
        let found = found.filter(|found| found.owner == owner && found.endpoint == *endpoint);
        found.cloned()
    }
}

/// Ends a stream of who has the most of them, unless that is who wants another one.
fn make_room(open: &mut HashMap<SessionId, Arc<ToClient>>, for_owner: &str) -> bool {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for to_client in open.values() {
        *counts.entry(&to_client.owner).or_default() += 1;
    }
    let own = counts.get(for_owner).copied().unwrap_or_default();
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let Some((owner, _)) = most.filter(|(_, count)| **count > own) else {
        return false;
    };
    let theirs = open.iter().filter(|(_, to_client)| to_client.owner == **owner);
    let first = theirs.min_by_key(|(_, to_client)| (to_client.session.get().is_some(), to_client.opened_at));
    let Some(id) = first.map(|(id, _)| id.clone()) else {
        return false;
    };
    if let Some(given_up) = open.remove(&id) {
        given_up.ended.cancel();
    }
    true
}

/// GET: a client opens its stream.
async fn open(
    State(state): State<EdgeState>,
    caller: Caller,
    At(endpoint): At,
    all_headers: HeaderMap,
) -> Result<Response, Fault> {
    let context = Context::of_stream(&state, endpoint, caller, &all_headers)?;
    // A name that this node owns, so that its messages find the way here from every node.
    let id = state.sessions.draw_id();
    let id = id.map_err(|error| Fault::unavailable(error.to_string()))?;
    if state.sessions.is_elsewhere(id.as_str()) {
        return Err(Fault::unavailable(
            "this node has no streams of its own at the moment: try again".to_owned(),
        ));
    }
    let (sender, said) = mpsc::channel(WAITING_MAX);
    let to_client = Arc::new(ToClient {
        owner: legacy::owner_of(&context.principal),
        opened_at: Instant::now(),
        ended: CancellationToken::new(),
        endpoint: context.endpoint.clone(),
        sender,
        session: OnceLock::new(),
    });
    state.first_revision.insert(id.clone(), Arc::clone(&to_client))?;
    let opening = format!(
        "event: endpoint\ndata: {}/messages?sessionId={}\n\n",
        context.endpoint,
        id.as_str()
    );
    let stream = OpenStream {
        opening: Some(opening.into()),
        said,
        session: None,
        end: Box::pin(context.no_longer_served()),
        must_end: Box::pin(std::future::pending()),
        too_late: Box::pin(sleep(INITIALIZE_WITHIN)),
        keep_alive: keep_alive(),
        registered: Registered {
            state: state.clone(),
            id,
            to_client,
        },
    };
    let events = stream::unfold(stream, next_event);
    Ok(event_stream::response(Body::from_stream(events)))
}

/// The note of an open stream; dropped, it ends the session.
struct Registered {
    state: EdgeState,
    id: SessionId,
    to_client: Arc<ToClient>,
}

impl Registered {
    fn is_elsewhere(&self) -> bool {
        self.state.sessions.is_elsewhere(self.id.as_str())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.state.first_revision.0.lock().remove(&self.id);
        if let Some(session) = self.to_client.session.get().cloned() {
            let sessions = self.state.sessions.clone();
            self.state.sessions.finish(Box::pin(async move {
                // Whatever is left of it ends when it has been idle.
                let _ = sessions.close(session.id.as_str(), &session.settled.owner).await;
            }));
        }
    }
}

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

struct OpenStream {
    opening: Option<Bytes>,
    said: mpsc::Receiver<Said>,
    session: Option<Initialized>,
    end: Ending,
    must_end: Ending,
    too_late: Pin<Box<Sleep>>,
    keep_alive: Interval,
    registered: Registered,
}

/// What a stream has once its client has initialised.
struct Initialized {
    session: Arc<Session>,
    notices: Notices,
    _in_session: StreamInSession,
}

async fn next_event(mut stream: OpenStream) -> Option<(Result<Bytes, Infallible>, OpenStream)> {
    if let Some(opening) = stream.opening.take() {
        return Some((Ok(opening), stream));
    }
    let event = loop {
        let is_waited_for = stream.session.is_none();
        let ended = stream.registered.to_client.ended.clone();
        tokio::select! {
            biased;
            () = &mut stream.end => return None,
            () = &mut stream.must_end => return None,
            () = ended.cancelled() => return None,
            said = stream.said.recv() => match said? {
                Said::Message(message) => break message,
                Said::Initialized(session) => stream.initialized(session),
            },
            notices = notices_of(&mut stream.session) => {
                let frames = stream.rendered(&notices);
                if !frames.is_empty() {
                    break frames.into();
                }
            }
            () = &mut stream.too_late, if is_waited_for => return None,
            // Once the name is another node's, its client's first message would not find the way here.
            _ = stream.keep_alive.tick() => {
                if is_waited_for && stream.registered.is_elsewhere() {
                    return None;
                }
                break Bytes::from_static(KEEP_ALIVE.as_bytes());
            }
        }
    };
    Some((Ok(event), stream))
}

async fn notices_of(initialized: &mut Option<Initialized>) -> Vec<Notice> {
    match initialized {
        Some(initialized) => initialized.notices.next().await,
        None => std::future::pending().await,
    }
}

impl OpenStream {
    fn initialized(&mut self, session: Arc<Session>) {
        let in_session = session.open_stream();
        self.must_end = Box::pin(in_session.must_end());
        let gateway = &self.registered.state.gateway;
        self.session = Some(Initialized {
            notices: gateway.notices(&session.settled.endpoint),
            session,
            _in_session: in_session,
        });
    }

    fn rendered(&self, notices: &[Notice]) -> String {
        let Some(initialized) = &self.session else {
            return String::new();
        };
        let rendered = notices
            .iter()
            .filter_map(|notice| legacy::render(&initialized.session, notice));
        rendered.map(|message| frame(&message)).collect()
    }
}

/// POST: a message of a client comes in.
async fn receive(
    State(state): State<EdgeState>,
    caller: Caller,
    At(endpoint): At,
    request: Request,
) -> Result<Response, Fault> {
    if !negotiation::is_json(request.headers()) {
        return Err(Fault::not_json());
    }
    let (parts, body) = request.into_parts();
    let mut headers = McpHeaders::read(&parts.headers)?;
    headers.session_id = parts.uri.query().and_then(session_in);
    let body = Arc::new(read_message(&state, &parts, body).await?);
    let message = Message::parse(&body).map_err(|error| Fault::not_a_message(&error))?;
    let accepts = Accepts {
        json: true,
        event_stream: true,
    };
    let mut context = Context::new(&state, endpoint, caller, headers, accepts);
    context.body = Some(Arc::clone(&body));
    context.path = parts.uri.path_and_query().cloned();
    let taken = take(&context, &message, &parts.headers).await;
    taken.map_err(|fault| fault.of(message.id))
}

/// The name in the query, as the event `endpoint` had it.
fn session_in(query: &str) -> Option<&str> {
    query.split('&').find_map(|part| part.strip_prefix("sessionId="))
}

async fn take(context: &Context<'_>, message: &Message<'_>, headers: &HeaderMap) -> Result<Response, Fault> {
    let id = context.headers.session_id.ok_or_else(|| {
        Fault::invalid_request("the query must have the sessionId that the event `endpoint` gave")
    })?;
    let owner = legacy::owner_of(&context.principal);
    let Some(to_client) = context.state.first_revision.find(id, &owner, &context.endpoint) else {
        // The stream may be another node's.
        let answer = forward::hand_on(context, Method::POST, headers).await?;
        return answer.ok_or_else(Fault::unknown_stream);
    };
    if message.kind == Kind::Request && message.method() == method::INITIALIZE {
        return initialize(context, message, id, &to_client).await;
    }
    let session = to_client.session.get();
    let session = session.ok_or_else(|| Fault::invalid_request("send `initialize` first"))?;
    match message.kind {
        Kind::Request => return Ok(call(context, message, session, &to_client)),
        Kind::Notification => legacy::take_notification(context, session, message),
        Kind::Response => legacy::take_response(session, message),
    }
    Ok(accepted())
}

async fn initialize(
    context: &Context<'_>,
    message: &Message<'_>,
    name: &str,
    to_client: &Arc<ToClient>,
) -> Result<Response, Fault> {
    let settled = legacy::settle(context, message)?;
    let version = settled.protocol_version;
    let id = message.id.map_or("null", RawValue::get);
    let gateway = &context.state.gateway;
    let answer = match gateway.introduce(&context.endpoint, Era::Legacy).await {
        Err(refusal) => refusal.into_answer(Era::Legacy),
        Ok(introduction) => {
            let sessions = &context.state.sessions;
            // Stream and session have one name, and so one node and one end.
            let session = sessions.open_bound(name, settled).await;
            let session = session.map_err(|error| Fault::unavailable(error.to_string()))?;
            if to_client.session.set(Arc::clone(&session)).is_err() {
                return Err(Fault::invalid_request("the session is initialised already"));
            }
            let initialized = to_client
                .sender
                .send(Said::Initialized(Arc::clone(&session)))
                .await;
            if initialized.is_err() || sessions.is_elsewhere(name) {
                // The stream ended meanwhile, or has to.
                to_client.ended.cancel();
                let _ = sessions.close(name, &session.settled.owner).await;
                return Err(Fault::unknown_stream());
            }
            Answer::Result(legacy::initialize_result(version, &introduction).into())
        }
    };
    to_client.send(&answer.to_response(id)).await;
    Ok(accepted())
}

/// Begins a call. Its answer, and what comes before, goes to the stream.
fn call(
    context: &Context<'_>,
    message: &Message<'_>,
    session: &Arc<Session>,
    to_client: &Arc<ToClient>,
) -> Response {
    let reply_to = legacy::reply_to(context, message);
    let Some(in_session) = session.begin_call(&reply_to.id) else {
        return reply_to.answer(&Refusal::TooManyCalls(CALLS_IN_FLIGHT_MAX).into_answer(Era::Legacy));
    };
    let (sender, notifications) = mpsc::channel(NOTIFICATIONS_MAX);
    let request = legacy::client_request(context, message, session, Some(sender));
    let (gateway, body) = (context.state.gateway.clone(), context.body.clone());
    let answering = async move {
        let _counted = body;
        gateway.answer(request).await
    };
    let answering = trace::within(trace::current(), answering);
    let call = deliver(
        Arc::clone(to_client),
        reply_to.id,
        in_session,
        answering,
        notifications,
    );
    context.state.sessions.finish(Box::pin(call));
    accepted()
}

/// Sends what a call's server says, and the answer. Ends with the client.
async fn deliver(
    to_client: Arc<ToClient>,
    request_id: Box<str>,
    in_session: CallInSession,
    answering: impl Future<Output = Answer> + Send,
    notifications: mpsc::Receiver<RawMessage>,
) {
    let mut answering = Box::pin(legacy::answer_unless_cancelled(in_session, answering));
    let mut notifications = Some(notifications);
    let answer = loop {
        tokio::select! {
            biased;
            () = to_client.sender.closed() => return,
            notification = event_stream::receive(&mut notifications) => match notification {
                Some(notification) => drop(to_client.send(notification.as_str()).await),
                None => notifications = None,
            },
            answer = &mut answering => break answer,
        }
    };
    while let Some(Ok(notification)) = notifications.as_mut().map(mpsc::Receiver::try_recv) {
        to_client.send(notification.as_str()).await;
    }
    to_client.send(&answer.to_response(&request_id)).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    fn stream_of(owner: &str) -> Arc<ToClient> {
        Arc::new(ToClient {
            owner: owner.to_owned(),
            opened_at: Instant::now(),
            ended: CancellationToken::new(),
            endpoint: Endpoint::Aggregate,
            sender: mpsc::channel(1).0,
            session: OnceLock::new(),
        })
    }

    #[test]
    fn who_has_the_most_streams_makes_room() {
        let streams = OpenStreams::default();
        let of_one: Vec<_> = (0..STREAMS_MAX).map(|_| stream_of("one")).collect();
        let id = || SessionId::random().expect("randomness");
        for stream in &of_one {
            assert!(streams.insert(id(), Arc::clone(stream)).is_ok());
        }
        assert!(streams.insert(id(), stream_of("one")).is_err());
        assert!(of_one.iter().all(|stream| !stream.ended.is_cancelled()));
        assert!(streams.insert(id(), stream_of("other")).is_ok());
        assert!(of_one[0].ended.is_cancelled(), "the oldest");
        assert_eq!(streams.0.lock().len(), STREAMS_MAX);
    }

    #[test]
    fn the_session_is_read_from_the_query() {
        assert_eq!(session_in("sessionId=a-b_1"), Some("a-b_1"));
        assert_eq!(session_in("x=1&sessionId=a"), Some("a"));
        assert_eq!(session_in("session=a"), None);
    }
}
