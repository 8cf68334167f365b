//! Servers that are part of the node. They are called like any other, without a wire in between.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use troupe_protocol::access::Principal;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::jsonrpc::{self, RawReply, edit};
use troupe_protocol::mcp::{ToolDescriptor, method};
use troupe_protocol::upstream::UpstreamInfo;

use crate::runtime::Deadline;

use super::calls::{CallTable, NewCall};
use super::error::UpstreamError;
use super::frame;
use super::messages::CallOptions;

/// A server that is part of the node and offers tools.
pub trait BuiltinServer: Send + Sync + 'static {
    /// Its name, era and capabilities.
    fn info(&self) -> Arc<UpstreamInfo>;

    /// Its tools.
    fn tools(&self) -> Arc<Vec<ToolDescriptor>>;

    /// Calls a tool; `arguments` is an object. The result is a `CallToolResult`.
    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: Value,
        principal: &'a Principal,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Value, BuiltinError>>;

    /// Whether what does its work can be reached; by itself it can.
    fn reach(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Why a tool of the node's own was not run. A tool that ran and failed answers with `isError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuiltinError {
    /// There is no such tool.
    #[error("unknown tool: {0}")]
    ToolNotFound(String),
    /// The arguments are wrong.
    #[error("invalid arguments: {0}")]
    InvalidArguments(String),
}

impl Coded for BuiltinError {
    fn code(&self) -> Code {
        match self {
            Self::ToolNotFound(_) => Code::ToolNotFound,
            Self::InvalidArguments(_) => Code::ArgumentsInvalid,
        }
    }
}

/// A server of the node's own, and the calls in flight to it.
pub(super) struct Builtin {
    pub server: Arc<dyn BuiltinServer>,
    pub calls: Arc<CallTable>,
}

impl Builtin {
    pub async fn request(
        &self,
        method: &str,
        params: Option<&RawValue>,
        options: &CallOptions,
    ) -> Result<RawReply, UpstreamError> {
        let server = self.calls.server();
        let call = NewCall {
            method: method.to_owned(),
            name: frame::name_of(method, params),
            principal: options.principal.as_ref().map(|principal| principal.name.clone()),
            correlation_id: crate::runtime::trace::current().map(|context| context.correlation_id),
            progress: None,
            questions: None,
        };
        let mut open = self
            .calls
            .begin(call)
            .map_err(|failure| failure.into_error(server, method))?;
        let (server, method_name, began) = (server.clone(), method.to_owned(), open.began);
        tokio::select! {
            biased;
            reply = answer(&*self.server, method, params, options.principal.as_ref(), options.deadline) => Ok(reply),
            Ok(()) = &mut open.cancelled => Err(UpstreamError::Cancelled { server, method: method_name }),
            () = tokio::time::sleep_until(options.deadline.instant()) => Err(UpstreamError::DeadlineExceeded {
                server,
                method: method_name,
                waited_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }
}

/// Answers a request to a server that has no wire.
pub(super) async fn answer(
    server: &dyn BuiltinServer,
    method: &str,
    params: Option<&RawValue>,
    principal: Option<&Principal>,
    deadline: Deadline,
) -> RawReply {
    match method {
        method::PING | method::DISCOVER => result(&Value::Object(serde_json::Map::new())),
        method::TOOLS_LIST => result(&serde_json::json!({ "tools": &*server.tools() })),
        method::TOOLS_CALL => call(server, params, principal, deadline).await,
        other => error(
            jsonrpc::code::METHOD_NOT_FOUND,
            &format!("method not found: {other}"),
        ),
    }
}

async fn call(
    server: &dyn BuiltinServer,
    params: Option<&RawValue>,
    principal: Option<&Principal>,
    deadline: Deadline,
) -> RawReply {
    let Some(name) = params.and_then(|params| edit::string_member(params, "name")) else {
        return error(
            jsonrpc::code::INVALID_PARAMS,
            "tools/call needs params.name, the tool's name",
        );
    };
    let arguments = params.and_then(|params| edit::member(params, "arguments"));
    let arguments = match arguments.map(|arguments| serde_json::from_str::<Value>(arguments.get())) {
        None => Value::Object(serde_json::Map::new()),
        Some(Ok(arguments @ Value::Object(_))) => arguments,
        Some(_) => {
            return error(
                jsonrpc::code::INVALID_PARAMS,
                "params.arguments must be an object",
            );
        }
    };
    // Whoever does not say who is calling gets the least rights.
    let nobody = Principal::anonymous();
    let principal = principal.unwrap_or(&nobody);
    match server.call(&name, arguments, principal, deadline).await {
        Ok(value) => result(&value),
        Err(refusal) => error(jsonrpc::code::INVALID_PARAMS, &refusal.to_string()),
    }
}

fn result(value: &Value) -> RawReply {
    match to_raw_value(value) {
        Ok(raw) => RawReply::Result(raw),
        Err(failure) => error(jsonrpc::code::INTERNAL_ERROR, &failure.to_string()),
    }
}

fn error(code: i64, message: &str) -> RawReply {
    let object = edit::error_object(code, message, None);
    RawReply::Error(RawValue::from_string(object).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}
