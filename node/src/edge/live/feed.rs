//! This node's events as lines of JSON, for the other nodes of the cluster and for scripts.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream::select_all};
use http::header;
use serde::Deserialize;
use tokio_stream::wrappers::BroadcastStream;
use troupe_protocol::{error::Code, live::LiveEvent};
use utoipa::IntoParams;

use super::{Text, client::lagged};
use crate::edge::{ApiError, ApiQuery, ApiResult, EdgeState};

/// Which events are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// Topics with commas between: `servers`, `actors`, `events`, `status`.
    topics: String,
}

/// What happens on this node, as lines of JSON until the client hangs up.
#[utoipa::path(
    get, path = "/api/v1/live/feed", tag = "node", params(FeedQuery),
    responses((status = 200, content_type = "application/x-ndjson", body = LiveEvent))
)]
pub async fn feed(
    State(state): State<EdgeState>,
    ApiQuery(query): ApiQuery<FeedQuery>,
) -> ApiResult<Response> {
    let mut events = Vec::new();
    for topic in query.topics.split(',').map(str::trim) {
        let channel = state.live.topic(topic).ok_or_else(|| {
            let detail = format!("topics: no topic {topic:?}; allowed: servers, actors, events, status");
            ApiError::new(Code::InvalidField, detail)
        })?;
        let heard = BroadcastStream::new(channel.subscribe());
        events.push(
            heard
                .filter_map(|event| async { event.map_or_else(lagged, Some) })
                .boxed(),
        );
    }
    let lines = select_all(events)
        .map(|text| Ok::<_, Infallible>(line_of(&text)))
        .take_until(state.stopping.clone().cancelled_owned());
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn line_of(text: &Text) -> Bytes {
    let mut line = BytesMut::with_capacity(text.len() + 1);
    line.put_slice(text.as_bytes());
    line.put_u8(b'\n');
    line.freeze()
}
