//! Any headers before any message, as the edge reads both: it refuses them or takes them, and never stumbles.
//!
//! The edge's own files, which know nothing of the rest of the node.

#![no_main]
#![allow(dead_code, unused_imports)]

extern crate self as troupe_actors;
// the actors' file knows no more of it than its headers
extern crate http as reqwest;

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use troupe_protocol::jsonrpc::Message;
use troupe_protocol::mcp::{Era, header};

#[path = "../../../actors/src/upstream/http/mirror.rs"]
mod mirror;

pub mod upstream {
    pub use crate::mirror::ParamHeaders;
}

#[path = "../../../node/src/edge/mcp/era.rs"]
mod era;
#[path = "../../../node/src/edge/mcp/fault.rs"]
mod fault;
#[path = "../../../node/src/edge/mcp/negotiation.rs"]
mod negotiation;

fuzz_target!(|bytes: &[u8]| {
    let (head, body) = match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &b""[..]),
    };
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(64) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
        if let Ok(text) = std::str::from_utf8(value) {
            let encoded = mirror::header_value(text);
            let decoded = encoded.to_str().ok().and_then(header::decode_value);
            assert_eq!(decoded.as_deref(), Some(text), "what is written is read");
        }
    }
    let _ = negotiation::Accepts::read(&headers);
    let _ = negotiation::is_json(&headers);
    let given = era::param_headers(&headers);
    let (Ok(named), Ok(message)) = (era::McpHeaders::read(&headers), Message::parse(body)) else {
        return;
    };
    let _ = named.is_modern();
    let meta = era::meta_of(&message);
    if era::era_of(&named, &message, &meta) == Era::Modern {
        let _ = era::check_modern(&named, &message, &meta);
    } else {
        let _ = era::check_legacy_version(&named);
    }
    if let Some(params) = message.params {
        if let Ok(schema) = serde_json::from_str(params.get())
            && let Ok(mirrors) = mirror::mirrors_of(&schema)
        {
            let _ = mirror::check(&mirrors, message.params, &given);
        }
    }
});
