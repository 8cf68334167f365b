//! `troupe bench cluster`: what being several costs, and how fast a loss is made good. Real nodes on this machine, all
//! on loopback: what the network between machines adds is not in the figures.
//!
//! What is compared is measured in turn, several times over, and told by the median, so that what else the machine does
//! falls on all of it alike.
//!
//! # Layout
//! - here: which parts are measured, and the report
//! - [`links`]: an ask from one node to another, beside what it is measured against
//! - [`nodes`]: clusters of the benchmark's own
//! - [`writes`]: changes of the registry through the log; [`failover`]: from a kill to the next answer
//! - [`proxied`]: CPU time per proxied call as nodes are added
//! - [`idle`]: what a node costs that does nothing; [`sockets`]: what each node sends
//! - [`figures`]: distributions of times, medians

mod failover;
mod figures;
mod idle;
mod links;
mod nodes;
mod proxied;
mod sockets;
mod writes;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use troupe_actors::cluster::link::bench::LinkRow;

use super::{
    bars::{self, Bar},
    process::Folder,
};
use crate::cli::{error::CliError, output::Output};

const NODES_MAX: usize = 30;

#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// What is measured; absent: everything, which takes about ten minutes.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    kills: u32,
    /// How long each case of links, writes and proxied calls is measured, in seconds.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    seconds: f64,
    /// Into how many turns that time is divided; all cases of a part are measured in turn.
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    turns: u32,
    /// How long idle clusters are watched, in seconds.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    idle_seconds: f64,
    /// Sizes of the clusters in which writes are measured.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3, 5], value_name = "NODES")]
    write_nodes: Vec<usize>,
    /// Sizes of the clusters in which proxied calls are measured.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_name = "NODES")]
    proxied_nodes: Vec<usize>,
    /// Sizes of the clusters that are left alone.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 10, 30], value_name = "NODES")]
    idle_nodes: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Links,
    Writes,
    Failover,
    Proxied,
    Idle,
}

/// What came out; a part that was not measured is absent.
#[derive(Debug, Default, Serialize)]
struct Report {
    debug_build: bool,
    links: Option<Vec<LinkRow>>,
    writes: Option<Vec<writes::Row>>,
    failover: Option<failover::Failover>,
    proxied: Option<Vec<proxied::Row>>,
    idle: Option<Vec<idle::Row>>,
    /// What is promised of the parts that were measured.
    bars: Vec<Bar>,
}

/// Runs the benchmark and prints what came out.
pub async fn run(args: &ClusterArgs, output: Output) -> Result<ExitCode, CliError> {
    args.check()?;
    let folder = Folder::new()?;
    let mut report = Report {
        debug_build: cfg!(debug_assertions),
        ..Report::default()
    };
    if args.wants(Part::Links) {
        let rows = links::measure(args, folder.path(), output).await?;
        report.bars.extend(links::bars(&rows));
        report.links = Some(rows);
    }
    if args.wants(Part::Writes) {
        report.writes = Some(writes::measure(args, folder.path(), output).await?);
    }
    if args.wants(Part::Failover) {
        let failover = failover::measure(args, folder.path(), output).await?;
        report.bars.extend(failover.bars());
        report.failover = Some(failover);
    }
    if args.wants(Part::Proxied) {
        let rows = proxied::measure(args, folder.path(), output).await?;
        report.bars.extend(proxied::bars(&rows));
        report.proxied = Some(rows);
    }
    if args.wants(Part::Idle) {
        let rows = idle::measure(args, folder.path(), output).await?;
        report.bars.extend(idle::bars(&rows));
        report.idle = Some(rows);
    }
    let answer = serde_json::to_value(&report).map_err(|error| CliError::Failed(error.to_string()))?;
    output.show(answer, |_: serde_json::Value| report.in_words())?;
    Ok(ExitCode::SUCCESS)
}

impl ClusterArgs {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// How long one turn of a case takes.
    fn turn_seconds(&self) -> f64 {
        self.seconds / f64::from(self.turns)
    }

    fn check(&self) -> Result<(), CliError> {
        let sizes = [&self.write_nodes, &self.proxied_nodes, &self.idle_nodes];
        let sizes_fit = sizes
            .into_iter()
            .flatten()
            .all(|nodes| (1..=NODES_MAX).contains(nodes));
        let times_fit = [self.seconds, self.idle_seconds]
            .iter()
            .all(|seconds| (0.1..=600.0).contains(seconds));
        let counts_fit = (1..=1_000).contains(&self.kills) && (1..=100).contains(&self.turns);
        if sizes_fit && times_fit && counts_fit {
            return Ok(());
        }
        Err(CliError::Usage(format!(
            "allowed: --seconds and --idle-seconds from 0.1 to 600, --turns from 1 to 100, --kills from 1 to 1000, clusters of 1 to {NODES_MAX} nodes"
        )))
    }
}

impl Report {
    /// For people.
    fn in_words(&self) -> String {
        let mut text = String::new();
        if let Some(rows) = &self.links {
            text.push_str(&links::in_words(rows));
        }
        if let Some(rows) = &self.writes {
            text.push_str(&writes::in_words(rows));
        }
        if let Some(failover) = &self.failover {
            text.push_str(&failover.in_words());
        }
        if let Some(rows) = &self.proxied {
            text.push_str(&proxied::in_words(rows));
        }
        if let Some(rows) = &self.idle {
            text.push_str(&idle::in_words(rows));
        }
        if !self.bars.is_empty() {
            text.push_str(&format!("\n{}", bars::in_words(&self.bars)));
        }
        if self.debug_build {
            text.push_str("this is a debug build: the figures say nothing about a release\n");
        }
        text
    }
}
