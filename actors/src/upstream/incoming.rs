//! What a message from a server asks of us. Decides only; the connection acts.

use troupe_protocol::jsonrpc::{Kind, Message, edit, string_of};
use troupe_protocol::mcp::{ListKind, meta, method};

/// What to do about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Hand it to the caller of this call.
    Response(u64),
    /// Pass it on to the caller of this call.
    Progress(u64),
    /// Send this line back.
    Answer(String),
    /// Pass it on to a client that can answer it.
    Question,
    /// Forget these lists.
    ListChanged(&'static [ListKind]),
    /// A resource that somebody subscribed to has changed.
    ResourceUpdated(String),
    /// Keep it in the log.
    Log { level: Option<String>, text: String },
    /// The server will tell of these resources, in answer to the request with this id.
    Acknowledged { id: u64, resources: Vec<String> },
    /// The server ended a subscription.
    SubscriptionEnded(u64),
    /// Pass it on to the client whose call it belongs to: nobody here knows it.
    Other,
    /// Nothing.
    Ignored,
}

/// Decides about a message.
pub(super) fn decide(message: &Message<'_>) -> Incoming {
    match message.kind {
        Kind::Response => message.id_u64().map_or(Incoming::Ignored, Incoming::Response),
        Kind::Request if message.method() == method::PING => {
            let id = message.id.map_or("null", |id| id.get());
            Incoming::Answer(edit::response(id, "result", "{}"))
        }
        Kind::Request => Incoming::Question,
        Kind::Notification => notified(message),
    }
}

fn notified(message: &Message<'_>) -> Incoming {
    let param = |key: &str| message.params.and_then(|params| edit::member(params, key));
    let param_u64 = |key: &str| param(key).and_then(|value| value.get().parse().ok());
    match message.method() {
        method::NOTIFICATION_PROGRESS => {
            param_u64(meta::PROGRESS_TOKEN).map_or(Incoming::Ignored, Incoming::Progress)
        }
        method::NOTIFICATION_TOOLS_CHANGED => Incoming::ListChanged(&[ListKind::Tools]),
        method::NOTIFICATION_PROMPTS_CHANGED => Incoming::ListChanged(&[ListKind::Prompts]),
        method::NOTIFICATION_RESOURCES_CHANGED => {
            Incoming::ListChanged(&[ListKind::Resources, ListKind::ResourceTemplates])
        }
        method::NOTIFICATION_RESOURCE_UPDATED => match param("uri").and_then(string_of) {
            Some(uri) => Incoming::ResourceUpdated(uri.into_owned()),
            None => Incoming::Ignored,
        },
        method::NOTIFICATION_MESSAGE => {
            let level = param("level").and_then(string_of).map(|level| level.into_owned());
            let data = param("data");
            let text = data.and_then(string_of).map(|text| text.into_owned());
            let text = text
                .or_else(|| data.map(|data| data.get().to_owned()))
                .unwrap_or_default();
            Incoming::Log { level, text }
        }
        method::NOTIFICATION_SUBSCRIPTION_ACKNOWLEDGED => acknowledged(message).unwrap_or(Incoming::Ignored),
        method::NOTIFICATION_CANCELLED => {
            param_u64("requestId").map_or(Incoming::Ignored, Incoming::SubscriptionEnded)
        }
        _ => Incoming::Other,
    }
}

fn acknowledged(message: &Message<'_>) -> Option<Incoming> {
    let meta = edit::member(message.params?, "_meta")?;
    let id = edit::member(meta, meta::SUBSCRIPTION_ID)?.get().parse().ok()?;
    let agreed = edit::member(message.params?, "notifications")?;
    let resources = edit::member(agreed, "resourceSubscriptions");
    let resources = resources.and_then(|resources| serde_json::from_str(resources.get()).ok());
    Some(Incoming::Acknowledged {
        id,
        resources: resources.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decided(text: &str) -> Incoming {
        decide(&Message::parse_str(text).unwrap())
    }

    #[test]
    fn servers_requests_are_questions_save_one() {
        assert_eq!(
            decided(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#),
            Incoming::Answer(r#"{"jsonrpc":"2.0","id":"p","result":{}}"#.to_owned())
        );
        for asked in ["roots/list", "sampling/createMessage", "unheard/of"] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":3,"method":"{asked}"}}"#);
            assert_eq!(decided(&text), Incoming::Question);
        }
    }

    #[test]
    fn notifications_find_their_meaning() {
        let notification = |method: &str, params: &str| {
            decided(&format!(
                r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#
            ))
        };
        assert_eq!(
            notification("notifications/progress", r#"{"progressToken":7,"progress":1}"#),
            Incoming::Progress(7)
        );
        assert_eq!(
            notification("notifications/progress", r#"{"progressToken":"x"}"#),
            Incoming::Ignored
        );
        assert_eq!(
            notification("notifications/tools/list_changed", "{}"),
            Incoming::ListChanged(&[ListKind::Tools])
        );
        assert_eq!(
            notification("notifications/message", r#"{"level":"info","data":{"a":1}}"#),
            Incoming::Log {
                level: Some("info".to_owned()),
                text: r#"{"a":1}"#.to_owned()
            }
        );
        assert_eq!(notification("notifications/unheard/of", "{}"), Incoming::Other);
        assert_eq!(
            notification("notifications/subscriptions/acknowledged", "{}"),
            Incoming::Ignored
        );
        assert_eq!(
            decided(r#"{"jsonrpc":"2.0","id":12,"result":{}}"#),
            Incoming::Response(12)
        );
        assert_eq!(
            decided(r#"{"jsonrpc":"2.0","id":"theirs","result":{}}"#),
            Incoming::Ignored
        );
    }
}
