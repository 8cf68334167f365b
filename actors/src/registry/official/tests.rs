#![allow(clippy::unwrap_used)]

use serde_json::json;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::server::{Operation, ServerJson, ServerName};

use super::*;
use crate::registry::state::{Registration, RegistryState};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

/// Servers a/s00 … a/s39 in versions 1.0.0 and (every second) 2.0.0; a/s39 was removed at 5,000 ms.
fn view() -> RegistryView {
    let mut state = RegistryState::default();
    for index in 0..40 {
        let name = ServerName::new(&format!("s{index:02}")).unwrap();
        let manifest = |version: &str| ServerJson {
            name: format!("a.{}/s{index:02}", if index % 2 == 0 { "Even" } else { "odd" }),
            description: "x".into(),
            version: version.into(),
            ..ServerJson::default()
        };
        let new = Registration {
            name: name.clone(),
            manifest: manifest("1.0.0"),
            operation: Operation::default(),
        };
        state.apply(state.register(new, at(1_000)).unwrap());
        if index % 2 == 0 {
            state.apply(state.publish(&name, manifest("2.0.0"), at(2_000)).unwrap());
        }
    }
    let last = ServerName::new("s39").unwrap();
    state.apply(state.remove(&last, at(5_000)).unwrap());
    RegistryView::new(&state, &RegistryView::default())
}

fn query(parameters: serde_json::Value) -> OfficialQuery {
    serde_json::from_value(parameters).unwrap()
}

fn names(list: &ServerList) -> Vec<String> {
    list.servers
        .iter()
        .map(|entry| format!("{}:{}", entry.server.name, entry.server.version))
        .collect()
}

#[test]
fn paging_shows_each_version_once_and_in_order() {
    let view = view();
    for limit in ["1", "7", "30", "100"] {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = view
                .official_list(&query(json!({"limit": limit, "cursor": cursor})))
                .unwrap();
            assert_eq!(page.metadata.count as usize, page.servers.len());
            seen.extend(names(&page));
            cursor = page.metadata.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 59, "40 servers, 20 with two versions, one removed");
        assert!(seen.is_sorted(), "{seen:?}");
    }
    assert_eq!(
        view.official_list(&OfficialQuery::default())
            .unwrap()
            .servers
            .len(),
        30
    );
}

#[test]
fn filters_are_those_of_the_official_registry() {
    let view = view();
    let count = |parameters| view.official_list(&query(parameters)).unwrap().metadata.count;
    assert_eq!(count(json!({"limit": "100", "version": "latest"})), 39);
    assert_eq!(count(json!({"limit": "100", "version": "2.0.0"})), 20);
    assert_eq!(count(json!({"limit": "100", "search": "EVEN/s0"})), 10);
    assert_eq!(count(json!({"limit": "100", "search": "nowhere"})), 0);
    assert_eq!(
        count(json!({"limit": "100", "updated_since": "1970-01-01T00:00:02Z"})),
        41
    );
    assert_eq!(
        count(json!({"limit": "100", "updated_since": "1970-01-01T01:00:05+01:00"})),
        1,
        "only the removed"
    );
    assert_eq!(count(json!({"limit": "100", "include_deleted": "true"})), 60);
    assert_eq!(
        count(json!({"limit": "", "cursor": "", "search": ""})),
        30,
        "empty parameters are none"
    );
}

#[test]
fn bad_parameters_are_named() {
    let view = view();
    let cases = [
        json!({"limit": "0"}),
        json!({"limit": "101"}),
        json!({"limit": "-1"}),
        json!({"limit": "ten"}),
        json!({"limit": "1e3"}),
        json!({"cursor": "nonsense"}),
        json!({"cursor": "a/b"}),
        json!({"updated_since": "yesterday"}),
        json!({"updated_since": "2025-01-01"}),
        json!({"include_deleted": "maybe"}),
    ];
    for parameters in cases {
        let parameter = parameters.as_object().unwrap().keys().next().unwrap().clone();
        let error = view.official_list(&query(parameters.clone())).unwrap_err();
        assert_eq!(error.code(), Code::InvalidField, "{parameters}");
        assert!(error.to_string().starts_with(&parameter), "{error}");
    }
}

#[test]
fn versions_come_newest_first_and_latest_is_one_of_them() {
    let view = view();
    let versions = view.official_versions("a.Even/s00", false).unwrap();
    assert_eq!(names(&versions), ["a.Even/s00:2.0.0", "a.Even/s00:1.0.0"]);
    assert_eq!(
        view.official_version("a.Even/s00", "latest", false)
            .unwrap()
            .server
            .version,
        "2.0.0"
    );
    assert_eq!(
        view.official_version("a.Even/s00", "1.0.0", false)
            .unwrap()
            .server
            .version,
        "1.0.0"
    );
    let code = |error: RegistryError| error.code();
    assert_eq!(
        code(view.official_version("a.Even/s00", "9", false).unwrap_err()),
        Code::VersionNotFound
    );
    assert_eq!(
        code(view.official_versions("a.Even/none", false).unwrap_err()),
        Code::ServerNotFound
    );
    assert_eq!(
        code(view.official_versions("a.odd/s39", false).unwrap_err()),
        Code::ServerNotFound
    );
    let deleted = view.official_version("a.odd/s39", "latest", true).unwrap();
    assert_eq!(deleted.meta.official.status, OfficialStatus::Deleted);
}

#[test]
fn the_shape_is_the_official_one() {
    let page = view().official_list(&query(json!({"limit": "2"}))).unwrap();
    insta::assert_json_snapshot!(page, @r#"
    {
      "servers": [
        {
          "server": {
            "name": "a.Even/s00",
            "description": "x",
            "version": "1.0.0"
          },
          "_meta": {
            "io.modelcontextprotocol.registry/official": {
              "status": "active",
              "statusChangedAt": "1970-01-01T00:00:01.000Z",
              "publishedAt": "1970-01-01T00:00:01.000Z",
              "updatedAt": "1970-01-01T00:00:02.000Z",
              "isLatest": false
            }
          }
        },
        {
          "server": {
            "name": "a.Even/s00",
            "description": "x",
            "version": "2.0.0"
          },
          "_meta": {
            "io.modelcontextprotocol.registry/official": {
              "status": "active",
              "statusChangedAt": "1970-01-01T00:00:02.000Z",
              "publishedAt": "1970-01-01T00:00:02.000Z",
              "updatedAt": "1970-01-01T00:00:02.000Z",
              "isLatest": true
            }
          }
        }
      ],
      "metadata": {
        "nextCursor": "a.Even/s00:2.0.0",
        "count": 2
      }
    }
    "#);
}
