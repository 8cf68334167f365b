//! What happens on other nodes, heard only while somebody here watches.

use std::{collections::BTreeSet, io, time::Duration};

use axum::body::Body;
use futures::TryStreamExt;
use http::{Method, Request, Uri};
use serde::Deserialize;
use tokio::{sync::broadcast, task::JoinSet};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};
use troupe_actors::runtime::Deadline;
use troupe_protocol::{access::Principal, cluster::MemberState, error::Code, id::NodeId};

use super::Text;
use crate::edge::{ApiError, ApiResult, EdgeState, peer};

/// How often it is looked who watches and which nodes there are; also the pause before a lost node is asked again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for a feed to begin.
const FEED_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest single event of another node.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Events of other nodes, by topic.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    actors: broadcast::Sender<Text>,
    events: broadcast::Sender<Text>,
}

impl Elsewhere {
    /// Queues of this length.
    pub fn new(queue_events_max: usize) -> Self {
        Self {
            actors: broadcast::Sender::new(queue_events_max),
            events: broadcast::Sender::new(queue_events_max),
        }
    }

    /// The topics of which other nodes' events are heard too.
    pub fn topic(&self, topic: &str) -> Option<&broadcast::Sender<Text>> {
        match topic {
            "actors" => Some(&self.actors),
            "events" => Some(&self.events),
            _ => None,
        }
    }

    /// The topics that somebody here watches, as the feed wants them named.
    fn watched(&self) -> Vec<&'static str> {
        let topics = [("actors", &self.actors), ("events", &self.events)];
        topics
            .into_iter()
            .filter(|(_, channel)| channel.receiver_count() > 0)
            .map(|(topic, _)| topic)
            .collect()
    }

    fn put(&self, line: String) {
        #[derive(Deserialize)]
        struct Topic {
            topic: String,
        }
        let Ok(Topic { topic }) = serde_json::from_str(&line) else {
            return;
        };
        let channel = match topic.as_str() {
            "flow" => &self.events,
            _ => &self.actors,
        };
        // The last subscriber may have left meanwhile.
        let _ = channel.send(line.into());
    }
}

/// Listens to the other nodes for as long as somebody watches. Never ends by itself.
pub async fn listen(state: &EdgeState) {
    let mut followed: BTreeSet<NodeId> = BTreeSet::new();
    let mut topics = Vec::new();
    let mut following = JoinSet::new();
    loop {
        let watched = state.live.elsewhere.watched();
        if watched != topics {
            following.shutdown().await;
            followed.clear();
            topics = watched;
        }
        if !topics.is_empty() {
            for node in others(state).difference(&followed.clone()).copied() {
                followed.insert(node);
                let (state, topics) = (state.clone(), topics.join(","));
                following.spawn(async move {
                    if let Err(error) = follow(&state, node, &topics).await {
                        tracing::debug!(%node, error = %error.problem(), "another node's events ended");
                    }
                    node
                });
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        while let Some(ended) = following.try_join_next() {
            match ended {
                Ok(node) => followed.remove(&node),
                Err(_) => continue, // it was told to end
            };
        }
    }
}

fn others(state: &EdgeState) -> BTreeSet<NodeId> {
    let membership = state.cluster.membership();
    let members = membership.members.values();
    members
        .filter(|member| member.id != state.node_id && member.state != MemberState::Down)
        .map(|member| member.id)
        .collect()
}

async fn follow(state: &EdgeState, node: NodeId, topics: &str) -> ApiResult<()> {
    let lost = |error: String| ApiError::new(Code::NodeUnreachable, error);
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = format!("/api/v1/live/feed?topics={topics}")
        .parse::<Uri>()
        .map_err(|error| lost(error.to_string()))?;
    let within = Deadline::within(FEED_TIMEOUT);
    let response = peer::send(state, node, request, &Principal::node(), within).await?;
    if !response.status().is_success() {
        return Err(lost(format!("it answered {}", response.status())));
    }
    let bytes = response.into_body().into_data_stream().map_err(io::Error::other);
    let mut lines = FramedRead::new(
        StreamReader::new(bytes),
        LinesCodec::new_with_max_length(EVENT_BYTES_MAX),
    );
    while let Some(line) = lines.try_next().await.map_err(|error| lost(error.to_string()))? {
        state.live.elsewhere.put(line);
    }
    Ok(())
}
