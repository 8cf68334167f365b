//! The modern era's way with a message: each stands alone, nothing is kept between two.

use axum::response::Response;
use http::HeaderMap;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use troupe_actors::runtime::trace;
use troupe_actors::session::{
    Answer, Client, ClientRequest, Introduction, Notice, NoticeFeed, SUBSCRIPTIONS_MAX, Subscribed, bridge,
};
use troupe_protocol::jsonrpc::{Kind, Message, edit};
use troupe_protocol::mcp::{ClientCapabilities, Era, ProtocolVersion, meta, method};

use super::Context;
use super::era::{self, Meta};
use super::event_stream::{self, NoticeStream, PendingCall, frame};
use super::fault::Fault;
use super::forward;
use super::legacy::NOTIFICATIONS_MAX;
use super::reply::{ReplyTo, accepted};

/// A message of a modern client.
pub(super) async fn receive(
    context: &Context<'_>,
    message: &Message<'_>,
    meta: &Meta<'_>,
    headers: &HeaderMap,
) -> Result<Response, Fault> {
    match message.kind {
        // The revision defines none for this transport; what is not known does no harm.
        Kind::Notification => return Ok(accepted()),
        Kind::Response => return Err(Fault::invalid_request("clients of 2026-07-28 send no responses")),
        Kind::Request => {}
    }
    let capabilities = era::check_modern(&context.headers, message, meta)?;
    match message.method() {
        method::DISCOVER => discover(context, message).await,
        method::SUBSCRIPTIONS_LISTEN => listen(context, message, capabilities).await,
        _ => {
            let elsewhere = context.state.gateway.parked_at(message.params);
            if let Some(node) = elsewhere.filter(|_| !context.is_handed_on)
                && let Some(answer) = forward::hand_to(context, node, headers).await?
            {
                return Ok(answer);
            }
            Ok(call(context, message, meta, headers, capabilities).await)
        }
    }
}

fn reply_to(context: &Context<'_>, message: &Message<'_>) -> ReplyTo {
    let id = message.id.map_or("null", RawValue::get);
    ReplyTo {
        id: id.into(),
        era: Era::Modern,
        accepts: context.accepts,
        resumable: None,
    }
}

async fn discover(context: &Context<'_>, message: &Message<'_>) -> Result<Response, Fault> {
    let answer = match context
        .state
        .gateway
        .introduce(&context.endpoint, Era::Modern)
        .await
    {
        Ok(introduction) => Answer::Result(discover_result(&introduction).into()),
        Err(refusal) => refusal.into_answer(Era::Modern),
    };
    Ok(reply_to(context, message).answer(&answer))
}

fn discover_result(introduction: &Introduction) -> String {
    let versions = ProtocolVersion::ALL
        .map(|version| format!("\"{version}\""))
        .into_iter()
        .rev();
    let mut result = format!(
        r#"{{"supportedVersions":[{}],"capabilities":{},"_meta":{{"{}":{}}}"#,
        versions.collect::<Vec<_>>().join(","),
        introduction.capabilities,
        meta::SERVER_INFO,
        introduction.server_info
    );
    if let Some(instructions) = &introduction.instructions {
        result.push_str(",\"instructions\":");
        edit::push_string(&mut result, instructions);
    }
    result.push('}');
    bridge::completed(method::DISCOVER, &result).into_owned()
}

/// A call lives as long as its connection: when the client closes it, the call is dropped and so cancelled.
async fn call(
    context: &Context<'_>,
    message: &Message<'_>,
    meta: &Meta<'_>,
    headers: &HeaderMap,
    capabilities: ClientCapabilities,
) -> Response {
    let wants_notifications = meta.progress_token.is_some() || meta.log_level.is_some();
    let (notifications, received) = (context.accepts.event_stream && wants_notifications)
        .then(|| mpsc::channel(NOTIFICATIONS_MAX))
        .map_or((None, None), |(sender, receiver)| (Some(sender), Some(receiver)));
    let request = ClientRequest {
        endpoint: context.endpoint.clone(),
        client: Client {
            era: Era::Modern,
            principal: context.principal.clone(),
            capabilities,
        },
        method: message.method().to_owned(),
        params: message.params.map(RawValue::to_owned),
        notifications,
        session: None,
        param_headers: (message.method() == method::TOOLS_CALL).then(|| era::param_headers(headers)),
    };
    let gateway = context.state.gateway.clone();
    let body = context.body.clone();
    let answered = async move {
        let _counted = body;
        gateway.answer(request).await
    };
    let call: PendingCall = Box::pin(trace::within(trace::current(), answered));
    reply_to(context, message).call(call, received).await
}

/// What a subscriber wants to be told, of what can be told here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    tools: bool,
    prompts: bool,
    resources: bool,
    /// The addresses of resources.
    updates_of: Vec<String>,
}

impl Wanted {
    fn read(message: &Message<'_>) -> Result<Self, Fault> {
        let filter = message
            .params
            .and_then(|params| edit::member(params, "notifications"));
        let filter = filter.filter(|filter| filter.get().starts_with('{'));
        let filter =
            filter.ok_or_else(|| Fault::invalid_params("params.notifications is required, an object"))?;
        let is_true = |key: &str| edit::member(filter, key).is_some_and(|value| value.get() == "true");
        Ok(Self {
            tools: is_true("toolsListChanged"),
            prompts: is_true("promptsListChanged"),
            resources: is_true("resourcesListChanged"),
            updates_of: resources_in(filter)?,
        })
    }

    fn includes(&self, notice: &Notice, subscribed: &Subscribed) -> bool {
        match notice {
            Notice::ToolsChanged => self.tools,
            Notice::PromptsChanged => self.prompts,
            Notice::ResourcesChanged => self.resources,
            Notice::ResourceUpdated(uri) => subscribed.includes(uri),
        }
    }

    /// The acknowledgement: what will be told, of what was asked for.
    fn acknowledgement(&self, id: &str, subscribed: &[&str]) -> String {
        let agreed = [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ];
        let mut agreed: Vec<String> = agreed
            .iter()
            .filter(|(is_wanted, _)| *is_wanted)
            .map(|(_, key)| format!("\"{key}\":true"))
            .collect();
        if !subscribed.is_empty() {
            let mut resources = "\"resourceSubscriptions\":[".to_owned();
            for (index, uri) in subscribed.iter().enumerate() {
                if index > 0 {
                    resources.push(',');
                }
                edit::push_string(&mut resources, uri);
            }
            resources.push(']');
            agreed.push(resources);
        }
        format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{}":{id}}},"notifications":{{{}}}}}}}"#,
            method::NOTIFICATION_SUBSCRIPTION_ACKNOWLEDGED,
            meta::SUBSCRIPTION_ID,
            agreed.join(",")
        )
    }
}

/// The resources of whose changes a subscriber wants to hear.
fn resources_in(filter: &RawValue) -> Result<Vec<String>, Fault> {
    let Some(uris) = edit::member(filter, "resourceSubscriptions") else {
        return Ok(Vec::new());
    };
    let uris: Vec<String> = serde_json::from_str(uris.get()).map_err(|_| {
        Fault::invalid_params("params.notifications.resourceSubscriptions must be an array of strings")
    })?;
    if uris.len() > SUBSCRIPTIONS_MAX {
        return Err(Fault::invalid_params(format!(
            "params.notifications.resourceSubscriptions has more than {SUBSCRIPTIONS_MAX} items"
        )));
    }
    Ok(uris)
}

async fn listen(
    context: &Context<'_>,
    message: &Message<'_>,
    capabilities: ClientCapabilities,
) -> Result<Response, Fault> {
    context.check_takes_events()?;
    let wanted = Wanted::read(message)?;
    let id: Box<str> = message.id.map_or("null", RawValue::get).into();
    let closing = Answer::Result(
        format!(
            r#"{{"resultType":"complete","_meta":{{"{}":{id}}}}}"#,
            meta::SUBSCRIPTION_ID
        )
        .into(),
    );
    // From here on no change is missed.
    let notices = context.state.gateway.notices(&context.endpoint);
    let client = Client {
        era: Era::Modern,
        principal: context.principal.clone(),
        capabilities,
    };
    let gateway = &context.state.gateway;
    let subscribed = gateway
        .subscribe(&context.endpoint, &client, &wanted.updates_of)
        .await;
    let uris: Vec<&str> = subscribed.uris().collect();
    Ok(event_stream::of_notices(NoticeStream {
        opening: frame(&wanted.acknowledgement(&id, &uris)).into(),
        notices: NoticeFeed::Alone(notices),
        closing: frame(&closing.to_response(&id)),
        render: Box::new(move |notice| {
            wanted
                .includes(notice, &subscribed)
                .then(|| frame(&tagged(notice, &id)).into())
        }),
        end: Box::pin(context.no_longer_served()),
        in_session: None,
    }))
}

/// A notice as a message of the subscription.
fn tagged(notice: &Notice, id: &str) -> String {
    let mut message = format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"_meta":{{"{}":{id}}}"#,
        notice.method(),
        meta::SUBSCRIPTION_ID
    );
    if let Notice::ResourceUpdated(uri) = notice {
        message.push_str(",\"uri\":");
        edit::push_string(&mut message, uri);
    }
    message.push_str("}}");
    message
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_subscriber_is_promised_what_can_be_told_and_no_more() {
        let text = r#"{"jsonrpc":"2.0","id":"s","method":"subscriptions/listen","params":{"notifications":
            {"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a://b"]}}}"#;
        let wanted = Wanted::read(&Message::parse_str(text).unwrap()).unwrap();
        assert_eq!(
            wanted,
            Wanted {
                tools: true,
                updates_of: vec!["a://b".to_owned()],
                ..Wanted::default()
            }
        );
        let with_resource = wanted.acknowledgement("1", &["a://\"b\""]);
        assert!(
            with_resource.contains(r#""resourceSubscriptions":["a://\"b\""]"#),
            "{with_resource}"
        );
        assert_eq!(
            wanted.acknowledgement("\"s\"", &[]),
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"},"notifications":{"toolsListChanged":true}}}"#
        );
        let no_filter = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}"#;
        assert!(Wanted::read(&Message::parse_str(no_filter).unwrap()).is_err());
    }

    #[test]
    fn an_update_names_its_resource_and_its_subscription() {
        let message = tagged(&Notice::ResourceUpdated("a://b".to_owned()), "7");
        let message: serde_json::Value = serde_json::from_str(&message).unwrap();
        assert_eq!(message["params"]["uri"], "a://b");
        assert_eq!(message["params"]["_meta"][meta::SUBSCRIPTION_ID], 7);
    }

    #[test]
    fn discovery_has_what_the_specification_wants() {
        let introduction = Introduction {
            capabilities: serde_json::json!({"tools": {}}),
            server_info: serde_json::json!({"name": "x", "version": "1"}),
            instructions: Some("be \"kind\"".to_owned()),
        };
        let result: serde_json::Value = serde_json::from_str(&discover_result(&introduction)).unwrap();
        assert_eq!(result["resultType"], "complete");
        assert_eq!(result["supportedVersions"][0], "2026-07-28");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "x");
        assert_eq!(result["instructions"], "be \"kind\"");
        assert!(result["ttlMs"].is_u64() && result["cacheScope"].is_string());
    }
}
