//! A response as the result of a tool.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::tool::essence;

/// The most bytes of a response that become a tool's result.
pub(super) const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Reads the response. Whatever it is, it is a result: refusals and answers that are too large say so and are errors.
pub(super) async fn result_of(response: Response) -> Value {
    let status = response.status();
    let media_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(essence)
        .unwrap_or_default();
    let mut address = response.url().clone();
    address.set_query(None);
    let body = match whole(response).await {
        Ok(body) => body,
        Err(why) => return failed(&format!("HTTP {status}, and {why}")),
    };
    if !status.is_success() {
        let said = String::from_utf8_lossy(&body);
        let said = said.trim();
        let text = if said.is_empty() {
            format!("HTTP {status}")
        } else {
            format!("HTTP {status}\n{said}")
        };
        return failed(&text);
    }
    if body.is_empty() {
        return json!({ "content": [text_block(&format!("HTTP {status}"))] });
    }
    let is_json = media_type == "application/json" || media_type.ends_with("+json") || media_type.is_empty();
    if is_json && let Ok(value) = serde_json::from_slice::<Value>(&body) {
        return of_json(&body, value);
    }
    match (
        std::str::from_utf8(&body),
        media_type.split('/').next().unwrap_or_default(),
    ) {
        (_, kind @ ("image" | "audio")) => json!({
            "content": [{ "type": kind, "data": STANDARD.encode(&body), "mimeType": media_type }],
        }),
        (Ok(text), _) => json!({ "content": [text_block(text)] }),
        (Err(_), _) => {
            let media_type = if media_type.is_empty() {
                "application/octet-stream"
            } else {
                &media_type
            };
            let blob = STANDARD.encode(&body);
            let resource = json!({ "uri": address, "mimeType": media_type, "blob": blob });
            json!({ "content": [{ "type": "resource", "resource": resource }] })
        }
    }
}

/// A result that is an error.
pub(super) fn failed(text: &str) -> Value {
    json!({ "content": [text_block(text)], "isError": true })
}

/// JSON as the service wrote it; structured too when it is an object, which structured content has to be.
fn of_json(body: &[u8], value: Value) -> Value {
    let text = String::from_utf8_lossy(body);
    let mut result = json!({ "content": [text_block(&text)] });
    if value.is_object() {
        result["structuredContent"] = value;
    }
    result
}

fn text_block(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

async fn whole(mut response: Response) -> Result<Vec<u8>, String> {
    let too_large = || format!("its body has more than {ANSWER_BYTES_MAX} bytes");
    let announced = response.content_length();
    if announced.is_some_and(|bytes| bytes > ANSWER_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_BYTES_MAX => return Err(too_large()),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(_) => return Err("the connection broke within its body".to_owned()),
        }
    }
}
