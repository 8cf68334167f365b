//! Questions in words: the right tool, its answer, the route and the trace; and saying so when nothing fits.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use troupe_tests::{Node, NodeOptions, parts};

/// Hours of the day in Tokyo around now: the answer may fall just before or after a full hour.
fn tokyo_hours() -> [String; 2] {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    [seconds - 60, seconds].map(|at| format!("{:02}:", (at / 3600 + 9) % 24))
}

async fn assert_tokyo(node: &Node) {
    let answer = node.ask("what time is it in Tokyo?").await;
    assert_eq!(answer["status"], "answered", "{answer:#}");
    let route = &answer["route"];
    assert_eq!(route["server"], "time", "{answer:#}");
    assert_eq!(route["tool"], "get_current_time", "{answer:#}");
    assert_eq!(
        route["arguments"],
        json!({ "timezone": "Asia/Tokyo" }),
        "{answer:#}"
    );
    assert!(
        route["why"].as_str().is_some_and(|why| !why.is_empty()),
        "{answer:#}"
    );
    let text = answer["answer"].as_str().unwrap();
    assert!(
        tokyo_hours().iter().any(|hour| text.contains(hour)),
        "{text:?} has none of {:?}",
        tokyo_hours()
    );
    assert_eq!(answer["calls"][0]["server"], "time", "{answer:#}");

    let id = answer["correlation_id"].as_str().unwrap();
    let trace = node.api.get(&format!("/api/v1/traces/{id}")).await.ok();
    let mut actors = Vec::new();
    collect_actors(&trace["roots"], &mut actors);
    for family in ["conversation", "upstream"] {
        assert!(
            actors.iter().any(|actor| actor.contains(family)),
            "no {family} among {actors:?}"
        );
    }
}

fn collect_actors(spans: &Value, into: &mut Vec<String>) {
    for span in spans.as_array().into_iter().flatten() {
        into.push(span["actor"].as_str().unwrap_or_default().to_owned());
        collect_actors(&span["children"], into);
    }
}

#[tokio::test]
async fn tokyo_is_answered_by_the_time_server_without_a_model() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    assert_eq!(
        node.api.get("/api/v1/status").await.ok()["model"]["state"],
        "missing"
    );
    assert_tokyo(&node).await;
}

#[tokio::test]
async fn tokyo_is_answered_by_the_time_server_with_the_model() {
    let (Some(time), Some(models)) = (parts::time(), parts::models()) else {
        return;
    };
    let node = NodeOptions::default().models(models).start().await;
    node.add_server("time", &time).await;
    assert_eq!(
        node.api.get("/api/v1/status").await.ok()["model"]["state"],
        "ready"
    );
    assert_tokyo(&node).await;
}

#[tokio::test]
async fn the_right_server_is_chosen_among_several() {
    let (Some(time), Some(everything), Some(memory)) = (parts::time(), parts::everything(), parts::memory())
    else {
        return;
    };
    let node = Node::start().await;
    let file = format!(
        "MEMORY_FILE_PATH={}",
        node.scratch().join("memory.jsonl").display()
    );
    node.add_server("time", &time).await;
    node.add_server("everything", &everything).await;
    node.add_server_with("memory", &["--env", &file], &memory).await;
    assert_tokyo(&node).await;
    let found = node
        .api
        .get("/api/v1/tools/search?q=read%20the%20knowledge%20graph")
        .await
        .ok();
    let first = &found.as_array().or(found["items"].as_array()).unwrap()[0];
    assert_eq!(
        (&first["server"], &first["tool"]),
        (&json!("memory"), &json!("read_graph")),
        "{found:#}"
    );
}

#[tokio::test]
async fn when_nothing_fits_it_says_so_and_calls_nothing() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let answer = node.ask("please book me a table for two at the trattoria").await;
    assert_eq!(answer["status"], "nothing_fits", "{answer:#}");
    assert_eq!(answer["calls"], json!([]), "{answer:#}");
    assert!(!answer["answer"].as_str().unwrap().is_empty(), "{answer:#}");
}

#[tokio::test]
async fn a_missing_argument_is_asked_for() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    let answer = node.ask("convert a time between timezones").await;
    assert_eq!(answer["status"], "argument_needed", "{answer:#}");
    assert_eq!(answer["route"]["tool"], "convert_time", "{answer:#}");
    assert_eq!(answer["calls"], json!([]), "never guessed: {answer:#}");
}

#[tokio::test]
async fn a_conversation_is_kept_across_a_restart() {
    let mut node = Node::start().await;
    let answer = node.ask("what time is it?").await;
    let id = answer["conversation_id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/conversations/{id}");
    node.api
        .patch(&path, &json!({ "title": "Clocks", "pinned": true }))
        .await
        .ok();
    node.kill().await;
    node.start_again().await;
    let kept = node.api.get(&path).await.ok();
    assert_eq!(
        (&kept["title"], &kept["pinned"]),
        (&json!("Clocks"), &json!(true)),
        "{kept:#}"
    );
    assert_eq!(kept["history"][0]["answer"], answer["answer"], "{kept:#}");
    node.api.delete(&path).await.ok();
    node.api.get(&path).await.problem(404, "T5003");
}

#[tokio::test]
async fn another_users_conversation_is_not_to_be_seen() {
    let node = Node::start().await;
    let answer = node.ask("what time is it?").await;
    let made = node
        .api
        .post("/api/v1/keys", &json!({ "name": "eve", "role": "user" }))
        .await
        .ok();
    let eve = node.api.with_key(made["key"].as_str());
    let id = answer["conversation_id"].as_str().unwrap();
    eve.get(&format!("/api/v1/conversations/{id}"))
        .await
        .problem(404, "T5003");
    assert_eq!(eve.get("/api/v1/conversations").await.ok()["total"], 0);
}
