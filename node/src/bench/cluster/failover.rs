//! From the kill of a node to the next acknowledged write, and to the next answer of a server that it ran.
//!
//! Every kill is of the leader, which also runs one of the servers: the worst that the loss of one node can be, for
//! another leader must be found before anybody can be declared lost and its servers run elsewhere.

use std::{
    collections::HashMap,
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
        bars::Bar,
        fixture::{Era, TOOL, Wire},
        process::{BenchNode, fixture_args},
    },
    cli::{error::CliError, output::Output},
};

const NODES: usize = 3;
/// Servers that run on one node each: enough that every node has some.
const PLACED: usize = 12;
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
    /// From the kill of its owner, which led, to the next answer of a placed server, at any survivor.
    pub answer: Distribution,
}

/// Kills leaders.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Failover, CliError> {
    output.note(&format!("failover: {} kills", args.kills));
    let mut cluster = Cluster::start(folder, NODES).await?;
    let measured = kills(&mut cluster, args.kills, output).await;
    cluster.end().await;
    let (writes, answers) = measured?;
    Ok(Failover {
        nodes: NODES,
        write: Distribution::of(writes),
        answer: Distribution::of(answers),
    })
}

type Times = (Vec<Duration>, Vec<Duration>);

async fn kills(cluster: &mut Cluster, kills: u32, output: Output) -> Result<Times, CliError> {
    let program = std::env::current_exe().map_err(|error| CliError::Failed(error.to_string()))?;
    let fixture = fixture_args(Wire::Stdio, Era::Legacy);
    let first = cluster.first()?;
    for server in 0..PLACED {
        let server = json!({ "name": placed(server), "command": program, "args": fixture });
        first.register(&server).await?;
    }
    first
        .register(&json!({ "name": WRITTEN, "command": "true", "enabled": false }))
        .await?;
    let (mut writes, mut answers) = (Vec::new(), Vec::new());
    for kill in 1..=kills {
        cluster.settle().await?;
        let victim = cluster.leader().await?;
        let server = server_of(cluster, victim).await?;
        let (killed, setup) = cluster.kill(victim).await?;
        let written = recovered(cluster, Attempt::Write);
        let answered = async {
            match server {
                Some(server) => recovered(cluster, Attempt::Call(server)).await.map(Some),
                None => Ok(None), // chance gave it none
            }
        };
        let (written, answered) = futures::future::try_join(written, answered).await?;
        let (write, answer) = (written - killed, answered.map(|answered| answered - killed));
        let answer_ms = answer.map_or(f64::NAN, |answer| answer.as_secs_f64() * 1e3);
        let write_ms = write.as_secs_f64() * 1e3;
        output.note(&format!(
            "kill {kill}: after {write_ms:.0} ms written, after {answer_ms:.0} ms answered"
        ));
        writes.push(write);
        answers.extend(answer);
        cluster.revive(victim, setup).await?;
    }
    Ok((writes, answers))
}

fn placed(server: usize) -> String {
    format!("placed-{server}")
}

#[derive(Debug, Clone, Copy)]
enum Attempt {
    Write,
    /// Of this placed server.
    Call(usize),
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
            Attempt::Call(server) => call(node, server).await.map(|_| ()),
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

/// Calls a placed server; answers which process it is.
async fn call(node: &BenchNode, server: usize) -> Result<u32, CliError> {
    let path = format!("/api/v1/servers/{}/tools/{TOOL}/call", placed(server));
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

/// A placed server whose process is a child of this node. All of them must answer before.
async fn server_of(cluster: &Cluster, number: usize) -> Result<Option<usize>, CliError> {
    let nodes: HashMap<u32, usize> = cluster.live().map(|(number, node)| (node.pid, number)).collect();
    let asked = cluster.first()?;
    let mut found = None;
    for server in 0..PLACED {
        recovered(cluster, Attempt::Call(server)).await?;
        let Ok(process) = call(asked, server).await else {
            continue; // it has moved again
        };
        if parent(process).and_then(|parent| nodes.get(&parent)) == Some(&number) {
            found = Some(server);
        }
    }
    Ok(found)
}

fn parent(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

impl Failover {
    /// For people.
    pub fn in_words(&self) -> String {
        let mut text = format!(
            "\nfrom the kill (SIGKILL) of the leader of {} nodes\n{:<42}{:>6}{:>9}{:>9}{:>9}\n",
            self.nodes, "to the next", "kills", "p50 ms", "p99 ms", "max ms"
        );
        let rows = [
            ("acknowledged write", &self.write),
            ("answer of a placed server that it ran", &self.answer),
        ];
        for (what, times) in rows {
            text.push_str(&format!(
                "{what:<42}{:>6}{:>9.0}{:>9.0}{:>9.0}\n",
                times.count, times.p50_ms, times.p99_ms, times.max_ms
            ));
        }
        text
    }

    /// What is promised.
    pub fn bars(&self) -> Vec<Bar> {
        let bar = |to: &str, times: &Distribution| {
            let measured = if times.count > 0 { times.p99_ms } else { f64::NAN };
            let what = format!("kill of the leader to {to}: p99 of {}", times.count);
            Bar::at_most(what, measured, PROMISED_MS, "ms")
        };
        vec![
            bar("the next acknowledged write", &self.write),
            bar("the next answer of a placed server", &self.answer),
        ]
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

    #[test]
    fn nothing_measured_holds_nothing() {
        let nothing = || Distribution::of(Vec::new());
        let failover = Failover {
            nodes: NODES,
            write: nothing(),
            answer: nothing(),
        };
        assert!(failover.bars().iter().all(|bar| !bar.holds));
    }
}
