//! Calling a tool on somebody's behalf. A trait, so that no server is needed to test a conversation.

use futures::future::BoxFuture;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use troupe_protocol::access::Principal;
use troupe_protocol::error::{Code, Problem};
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::method;
use troupe_protocol::server::ServerName;

use crate::router::planner::Arguments;
use crate::runtime::Deadline;
use crate::upstream::{CallOptions, UpstreamError, UpstreamsHandle};

/// A call that brought no result.
#[derive(Debug, Clone, PartialEq)]
pub struct CallFailure {
    /// Why.
    pub problem: Problem,
    /// Whether the tool may have been at work all the same.
    pub may_have_had_effects: bool,
    /// Whether the same call may succeed when it is made again.
    pub is_retryable: bool,
}

/// Calls tools.
pub trait ToolCaller: Send + Sync + 'static {
    /// The tool's result (a `CallToolResult`). Dropping the future cancels the call, at the server too.
    fn call<'a>(
        &'a self,
        server: &'a str,
        tool: &'a str,
        arguments: Arguments,
        principal: &'a Principal,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Value, CallFailure>>;
}

impl ToolCaller for UpstreamsHandle {
    fn call<'a>(
        &'a self,
        server: &'a str,
        tool: &'a str,
        arguments: Arguments,
        principal: &'a Principal,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Value, CallFailure>> {
        Box::pin(async move {
            let name: ServerName = server.parse().map_err(|_| CallFailure {
                problem: Problem::new(Code::InvalidServerName, format!("{server:?} is no server name")),
                may_have_had_effects: false,
                is_retryable: false,
            })?;
            let upstream = self.get(&name, deadline).await.map_err(|error| failure(&error))?;
            let params = to_raw_value(&json!({ "name": tool, "arguments": arguments })).map_err(|error| {
                CallFailure {
                    problem: Problem::new(Code::Internal, error.to_string()),
                    may_have_had_effects: false,
                    is_retryable: false,
                }
            })?;
            let options = CallOptions::on_behalf_of(principal.clone(), deadline);
            match upstream.request(method::TOOLS_CALL, Some(params), options).await {
                Ok(RawReply::Result(result)) => {
                    serde_json::from_str(result.get()).map_err(|error| broken(&error))
                }
                Ok(RawReply::Error(error)) => Err(refused(error.get())),
                Err(error) => Err(failure(&error)),
            }
        })
    }
}

fn failure(error: &UpstreamError) -> CallFailure {
    // Only where it is certain that nothing reached the tool is it said so.
    let certainly_not_sent = matches!(
        error,
        UpstreamError::NotFound(_)
            | UpstreamError::Disabled(_)
            | UpstreamError::NoTransport(_)
            | UpstreamError::CommandNotFound { .. }
            | UpstreamError::Unreachable { .. }
            | UpstreamError::Secret { .. }
            | UpstreamError::NeedsLogin(_)
            | UpstreamError::Overloaded { .. }
            | UpstreamError::CircuitOpen { .. }
            | UpstreamError::ToolNotFound { .. }
    );
    CallFailure {
        problem: Problem::new(error.code(), error.to_string()),
        may_have_had_effects: !certainly_not_sent,
        is_retryable: error.is_retryable(),
    }
}

/// A JSON-RPC error is the server's answer that it did not do it.
fn refused(error: &str) -> CallFailure {
    let message = serde_json::from_str::<Value>(error)
        .ok()
        .and_then(|e| Some(e.get("message")?.as_str()?.to_owned()));
    let detail = message.unwrap_or_else(|| error.chars().take(500).collect());
    CallFailure {
        problem: Problem::new(Code::UpstreamError, detail),
        may_have_had_effects: false,
        is_retryable: false,
    }
}

fn broken(error: &serde_json::Error) -> CallFailure {
    CallFailure {
        problem: Problem::new(
            Code::UpstreamProtocol,
            format!("the result cannot be read: {error}"),
        ),
        may_have_had_effects: true,
        is_retryable: false,
    }
}
