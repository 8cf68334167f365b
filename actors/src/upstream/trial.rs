//! Trying out a server that is not registered yet.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::timeout_at;
use troupe_protocol::jsonrpc::{ErrorObject, RawReply};
use troupe_protocol::mcp::{ClientCapabilities, ListKind, ToolDescriptor};
use troupe_protocol::server::ServerName;

use crate::runtime::Deadline;

use super::calls::NewCall;
use super::connect::Ground;
use super::connection::{Call, Connection};
use super::error::{Failure, UpstreamError};
use super::lists::read_page;

/// The first page of the server's tools: enough to see that it works.
pub(super) async fn tools(
    name: &ServerName,
    connection: &Arc<Connection>,
    ground: &Ground,
    deadline: Deadline,
) -> Result<Vec<ToolDescriptor>, UpstreamError> {
    let method = ListKind::Tools.method();
    let new_call = NewCall {
        method: method.to_owned(),
        name: None,
        principal: None,
        correlation_id: None,
        progress: None,
        questions: None,
    };
    let open = ground
        .calls
        .begin(new_call)
        .map_err(|failure| failure.into_error(name, method))?;
    let client = ClientCapabilities::default();
    let params: Option<&RawValue> = None;
    let call = Call {
        id: open.id,
        method,
        name: None,
        params,
        client: &client,
        wants_progress: false,
        mirrors: None,
    };
    let reply = timeout_at(deadline.instant(), connection.call(&call)).await;
    let reply = reply.unwrap_or_else(|_| {
        Err(Failure::Lost(
            "it did not list its tools before the deadline".into(),
        ))
    });
    match reply.map_err(|failure| failure.into_error(name, method))? {
        RawReply::Result(result) => Ok(read_page(ListKind::Tools, &result)
            .map(|page| page.items)
            .unwrap_or_default()),
        RawReply::Error(error) => {
            // A server may well have no tools; that it answers is what counts.
            let words =
                ErrorObject::read(&error).map_or_else(|| error.get().to_owned(), |error| error.message);
            ground.log.note(&format!("{method} failed: {words}"));
            Ok(Vec::new())
        }
    }
}
