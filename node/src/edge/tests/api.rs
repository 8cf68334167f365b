//! What the API answers, and how it refuses.

use std::collections::BTreeSet;

use super::*;
use crate::edge::api::openapi;

#[test]
fn the_document_refers_to_nothing_that_is_not_there() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "no schema {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bodies_are_refused_with_their_place() {
    let bed = Bed::new().await;
    let malformed = bed
        .post("/api/v1/servers", "{\"name\": ")
        .await
        .problem(400, "T1001");
    assert!(
        malformed.detail.contains("line 1 column 9"),
        "{}",
        malformed.detail
    );
    bed.post("/api/v1/servers", b"{\"name\": \"\xff\"}".to_vec())
        .await
        .problem(400, "T1001");
    let wrong_type = bed
        .post("/api/v1/servers", "{\n\"name\": 7}")
        .await
        .problem(422, "T1002");
    assert!(
        wrong_type.detail.contains("expected a string") && wrong_type.detail.contains("line 2"),
        "{}",
        wrong_type.detail
    );
    let unknown = bed
        .post("/api/v1/servers", "{\"colour\": 7}")
        .await
        .problem(422, "T1002");
    assert!(unknown.detail.contains("colour"), "{}", unknown.detail);
    let text = bed
        .request(Method::POST, "/api/v1/servers")
        .header(header::CONTENT_TYPE, "text/plain");
    bed.send(text.body(Body::from("{}")).unwrap())
        .await
        .problem(415, "T1006");
    bed.get("/api/v1/nothing").await.problem(404, "T1003");
    let method = bed.delete("/api/v1/status").await;
    method.problem(405, "T1004");
    assert_eq!(method.headers[header::ALLOW], "GET,HEAD");
    bed.get("/api/v1/servers?limit=many").await.problem(422, "T1002");
    bed.get("/api/v1/servers?colour=red").await.problem(422, "T1002");
    bed.get("/api/v1/servers/No%20Slug").await.problem(404, "T2003");
    bed.get("/api/v1/traces/xyz").await.problem(404, "T7006");
    bed.get("/api/v1/conversations/xyz").await.problem(404, "T5003");
    bed.get("/api/v1/actors/node%2Fnobody")
        .await
        .problem(404, "T7001");
    let large = vec![b' '; 17 * 1024 * 1024];
    bed.post("/api/v1/servers", large).await.problem(413, "T1005");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_registered_changed_and_removed_and_the_audit_tells() {
    let bed = Bed::new().await;
    let new = json!({ "name": "slow", "command": "sleep", "args": ["60"], "env": { "TOKEN": "planted-7431" }, "enabled": false });
    let made = bed.post("/api/v1/servers", new.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.headers[header::LOCATION], "/api/v1/servers/slow");
    assert!(!made.text.contains("planted"), "{}", made.text);
    bed.post("/api/v1/servers", new.to_string())
        .await
        .problem(409, "T2002");

    let listed = bed.get("/api/v1/servers?search=slow").await.json();
    assert_eq!(
        (&listed["total"], &listed["items"][0]["status"]),
        (&json!(1), &json!("disabled")),
        "{listed}"
    );
    bed.post("/api/v1/servers/slow/probe", "")
        .await
        .problem(409, "T2007");
    let secrets = bed.get("/api/v1/secrets").await;
    assert!(
        secrets.text.contains("server/slow/env/TOKEN") && !secrets.text.contains("planted"),
        "{}",
        secrets.text
    );

    let gone = bed.delete("/api/v1/servers/slow").await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    bed.get("/api/v1/servers/slow").await.problem(404, "T2003");
    bed.node
        .state
        .audit_log
        .flush(troupe_actors::runtime::Deadline::within(
            std::time::Duration::from_secs(5),
        ))
        .await
        .unwrap();
    let audit = bed.get("/api/v1/audit?action=server").await.json();
    let actions: Vec<&str> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert_eq!(
        actions,
        ["server.remove", "server.register", "server.register"],
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_observed_says_on_which_node_and_may_ask_for_one() {
    let bed = Bed::new().await;
    let me = bed.get("/api/v1/me").await.json();
    let (id, name) = (me["node_id"].as_str().unwrap(), me["node_name"].as_str().unwrap());
    for node in [id, name, "all"] {
        for path in [
            "actors",
            "actors/tree",
            "traces",
            "dead-letters",
            "calls",
            "audit",
        ] {
            let answer = bed.get(&format!("/api/v1/{path}?node={node}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        }
    }
    let actors = bed.get("/api/v1/actors").await.json();
    assert_eq!(actors["items"][0]["node"], id, "{actors}");
    let vault = bed.get(&format!("/api/v1/actors/node%2Fvault?node={name}")).await;
    assert_eq!(vault.json()["report"]["node"], id);
    let nobody = bed.get("/api/v1/actors?node=nobody").await;
    nobody.problem(404, "T8005");
    let status = bed.get("/api/v1/cluster").await.json();
    assert_eq!(status["members"][0]["name"], name, "{status}");
    bed.post("/api/v1/cluster/members/nobody/drain", "")
        .await
        .problem(404, "T8005");
    let unconfirmed = bed
        .post(&format!("/api/v1/cluster/members/{name}/drain"), "")
        .await;
    unconfirmed.problem(422, "T7005");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_back_what_was() {
    let bed = Bed::new().await;
    let server = |name: &str| json!({ "name": name, "command": "true", "enabled": false }).to_string();
    bed.post("/api/v1/servers", server("kept")).await;
    let request = bed.request(Method::GET, "/api/v1/cluster/backup");
    let response = bed
        .router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let backup = response.into_body().collect().await.unwrap().to_bytes();
    bed.post("/api/v1/servers", server("later")).await;
    bed.delete("/api/v1/servers/kept").await;
    let restore = |query: &str, body: bytes::Bytes| {
        let path = format!("/api/v1/cluster/restore{query}");
        bed.send(bed.request(Method::POST, &path).body(Body::from(body)).unwrap())
    };
    restore("", backup.clone()).await.problem(422, "T7005");
    let half = backup.slice(..backup.len() / 2);
    restore("?confirm=replace-everything", half)
        .await
        .problem(422, "T8011");
    assert_eq!(
        bed.get("/api/v1/servers/later").await.status,
        StatusCode::OK,
        "nothing was touched"
    );
    let restored = restore("?confirm=replace-everything", backup).await.json();
    assert_eq!(restored["with_secrets"], true, "{restored}");
    for (name, status) in [("kept", StatusCode::OK), ("later", StatusCode::NOT_FOUND)] {
        let within = std::time::Duration::from_secs(20);
        let path = format!("/api/v1/servers/{name}");
        let seen = async {
            while bed.get(&path).await.status != status {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, seen)
            .await
            .unwrap_or_else(|_| panic!("{name}"));
    }
    // Nobody waits for the audit log: what is said to it is there a moment later.
    let told = async {
        loop {
            let audit = bed.get("/api/v1/audit?action=cluster").await.json();
            if audit["items"].as_array().unwrap().len() == 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told)
        .await
        .expect("both restores and the backup are in the audit log");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_lines_too() {
    let bed = Bed::new().await;
    bed.get("/api/v1/live/feed?topics=weather")
        .await
        .problem(422, "T1002");
    let request = bed.request(Method::GET, "/api/v1/live/feed?topics=actors,status");
    let response = bed
        .router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let mut body = response.into_body();
    let mut topics = BTreeSet::new();
    while topics.len() < 2 {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(20), body.frame()).await;
        let line = frame.unwrap().unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(&line).unwrap();
        topics.insert(event["topic"].as_str().unwrap().to_owned());
    }
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["actors", "status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_are_seen_and_controlled() {
    let bed = Bed::new().await;
    let tree = bed.get("/api/v1/actors/tree").await.json();
    assert_eq!(tree["items"][0]["path"], "node", "{tree}");
    let vault = bed.get("/api/v1/actors/node%2Fvault").await.json();
    assert_eq!(
        (&vault["report"]["kind"], &vault["snapshot"]["answer"]),
        (&json!("vault"), &json!("alive")),
        "{vault}"
    );
    bed.post("/api/v1/actors/node%2Fvault/restart", "")
        .await
        .problem(422, "T7005");
    bed.post("/api/v1/actors/node%2Fvault/explode", "")
        .await
        .problem(404, "T1003");
    let restarted = bed
        .post(
            "/api/v1/actors/node%2Fvault/restart",
            "{\"confirm\":\"node/vault\"}",
        )
        .await;
    assert_eq!(restarted.status, StatusCode::OK, "{}", restarted.text);
    let id = restarted.headers["x-correlation-id"].to_str().unwrap().to_owned();
    let trace = bed.get(&format!("/api/v1/traces/{id}")).await.json();
    assert_eq!(
        trace["roots"][0]["message"], "POST /api/v1/actors/{id}/{command}",
        "{trace}"
    );
    let metrics = bed.get("/metrics").await;
    assert!(
        metrics
            .text
            .contains("troupe_actor_mailbox_messages{path=\"node/vault\""),
        "{}",
        metrics.text
    );
    assert!(metrics.text.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_with_care() {
    let bed = Bed::new().await;
    let get = |path: &'static str| bed.send(bed.bare(Method::GET, path).body(Body::empty()).unwrap());
    for path in ["/", "/console/actors"] {
        let page = get(path).await;
        assert!(
            page.status == StatusCode::OK && page.text.contains("<html"),
            "{path}: {}",
            page.text
        );
        let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe-eval"),
            "{policy}"
        );
        let etag = page.headers[header::ETAG].clone();
        let again = bed.bare(Method::GET, path).header(header::IF_NONE_MATCH, etag);
        assert_eq!(
            bed.send(again.body(Body::empty()).unwrap()).await.status,
            StatusCode::NOT_MODIFIED
        );
    }
    get("/assets/nothing.js").await.problem(404, "T1003");
    let explained = get("/errors/T4001").await;
    assert!(explained.text.contains("What to do"), "{}", explained.text);
    get("/errors/T9999").await.problem(404, "T1003");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_in_order_and_frees_its_port() {
    let bed = Bed::new().await;
    let address = bed.node.state.config.edge.listen;
    assert!(tokio::net::TcpStream::connect(address).await.is_ok());
    let reason = bed.node.shutdown().await;
    assert!(reason.is_clean(), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_here() {
    let bed = Bed::new().await;
    let (trace, step) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = bed
        .request(Method::POST, "/api/v1/ask")
        .header(header::CONTENT_TYPE, "application/json")
        .header("traceparent", format!("00-{trace}-{step}-01"));
    let question = json!({ "text": "what time is it?" }).to_string();
    let answer = bed.send(request.body(question.into()).unwrap()).await;
    assert_eq!(answer.headers["x-correlation-id"], trace);
    let kept = bed.get(&format!("/api/v1/traces/{trace}")).await.json();
    assert_eq!(
        (&kept["roots"][0]["message"], &kept["roots"][0]["parent"]),
        (&json!("POST /api/v1/ask"), &json!(step)),
        "{kept}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_cluster_locks_nobody_out() {
    let lost = Bed::new().await;
    let alice = json!({ "name": "alice", "role": "admin" }).to_string();
    let alices_key = lost.post("/api/v1/keys", alice).await.json()["key"].clone();
    let request = lost.request(Method::GET, "/api/v1/cluster/backup");
    let response = lost.router.clone().oneshot(request.body(Body::empty()).unwrap());
    let backup = response
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();

    let bed = Bed::new().await;
    let path = "/api/v1/cluster/restore?confirm=replace-everything";
    let restore = bed.request(Method::POST, path).body(Body::from(backup)).unwrap();
    let restored = bed.send(restore).await.json();
    assert_eq!(restored["with_secrets"], false, "{restored}");
    let me = bed.get("/api/v1/me").await;
    assert_eq!(me.status, StatusCode::OK, "the node's own key: {}", me.text);
    let alice = Bed {
        key: alices_key.as_str().unwrap().to_owned(),
        ..bed
    };
    let soon = async {
        while alice.get("/api/v1/me").await.status != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), soon)
        .await
        .expect("the keys of the backup are there as well");
}
