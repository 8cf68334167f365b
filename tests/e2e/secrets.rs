//! A planted secret reaches the server that uses it, and is found nowhere else: not in the data folder, not in the
//! node's output, not in any answer of the API or the command line.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use troupe_tests::{Node, eventually, parts};

/// Three secrets, one by each way in. Long and odd, so that a match is no coincidence.
const BY_NAME: &str = "planted-by-name-Zr8kQ2vXw7TnB4yL";
const BY_ENVIRONMENT: &str = "planted-by-environment-Hs5dJ9gMc3FpR6uA";
const BY_HEADER: &str = "planted-by-header-We2xN7bVq4KtY8oD";
const PLANTED: [&str; 3] = [BY_NAME, BY_ENVIRONMENT, BY_HEADER];

/// The secrets as they are and as base64 and hexadecimal would carry them.
fn disguises() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for secret in PLANTED {
        all.push(secret.as_bytes().to_vec());
        all.push(
            secret
                .bytes()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                .into_bytes(),
        );
        // without the first and last characters, whose base64 depends on what stands beside them
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for skip in 0..3 {
            let middle = &secret.as_bytes()[skip..];
            let whole = &middle[..middle.len() / 3 * 3];
            let encode = |three: &[u8]| {
                let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
                [18, 12, 6, 0].map(|shift| alphabet[(bits >> shift) as usize & 63])
            };
            all.push(whole.chunks(3).flat_map(encode).collect());
        }
    }
    all
}

fn assert_clean(place: &str, content: &[u8]) {
    for disguise in disguises() {
        let found = content.windows(disguise.len()).any(|window| window == disguise);
        assert!(!found, "{place} holds {:?}", String::from_utf8_lossy(&disguise));
    }
}

fn assert_folder_clean(folder: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files += assert_folder_clean(&path);
        } else {
            assert_clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
            files += 1;
        }
    }
    files
}

#[test]
fn the_search_finds_what_is_planted() {
    let planted = disguises();
    assert_eq!(planted.len(), 15);
    let caught = std::panic::catch_unwind(|| assert_clean("a file", format!("x{BY_NAME}y").as_bytes()));
    assert!(caught.is_err(), "a planted secret in clear is found");
    // `printf … | base64` of "k=" and the header's secret
    let encoded = "az1wbGFudGVkLWJ5LWhlYWRlci1XZTJ4TjdiVnE0S3RZOG9E";
    assert!(
        std::panic::catch_unwind(|| assert_clean("a file", encoded.as_bytes())).is_err(),
        "in base64 too"
    );
}

#[tokio::test]
async fn a_planted_secret_is_found_nowhere_but_in_its_server() {
    let Some(time) = parts::time() else { return };
    let mut node = Node::start().await;
    let (remote, first_request) = refusing_server().await;
    plant(&node, &time, &remote).await;

    // the server's process has them in clear: this is what they are for
    let file = node.scratch().join("environment");
    let environment = eventually(
        "the server writes its environment",
        Duration::from_secs(60),
        async || {
            std::fs::read_to_string(&file)
                .ok()
                .filter(|text| text.ends_with("end\n"))
        },
    )
    .await;
    assert!(
        environment.contains(BY_NAME) && environment.contains(BY_ENVIRONMENT),
        "{environment}"
    );
    std::fs::remove_file(&file).unwrap();
    let request = tokio::time::timeout(Duration::from_secs(20), first_request)
        .await
        .expect("it is called")
        .unwrap();
    assert!(request.contains(&format!("Bearer {BY_HEADER}")), "{request}");

    node.ask("what time is it in Tokyo?").await;
    search_answers(&node).await;
    search_command_line(&node).await;
    let files = assert_folder_clean(&node.data());
    assert!(files > 2, "only {files} files were searched");
    assert_clean("the node's output", node.log().as_bytes());

    node.kill().await;
    node.start_again().await;
    node.wait_online("keeper").await;
    let environment = eventually(
        "the environment, unsealed again",
        Duration::from_secs(60),
        async || {
            std::fs::read_to_string(&file)
                .ok()
                .filter(|text| text.ends_with("end\n"))
        },
    )
    .await;
    assert!(
        environment.contains(BY_NAME) && environment.contains(BY_ENVIRONMENT),
        "{environment}"
    );
    assert_folder_clean(&node.data());
    assert_clean("the node's output", node.log().as_bytes());
}

/// Gives the node the three secrets: by name and by environment to a real server, by header to a remote one.
async fn plant(node: &Node, time: &[String], remote: &str) {
    node.api
        .put("/api/v1/secrets/by-name", &json!({ "value": BY_NAME }))
        .await
        .ok();
    let script = format!(
        "{{ printenv NAMED LITERAL; echo end; }} > {}/environment; exec {}",
        node.scratch().display(),
        time.join(" ")
    );
    let keeper = json!({
        "name": "keeper", "command": "sh", "args": ["-c", script],
        "env": { "NAMED": "${secret:by-name}", "LITERAL": BY_ENVIRONMENT },
    });
    let answer = node.api.post("/api/v1/servers", &keeper).await;
    assert_clean("the answer to the registration", answer.text.as_bytes());
    answer.ok();
    node.wait_online("keeper").await;
    let far = json!({ "name": "far", "url": remote, "headers": { "Authorization": format!("Bearer {BY_HEADER}") } });
    let answer = node.api.post("/api/v1/servers", &far).await;
    assert_clean("the answer to the registration", answer.text.as_bytes());
    answer.ok();
    let test = node.api.post("/api/v1/servers/test", &far).await;
    assert_clean("the answer to a test", test.text.as_bytes());
}

/// A remote server that refuses everybody: its URL, and the first request that it gets.
async fn refusing_server() -> (String, oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let mut sender = Some(sender);
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
            if let Some(sender) = sender.take() {
                let _ = sender.send(text);
            }
        }
    });
    (url, receiver)
}

/// Reads every answer of the API that can be read, every actor's state and every trace among them.
async fn search_answers(node: &Node) {
    let mut paths: Vec<String> = [
        "me",
        "status",
        "servers",
        "servers/keeper",
        "servers/keeper/tools",
        "servers/keeper/log",
        "servers/keeper/health",
        "servers/far",
        "servers/far/log",
        "tools",
        "tools/search?q=planted",
        "actors",
        "actors/tree",
        "traces",
        "dead-letters",
        "calls",
        "keys",
        "secrets",
        "audit",
        "conversations",
    ]
    .map(|path| format!("/api/v1/{path}"))
    .to_vec();
    paths.extend(
        [
            "/metrics",
            "/v0.1/servers",
            "/v0.1/servers/local%2Fkeeper/versions",
            "/readyz",
        ]
        .map(str::to_owned),
    );
    for (list, field) in [
        ("actors", "id"),
        ("traces", "correlation_id"),
        ("conversations", "id"),
    ] {
        let answer = node.api.get(&format!("/api/v1/{list}")).await.ok();
        let items = answer["items"]
            .as_array()
            .or(answer.as_array())
            .unwrap_or_else(|| panic!("{list}: {answer}"))
            .clone();
        assert!(!items.is_empty(), "{list}");
        paths.extend(
            items
                .iter()
                .map(|item| {
                    item[field]
                        .as_str()
                        .map_or_else(|| item[field].to_string(), str::to_owned)
                })
                .map(|id| format!("/api/v1/{list}/{id}")),
        );
    }
    for path in paths {
        let answer = node.api.get(&path).await;
        assert!(
            answer.status == 200 || path.contains("/log"),
            "{path}: {answer:?}"
        );
        assert_clean(&path, answer.text.as_bytes());
    }
    let secrets: Value = node.api.get("/api/v1/secrets").await.ok();
    assert!(
        secrets.to_string().contains("by-name"),
        "the name is listed: {secrets}"
    );
}

async fn search_command_line(node: &Node) {
    for arguments in [
        &["server", "show", "keeper", "--json"][..],
        &["server", "list", "--json"],
        &["secret", "list", "--json"],
        &["audit", "--json"],
        &["actor", "tree", "--json"],
        &["doctor", "--json"],
    ] {
        let printed = node.cli(arguments).await;
        assert_clean(
            &format!("troupe {arguments:?}"),
            format!("{printed:?}").as_bytes(),
        );
    }
}

#[tokio::test]
async fn a_secret_is_write_only_and_guarded() {
    let node = Node::start().await;
    node.api
        .put("/api/v1/secrets/token", &json!({ "value": BY_NAME }))
        .await
        .ok();
    let read = node.api.get("/api/v1/secrets/token").await;
    assert!(read.status == 404 || read.status == 405, "{read:?}");
    assert_clean("the answer", read.text.as_bytes());
    let made = node
        .api
        .post("/api/v1/keys", &json!({ "name": "op", "role": "operator" }))
        .await
        .ok();
    let operator = node.api.with_key(made["key"].as_str());
    operator
        .put("/api/v1/secrets/token", &json!({ "value": "mine" }))
        .await
        .problem(403, "T4002");
    node.api.delete("/api/v1/secrets/token").await.ok();
    node.api
        .delete("/api/v1/secrets/token")
        .await
        .problem(404, "T4006");
}
