#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::router::index::Catalog;
use crate::router::index::document::{ServerDocument, ToolHints};

fn tool(server: &str, name: &str, description: &str, parameters: &[&str]) -> Arc<ToolDocument> {
    let properties: serde_json::Map<String, serde_json::Value> = parameters
        .iter()
        .map(|name| ((*name).to_owned(), json!({"type": "string"})))
        .collect();
    Arc::new(ToolDocument {
        server: server.into(),
        name: name.to_owned(),
        title: None,
        description: description.to_owned(),
        input_schema: json!({"type": "object", "properties": properties}),
        hints: ToolHints::default(),
    })
}

fn server(name: &str, prior: f32, tools: Vec<Arc<ToolDocument>>) -> ServerDocument {
    ServerDocument {
        name: name.into(),
        description: String::new(),
        prior,
        tools,
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let time = vec![
        tool(
            "time",
            "get_current_time",
            "Get current time in a specific timezones",
            &["timezone"],
        ),
        tool(
            "time",
            "convert_time",
            "Convert time between timezones",
            &["source_timezone", "time", "target_timezone"],
        ),
    ];
    let git = vec![
        tool(
            "git",
            "git_status",
            "Shows the working tree status",
            &["repo_path"],
        ),
        tool(
            "git",
            "git_log",
            "Shows the commit logs",
            &["repo_path", "max_count"],
        ),
    ];
    let built_in = vec![tool(
        "troupe",
        "current_time",
        "The current date and time of this node",
        &["timezone"],
    )];
    catalog.upsert(server("time", 0.0, time)).unwrap();
    catalog.upsert(server("git", 0.0, git)).unwrap();
    catalog.upsert(server("troupe", -0.15, built_in)).unwrap();
    catalog
}

fn best(question: &str) -> (Decision, Vec<Ranked>) {
    let index = catalog().build(&Default::default());
    let ranked = rank(&index, &Query::new(question, None), 5, |_| true);
    (decide(&ranked), ranked)
}

#[test]
fn a_registered_server_wins_against_the_built_in_one() {
    let (_, ranked) = best("what is the current time in Tokyo?");
    assert_eq!(
        (&*ranked[0].tool.server, ranked[0].tool.name.as_str()),
        ("time", "get_current_time")
    );
}

#[test]
fn the_verb_decides_between_tools_of_one_server() {
    let (decision, ranked) = best("convert 3 pm New York to London");
    assert_eq!(ranked[0].tool.name, "convert_time", "{ranked:?}");
    assert_eq!(decision, Decision::Call);
}

#[test]
fn nothing_is_called_for_small_talk() {
    for question in ["hello, how are you?", "write me a poem about autumn", ""] {
        let (decision, ranked) = best(question);
        assert_eq!(decision, Decision::Nothing, "{question}: {ranked:?}");
    }
}

#[test]
fn what_may_not_be_used_has_no_part_in_the_ranking() {
    let index = catalog().build(&Default::default());
    let ranked = rank(&index, &Query::new("current time", None), 5, |tool| {
        &*tool.server != "time"
    });
    assert_eq!(ranked[0].tool.name, "current_time");
    assert!(
        (ranked[0].lexical - 1.0).abs() < 1e-6,
        "shares are of the best allowed tool"
    );
}

#[test]
fn a_tie_between_tools_with_effects_is_asked_about() {
    let mut catalog = Catalog::default();
    for name in ["alpha", "beta"] {
        let delete = tool(name, "delete_record", "Delete a record", &["id"]);
        catalog.upsert(server(name, 0.0, vec![delete])).unwrap();
    }
    let index = catalog.build(&Default::default());
    assert_eq!(
        decide(&rank(&index, &Query::new("delete the record", None), 5, |_| true)),
        Decision::Ask
    );
}

#[test]
fn a_removed_server_is_found_no_longer_and_an_unchanged_one_changes_nothing() {
    let mut catalog = catalog();
    let unchanged = server(
        "git",
        0.0,
        vec![
            tool(
                "git",
                "git_status",
                "Shows the working tree status",
                &["repo_path"],
            ),
            tool(
                "git",
                "git_log",
                "Shows the commit logs",
                &["repo_path", "max_count"],
            ),
        ],
    );
    assert!(!catalog.upsert(unchanged).unwrap());
    assert!(catalog.remove("git"));
    let index = catalog.build(&Default::default());
    assert!(rank(&index, &Query::new("git log of commits", None), 5, |_| true).is_empty());
}
