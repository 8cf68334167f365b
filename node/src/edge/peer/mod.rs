//! HTTP between nodes (`troupe-http/1` on the node port): what is too large or too long for links, and requests that
//! another node has to answer.
//!
//! The other end is known by its certificate. Who is behind a request it says in the header [`PRINCIPAL`], which is
//! believed here and nowhere else; the rules about roles hold as for every caller.
//!
//! # Layout
//! - here: what both ends agree on;
//! - `client`: asking another node; `server`: the actor that answers others.

mod client;
mod server;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use troupe_actors::cluster::ClusterHandle;
use troupe_protocol::{access::Principal, cluster::Membership, error::Code, id::NodeId};

pub use client::{PeerConnections, PeerError, send, try_send};
pub use server::child;
#[cfg(test)]
pub(super) use server::{serve, serve_connection};

use super::{ApiError, ApiResult};

/// Who is behind a request, as the node that sends it knows.
pub const PRINCIPAL: HeaderName = HeaderName::from_static("x-troupe-principal");

/// The node that sent a request. Only in requests that came over the node port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FromNode(pub NodeId);

/// What says in [`PRINCIPAL`] who is behind a request.
pub fn assert_principal(principal: &Principal) -> ApiResult<HeaderValue> {
    let unusable =
        |error: String| ApiError::new(Code::Internal, format!("a principal cannot travel: {error}"));
    let json = serde_json::to_vec(principal).map_err(|error| unusable(error.to_string()))?;
    let mut value =
        HeaderValue::from_str(&URL_SAFE_NO_PAD.encode(json)).map_err(|error| unusable(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Who is behind a request that came over the node port.
pub fn asserted_principal(headers: &HeaderMap) -> Option<Principal> {
    let json = URL_SAFE_NO_PAD.decode(headers.get(PRINCIPAL)?.as_bytes()).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Resolves when a node that was a member is one no more.
async fn removed(cluster: ClusterHandle, node: NodeId) {
    let is_member = |membership: &Membership| membership.members.contains_key(&node);
    membership_becomes(&cluster, &is_member).await;
    membership_becomes(&cluster, |membership| !is_member(membership)).await;
}

/// Resolves when the membership is as wanted.
async fn membership_becomes(cluster: &ClusterHandle, wanted: impl Fn(&Membership) -> bool) {
    let mut epochs = cluster.epochs();
    loop {
        epochs.mark_unchanged();
        if wanted(&cluster.membership()) || epochs.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_principal_travels_and_anything_else_is_nobody() {
        let mut headers = HeaderMap::new();
        assert_eq!(asserted_principal(&headers), None);
        headers.insert(PRINCIPAL, assert_principal(&Principal::anonymous()).unwrap());
        assert_eq!(asserted_principal(&headers), Some(Principal::anonymous()));
        headers.insert(PRINCIPAL, HeaderValue::from_static("admin"));
        assert_eq!(asserted_principal(&headers), None);
    }
}
