//! From the kill of a node to the next acknowledged write, and to the next answer of a server that it ran.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures::future::select_all;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::{ClusterArgs, figures::Distribution, nodes::Cluster};
use crate::{
    bench::{
        fixture::{Era, TOOL, Wire},
        process::{BenchNode, fixture_args},
    },
    cli::{error::CliError, output::Output},
};

const NODES: usize = 3;
const PLACED: &str = "placed";
const WRITTEN: &str = "written";
/// Between two attempts: the resolution of what is measured.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// An attempt that takes longer is given up and made again.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);
/// What is promised, of the 99th percentile.
const PROMISED_MS: f64 = 2_000.0;

/// What came out.
#[derive(Debug, Serialize)]
pub struct Failover {
    pub nodes: usize,
    /// From the kill of the leader to the next write that a survivor acknowledged.
    pub write: Distribution,
    /// From the kill of its owner to the next answer of a placed server, at any survivor.
    pub answer: Distribution,
    pub promised_p99_ms: f64,
    pub holds: bool,
}

/// Kills the leader and the owner in turn.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Failover, CliError> {
    let mut cluster = Cluster::start(folder, NODES).await?;
    let measured = kills(&mut cluster, args.kills, output).await;
    cluster.stop().await;
    let (writes, answers) = measured?;
    let (write, answer) = (Distribution::of(writes), Distribution::of(answers));
    Ok(Failover {
        nodes: NODES,
        holds: write.p99_ms < PROMISED_MS && answer.p99_ms < PROMISED_MS,
        write,
        answer,
        promised_p99_ms: PROMISED_MS,
    })
}

type Times = (Vec<Duration>, Vec<Duration>);

async fn kills(cluster: &mut Cluster, kills: u32, output: Output) -> Result<Times, CliError> {
    let program = std::env::current_exe().map_err(|error| CliError::Failed(error.to_string()))?;
    let fixture = fixture_args(Wire::Stdio, Era::Legacy);
    let first = cluster.first()?;
    first
        .register(&json!({ "name": PLACED, "command": program, "args": fixture }))
        .await?;
    first
        .register(&json!({ "name": WRITTEN, "command": "true", "enabled": false }))
        .await?;
    let (mut writes, mut answers) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        cluster.settle().await?;
        recovered(cluster, Attempt::Call).await?;
        let (leader, owner) = (cluster.leader().await?, owner(cluster).await?);
        let victim = if kill % 2 == 0 { leader } else { owner };
        let (killed, setup) = cluster.kill(victim).await?;
        let (written, answered) = futures::future::try_join(
            recovered(cluster, Attempt::Write),
            recovered(cluster, Attempt::Call),
        )
        .await?;
        output.note(&format!(
            "kill {}: {} after {:.0} ms written, after {:.0} ms answered",
            kill + 1,
            if victim == leader { "leader" } else { "owner" },
            (written - killed).as_secs_f64() * 1e3,
            (answered - killed).as_secs_f64() * 1e3
        ));
        if victim == leader {
            writes.push(written - killed);
        }
        if victim == owner {
            answers.push(answered - killed);
        }
        cluster.revive(victim, setup).await?;
    }
    Ok((writes, answers))
}

#[derive(Debug, Clone, Copy)]
enum Attempt {
    Write,
    Call,
}

/// When the first attempt succeeds at any of the nodes that run, all of which are tried again and again.
async fn recovered(cluster: &Cluster, attempt: Attempt) -> Result<Instant, CliError> {
    let trying = cluster
        .live()
        .map(|(_, node)| Box::pin(until_success(node, attempt)));
    let first = select_all(trying);
    match tokio::time::timeout(RECOVERED_WITHIN, first).await {
        Ok((moment, ..)) => Ok(moment),
        Err(_) => Err(CliError::Failed(format!(
            "no {attempt:?} succeeded within {} s",
            RECOVERED_WITHIN.as_secs()
        ))),
    }
}

async fn until_success(node: &BenchNode, attempt: Attempt) -> Instant {
    loop {
        let tried = match attempt {
            Attempt::Write => write(node).await,
            Attempt::Call => call(node).await.map(|_| ()),
        };
        if tried.is_ok() {
            return Instant::now();
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

async fn write(node: &BenchNode) -> Result<(), CliError> {
    let body = json!({ "labels": [format!("v{}", fastrand::u64(..))] });
    let path = format!("/api/v1/servers/{WRITTEN}");
    let sent = node.send(Method::PATCH, &path, Some(&body));
    let answered = tokio::time::timeout(ATTEMPT_WITHIN, sent).await;
    answered.map_err(|_| CliError::Failed("no answer".to_owned()))??;
    Ok(())
}

/// Calls the placed server; answers which process it is.
async fn call(node: &BenchNode) -> Result<u32, CliError> {
    let path = format!("/api/v1/servers/{PLACED}/tools/{TOOL}/call");
    let body = json!({ "arguments": {} });
    let sent = node.send(Method::POST, &path, Some(&body));
    let answered = tokio::time::timeout(ATTEMPT_WITHIN, sent).await;
    let answer = answered.map_err(|_| CliError::Failed("no answer".to_owned()))??;
    process_in(&answer).ok_or_else(|| CliError::Failed(format!("the fixture named no process: {answer}")))
}

/// The fixture says its process id in the text of its result.
fn process_in(answer: &Value) -> Option<u32> {
    match answer {
        Value::Object(fields) => match fields.get("text").and_then(Value::as_str) {
            Some(text) => text.parse().ok(),
            None => fields.values().find_map(process_in),
        },
        Value::Array(items) => items.iter().find_map(process_in),
        _ => None,
    }
}

/// The node whose child the placed server is.
async fn owner(cluster: &Cluster) -> Result<usize, CliError> {
    let process = call(cluster.first()?).await?;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let parent: Option<u32> = after_name
        .split_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok());
    let mut live = cluster.live();
    live.find(|(_, node)| Some(node.pid) == parent)
        .map(|(number, _)| number)
        .ok_or_else(|| CliError::Failed(format!("process {process} is no node's child")))
}

impl Failover {
    /// For people.
    pub fn in_words(&self) -> String {
        let mut text = format!(
            "\nfrom a kill (SIGKILL) among {} nodes\n{:<42}{:>6}{:>9}{:>9}{:>9}\n",
            self.nodes, "to the next", "kills", "p50 ms", "p99 ms", "max ms"
        );
        let rows = [
            ("acknowledged write (the leader killed)", &self.write),
            ("answer of a placed server (its owner killed)", &self.answer),
        ];
        for (what, times) in rows {
            text.push_str(&format!(
                "{what:<42}{:>6}{:>9.0}{:>9.0}{:>9.0}\n",
                times.count, times.p50_ms, times.p99_ms, times.max_ms
            ));
        }
        let verdict = if self.holds { "holds" } else { "DOES NOT HOLD" };
        text.push_str(&format!("p99 under {:.0} ms: {verdict}\n", self.promised_p99_ms));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_found_wherever_the_answer_has_the_text() {
        let answer = json!({ "result": { "content": [{ "type": "text", "text": "4711" }] } });
        assert_eq!(process_in(&answer), Some(4711));
        assert_eq!(process_in(&json!({ "content": [] })), None);
    }
}
