//! The first minutes of a node: what it prints, what it leaves on disk, who gets in, what it refuses.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;
use troupe_tests::mcp::{self, Era};
use troupe_tests::{Answer, Api, Node, NodeOptions, binary, eventually};

const REFUSED_WITHIN: Duration = Duration::from_secs(60);

/// The code in the login link that the node prints once it is up.
async fn login_code(node: &Node) -> String {
    let start = format!("http://{}/#/login?code=", node.listen);
    let after = eventually("the login link printed", Duration::from_secs(60), async || {
        let log = node.log();
        log.split_once(&start)
            .map(|(_, after)| after.to_owned())
            .filter(|after| after.contains('\n'))
    });
    let is_code = |letter: &char| letter.is_ascii_alphanumeric() || "-_".contains(*letter);
    after.await.chars().take_while(is_code).collect()
}

#[tokio::test]
async fn the_administrator_key_is_printed_once_and_kept_from_others() {
    let mut node = Node::start().await;
    assert!(node.key.starts_with("trp_"), "{}", node.key);
    login_code(&node).await; // the last that it prints
    assert_eq!(
        node.log().matches(&node.key).count(),
        1,
        "the key is printed once:\n{}",
        node.log()
    );
    let mode = std::fs::metadata(node.data().join("admin.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "admin.key has mode {mode:o}");

    let first = node.key.clone();
    node.kill().await;
    node.start_again().await;
    assert_eq!(node.key, first, "a restart keeps the key");
    assert_eq!(
        node.log().matches(&first).count(),
        1,
        "a restart does not print the key again"
    );
}

#[tokio::test]
async fn the_login_link_works_once_and_gives_the_browser_a_session() {
    let node = Node::start().await;
    let nobody = node.api.with_key(None);
    let code = login_code(&node).await;

    let login = nobody.post("/api/v1/login", &json!({ "code": code })).await;
    let cookie = login.headers["set-cookie"].to_str().unwrap().to_owned();
    let me = login.ok();
    assert_eq!(me["role"], "admin", "{me}");
    assert!(cookie.starts_with("troupe_session="), "{cookie}");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{part} is missing in {cookie}");
    }

    let session = cookie.split(';').next().unwrap();
    let seen = Answer::of(
        nobody
            .request(Method::GET, "/api/v1/me")
            .header("cookie", session),
    )
    .await
    .ok();
    assert_eq!(seen["role"], "admin", "{seen}");

    nobody
        .post("/api/v1/login", &json!({ "code": code }))
        .await
        .problem(401, "T4003");
    let link = node.cli(&["key", "login-link", "--json"]).await.json();
    assert!(link.to_string().contains("/#/login?code="), "{link}");
}

#[tokio::test]
async fn every_path_but_health_and_the_page_itself_needs_a_key() {
    let node = Node::start().await;
    let nobody = node.api.with_key(None);
    for open in ["/healthz", "/readyz"] {
        assert_eq!(nobody.get(open).await.status, 200, "{open}");
    }
    let page = nobody.get("/").await;
    assert!(page.status == 200 && page.text.contains("<html"), "{page:?}");

    let closed = [
        "/api/v1/me",
        "/api/v1/status",
        "/api/v1/servers",
        "/api/v1/traces",
        "/v0.1/servers",
        "/metrics",
    ];
    for path in closed {
        nobody.get(path).await.problem(401, "T4001");
    }
    nobody
        .post("/api/v1/ask", &json!({ "text": "what time is it?" }))
        .await
        .problem(401, "T4001");
    assert_eq!(nobody.post("/mcp", &json!({})).await.status, 401);
    let wrong = node
        .api
        .with_key(Some("trp_0000000000000000000000000000000000000000000"));
    wrong.get("/api/v1/me").await.problem(401, "T4001");
}

#[tokio::test]
async fn roles_bound_what_a_key_may_do() {
    let node = Node::start().await;
    for role in ["user", "operator"] {
        let made = node
            .cli(&["key", "add", &format!("a-{role}"), "--role", role, "--json"])
            .await
            .json();
        let key = made["key"]
            .as_str()
            .unwrap_or_else(|| panic!("the key, shown once, in {made}"));
        let api = node.api.with_key(Some(key));
        assert_eq!(api.get("/api/v1/me").await.ok()["role"], role);
        api.post("/api/v1/ask", &json!({ "text": "what time is it?" }))
            .await
            .ok();
        let refused_below_operator = api.get("/api/v1/actors").await;
        let refused_below_admin = api
            .post("/api/v1/keys", &json!({ "name": "mine", "role": "admin" }))
            .await;
        refused_below_admin.problem(403, "T4002");
        if role == "user" {
            refused_below_operator.problem(403, "T4002");
        } else {
            refused_below_operator.ok();
        }
    }
}

#[tokio::test]
async fn a_fresh_node_answers_from_its_built_in_server() {
    let node = Node::start().await;
    let listed = node.api.get("/api/v1/servers").await.ok();
    let names: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|s| s["name"].as_str())
        .collect();
    assert_eq!(names, ["troupe"]);

    let answer = node.ask("what time is it?").await;
    assert_eq!(answer["status"], "answered", "{answer:#}");
    assert_eq!(answer["route"]["server"], "troupe", "{answer:#}");
    assert_eq!(answer["route"]["tool"], "current_time", "{answer:#}");

    for tool in [
        "list_servers",
        "find_tools",
        "call_tool",
        "cluster_status",
        "current_time",
    ] {
        let tools = node.api.get("/api/v1/servers/troupe/tools").await.ok();
        assert!(
            tools.to_string().contains(&format!("\"{tool}\"")),
            "{tool} is missing in {tools:#}"
        );
    }
}

#[tokio::test]
async fn an_open_node_lets_anybody_use_tools_and_nothing_else() {
    let node = NodeOptions::default().arguments(&["--open"]).start().await;
    let nobody = node.api.with_key(None);
    for era in Era::BOTH {
        let client = mcp::connect(&node.url("/mcp"), None, era).await;
        let names = mcp::tool_names(&client).await;
        assert!(names.contains(&"find_tools".to_owned()), "{era:?}: {names:?}");
        client.cancel().await.unwrap();
    }
    nobody.get("/v0.1/servers").await.ok();
    nobody.get("/api/v1/servers").await.problem(401, "T4001");
    nobody.get("/metrics").await.problem(401, "T4001");
}

#[tokio::test]
async fn a_node_refuses_to_be_open_to_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let said = refused(&["up", "--open", "--listen", "0.0.0.0:0"], folder.path()).await;
    assert!(said.contains("--open") && said.contains("loopback"), "{said}");
}

#[tokio::test]
async fn a_wrong_setting_is_refused_with_its_place_and_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("cluster.toml");
    std::fs::write(&config, "# mine\n[edge]\nlisten = \"127.0.0.1:0\"\nlissten = 1\n").unwrap();
    let path = config.display().to_string();
    let said = refused(&["up", "--config", &path], folder.path()).await;
    for part in ["cluster.toml", "4", "lissten", "listen"] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[tokio::test]
async fn two_nodes_never_share_a_data_folder() {
    let node = Node::start().await;
    let data = node.data();
    let said = refused(&["up", "--listen", "127.0.0.1:0"], &data).await;
    assert!(said.contains("in use"), "{said}");
    assert_eq!(
        node.api.get("/readyz").await.status,
        200,
        "the first node goes on"
    );
}

#[tokio::test]
async fn a_node_told_to_stop_ends_cleanly() {
    let mut node = Node::start().await;
    assert_eq!(
        node.stop(Duration::from_secs(10)).await,
        Some(0),
        "{}",
        node.log()
    );
}

#[tokio::test]
async fn a_foreign_origin_or_host_is_refused() {
    let node = Node::start().await;
    for path in ["/api/v1/me", "/mcp", "/v0.1/servers", "/api/v1/live"] {
        let with_origin = node
            .api
            .request(Method::GET, path)
            .header("origin", "http://evil.example");
        assert_eq!(
            Answer::of(with_origin).await.status,
            403,
            "{path} with a foreign Origin"
        );
        let with_host = node.api.request(Method::GET, path).header("host", "evil.example");
        assert_eq!(
            Answer::of(with_host).await.status,
            403,
            "{path} with a foreign Host"
        );
    }
    let own = Api::new(
        format!("http://localhost:{}", node.listen.port()),
        Some(node.key.clone()),
    );
    own.get("/api/v1/me").await.ok();
}

/// Runs a node that must refuse to start; answers what it said.
async fn refused(arguments: &[&str], data: &std::path::Path) -> String {
    let mut command = Command::new(binary::path());
    command
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env("NO_COLOR", "1")
        .kill_on_drop(true);
    let output = tokio::time::timeout(REFUSED_WITHIN, command.output())
        .await
        .expect("it ends by itself")
        .unwrap();
    assert!(!output.status.success(), "it must not start");
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}
