//! The `requestState` of a parked call: a ticket that nobody but the cluster's nodes can make, read or change.
//!
//! It travels through the client, so it is sealed and bound to who asked what (2026-07-28, basic/patterns/mrtr,
//! "Server Requirements"): the caller, the endpoint, the method, and what the call is about.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use troupe_protocol::id::NodeId;
use troupe_protocol::jsonrpc::edit;
use troupe_protocol::mcp;
use zeroize::Zeroizing;

use super::messages::Whose;

/// What our states begin with; a server's own state passes as it is.
const PREFIX: &str = "troupe1.";
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// What the key is for, so that no other use of the cluster's key can meet this one.
const PURPOSE: &[u8] = b"troupe: request state of parked calls, 1";

/// The key for states, the same on all nodes of a cluster.
#[derive(Clone)]
pub struct StateKey(Zeroizing<[u8; KEY_BYTES]>);

impl StateKey {
    /// The key that follows from the cluster's.
    pub fn derive(cluster_key: &[u8; KEY_BYTES]) -> Self {
        let mut hash = Sha256::new();
        hash.update(PURPOSE);
        hash.update(cluster_key);
        Self(Zeroizing::new(hash.finalize().into()))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

impl std::fmt::Debug for StateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateKey(…)")
    }
}

/// Where a parked call is. How long it stays there is the business of who keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ticket {
    pub node: NodeId,
    pub call: u128,
    /// Counts how often the client was sent away, so that each state is of use once.
    pub round: u32,
    /// What the state is good for.
    pub binding: Binding,
}

/// Who asked what: a state is good for the same alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding([u8; 32]);

impl Binding {
    pub fn new(whose: &Whose<'_>) -> Self {
        let Whose {
            principal,
            endpoint,
            server,
            method,
            params,
        } = *whose;
        let member = |key: &str| params.and_then(|params| edit::member(params, key));
        let name = mcp::header::name_member(method).and_then(member);
        let arguments = member("arguments").map(canonical);
        let caller = principal
            .key_id
            .map_or_else(|| principal.name.clone(), |key| key.to_string());
        let mut hash = Sha256::new();
        let parts = [
            caller,
            endpoint.to_string(),
            server.to_string(),
            method.to_owned(),
            name.map(|name| name.get().to_owned()).unwrap_or_default(),
            arguments.unwrap_or_default(),
        ];
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// The same text however a client orders and spaces the members.
fn canonical(arguments: &RawValue) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                let mut members: Vec<(String, Value)> = members
                    .into_iter()
                    .map(|(key, value)| (key, sorted(value)))
                    .collect();
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                Value::Object(members.into_iter().collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    serde_json::from_str::<Value>(arguments.get())
        .map_or_else(|_| arguments.get().to_owned(), |value| sorted(value).to_string())
}

/// Whether a client's `requestState` is one of ours.
pub(super) fn is_ours(state: &str) -> bool {
    state.starts_with(PREFIX)
}

/// The state for a ticket; nothing if the operating system has no random numbers.
pub(super) fn seal(key: &StateKey, ticket: &Ticket) -> Option<String> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).ok()?;
    let clear = serde_json::to_vec(ticket).ok()?;
    let sealed = key
        .cipher()
        .encrypt(&XNonce::from(nonce), clear.as_slice())
        .ok()?;
    let bytes = [nonce.as_slice(), &sealed].concat();
    Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The ticket in a state; nothing if it is not ours or was changed. What it is good for is up to who uses it.
pub(super) fn open(key: &StateKey, state: &str) -> Option<Ticket> {
    let bytes = URL_SAFE_NO_PAD.decode(state.strip_prefix(PREFIX)?).ok()?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
    let clear = key.cipher().decrypt(&XNonce::from(nonce), sealed).ok()?;
    serde_json::from_slice(&clear).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::endpoint::Endpoint;
    use troupe_protocol::access::Principal;
    use troupe_protocol::server::ServerName;

    fn binding_at(server: &str, name: &str, params: &str) -> Binding {
        let params = RawValue::from_string(params.to_owned()).unwrap();
        let principal = Principal {
            name: name.to_owned(),
            ..Principal::anonymous()
        };
        Binding::new(&Whose {
            principal: &principal,
            endpoint: &Endpoint::Aggregate,
            server: &ServerName::new(server).unwrap(),
            method: "tools/call",
            params: Some(&params),
        })
    }

    fn binding(name: &str, params: &str) -> Binding {
        binding_at("files", name, params)
    }

    fn ticket(binding: Binding) -> Ticket {
        Ticket {
            node: NodeId::from_ulid(ulid::Ulid(1)),
            call: u128::MAX,
            round: 2,
            binding,
        }
    }

    const PARAMS: &str = r#"{"name":"t","arguments":{"a":1,"b":[{"c":2,"d":3}]}}"#;

    #[test]
    fn a_state_is_bound_to_the_same_request_of_the_same_caller_alone() {
        let given = ticket(binding("ann", PARAMS));
        let retry = r#"{"requestState":"x","arguments":{ "b":[{"d":3,"c":2}],"a":1 },"name":"t","inputResponses":{},"_meta":{"x":1}}"#;
        assert_eq!(given.binding, binding("ann", retry));
        assert_ne!(given.binding, binding("bob", PARAMS), "another caller");
        let other = r#"{"name":"t","arguments":{"a":2}}"#;
        assert_ne!(given.binding, binding("ann", other), "another request");
        let elsewhere = binding_at("mail", "ann", PARAMS);
        assert_ne!(
            given.binding, elsewhere,
            "the tool of that name of another server"
        );
    }

    #[test]
    fn a_state_opens_unchanged_and_in_its_cluster_alone() {
        let key = StateKey::derive(&[1; 32]);
        let given = ticket(binding("ann", PARAMS));
        let state = seal(&key, &given).unwrap();
        assert!(is_ours(&state));
        assert_eq!(open(&key, &state), Some(given.clone()));
        assert_eq!(open(&StateKey::derive(&[2; 32]), &state), None, "another cluster");
        for changed in [
            format!("{state}-TAMPERED"),
            state[..state.len() - 1].to_owned(),
            state.replacen("troupe1.", "troupe2.", 1),
            "troupe1.".to_owned(),
            "troupe1.!!".to_owned(),
        ] {
            assert_eq!(open(&key, &changed), None, "{changed}");
        }
        assert_ne!(seal(&key, &given).unwrap(), state, "each is another");
    }
}
