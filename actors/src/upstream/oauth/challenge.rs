//! What a server says to who comes without a token: where its authorization server is described, and what to ask for
//! there. Some say neither anywhere else (RFC 9728, section 5.1; RFC 6750, section 3).

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use troupe_protocol::mcp::{header, method};
use url::Url;

use crate::upstream::http::client;

const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
const CHALLENGE_BYTES_MAX: usize = 4 * 1024;
/// The only message that neither era takes amiss, and that leaves nothing behind.
const DISCOVER: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"#,
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientCapabilities":{}}}}"#
);

/// The challenge in a server's answer to a request without a token; nothing when there is none, for whatever reason.
pub(super) async fn challenge_of(server_url: &str) -> Option<String> {
    let url = Url::parse(server_url).ok()?;
    let request = client::for_address(&url).ok()?.post(url);
    let request = request
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        )
        .header(header::PROTOCOL_VERSION, HeaderValue::from_static("2026-07-28"))
        .header(header::METHOD, HeaderValue::from_static(method::DISCOVER))
        .timeout(ANSWERED_WITHIN);
    let response = request.body(DISCOVER).send().await.ok()?;
    if response.status() != StatusCode::UNAUTHORIZED {
        return None;
    }
    let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
    challenges
        .filter_map(|value| value.to_str().ok())
        .find_map(bearer)
}

fn bearer(challenge: &str) -> Option<String> {
    let (scheme, _) = challenge.split_once(' ')?;
    let is_for_us = scheme.eq_ignore_ascii_case("bearer") && challenge.len() <= CHALLENGE_BYTES_MAX;
    is_for_us.then(|| challenge.to_owned())
}
