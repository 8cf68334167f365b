//! The fixture as a server of the official SDK, for clients of both eras.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use rmcp::model::*;
use rmcp::service::{RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::task_manager::TaskManager;
use rmcp::{ErrorData, Peer, RoleServer, ServerHandler};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::Eras;
use super::rounds::{Known, Step};
use super::stages::Stages;
use super::{answers, jobs, rounds};

/// How long lists and resources may be kept.
const TTL_MS: u64 = 60_000;
/// How often one call asks a legacy client before it gives up.
const ROUNDS_MAX: usize = 5;
/// Between two things that a tool tells.
const PAUSE: Duration = Duration::from_millis(50);

/// What the fixture lists.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Catalogue {
    tools: Vec<Tool>,
    resources: Vec<Resource>,
    resource_templates: Vec<ResourceTemplate>,
    prompts: Vec<Prompt>,
}

#[derive(Clone)]
pub struct Fixture {
    eras: Eras,
    shared: Arc<Shared>,
}

/// What outlives a session.
struct Shared {
    catalogue: Catalogue,
    subscriptions: Mutex<HashMap<u64, SubscriptionSink>>,
    /// Legacy clients, by the resources that they subscribed to.
    subscribers: Mutex<HashMap<String, Peer<RoleServer>>>,
    next_subscription: AtomicU64,
    stages: Stages,
    tasks: TaskManager,
}

/// How a call with rounds ends.
enum Outcome<Answer> {
    Answer(Answer),
    Ask(InputRequiredResult),
}

impl Fixture {
    pub fn new(eras: Eras) -> Self {
        let catalogue =
            serde_json::from_str(include_str!("catalogue.json")).expect("the catalogue is well-formed");
        let shared = Shared {
            catalogue,
            subscriptions: Mutex::default(),
            subscribers: Mutex::default(),
            next_subscription: AtomicU64::default(),
            stages: Stages::default(),
            tasks: TaskManager::new(),
        };
        Self {
            eras,
            shared: Arc::new(shared),
        }
    }

    /// Takes a call from round to round: a modern client is sent off for input, a legacy client is asked here and now.
    /// Nothing if `next` does not know the call.
    async fn drive<Answer>(
        &self,
        context: &RequestContext<RoleServer>,
        arguments: &JsonObject,
        (input, state): (Option<InputResponses>, Option<String>),
        next: impl Fn(&Known<'_>) -> Option<Step<Answer>>,
    ) -> Result<Option<Outcome<Answer>>, ErrorData> {
        let capabilities = context.client_capabilities().unwrap_or_default();
        let mut input = input.unwrap_or_default();
        let mut stage = match state {
            None => None,
            Some(handle) => Some(self.shared.stages.of(&handle).ok_or_else(|| {
                ErrorData::invalid_params("the request state is not one that was given here", None)
            })?),
        };
        for _ in 0..ROUNDS_MAX {
            let known = Known {
                is_modern: is_modern(context),
                arguments,
                capabilities: &capabilities,
                input: &input,
                stage,
            };
            match next(&known) {
                None => return Ok(None),
                Some(Step::Answer(answer)) => return Ok(Some(Outcome::Answer(answer))),
                Some(Step::Ask(requests, stage)) if is_modern(context) => {
                    let state = stage.map(|stage| self.shared.stages.keep(stage));
                    return Ok(Some(Outcome::Ask(InputRequiredResult::new(
                        Some(requests),
                        state,
                    ))));
                }
                Some(Step::Ask(requests, next_stage)) => {
                    input = ask(context, requests).await?;
                    stage = next_stage;
                }
            }
        }
        Err(ErrorData::internal_error("the client was asked too often", None))
    }

    /// The result of a tool that tells the client something on the way; nothing if it is no such tool.
    async fn telling(&self, tool: &str, context: &RequestContext<RoleServer>) -> Option<CallToolResult> {
        match tool {
            "test_tool_with_logging" => {
                for line in [
                    "Tool execution started",
                    "Tool processing data",
                    "Tool execution completed",
                ] {
                    log(context, line).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            "test_logging_tool" => log(context, "A line was wanted").await,
            "test_tool_with_progress" => tell_progress(context).await,
            "test_reconnection" => tokio::time::sleep(2 * PAUSE).await,
            "test_trigger_tool_change" => {
                if !is_modern(context) {
                    let _ = context.peer.notify_tool_list_changed().await;
                }
                for subscription in self.subscriptions().await {
                    let _ = subscription.notify_tool_list_changed().await;
                }
            }
            "test_trigger_prompt_change" => {
                if !is_modern(context) {
                    let _ = context.peer.notify_prompt_list_changed().await;
                }
                for subscription in self.subscriptions().await {
                    let _ = subscription.notify_prompt_list_changed().await;
                }
            }
            _ => return None,
        }
        Some(CallToolResult::success(vec![ContentBlock::text("done")]))
    }

    /// Says that a resource has changed; how many there are who wanted to know.
    async fn change_resource(&self, uri: &str) -> usize {
        let mut told = 0;
        let subscriber = self.shared.subscribers.lock().await.get(uri).cloned();
        if let Some(peer) = subscriber {
            let changed = ResourceUpdatedNotificationParam::new(uri);
            told += usize::from(peer.notify_resource_updated(changed).await.is_ok());
        }
        for subscription in self.subscriptions().await {
            told += usize::from(subscription.notify_resource_updated(uri).await.is_ok());
        }
        told
    }

    async fn subscriptions(&self) -> Vec<SubscriptionSink> {
        self.shared.subscriptions.lock().await.values().cloned().collect()
    }
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_completions()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("conformance-fixture", "1.0.0"))
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(match self.eras {
            Eras::Both => ProtocolVersion::KNOWN_VERSIONS,
            Eras::Legacy => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
            Eras::Modern => &[ProtocolVersion::V_2026_07_28],
        })
    }

    /// With it the SDK checks that headers mirror the arguments which the tool's schema says they do.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared
            .catalogue
            .tools
            .iter()
            .find(|tool| tool.name == name)
            .cloned()
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let all = ListToolsResult::with_all_items(self.shared.catalogue.tools.clone());
        Ok(all.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let all = ListResourcesResult::with_all_items(self.shared.catalogue.resources.clone());
        Ok(all.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let all =
            ListResourceTemplatesResult::with_all_items(self.shared.catalogue.resource_templates.clone());
        Ok(all.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let all = ListPromptsResult::with_all_items(self.shared.catalogue.prompts.clone());
        Ok(all.with_ttl_ms(TTL_MS).with_cache_scope(CacheScope::Public))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = request.name.as_ref();
        let arguments = request.arguments.unwrap_or_default();
        let capabilities = context.client_capabilities().unwrap_or_default();
        if tool == "test_missing_capability" && capabilities.sampling.is_none() {
            let required = ClientCapabilities::builder().enable_sampling().build();
            return Err(ErrorData::missing_required_client_capability(required));
        }
        if tool == "test_missing_capability" {
            return Ok(CallToolResult::success(vec![ContentBlock::text("nothing is missing")]).into());
        }
        if tool == "test_trigger_resource_change" {
            let uri = arguments.get("uri").and_then(Value::as_str).unwrap_or_default();
            let told = self.change_resource(uri).await;
            return Ok(CallToolResult::success(vec![ContentBlock::text(told.to_string())]).into());
        }
        if let Some(result) = answers::of_tool(tool, &arguments) {
            return Ok(result.into());
        }
        if let Some(result) = self.telling(tool, &context).await {
            return Ok(result.into());
        }
        let input = request.input_responses.unwrap_or_default();
        let known = Known {
            is_modern: is_modern(&context),
            arguments: &arguments,
            capabilities: &capabilities,
            input: &input,
            stage: None,
        };
        if let Some(result) = jobs::call(tool, &known, &self.shared.tasks).await {
            return result;
        }
        let given = (Some(input), request.request_state);
        let next = |known: &Known<'_>| rounds::next(tool, known);
        match self.drive(&context, &arguments, given, next).await? {
            Some(Outcome::Answer(result)) => Ok(result.into()),
            Some(Outcome::Ask(wanted)) => Ok(wanted.into()),
            None => Err(ErrorData::invalid_params(format!("unknown tool: {tool}"), None)),
        }
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let found = answers::of_resource(&request.uri).ok_or_else(|| {
            let data = json!({ "uri": request.uri });
            ErrorData::resource_not_found("resource not found", Some(data))
        })?;
        Ok(found
            .with_ttl_ms(TTL_MS)
            .with_cache_scope(CacheScope::Public)
            .into())
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        if let Some(result) = answers::of_prompt(&request.name, &arguments) {
            return Ok(result.into());
        }
        let given = (request.input_responses, request.request_state);
        let next = |known: &Known<'_>| rounds::next_of_prompt(&request.name, known);
        match self.drive(&context, &arguments, given, next).await? {
            Some(Outcome::Answer(result)) => Ok(result.into()),
            Some(Outcome::Ask(wanted)) => Ok(wanted.into()),
            None => Err(ErrorData::invalid_params("unknown prompt", None)),
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let begun = &request.argument.value;
        let values = ["paris", "park", "party"]
            .into_iter()
            .filter(|word| word.starts_with(begun.as_str()));
        let completion = CompletionInfo::new(values.map(str::to_owned).collect());
        Ok(CompleteResult::new(
            completion.map_err(|reason| ErrorData::internal_error(reason, None))?,
        ))
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let mut subscribers = self.shared.subscribers.lock().await;
        subscribers.insert(request.uri, context.peer.clone());
        Ok(())
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.subscribers.lock().await.remove(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let number = self.shared.next_subscription.fetch_add(1, Ordering::Relaxed);
        self.shared
            .subscriptions
            .lock()
            .await
            .insert(number, context.sink().clone());
        context.cancelled().await;
        self.shared.subscriptions.lock().await.remove(&number);
        Ok(())
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        Ok(GetTaskResult::new(self.shared.tasks.get_task(&request.task_id)?))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared
            .tasks
            .update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.shared.tasks.cancel_task(&request.task_id)
    }
}

fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context
        .protocol_version()
        .is_some_and(|version| version == ProtocolVersion::V_2026_07_28)
}

/// Asks a legacy client, everything at once.
async fn ask(
    context: &RequestContext<RoleServer>,
    requests: InputRequests,
) -> Result<InputResponses, ErrorData> {
    let asked = requests.into_iter().map(|(key, request)| async move {
        let request: ServerRequest = match request {
            InputRequest::CreateMessage(request) => request.into(),
            InputRequest::Elicitation(request) => request.into(),
            InputRequest::ListRoots(request) => request.into(),
            _ => return Err(ErrorData::internal_error("there are no other requests", None)),
        };
        let failed =
            |reason: String| ErrorData::internal_error(format!("the client was asked: {reason}"), None);
        let given = context
            .peer
            .send_request(request)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let given: Value = serde_json::to_value(given).map_err(|error| failed(error.to_string()))?;
        Ok((key, given))
    });
    Ok(try_join_all(asked).await?.into_iter().collect())
}

/// Logs a line, if the client wants lines: a modern one says so with each request.
async fn log(context: &RequestContext<RoleServer>, line: &str) {
    let wanted = match is_modern(context) {
        true => context.meta.log_level(),
        false => Some(LoggingLevel::Info),
    };
    if let Some(level) = wanted {
        let message = LoggingMessageNotificationParam::new(level, json!(line)).with_logger("fixture");
        let _ = context.peer.notify_logging_message(message).await;
    }
}

async fn tell_progress(context: &RequestContext<RoleServer>) {
    let token = context.meta.get_progress_token();
    for done in [0.0, 50.0, 100.0] {
        if let Some(token) = &token {
            let progress = ProgressNotificationParam::new(token.clone(), done).with_total(100.0);
            let _ = context.peer.notify_progress(progress).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
