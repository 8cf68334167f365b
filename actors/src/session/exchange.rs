//! One request to a server, and what the server wants of the client before it answers.
//!
//! | client | server | what the server wants |
//! |---|---|---|
//! | modern | modern | is its answer, and passes as it is |
//! | legacy | modern | is asked of the client on the call's stream; then the request is made again ([`super::input`]) |
//! | legacy | legacy | is asked of the client on the call's stream, while the server waits |
//! | modern | legacy | is the answer to the client, while the server waits and the call is parked ([`super::parked`]) |

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use troupe_protocol::jsonrpc::{RawMessage, RawReply, edit};
use troupe_protocol::mcp::{Era, LogLevel, Profile, meta, method};
use troupe_protocol::server::ServerName;

use super::bridge;
use super::endpoint::Endpoint;
use super::gateway::{Client, ClientRequest, Gateway, REQUEST_STATE};
use super::input::{self, INPUT_ROUNDS_MAX};
use super::parked::{Listener, ParkedCall, ParkingError, ParkingHandle, Round, Whose};
use super::refusal::Refusal;
use super::session::Session;
use super::tasks;
use crate::runtime::Deadline;
use crate::upstream::{CallOptions, Question, QuestionsTo, UpstreamHandle};

/// Notifications of a parked call that wait for its client; further ones are dropped.
const NOTIFICATIONS_WAITING_MAX: usize = 64;
/// How long a call may last from its begin to its end, with all the time that its client takes for answers.
const CALL_WITH_ANSWERS_TIME_MAX: Duration = Duration::from_secs(3_600);

/// A request on its way.
pub(super) struct Exchange<'a> {
    pub server: &'a ServerName,
    pub upstream: UpstreamHandle,
    pub client: &'a Client,
    pub endpoint: &'a Endpoint,
    pub method: &'a str,
    pub notifications: Option<&'a mpsc::Sender<RawMessage>>,
    /// What the client can do for a legacy server.
    pub profile: Profile,
}

impl Gateway {
    /// Makes a request, and has the client give what the server wants for it.
    pub(super) async fn exchange(
        &self,
        server: &ServerName,
        upstream: &UpstreamHandle,
        request: ClientRequest,
    ) -> Result<RawReply, Refusal> {
        let ClientRequest {
            endpoint,
            client,
            method,
            params,
            notifications,
            session,
            param_headers,
        } = request;
        if let Some(given) = param_headers {
            let checked = upstream.check_params(params.as_deref(), &given, self.deadline(server));
            checked.await.map_err(Refusal::HeaderMismatch)?;
        }
        let (client, params) = match endpoint {
            Endpoint::Server(_) => (client, params),
            Endpoint::Aggregate | Endpoint::Virtual(_) => tasks::without_tasks(client, &method, params),
        };
        let server_era = upstream.info().era;
        let (mut upstream, mut profile) = (upstream.clone(), Profile::NONE);
        if server_era == Era::Legacy {
            let of_task = self.profile_of_task(server, &client, &method, params.as_deref());
            profile = match (of_task, &session) {
                (Some(profile), _) => profile,
                // Without a stream it can be asked nothing: it is as if it could answer nothing.
                (None, Some(_)) if notifications.is_none() => Profile::NONE,
                (None, Some(session)) => session.profile,
                (None, None) => Profile::of(&client.capabilities),
            };
            let upstreams = &self.parts.upstreams;
            upstream = upstreams
                .for_clients(upstream, profile, self.deadline(server))
                .await?;
        }
        let exchange = Exchange {
            server,
            upstream,
            client: &client,
            endpoint: &endpoint,
            method: &method,
            notifications: notifications.as_ref(),
            profile,
        };
        self.check_task(&exchange, params.as_deref())?;
        let is_of_one_era = client.era == server_era;
        let may_tell_of_tasks =
            is_of_one_era && tasks::may_tell_of_tasks(&method, &client, params.as_deref());
        let reply = match (client.era, server_era, session) {
            (Era::Legacy, Era::Modern, Some(session)) => {
                let of_task = self.task_of_modern(&exchange, &session, params.as_deref());
                if let Some(reply) = Box::pin(of_task).await {
                    return reply;
                }
                let reply = Box::pin(self.in_rounds(&exchange, &session, params)).await?;
                Ok(with_tasks_of_tools(&exchange, reply))
            }
            (Era::Legacy, Era::Legacy, Some(session)) => {
                Box::pin(self.with_questions(&exchange, &session, params)).await
            }
            (Era::Modern, Era::Legacy, _) => Box::pin(self.bridged(&exchange, params)).await,
            _ => self.plain(&exchange, params).await,
        }?;
        if may_tell_of_tasks {
            return Ok(self.seen_task(&exchange, reply));
        }
        Ok(reply)
    }

    /// Makes a modern client's request of a legacy server.
    async fn bridged(
        &self,
        exchange: &Exchange<'_>,
        params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let has_tasks = matches!(exchange.endpoint, Endpoint::Server(_));
        match exchange.method {
            method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL if has_tasks => {
                self.task_of_legacy(exchange, params).await
            }
            method::TOOLS_CALL if has_tasks => {
                let params = self.perhaps_a_task(exchange, params).await?;
                let reply = self.parking(exchange, params).await?;
                Ok(self.perhaps_begun(exchange, reply))
            }
            _ => self.parking(exchange, params).await,
        }
    }

    /// Makes a request of whose client nothing can be asked, or need not be here.
    async fn plain(
        &self,
        exchange: &Exchange<'_>,
        params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let options = self.options(exchange.server, exchange.client, exchange.notifications.cloned());
        let reply = exchange.upstream.request(exchange.method, params, options);
        Ok(reply.await?)
    }

    /// Makes a request of a modern server, and makes it again with the client's input as often as the server wants some.
    pub(super) async fn in_rounds(
        &self,
        exchange: &Exchange<'_>,
        session: &Session,
        mut params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let Some(to_client) = exchange.notifications else {
            return self.plain(exchange, params).await;
        };
        let (server, client) = (exchange.server, exchange.client);
        params = bridge::with_log_level(params, session.log_level().as_str());
        for _ in 0..INPUT_ROUNDS_MAX {
            let options = self.options(server, client, Some(to_client.clone()));
            let request = exchange
                .upstream
                .request(exchange.method, params.clone(), options);
            let reply = request.await?;
            match &reply {
                RawReply::Result(result) if bridge::wants_input(result) => {
                    params =
                        Some(input::gather(server, session, to_client, params.as_deref(), result).await?);
                }
                _ => return Ok(reply),
            }
        }
        let reason = format!("it asked {INPUT_ROUNDS_MAX} times");
        Err(Refusal::InputRefused {
            server: server.clone(),
            reason,
        })
    }

    /// Makes a request of a legacy server, and puts to the client what the server asks meanwhile. The call's time stands
    /// still while somebody answers.
    async fn with_questions(
        &self,
        exchange: &Exchange<'_>,
        session: &Session,
        params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let (Some(to_client), false) = (exchange.notifications, exchange.profile.is_none()) else {
            return self.plain(exchange, params).await;
        };
        let (to, questions) = QuestionsTo::channel(exchange.profile);
        let options = CallOptions {
            deadline: Deadline::within(CALL_WITH_ANSWERS_TIME_MAX),
            questions: Some(to),
            ..self.options(exchange.server, exchange.client, Some(to_client.clone()))
        };
        // Boxed, as it is moved twice and is large.
        let request = Box::pin(exchange.upstream.request(exchange.method, params, options));
        let time_max = self.call_time_max(exchange.server);
        let replied = attended(
            request,
            questions,
            |question| put(session, to_client, question),
            time_max,
        );
        replied
            .await
            .map_or_else(|| Err(too_late(exchange, time_max)), |reply| Ok(reply?))
    }

    /// Makes a request of a legacy server that may ask a client which must be sent away for the answer, or goes on with
    /// one whose client is back.
    async fn parking(
        &self,
        exchange: &Exchange<'_>,
        params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let state = params
            .as_deref()
            .and_then(|params| edit::string_member(params, REQUEST_STATE));
        let state = state
            .filter(|state| ParkingHandle::is_ours(state))
            .map(Cow::into_owned);
        // Logs are for those who want them, and a legacy server knows of no such wish.
        let is_plain = exchange.profile.is_none() && exchange.notifications.is_none();
        if state.is_none() && (is_plain || !may_want_input(exchange.method)) {
            return self.plain(exchange, params).await;
        }
        let whose = Whose {
            principal: &exchange.client.principal,
            endpoint: exchange.endpoint,
            server: exchange.server,
            method: exchange.method,
            params: params.as_deref(),
        };
        let (mut call, round) = match state {
            Some(state) => {
                let (mut call, round) = self.parts.parking.take(&whose, &state).await?;
                let responses = params
                    .as_deref()
                    .and_then(|params| edit::member(params, "inputResponses"));
                call.take_answers(responses);
                (call, round)
            }
            None => (self.begin(exchange, params.clone()), 0),
        };
        let meta = params.as_deref().and_then(|params| edit::member(params, "_meta"));
        let listener = Listener {
            notifications: exchange.notifications,
            progress_token: meta.and_then(|meta| edit::member(meta, meta::PROGRESS_TOKEN)),
            log_level: meta
                .and_then(|meta| edit::string_member(meta, meta::LOG_LEVEL))
                .and_then(|level| LogLevel::of(&level)),
            profile: exchange.profile,
        };
        let time_max = self.call_time_max(exchange.server);
        match timeout(time_max, call.go_on(&listener)).await {
            Ok(Round::Answered(reply)) => Ok(reply?),
            Ok(Round::Asked) => {
                let result = self.parts.parking.park(&whose, call, round + 1).await?;
                let result = RawValue::from_string(result)
                    .map_err(|error| ParkingError::Unavailable(error.to_string()))?;
                Ok(RawReply::Result(result))
            }
            Err(_) => Err(too_late(exchange, time_max)),
        }
    }

    /// Begins a call that can be parked: it owns all that it needs.
    fn begin(&self, exchange: &Exchange<'_>, params: Option<Box<RawValue>>) -> ParkedCall {
        let (to, questions) = QuestionsTo::channel(exchange.profile);
        let (notify, notifications) = mpsc::channel(NOTIFICATIONS_WAITING_MAX);
        let options = CallOptions {
            // Each round has its own time; this bounds them all.
            deadline: Deadline::within(CALL_WITH_ANSWERS_TIME_MAX),
            questions: Some(to),
            ..self.options(exchange.server, exchange.client, Some(notify))
        };
        let (upstream, method): (_, Arc<str>) = (exchange.upstream.clone(), exchange.method.into());
        let call = async move { upstream.request(&method, params, options).await };
        ParkedCall::new(Box::pin(call), questions, notifications)
    }
}

/// A modern server's list of tools for a legacy client, which must be told of each that may become a task.
fn with_tasks_of_tools(exchange: &Exchange<'_>, reply: RawReply) -> RawReply {
    if exchange.method != method::TOOLS_LIST
        || !tasks::modern_server_has(&exchange.upstream.info().capabilities)
    {
        return reply;
    }
    match &reply {
        RawReply::Result(result) => tasks::tools_for_legacy(result).map_or(reply, RawReply::Result),
        RawReply::Error(_) => reply,
    }
}

fn too_late(exchange: &Exchange<'_>, time_max: Duration) -> Refusal {
    Refusal::too_late(exchange.server, exchange.method, time_max)
}

/// Whether a modern client may be answered with a wish for input (2026-07-28, basic/patterns/mrtr, "Supported Requests").
fn may_want_input(method: &str) -> bool {
    matches!(
        method,
        method::TOOLS_CALL | method::PROMPTS_GET | method::RESOURCES_READ
    )
}

/// Waits for the reply, and has what the server asks meanwhile put to somebody. Nothing if the call takes longer than it
/// may, besides the time for answers.
async fn attended<Replied, Putting: Future<Output = ()>>(
    request: impl Future<Output = Replied>,
    mut questions: mpsc::Receiver<Question>,
    put: impl Fn(Question) -> Putting,
    time_max: Duration,
) -> Option<Replied> {
    let mut request = pin!(request);
    let mut asking = FuturesUnordered::new();
    let mut over_at = Instant::now() + time_max;
    let mut asking_since = Instant::now();
    loop {
        tokio::select! {
            biased;
            reply = &mut request => return Some(reply),
            Some(question) = questions.recv() => {
                if asking.is_empty() {
                    asking_since = Instant::now();
                }
                asking.push(put(question));
            }
            Some(()) = asking.next(), if !asking.is_empty() => {
                if asking.is_empty() {
                    over_at += asking_since.elapsed();
                }
            }
            () = sleep_until(over_at), if asking.is_empty() => return None,
        }
    }
}

/// Puts a question to the client and gives the server the answer, whatever it is.
async fn put(session: &Session, to_client: &mpsc::Sender<RawMessage>, question: Question) {
    let answer = input::ask_client(session, to_client, &question.method, question.params.as_deref()).await;
    match answer {
        Ok(reply) => question.answer(&reply),
        Err(reason) => question.fail(&reason),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::upstream::question_for_test as question;
    use tokio::time::sleep;

    const TIME_MAX: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_call_stands_still_while_somebody_answers() {
        let (asking, questions) = mpsc::channel(4);
        let request = async {
            sleep(Duration::from_secs(50)).await;
            let (form, _answer) = question("elicitation/create");
            asking.try_send(form).unwrap();
            sleep(Duration::from_secs(205)).await;
            "replied"
        };
        let slowly = async |question: Question| {
            sleep(Duration::from_secs(200)).await;
            question.fail("closed");
        };
        assert_eq!(
            attended(request, questions, slowly, TIME_MAX).await,
            Some("replied")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_which_nothing_is_asked_has_its_time_and_no_more() {
        let (_asking, questions) = mpsc::channel(4);
        let began = Instant::now();
        let request = std::future::pending::<()>();
        assert_eq!(attended(request, questions, async |_| {}, TIME_MAX).await, None);
        assert_eq!(began.elapsed(), TIME_MAX);
    }
}
