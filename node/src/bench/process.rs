//! Children of the benchmark, and how much CPU time a process has used.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::fixture::{Era, Wire};
use crate::cli::{
    client::{ADMIN_KEY_FILE, NODE_FILE},
    error::CliError,
};

/// The kernel counts the CPU time of processes in hundredths of a second, on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// How long a child may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The CPU time that a process has used, its threads included.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn cpu_time(pid: u32) -> Result<Duration, CliError> {
    let path = format!("/proc/{pid}/stat");
    let failed =
        |reason: &str| CliError::Failed(format!("{path}: {reason} (CPU times are read on Linux only)"));
    let stat = std::fs::read_to_string(&path).map_err(|error| failed(&error.to_string()))?;
    // The second field is the command in parentheses and may hold blanks; utime and stime are fields 14 and 15.
    let after_command = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = after_command.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        return Err(failed("not as expected"));
    };
    Ok(TICK * (user + system))
}

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
    let wire = if wire == Wire::Http { "http" } else { "stdio" };
    let era = if era == Era::Modern { "modern" } else { "legacy" };
    ["bench", "fixture", "--wire", wire, "--era", era]
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
    _child: Child,
}

impl HttpFixture {
    pub async fn start(folder: &Path, era: Era) -> Result<Self, CliError> {
        let failed = |reason: String| CliError::Failed(format!("fixture: {reason}"));
        let mut command = ourselves(folder, &fixture_args(Wire::Http, era))?;
        let mut child = command
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
            Ok(Ok(Some(url))) => Ok(Self { url, _child: child }),
            _ => Err(failed("it did not say where it listens".to_owned())),
        }
    }
}

/// A node of the benchmark's own.
pub struct BenchNode {
    pub url: String,
    pub key: String,
    pub pid: u32,
    http: reqwest::Client,
    child: Child,
}

impl BenchNode {
    /// Starts a node on an empty data folder and waits until it is ready.
    pub async fn start(folder: &Path) -> Result<Self, CliError> {
        let failed = |reason: String| CliError::Failed(format!("the benchmark's node: {reason}"));
        let data = folder.join("data");
        let data_text = data.to_string_lossy();
        let args = [
            "up",
            "--data",
            &data_text,
            "--listen",
            "127.0.0.1:0",
            "--log",
            "error",
        ];
        let mut command = ourselves(folder, &args)?;
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let began = Instant::now();
        let pid = child.id().ok_or_else(|| failed("it ended at once".to_owned()))?;
        loop {
            if let (Some(url), Ok(key)) = (address(&data), std::fs::read_to_string(data.join(ADMIN_KEY_FILE)))
            {
                let ready = http.get(format!("{url}/readyz")).send().await;
                if ready.is_ok_and(|ready| ready.status().is_success()) {
                    return Ok(Self {
                        url,
                        key: key.trim().to_owned(),
                        pid,
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

    /// Registers a server.
    pub async fn register(&self, server: &Value) -> Result<(), CliError> {
        let failed = |reason: String| CliError::Failed(format!("registering {server}: {reason}"));
        let request = self
            .http
            .post(format!("{}/api/v1/servers", self.url))
            .bearer_auth(&self.key);
        let body = request
            .header("content-type", "application/json")
            .body(server.to_string());
        let answer = body.send().await.map_err(|error| failed(error.to_string()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(failed(answer.text().await.unwrap_or_default()))
    }

    /// Ends the node in order, so that it takes its children with it.
    pub async fn stop(mut self) {
        #[cfg(unix)]
        if let Some(pid) = self
            .child
            .id()
            .and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
        {
            // Fails only if the node is gone already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(READY_WITHIN, self.child.wait()).await;
    }
}

fn address(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join(NODE_FILE)).ok()?;
    let file: crate::cli::client::NodeFile = serde_json::from_str(&text).ok()?;
    Some(file.url)
}
