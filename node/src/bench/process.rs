//! Children of the benchmark.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};

use super::fixture::{Era, Wire};
use crate::cli::{
    client::{ADMIN_KEY_FILE, NODE_FILE},
    error::CliError,
};

/// How long a child may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// What is killed on purpose need not be complained of, neither by nodes nor by the libraries they are made of.
const SILENT: &str = "off,openraft=off,ractor=off,ractor_cluster=off";
/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// This very program with other arguments, without the settings of whoever started it.
pub fn ourselves(folder: &Path, args: &[&str]) -> Result<Command, CliError> {
    let program = std::env::current_exe().map_err(|error| CliError::Failed(format!("who am I? {error}")))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(folder)
        .kill_on_drop(true)
        .stderr(Stdio::inherit());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TROUPE_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// The arguments that make this program a fixture.
pub fn fixture_args(wire: Wire, era: Era) -> [&'static str; 6] {
    ["bench", "fixture", "--wire", wire.as_str(), "--era", era.as_str()]
}

/// An address of this machine on which nobody listens.
pub async fn free_address() -> Result<SocketAddr, CliError> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    listener
        .and_then(|listener| listener.local_addr())
        .map_err(|error| CliError::Failed(format!("no free port: {error}")))
}

/// A folder that is removed with everything in it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("troupe-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the temporary folder is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fixture that listens on a port of this machine.
pub struct HttpFixture {
    pub url: String,
    child: Child,
}

impl HttpFixture {
    /// Starts one somewhere.
    pub async fn start(folder: &Path, era: Era) -> Result<Self, CliError> {
        Self::start_at(folder, era, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts one at this address. It listens when this returns.
    pub async fn start_at(folder: &Path, era: Era, address: SocketAddr) -> Result<Self, CliError> {
        let failed = |reason: String| CliError::Failed(format!("fixture: {reason}"));
        let mut command = ourselves(folder, &fixture_args(Wire::Http, era))?;
        let mut child = command
            .args(["--listen", &address.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| failed("no output".to_owned()))?;
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(READY_WITHIN, lines.next_line()).await;
        match first {
            Ok(Ok(Some(url))) => Ok(Self { url, child }),
            _ => Err(failed("it did not say where it listens".to_owned())),
        }
    }

    /// Ends it at once (SIGKILL).
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}

/// How a node of the benchmark is started.
#[derive(Debug, Clone, Default)]
pub struct NodeSetup {
    /// Its data folder.
    pub data: PathBuf,
    /// Its name in the cluster; its own choice when empty.
    pub name: String,
    /// What it joins with, the first time.
    pub join: Option<String>,
    /// Where it listens for other nodes, who look for it there after a restart too; anywhere when it is empty.
    pub cluster_listen: String,
    /// Where it listens for clients; anywhere when there is none.
    pub listen: Option<SocketAddr>,
    /// The administrator's key of the cluster it joins; a node that joins none makes its own.
    pub key: Option<String>,
}

/// A node of the benchmark's own.
pub struct BenchNode {
    pub url: String,
    pub key: String,
    pub pid: u32,
    pub setup: NodeSetup,
    http: reqwest::Client,
    child: Child,
}

impl BenchNode {
    /// Starts a node on an empty data folder and waits until it is ready.
    pub async fn start(folder: &Path) -> Result<Self, CliError> {
        let setup = NodeSetup {
            data: folder.join("data"),
            ..NodeSetup::default()
        };
        Self::start_with(folder, setup).await
    }

    /// Starts a node and waits until it is ready.
    pub async fn start_with(folder: &Path, mut setup: NodeSetup) -> Result<Self, CliError> {
        let failed = |reason: String| CliError::Failed(format!("the benchmark's node: {reason}"));
        // What a former process said of itself must not be taken for what this one says.
        let _ = std::fs::remove_file(setup.data.join(NODE_FILE));
        let child = command_of(folder, &setup)?
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        setup.join = None;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let began = Instant::now();
        let pid = child.id().ok_or_else(|| failed("it ended at once".to_owned()))?;
        loop {
            let kept = || std::fs::read_to_string(setup.data.join(ADMIN_KEY_FILE)).ok();
            let key = setup.key.clone().or_else(kept);
            if let (Some(url), Some(key)) = (address(&setup.data), key) {
                let ready = http.get(format!("{url}/readyz")).send().await;
                if ready.is_ok_and(|ready| ready.status().is_success()) {
                    return Ok(Self {
                        url,
                        key: key.trim().to_owned(),
                        pid,
                        setup,
                        http,
                        child,
                    });
                }
            }
            if began.elapsed() > READY_WITHIN {
                return Err(failed(format!("not ready within {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends a request to the API and reads the answer of a success.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let failed = |reason: String| CliError::Failed(format!("{method} {path}: {reason}"));
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.url))
            .bearer_auth(&self.key);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        let answer = request.send().await.map_err(|error| failed(error.to_string()))?;
        let is_success = answer.status().is_success();
        let text = answer.text().await.map_err(|error| failed(error.to_string()))?;
        if is_success {
            return Ok(serde_json::from_str(&text).unwrap_or_default());
        }
        Err(failed(text))
    }

    /// Registers a server.
    pub async fn register(&self, server: &Value) -> Result<(), CliError> {
        self.send(Method::POST, "/api/v1/servers", Some(server)).await?;
        Ok(())
    }

    /// Ends the node in order, so that it takes its children with it.
    pub async fn stop(mut self) {
        end_in_order(&mut self.child, READY_WITHIN).await;
    }

    /// Ends the node at once (SIGKILL). What is left starts it again on its data.
    pub async fn kill(mut self) -> NodeSetup {
        let _ = self.child.kill().await;
        self.setup
    }
}

/// Asks a process to end (SIGTERM), and waits until it has, but not for longer than this.
pub async fn end_in_order(child: &mut Child, within: Duration) {
    #[cfg(unix)]
    if let Some(pid) = child
        .id()
        .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
    {
        // Fails only if it is gone already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = tokio::time::timeout(within, child.wait()).await;
}

/// The command that starts such a node.
pub fn command_of(folder: &Path, setup: &NodeSetup) -> Result<Command, CliError> {
    let data = setup.data.to_string_lossy();
    let anywhere = "127.0.0.1:0";
    let listen = setup
        .listen
        .map_or_else(|| anywhere.to_owned(), |address| address.to_string());
    let mut args = vec!["up", "--data", &data, "--listen", &listen];
    let cluster_listen = match setup.cluster_listen.as_str() {
        "" => anywhere,
        chosen => chosen,
    };
    args.extend(["--cluster-listen", cluster_listen, "--log", SILENT]);
    if !setup.name.is_empty() {
        args.extend(["--name", &setup.name]);
    }
    let mut command = ourselves(folder, &args)?;
    command.stdout(Stdio::null());
    if let Some(join) = &setup.join {
        command.env("TROUPE_JOIN", join);
    }
    Ok(command)
}

fn address(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join(NODE_FILE)).ok()?;
    let file: crate::cli::client::NodeFile = serde_json::from_str(&text).ok()?;
    Some(file.url)
}
