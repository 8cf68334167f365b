#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::router::index::document::{ToolDocument, ToolHints};
use crate::router::planner::PlanContext;

/// A scripted endpoint: answers each request with the next body and keeps what it was sent.
async fn endpoint(answers: Vec<(u16, Value)>) -> (Url, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/v1", listener.local_addr().unwrap())).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_there = Arc::clone(&seen);
    #[expect(
        clippy::disallowed_methods,
        reason = "the scripted endpoint ends with the test"
    )]
    tokio::spawn(async move {
        for (status, answer) in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let body = loop {
                let mut chunk = [0u8; 4096];
                let read = socket.read(&mut chunk).await.unwrap();
                bytes.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                assert!(head.starts_with("POST /v1/chat/completions"), "{head}");
                if let Ok(body) = serde_json::from_str::<Value>(body) {
                    break body;
                }
            };
            seen_there.lock().unwrap().push(body);
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, seen)
}

fn calls(arguments: &str) -> Value {
    json!({"choices": [{"message": {"role": "assistant", "content": null, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "get_current_time", "arguments": arguments}}]}}]})
}

fn tool() -> ToolDocument {
    ToolDocument {
        server: "time".into(),
        name: "get_current_time".to_owned(),
        title: None,
        description: "Get current time in a specific timezone".to_owned(),
        input_schema: json!({"type": "object", "required": ["timezone"], "properties": {
            "timezone": {"type": "string", "description": "IANA timezone name"}}}),
        hints: ToolHints::default(),
    }
}

async fn plan(answers: Vec<(u16, Value)>, question: &str) -> (Plan, Vec<Value>) {
    let (base_url, seen) = endpoint(answers).await;
    let settings = EndpointSettings {
        base_url,
        model: "m".to_owned(),
        api_key: None,
        timeout: Duration::from_secs(5),
    };
    let now = "2026-11-22T12:30:00+00:00[UTC]".parse().unwrap();
    let (tool, context) = (tool(), PlanContext::default());
    let request = PlanRequest {
        question,
        tool: &tool,
        context: &context,
        now: &now,
        within: Duration::from_secs(5),
    };
    let plan = EndpointPlanner::new(settings).unwrap().fill(request).await;
    let seen = seen.lock().unwrap().clone();
    (plan, seen)
}

#[tokio::test]
async fn arguments_come_from_the_endpoint() {
    let (plan, seen) = plan(
        vec![(200, calls(r#"{"timezone":"Asia/Tokyo"}"#))],
        "time in the city of the tower?",
    )
    .await;
    let Plan::Filled(filled) = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(filled.arguments["timezone"], "Asia/Tokyo");
    assert_eq!((filled.planner, filled.note), (PlannerKind::Endpoint, None));
    assert_eq!(seen[0]["tools"][0]["function"]["name"], "get_current_time");
}

#[tokio::test]
async fn invalid_arguments_are_repaired_once() {
    let answers = vec![
        (200, calls(r#"{"timezone":9}"#)),
        (200, calls(r#"{"timezone":"Asia/Tokyo"}"#)),
    ];
    let (plan, seen) = plan(answers, "time?").await;
    assert!(matches!(plan, Plan::Filled(_)), "{plan:?}");
    assert!(
        seen[1]["messages"][2]["content"]
            .as_str()
            .unwrap()
            .contains("timezone"),
        "{}",
        seen[1]
    );
}

#[tokio::test]
async fn when_it_fails_the_rules_answer_and_say_so() {
    let (plan, _) = plan(
        vec![(500, json!({"error": "overloaded"}))],
        "what time is it in Paris?",
    )
    .await;
    let Plan::Filled(filled) = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(filled.arguments["timezone"], "Europe/Paris");
    assert_eq!(filled.planner, PlannerKind::Rules);
    assert!(filled.note.unwrap().contains("HTTP 500"));
}

#[tokio::test]
async fn it_may_ask_for_what_is_missing() {
    let words = json!({"choices": [{"message": {"role": "assistant", "content": "Which city?"}}]});
    let (plan, _) = plan(vec![(200, words)], "what time is it there?").await;
    let Plan::Missing { names, question, .. } = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (names, question.as_str()),
        (vec!["timezone".to_owned()], "Which city?")
    );
}
