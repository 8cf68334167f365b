//! The legacy eras' way with a message: `initialize` opens a session, everything else belongs to one.
//!
//! A client that loses its connection has not cancelled its call (2025-11-25, basic/transports, "Sending Messages"),
//! so the call goes on without it; only `notifications/cancelled`, DELETE and the deadline end it early.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use troupe_actors::runtime::trace;
use troupe_actors::session::replay::NOTICES;
use troupe_actors::session::{
    Answer, CALLS_IN_FLIGHT_MAX, CallInSession, Client, ClientRequest, Introduction, NewSession, Notice,
    Refusal, Session,
};
use troupe_protocol::access::Principal;
use troupe_protocol::jsonrpc::{Kind, Message, RawMessage, RawReply, edit};
use troupe_protocol::mcp::{ClientCapabilities, Era, ProtocolVersion, header, method};

use super::Context;
use super::era;
use super::event_stream::{self, NoticeStream, PendingCall};
use super::fault::Fault;
use super::forward;
use super::reply::{ReplyTo, accepted};
use super::resumption::{self, LastSeen, Resumable};

/// The most that a client may say of itself, in bytes: it is kept as long as its session.
const CAPABILITIES_BYTES_MAX: usize = 16 * 1024;
/// How many notifications of one call may wait for a slow client; more are dropped, as progress may be.
pub(super) const NOTIFICATIONS_MAX: usize = 64;

/// A message of a legacy client.
pub(super) async fn receive(
    context: &Context<'_>,
    message: &Message<'_>,
    headers: &HeaderMap,
) -> Result<Response, Fault> {
    if message.kind == Kind::Request && message.method() == method::INITIALIZE {
        return initialize(context, message).await;
    }
    if let Some(answer) = forward::hand_on(context, Method::POST, headers).await? {
        return Ok(answer);
    }
    let session = session_of(context).await?;
    match message.kind {
        Kind::Request => call(context, message, session).await,
        Kind::Notification => {
            take_notification(context, &session, message);
            Ok(accepted())
        }
        Kind::Response => {
            take_response(&session, message);
            Ok(accepted())
        }
    }
}

/// Whose sessions are these: the key's, or everybody's who came without one.
pub(super) fn owner_of(principal: &Principal) -> String {
    principal
        .key_id
        .map_or_else(|| format!("name:{}", principal.name), |key_id| key_id.to_string())
}

/// The session that the request belongs to.
async fn session_of(context: &Context<'_>) -> Result<Arc<Session>, Fault> {
    let id = context.headers.session_id.ok_or_else(Fault::no_session)?;
    let session = context
        .state
        .gateway
        .session(id, &owner_of(&context.principal))
        .await;
    let session = session.filter(|session| session.settled.endpoint == context.endpoint);
    let session = session.ok_or_else(Fault::unknown_session)?;
    era::check_legacy_version(&context.headers)?;
    Ok(session)
}

async fn initialize(context: &Context<'_>, message: &Message<'_>) -> Result<Response, Fault> {
    let settled = settle(context, message)?;
    let version = settled.protocol_version;
    let reply_to = reply_to(context, message);
    let introduction = match context
        .state
        .gateway
        .introduce(&context.endpoint, Era::Legacy)
        .await
    {
        Ok(introduction) => introduction,
        Err(refusal) => return Ok(reply_to.answer(&refusal.into_answer(Era::Legacy))),
    };
    let session = context
        .state
        .sessions
        .open(settled)
        .await
        .map_err(|error| Fault::unavailable(error.to_string()))?;
    let mut response = reply_to.answer(&Answer::Result(initialize_result(version, &introduction).into()));
    let id =
        HeaderValue::from_str(session.id.as_str()).map_err(|error| Fault::unavailable(error.to_string()))?;
    response
        .headers_mut()
        .insert(HeaderName::from_static(header::SESSION_ID), id);
    Ok(response)
}

/// What client and node agree on.
pub(super) fn settle(context: &Context<'_>, message: &Message<'_>) -> Result<NewSession, Fault> {
    let param = |key: &str| message.params.and_then(|params| edit::member(params, key));
    let wanted = message
        .params
        .and_then(|params| edit::string_member(params, "protocolVersion"));
    let wanted =
        wanted.ok_or_else(|| Fault::invalid_params("params.protocolVersion is required, a string"))?;
    let capabilities = param("capabilities").filter(|capabilities| capabilities.get().starts_with('{'));
    if capabilities.is_some_and(|capabilities| capabilities.get().len() > CAPABILITIES_BYTES_MAX) {
        let message = format!("params.capabilities has more than {CAPABILITIES_BYTES_MAX} bytes");
        return Err(Fault::invalid_params(message));
    }
    let capabilities = capabilities.map(|capabilities| ClientCapabilities::new(capabilities.to_owned()));
    Ok(NewSession {
        owner: owner_of(&context.principal).into(),
        endpoint: context.endpoint.clone(),
        protocol_version: negotiated(&wanted),
        client_capabilities: capabilities.unwrap_or_default(),
        client: client_name(param("clientInfo")).into(),
    })
}

/// The client's revision if it is spoken here, else our latest (2025-11-25, basic/lifecycle, "Version Negotiation").
fn negotiated(wanted: &str) -> ProtocolVersion {
    let known = wanted
        .parse()
        .ok()
        .filter(|version: &ProtocolVersion| version.era() == Era::Legacy);
    known.unwrap_or(ProtocolVersion::LATEST_LEGACY)
}

fn client_name(info: Option<&RawValue>) -> String {
    let part = |key: &str| {
        info.and_then(|info| edit::string_member(info, key))
            .unwrap_or_default()
    };
    format!("{} {}", part("name"), part("version"))
        .trim()
        .chars()
        .take(200)
        .collect()
}

pub(super) fn initialize_result(version: ProtocolVersion, introduction: &Introduction) -> String {
    let mut result = format!(
        r#"{{"protocolVersion":"{version}","capabilities":{},"serverInfo":{}"#,
        introduction.capabilities, introduction.server_info
    );
    if let Some(instructions) = &introduction.instructions {
        result.push_str(",\"instructions\":");
        edit::push_string(&mut result, instructions);
    }
    result.push('}');
    result
}

pub(super) fn reply_to(context: &Context<'_>, message: &Message<'_>) -> ReplyTo {
    let id = message.id.map_or("null", RawValue::get);
    ReplyTo {
        id: id.into(),
        era: Era::Legacy,
        accepts: context.accepts,
        resumable: None,
    }
}

async fn call(
    context: &Context<'_>,
    message: &Message<'_>,
    session: Arc<Session>,
) -> Result<Response, Fault> {
    let reply_to = ReplyTo {
        resumable: Resumable::new(&session, &context.state.sessions),
        ..reply_to(context, message)
    };
    let Some(in_session) = session.begin_call(&reply_to.id) else {
        return Ok(reply_to.answer(&Refusal::TooManyCalls(CALLS_IN_FLIGHT_MAX).into_answer(Era::Legacy)));
    };
    let (notifications, received) = context
        .accepts
        .event_stream
        .then(|| mpsc::channel(NOTIFICATIONS_MAX))
        .map_or((None, None), |(sender, receiver)| (Some(sender), Some(receiver)));
    let request = client_request(context, message, &session, notifications);
    let gateway = context.state.gateway.clone();
    let body = context.body.clone();
    let answered = async move {
        let _counted = body;
        answer_unless_cancelled(in_session, gateway.answer(request)).await
    };
    let call: PendingCall = Box::pin(trace::within(trace::current(), answered));
    Ok(reply_to
        .call(Box::pin(context.state.sessions.unhurried(call)), received)
        .await)
}

/// A request of the session's client.
pub(super) fn client_request(
    context: &Context<'_>,
    message: &Message<'_>,
    session: &Arc<Session>,
    notifications: Option<mpsc::Sender<RawMessage>>,
) -> ClientRequest {
    ClientRequest {
        endpoint: context.endpoint.clone(),
        client: Client {
            era: Era::Legacy,
            principal: context.principal.clone(),
            capabilities: session.settled.client_capabilities.clone(),
        },
        method: message.method().to_owned(),
        params: message.params.map(RawValue::to_owned),
        notifications,
        session: Some(Arc::clone(session)),
        param_headers: None,
    }
}

pub(super) async fn answer_unless_cancelled(
    in_session: CallInSession,
    answer: impl Future<Output = Answer>,
) -> Answer {
    tokio::select! {
        answer = answer => answer,
        () = in_session.cancelled() => Refusal::Cancelled.into_answer(Era::Legacy),
    }
}

/// Notifications have no answer, so what cannot be read is passed over. What is not about this node is its server's.
pub(super) fn take_notification(context: &Context<'_>, session: &Arc<Session>, message: &Message<'_>) {
    match message.method() {
        // The server was greeted by this node itself. It shares its connection with other clients, who have other roots:
        // it asks for them in the midst of a call.
        method::INITIALIZED | method::NOTIFICATION_PROGRESS | method::NOTIFICATION_ROOTS_CHANGED => {}
        method::NOTIFICATION_CANCELLED => {
            let params = message.params;
            if let Some(request_id) = params.and_then(|params| edit::member(params, "requestId")) {
                session.cancel_call(request_id.get());
            }
        }
        other => context.state.gateway.notify(session, other, message.params),
    }
}

/// The client's answer to a request that a server made on a call's stream.
pub(super) fn take_response(session: &Session, message: &Message<'_>) {
    let reply = match (message.result, message.error) {
        (Some(result), _) => RawReply::Result(result.to_owned()),
        (None, Some(error)) => RawReply::Error(error.to_owned()),
        (None, None) => return,
    };
    if let Some(id) = message.id {
        session.deliver(id.get(), reply);
    }
}

/// Opens the session's stream of notices, or takes that or a call's stream up where the client lost it.
pub(super) async fn open_stream(context: &Context<'_>, headers: &HeaderMap) -> Result<Response, Fault> {
    let session = session_of(context).await?;
    let last_seen = LastSeen::read(headers).filter(|_| session.can_resume());
    if let Some(LastSeen::Known(id)) = last_seen
        && id.stream != NOTICES
    {
        return resumption::of_call(context, session, id);
    }
    let in_session = session.open_stream();
    let must_end = in_session.must_end();
    let no_longer = context.no_longer_served();
    let fresh = context.state.gateway.notices(&context.endpoint);
    let (notices, goes_on) = session.feed(fresh, last_seen.is_some()).await;
    let listening = Arc::clone(&session);
    let render = move |notice: &Notice| {
        let message = render(&listening, notice)?;
        Some(resumption::notice_event(&listening, &message))
    };
    let opening = match last_seen {
        None => resumption::opening_of_notices(&session),
        Some(LastSeen::Known(id)) if goes_on && let Ok(replayed) = session.replay(id) => {
            replayed.frames.concat().into()
        }
        // Whatever it has missed: it is to look at everything again.
        Some(_) => {
            let everything = Notice::everything(session.subscriptions());
            let told: Vec<Bytes> = everything.iter().filter_map(&render).collect();
            told.concat().into()
        }
    };
    Ok(event_stream::of_notices(NoticeStream {
        opening,
        notices,
        render: Box::new(render),
        end: Box::pin(async move {
            tokio::select! {
                () = must_end => {}
                () = no_longer => {}
            }
        }),
        closing: String::new(),
        in_session: Some(in_session),
    }))
}

/// A notice as a message to this client; nothing if it does not want to hear of it.
pub(super) fn render(session: &Session, notice: &Notice) -> Option<String> {
    let Notice::ResourceUpdated(uri) = notice else {
        return Some(edit::call(
            None,
            notice.method(),
            None,
            &edit::ObjectEdits::default(),
        ));
    };
    if !session.is_subscribed(uri) {
        return None;
    }
    let mut message = format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"uri":"#,
        notice.method()
    );
    edit::push_string(&mut message, uri);
    message.push_str("}}");
    Some(message)
}

/// Ends the session at its client's wish.
pub(super) async fn end_session(context: &Context<'_>) -> Result<Response, Fault> {
    let session = session_of(context).await?;
    let ended = context
        .state
        .sessions
        .close(session.id.as_str(), &session.settled.owner)
        .await;
    ended.map_err(|error| Fault::unavailable(error.to_string()))?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_revision_is_taken_where_it_is_legacy_and_known() {
        for (wanted, agreed) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-06-18", "2025-06-18"),
            ("2026-07-28", "2025-11-25"),
            ("1900-01-01", "2025-11-25"),
            ("", "2025-11-25"),
        ] {
            assert_eq!(negotiated(wanted).as_str(), agreed, "{wanted:?}");
        }
    }
}
