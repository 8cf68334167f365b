#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use troupe_protocol::server::{ImportFormat, ImportSource, Operation, ServerJson, Transport};
use troupe_protocol::time::Timestamp;

use super::*;
use crate::registry::import;
use crate::registry::state::{Registration, RegistryState};

fn view_of(servers: &[(&str, &str, &[&str])]) -> RegistryView {
    let mut state = RegistryState::default();
    for (name, description, labels) in servers {
        let name = ServerName::new(name).unwrap();
        let new = Registration {
            manifest: ServerJson {
                name: format!("local/{name}"),
                title: Some(format!("The {name}")),
                description: (*description).to_owned(),
                version: "1.0.0".into(),
                ..ServerJson::default()
            },
            operation: Operation {
                enabled: true,
                transport: Some(Transport::StreamableHttp {
                    url: "https://h/".into(),
                    headers: BTreeMap::new(),
                }),
                labels: labels.iter().map(|label| (*label).to_owned()).collect(),
                ..Operation::default()
            },
            name,
        };
        state.apply(state.register(new, Timestamp::from_unix_ms(0)).unwrap());
    }
    RegistryView::new(&state, &RegistryView::default())
}

fn health(reports: &[(&str, HealthStatus, Option<f64>)]) -> Health {
    let report = |status, latency_ms| HealthReport {
        status,
        latency_ms,
        ..HealthReport::default()
    };
    let named = |(name, status, latency): &(&str, HealthStatus, Option<f64>)| {
        (
            ServerName::new(name).unwrap(),
            Arc::new(report(*status, *latency)),
        )
    };
    reports.iter().map(named).collect()
}

fn query(value: serde_json::Value) -> ServerQuery {
    serde_json::from_value(value).unwrap()
}

fn names(page: &ServerPage) -> Vec<&str> {
    page.items.iter().map(|item| item.name.as_str()).collect()
}

#[test]
fn a_search_finds_words_anywhere_and_puts_names_first() {
    let view = view_of(&[
        ("clock", "What time it is in any zone", &["utility"]),
        ("time", "Zones", &[]),
        ("timer", "Wakes you", &[]),
        ("overtime", "Hours", &["Work"]),
        ("git", "Repositories", &["code"]),
    ]);
    let mut health = health(&[]);
    let found = |text: &str, health: &Health| -> Vec<String> {
        let page = view.list(&query(json!({"search": text})), health).unwrap();
        names(&page).into_iter().map(str::to_owned).collect()
    };
    assert_eq!(found("time", &health), ["time", "timer", "overtime", "clock"]);
    assert_eq!(found("  TIME zone ", &health), ["clock", "time"]);
    assert_eq!(found("work", &health), ["overtime"]);
    assert_eq!(found("nothing", &health), [""; 0]);
    // The tools that a server listed are searched too.
    let report = HealthReport {
        tool_names: "git_log\ngit_diff".into(),
        ..HealthReport::default()
    };
    health.insert(ServerName::new("git").unwrap(), Arc::new(report));
    assert_eq!(found("git_diff", &health), ["git"]);
}

#[test]
fn lists_are_filtered_sorted_and_paged() {
    let view = view_of(&[("a", "x", &[]), ("b", "x", &[]), ("c", "x", &[]), ("d", "x", &[])]);
    let health = health(&[
        ("a", HealthStatus::Online, Some(9.0)),
        ("b", HealthStatus::Offline, None),
        ("c", HealthStatus::Online, Some(3.0)),
    ]);
    let list = |value| view.list(&query(value), &health).unwrap();
    assert_eq!(names(&list(json!({"status": "online"}))), ["a", "c"]);
    assert_eq!(
        names(&list(json!({"status": "testing"}))),
        ["d"],
        "enabled, and nothing is known of it yet"
    );
    assert_eq!(names(&list(json!({"sort": "latency"}))), ["c", "a", "b", "d"]);
    assert_eq!(names(&list(json!({"sort": "-latency"}))), ["a", "c", "b", "d"]);
    assert_eq!(names(&list(json!({"sort": "status"}))), ["b", "d", "a", "c"]);
    assert_eq!(names(&list(json!({"sort": "-name"}))), ["d", "c", "b", "a"]);

    let first = list(json!({"limit": 3}));
    assert_eq!((names(&first), first.total), (vec!["a", "b", "c"], 4));
    let second = list(json!({"limit": 3, "cursor": first.next_cursor}));
    assert_eq!((names(&second), second.next_cursor.is_none()), (vec!["d"], true));
    // The next page begins after the last server of the one before, wherever that is by then.
    let smaller = view_of(&[("c", "x", &[]), ("d", "x", &[])]);
    let page = smaller
        .list(&query(json!({"limit": 3, "cursor": first.next_cursor})), &health)
        .unwrap();
    assert_eq!(names(&page), ["d"]);

    let counts = view.status_counts(&health);
    assert_eq!(
        (counts.total, counts.online, counts.offline, counts.testing),
        (4, 2, 1, 1)
    );
}

#[test]
fn bad_parameters_are_named() {
    let view = view_of(&[("a", "x", &[])]);
    for (value, parameter) in [
        (json!({"limit": 0}), "limit"),
        (json!({"limit": 501}), "limit"),
        (json!({"cursor": "?"}), "cursor"),
        (json!({"cursor": "YWJj"}), "cursor"),
        (json!({"search": "x".repeat(201)}), "search"),
    ] {
        let error = view.list(&query(value), &Health::new()).unwrap_err().to_string();
        assert!(error.starts_with(parameter), "{error}");
    }
    assert!(serde_json::from_value::<ServerQuery>(json!({"sort": "colour"})).is_err());
}

/// 2,120 servers: every search takes under 5 ms. Debug builds are given ten times as long.
#[test]
fn a_search_of_the_whole_catalogue_is_fast() {
    let Some(content) = import::tests::catalogue() else {
        return;
    };
    let read = import::read(&ImportSource {
        format: ImportFormat::Catalog,
        content,
    })
    .unwrap();
    let mut state = RegistryState::default();
    state.apply(import::plan(&state, read, "test", Timestamp::from_unix_ms(0)).change);
    let began = Instant::now();
    let view = RegistryView::new(&state, &RegistryView::default());
    let built_within = began.elapsed();
    let began = Instant::now();
    let view = RegistryView::new(&state, &view);
    println!(
        "the view of {} servers: {built_within:?}, again after a change: {:?}",
        view.len(),
        began.elapsed()
    );

    let health = Health::new();
    let searches = [
        "weather",
        "github issues",
        "a",
        "time",
        "search web",
        "postgres",
        "zzzz",
        "e",
        "mysql query",
        "image",
    ];
    let sorts = [
        None,
        Some("name"),
        Some("-title"),
        Some("status"),
        Some("-last_active"),
    ];
    let mut all_times = Vec::new();
    let mut slowest = Duration::ZERO;
    for search in searches {
        for sort in sorts {
            let query = query(json!({"search": search, "sort": sort}));
            let mut times: Vec<Duration> = (0..20)
                .map(|_| {
                    let began = Instant::now();
                    assert!(view.list(&query, &health).unwrap().items.len() <= 50);
                    began.elapsed()
                })
                .collect();
            times.sort();
            // The best of a query says what it costs; what is beyond says what else the machine did.
            slowest = slowest.max(times[0]);
            all_times.extend(times);
        }
    }
    all_times.sort();
    let (median, p99) = (
        all_times[all_times.len() / 2],
        all_times[all_times.len() * 99 / 100],
    );
    println!(
        "search of {} servers: median {median:?}, p99 {p99:?}, slowest query {slowest:?}",
        view.len()
    );
    let allowed = Duration::from_millis(if cfg!(debug_assertions) { 50 } else { 5 });
    assert!(
        slowest < allowed,
        "the slowest query takes {slowest:?}, allowed {allowed:?}"
    );
}
