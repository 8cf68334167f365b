//! What is asked of a server: a request gets an id and a place in the call table, is sent over the connection of the
//! moment, and again where that does no harm.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::value::RawValue;
use troupe_protocol::id::ActorPath;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{ListKind, method};
use troupe_protocol::trace::Outcome;

use super::{Slot, millis};
use crate::runtime::{Deadline, System, trace};
use crate::upstream::calls::{NewCall, ProgressTo};
use crate::upstream::circuit::{Sign, Turn};
use crate::upstream::connection::{Call, Connection};
use crate::upstream::error::{Failure, UpstreamError};
use crate::upstream::frame;
use crate::upstream::http::{self, Mirror, ParamHeaders};
use crate::upstream::messages::{CallOptions, UpstreamMessage};
use crate::upstream::retry::{self, RETRIES_MAX};

impl Slot {
    /// Makes a request; it shows as a step of the caller's trace.
    pub async fn request(
        self: &Arc<Self>,
        method: &str,
        params: Option<&RawValue>,
        options: CallOptions,
    ) -> Result<RawReply, UpstreamError> {
        self.last_used_ms
            .store(millis(self.made.elapsed()), Ordering::Relaxed);
        let correlation_id = trace::current().map(|context| context.correlation_id);
        let name = frame::name_of(method, params);
        let call = NewCall {
            method: method.to_owned(),
            name: name.clone(),
            principal: options.principal.map(|principal| principal.name),
            correlation_id,
            progress: options.progress.map(|sender| ProgressTo {
                token: params.and_then(frame::progress_token),
                sender,
            }),
            questions: options.questions,
        };
        let wants_progress = call
            .progress
            .as_ref()
            .is_some_and(|progress| progress.token.is_some());
        let outgoing = Unsent {
            method,
            name: name.as_deref(),
            params,
            client: &options.client,
            wants_progress,
        };
        // By reference: what is passed on by value is there twice, in who passes and in who takes.
        let work = pin!(self.call(call, outgoing, options.deadline));
        traced(&self.system, self.mailbox.path(), method, name.as_deref(), work).await
    }

    /// Makes a call, and makes it again when it is lost and may be repeated.
    async fn call(
        self: &Arc<Self>,
        call: NewCall,
        outgoing: Unsent<'_>,
        deadline: Deadline,
    ) -> Result<RawReply, UpstreamError> {
        self.retries.earn();
        let again = self.is_repeatable(&outgoing).then(|| call.clone());
        let (mut call, mut retries) = (call, 0);
        loop {
            let (sign, reply) = self.call_once(call, outgoing, deadline).await;
            let again = again
                .as_ref()
                .filter(|_| sign == Sign::Fails && retries < RETRIES_MAX);
            let Some(again) = again else {
                return reply;
            };
            let pause = retry::pause(retries, fastrand::f64());
            if deadline.remaining() <= pause || !self.retries.take() {
                return reply;
            }
            tokio::time::sleep(pause).await;
            retries += 1;
            call = again.clone();
        }
    }

    /// Whether what is lost on the way may be sent once more. What asks whether the server works shall hear of each loss.
    fn is_repeatable(&self, outgoing: &Unsent<'_>) -> bool {
        match outgoing.method {
            method::PING | method::DISCOVER => false,
            method::TOOLS_CALL => outgoing.name.is_some_and(|tool| self.lists.is_repeatable(tool)),
            other => retry::is_harmless(other),
        }
    }

    async fn call_once(
        self: &Arc<Self>,
        call: NewCall,
        outgoing: Unsent<'_>,
        deadline: Deadline,
    ) -> (Sign, Result<RawReply, UpstreamError>) {
        let method = outgoing.method;
        let silent = |error| (Sign::Nothing, Err(error));
        let leave = match self.circuit.enter(self.made.elapsed()) {
            Ok(leave) => leave,
            Err(wait) => {
                return silent(UpstreamError::CircuitOpen {
                    server: self.name.clone(),
                    retry_in_ms: millis(wait),
                });
            }
        };
        let mut open = match self.calls.begin(call) {
            Ok(open) => open,
            Err(failure) => return silent(failure.into_error(&self.name, method)),
        };
        // Whoever gives the server away looks at the table after it has said so: either it waits for this call, or this
        // call sees that it is late and goes to the new owner.
        if self.is_moving() {
            return silent(UpstreamError::Stopped(self.name.clone()));
        }
        let (id, began) = (open.id, open.began);
        let (sign, reply) = tokio::select! {
            biased;
            answered = self.send_until_sent(id, &outgoing, deadline) => answered,
            Ok(()) = &mut open.cancelled => silent(UpstreamError::Cancelled {
                server: self.name.clone(),
                method: method.to_owned(),
            }),
            () = tokio::time::sleep_until(deadline.instant()) => silent(UpstreamError::DeadlineExceeded {
                server: self.name.clone(),
                method: method.to_owned(),
                waited_ms: millis(began.elapsed()),
            }),
        };
        if let Some(turn) = leave.tell(sign, self.made.elapsed()) {
            self.turned(turn);
        }
        (sign, reply)
    }

    /// People, and whoever watches the server's health, hear that it is left alone, or called again.
    fn turned(&self, turn: Turn) {
        self.log.note(match turn {
            Turn::Opened => "every call of late was lost: it is left alone for a moment, then tried again",
            Turn::Closed => "its calls are answered again",
        });
        // An actor that has more to do than it can hear of learns of it by its next probe.
        let _ = self.mailbox.tell(UpstreamMessage::Turned(turn));
    }

    /// Sends a request over the connection of the moment, and again over the next one as long as it is certain that
    /// it has not reached the server.
    async fn send_until_sent(
        self: &Arc<Self>,
        id: u64,
        outgoing: &Unsent<'_>,
        deadline: Deadline,
    ) -> (Sign, Result<RawReply, UpstreamError>) {
        let Unsent {
            method,
            name,
            params,
            client,
            wants_progress,
        } = *outgoing;
        loop {
            let connection = match self.ready(deadline).await {
                Ok(connection) => connection,
                Err(error) => return (Sign::Nothing, Err(error)),
            };
            let mirrors = self.mirrors(&connection, method, deadline).await;
            let mirrors = mirrors
                .as_ref()
                .zip(name)
                .and_then(|(of_tools, tool)| of_tools.get(tool));
            let abandon = AbandonOnDrop {
                connection: Some(&connection),
                id,
            };
            let mirrors = mirrors.map(Vec::as_slice);
            let call = Call {
                id,
                method,
                name,
                params,
                client,
                wants_progress,
                mirrors,
            };
            let answered = connection.call(&call).await;
            abandon.disarm();
            match answered {
                Ok(reply) => return (Sign::Works, Ok(reply)),
                Err(Failure::NotSent(_)) if connection.wires.is_gone() => {}
                Err(failure) => {
                    let sign = Sign::of(&failure);
                    return (sign, Err(failure.into_error(&self.name, method)));
                }
            }
        }
    }

    /// The arguments that are mirrored into headers. To know them, the tools of a modern HTTP server must have been
    /// read once.
    async fn mirrors(
        self: &Arc<Self>,
        connection: &Connection,
        method: &str,
        deadline: Deadline,
    ) -> Option<Arc<HashMap<String, Vec<Mirror>>>> {
        if method != method::TOOLS_CALL || !connection.mirrors_arguments() {
            return None;
        }
        if self.lists.mirrors().is_none() {
            // If they cannot be read, the server will say what is missing.
            let _ = Box::pin(self.list(ListKind::Tools, deadline)).await;
        }
        self.lists.mirrors()
    }

    /// Sees to it that a client which calls a tool says in headers what it says in the arguments. Tools that are not
    /// known are not checked: to call one that needs it, they have been read.
    pub async fn check_params(
        self: &Arc<Self>,
        params: Option<&RawValue>,
        given: &ParamHeaders,
        deadline: Deadline,
    ) -> Result<(), String> {
        let of_tools = match (self.lists.mirrors(), self.connection()) {
            (None, Some(connection)) => self.mirrors(&connection, method::TOOLS_CALL, deadline).await,
            (known, _) => known,
        };
        // Of most servers no tool has any: then the parameters are not read for it.
        let Some(of_tools) = of_tools.filter(|of_tools| !of_tools.is_empty()) else {
            return Ok(());
        };
        let tool = frame::name_of(method::TOOLS_CALL, params);
        let mirrors = tool.and_then(|tool| of_tools.get(&tool));
        mirrors.map_or(Ok(()), |mirrors| http::check(mirrors, params, given))
    }

    /// Sends a notification over the connection of the moment.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Deadline,
    ) -> Result<(), UpstreamError> {
        let connection = self.ready(deadline).await?;
        let sent = tokio::time::timeout_at(deadline.instant(), connection.notify(method, params)).await;
        let in_time = sent.unwrap_or_else(|_| {
            Err(Failure::NotSent(
                "it did not take the notification in time".into(),
            ))
        });
        in_time.map_err(|failure| match failure {
            Failure::NotSent(_) if self.is_moving() => UpstreamError::Stopped(self.name.clone()),
            failure => failure.into_error(&self.name, method),
        })
    }
}

/// Makes a request as a step of the caller's trace, if there is one.
pub(in crate::upstream) async fn traced(
    system: &System,
    path: &ActorPath,
    method: &str,
    name: Option<&str>,
    work: impl Future<Output = Result<RawReply, UpstreamError>>,
) -> Result<RawReply, UpstreamError> {
    let Some(context) = trace::current() else {
        return work.await;
    };
    let title: Cow<'static, str> = match name {
        Some(name) => format!("{method} {name}").into(),
        None => method.to_owned().into(),
    };
    system
        .trace(path, "upstream", title, context.correlation_id, work, outcome_of)
        .await
}

/// A request before it has an id.
#[derive(Clone, Copy)]
struct Unsent<'a> {
    method: &'a str,
    name: Option<&'a str>,
    params: Option<&'a RawValue>,
    client: &'a troupe_protocol::mcp::ClientCapabilities,
    wants_progress: bool,
}

/// Tells the server that nobody waits any more when the caller goes away: by deadline, cancellation or drop.
struct AbandonOnDrop<'a> {
    connection: Option<&'a Arc<Connection>>,
    id: u64,
}

impl AbandonOnDrop<'_> {
    fn disarm(mut self) {
        self.connection = None;
    }
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection {
            connection.abandon(self.id, "nobody waits for the answer any more");
        }
    }
}

fn outcome_of(reply: &Result<RawReply, UpstreamError>) -> Outcome {
    match reply {
        Ok(RawReply::Result(_)) => Outcome::Done,
        Ok(RawReply::Error(error)) => Outcome::Failed {
            error: error.get().chars().take(300).collect(),
        },
        Err(UpstreamError::Cancelled { .. }) => Outcome::Cancelled,
        Err(error) => Outcome::Failed {
            error: error.to_string(),
        },
    }
}
