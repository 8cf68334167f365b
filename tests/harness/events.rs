//! A stream of events as it comes.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

/// How long a message may take that must come.
const COMES_WITHIN: Duration = Duration::from_secs(60);

/// The messages of an event stream as they come. Dropped, it closes the connection.
pub struct Events {
    response: Response,
    text: String,
    /// The id of the last event that had one.
    pub last_id: Option<String>,
}

impl Events {
    /// Those of this response.
    pub fn of(response: Response) -> Self {
        assert_eq!(response.status().as_u16(), 200, "{response:?}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self {
            response,
            text: String::new(),
            last_id: None,
        }
    }

    /// The next event's lines; nothing once the stream has ended.
    pub async fn event(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                if let Some(id) = event.lines().find_map(|line| line.strip_prefix("id: ")) {
                    self.last_id = Some(id.to_owned());
                }
                return Some(event);
            }
            let chunk = self.response.chunk().await.expect("the stream does not break")?;
            self.text
                .push_str(std::str::from_utf8(&chunk).expect("events are text"));
        }
    }

    /// The next message; nothing once the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let event = self.event().await?;
            let data: Vec<&str> = event
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .collect();
            let data = data.join("\n");
            if !data.is_empty() {
                return Some(serde_json::from_str(&data).expect("a message is JSON"));
            }
        }
    }

    /// The next message with this method.
    pub async fn expect(&mut self, method: &str) -> Value {
        let found = async {
            loop {
                let message = self.next().await.expect("the stream is open");
                if message["method"] == method {
                    return message;
                }
            }
        };
        tokio::time::timeout(COMES_WITHIN, found)
            .await
            .unwrap_or_else(|_| panic!("no {method}"))
    }

    /// All messages until the stream ends.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        let all = async {
            while let Some(message) = self.next().await {
                messages.push(message);
            }
        };
        let ended = tokio::time::timeout(COMES_WITHIN, all).await;
        assert!(ended.is_ok(), "the stream does not end: {messages:?}");
        messages
    }
}
