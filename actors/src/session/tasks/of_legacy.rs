//! Tasks of legacy servers for modern clients.
//!
//! | the client | the server |
//! |---|---|
//! | calls a tool, knows the extension | is called for a task if the tool allows one |
//! | calls a tool that must be a task, and does not know the extension | is not called (-32021) |
//! | `tasks/get` | `tasks/get`, and `tasks/result` for what has ended or wants input |
//! | `tasks/update` | gets the answers to what it asked on the stream of `tasks/result` |
//! | `tasks/cancel` | `tasks/cancel`; one that has ended is cancelled in vain |

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;
use troupe_protocol::jsonrpc::{ErrorObject, RawReply, code as jsonrpc_code, edit};
use troupe_protocol::mcp::{ListKind, Profile, method};
use troupe_protocol::server::ServerName;

use super::mapping::{self, Support};
use super::table::Task;
use super::{CALL_TIME_MAX, owner_of};
use crate::runtime::Deadline;
use crate::session::exchange::Exchange;
use crate::session::gateway::{Client, Gateway};
use crate::session::refusal::Refusal;
use crate::upstream::{CallOptions, Question, QuestionsTo};

/// How long it is waited for what a server asks, once it says that it wants something.
const ASKED_WITHIN: Duration = Duration::from_millis(1_000);
/// A server that asks several things at once sends them one after the other.
const ASKED_TOGETHER_WITHIN: Duration = Duration::from_millis(20);

impl Gateway {
    /// The parameters with which a legacy server's tool is called for this modern client.
    ///
    /// # Errors
    /// If the tool must be called as a task, and the client does not know tasks.
    pub(in crate::session) async fn perhaps_a_task(
        &self,
        exchange: &Exchange<'_>,
        params: Option<Box<RawValue>>,
    ) -> Result<Option<Box<RawValue>>, Refusal> {
        let Some(given) = params else { return Ok(None) };
        if !mapping::legacy_server_has(&exchange.upstream.info().capabilities) {
            return Ok(Some(given));
        }
        let name = edit::string_member(&given, "name");
        let tools = exchange
            .upstream
            .list(ListKind::Tools, self.deadline(exchange.server))
            .await?;
        let tool = tools.iter().find(|tool| Some(&*tool.name) == name.as_deref());
        let support = tool.map_or(Support::Forbidden, |tool| Support::of(&tool.raw));
        let knows = mapping::client_knows(&exchange.client.capabilities);
        let changed = match support {
            Support::Required if !knows => return Err(Refusal::NeedsTasks),
            Support::Required | Support::Optional if knows => mapping::as_task(&given),
            // What a client of an older revision would say is nothing to a modern server.
            _ => mapping::without_task(&given),
        };
        Ok(Some(changed.unwrap_or(given)))
    }

    /// The reply to such a call.
    pub(in crate::session) fn perhaps_begun(&self, exchange: &Exchange<'_>, reply: RawReply) -> RawReply {
        let RawReply::Result(result) = &reply else {
            return reply;
        };
        match mapping::created_for_modern(result) {
            Some(created) => {
                self.note_task(exchange, &created);
                RawReply::Result(created)
            }
            None => reply,
        }
    }

    /// `tasks/get`, `tasks/update` and `tasks/cancel`.
    pub(in crate::session) async fn task_of_legacy(
        &self,
        exchange: &Exchange<'_>,
        params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        if !mapping::client_knows(&exchange.client.capabilities) {
            return Err(Refusal::NeedsTasks);
        }
        let (id, task) = self.own_task(exchange, params.as_deref())?;
        match exchange.method {
            method::TASKS_GET => self.look_at(exchange, &id, task.as_ref()).await,
            method::TASKS_UPDATE => self.update(exchange, &id, task.as_ref(), params.as_deref()).await,
            _ => self.cancel_task(exchange, &id).await,
        }
    }

    async fn look_at(
        &self,
        exchange: &Exchange<'_>,
        id: &str,
        known: Option<&Task>,
    ) -> Result<RawReply, Refusal> {
        let seen = match self.ask_about(exchange, method::TASKS_GET, id).await? {
            RawReply::Result(seen) => seen,
            refused @ RawReply::Error(_) => return Ok(refused),
        };
        let garbled = || Refusal::of_protocol(exchange.server, "what it says of its task is no object");
        let task = match mapping::status(&seen).as_deref() {
            Some("completed" | "failed") => {
                let outcome = self.ask_about(exchange, method::TASKS_RESULT, id).await?;
                mapping::ended_for_modern(&seen, &outcome)
            }
            Some("input_required") => {
                if let Some(known) = known {
                    self.listen_for_wishes(exchange, id, known);
                    self.wait_for_wishes(known).await;
                }
                wishing(&seen, known)
            }
            _ => mapping::modern(&seen, &[]),
        };
        Ok(RawReply::Result(task.ok_or_else(garbled)?))
    }

    /// Sees to it that somebody takes what the server asks, on the stream of `tasks/result` (2025-11-25,
    /// basic/utilities/tasks, "Input Required Status").
    fn listen_for_wishes(&self, exchange: &Exchange<'_>, id: &str, task: &Task) {
        if !task.wishes.begin_listening() {
            return;
        }
        let (to, questions) = QuestionsTo::channel(task.profile);
        let options = CallOptions {
            deadline: Deadline::within(CALL_TIME_MAX),
            questions: Some(to),
            ..self.options(exchange.server, exchange.client, None)
        };
        let (upstream, params) = (exchange.upstream.clone(), task_params(id));
        let listening = Listening(task.clone());
        self.parts.sessions.finish(Box::pin(async move {
            let request = upstream.request(method::TASKS_RESULT, params, options);
            listening.until(request, questions).await;
        }));
    }

    async fn wait_for_wishes(&self, task: &Task) {
        let asked = task.wishes.asked.notified();
        if task.wishes.is_empty() && timeout(ASKED_WITHIN, asked).await.is_ok() {
            tokio::time::sleep(ASKED_TOGETHER_WITHIN).await;
        }
    }

    async fn update(
        &self,
        exchange: &Exchange<'_>,
        id: &str,
        task: Option<&Task>,
        params: Option<&RawValue>,
    ) -> Result<RawReply, Refusal> {
        let Some(task) = task else {
            // Whether there is one is its server's to say.
            return Ok(match self.ask_about(exchange, method::TASKS_GET, id).await? {
                RawReply::Result(_) => done()?,
                refused @ RawReply::Error(_) => refused,
            });
        };
        let responses = params.and_then(|params| edit::member(params, "inputResponses"));
        for key in responses.map(|_| task.wishes.keys()).unwrap_or_default() {
            let answer = responses.and_then(|responses| edit::member(responses, &key));
            let answer = answer.filter(|answer| answer.get().starts_with('{'));
            if let Some((answer, question)) =
                answer.and_then(|answer| Some((answer, task.wishes.take(&key)?)))
            {
                question.answer(&RawReply::Result(answer.to_owned()));
            }
        }
        done()
    }

    async fn cancel_task(&self, exchange: &Exchange<'_>, id: &str) -> Result<RawReply, Refusal> {
        let refused = match self.ask_about(exchange, method::TASKS_CANCEL, id).await? {
            RawReply::Result(_) => return done(),
            RawReply::Error(error) => error,
        };
        let may_have_ended =
            ErrorObject::read(&refused).is_some_and(|error| error.code == jsonrpc_code::INVALID_PARAMS);
        if may_have_ended
            && let RawReply::Result(seen) = self.ask_about(exchange, method::TASKS_GET, id).await?
            && matches!(
                mapping::status(&seen).as_deref(),
                Some("completed" | "failed" | "cancelled")
            )
        {
            return done();
        }
        Ok(RawReply::Error(refused))
    }

    async fn ask_about(&self, exchange: &Exchange<'_>, method: &str, id: &str) -> Result<RawReply, Refusal> {
        let options = self.options(exchange.server, exchange.client, None);
        let asked = exchange.upstream.request(method, task_params(id), options);
        Ok(asked.await?)
    }

    /// The task that the parameters name, if this node knows it.
    pub(super) fn own_task(
        &self,
        exchange: &Exchange<'_>,
        params: Option<&RawValue>,
    ) -> Result<(String, Option<Task>), Refusal> {
        let id = params
            .and_then(mapping::id_of)
            .ok_or_else(|| Refusal::InvalidParams("params.taskId is required, a string".to_owned()))?;
        let owner = owner_of(exchange.client);
        let task = self.parts.tasks.find(exchange.server, &id, &owner);
        let task = task.map_err(|_| Refusal::InvalidParams(format!("there is no task {id}")))?;
        Ok((id.into_owned(), task))
    }

    /// What a client could do when it began the task that a request is about.
    pub(in crate::session) fn profile_of_task(
        &self,
        server: &ServerName,
        client: &Client,
        method: &str,
        params: Option<&RawValue>,
    ) -> Option<Profile> {
        if !method.starts_with("tasks/") {
            return None;
        }
        let id = params.and_then(mapping::id_of)?;
        let task = self.parts.tasks.find(server, &id, &owner_of(client));
        task.ok().flatten().map(|task| task.profile)
    }

    pub(super) fn note_task(&self, exchange: &Exchange<'_>, created: &RawValue) {
        if let Some(id) = mapping::created_id(created) {
            let owner = owner_of(exchange.client);
            self.parts
                .tasks
                .begun(exchange.server, &id, &owner, exchange.profile);
        }
    }
}

/// Takes what the server asks for a task.
struct Listening(Task);

impl Listening {
    async fn until<Reply>(
        self,
        request: impl Future<Output = Reply>,
        mut questions: mpsc::Receiver<Question>,
    ) {
        let mut request = std::pin::pin!(request);
        loop {
            tokio::select! {
                biased;
                Some(question) = questions.recv() => self.0.wishes.ask(question),
                _ = &mut request => return,
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.wishes.end_listening();
    }
}

/// A task whose server wants input, with what it wants. As long as it has not said what, it is at work.
fn wishing(seen: &RawValue, task: Option<&Task>) -> Option<Box<RawValue>> {
    let mut requests = "{".to_owned();
    if let Some(task) = task {
        task.wishes.each(|key, question| {
            if requests.len() > 1 {
                requests.push(',');
            }
            edit::push_string(&mut requests, key);
            requests.push(':');
            question.push_to(&mut requests);
        });
    }
    requests.push('}');
    let (working, requests) = (mapping::raw("\"working\"")?, mapping::raw(&requests)?);
    if requests.get() == "{}" {
        return mapping::modern(seen, &[("status", &working)]);
    }
    mapping::modern(seen, &[("inputRequests", &requests)])
}

fn task_params(id: &str) -> Option<Box<RawValue>> {
    let mut params = String::from("{\"taskId\":");
    edit::push_string(&mut params, id);
    params.push('}');
    mapping::raw(&params)
}

/// An empty result.
fn done() -> Result<RawReply, Refusal> {
    let empty = mapping::raw("{}");
    empty
        .map(RawReply::Result)
        .ok_or_else(|| Refusal::InvalidParams("params cannot be read".to_owned()))
}
