//! A running node: a real `troupe` process on a free port with a data folder of its own.

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::api::{Api, http_client};
use crate::cli::{self, Printed};
use crate::mcp::{self, Era};
use crate::wait::eventually;
use crate::{binary, process};

/// Generous: a debug build on a machine with other work. What is promised is asserted in `budgets.rs`.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A real server starts an interpreter and imports its packages; with other work on two cores that takes seconds.
const ONLINE_WITHIN: Duration = Duration::from_secs(60);
const LOG_LINES_SHOWN: usize = 120;

/// How a node is started. The default has no model: routing is lexical.
#[derive(Default, Clone)]
pub struct NodeOptions {
    listen: Option<SocketAddr>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    models: Option<PathBuf>,
    data: Option<PathBuf>,
    /// What runs the node, as `nsenter --net=…`.
    runner: Vec<String>,
}

impl NodeOptions {
    /// Adds arguments to `troupe up`.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sets an environment variable of the node.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives the node the folder with the embedding model.
    pub fn models(mut self, folder: PathBuf) -> Self {
        self.models = Some(folder);
        self
    }

    /// Listens here for people and clients; else on a free port of the loopback address.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Keeps the data in this folder instead of one of the node's own.
    pub fn data(mut self, folder: PathBuf) -> Self {
        self.data = Some(folder);
        self
    }

    /// Starts the node through another program, which must become the node.
    pub fn runner(mut self, command: Vec<String>) -> Self {
        self.runner = command;
        self
    }

    /// Starts the node on an empty data folder and waits until it is ready.
    pub async fn start(self) -> Node {
        let mut node = self.create();
        node.spawn().await;
        node
    }

    /// The node with an empty data folder, not yet started.
    pub fn create(self) -> Node {
        let folder = tempfile::Builder::new()
            .prefix("troupe-test-")
            .tempdir()
            .expect("a temporary folder");
        let listen = self.listen.unwrap_or_else(free_address);
        Node {
            listen,
            api: Api::new(format!("http://{listen}"), None),
            key: String::new(),
            ready_after: Duration::ZERO,
            child: None,
            options: self,
            join: None,
            has_given_key: false,
            folder,
        }
    }
}

/// A node that runs, or ran until it was killed. Dropping it kills the process; when a test fails its log is shown.
pub struct Node {
    /// Where the node listens for people and clients.
    pub listen: SocketAddr,
    /// The API, with the administrator's key.
    pub api: Api,
    /// The administrator's key.
    pub key: String,
    /// From starting the process to `/readyz` answering 200, at the last start.
    pub ready_after: Duration,
    child: Option<Child>,
    options: NodeOptions,
    join: Option<String>,
    has_given_key: bool,
    folder: TempDir,
}

impl Node {
    /// A fresh node without a model.
    pub async fn start() -> Self {
        NodeOptions::default().start().await
    }

    /// The node's data folder.
    pub fn data(&self) -> PathBuf {
        let own = || self.folder.path().join("data");
        self.options.data.clone().unwrap_or_else(own)
    }

    /// Joins a cluster at the next start, once.
    pub fn join_at_start(&mut self, join_string: &str) {
        self.join = Some(join_string.to_owned());
    }

    /// The key of whoever uses the node, instead of the administrator's that the node keeps for its own machine: in a
    /// cluster each node keeps another one, and who comes with another key is somebody else.
    pub fn use_key(&mut self, key: &str) {
        self.has_given_key = true;
        self.key = key.to_owned();
        self.api = self.api.with_key(Some(key));
    }

    /// Loses everything the stopped node knew.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "kill or stop the node first");
        let data = self.data();
        for entry in std::fs::read_dir(&data).expect("a data folder").flatten() {
            let path = entry.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Whether its process was started and not waited for since.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Stops the process where it stands (SIGSTOP).
    pub fn pause(&self) {
        process::signal(self.pid(), "STOP");
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&self) {
        process::signal(self.pid(), "CONT");
    }

    /// A folder beside the data folder, for files that a test needs; removed with the node.
    pub fn scratch(&self) -> PathBuf {
        let scratch = self.folder.path().join("scratch");
        std::fs::create_dir_all(&scratch).expect("a scratch folder");
        scratch
    }

    /// Everything the node's processes wrote to stdout and stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The process id of the running node.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("the node runs")
    }

    /// `http://HOST:PORT/PATH`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Runs a `troupe` command against this node, as a person on its machine would.
    pub async fn cli(&self, arguments: &[&str]) -> Printed {
        cli::run_with_key(&self.data(), Some(&self.key), arguments).await
    }

    /// Connects an MCP client with the administrator's key.
    pub async fn mcp(&self, path: &str, era: Era) -> mcp::Client {
        mcp::connect(&self.url(path), Some(&self.key), era).await
    }

    /// Registers a server with a command, by the command line, and waits until it is online.
    pub async fn add_server(&self, name: &str, command: &[String]) {
        self.add_server_with(name, &[], command).await;
    }

    /// As [`Self::add_server`], with options such as `--env K=V` before the command.
    pub async fn add_server_with(&self, name: &str, options: &[&str], command: &[String]) {
        let mut arguments = vec!["server", "add", name];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(command.iter().map(String::as_str));
        self.cli(&arguments).await.ok();
        self.wait_online(name).await;
        self.wait_tools(name).await;
    }

    /// What a tool answers, called over the API.
    pub async fn call_tool(&self, server: &str, tool: &str, arguments: Value) -> Value {
        let path = format!("/api/v1/servers/{server}/tools/{tool}/call");
        let answer = self
            .api
            .post(&path, &json!({ "arguments": arguments }))
            .await
            .ok();
        assert_ne!(answer["result"]["isError"], true, "{answer:#}");
        assert!(
            answer["correlation_id"].is_string() && answer["duration_ms"].is_number(),
            "{answer:#}"
        );
        answer["result"].clone()
    }

    /// Waits until the prober reports the server online; answers its detail.
    pub async fn wait_online(&self, name: &str) -> Value {
        self.wait_status(name, "online").await
    }

    /// Waits until the server has this status; answers its detail.
    pub async fn wait_status(&self, name: &str, status: &str) -> Value {
        eventually(&format!("server {name} {status}"), ONLINE_WITHIN, async || {
            let detail = self.api.get(&format!("/api/v1/servers/{name}")).await.ok();
            (detail["status"] == status).then_some(detail)
        })
        .await
    }

    /// Waits until the tools of this server are found.
    pub async fn wait_tools(&self, server: &str) {
        eventually(
            &format!("tools of {server} in the index"),
            ONLINE_WITHIN,
            async || {
                let listed = self
                    .api
                    .get(&format!("/api/v1/tools?server={server}&limit=1"))
                    .await
                    .ok();
                (listed["total"].as_u64()? > 0).then_some(())
            },
        )
        .await;
    }

    /// Asks in words and waits for the answer.
    pub async fn ask(&self, text: &str) -> Value {
        self.api.post("/api/v1/ask", &json!({ "text": text })).await.ok()
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().await.expect("the node is killed");
    }

    /// Asks the node to stop (SIGTERM) and answers its exit code.
    pub async fn stop(&mut self, within: Duration) -> Option<i32> {
        let mut child = self.child.take().expect("the node runs");
        process::signal(child.id().expect("the node runs"), "TERM");
        let ended = tokio::time::timeout(within, child.wait())
            .await
            .expect("the node stops in time");
        ended.expect("an exit status").code()
    }

    /// Waits for the node to end by itself and answers its exit code.
    pub async fn wait_exit(&mut self, within: Duration) -> Option<i32> {
        let mut child = self.child.take().expect("the node runs");
        let ended = tokio::time::timeout(within, child.wait())
            .await
            .expect("the node ends in time");
        ended.expect("an exit status").code()
    }

    /// Starts the node again on the same data folder and address.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "kill or stop the node first");
        self.spawn().await;
    }

    /// Starts the node, which is expected to refuse; answers what it said.
    pub async fn start_refused(&mut self, within: Duration) -> String {
        assert!(self.child.is_none(), "kill or stop the node first");
        let said_before = self.log().len();
        self.child = Some(self.command().spawn().expect("troupe starts"));
        self.join = None;
        let code = self.wait_exit(within).await;
        let log = self.log();
        assert!(code.is_some_and(|code| code != 0), "exit code {code:?}: {log}");
        log[said_before..].to_owned()
    }

    /// Starts the process and does not wait for anything.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "kill or stop the node first");
        self.child = Some(self.command().spawn().expect("troupe starts"));
        self.join = None;
    }

    /// Waits until the node is ready after [`Self::launch`].
    pub async fn wait_ready(&mut self) {
        self.ready(Instant::now()).await;
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    async fn spawn(&mut self) {
        let started = Instant::now();
        self.launch();
        self.ready(started).await;
    }

    async fn ready(&mut self, started: Instant) {
        let client = http_client();
        let ready = self.url("/readyz");
        let log = self.log_path();
        let child = self.child.as_mut().expect("just started");
        eventually("the node ready", READY_WITHIN, async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!(
                    "the node ended with {status} before it was ready:\n{}",
                    tail(&log)
                );
            }
            let answer = client.get(&ready).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        self.ready_after = started.elapsed();
        // By this file the command line finds the node; it is written once the node serves.
        let file = self.data().join("node.json");
        eventually("the node's file", READY_WITHIN, async || {
            file.exists().then_some(())
        })
        .await;
        if !self.has_given_key {
            self.key = read_key(&self.data());
            self.api = self.api.with_key(Some(&self.key));
        }
    }

    fn command(&self) -> Command {
        let log = append(&self.log_path());
        // A folder without a model, so that none found elsewhere on this machine changes what is tested.
        let models = self
            .options
            .models
            .clone()
            .unwrap_or_else(|| self.folder.path().join("no-models"));
        std::fs::create_dir_all(&models).expect("a models folder");
        let mut command = match self.options.runner.split_first() {
            Some((program, arguments)) => {
                let mut runner = Command::new(program);
                runner.args(arguments).arg(binary::path());
                runner
            }
            None => Command::new(binary::path()),
        };
        if let Some(join) = &self.join {
            command.env("TROUPE_JOIN", join);
        }
        command
            .arg("up")
            .args(["--listen", &self.listen.to_string(), "--data"])
            .arg(self.data())
            .args(&self.options.arguments)
            .current_dir(self.folder.path())
            .env("TROUPE_MODELS", models)
            .env("NO_COLOR", "1")
            .envs(self.options.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .kill_on_drop(true);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the node's log, its end ---\n{}\n--- end of log ---",
                tail(&self.log_path())
            );
        }
    }
}

fn read_key(data: &Path) -> String {
    let path = data.join("admin.key");
    let key = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    key.trim().to_owned()
}

fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the log file")
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// A loopback address that nothing listens on now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// A loopback address whose port is free for TCP and UDP, and stays so while its node is down: the system hands ports
/// below 32768 to nobody who does not ask for them, and no two tests of this machine are given the same one soon.
pub fn lasting_address() -> SocketAddr {
    const FIRST: u32 = 11_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // by process id, so that test binaries that run at once begin far from each other
    let begin = std::process::id().wrapping_mul(37);
    loop {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + number).expect("below 32768");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
