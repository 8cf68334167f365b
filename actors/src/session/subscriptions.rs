//! Subscriptions to resources, of clients of both eras at servers of both, at a server's own endpoint and at that of all.
//!
//! A client's wish is held by its session or by its stream, and makes one subscription of the gateway's own at the server
//! ([`Watch`]), whoever else wants to hear of the same. What the server tells comes as a notice to those who asked.

use std::borrow::Cow;
use std::sync::Arc;

use troupe_protocol::jsonrpc::edit;
use troupe_protocol::mcp::{Era, Profile, method};
use troupe_protocol::server::ServerName;
use troupe_protocol::server::name::BUILTIN_SERVER;

use super::bridge;
use super::endpoint::Endpoint;
use super::gateway::{Client, ClientRequest, Gateway, owned};
use super::refusal::{Answer, Refusal};
use super::session::{SUBSCRIPTION_URI_BYTES_MAX, SUBSCRIPTIONS_MAX, Session};
use crate::runtime::Deadline;
use crate::upstream::{Watch, WatchError};

/// What a modern client subscribed to when it began to listen.
#[derive(Debug, Default)]
pub struct Subscribed {
    watches: Vec<(String, Watch)>,
}

impl Subscribed {
    /// Whether the client hears of this resource.
    pub fn includes(&self, uri: &str) -> bool {
        self.watches.iter().any(|(watched, _)| watched == uri)
    }

    /// The resources of which it hears.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.watches.iter().map(|(uri, _)| uri.as_str())
    }
}

impl Gateway {
    /// The answer to a legacy client that subscribes to a resource or no longer wants to hear of one.
    pub(super) async fn answer_subscriber(&self, request: &ClientRequest) -> Result<Answer, Refusal> {
        let session = request
            .session
            .as_ref()
            .filter(|_| request.client.era == Era::Legacy);
        let session = session.ok_or_else(|| Refusal::MethodNotFound(request.method.clone()))?;
        let params = request.params.as_deref();
        let uri = params.and_then(|params| edit::string_member(params, "uri"));
        let uri = uri.ok_or_else(|| Refusal::InvalidParams("params.uri is required, a string".to_owned()))?;
        if request.method == method::RESOURCES_UNSUBSCRIBE {
            session.unsubscribe(&uri);
        } else {
            check_length(&uri)?;
            if !session.may_subscribe(&uri) {
                return Err(too_many());
            }
            let watch = match self.watch(&request.endpoint, &request.client, &uri).await? {
                Ok(watch) => watch,
                Err(refused) => {
                    let changed = owned(bridge::error_for(Era::Legacy, &refused));
                    let refused = changed.unwrap_or_else(|| Box::<str>::from(refused));
                    return Ok(Answer::of_error(refused));
                }
            };
            if !session.subscribe(&uri, watch) {
                return Err(too_many());
            }
        }
        self.parts.sessions.keep(session).await;
        Ok(Answer::Result("{}".into()))
    }

    /// Subscribes a modern client to these resources, as many of them as are told of here.
    pub async fn subscribe(&self, endpoint: &Endpoint, client: &Client, uris: &[String]) -> Subscribed {
        let watching = uris.iter().take(SUBSCRIPTIONS_MAX).map(|uri| async move {
            match self.watch(endpoint, client, uri).await {
                Ok(Ok(watch)) => Some((uri.clone(), watch)),
                Ok(Err(refused)) => {
                    tracing::debug!(%endpoint, uri, %refused, "a server refused a subscription");
                    None
                }
                Err(error) => {
                    tracing::debug!(%endpoint, uri, %error, "not subscribed");
                    None
                }
            }
        });
        let watches = futures::future::join_all(watching).await;
        Subscribed {
            watches: watches.into_iter().flatten().collect(),
        }
    }

    /// Subscribes to what the session was subscribed to over another node's connection to the server.
    pub(super) fn subscribe_again(&self, session: &Arc<Session>) {
        let subscriptions = session.subscriptions();
        if subscriptions.is_empty() {
            return;
        }
        let (gateway, session) = (self.clone(), Arc::clone(session));
        let sessions = self.parts.sessions.clone();
        sessions.finish(Box::pin(async move {
            let endpoint = &session.settled.endpoint;
            for uri in subscriptions {
                match gateway.watch_for(endpoint, session.profile, &uri).await {
                    Ok(Ok(watch)) => session.watched_again(&uri, watch),
                    failed => {
                        tracing::debug!(%endpoint, uri, ?failed, "a subscription could not be made again")
                    }
                }
            }
        }));
    }

    async fn watch(
        &self,
        endpoint: &Endpoint,
        client: &Client,
        uri: &str,
    ) -> Result<Result<Watch, Box<serde_json::value::RawValue>>, Refusal> {
        self.watch_for(endpoint, Profile::of(&client.capabilities), uri)
            .await
    }

    /// Has the server that is meant tell of the resource; or the error with which it refuses.
    async fn watch_for(
        &self,
        endpoint: &Endpoint,
        profile: Profile,
        uri: &str,
    ) -> Result<Result<Watch, Box<serde_json::value::RawValue>>, Refusal> {
        check_length(uri)?;
        let (server, uri) = self.server_of(endpoint, uri)?;
        if server.as_str() == BUILTIN_SERVER {
            return Err(Refusal::MethodNotFound(method::RESOURCES_SUBSCRIBE.to_owned()));
        }
        let deadline: Deadline = self.deadline(&server);
        let mut upstream = self.connect(&server).await?;
        if upstream.info().era == Era::Legacy {
            upstream = self
                .parts
                .upstreams
                .for_clients(upstream, profile, deadline)
                .await?;
        }
        match self.parts.upstreams.watch(&upstream, &uri, deadline).await {
            Ok(watch) => Ok(Ok(watch)),
            Err(WatchError::Refused(error)) => serde_json::value::RawValue::from_string(error.into_string())
                .map(Err)
                .map_err(|error| Refusal::InvalidParams(error.to_string())),
            Err(WatchError::Upstream(error)) => Err(error.into()),
            Err(error @ (WatchError::NotOffered(_) | WatchError::TooMany)) => {
                Err(Refusal::InvalidParams(error.to_string()))
            }
        }
    }

    /// The server that has the resource, and its own address for it.
    fn server_of<'a>(
        &self,
        endpoint: &Endpoint,
        uri: &'a str,
    ) -> Result<(ServerName, Cow<'a, str>), Refusal> {
        match endpoint {
            Endpoint::Server(server) => Ok((server.clone(), Cow::Borrowed(uri))),
            Endpoint::Aggregate => {
                let (server, own) = self
                    .resolve_uri(uri)
                    .ok_or_else(|| Refusal::UnknownResource(uri.to_owned()))?;
                Ok((server, Cow::Borrowed(own)))
            }
            Endpoint::Virtual(name) => {
                let server = self.parts.virtual_servers.get(name.as_str());
                let item = server.as_ref().and_then(|server| server.find_resource(uri));
                let item = item.ok_or_else(|| Refusal::UnknownResource(uri.to_owned()))?;
                let own = match item.exposed_as {
                    Some(_) => Cow::Owned(item.name.clone()),
                    None => Cow::Borrowed(uri),
                };
                Ok((item.server.clone(), own))
            }
        }
    }
}

/// Addresses are kept at several places, for as long as anybody wants to hear of them.
fn check_length(uri: &str) -> Result<(), Refusal> {
    if uri.len() <= SUBSCRIPTION_URI_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::InvalidParams(format!(
        "the address of a resource to subscribe to has at most {SUBSCRIPTION_URI_BYTES_MAX} bytes"
    )))
}

fn too_many() -> Refusal {
    Refusal::InvalidParams(format!(
        "the session has {SUBSCRIPTIONS_MAX} subscriptions already"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_addresses_are_not_subscribed_to() {
        assert!(check_length(&"a".repeat(SUBSCRIPTION_URI_BYTES_MAX)).is_ok());
        assert!(check_length(&"a".repeat(SUBSCRIPTION_URI_BYTES_MAX + 1)).is_err());
    }
}
