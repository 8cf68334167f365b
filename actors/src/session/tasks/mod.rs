//! Tasks where client and server are of different eras: the core's of 2025-11-25, the extension's of 2026-07-28.
//!
//! # Layout
//! - `mapping`: a task in the words of each era (pure)
//! - `table`: whose tasks are whose, and what is asked for them
//! - `of_legacy`: for modern clients of legacy servers; `of_modern`: for legacy clients of modern ones
//!
//! Between peers of one era requests about tasks pass as they are, to those whose tasks they are. The state of a task stays at its server. Only a
//! server's own endpoint has tasks: behind that of all servers none are made.
//!
//! What one era has and the other has not:
//! - `tasks/list` is refused: the extension has no such thing. (Between legacy peers a client is shown its own.)
//! - A legacy server cannot be told later than at the begin that its client can do more; so a task belongs to the
//!   connection of what the client could do then.
//! - Legacy servers that make a task of a question (`tasks.requests.elicitation` of a client's capabilities) are refused
//!   it: modern clients have no tasks of their own.
//! - `notifications/tasks` is not made of `notifications/tasks/status`, nor the other way round: clients look, as both
//!   eras say that they must be able to.

mod mapping;
mod of_legacy;
mod of_modern;
mod table;

use std::time::Duration;

pub(super) use mapping::{EXTENSION, legacy_server_has, modern_server_has, tools_for_legacy};
pub(super) use table::TaskTable;

use serde_json::value::RawValue;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{Era, method};

use super::exchange::Exchange;
use super::gateway::{Client, Gateway};
use super::refusal::Refusal;

/// How long a task's result is waited for, with all the time that its client takes for answers.
const CALL_TIME_MAX: Duration = Duration::from_secs(3_600);

impl Gateway {
    /// Whether this client may ask about the task that the parameters name.
    ///
    /// # Errors
    /// If somebody else began it: it is as if there were none.
    pub(super) fn check_task(
        &self,
        exchange: &Exchange<'_>,
        params: Option<&RawValue>,
    ) -> Result<(), Refusal> {
        match exchange.method {
            method::TASKS_GET | method::TASKS_RESULT | method::TASKS_UPDATE | method::TASKS_CANCEL => {
                self.own_task(exchange, params).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Notes a task that has begun between peers of one era, and shows each client its own.
    pub(super) fn seen_task(&self, exchange: &Exchange<'_>, reply: RawReply) -> RawReply {
        let RawReply::Result(result) = &reply else {
            return reply;
        };
        match exchange.method {
            method::TOOLS_CALL => self.note_task(exchange, result),
            method::TASKS_LIST => {
                let owner = owner_of(exchange.client);
                let is_own = |id: &str| {
                    let task = self.parts.tasks.find(exchange.server, id, &owner);
                    task.is_ok_and(|task| task.is_some())
                };
                if let Some(shown) = mapping::tasks_shown(result, is_own) {
                    return RawReply::Result(shown);
                }
            }
            _ => {}
        }
        reply
    }
}

/// Whether this request may begin a task, or list some: only such are looked at more closely.
pub(super) fn may_tell_of_tasks(method: &str, client: &Client, params: Option<&RawValue>) -> bool {
    let wants_task = || match client.era {
        Era::Legacy => params.is_some_and(|params| params.get().contains("\"task\"")),
        Era::Modern => client.capabilities.as_str().contains(EXTENSION),
    };
    match method {
        method::TOOLS_CALL => wants_task(),
        method::TASKS_LIST => true,
        _ => false,
    }
}

/// What a client says and asks where there are no tasks: nothing of them.
pub(super) fn without_tasks(
    mut client: Client,
    method: &str,
    params: Option<Box<RawValue>>,
) -> (Client, Option<Box<RawValue>>) {
    if mapping::client_knows(&client.capabilities)
        && let Some(unknowing) = mapping::unknowing(&client.capabilities)
    {
        client.capabilities = unknowing;
    }
    let is_wish = method == method::TOOLS_CALL
        && params
            .as_ref()
            .is_some_and(|params| params.get().contains("\"task\""));
    let plain = params
        .as_deref()
        .filter(|_| is_wish)
        .and_then(mapping::without_task);
    (client, plain.or(params))
}

/// In whose name a client asks.
pub(super) fn owner_of(client: &Client) -> String {
    let key = client.principal.key_id.map(|key| key.to_string());
    key.unwrap_or_else(|| client.principal.name.clone())
}
