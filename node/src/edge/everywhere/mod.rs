//! One tree: what can be seen of any node can be seen from every node.
//!
//! A request on one of the [`OBSERVED`] paths may say `?node=`: a member's id or name, and it is handed to that node as
//! it is; `all`, and this node asks the others too and puts the answers together. Lists are about all nodes when nothing
//! is said, single things about this node. A node that does not answer within [`ANSWER_TIMEOUT`] is named in the answer.
//!
//! # Layout
//! - here: whom a request is about, and asking the others;
//! - `merge`: putting answers together, without I/O.

mod merge;

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::future::join_all;
use http::{HeaderMap, Method, StatusCode, Uri, request::Parts};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use troupe_actors::runtime::Deadline;
use troupe_protocol::{
    cluster::{Member, MemberState},
    error::Code,
    id::NodeId,
};

pub use merge::{Located, audit, dead_letters, joined, located, trace, traces};

use super::{ApiError, ApiResult, Caller, EdgeState, peer};

/// Longest wait for another node's part of an answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Largest part of an answer that another node may give.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The parameter that names the node.
const PARAMETER: &str = "node";
/// What it says when all nodes are meant.
const ALL: &str = "all";

/// Whom a path is about when the request does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Default {
    All,
    ThisNode,
}

/// The paths on which a node may be named.
const OBSERVED: &[(&str, Default)] = &[
    ("/api/v1/actors", Default::All),
    ("/api/v1/actors/tree", Default::All),
    ("/api/v1/actors/{id}", Default::ThisNode),
    ("/api/v1/actors/{id}/{command}", Default::ThisNode),
    ("/api/v1/traces", Default::All),
    ("/api/v1/traces/{correlation_id}", Default::All),
    ("/api/v1/dead-letters", Default::All),
    ("/api/v1/calls", Default::All),
    ("/api/v1/calls/{id}", Default::ThisNode),
    ("/api/v1/audit", Default::All),
    ("/api/v1/status", Default::ThisNode),
];

/// Whom a request is about, as far as this node has to do with it. An extractor.
#[derive(Debug, Clone)]
pub enum Scope {
    /// This node alone.
    Here,
    /// All nodes; the path and the query (without its node) to ask the others.
    Everywhere {
        /// The path.
        path: String,
        /// What the query says besides.
        query: Vec<(String, String)>,
    },
}

impl<S: Send + Sync> FromRequestParts<S> for Scope {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or(Self::Here))
    }
}

/// Middleware: hands a request about another node to that node, and tells the handlers of all others whom it is about.
pub async fn direct(State(state): State<EdgeState>, mut request: Request, next: Next) -> Response {
    let Some(default) = default_of(&request) else {
        return next.run(request).await;
    };
    match aim(&state, request.uri(), default) {
        Err(refused) => refused.into_response(),
        Ok(Aim::Other(node)) => match hand_over(&state, node, request).await {
            Ok(response) => response,
            Err(failed) => failed.into_response(),
        },
        Ok(Aim::Us { scope, uri }) => {
            if let Some(uri) = uri {
                *request.uri_mut() = uri;
            }
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
    }
}

fn default_of(request: &Request) -> Option<Default> {
    let route = request.extensions().get::<MatchedPath>()?;
    let observed = OBSERVED.iter().find(|(path, _)| *path == route.as_str());
    observed.map(|(_, default)| *default)
}

enum Aim {
    Other(NodeId),
    /// This node answers; with the URI that handlers are to see, when that differs.
    Us {
        scope: Scope,
        uri: Option<Uri>,
    },
}

fn aim(state: &EdgeState, uri: &Uri, default: Default) -> ApiResult<Aim> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let (named, rest): (Vec<_>, Vec<_>) = pairs
        .into_owned()
        .partition(|(parameter, _)| parameter == PARAMETER);
    let named = named.first().map(|(_, node)| node.as_str());
    let everywhere = || Scope::Everywhere {
        path: uri.path().to_owned(),
        query: rest.clone(),
    };
    let scope = match (named, default) {
        (None, Default::All) | (Some(ALL), _) => everywhere(),
        (None, Default::ThisNode) => Scope::Here,
        (Some(name_or_id), _) => match member(state, name_or_id)?.id {
            id if id == state.node_id => Scope::Here,
            other => return Ok(Aim::Other(other)),
        },
    };
    let uri = named.map(|_| with_query(uri.path(), &rest)).transpose()?;
    Ok(Aim::Us { scope, uri })
}

fn with_query(path: &str, query: &[(String, String)]) -> ApiResult<Uri> {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    let uri = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    uri.parse()
        .map_err(|error| ApiError::new(Code::InvalidField, format!("query: {error}")))
}

/// The member with this name or id.
///
/// # Errors
/// `NodeNotFound`.
pub fn member(state: &EdgeState, name_or_id: &str) -> ApiResult<Member> {
    let membership = state.cluster.membership();
    let mut members = membership.members.values();
    let found =
        members.find(|member| member.name.as_str() == name_or_id || member.id.to_string() == name_or_id);
    found.cloned().ok_or_else(|| {
        let detail = format!("no member of the cluster has the name or id {name_or_id:?}");
        ApiError::new(Code::NodeNotFound, detail)
    })
}

/// Has another node answer a request that names it.
async fn hand_over(state: &EdgeState, node: NodeId, request: Request) -> ApiResult<Response> {
    let caller =
        request.extensions().get::<Caller>().cloned().ok_or_else(|| {
            ApiError::new(Code::Internal, "a request without a caller cannot be handed over")
        })?;
    peer::send(state, node, request, &caller.principal, state.work_deadline()).await
}

/// What the other nodes answered, and which did not.
pub struct Gathered<T> {
    /// The answers.
    pub answers: Vec<(NodeId, T)>,
    /// Who did not answer.
    pub unanswered: Vec<NodeId>,
}

impl Scope {
    /// What the other nodes answer to the request's question, if it is about them too. `change` adapts the query.
    pub async fn ask_others<T: DeserializeOwned>(
        &self,
        state: &EdgeState,
        caller: &Caller,
        change: fn(&mut Vec<(String, String)>),
    ) -> Gathered<T> {
        let mut gathered = Gathered {
            answers: Vec::new(),
            unanswered: Vec::new(),
        };
        let Self::Everywhere { path, query } = self else {
            return gathered;
        };
        let membership = state.cluster.membership();
        let others = membership
            .members
            .values()
            .filter(|member| member.id != state.node_id);
        let asked = others.map(|member| async move {
            let mut query = query.clone();
            change(&mut query);
            query.push((PARAMETER.to_owned(), member.id.to_string()));
            let answer = match member.state {
                MemberState::Down => Answer::Missing,
                _ => ask(state, caller, member.id, path, &query).await,
            };
            (member.id, answer)
        });
        for (node, answer) in join_all(asked).await {
            match answer {
                Answer::Given(answer) => gathered.answers.push((node, answer)),
                Answer::Nothing => {}
                Answer::Missing => gathered.unanswered.push(node),
            }
        }
        gathered
    }
}

/// Whole lists: the page is cut from all nodes' items together.
pub fn whole_list(query: &mut Vec<(String, String)>) {
    query.retain(|(parameter, _)| !matches!(parameter.as_str(), "limit" | "cursor"));
    query.push((
        "limit".to_owned(),
        troupe_protocol::api::PAGE_ITEMS_MAX.to_string(),
    ));
}

/// The query as it was sent.
pub fn as_it_is(_: &mut Vec<(String, String)>) {}

/// What one node said.
enum Answer<T> {
    Given(T),
    /// There is nothing there.
    Nothing,
    /// No answer came in time.
    Missing,
}

async fn ask<T: DeserializeOwned>(
    state: &EdgeState,
    caller: &Caller,
    node: NodeId,
    path: &str,
    query: &[(String, String)],
) -> Answer<T> {
    let within = Deadline::within(ANSWER_TIMEOUT);
    let asked = async {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = with_query(path, query)?;
        *request.headers_mut() = HeaderMap::new();
        let response = peer::send(state, node, request, &caller.principal, within).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| ApiError::new(Code::NodeUnreachable, error.to_string()))?;
        let bytes = body.to_bytes();
        if status == StatusCode::NOT_FOUND {
            return Ok(Answer::Nothing);
        }
        if !status.is_success() {
            return Err(ApiError::new(
                Code::NodeUnreachable,
                format!("it answered {status}"),
            ));
        }
        let answer = serde_json::from_slice(&bytes);
        answer
            .map(Answer::Given)
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))
    };
    match tokio::time::timeout_at(within.instant(), asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(%node, path, error = %error.problem(), "another node's part is missing");
            Answer::Missing
        }
        Err(_) => {
            tracing::debug!(%node, path, "another node's part did not come in time");
            Answer::Missing
        }
    }
}
