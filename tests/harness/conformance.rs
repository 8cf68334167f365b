//! The conformance suite of the protocol's authors (npm `@modelcontextprotocol/conformance`), and the fixture that has
//! everything which it wants of a server (tests/servers/conformance).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::node::Node;
use crate::parts::CommandLine;

/// A whole run, on a machine with other work.
const SUITE_WITHIN: Duration = Duration::from_secs(240);
/// A client scenario; all run at once.
const SCENARIO_MS: &str = "120000";
/// A scenario that has no checks yet.
const WITHOUT_CHECKS: &str = "tasks-status-notifications";
/// Begins the list of all scenarios at the end of what the suite prints.
const SUMMARY: &str = "SUMMARY ===";

/// The fixture, over streamable HTTP; it ends when dropped.
pub struct Fixture {
    pub url: String,
    _process: Child,
}

impl Fixture {
    /// Starts it, and registers it at a node under this name.
    pub async fn start_at(node: &Node, name: &str, program: &str, eras: &str) -> Self {
        let fixture = Self::start(program, eras).await;
        let server = json!({ "name": name, "url": fixture.url });
        node.api.post("/api/v1/servers", &server).await.ok();
        node.wait_online(name).await;
        fixture
    }

    /// Starts it. `program` is `env!("CARGO_BIN_EXE_conformance-server")`; `eras` is `both`, `legacy` or `modern`.
    pub async fn start(program: &str, eras: &str) -> Self {
        let mut process = Command::new(program)
            .arg(eras)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the fixture starts");
        let output = process.stdout.take().expect("its output is piped");
        let first = BufReader::new(output).lines().next_line().await;
        let url = first
            .expect("its output is text")
            .expect("its first line is its address");
        Self {
            url,
            _process: process,
        }
    }
}

/// What a scenario came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scenario {
    /// Checks that succeeded.
    pub passed: usize,
    /// Checks that failed, and those that were warned of.
    pub failed: usize,
    /// Why it does not hold.
    pub reasons: Vec<String>,
}

impl Scenario {
    fn holds(&self, name: &str) -> bool {
        self.failed == 0 && (self.passed > 0 || name == WITHOUT_CHECKS)
    }
}

/// What a run came to: every scenario, by its name.
#[derive(Debug, Clone)]
pub struct Report {
    pub scenarios: BTreeMap<String, Scenario>,
}

impl Report {
    /// The scenarios that do not hold.
    pub fn failing(&self) -> BTreeSet<&str> {
        self.not_held().map(|(name, _)| name).collect()
    }

    /// The failing scenarios with what the suite says of them, for people.
    pub fn explained(&self) -> String {
        let lines = self.not_held().map(|(name, scenario)| {
            let Scenario {
                passed,
                failed,
                reasons,
            } = scenario;
            format!(
                "{name}: {passed} passed, {failed} failed\n  - {}",
                reasons.join("\n  - ")
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn not_held(&self) -> impl Iterator<Item = (&str, &Scenario)> {
        let all = self
            .scenarios
            .iter()
            .map(|(name, scenario)| (name.as_str(), scenario));
        all.filter(|(name, scenario)| !scenario.holds(name))
    }
}

/// Runs all server scenarios of a revision against the server at this address.
pub async fn run(suite: &CommandLine, revision: &str, url: &str) -> Report {
    play(suite, &["server", "--url", url], revision, "server-", &[]).await
}

/// Runs the scenarios for clients: `program` is started for each, with what it needs in its environment.
pub async fn run_clients(
    suite: &CommandLine,
    revision: &str,
    program: &str,
    environment: &[(&str, &str)],
) -> Report {
    play(
        suite,
        &["client", "--timeout", SCENARIO_MS, "--command", program],
        revision,
        "",
        environment,
    )
    .await
}

/// Runs the suite. The folders of its results are called as the scenarios are, with something before it.
async fn play(
    suite: &CommandLine,
    arguments: &[&str],
    revision: &str,
    before_name: &str,
    environment: &[(&str, &str)],
) -> Report {
    let results = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(&suite[0]);
    command.args(&suite[1..]).args(arguments);
    command.args(["--requirements", revision, "--output-dir"]);
    command
        .arg(results.path())
        .env("NO_COLOR", "1")
        .envs(environment.iter().copied())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SUITE_WITHIN, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("the suite did not end within {SUITE_WITHIN:?}"))
        .expect("the suite runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    let Some((_, summary)) = printed.split_once(SUMMARY) else {
        panic!(
            "the suite gave no summary: {printed}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let mut scenarios: BTreeMap<String, Scenario> = summary.lines().filter_map(read_line).collect();
    for (name, scenario) in &mut scenarios {
        if !scenario.holds(name) {
            scenario.reasons = reasons(results.path(), &format!("{before_name}{name}"));
        }
    }
    Report { scenarios }
}

/// Reads `✓ NAME: 3 passed, 0 failed` and `✗ NAME: 3 passed, 0 failed, 1 warnings`.
fn read_line(line: &str) -> Option<(String, Scenario)> {
    let (_mark, rest) = line.trim().split_once(' ')?;
    let (name, counts) = rest.rsplit_once(": ")?;
    let (passed, failed) = counts.split_once(" passed, ")?;
    let (failed, warned) = failed.split_once(" failed")?;
    let warned = warned
        .strip_prefix(", ")
        .and_then(|warned| warned.strip_suffix(" warnings"));
    let warned: usize = warned.map_or(Some(0), |warned| warned.parse().ok())?;
    let scenario = Scenario {
        passed: passed.parse().ok()?,
        failed: failed.parse::<usize>().ok()? + warned,
        reasons: Vec::new(),
    };
    Some((name.to_owned(), scenario))
}

/// Why a scenario's checks failed, from the file that the suite left.
fn reasons(results: &Path, scenario: &str) -> Vec<String> {
    let (within, name) = scenario.rsplit_once('/').unwrap_or(("", scenario));
    let began = format!("{name}-2"); // the rest is the moment
    let folders = std::fs::read_dir(results.join(within)).expect("the folder of the results");
    let folder = folders
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&began));
    let text = folder.and_then(|folder| std::fs::read_to_string(folder.path().join("checks.json")).ok());
    let Some(text) = text else {
        return vec!["it did not end".to_owned()];
    };
    let checks: Vec<Value> = serde_json::from_str(&text).expect("checks.json is a list");
    let failed: Vec<&Value> = checks
        .iter()
        .filter(|check| check["status"] == "FAILURE" || check["status"] == "WARNING")
        .collect();
    if failed.is_empty() {
        return vec!["nothing was checked".to_owned()];
    }
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reason = |check: &Value| format!("{}: {}", words(&check["id"]), words(&check["errorMessage"]));
    failed.into_iter().map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let (name, scenario) = read_line("✗ tools-list: 3 passed, 1 failed").unwrap();
        assert_eq!(
            (name.as_str(), scenario.passed, scenario.failed),
            ("tools-list", 3, 1)
        );
        assert!(!scenario.holds(&name));
        let holds = |line: &str| read_line(line).is_some_and(|(name, scenario)| scenario.holds(&name));
        assert!(holds("✓ ping: 1 passed, 0 failed"));
        assert!(!holds("✓ idle: 0 passed, 0 failed"), "nothing was checked");
        assert!(!holds("✗ auth/x: 19 passed, 0 failed, 1 warnings"));
        assert_eq!(read_line("Total: 12 passed, 0 failed"), None);
        assert_eq!(read_line(""), None);
    }
}
