//! Tasks of modern servers for legacy clients.
//!
//! | the client | the server |
//! |---|---|
//! | calls a tool for a task | is told that its client knows the extension; if it answers at once, the client has its result |
//! | calls a tool | is not told, and so makes no task of it |
//! | `tasks/get` | `tasks/get` |
//! | `tasks/result` | `tasks/get` until the task has ended, `tasks/update` with what the client was asked meanwhile |
//! | `tasks/cancel` | `tasks/cancel`, then `tasks/get` |

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use troupe_protocol::jsonrpc::{RawMessage, RawReply, edit};
use troupe_protocol::mcp::method;

use super::CALL_TIME_MAX;
use super::mapping;
use crate::session::exchange::Exchange;
use crate::session::gateway::{Client, Gateway};
use crate::session::input;
use crate::session::refusal::Refusal;
use crate::session::session::Session;

/// The pause between two looks at a task, in milliseconds: what the server wants, within bounds.
const LOOK_MS_MIN: u64 = 50;
const LOOK_MS_USUAL: u64 = 500;
const LOOK_MS_MAX: u64 = 5_000;

impl Gateway {
    /// A request about tasks, or for one; nothing if it is another.
    pub(in crate::session) async fn task_of_modern(
        &self,
        exchange: &Exchange<'_>,
        session: &Session,
        params: Option<&RawValue>,
    ) -> Option<Result<RawReply, Refusal>> {
        if !mapping::modern_server_has(&exchange.upstream.info().capabilities) {
            return None;
        }
        let knowing = Client {
            capabilities: mapping::knowing(&exchange.client.capabilities)?,
            ..exchange.client.clone()
        };
        let exchange = Exchange {
            client: &knowing,
            upstream: exchange.upstream.clone(),
            ..*exchange
        };
        let wants_task = || params.is_some_and(|params| edit::member(params, "task").is_some());
        match exchange.method {
            method::TOOLS_CALL if wants_task() => {
                let params = params.and_then(mapping::without_task);
                Some(self.begin_task(&exchange, session, params).await)
            }
            method::TASKS_GET | method::TASKS_RESULT | method::TASKS_CANCEL => {
                Some(self.ask_for_task(&exchange, session, params).await)
            }
            _ => None,
        }
    }

    async fn begin_task(
        &self,
        exchange: &Exchange<'_>,
        session: &Session,
        params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let reply = Box::pin(self.in_rounds(exchange, session, params)).await?;
        let RawReply::Result(result) = &reply else {
            return Ok(reply);
        };
        let Some(created) = mapping::created_for_legacy(result) else {
            return Ok(reply);
        };
        self.note_task(exchange, &created);
        Ok(RawReply::Result(created))
    }

    async fn ask_for_task(
        &self,
        exchange: &Exchange<'_>,
        session: &Session,
        params: Option<&RawValue>,
    ) -> Result<RawReply, Refusal> {
        let (id, _) = self.own_task(exchange, params)?;
        match exchange.method {
            method::TASKS_RESULT => self.result_of(exchange, session, &id).await,
            method::TASKS_CANCEL => match self.about(exchange, method::TASKS_CANCEL, &id, None).await? {
                RawReply::Result(_) => self.seen_by_legacy(exchange, &id).await,
                refused @ RawReply::Error(_) => Ok(refused),
            },
            _ => self.seen_by_legacy(exchange, &id).await,
        }
    }

    async fn seen_by_legacy(&self, exchange: &Exchange<'_>, id: &str) -> Result<RawReply, Refusal> {
        let garbled = || Refusal::of_protocol(exchange.server, "what it says of its task is no object");
        match self.about(exchange, method::TASKS_GET, id, None).await? {
            RawReply::Result(task) => Ok(RawReply::Result(mapping::legacy(&task).ok_or_else(garbled)?)),
            refused @ RawReply::Error(_) => Ok(refused),
        }
    }

    /// What the task comes to. The client is asked meanwhile what the server wants.
    async fn result_of(
        &self,
        exchange: &Exchange<'_>,
        session: &Session,
        id: &str,
    ) -> Result<RawReply, Refusal> {
        let until = Instant::now() + CALL_TIME_MAX;
        loop {
            let task = match self.about(exchange, method::TASKS_GET, id, None).await? {
                RawReply::Result(task) => task,
                refused @ RawReply::Error(_) => return Ok(refused),
            };
            if let Some(outcome) = mapping::outcome_for_legacy(&task, id) {
                return Ok(outcome);
            }
            if let (Some(requests), Some(to_client)) =
                (edit::member(&task, "inputRequests"), exchange.notifications)
            {
                let responses = answers(session, to_client, requests, id).await;
                self.about(exchange, method::TASKS_UPDATE, id, Some(&responses))
                    .await?;
            }
            let pause = mapping::interval_ms(&task).unwrap_or(LOOK_MS_USUAL);
            let pause = Duration::from_millis(pause.clamp(LOOK_MS_MIN, LOOK_MS_MAX));
            if Instant::now() + pause > until {
                return Err(Refusal::too_late(exchange.server, exchange.method, CALL_TIME_MAX));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn about(
        &self,
        exchange: &Exchange<'_>,
        method: &str,
        id: &str,
        input_responses: Option<&str>,
    ) -> Result<RawReply, Refusal> {
        let mut params = String::from("{\"taskId\":");
        edit::push_string(&mut params, id);
        if let Some(responses) = input_responses {
            params.push_str(",\"inputResponses\":");
            params.push_str(responses);
        }
        params.push('}');
        let options = self.options(exchange.server, exchange.client, None);
        let asked = exchange.upstream.request(method, mapping::raw(&params), options);
        Ok(asked.await?)
    }
}

/// The client's answers to what the server of a task wants, as an object. Who does not answer has closed the form.
async fn answers(
    session: &Session,
    to_client: &mpsc::Sender<RawMessage>,
    requests: &RawValue,
    id: &str,
) -> String {
    let requests = input::requests_of(requests);
    let mut answers = "{".to_owned();
    for (key, request) in &requests {
        let params = request.params().and_then(|params| mapping::related(params, id));
        let is_declared = session.profile.admits(request.method(), params.as_deref());
        let reply = if is_declared {
            input::ask_client(session, to_client, request.method(), params.as_deref()).await
        } else {
            Err("the client has not declared that it can answer this".to_owned())
        };
        let answer = match reply {
            Ok(RawReply::Result(answer)) => answer.get().to_owned(),
            _ if request.method() == method::ELICITATION_CREATE => r#"{"action":"cancel"}"#.to_owned(),
            _ => continue,
        };
        if answers.len() > 1 {
            answers.push(',');
        }
        edit::push_string(&mut answers, key);
        answers.push(':');
        answers.push_str(&answer);
    }
    answers.push('}');
    answers
}
