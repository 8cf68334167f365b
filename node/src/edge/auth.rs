//! Who is calling, and may they? Key or browser session in, principal out; the rules are in [`super::rules`].

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, header, request::Parts};
use troupe_protocol::{
    access::{Principal, Role},
    error::Code,
};

use super::{
    peer::{FromNode, asserted_principal},
    problem::{ApiError, ApiResult},
    rules::{Access, access_of, access_of_unrouted},
    state::EdgeState,
};

/// The cookie that holds a browser's session.
pub const SESSION_COOKIE: &str = "troupe_session";

/// How a caller proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// `Authorization: Bearer KEY`.
    Key,
    /// The session cookie.
    Session,
    /// Another node of the cluster says so.
    Node,
    /// Nothing; the node is open.
    None,
}

/// The caller of a route that asks for one. An extractor.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// How that is known.
    pub proof: Proof,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(unauthenticated)
    }
}

/// Lets a request through to its route, with its [`Caller`], when the rules allow it.
pub async fn authorize(state: &EdgeState, mut request: Request, next: Next) -> Response {
    match admit(state, &request) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn admit(state: &EdgeState, request: &Request) -> ApiResult<Option<Caller>> {
    let headers = request.headers();
    if request.extensions().get::<FromNode>().is_some() {
        return admit_from_node(request).map(Some);
    }
    state.neighbourhood.check(headers, request.uri())?;
    let access = match request.extensions().get::<MatchedPath>() {
        Some(route) => access_of(request.method(), route.as_str()),
        None => access_of_unrouted(request.uri().path()),
    };
    if access == Access::Public {
        return Ok(None);
    }
    let caller = identify(state, headers, access)?;
    if caller.proof == Proof::Session {
        refuse_forgery(request.method(), headers)?;
    }
    check_role(access, caller).map(Some)
}

/// Another node has checked who is behind the request; what they may do is checked here all the same.
fn admit_from_node(request: &Request) -> ApiResult<Caller> {
    let principal = asserted_principal(request.headers()).ok_or_else(unauthenticated)?;
    let access = match request.extensions().get::<MatchedPath>() {
        Some(route) => access_of(request.method(), route.as_str()),
        None => access_of_unrouted(request.uri().path()),
    };
    let caller = Caller {
        principal,
        proof: Proof::Node,
    };
    check_role(access, caller)
}

fn check_role(access: Access, caller: Caller) -> ApiResult<Caller> {
    match access {
        Access::Role(required) if !caller.principal.may(required) => {
            Err(forbidden(&caller.principal, required))
        }
        _ => Ok(caller),
    }
}

/// Who calls: by key, else by session, else (where that is open) nobody in particular.
fn identify(state: &EdgeState, headers: &HeaderMap, access: Access) -> ApiResult<Caller> {
    if let Some(presented) = headers.get(header::AUTHORIZATION) {
        let key = presented.to_str().ok().and_then(bearer_key);
        let principal = key
            .and_then(|key| state.authenticate_key(key))
            .ok_or_else(unauthenticated)?;
        return Ok(Caller {
            principal,
            proof: Proof::Key,
        });
    }
    if let Some(principal) = session_token(headers).and_then(|token| state.authenticate_session(token)) {
        return Ok(Caller {
            principal,
            proof: Proof::Session,
        });
    }
    if access == Access::Open && state.config.edge.open {
        return Ok(Caller {
            principal: Principal::anonymous(),
            proof: Proof::None,
        });
    }
    Err(unauthenticated())
}

fn bearer_key(authorization: &str) -> Option<&str> {
    let (scheme, key) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// The token in the session cookie.
pub fn session_token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|cookie| {
        let (name, token) = cookie.trim().split_once('=')?;
        (name == SESSION_COOKIE).then_some(token)
    })
}

/// A browser sends its cookie along whoever wrote the page, so a change needs a sign that the page is ours.
/// `Origin` has been checked by then; where a browser sends none it sends `Sec-Fetch-Site`.
fn refuse_forgery(method: &Method, headers: &HeaderMap) -> ApiResult<()> {
    let changes_nothing = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let upgrades = headers.contains_key(header::UPGRADE);
    let is_same_origin = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "same-origin");
    if (changes_nothing && !upgrades) || headers.contains_key(header::ORIGIN) || is_same_origin {
        return Ok(());
    }
    let detail =
        "a request with a session cookie needs an Origin header too; clients other than browsers use a key";
    Err(ApiError::new(Code::ForeignOrigin, detail))
}

fn unauthenticated() -> ApiError {
    ApiError::new(
        Code::Unauthenticated,
        "no key, or one that is unknown or revoked; send `Authorization: Bearer trp_…` or sign in",
    )
}

fn forbidden(principal: &Principal, required: Role) -> ApiError {
    let detail = format!(
        "{} has the role {}; this needs the role {required}",
        principal.name, principal.role
    );
    ApiError::new(Code::Forbidden, detail)
}
