//! A configured OpenAI-compatible chat endpoint fills the arguments: native tool calling, one repair when they do not fit
//! the schema, the rules when the endpoint does not answer.
//!
//! The endpoint sees the question and the one tool that was selected; which tool to call is not its choice, but it may
//! decline. Source: OpenAI API reference, "Create chat completion" (`tools`, `tool_choice`, `tool_calls`).

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use troupe_protocol::routing::{ArgumentSource, PlannerKind};
use url::Url;

use super::{Arguments, Filled, Plan, PlanRequest, Planner, rules, schema};

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Longest name of a function that every such endpoint accepts.
const FUNCTION_NAME_CHARS_MAX: usize = 64;

/// Where the endpoint is and how to use it.
#[derive(Clone)]
pub struct EndpointSettings {
    /// The base, as `https://api.example.com/v1`; `/chat/completions` is added.
    pub base_url: Url,
    /// The model's name.
    pub model: String,
    /// The key, sent as a bearer token.
    pub api_key: Option<SecretString>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// Fills through the endpoint.
pub struct EndpointPlanner {
    settings: EndpointSettings,
    client: reqwest::Client,
}

/// Why the endpoint was of no use.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(reqwest::Error),
    /// No answer, or none in time.
    #[error("did not answer: {0}")]
    Unreachable(String),
    /// An answer that says no.
    #[error("answered HTTP {status}: {detail}")]
    Status {
        /// The status.
        status: u16,
        /// The beginning of its body.
        detail: String,
    },
    /// An answer that cannot be used.
    #[error("answered with something unexpected: {0}")]
    Unexpected(String),
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    tool_calls: Vec<ToolCall>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    arguments: Value,
}

/// What the endpoint said.
enum Reply {
    Arguments(Arguments),
    /// It did not call the tool but wrote this.
    Words(String),
}

impl EndpointPlanner {
    /// A planner that asks this endpoint.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(settings: EndpointSettings) -> Result<Arc<Self>, EndpointError> {
        // Installing twice is refused, which is fine: one is in place.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(EndpointError::Client)?;
        Ok(Arc::new(Self { settings, client }))
    }

    async fn plan(&self, request: PlanRequest<'_>) -> Plan {
        let until = Instant::now() + request.within;
        let asked = tokio::time::timeout_at(until, self.fill_and_repair(request)).await;
        let error = match asked {
            Ok(Ok(plan)) => return plan,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "did not answer in time".to_owned(),
        };
        let note = format!("the configured endpoint {error}; the arguments were filled by rules");
        with_note(rules::plan(request), note)
    }

    async fn fill_and_repair(&self, request: PlanRequest<'_>) -> Result<Plan, EndpointError> {
        let mut messages = vec![
            json!({"role": "system", "content": instructions(request)}),
            json!({"role": "user", "content": request.question}),
        ];
        let mut arguments = match self.ask(request, &messages).await? {
            Reply::Arguments(arguments) => arguments,
            Reply::Words(words) => return Ok(declined(request, words)),
        };
        let faults = schema::faults(&request.tool.input_schema, &arguments);
        if !faults.is_empty() {
            let complaint = format!(
                "These arguments do not follow the schema: {}. They were: {}. Call the function again with arguments that do.",
                faults.join("; "),
                Value::Object(arguments)
            );
            messages.push(json!({"role": "user", "content": complaint}));
            arguments = match self.ask(request, &messages).await? {
                Reply::Arguments(arguments) => arguments,
                Reply::Words(words) => return Ok(declined(request, words)),
            };
            let faults = schema::faults(&request.tool.input_schema, &arguments);
            if !faults.is_empty() {
                return Err(EndpointError::Unexpected(format!(
                    "invalid arguments twice: {}",
                    faults.join("; ")
                )));
            }
        }
        let source = |name: &String| ArgumentSource {
            argument: name.clone(),
            found: self.settings.model.clone(),
        };
        let sources = arguments.keys().map(source).collect();
        Ok(Plan::Filled(Filled {
            arguments,
            sources,
            note: None,
            planner: PlannerKind::Endpoint,
        }))
    }

    async fn ask(&self, request: PlanRequest<'_>, messages: &[Value]) -> Result<Reply, EndpointError> {
        let body = json!({
            "model": self.settings.model,
            "messages": messages,
            "temperature": 0,
            "tools": [{"type": "function", "function": {
                "name": function_name(&request.tool.name),
                "description": request.tool.description,
                "parameters": request.tool.input_schema,
            }}],
            "tool_choice": "auto",
        });
        let address = format!(
            "{}/chat/completions",
            self.settings.base_url.as_str().trim_end_matches('/')
        );
        let mut post = self.client.post(address).json(&body);
        if let Some(key) = &self.settings.api_key {
            post = post.bearer_auth(key.expose_secret());
        }
        let response = post
            .send()
            .await
            .map_err(|error| EndpointError::Unreachable(without_address(error)))?;
        let status = response.status();
        let body = read_bounded(response).await?;
        if !status.is_success() {
            let detail = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(EndpointError::Status {
                status: status.as_u16(),
                detail,
            });
        }
        read_completion(&body)
    }
}

impl Planner for EndpointPlanner {
    fn kind(&self) -> PlannerKind {
        PlannerKind::Endpoint
    }

    fn fill<'a>(&'a self, request: PlanRequest<'a>) -> BoxFuture<'a, Plan> {
        Box::pin(self.plan(request))
    }
}

fn instructions(request: PlanRequest<'_>) -> String {
    let mut text = format!(
        "Call the function with arguments taken from the user's message. Leave out optional arguments that the message does \
         not mention. If a required argument is missing, do not invent it: ask for it in one short sentence instead. \
         It is now {}.",
        request.now
    );
    if !request.context.earlier.is_empty() {
        let earlier = Value::Object(request.context.earlier.clone());
        text.push_str(&format!(
            " Arguments of earlier calls in this conversation: {earlier}"
        ));
    }
    text
}

/// The endpoint asked back. What it can be held to is the schema: the required arguments that rules do not find either.
fn declined(request: PlanRequest<'_>, words: String) -> Plan {
    match rules::plan(request) {
        Plan::Missing {
            filled,
            names,
            question,
        } => {
            let words = words.trim().to_owned();
            Plan::Missing {
                filled,
                names,
                question: if words.is_empty() { question } else { words },
            }
        }
        filled_or_refused => filled_or_refused,
    }
}

fn with_note(plan: Plan, note: String) -> Plan {
    match plan {
        Plan::Filled(filled) => Plan::Filled(Filled {
            note: Some(note),
            ..filled
        }),
        Plan::Missing {
            filled,
            names,
            question,
        } => Plan::Missing {
            filled: Filled {
                note: Some(note),
                ..filled
            },
            names,
            question,
        },
        Plan::Refused { reason } => Plan::Refused {
            reason: format!("{reason} ({note})"),
        },
    }
}

fn function_name(tool: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
            c
        } else {
            '_'
        }
    };
    tool.chars().map(allowed).take(FUNCTION_NAME_CHARS_MAX).collect()
}

fn without_address(error: reqwest::Error) -> String {
    // The address may carry credentials.
    let error = error.without_url();
    if error.is_timeout() {
        "timed out".to_owned()
    } else {
        error.to_string()
    }
}

async fn read_bounded(mut response: reqwest::Response) -> Result<Vec<u8>, EndpointError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| EndpointError::Unreachable(without_address(error)))?
    {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(EndpointError::Unexpected(format!(
                "more than {ANSWER_BYTES_MAX} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read_completion(body: &[u8]) -> Result<Reply, EndpointError> {
    let completion: Completion =
        serde_json::from_slice(body).map_err(|error| EndpointError::Unexpected(error.to_string()))?;
    let message = completion
        .choices
        .into_iter()
        .next()
        .ok_or_else(|| EndpointError::Unexpected("no choice".to_owned()))?
        .message;
    let Some(call) = message.tool_calls.into_iter().next() else {
        return Ok(Reply::Words(message.content.unwrap_or_default()));
    };
    // The reference says a string with JSON; several servers send the object itself.
    let arguments = match call.function.arguments {
        Value::String(text) if text.trim().is_empty() => Value::Object(Arguments::new()),
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|error| EndpointError::Unexpected(error.to_string()))?
        }
        other => other,
    };
    match arguments {
        Value::Object(arguments) => Ok(Reply::Arguments(arguments)),
        other => Err(EndpointError::Unexpected(format!(
            "arguments that are no object: {other}"
        ))),
    }
}

#[cfg(test)]
mod tests;
