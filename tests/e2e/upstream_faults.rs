//! Servers on their worst days, and clients that stop reading: what it costs the node is bounded, callers are told clearly
//! what happened, and calls to another server go on all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use troupe_tests::node::lasting_address;
use troupe_tests::{Answer, Api, Node, NodeOptions, eventually, process};

const MISBEHAVING: &str = env!("CARGO_BIN_EXE_misbehaving-server");
const MIB: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);
const CALLERS: usize = 16;
/// Clients that do not read, and what each is answered: more than the system's buffers hold.
const DEAF: usize = 12;
const DEAF_BYTES: u64 = 12 * MIB;
/// What a message may have is 16 MiB; several that are too large at once, and what allocator and debug build add.
const GROWTH_MAX: u64 = 300 * MIB;
/// Held by each test: the memory of a node measured beside another's work is the same, but its time is not.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn call(api: &Api, server: &str, tool: &str, arguments: Value) -> Answer {
    let path = format!("/api/v1/servers/{server}/tools/{tool}/call");
    api.post(&path, &json!({ "arguments": arguments })).await
}

/// Asserts that the server, whatever was done to it, answers again.
async fn recovers(node: &Node, server: &str) {
    eventually(&format!("{server} answers again"), PATIENCE, async || {
        let answer = call(&node.api, server, "echo", json!({ "text": "again" })).await;
        (answer.status == 200 && answer.text.contains("again")).then_some(())
    })
    .await;
}

/// A misbehaving server over HTTP, which may be killed and started again at its address.
struct HttpServer {
    port: u16,
    child: Child,
}

impl HttpServer {
    fn start() -> Self {
        Self::start_at(lasting_address().port())
    }

    fn start_at(port: u16) -> Self {
        let child = Command::new(MISBEHAVING)
            .arg(port.to_string())
            .kill_on_drop(true)
            .spawn();
        Self {
            port,
            child: child.expect("the server starts"),
        }
    }

    async fn kill_and_start_again(&mut self) {
        self.child.kill().await.expect("the server is killed");
        *self = Self::start_at(self.port);
    }
}

/// A server that works, called all the while; what becomes of the others must not show there.
struct Bystander {
    is_over: Arc<AtomicBool>,
    calling: JoinHandle<u64>,
}

impl Bystander {
    /// Over stdio, with a process of its own.
    async fn start(node: &Node) -> Self {
        node.add_server("good", &[MISBEHAVING.to_owned(), "stdio".to_owned()])
            .await;
        let is_over = Arc::new(AtomicBool::new(false));
        let (api, over) = (node.api.clone(), Arc::clone(&is_over));
        let calling = tokio::spawn(async move {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) || answered == 0 {
                let text = format!("call {answered}");
                let answer = call(&api, "good", "echo", json!({ "text": text })).await;
                assert!(
                    answer.status == 200 && answer.text.contains(&text),
                    "the other server: {answer:?}"
                );
                answered += 1;
            }
            answered
        });
        Self { is_over, calling }
    }

    async fn saw_nothing(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let answered = self.calling.await.expect("no call of the other server failed");
        assert!(answered > 0);
    }
}

/// The most memory that a node had while this was there, above what it had before.
struct Memory {
    before: u64,
    most: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

impl Memory {
    fn of(node: &Node) -> Self {
        let pid = node.pid();
        let before = process::resident_bytes(pid);
        let most = Arc::new(AtomicU64::new(before));
        let seen = Arc::clone(&most);
        let watching = tokio::spawn(async move {
            loop {
                seen.fetch_max(process::resident_bytes(pid), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            before,
            most,
            watching,
        }
    }

    fn grew_less_than(self, bytes: u64, what: &str) {
        self.watching.abort();
        let grown = self.most.load(Ordering::Relaxed) - self.before;
        let said = format!("{} MiB", grown / MIB);
        troupe_tests::report::figure(&format!("memory, {what}"), said, format!("{} MiB", bytes / MIB));
        assert!(grown < bytes, "{what}: {} MiB", grown / MIB);
    }
}

async fn add_stdio(node: &Node) {
    node.add_server("bad", &[MISBEHAVING.to_owned(), "stdio".to_owned()])
        .await;
}

async fn add_http(node: &Node) -> HttpServer {
    let server = HttpServer::start();
    let url = format!("http://127.0.0.1:{}/mcp", server.port);
    eventually("the server listens", PATIENCE, async || {
        TcpStream::connect(("127.0.0.1", server.port)).await.ok()
    })
    .await;
    node.cli(&["server", "add", "bad", "--url", &url]).await.ok();
    node.wait_online("bad").await;
    node.wait_tools("bad").await;
    server
}

/// Callers that never stop, whatever they are answered, as long as it is one of these codes.
fn load(node: &Node, over: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let caller = |_| {
        let (api, over) = (node.api.clone(), Arc::clone(over));
        tokio::spawn(async move {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = call(&api, "bad", "echo", json!({ "text": "loaded" })).await;
                if answer.status == 200 {
                    answered += 1;
                } else {
                    let problem = answer.json();
                    let code = problem["code"].as_str().unwrap_or_default().to_owned();
                    assert!(["T3001", "T3002", "T3014"].contains(&code.as_str()), "{problem}");
                    assert!(problem["detail"].to_string().contains("bad"), "{problem}");
                }
            }
            answered
        })
    };
    (0..CALLERS).map(caller).collect()
}

async fn ends(load: Vec<JoinHandle<u64>>, over: &AtomicBool) {
    over.store(true, Ordering::Relaxed);
    for caller in load {
        caller.await.expect("no caller was answered anything else");
    }
}

async fn whoami(node: &Node) -> Option<u32> {
    let answer = call(&node.api, "bad", "whoami", json!({})).await;
    if answer.status != 200 {
        return None;
    }
    let answer = answer.json();
    let text = &answer["result"]["content"][0]["text"];
    let process = text.as_str().and_then(|text| text.parse().ok());
    Some(process.unwrap_or_else(|| panic!("no process id: {answer}")))
}

#[tokio::test]
async fn a_process_killed_under_load_again_and_again() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let bystander = Bystander::start(&node).await;
    add_stdio(&node).await;
    let over = Arc::new(AtomicBool::new(false));
    let load = load(&node, &over);
    let mut killed = Vec::new();
    for _ in 0..3 {
        let process = eventually("another process serves", PATIENCE, async || {
            whoami(&node).await.filter(|process| !killed.contains(process))
        });
        let process = process.await;
        process::signal(process, "KILL");
        killed.push(process);
    }
    recovers(&node, "bad").await;
    ends(load, &over).await;
    bystander.saw_nothing().await;
}

#[tokio::test]
async fn an_http_server_killed_under_load_again_and_again() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let bystander = Bystander::start(&node).await;
    let mut server = add_http(&node).await;
    let over = Arc::new(AtomicBool::new(false));
    let load = load(&node, &over);
    for _ in 0..3 {
        server.kill_and_start_again().await;
        let process = server.child.id();
        eventually("the new process serves", PATIENCE, async || {
            (whoami(&node).await == process).then_some(())
        })
        .await;
    }
    ends(load, &over).await;
    bystander.saw_nothing().await;
}

/// A tool, its arguments, and the status and code with which its call ends, if it fails.
type Fault<'a> = (&'a str, Value, Result<(), (u16, &'a str)>);

/// What each fault is answered with, and that the server is of use after it.
async fn faults(node: &Node, expected: &[Fault<'_>]) {
    for (tool, arguments, outcome) in expected {
        let answer = call(&node.api, "bad", tool, arguments.clone()).await;
        match outcome {
            Ok(()) => assert!(answer.status == 200 && answer.text.contains("done"), "{answer:?}"),
            Err((status, code)) => {
                let problem = answer.problem(*status, code);
                assert!(problem["detail"].to_string().contains("bad"), "{tool}: {problem}");
            }
        }
        recovers(node, "bad").await;
    }
}

const LARGE: u64 = 100 * MIB;

#[tokio::test]
async fn what_a_process_may_do_to_its_callers() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let bystander = Bystander::start(&node).await;
    add_stdio(&node).await;
    let memory = Memory::of(&node);
    faults(
        &node,
        &[
            ("garbage", json!({}), Ok(())),
            ("half", json!({}), Err((502, "T3002"))),
            ("vanish", json!({}), Err((502, "T3002"))),
            ("large", json!({ "bytes": LARGE }), Err((502, "T3011"))),
            ("flood", json!({ "count": 100_000 }), Ok(())),
        ],
    )
    .await;
    let logs = node.api.get("/api/v1/servers/bad/log").await.ok().to_string();
    assert!(logs.contains("notifications within a second"), "{logs}");
    memory.grew_less_than(GROWTH_MAX, "a process's faults");
    bystander.saw_nothing().await;
}

#[tokio::test]
async fn what_an_http_server_may_do_to_its_callers() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let bystander = Bystander::start(&node).await;
    let mut server = add_http(&node).await;
    let memory = Memory::of(&node);
    faults(
        &node,
        &[
            ("garbage", json!({}), Err((502, "T3005"))),
            ("half", json!({}), Err((502, "T3002"))),
            ("cut", json!({}), Err((502, "T3002"))),
            ("large", json!({ "bytes": LARGE }), Err((502, "T3011"))),
            ("chunked", json!({ "bytes": LARGE }), Err((502, "T3011"))),
            ("endless", json!({}), Err((502, "T3011"))),
            ("flood", json!({ "count": 50_000 }), Ok(())),
        ],
    )
    .await;
    let large = (0..4).map(|_| {
        let api = node.api.clone();
        tokio::spawn(async move {
            let answer = call(&api, "bad", "chunked", json!({ "bytes": LARGE })).await;
            answer.problem(502, "T3011");
        })
    });
    for one in large.collect::<Vec<_>>() {
        one.await.expect("each is told");
    }
    call(&node.api, "bad", "vanish", json!({}))
        .await
        .problem(502, "T3002");
    server.kill_and_start_again().await;
    recovers(&node, "bad").await;
    memory.grew_less_than(GROWTH_MAX, "an HTTP server's faults");
    bystander.saw_nothing().await;
}

#[tokio::test]
async fn servers_that_hang_are_given_up_at_their_own_time_limit() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let bystander = Bystander::start(&node).await;
    add_stdio(&node).await;
    let limit = json!({ "call_timeout_ms": 1_000 });
    node.api.patch("/api/v1/servers/bad", &limit).await.ok();
    for _ in 0..3 {
        let hung = call(&node.api, "bad", "hang", json!({})).await;
        hung.problem(504, "T3003");
    }
    recovers(&node, "bad").await;
    bystander.saw_nothing().await;
}

#[tokio::test]
async fn a_server_to_which_every_call_is_lost_is_left_alone_and_tried_again() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    let bystander = Bystander::start(&node).await;
    let _server = add_http(&node).await;
    eventually("the server left alone", PATIENCE, async || {
        let answer = call(&node.api, "bad", "cut", json!({})).await;
        let problem = answer.json();
        (problem["code"] == "T3014").then_some(())
    })
    .await;
    recovers(&node, "bad").await;
    let logs = node.api.get("/api/v1/servers/bad/log").await.ok().to_string();
    assert!(logs.contains("left alone"), "{logs}");
    node.wait_online("bad").await;
    bystander.saw_nothing().await;
}

#[tokio::test]
async fn clients_that_stop_reading_are_cut_and_keep_nothing() {
    let _alone = ALONE.lock().await;
    let quick = NodeOptions::default().environment("TROUPE_EDGE_WRITE_STALL_TIMEOUT_MS", "2000");
    let node = quick.start().await;
    let bystander = Bystander::start(&node).await;
    add_stdio(&node).await;
    let memory = Memory::of(&node);
    let files = process::open_files(node.pid());
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let body = json!({ "arguments": { "bytes": DEAF_BYTES } }).to_string();
        let head = format!(
            "POST /api/v1/servers/bad/tools/large/call HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            node.listen,
            node.key,
            body.len(),
        );
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("a small buffer");
        let mut stream = socket.connect(node.listen).await.expect("the node listens");
        stream
            .write_all(head.as_bytes())
            .await
            .expect("the request is taken");
        deaf.push(stream);
    }
    eventually("their connections open", PATIENCE, async || {
        (process::open_files(node.pid()) >= files + DEAF).then_some(())
    })
    .await;
    // They read nothing until the node has let them go, but for a few: connections of the test's own may have come.
    eventually("the connections closed", PATIENCE, async || {
        (process::open_files(node.pid()) < files + DEAF / 3).then_some(())
    })
    .await;
    let mut whole_answers = 0;
    for mut stream in deaf {
        let mut answer = Vec::new();
        // an error is as good as an end
        let _ = stream.read_to_end(&mut answer).await;
        whole_answers += usize::from(answer.len() as u64 >= DEAF_BYTES);
    }
    assert!(whole_answers <= DEAF / 3, "{whole_answers} were answered whole");
    recovers(&node, "bad").await;
    memory.grew_less_than(
        GROWTH_MAX + 2 * DEAF as u64 * DEAF_BYTES,
        "clients that stop reading",
    );
    bystander.saw_nothing().await;
}
