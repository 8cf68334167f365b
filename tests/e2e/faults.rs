//! Things that die: a server under load, an actor, the node itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use troupe_tests::machine::Machines;
use troupe_tests::{Answer, Api, Node, NodeOptions, eventually, parts, process};

/// Calls in flight when their server dies.
const CALLS_IN_FLIGHT: usize = 8;
const FAIL_WITHIN: Duration = Duration::from_secs(10);
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// The process of a stdio server: the node's descendant whose command line holds `part`.
fn server_pid(node: &Node, part: &str) -> u32 {
    let found = process::descendants(node.pid())
        .into_iter()
        .find(|pid| process::command_line(*pid).contains(part));
    found.unwrap_or_else(|| panic!("no process with {part} in its command line"))
}

async fn call(api: &Api, server: &str, tool: &str, arguments: Value) -> Answer {
    api.post(
        &format!("/api/v1/servers/{server}/tools/{tool}/call"),
        &json!({ "arguments": arguments }),
    )
    .await
}

async fn tokyo(api: &Api) -> Answer {
    call(
        api,
        "time",
        "get_current_time",
        json!({ "timezone": "Asia/Tokyo" }),
    )
    .await
}

/// Its server says that these calls may be repeated, so one that takes the call again answers it. The others fail.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn calls_in_flight_fail_at_once_or_are_made_again_when_their_server_is_killed() {
    let (Some(everything), Some(time)) = (parts::everything(), parts::time()) else {
        return;
    };
    let node = Node::start().await;
    node.add_server("everything", &everything).await;
    node.add_server("time", &time).await;

    let slow = (0..CALLS_IN_FLIGHT).map(|_| {
        let api = node.api.clone();
        tokio::spawn(async move {
            let arguments = json!({ "duration": 15, "steps": 3 });
            let answer = call(&api, "everything", "trigger-long-running-operation", arguments).await;
            (answer, Instant::now())
        })
    });
    let slow: Vec<_> = slow.collect();
    eventually("the calls in flight", Duration::from_secs(60), async || {
        let calls = node.api.get("/api/v1/calls").await.ok();
        let list = calls.as_array().or(calls["items"].as_array())?.clone();
        (list.len() >= CALLS_IN_FLIGHT).then_some(())
    })
    .await;

    let bystander = tokio::spawn(answers_while(node.api.clone(), Duration::from_secs(3)));
    let killed = Instant::now();
    process::signal(server_pid(&node, "mcp-server-everything"), "KILL");
    for one in slow {
        let (answer, at) = one.await.unwrap();
        if answer.status == 200 {
            assert!(
                at - killed < ANSWERED_WITHIN,
                "answered only after {:?}",
                at - killed
            );
            continue;
        }
        let problem = answer.problem(502, "T3002");
        assert!(
            problem["detail"].as_str().unwrap().contains("everything"),
            "it names the server: {problem}"
        );
        assert!(at - killed < FAIL_WITHIN, "failed only after {:?}", at - killed);
    }
    let back = eventually("the next call answered", BACK_WITHIN, async || {
        let answer = call(&node.api, "everything", "echo", json!({ "message": "again" })).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(back.text.contains("again"), "{back:?}");
    let answered = bystander.await.unwrap();
    assert!(answered > 0, "the other server answered all the while");
    node.wait_online("everything").await;
}

/// Calls the time server again and again; every call must succeed. Answers how many did.
async fn answers_while(api: Api, length: Duration) -> usize {
    let started = Instant::now();
    let mut answered = 0;
    while started.elapsed() < length {
        tokyo(&api).await.ok();
        answered += 1;
    }
    answered
}

#[tokio::test]
async fn a_server_that_hangs_costs_only_its_own_callers() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    node.add_server("time", &time).await;
    // the same server under another name; its argument tells its process from the other's
    node.add_server(
        "stuck",
        &[
            &time[..1],
            &["--local-timezone".to_owned(), "Europe/Oslo".to_owned()],
        ]
        .concat(),
    )
    .await;
    node.api
        .patch("/api/v1/servers/stuck", &json!({ "call_timeout_ms": 1500 }))
        .await
        .ok();
    node.wait_online("stuck").await;
    let argument = json!({ "timezone": "UTC" });
    call(&node.api, "stuck", "get_current_time", argument.clone())
        .await
        .ok();

    let stuck = server_pid(&node, "Europe/Oslo");
    process::signal(stuck, "STOP");
    let started = Instant::now();
    let hanging = call(&node.api, "stuck", "get_current_time", argument);
    let (hung, other) = tokio::join!(hanging, tokyo(&node.api));
    other.ok();
    hung.problem(504, "T3003");
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "the server's own time limit holds: {:?}",
        started.elapsed()
    );
    process::signal(stuck, "CONT");
}

#[tokio::test]
async fn a_killed_node_keeps_every_acknowledged_registration() {
    const KILLS: u64 = 8;
    let mut node = Node::start().await;
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..KILLS {
        let writer = tokio::spawn(register_until_refused(node.api.clone(), round));
        // a different moment of the write each time, spread over the first tenth of a second
        tokio::time::sleep(Duration::from_millis(20 + 11 * round)).await;
        node.kill().await;
        acknowledged.extend(writer.await.unwrap());
        node.start_again().await;
        let kept = registered(&node).await;
        for name in &acknowledged {
            assert!(
                kept.contains(name),
                "round {round}: {name} was acknowledged and is gone"
            );
        }
    }
    assert!(
        acknowledged.len() > KILLS as usize,
        "only {} registrations in all",
        acknowledged.len()
    );
}

/// What a node acknowledged is in its log, but need not be applied on its disk when it dies. Its disk is slow when it
/// comes back: so there is a while in which it could show what it finds applied, and must not.
#[tokio::test]
async fn a_node_that_comes_back_never_shows_less_than_it_acknowledged() {
    const KILLS: u64 = 4;
    const WRITERS: u64 = 24;
    const SLOW: Duration = Duration::from_millis(400);
    let machines = Machines::new();
    let mut node = machines.put(0, NodeOptions::default()).start().await;
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..KILLS {
        machines.set_sync(0, Duration::ZERO);
        let quick = json!({ "name": format!("quick-{round}"), "command": "true", "enabled": false });
        node.api.post("/api/v1/servers", &quick).await.ok(); // the last slow sync is over
        let writers =
            (0..WRITERS).map(|writer| register_until_refused(node.api.clone(), round * WRITERS + writer));
        let writers: Vec<_> = writers.map(tokio::spawn).collect();
        tokio::time::sleep(Duration::from_millis(150)).await;
        // what is acknowledged from now on was synced as an entry of the log, and is not as applied for a while
        machines.set_sync(0, SLOW);
        tokio::time::sleep(SLOW * 2 + Duration::from_millis(60 * round)).await;
        node.kill().await;
        let mut last = Vec::new();
        for writer in writers {
            last.extend(writer.await.unwrap());
        }
        assert!(!last.is_empty(), "nothing was registered");
        acknowledged.extend(last.iter().cloned());
        node.launch();
        futures::future::join_all(last.iter().map(|name| assert_shown(&node, name))).await;
        node.wait_ready().await;
    }
    machines.set_sync(0, Duration::ZERO);
    let kept = registered(&node).await;
    assert!(acknowledged.iter().all(|name| kept.contains(name)));
}

/// Whatever a starting node says of this server first, besides that it cannot say yet, is that it is there.
async fn assert_shown(node: &Node, name: &str) {
    let answer = eventually("the first answer", Duration::from_secs(60), async || {
        let read = node
            .api
            .request(reqwest::Method::GET, &format!("/api/v1/servers/{name}"));
        let answer = read.send().await.ok()?;
        (answer.status().as_u16() != 503).then_some(answer)
    })
    .await;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    assert_eq!(status.as_u16(), 200, "{name} was acknowledged: {text}");
}

/// Registers servers one after the other until the node is gone; answers those it acknowledged.
async fn register_until_refused(api: Api, round: u64) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let name = format!("kept-{round}-{number}");
        let body = json!({ "name": name, "command": "true", "enabled": false });
        let sent = api
            .request(reqwest::Method::POST, "/api/v1/servers")
            .json(&body)
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status().is_success() => acknowledged.push(name),
            Ok(answer) => panic!("{name}: {}", answer.status()),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn registered(node: &Node) -> Vec<String> {
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node
            .api
            .get(&format!("/api/v1/servers?limit=100{cursor}"))
            .await
            .ok();
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|server| server["name"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return names,
        }
    }
}

#[tokio::test]
async fn an_actor_killed_in_the_console_comes_back_with_its_state() {
    let node = Node::start().await;
    let body = json!({ "name": "kept", "command": "true", "enabled": false });
    node.api.post("/api/v1/servers", &body).await.ok();
    let registry = actor(&node, "node/registry").await;
    let path = format!("/api/v1/actors/{}", registry["id"]);
    node.api
        .post(&format!("{path}/kill"), &json!({}))
        .await
        .problem(422, "T7005");
    node.api
        .post(&format!("{path}/kill"), &json!({ "confirm": "node/registry" }))
        .await
        .ok();
    eventually("the registry restarted", Duration::from_secs(60), async || {
        let report = actor(&node, "node/registry").await;
        (report["restarts"] == 1 && report["status"] == "idle").then_some(())
    })
    .await;
    node.api.get("/api/v1/servers/kept").await.ok();
    node.api.delete("/api/v1/servers/kept").await.ok();
    assert_eq!(node.api.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn an_actor_that_dies_too_often_takes_the_node_down_with_a_clear_last_line() {
    let mut node = Node::start().await;
    let registry = actor(&node, "node/registry").await;
    let path = format!("/api/v1/actors/{}/kill", registry["id"]);
    for _ in 0..40 {
        let kill = node
            .api
            .request(reqwest::Method::POST, &path)
            .json(&json!({ "confirm": "node/registry" }));
        if kill.send().await.is_err() {
            break; // the node is gone
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let code = node.wait_exit(Duration::from_secs(60)).await;
    assert!(code.is_some_and(|code| code != 0), "exit code {code:?}");
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("registry"), "the last line names what died: {last}");
}

async fn actor(node: &Node, path: &str) -> Value {
    let actors = node.api.get("/api/v1/actors").await.ok();
    let list = actors["items"].as_array().or(actors.as_array()).unwrap().clone();
    let found = list.into_iter().find(|actor| actor["path"] == path);
    found.unwrap_or_else(|| panic!("no actor {path}"))
}

#[tokio::test]
async fn removing_a_server_ends_its_whole_process_group() {
    let Some(time) = parts::time() else { return };
    let node = Node::start().await;
    let script = format!("sleep 98765 & exec {}", time.join(" "));
    node.add_server("family", &["sh".to_owned(), "-c".to_owned(), script])
        .await;
    tokyo_of(&node, "family").await;
    let family = process::descendants(node.pid());
    assert!(
        family
            .iter()
            .any(|pid| process::command_line(*pid).contains("98765")),
        "the child's child runs"
    );
    node.api.delete("/api/v1/servers/family").await.ok();
    eventually("all of them gone", Duration::from_secs(60), async || {
        family.iter().all(|pid| !process::is_running(*pid)).then_some(())
    })
    .await;
}

async fn tokyo_of(node: &Node, server: &str) {
    call(
        &node.api,
        server,
        "get_current_time",
        json!({ "timezone": "Asia/Tokyo" }),
    )
    .await
    .ok();
}

#[tokio::test]
async fn a_stopped_node_leaves_no_server_behind() {
    let Some(time) = parts::time() else { return };
    let mut node = Node::start().await;
    node.add_server("time", &time).await;
    tokyo_of(&node, "time").await;
    let family = process::descendants(node.pid());
    assert!(!family.is_empty());
    node.stop(Duration::from_secs(15)).await;
    eventually("no server left", Duration::from_secs(60), async || {
        family.iter().all(|pid| !process::is_running(*pid)).then_some(())
    })
    .await;
}
