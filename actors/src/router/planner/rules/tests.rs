#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::router::index::document::{ToolDocument, ToolHints};
use crate::router::planner::{Arguments, PlanContext};

fn tool(properties: Value, required: &[&str]) -> ToolDocument {
    ToolDocument {
        server: "s".into(),
        name: "do_it".to_owned(),
        title: None,
        description: String::new(),
        input_schema: json!({"type": "object", "properties": properties, "required": required}),
        hints: ToolHints::default(),
    }
}

fn with<T>(
    question: &str,
    tool: &ToolDocument,
    context: &PlanContext,
    work: impl Fn(PlanRequest<'_>) -> T,
) -> T {
    let now = "2026-11-22T12:30:00+00:00[UTC]".parse().unwrap();
    work(PlanRequest {
        question,
        tool,
        context,
        now: &now,
        within: Duration::from_secs(1),
    })
}

fn arguments(question: &str, tool: &ToolDocument, context: &PlanContext) -> Arguments {
    match with(question, tool, context, plan) {
        Plan::Filled(filled) => filled.arguments,
        other => panic!("{question}: {other:?}"),
    }
}

#[test]
fn an_optional_argument_without_support_is_left_out() {
    let tool = tool(
        json!({"unit": {"enum": ["celsius", "fahrenheit"]}, "limit": {"type": "integer"}}),
        &[],
    );
    let nothing = PlanContext::default();
    assert!(arguments("how warm is it", &tool, &nothing).is_empty());
    assert_eq!(
        arguments("in fahrenheit with a limit of 3", &tool, &nothing)["limit"],
        3
    );
    assert_eq!(
        arguments("in fahrenheit with a limit of 3", &tool, &nothing)["unit"],
        "fahrenheit"
    );
}

#[test]
fn a_missing_argument_is_asked_for_in_words() {
    let tool = tool(
        json!({"repo_path": {"type": "string", "description": "Path of the repository"}}),
        &["repo_path"],
    );
    let Plan::Missing { names, question, .. } = with("show the log", &tool, &PlanContext::default(), plan)
    else {
        panic!("it was filled")
    };
    assert_eq!(names, ["repo_path"]);
    assert_eq!(
        question,
        "I need one more thing: the repo path (Path of the repository)."
    );
}

#[test]
fn a_folder_holds_for_later_questions_and_a_follow_up_keeps_the_rest() {
    let schema = json!({"repo_path": {"type": "string"}, "city": {"type": "string"}});
    let tool = tool(schema, &["repo_path"]);
    let mut context = PlanContext::default();
    context.earlier.insert("repo_path".to_owned(), json!("/srv/app"));
    context.earlier.insert("city".to_owned(), json!("Oslo"));
    assert_eq!(
        Value::Object(arguments("show the log", &tool, &context)),
        json!({"repo_path": "/srv/app"})
    );
    context.follows_up = true;
    assert_eq!(
        Value::Object(arguments("and in Paris?", &tool, &context)),
        json!({"repo_path": "/srv/app", "city": "Paris"})
    );
}

#[test]
fn a_reply_is_read_as_the_parameter_wants_it() {
    let properties = json!({
        "timezone": {"type": "string", "description": "IANA timezone name"},
        "count": {"type": "integer"},
        "title": {"type": "string"},
        "force": {"type": "boolean"},
    });
    let tool = tool(properties, &["timezone", "count", "title", "force"]);
    let reply = |text: &str, name: &str| {
        with(text, &tool, &PlanContext::default(), |request| {
            read_reply(request, name)
        })
    };
    assert_eq!(reply("Tokyo", "timezone"), Some(json!("Asia/Tokyo")));
    assert_eq!(reply("make it 7", "count"), Some(json!(7)));
    assert_eq!(
        reply("The long way home.", "title"),
        Some(json!("The long way home"))
    );
    assert_eq!(reply("no", "force"), Some(json!(false)));
    assert_eq!(reply("whatever", "count"), None);
}

/// In lower case the first letter grows by a byte and the last loses one.
#[test]
fn letters_that_change_their_length_in_lower_case_do_no_harm() {
    let tool = tool(json!({"message": {"type": "string"}}), &["message"]);
    let found = arguments("İ message—xẞ", &tool, &PlanContext::default());
    assert_eq!(found["message"], "—xẞ");
}
