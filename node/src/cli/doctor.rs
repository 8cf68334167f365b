//! `troupe doctor`: checks this machine. Needs no running node.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use troupe_actors::pipeline::embedding::files::{ModelFiles, folders_to_search};

use super::{
    Target,
    client::{ADMIN_KEY_FILE, Client, NODE_FILE},
    error::CliError,
    output::{Output, Table},
};
use crate::config::{self, CLUSTER_LISTEN_DEFAULT, Config, Flags};

/// Commands that registered servers often start with.
const TOOLS: [(&str, &str); 4] = [
    ("npx", "servers from npm; install Node.js"),
    ("uvx", "servers from PyPI; install uv"),
    ("docker", "servers in containers"),
    ("git", "the git server"),
];
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);
/// Before this the clock is certainly wrong: 2026-01-01T00:00:00Z.
const CLOCK_UNIX_MS_MIN: i64 = 1_767_225_600_000;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The settings to check; absent: ./cluster.toml if there is one.
    #[arg(long, env = "TROUPE_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize, Deserialize)]
struct Check {
    check: String,
    verdict: Verdict,
    detail: String,
}

impl Check {
    fn new(check: &str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            detail: detail.into(),
        }
    }
}

pub async fn run(target: &Target, args: DoctorArgs, output: Output) -> Result<ExitCode, CliError> {
    let checks = examine(target, args).await;
    let healthy = checks.iter().all(|check| check.verdict != Verdict::Error);
    output.show(
        json!({ "healthy": healthy, "checks": checks }),
        |answer: serde_json::Value| {
            let checks: Vec<Check> = serde_json::from_value(answer["checks"].clone()).unwrap_or_default();
            in_words(&checks)
        },
    )?;
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn in_words(checks: &[Check]) -> String {
    let mut table = Table::new(&["check", "verdict", "detail"]);
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Error => "ERROR",
        };
        table.row([check.check.clone(), verdict.to_owned(), check.detail.clone()]);
    }
    table.to_string()
}

async fn examine(target: &Target, args: DoctorArgs) -> Vec<Check> {
    let flags = Flags {
        config: args.config,
        data: target.data.clone(),
        ..Flags::default()
    };
    let config = match config::load(&flags, config::environment()) {
        Ok(config) => config,
        Err(error) => return vec![Check::new("settings", Verdict::Error, error.to_string())],
    };
    let mut checks = vec![Check::new(
        "settings",
        Verdict::Ok,
        "readable, every value within its range",
    )];
    let running = match Client::find(target) {
        Ok(client) => client.get(&["me"], &[]).await.is_ok(),
        Err(_) => false,
    };
    match config.data_dir() {
        Ok(folder) => {
            checks.push(data_folder(&folder));
            checks.push(admin_key(&folder));
            checks.push(model_files(&config, &folder));
        }
        Err(error) => checks.push(Check::new("data folder", Verdict::Error, error.to_string())),
    }
    checks.push(port("port", config.edge.listen, "--listen", running));
    let for_nodes = config.cluster.listen.chosen().unwrap_or(CLUSTER_LISTEN_DEFAULT);
    checks.push(port("port for nodes", for_nodes, "--cluster-listen", running));
    checks.push(open_files());
    checks.extend(TOOLS.iter().map(|(tool, purpose)| command(tool, purpose)));
    checks.push(clock());
    checks
}

fn data_folder(folder: &Path) -> Check {
    let name = "data folder";
    if !folder.exists() {
        return Check::new(
            name,
            Verdict::Ok,
            format!("{}: made at the first start", folder.display()),
        );
    }
    let probe = folder.join(".doctor");
    let written = fs::write(&probe, b"ok").and_then(|()| fs::remove_file(&probe));
    match written {
        Ok(()) => {
            let running = if folder.join(NODE_FILE).exists() {
                "; a node runs on it"
            } else {
                ""
            };
            Check::new(
                name,
                Verdict::Ok,
                format!("{}: writable{running}", folder.display()),
            )
        }
        Err(error) => Check::new(
            name,
            Verdict::Error,
            format!("{}: not writable: {error}", folder.display()),
        ),
    }
}

fn admin_key(folder: &Path) -> Check {
    let name = "administrator key";
    let path = folder.join(ADMIN_KEY_FILE);
    let Ok(metadata) = fs::metadata(&path) else {
        return Check::new(name, Verdict::Ok, "made at the first start");
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let detail = format!(
                "{} has mode {mode:o}: others can read it; chmod 600",
                path.display()
            );
            return Check::new(name, Verdict::Error, detail);
        }
    }
    let _ = metadata;
    Check::new(
        name,
        Verdict::Ok,
        format!("{}: readable by its owner only", path.display()),
    )
}

/// Looks where the node looks.
fn model_files(config: &Config, data: &Path) -> Check {
    let setting = Some(config.router.model_dir.as_str())
        .filter(|folder| !folder.is_empty())
        .map(Path::new);
    match ModelFiles::find(&folders_to_search(setting, data)) {
        Ok(found) => Check::new(
            "model files",
            Verdict::Ok,
            format!("{}, {}", found.model_folder.display(), found.runtime.display()),
        ),
        Err(missing) => Check::new(
            "model files",
            Verdict::Warning,
            format!("{missing}; until then tools are found by words alone"),
        ),
    }
}

fn port(name: &str, listen: SocketAddr, flag: &str, running: bool) -> Check {
    match TcpListener::bind(listen) {
        Ok(_) => Check::new(name, Verdict::Ok, format!("{listen}: free")),
        Err(_) if running => Check::new(name, Verdict::Ok, format!("{listen}: taken; a node is running")),
        Err(error) => Check::new(
            name,
            Verdict::Warning,
            format!("{listen}: {error}; another with {flag}"),
        ),
    }
}

fn open_files() -> Check {
    const OPEN_FILES_WANTED: u64 = 16_384;
    #[cfg(unix)]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        match limit {
            Some(limit) if limit < OPEN_FILES_WANTED => Check::new(
                "open files",
                Verdict::Warning,
                format!(
                    "at most {limit}: fewer connections than edge.connections_max; raise it (ulimit -Hn)"
                ),
            ),
            limit => {
                let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
                Check::new("open files", Verdict::Ok, limit)
            }
        }
    }
    #[cfg(not(unix))]
    Check::new(
        "open files",
        Verdict::Ok,
        format!("not limited here; {OPEN_FILES_WANTED} wanted"),
    )
}

/// Runs `tool --version`, for a while at most: a broken installation may hang.
fn command(tool: &str, purpose: &str) -> Check {
    let absent = || Check::new(tool, Verdict::Warning, format!("not on the PATH ({purpose})"));
    let started = Command::new(tool)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = started else { return absent() };
    let deadline = Instant::now() + TOOL_TIMEOUT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {
                let said = child
                    .stdout
                    .take()
                    .and_then(|out| std::io::read_to_string(out).ok())
                    .unwrap_or_default();
                return Check::new(tool, Verdict::Ok, said.lines().next().unwrap_or("present"));
            }
            Ok(Some(status)) => {
                return Check::new(tool, Verdict::Warning, format!("--version ends with {status}"));
            }
            Ok(None) if Instant::now() < deadline => pause(),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Check::new(tool, Verdict::Warning, "--version does not end");
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command on its own thread with nothing else to do"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn clock() -> Check {
    let now = jiff::Timestamp::now();
    if now.as_millisecond() < CLOCK_UNIX_MS_MIN {
        return Check::new(
            "clock",
            Verdict::Error,
            format!("says {now}, which is past; set it"),
        );
    }
    Check::new(
        "clock",
        Verdict::Ok,
        format!(
            "{now:.0}, zone {}",
            jiff::tz::TimeZone::system().iana_name().unwrap_or("unknown")
        ),
    )
}
