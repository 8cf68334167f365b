//! Who may do what: every path, every role, hosts and origins.

use std::{collections::BTreeSet, convert::Infallible};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::*;
use crate::edge::{
    api::openapi,
    rules::{Access, RULES},
};

#[test]
fn every_route_of_the_api_has_a_rule_and_every_rule_a_route() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let ruled: BTreeSet<String> = RULES
        .iter()
        .filter(|rule| rule.path.starts_with("/api/"))
        .map(|rule| format!("{} {}", rule.method, rule.path))
        .collect();
    assert_eq!(documented, ruled);
    assert!(documented.len() >= 49, "{} routes", documented.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_but_health_and_the_page_needs_a_key() {
    let bed = Bed::new().await;
    for rule in RULES {
        let method: Method = if rule.method == "*" {
            Method::POST
        } else {
            rule.method.parse().unwrap()
        };
        let path = rule.path.replace(['{', '}'], "");
        let answer = bed
            .send(bed.bare(method, &path).body(Body::empty()).unwrap())
            .await;
        let open = rule.access == Access::Public;
        assert_eq!(
            answer.status == StatusCode::UNAUTHORIZED,
            !open,
            "{} {}: {}",
            rule.method,
            rule.path,
            answer.text
        );
    }
    let unknown = bed
        .send(
            bed.bare(Method::GET, "/api/v1/nothing")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    unknown.problem(401, "T4001");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_node_opens_tools_and_registry_only() {
    let bed = Bed::with(|config| config.edge.open = true).await;
    let get = |path: &'static str| bed.send(bed.bare(Method::GET, path).body(Body::empty()).unwrap());
    assert_eq!(get("/v0.1/servers").await.status, StatusCode::OK);
    get("/api/v1/servers").await.problem(401, "T4001");
    get("/metrics").await.problem(401, "T4001");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_told_apart() {
    let bed = Bed::new().await;
    let made = bed
        .post(
            "/api/v1/keys",
            json!({ "name": "eve", "role": "user" }).to_string(),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let eve = Bed {
        key: made.json()["key"].as_str().unwrap().to_owned(),
        ..bed
    };
    assert_eq!(eve.get("/api/v1/me").await.json()["role"], "user");
    let refused = eve.get("/api/v1/actors").await.problem(403, "T4002");
    assert!(refused.detail.contains("operator"), "{}", refused.detail);
    eve.post("/api/v1/keys", "{}").await.problem(403, "T4002");
    assert_eq!(eve.get("/api/v1/servers").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_arguments_and_in_wrong_bodies_are_for_nobody_else() {
    let bed = Bed::new().await;
    let server =
        json!({ "name": "shop", "command": "shop", "args": ["--token", "planted-1"], "enabled": false });
    let made = bed.post("/api/v1/servers", server.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let wrong = json!({ "name": "other", "command": "other", "env": "TOKEN=planted-2" });
    let refused = bed
        .post("/api/v1/servers", wrong.to_string())
        .await
        .problem(422, "T1002");
    assert!(refused.detail.contains("planted-2"), "{}", refused.detail);

    let made = bed
        .post(
            "/api/v1/keys",
            json!({ "name": "olga", "role": "operator" }).to_string(),
        )
        .await;
    let operator = Bed {
        key: made.json()["key"].as_str().unwrap().to_owned(),
        ..bed
    };
    let trace = format!("/api/v1/traces/{}", refused.correlation_id.unwrap());
    for path in ["/api/v1/servers", "/api/v1/servers/shop", &trace] {
        let seen = operator.get(path).await;
        assert_eq!(seen.status, StatusCode::OK, "{path}: {}", seen.text);
        assert!(!seen.text.contains("planted"), "{path}: {}", seen.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_signs_in_and_needs_its_own_origin_for_changes() {
    let bed = Bed::new().await;
    let link = bed.post("/api/v1/login-link", "").await.json();
    let code = link["url"]
        .as_str()
        .unwrap()
        .split("code=")
        .nth(1)
        .unwrap()
        .to_owned();
    let body = json!({ "code": code }).to_string();
    let login = |body: String| {
        let request = bed
            .bare(Method::POST, "/api/v1/login")
            .header(header::CONTENT_TYPE, "application/json");
        bed.send(request.body(Body::from(body)).unwrap())
    };
    let answer = login(body.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{part} is missing in {cookie}");
    }
    login(body).await.problem(401, "T4003");

    let session = cookie.split(';').next().unwrap().to_owned();
    let with_cookie = |method, path| bed.bare(method, path).header(header::COOKIE, &session);
    let me = bed
        .send(
            with_cookie(Method::GET, "/api/v1/me")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(me.json()["role"], "admin", "{}", me.text);
    let open = || with_cookie(Method::POST, "/api/v1/conversations");
    bed.send(open().body(Body::empty()).unwrap())
        .await
        .problem(403, "T1007");
    let foreign = open().header(header::ORIGIN, "http://evil.example");
    bed.send(foreign.body(Body::empty()).unwrap())
        .await
        .problem(403, "T1007");
    let own = open().header(header::ORIGIN, format!("http://{}", bed.host));
    assert_eq!(
        bed.send(own.body(Body::empty()).unwrap()).await.status,
        StatusCode::CREATED
    );

    let out =
        with_cookie(Method::POST, "/api/v1/logout").header(header::ORIGIN, format!("http://{}", bed.host));
    assert_eq!(
        bed.send(out.body(Body::empty()).unwrap()).await.status,
        StatusCode::NO_CONTENT
    );
    bed.send(
        with_cookie(Method::GET, "/api/v1/me")
            .body(Body::empty())
            .unwrap(),
    )
    .await
    .problem(401, "T4001");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_take_the_memory_for_bodies() {
    let bed = Bed::new().await;
    let held = async |bytes| {
        let unfinished = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))]);
        let request = bed
            .bare(Method::POST, "/api/v1/login")
            .header(header::CONTENT_TYPE, "application/json");
        let body = Body::from_stream(unfinished.chain(stream::pending()));
        tokio::time::timeout(Duration::from_secs(2), bed.send(request.body(body).unwrap())).await
    };
    held(1_024).await.unwrap().problem(413, "T1005");
    assert!(held(1_023).await.is_err(), "it is waited for the rest");
}

/// What the newest events of the log of who did what say: action, subject and outcome.
async fn audited(bed: &Bed) -> Vec<(String, String, String)> {
    bed.node
        .state
        .audit_log
        .flush(Deadline::within(Duration::from_secs(10)))
        .await
        .unwrap();
    let listed = bed.get("/api/v1/audit").await.json();
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let events = listed["items"].as_array().unwrap().iter();
    events
        .map(|event| {
            (
                text(event, "action"),
                text(event, "subject"),
                text(event, "outcome"),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_is_written_down_all_the_same() {
    let bed = Bed::new().await;
    let key = json!({ "name": "eve", "role": "admin" }).to_string();
    // The actor is now and then so fast that there is nothing left to give up.
    loop {
        let mut making = Box::pin(bed.post("/api/v1/keys", key.clone()));
        if futures::poll!(&mut making).is_pending() {
            break;
        }
    }
    let written = ("key.create", "eve (admin)", "unknown");
    let written = (written.0.to_owned(), written.1.to_owned(), written.2.to_owned());
    assert!(
        audited(&bed).await.contains(&written),
        "{:?}",
        audited(&bed).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_sign_ins_are_written_down() {
    let bed = Bed::new().await;
    let body = json!({ "key": "trp_wrong" }).to_string();
    let login = bed
        .bare(Method::POST, "/api/v1/login")
        .header(header::CONTENT_TYPE, "application/json");
    bed.send(login.body(Body::from(body)).unwrap())
        .await
        .problem(401, "T4001");
    let written = ("session.open".to_owned(), String::new(), "refused".to_owned());
    assert!(
        audited(&bed).await.contains(&written),
        "{:?}",
        audited(&bed).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_host_is_refused_everywhere() {
    let bed = Bed::new().await;
    for path in ["/", "/healthz", "/api/v1/me", "/mcp", "/v0.1/servers"] {
        let request = Request::builder().uri(path).header(header::HOST, "evil.example");
        bed.send(request.body(Body::empty()).unwrap())
            .await
            .problem(403, "T1007");
    }
}
