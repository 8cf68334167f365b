//! Which forms the client sends and takes: `Content-Type` and `Accept`.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// The forms of an answer that the client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// `application/json`.
    pub json: bool,
    /// `text/event-stream`.
    pub event_stream: bool,
}

impl Accepts {
    /// Reads every `Accept` header. Without one, everything is taken (RFC 9110, section 12.5.1).
    pub fn read(headers: &HeaderMap) -> Self {
        let mut accepts = Self {
            json: false,
            event_stream: false,
        };
        let mut is_given = false;
        for value in headers.get_all(ACCEPT) {
            is_given = true;
            for range in value.to_str().unwrap_or_default().split(',') {
                accepts.add(range);
            }
        }
        if is_given {
            accepts
        } else {
            Self {
                json: true,
                event_stream: true,
            }
        }
    }

    fn add(&mut self, range: &str) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let is_refused = parts.any(|parameter| {
            let quality = parameter
                .strip_prefix("q=")
                .or_else(|| parameter.strip_prefix("Q="));
            quality
                .and_then(|quality| quality.trim().parse::<f32>().ok())
                .is_some_and(|quality| quality <= 0.0)
        });
        if is_refused {
            return;
        }
        let is = |wanted: &str| media_type.eq_ignore_ascii_case(wanted);
        self.json |= is("application/json") || is("application/*") || is("*/*");
        self.event_stream |= is("text/event-stream") || is("text/*") || is("*/*");
    }
}

/// Whether the body is said to be JSON in UTF-8.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(name: http::HeaderName, values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn accept_is_read_as_lists_with_wildcards_and_quality() {
        let cases: [(&[&str], bool, bool); 9] = [
            (&[], true, true),
            (&["*/*"], true, true),
            (&["application/json, text/event-stream"], true, true),
            (&["application/json", "text/event-stream"], true, true),
            (&["application/json"], true, false),
            (&["Text/Event-Stream;q=0.5"], false, true),
            (&["application/json;q=0, text/*"], false, true),
            (&["text/html"], false, false),
            (&[""], false, false),
        ];
        for (values, json, event_stream) in cases {
            assert_eq!(
                Accepts::read(&headers(ACCEPT, values)),
                Accepts { json, event_stream },
                "{values:?}"
            );
        }
    }

    #[test]
    fn only_json_in_utf_8_is_read() {
        for right in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(is_json(&headers(CONTENT_TYPE, &[right])), "{right}");
        }
        for wrong in [
            "text/plain",
            "application/json; charset=latin1",
            "application/jsonp",
            "",
        ] {
            assert!(!is_json(&headers(CONTENT_TYPE, &[wrong])), "{wrong}");
        }
        assert!(
            !is_json(&HeaderMap::new()),
            "a body without a type is not taken for JSON"
        );
    }
}
